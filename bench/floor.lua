-- The least that a fenced transition can be: check the state, emit, flip, acknowledge.
local state = redis.call('HMGET', KEYS[1], 'status', 'attempt')
if state[1] ~= 'READY' or state[2] ~= ARGV[3] then
  redis.call('XACK', KEYS[2], ARGV[1], ARGV[2])
  redis.call('XDEL', KEYS[2], ARGV[2])
  return 0
end
redis.call('XADD', KEYS[3], '*', 'run', '1', 'task', ARGV[4], 'attempt', '1')
redis.call('HSET', KEYS[1], 'status', 'DONE')
redis.call('XACK', KEYS[2], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[2], ARGV[2])
return 1
