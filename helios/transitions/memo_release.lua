-- Gives the work of a memoization key back: its attempt is over, and did not come to a success under this key.
-- KEYS: memo
-- ARGV: claim
if redis.call('HGET', KEYS[1], 'claim') ~= ARGV[1] then
  return 0
end
redis.call('HDEL', KEYS[1], 'claim', 'claimedAt')
return 1
