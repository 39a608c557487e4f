-- An attempt's Job exists, or is refused for good: QUEUED becomes RUNNING and the collector is told. Returns the state found.
-- KEYS: task, the entry's stream, launched, events, run, ready, offered, backlog
-- ARGV: group, entry, run, task, attempt, job, event, events kept, refused, task prefix
local task, stream, launched, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, entry, attempt = ARGV[1], ARGV[2], ARGV[5]
local queue = {id = ARGV[3], tasks = ARGV[10], ready = KEYS[6], offered = KEYS[7], backlog = KEYS[8]}
local state = redis.call('HMGET', task, 'status', 'attempt', 'priority')
queue.window = tonumber(redis.call('HGET', KEYS[5], 'window'))
if queue.window then
  check_types(queue, state[3])
end
if state[1] == 'QUEUED' and state[2] == attempt then
  local entry_fields = {'run', ARGV[3], 'task', ARGV[4], 'attempt', attempt, 'job', ARGV[6]}
  if ARGV[9] ~= '' then
    entry_fields[9], entry_fields[10] = 'refused', ARGV[9]
  end
  local emitted = redis.call('XADD', launched, '*', unpack(entry_fields))
  redis.call('HSET', task, 'status', 'RUNNING', 'job', ARGV[6], 'launchedAt', string.match(emitted, '^%d+'), 'phase', '')
  redis.call('HDEL', task, 'pendingAt', 'scheduledAt', 'fetchingAt', 'runningAt', 'publishingAt')
  redis.pcall('XADD', events, 'MAXLEN', '~', ARGV[8], '*', 'event', ARGV[7])
end
if state[1] ~= 'QUEUED' or state[2] == attempt then
  release(queue, state[3], ARGV[4])
end
redis.call('XACK', stream, group, entry)
redis.call('XDEL', stream, entry)
return {state[1], state[2]}
