-- Forgets a success whose outputs are gone, unless another has been remembered since.
-- KEYS: memo
-- ARGV: run, task, attempt
local known = redis.call('HMGET', KEYS[1], 'run', 'task', 'attempt', 'state')
if known[4] ~= 'good' or known[1] ~= ARGV[1] or known[2] ~= ARGV[2] or known[3] ~= ARGV[3] then
  return 0
end
redis.call('HDEL', KEYS[1], 'state', 'run', 'task', 'attempt', 'node', 'outputs', 'parts', 'at')
return 1
