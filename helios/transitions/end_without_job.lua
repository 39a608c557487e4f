-- An attempt that is being looked at ends without a Job, and the submitter is told: an earlier success stands for it, or it
-- is of a task that only waits for others (`forEach`), which succeeds when they all have and may fail to make them.
-- KEYS: task, run, checks, finished, events, ready, offered, backlog
-- ARGV: group, entry, run, task, attempt, record, what the look came to (empty: nothing stands for it), event, events kept,
--       task prefix, status, of a task that stands for others whether it has made them (0 or 1), else empty
local task, run, checks, finished, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group, entry, attempt = ARGV[1], ARGV[2], ARGV[5]
local queue = {id = ARGV[3], tasks = ARGV[10], ready = KEYS[6], offered = KEYS[7], backlog = KEYS[8]}
local state = redis.call('HMGET', task, 'status', 'attempt', 'checking', 'priority', 'grown')
local applied = 0
if state[1] == 'QUEUED' and state[2] == attempt and state[3] == attempt
  and (ARGV[12] == '' or (ARGV[12] == '1') == (state[5] ~= false)) then
  queue.window = tonumber(redis.call('HGET', run, 'window'))
  if queue.window then
    check_types(queue, state[4])
  end
  local emitted = redis.call('XADD', finished, '*', 'run', ARGV[3], 'task', ARGV[4], 'attempt', attempt)
  local now = string.match(emitted, '^%d+')
  redis.call('HSET', task, 'status', ARGV[11], 'launchedAt', now, 'endedAt', now, 'record', ARGV[6], 'checking', '',
    'cache', 'N/A', 'hitBytes', '0', 'missBytes', '0', 'node', '', 'disrupted', '0')
  redis.call('HDEL', task, 'waitsFor', 'pendingAt', 'scheduledAt', 'fetchingAt', 'runningAt', 'publishingAt')
  if ARGV[11] == 'SUCCEEDED' then
    redis.call('HINCRBY', run, 'taskSucceeded', 1)
  end
  if ARGV[7] ~= '' then
    redis.call('HSET', task, 'memo', ARGV[7])
    redis.call('HINCRBY', run, 'taskSkipped', 1)
  end
  release(queue, state[4], ARGV[4])
  redis.pcall('XADD', events, 'MAXLEN', '~', ARGV[9], '*', 'event', ARGV[8])
  applied = 1
end
redis.call('XACK', checks, group, entry)
redis.call('XDEL', checks, entry)
return applied
