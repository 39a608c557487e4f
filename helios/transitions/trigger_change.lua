-- Removes, pauses or resumes a trigger, once for each entry.
-- KEYS: trigger, its dag, triggers, answer
-- ARGV: name, action, seconds the answer is kept
local trigger, dag, triggers, answer = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local name, action = ARGV[1], ARGV[2]
local told = redis.call('GET', answer)
if told then
  return told
end
local words = 'ok'
if action == 'remove' then
  -- A damaged record goes as well.
  if redis.call('ZREM', triggers, name) + redis.call('UNLINK', trigger, dag) == 0 then
    words = 'there is no trigger of that name'
  end
elseif not redis.call('HGET', trigger, 'id') then
  words = 'there is no trigger of that name'
else
  redis.call('HSET', trigger, 'paused', action == 'pause' and 'true' or 'false')
end
redis.call('SET', answer, words, 'EX', ARGV[3])
return words
