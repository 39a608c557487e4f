-- Notes that the agent of an attempt's node was heard of. Returns 0 when the attempt is over.
-- KEYS: task
-- ARGV: attempt
local state = redis.call('HMGET', KEYS[1], 'status', 'attempt')
if (state[1] ~= 'QUEUED' and state[1] ~= 'RUNNING') or state[2] ~= ARGV[1] then
  return 0
end
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], 'heard', ARGV[1] .. ':' .. time[1] .. '.' .. time[2])
return 1
