-- Settles a task that failed for good. What depends on it becomes UPSTREAM_FAILED, a chunk at a time; the last call
-- settles the task itself. In a cancelled run the task counts as cancelled.
-- KEYS: task, run, finished, runs settled, events, ready
-- ARGV: group, entry, run, task, attempt, task prefix, events kept, last chunk (0 or 1), dependents …
local task, run, finished, runs_settled, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group, entry, id, name, attempt, prefix, events_kept = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]

local state = redis.call('HMGET', task, 'status', 'attempt', 'settled', 'cache', 'hitBytes', 'missBytes')
if state[1] ~= 'FAILED' or state[2] ~= attempt or state[3] ~= '0' then
  redis.call('XACK', finished, group, entry)
  redis.call('XDEL', finished, entry)
  return 0
end
local run_state = redis.call('HMGET', run, 'taskCount', 'cancelledAt', 'taskSucceeded', 'taskFailed', 'taskUpstreamFailed',
  'taskCancelled', 'settledAt', 'status', 'onExit')
local ended = (run_state[3] or 0) + (run_state[4] or 0) + (run_state[5] or 0) + (run_state[6] or 0)
local below = {}
for i = 9, #ARGV do
  if redis.call('HGET', prefix .. ARGV[i], 'status') == 'WAITING' then
    below[#below + 1] = ARGV[i]
  end
end
local last = ARGV[8] == '1'
local is_exit = run_state[9] == name
local counts_as_cancelled = run_state[2] and not is_exit
local settling = #below + (last and 1 or 0)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if last and not run_state[7] and (is_exit or ended + settling == tonumber(run_state[1])) then
  redis.call('XADD', runs_settled, '*', 'run', id)
  redis.call('HSET', run, 'settledAt', now)
elseif last and not run_state[7] and run_state[9] and run_state[8] == 'RUNNING'
  and ended + settling + 1 == tonumber(run_state[1]) then
  queue_exit({id = id, tasks = prefix, ready = KEYS[6]}, run, run_state[9], events, events_kept,
    {failed = #below + (counts_as_cancelled and 0 or 1), cancelled = counts_as_cancelled and 1 or 0})
end
if #below > 0 then
  redis.pcall('XADD', events, 'MAXLEN', '~', events_kept, '*', 'event',
    '{"type":"TasksUpstreamFailed","run":"' .. id .. '","tasks":["' .. table.concat(below, '","')
    .. '"],"cause":"' .. name .. '"}')
  for _, dependent in ipairs(below) do
    redis.call('HSET', prefix .. dependent, 'status', 'UPSTREAM_FAILED', 'settled', '1', 'endedAt', now, 'cause', name)
  end
  redis.call('HINCRBY', run, 'taskUpstreamFailed', #below)
end
if not last then
  return 1
end
redis.pcall('XADD', events, 'MAXLEN', '~', events_kept, '*', 'event',
  '{"type":"TaskFailed","run":"' .. id .. '","task":"' .. name .. '","attempt":' .. attempt .. '}')
-- A run that was failed as a whole has ended already, and its metrics are final.
if run_state[8] == 'RUNNING' and counts_as_cancelled then
  redis.call('HSET', task, 'status', 'CANCELLED')
  redis.call('HINCRBY', run, 'taskCancelled', 1)
elseif run_state[8] == 'RUNNING' then
  redis.call('HINCRBY', run, 'taskFailed', 1)
  if run_state[9] and not is_exit then
    name_failed(run, name)
  end
  if state[4] == 'Hit' or state[4] == 'Partial' or state[4] == 'Miss' then
    redis.call('HINCRBY', run, 'cache' .. state[4] .. 'Tasks', 1)
  end
  redis.call('HINCRBY', run, 'cacheHitBytes', state[5] or 0)
  redis.call('HINCRBY', run, 'cacheMissBytes', state[6] or 0)
end
redis.call('HSET', task, 'settled', '1')
redis.call('XACK', finished, group, entry)
redis.call('XDEL', finished, entry)
return 1
