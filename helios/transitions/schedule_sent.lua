-- Finishes a time whose submission is in its stream.
-- KEYS: schedule, schedules
-- ARGV: name, schedule's id, time, submission
local schedule, schedules = KEYS[1], KEYS[2]
local name, id, time, run = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local state = redis.call('HMGET', schedule, 'id', 'firing', 'paused', 'next')
if state[1] ~= id or state[2] ~= time then
  return 0
end
redis.call('ZADD', schedules, state[3] == 'true' and '+inf' or state[4], name)
redis.call('HINCRBY', schedule, 'runs', 1)
redis.call('HSET', schedule, 'lastRun', run, 'lastTime', time, 'firing', '', 'replaces', '')
return 1
