-- Keeps entries with the consumer that still owns them; one that was taken over in the meantime is left where it is.
-- Whoever lives to renew an entry was not killed by it, so its deliveries are counted from one again.
-- KEYS: stream
-- ARGV: group, consumer, entries …
local kept = {}
for i = 3, #ARGV do
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2])
  if #pending == 1 then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'RETRYCOUNT', 1, 'JUSTID')
    kept[#kept + 1] = ARGV[i]
  end
end
return kept
