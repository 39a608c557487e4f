-- Keeps a new schedule. An entry that was answered before does nothing, so that one delivered again brings back no schedule
-- that somebody has removed since.
-- KEYS: schedule, its dag, schedules, answer
-- ARGV: name, entry, first time, schedules at most, seconds the answer is kept, dag, fields and values …
local schedule, dag, schedules, answer = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local told = redis.call('GET', answer)
if told then
  return told
end
local words = 'ok'
if redis.call('HGET', schedule, 'id') then
  words = 'there is a schedule of that name already; remove it first, or choose another name'
elseif redis.call('ZCARD', schedules) >= tonumber(ARGV[4]) then
  words = 'there are ' .. ARGV[4] .. ' schedules, and no more are kept; remove one first'
else
  redis.call('SET', dag, ARGV[6])
  redis.call('ZADD', schedules, ARGV[3], ARGV[1])
  redis.call('HSET', schedule, 'id', ARGV[2], 'next', ARGV[3], unpack(ARGV, 7))
end
redis.call('SET', answer, words, 'EX', ARGV[5])
return words
