-- Leaves the record of a submission that was refused, so that its sender can read why.
-- KEYS: run, events, runs, dag runs
-- ARGV: run id, score, event, events kept, run fields and values …
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
for i = 5, #ARGV, 2 do
  redis.call('HSET', run, ARGV[i], ARGV[i + 1])
end
redis.call('HSET', run, 'startTime', now, 'endTime', now, 'durationMs', 0)
return 1
