-- Outputs of two runs under one memoization key differ: nothing is skipped by it any more. Returns 0 if that is known.
-- KEYS: memo
-- ARGV: reason, seconds the memo is kept
if redis.call('HGET', KEYS[1], 'state') == 'quarantined' then
  return 0
end
redis.call('HSET', KEYS[1], 'state', 'quarantined', 'reason', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
