-- Ends a run whose finalisation is a dead letter: what it cannot write, it passes over.
-- KEYS: run, active, events
-- ARGV: run id, reason, event, events kept
local run, active, events = KEYS[1], KEYS[2], KEYS[3]
local state = redis.call('HMGET', run, 'status', 'startTime')
if state[1] ~= 'RUNNING' then
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local kind = redis.call('TYPE', events).ok
if kind == 'stream' or kind == 'none' then
  redis.call('XADD', events, 'MAXLEN', '~', ARGV[4], '*', 'event', ARGV[3])
end
redis.call('HSET', run, 'status', 'FAILED', 'reason', ARGV[2], 'endTime', now,
  'durationMs', now - (tonumber(state[2]) or now))
if redis.call('TYPE', active).ok == 'zset' then
  redis.call('ZREM', active, ARGV[1])
end
return 1
