-- Notes whom an attempt that may be skipped waits for; it is QUEUED, and being looked at.
-- KEYS: task
-- ARGV: attempt, the task that does the same work, in words
local state = redis.call('HMGET', KEYS[1], 'status', 'attempt', 'checking', 'waitsFor')
if state[1] ~= 'QUEUED' or state[2] ~= ARGV[1] or state[3] ~= ARGV[1] or state[4] == ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], 'waitsFor', ARGV[2])
return 1
