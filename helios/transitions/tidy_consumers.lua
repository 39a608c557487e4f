-- Removes consumers that hold nothing: the one that leaves, and those not heard of for long, which died.
-- A consumer with pending entries stays: removing it would drop them.
-- KEYS: stream
-- ARGV: group, name of the consumer that leaves or '', idle milliseconds after which one counts as dead
local removed = 0
for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for i = 1, #flat, 2 do
    consumer[flat[i]] = flat[i + 1]
  end
  if consumer.pending == 0 and (consumer.name == ARGV[2] or consumer.idle > tonumber(ARGV[3])) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
    removed = removed + 1
  end
end
return removed
