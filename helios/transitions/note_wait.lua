-- Notes whom an attempt that may be skipped waits for; it is QUEUED, and being looked at.
-- Others of its run may go before it meanwhile, since nobody knows how long that is.
-- KEYS: task, run, ready, offered, backlog
-- ARGV: attempt, the task that does the same work, in words; run, task, task prefix
local queue = {id = ARGV[3], tasks = ARGV[5], ready = KEYS[3], offered = KEYS[4], backlog = KEYS[5]}
local state = redis.call('HMGET', KEYS[1], 'status', 'attempt', 'checking', 'waitsFor', 'priority')
if state[1] ~= 'QUEUED' or state[2] ~= ARGV[1] or state[3] ~= ARGV[1] or state[4] == ARGV[2] then
  return 0
end
queue.window = tonumber(redis.call('HGET', KEYS[2], 'window'))
if queue.window then
  check_types(queue, state[5])
end
redis.call('HSET', KEYS[1], 'waitsFor', ARGV[2])
release(queue, state[5], ARGV[4])
return 1
