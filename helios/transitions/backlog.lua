-- Where attempts wait that may run: of each run and priority at most `window` in the ready stream of that priority, the others
-- in the run's backlog, in the order in which they became ready. Whatever takes an entry of a run out of the stream puts the
-- next of its backlog at the stream's end, so that runs take turns. Comes before the scripts that move such attempts.
--
-- A queue is {id, tasks, ready, offered, backlog, window}: the run, what its tasks' keys start with, the names of the keys of
-- priority normal, and the window, nil for a run that needs none. A name in the backlog is a hint; its task's record decides.

local ALL_PRIORITIES = {'', 'high', 'low'}
-- So many names of tasks that are not QUEUED any more are passed over at a time; the next call goes on.
local LOOKS_AT_MOST = 1000

local function of_priority(key, priority)
  if not priority or priority == '' then
    return key
  end
  return key .. ':' .. priority
end

-- Raises if a key has the wrong type; comes before a script's first write.
local function check_types(queue, priority)
  redis.call('XLEN', of_priority(queue.ready, priority))
  if queue.window then
    redis.call('SCARD', of_priority(queue.offered, priority))
    redis.call('LLEN', of_priority(queue.backlog, priority))
  end
end

local function emit(queue, priority, name, attempt)
  redis.call('XADD', of_priority(queue.ready, priority), '*', 'run', queue.id, 'task', name, 'attempt', attempt)
  if queue.window then
    redis.call('SADD', of_priority(queue.offered, priority), name)
  end
end

-- An attempt may run now: it gets its entry, or waits behind those of its run that wait already.
local function place(queue, priority, name, attempt)
  if queue.window then
    local backlog = of_priority(queue.backlog, priority)
    if redis.call('SCARD', of_priority(queue.offered, priority)) >= queue.window or redis.call('LLEN', backlog) > 0 then
      redis.call('RPUSH', backlog, name)
      return
    end
  end
  emit(queue, priority, name, attempt)
end

-- Emits from the backlog as long as there is room. The records of what was placed must be QUEUED by now, and the types of
-- all three keys known, since nothing may fail between a name's leaving the backlog and its entry.
local function refill(queue, priority)
  if not queue.window then
    return
  end
  local offered, backlog = of_priority(queue.offered, priority), of_priority(queue.backlog, priority)
  local ready = of_priority(queue.ready, priority)
  local room = queue.window - redis.call('SCARD', offered)
  for _ = 1, LOOKS_AT_MOST do
    local name = room > 0 and redis.call('LPOP', backlog)
    if not name then
      return
    end
    local state = redis.pcall('HMGET', queue.tasks .. name, 'status', 'attempt')
    -- A record that cannot be read is emitted all the same: who handles its entry says so, and the run ends.
    if (state.err or state[1] == 'QUEUED') and redis.call('SADD', offered, name) == 1 then
      redis.call('XADD', ready, '*', 'run', queue.id, 'task', name, 'attempt', state[2] or '1')
      room = room - 1
    end
  end
end

-- The task's entry stands in the way of the others of its run no longer.
local function release(queue, priority, name)
  if queue.window then
    redis.call('SREM', of_priority(queue.offered, priority), name)
    refill(queue, priority)
  end
end

-- The same when it must have been so already: only a launch by a version that knew no backlog leaves something here.
local function leave(queue, priority, name)
  if queue.window and redis.call('SREM', of_priority(queue.offered, priority), name) == 1 then
    check_types(queue, priority)
    refill(queue, priority)
  end
end

-- Nothing of the run is to be emitted any more.
local function drop(offered, backlog)
  for _, priority in ipairs(ALL_PRIORITIES) do
    redis.call('UNLINK', of_priority(offered, priority), of_priority(backlog, priority))
  end
end

