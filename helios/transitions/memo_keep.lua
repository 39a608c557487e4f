-- Remembers a success under its memoization key, and gives the work back. What is quarantined stays so.
-- Returns 1, or 0 when the key is quarantined or knows this attempt already.
-- KEYS: memo
-- ARGV: claim, seconds the memo is kept, run, task, attempt, node, outputs, parts, when it ended
local memo, claim = KEYS[1], ARGV[1]
local known = redis.call('HMGET', memo, 'claim', 'state', 'run', 'task', 'attempt')
if known[1] == claim then
  redis.call('HDEL', memo, 'claim', 'claimedAt')
end
if known[2] == 'quarantined' or (known[3] == ARGV[3] and known[4] == ARGV[4] and known[5] == ARGV[5]) then
  return 0
end
redis.call('HSET', memo, 'state', 'good', 'run', ARGV[3], 'task', ARGV[4], 'attempt', ARGV[5], 'node', ARGV[6],
  'outputs', ARGV[7], 'parts', ARGV[8], 'at', ARGV[9])
redis.call('EXPIRE', memo, ARGV[2])
return 1
