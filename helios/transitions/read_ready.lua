-- Hands a consumer the next ready entries: of each stream its share first, then what is left in the streams' order.
-- Returns a list of {number of the stream, entry, fields and values}.
-- KEYS: the ready streams, the one that is taken first first
-- ARGV: group, consumer, entries at most, then each stream's share of them
local group, consumer, left = ARGV[1], ARGV[2], tonumber(ARGV[3])
local found = {}
local dry = {}
local failed

local function read(number, count)
  if count <= 0 or dry[number] then
    return
  end
  local reply = redis.pcall('XREADGROUP', 'GROUP', group, consumer, 'COUNT', count, 'STREAMS', KEYS[number], '>')
  if not reply or reply.err then
    failed = reply or failed
    dry[number] = true
    return
  end
  for _, entry in ipairs(reply[1][2]) do
    found[#found + 1] = {number, entry[1], entry[2]}
    left = left - 1
  end
  dry[number] = #reply[1][2] < count
end

for number = 1, #KEYS do
  read(number, tonumber(ARGV[3 + number]))
end
for number = 1, #KEYS do
  read(number, left)
end
-- What was handed out must be told; whoever reads next meets the failure again.
if failed and #found == 0 then
  return failed
end
return found
