-- Opens a run whose task records exist: emits its root tasks, then writes its record, which makes it visible.
-- KEYS: run, ready, events, runs, active, dag runs, dag
-- ARGV: run id, score, event, events kept, dag JSON, number of run fields, run fields and values …, roots …
local run, ready, events, runs, active, dag_runs, dag = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local id, score, event, events_kept = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if redis.call('EXISTS', run) == 1 then
  return 0
end
redis.call('ZCARD', runs)
redis.call('ZCARD', active)
redis.call('ZCARD', dag_runs)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local field_count = tonumber(ARGV[6])
local first_root = 7 + field_count * 2
for i = first_root, #ARGV do
  redis.call('XADD', ready, '*', 'run', id, 'task', ARGV[i], 'attempt', '1')
end
redis.pcall('XADD', events, 'MAXLEN', '~', events_kept, '*', 'event', event)
redis.call('SET', dag, ARGV[5])
redis.call('ZADD', runs, score, id)
redis.call('ZADD', active, score, id)
redis.call('ZADD', dag_runs, score, id)
for i = 7, first_root - 1, 2 do
  redis.call('HSET', run, ARGV[i], ARGV[i + 1])
end
redis.call('HSET', run, 'startTime', now)
return 1
