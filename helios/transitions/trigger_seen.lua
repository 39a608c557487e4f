-- Notes what became of an event: its run, or why it has none. One that is noted twice in a row counts once.
-- KEYS: trigger
-- ARGV: trigger's id, event, run or '', why there is none, entry of its stream or ''
local trigger = KEYS[1]
local event, run, why, entry = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local state = redis.call('HMGET', trigger, 'id', 'lastEvent')
if state[1] ~= ARGV[1] then
  return 0
end
local now = redis.call('TIME')
local ms = now[1] .. string.format('%03d', math.floor(now[2] / 1000))
if entry ~= '' then
  redis.call('HSET', trigger, 'lastEntry', entry)
end
if state[2] == event then
  return 0
end
redis.call('HSET', trigger, 'lastEvent', event, 'lastTime', ms)
if run ~= '' then
  redis.call('HINCRBY', trigger, 'runs', 1)
  redis.call('HSET', trigger, 'lastRun', run)
else
  redis.call('HINCRBY', trigger, 'refused', 1)
  redis.call('HSET', trigger, 'refusedTime', ms, 'refusedWhy', why)
end
return 1
