-- A ready attempt of a memoized task gets no Job yet: the collector looks whether an earlier success may stand for it.
-- It keeps its place among those of its run that stand in line, until it is skipped, launched, or waits for another.
-- KEYS: task, the entry's stream, checks
-- ARGV: group, entry, run, task, attempt
local task, stream, checks = KEYS[1], KEYS[2], KEYS[3]
local group, entry, attempt = ARGV[1], ARGV[2], ARGV[5]
local state = redis.call('HMGET', task, 'status', 'attempt', 'checking', 'checked')
local applied = 0
if state[1] == 'QUEUED' and state[2] == attempt and state[3] ~= attempt and state[4] ~= attempt then
  redis.call('XADD', checks, '*', 'run', ARGV[3], 'task', ARGV[4], 'attempt', attempt)
  redis.call('HSET', task, 'checking', attempt)
  applied = 1
end
redis.call('XACK', stream, group, entry)
redis.call('XDEL', stream, entry)
return applied
