-- A running attempt's pod moved on: Pending, Fetching, Running or Publishing.
-- KEYS: task, events
-- ARGV: attempt, phase, node, event, events kept, milliseconds since it had a node (or empty)
local state = redis.call('HMGET', KEYS[1], 'status', 'attempt', 'phase')
if state[1] ~= 'RUNNING' or state[2] ~= ARGV[1] or state[3] == ARGV[2] then
  return 0
end
redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', ARGV[5], '*', 'event', ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local noted = {'phase', ARGV[2], 'node', ARGV[3], string.lower(ARGV[2]) .. 'At', now}
if ARGV[6] ~= '' then
  noted[7], noted[8] = 'scheduledAt', now - ARGV[6]
end
redis.call('HSET', KEYS[1], unpack(noted))
return 1
