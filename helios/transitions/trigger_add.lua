-- Keeps a new trigger. An entry that was answered before does nothing, so that one delivered again brings back no trigger
-- that somebody has removed since.
-- KEYS: trigger, its dag, triggers, answer
-- ARGV: name, entry, triggers at most, seconds the answer is kept, dag, fields and values …
local trigger, dag, triggers, answer = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local told = redis.call('GET', answer)
if told then
  return told
end
local words = 'ok'
if redis.call('HGET', trigger, 'id') then
  words = 'there is a trigger of that name already; remove it first, or choose another name'
elseif redis.call('ZCARD', triggers) >= tonumber(ARGV[3]) then
  words = 'there are ' .. ARGV[3] .. ' triggers, and no more are kept; remove one first'
else
  redis.call('SET', dag, ARGV[5])
  redis.call('ZADD', triggers, string.match(ARGV[2], '^%d+'), ARGV[1])
  redis.call('HSET', trigger, 'id', ARGV[2], unpack(ARGV, 6))
end
redis.call('SET', answer, words, 'EX', ARGV[4])
return words
