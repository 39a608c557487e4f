-- Opens a run whose task records exist: emits its root tasks, then writes its record, which makes it visible.
-- KEYS: run, ready, events, runs, active, dag runs, dag, offered, backlog
-- ARGV: run id, score, event, events kept, dag JSON, number of run fields, run fields and values …, window or '',
--       then for each root: name, priority
local run, events, runs, active, dag_runs, dag = KEYS[1], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
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
local first_root = 8 + field_count * 2
local queue = {id = id, ready = KEYS[2], offered = KEYS[8], backlog = KEYS[9], window = tonumber(ARGV[first_root - 1])}
for _, priority in ipairs(ALL_PRIORITIES) do
  check_types(queue, priority)
end
-- What an earlier call left that broke off would be counted twice.
if queue.window then
  drop(queue.offered, queue.backlog)
end
for i = first_root, #ARGV, 2 do
  place(queue, ARGV[i + 1], ARGV[i], '1')
end
redis.pcall('XADD', events, 'MAXLEN', '~', events_kept, '*', 'event', event)
redis.call('SET', dag, ARGV[5])
redis.call('ZADD', runs, score, id)
redis.call('ZADD', active, score, id)
redis.call('ZADD', dag_runs, score, id)
for i = 7, first_root - 2, 2 do
  redis.call('HSET', run, ARGV[i], ARGV[i + 1])
end
redis.call('HSET', run, 'startTime', now)
if queue.window then
  redis.call('HSET', run, 'window', queue.window)
end
return 1
