-- No earlier success may stand for the attempt: it is ready again, and looked at no more.
-- KEYS: task, checks, run, ready, offered
-- ARGV: group, entry, run, task, attempt, what the look came to
local task, checks = KEYS[1], KEYS[2]
local queue = {id = ARGV[3], ready = KEYS[4], offered = KEYS[5]}
local group, entry, attempt = ARGV[1], ARGV[2], ARGV[5]
local state = redis.call('HMGET', task, 'status', 'attempt', 'checking', 'priority')
local applied = 0
if state[1] == 'QUEUED' and state[2] == attempt and state[3] == attempt then
  queue.window = tonumber(redis.call('HGET', KEYS[3], 'window'))
  if queue.window then
    redis.call('SCARD', of_priority(queue.offered, state[4]))
  end
  -- It stood in line already, so it does not go behind those that have not yet.
  emit(queue, state[4], ARGV[4], attempt)
  redis.call('HSET', task, 'checking', '', 'checked', attempt, 'memo', ARGV[6])
  redis.call('HDEL', task, 'waitsFor')
  applied = 1
end
redis.call('XACK', checks, group, entry)
redis.call('XDEL', checks, entry)
return applied
