-- Keeps a new schedule or trigger. An entry that was answered before does nothing, so that one delivered again brings back
-- nothing that somebody has removed since.
-- KEYS: record, its dag, all of its kind, answer
-- ARGV: kind, name, entry, score, kept at most, seconds the answer is kept, dag, fields and values …
local record, dag, all, answer = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local kind, at_most = ARGV[1], ARGV[5]
local told = redis.call('GET', answer)
if told then
  return told
end
local words = 'ok'
if redis.call('HGET', record, 'id') then
  words = 'there is a ' .. kind .. ' of that name already; remove it first, or choose another name'
elseif redis.call('ZCARD', all) >= tonumber(at_most) then
  words = 'there are ' .. at_most .. ' ' .. kind .. 's, and no more are kept; remove one first'
else
  redis.call('SET', dag, ARGV[7])
  redis.call('ZADD', all, ARGV[4], ARGV[2])
  redis.call('HSET', record, 'id', ARGV[3], unpack(ARGV, 8))
end
redis.call('SET', answer, words, 'EX', ARGV[6])
return words
