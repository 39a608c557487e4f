-- A success is about to stand for a task once more: it is remembered for as long as a new one. Returns 0 when it is not the
-- one that is remembered any more.
-- KEYS: memo
-- ARGV: run, task, attempt, seconds the memo is kept
local known = redis.call('HMGET', KEYS[1], 'run', 'task', 'attempt', 'state')
if known[4] ~= 'good' or known[1] ~= ARGV[1] or known[2] ~= ARGV[2] or known[3] ~= ARGV[3] then
  return 0
end
redis.call('EXPIRE', KEYS[1], ARGV[4])
return 1
