-- Takes the work of a memoization key: nobody else runs it meanwhile. Returns whose it is, or '' when a success has been
-- remembered since the caller looked.
-- KEYS: memo
-- ARGV: claim, the claim that is known to be dead or '', when the success that the caller knows ended or '', seconds kept
local memo, claim, dead = KEYS[1], ARGV[1], ARGV[2]
local held = redis.call('HMGET', memo, 'claim', 'at')
if (held[2] or '') ~= ARGV[3] then
  return ''
end
if held[1] and held[1] ~= dead and held[1] ~= claim then
  return held[1]
end
local time = redis.call('TIME')
redis.call('HSET', memo, 'claim', claim, 'claimedAt', time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('EXPIRE', memo, ARGV[4])
return claim
