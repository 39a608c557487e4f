-- Leaves the record of a submission that was refused, so that its sender can read why; deletes the oldest of such records.
-- KEYS: run, events, runs, dag runs
-- ARGV: run id, score, event, events kept, key prefix, rejected runs kept, run fields and values …
local run, events, runs, dag_runs = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
if redis.call('EXISTS', run) == 1 then
  return 0
end
redis.call('ZCARD', runs)
redis.call('ZCARD', dag_runs)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.pcall('XADD', events, 'MAXLEN', '~', ARGV[4], '*', 'event', ARGV[3])
redis.call('ZADD', runs, ARGV[2], ARGV[1])
redis.call('ZADD', dag_runs, ARGV[2], ARGV[1])
for i = 7, #ARGV, 2 do
  redis.call('HSET', run, ARGV[i], ARGV[i + 1])
end
redis.call('HSET', run, 'startTime', now, 'endTime', now, 'durationMs', 0)
for _, old in ipairs(redis.call('ZRANGE', dag_runs, 0, -1 - tonumber(ARGV[6]))) do
  local base = ARGV[5] .. 'run:' .. old
  for _, name in ipairs(redis.call('LRANGE', base .. ':tasks', 0, -1)) do
    redis.call('UNLINK', ARGV[5] .. 'task:' .. old .. ':' .. name)
  end
  redis.call('UNLINK', base, base .. ':tasks')
  redis.call('ZREM', runs, old)
  redis.call('ZREM', dag_runs, old)
end
return 1
