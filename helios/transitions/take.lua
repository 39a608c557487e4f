-- Delivers a pending entry again: to its owner, or to another once nobody has touched it for a lease.
-- Returns {deliveries, fields and values}, or nothing if it is finished or in someone else's hands.
-- KEYS: stream
-- ARGV: group, consumer, entry, lease in milliseconds
local stream, group, consumer, entry, lease = KEYS[1], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local pending = redis.call('XPENDING', stream, group, entry, entry, 1)[1]
if not pending or (pending[2] ~= consumer and pending[3] < lease) then
  return false
end
local claimed = redis.call('XCLAIM', stream, group, consumer, 0, entry)[1]
if not claimed then
  return false
end
return {pending[4] + 1, claimed[2]}
