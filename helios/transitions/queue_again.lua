-- Repairs what of a run stands in line: forgets entries of tasks that are not QUEUED any more, emits again for tasks whose
-- entry is lost, and fills the room that there is. Returns how many tasks were queued again.
-- An onExit task that should have been queued is.
-- KEYS: run, ready, offered, backlog
-- ARGV: run id, task prefix, then for each lost entry: task, attempt
local queue = {id = ARGV[1], tasks = ARGV[2], ready = KEYS[2], offered = KEYS[3], backlog = KEYS[4]}
local run_state = redis.call('HMGET', KEYS[1], 'status', 'window', 'onExit', 'taskCount', 'taskSucceeded', 'taskFailed',
  'taskUpstreamFailed', 'taskCancelled')
if run_state[1] ~= 'RUNNING' then
  return 0
end
queue.window = tonumber(run_state[2])
for _, priority in ipairs(ALL_PRIORITIES) do
  check_types(queue, priority)
end
local again = 0
for i = 3, #ARGV, 2 do
  local name, attempt = ARGV[i], ARGV[i + 1]
  local state = redis.call('HMGET', queue.tasks .. name, 'status', 'attempt', 'priority')
  if state[1] == 'QUEUED' and state[2] == attempt then
    if queue.window and redis.call('SISMEMBER', of_priority(queue.offered, state[3]), name) == 0 then
      redis.call('RPUSH', of_priority(queue.backlog, state[3]), name)
    else
      emit(queue, state[3], name, attempt)
    end
    again = again + 1
  end
end
if run_state[3] then
  local ended = (run_state[5] or 0) + (run_state[6] or 0) + (run_state[7] or 0) + (run_state[8] or 0)
  if ended + 1 == tonumber(run_state[4]) and queue_exit(queue, KEYS[1], run_state[3], nil, nil, {}) then
    again = again + 1
  end
end
if queue.window then
  for _, priority in ipairs(ALL_PRIORITIES) do
    local offered = of_priority(queue.offered, priority)
    for _, name in ipairs(redis.call('SMEMBERS', offered)) do
      local state = redis.pcall('HMGET', queue.tasks .. name, 'status')
      if not state.err and state[1] ~= 'QUEUED' then
        redis.call('SREM', offered, name)
      end
    end
    refill(queue, priority)
  end
end
return again
