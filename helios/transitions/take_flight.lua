-- Who brings a blob from the store: the first node that asks, and that node again, whichever of its pods it is.
-- Returns 1 if it is this one's to bring.
-- KEYS: flight
-- ARGV: node, pod, seconds
local holder = redis.call('GET', KEYS[1])
if holder and string.match(holder, '^%S+') ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[2], 'EX', ARGV[3])
return 1
