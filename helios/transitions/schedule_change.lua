-- Removes, pauses or resumes a schedule, once for each entry. What a replica has claimed is finished all the same, unless
-- the schedule is gone.
-- KEYS: schedule, its dag, schedules, answer
-- ARGV: name, action, first time from now on (of resume), seconds the answer is kept
local schedule, dag, schedules, answer = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local name, action, first = ARGV[1], ARGV[2], ARGV[3]
local told = redis.call('GET', answer)
if told then
  return told
end
local state = redis.call('HMGET', schedule, 'id', 'firing', 'paused')
local words = 'ok'
if not state[1] then
  words = 'there is no schedule of that name'
elseif action == 'remove' then
  redis.call('ZREM', schedules, name)
  redis.call('UNLINK', schedule, dag)
else
  local is_firing = state[2] and state[2] ~= ''
  if action == 'pause' then
    redis.call('HSET', schedule, 'paused', 'true')
    if not is_firing then
      redis.call('ZADD', schedules, '+inf', name)
    end
  elseif state[3] == 'true' then
    redis.call('HSET', schedule, 'paused', 'false', 'next', first)
    if not is_firing then
      redis.call('ZADD', schedules, first, name)
    end
  end
end
redis.call('SET', answer, words, 'EX', ARGV[4])
return words
