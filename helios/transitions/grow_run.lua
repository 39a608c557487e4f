-- Gives a run the tasks whose records are written: those that wait for nothing are queued, and the task that made them waits
-- for all of them. With none it has nothing to wait for, and stays where it is, to be ended.
-- KEYS: task, run, checks, task names, dag, ready, offered, backlog, events
-- ARGV: group, entry, run, task, attempt, task prefix, events kept, DAG JSON, number of events, number of new tasks, number of
--       specs, how often the run had grown when its DAG was read, then the events; for each new task: name, waiting,
--       priority; for each spec: name, spec; all names …
-- Returns 0 where they are made already, with the entry still pending, or the run is to get no more; -1 where another task has
-- made some since the DAG was read: then this one is to be worked out anew.
local task, run, checks, names = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, entry, id, attempt, prefix = ARGV[1], ARGV[2], ARGV[3], ARGV[5], ARGV[6]

local function acknowledge()
  redis.call('XACK', checks, group, entry)
  redis.call('XDEL', checks, entry)
end

local state = redis.call('HMGET', task, 'status', 'attempt', 'checking', 'priority', 'grown')
local of_run = redis.call('HMGET', run, 'window', 'status', 'cancelledAt', 'growths')
if state[1] ~= 'QUEUED' or state[2] ~= attempt or state[3] ~= attempt or of_run[2] ~= 'RUNNING' or of_run[3] then
  -- Whoever cancels the run may know the names of its tasks already; the one that would make more is among them.
  acknowledge()
  return 0
end
if state[5] then
  return 0
end
if (of_run[4] or '0') ~= ARGV[12] then
  return -1
end
local queue = {id = id, tasks = prefix, ready = KEYS[6], offered = KEYS[7], backlog = KEYS[8], window = tonumber(of_run[1])}
local first_task = 13 + tonumber(ARGV[9])
local first_spec = first_task + tonumber(ARGV[10]) * 3
local first_name = first_spec + tonumber(ARGV[11]) * 2
for _, priority in ipairs(ALL_PRIORITIES) do
  check_types(queue, priority)
end
redis.call('LLEN', names)
for i = first_task, first_spec - 1, 3 do
  if redis.call('EXISTS', prefix .. ARGV[i]) == 0 then
    return redis.error_reply('NOTWRITTEN task ' .. ARGV[i] .. ' has no record yet')
  end
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = first_task, first_spec - 1, 3 do
  local key = prefix .. ARGV[i]
  if ARGV[i + 1] == '0' then
    place(queue, ARGV[i + 2], ARGV[i], '1')
    redis.call('HSET', key, 'queuedAt', now)
  end
  redis.call('PERSIST', key)
end
for i = first_spec, first_name - 1, 2 do
  redis.call('HSET', prefix .. ARGV[i], 'spec', ARGV[i + 1])
end
redis.call('SET', KEYS[5], ARGV[8])
redis.call('UNLINK', names)
for i = first_name, #ARGV do
  redis.call('RPUSH', names, ARGV[i])
end
redis.call('HINCRBY', run, 'taskCount', ARGV[10])
redis.call('HINCRBY', run, 'growths', 1)
redis.call('HSET', task, 'grown', ARGV[10])
if ARGV[10] ~= '0' then
  redis.call('HSET', task, 'status', 'WAITING', 'waiting', ARGV[10], 'attempt', '0', 'checking', '')
  release(queue, state[4], ARGV[4])
end
for i = 13, first_task - 1 do
  redis.pcall('XADD', KEYS[9], 'MAXLEN', '~', ARGV[7], '*', 'event', ARGV[i])
end
if ARGV[10] ~= '0' then
  acknowledge()
end
return 1
