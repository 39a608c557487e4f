-- Gives back all that a consumer has in hand, and takes it off the group's list. What it had stays pending with the heir, who
-- is nobody, as if untouched for long: whoever looks next takes it over. A delivery that ends so does not count, unless the
-- entry's handling failed, or all is to count.
-- KEYS: stream
-- ARGV: group, consumer, heir, idle milliseconds to set, entries looked up at a time, whether all deliveries count (0 or 1),
--       entries whose delivery counts …
-- Returns how many entries were given back.
local stream, group, consumer, heir, idle, page = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local given, start, counts = 0, '-', {}
for i = 7, #ARGV do
  counts[ARGV[i]] = true
end
while true do
  local rows = redis.call('XPENDING', stream, group, start, '+', page, consumer)
  if #rows == 0 then
    break
  end
  for _, row in ipairs(rows) do
    local deliveries = (ARGV[6] == '1' or counts[row[1]]) and row[4] or math.max(0, row[4] - 1)
    local claimed = redis.call('XCLAIM', stream, group, heir, '0', row[1], 'IDLE', idle, 'RETRYCOUNT', deliveries, 'JUSTID')
    given = given + #claimed
  end
  start = '(' .. rows[#rows][1]
end
-- Whatever it still has was deleted from the stream meanwhile.
redis.call('XGROUP', 'DELCONSUMER', stream, group, consumer)
return given
