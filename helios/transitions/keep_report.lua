-- Keeps a failed attempt's report until its pod's status is known, which alone can say why it failed.
-- KEYS: task
-- ARGV: attempt, report
local state = redis.call('HMGET', KEYS[1], 'status', 'attempt')
if state[1] ~= 'RUNNING' or state[2] ~= ARGV[1] then
  return 0
end
redis.call('HSET', KEYS[1], 'report', ARGV[2], 'reportAttempt', ARGV[1])
return 1
