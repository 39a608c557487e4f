-- Adds lines that a node's agent sends to a step's log, and notes that it was heard of. A line's id is its number in the log, so
-- that a repetition adds nothing; each says how many bytes the log has had with it, so that the oldest can go by that.
-- Returns 1, or 0 when the attempt is over for longer than a moment.
-- KEYS: task, log, log sizes
-- ARGV: run, attempt, lines before these, moment in milliseconds, bytes kept, lines kept, what a line costs beside its text, lines …
local task, log, sizes = KEYS[1], KEYS[2], KEYS[3]
local run, attempt, before, moment = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local bytes_kept, lines_kept, cost = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local state = redis.call('HMGET', task, 'status', 'attempt', 'endedAt', 'queuedAt')
local current = tonumber(state[2]) or 0
local at_work = state[2] == attempt and (state[1] == 'QUEUED' or state[1] == 'RUNNING')
local over_at = now
if state[2] == attempt and not at_work then
  over_at = tonumber(state[3]) or 0
elseif current == tonumber(attempt) + 1 then
  over_at = tonumber(state[4]) or 0
elseif not at_work then
  return 0
end
if now - over_at > moment then
  return 0
end
redis.call('ZCARD', sizes)
local known, total = 0, 0
local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
if last then
  known = tonumber(string.match(last[1], '^%d+'))
  for i = 1, #last[2], 2 do
    if last[2][i] == 'bytes' then
      total = tonumber(last[2][i + 1]) or 0
    end
  end
end
local grown = 0
for i = 8, #ARGV do
  local number = before + i - 7
  if number > known then
    local size = #ARGV[i] + cost
    total, grown = total + size, grown + size
    redis.call('XADD', log, string.format('%.0f', number) .. '-0', 'line', ARGV[i], 'bytes', string.format('%.0f', total))
  end
end
local excess = math.max(0, redis.call('XLEN', log) - lines_kept)
local done = grown == 0
while not done do
  done = true
  for _, entry in ipairs(redis.call('XRANGE', log, '-', '+', 'COUNT', 100)) do
    local text, at = '', 0
    for i = 1, #entry[2], 2 do
      if entry[2][i] == 'line' then
        text = entry[2][i + 1]
      elseif entry[2][i] == 'bytes' then
        at = tonumber(entry[2][i + 1]) or 0
      end
    end
    done = excess <= 0 and total - at + #text + cost <= bytes_kept
    if done then
      break
    end
    redis.call('XDEL', log, entry[1])
    grown, excess = grown - #text - cost, excess - 1
  end
end
if grown ~= 0 then
  redis.call('ZINCRBY', sizes, grown, run)
end
if at_work then
  redis.call('HSET', task, 'heard', attempt .. ':' .. time[1] .. '.' .. time[2])
end
return 1
