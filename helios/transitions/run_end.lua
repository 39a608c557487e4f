-- What follows when the last of a run's tasks has ended: the run is settled, or its onExit task is queued, which then is the
-- last. The run's field `onExit` names that task; it stays WAITING until then. Comes after backlog.lua, before the scripts
-- that end tasks.

local FAILED_NAMED_AT_MOST = 100

-- How the tasks but onExit ended, in one word: what onExit is told, and the run ends as. As run_status has it.
local function outcome(reason, is_cancelled, failed, cancelled)
  if reason and reason ~= '' then
    return 'FAILED'
  end
  if is_cancelled and cancelled > 0 then
    return 'CANCELLED'
  end
  return failed > 0 and 'FAILED' or 'SUCCEEDED'
end

-- Queues a run's onExit task if it waits; the others must all have ended, those included that the script is about to flip.
-- It is alone by then, so it needs no place in its run's line. `more`: what the script is about to write to the run:
-- failed and cancelled (numbers of tasks), is_cancelled, reason. Returns whether it was queued.
local function queue_exit(queue, run, name, events, events_kept, more)
  local key = queue.tasks .. name
  local state = redis.call('HMGET', key, 'status', 'priority')
  if state[1] ~= 'WAITING' then
    return false
  end
  local of_run = redis.call('HMGET', run, 'reason', 'cancelledAt', 'taskFailed', 'taskUpstreamFailed', 'taskCancelled')
  local told = outcome(of_run[1] or more.reason, of_run[2] or more.is_cancelled,
    (of_run[3] or 0) + (of_run[4] or 0) + (more.failed or 0), (of_run[5] or 0) + (more.cancelled or 0))
  local emitted = redis.call('XADD', of_priority(queue.ready, state[2]), '*', 'run', queue.id, 'task', name, 'attempt', '1')
  redis.call('HSET', key, 'status', 'QUEUED', 'attempt', '1', 'waiting', '0', 'queuedAt', string.match(emitted, '^%d+'))
  redis.call('HSET', run, 'exitStatus', told)
  if events then
    redis.pcall('XADD', events, 'MAXLEN', '~', events_kept, '*', 'event',
      '{"type":"TasksQueued","run":"' .. queue.id .. '","attempt":1,"tasks":["' .. name .. '"]}')
  end
  return true
end

-- For onExit: which tasks failed, the first of them first.
local function name_failed(run, name)
  local names = redis.call('HGET', run, 'failedTasks')
  local _, commas = string.gsub(names or '', ',', '')
  if not names then
    redis.call('HSET', run, 'failedTasks', name)
  elseif commas + 1 < FAILED_NAMED_AT_MOST then
    redis.call('HSET', run, 'failedTasks', names .. ',' .. name)
  end
end

