-- How a stream and its group stand, without the entries that XINFO would bring along.
-- KEYS: stream
-- ARGV: group
-- Returns entries ever added, entries read by the group (-1: not known), length, pending, newest id, id delivered last.
local stream, group = KEYS[1], ARGV[1]
if redis.call('EXISTS', stream) == 0 then
  return false
end
local function field(flat, name)
  for i = 1, #flat, 2 do
    if flat[i] == name then
      return flat[i + 1]
    end
  end
  return false
end
local state = redis.call('XINFO', 'STREAM', stream)
for _, each in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  if field(each, 'name') == group then
    return {
      field(state, 'entries-added'), field(each, 'entries-read') or -1, field(state, 'length'),
      field(each, 'pending'), field(state, 'last-generated-id'), field(each, 'last-delivered-id'),
    }
  end
end
return false
