-- Decides, once, what becomes of the times that a schedule has behind it: the latest is to be sent, with what that replaces,
-- or nothing is. From here on everybody who looks finishes just that.
-- KEYS: schedule, schedules
-- ARGV: name, schedule's id, its next time as the caller saw it, time to send or '', time that follows or '', now, claimed
--       until, run it replaces or '', time that was missed or '', why
local schedule, schedules = KEYS[1], KEYS[2]
local name, id, expected, time, following = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local now, claimed_until = tonumber(ARGV[6]), ARGV[7]
local state = redis.call('HMGET', schedule, 'id', 'next', 'paused', 'firing', 'claimedUntil')
if state[1] ~= id then
  return 0
end
redis.call('ZCARD', schedules)
if state[4] and state[4] ~= '' then
  if state[4] ~= time or tonumber(state[5] or '0') > now then
    return 0
  end
  redis.call('ZADD', schedules, claimed_until, name)
  redis.call('HSET', schedule, 'claimedUntil', claimed_until)
  return 1
end
if state[2] ~= expected or state[3] == 'true' then
  return 0
end
local is_last = following == ''
redis.call('ZADD', schedules, time ~= '' and claimed_until or is_last and '+inf' or following, name)
if ARGV[9] ~= '' then
  redis.call('HSET', schedule, 'missedTime', ARGV[9], 'missedWhy', ARGV[10])
end
-- A schedule without a time to come waits for the end of the calendar.
redis.call('HSET', schedule, 'next', is_last and '253402300799000' or following, 'firing', time, 'claimedUntil', claimed_until,
  'replaces', ARGV[8])
return 1
