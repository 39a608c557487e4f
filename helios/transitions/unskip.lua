-- No earlier success may stand for the attempt: it is ready again, and looked at no more.
-- KEYS: task, checks, ready
-- ARGV: group, entry, run, task, attempt, what the look came to
local task, checks, ready = KEYS[1], KEYS[2], KEYS[3]
local group, entry, attempt = ARGV[1], ARGV[2], ARGV[5]
local state = redis.call('HMGET', task, 'status', 'attempt', 'checking')
local applied = 0
if state[1] == 'QUEUED' and state[2] == attempt and state[3] == attempt then
  redis.call('XADD', ready, '*', 'run', ARGV[3], 'task', ARGV[4], 'attempt', attempt)
  redis.call('HSET', task, 'checking', '', 'checked', attempt, 'memo', ARGV[6])
  redis.call('HDEL', task, 'waitsFor')
  applied = 1
end
redis.call('XACK', checks, group, entry)
redis.call('XDEL', checks, entry)
return applied
