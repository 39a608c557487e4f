-- Notes by which key a run's task is remembered, once its inputs are known by what was really fetched.
-- KEYS: task
-- ARGV: attempt, what is to be kept of the look
if redis.call('HGET', KEYS[1], 'attempt') ~= ARGV[1] then
  return 0
end
redis.call('HSET', KEYS[1], 'memo', ARGV[2])
return 1
