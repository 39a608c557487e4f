-- Cancels a run, a chunk of its tasks at a time: fences what waits, is queued or runs, and asks for live Jobs' removal.
-- With a reason the run fails instead, and a task whose record is unreadable is passed over.
-- The onExit task is left out and queued by the last call, if it waits; once it does not, the others have ended, and a cancel
-- changes nothing. What ends it all the same is a cancel that says so, and a reason.
-- KEYS: run, jobs cancelled, runs settled, events, offered, backlog, ready
-- ARGV: run, task prefix, events kept, reason or '', last chunk (0 or 1), whether onExit is cancelled too (0 or 1), tasks …
local run, jobs_cancelled, runs_settled, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, prefix, events_kept, reason, last = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5] == '1'
local run_state = redis.call('HMGET', run, 'status', 'taskCount', 'cancelledAt', 'reason', 'taskSucceeded', 'taskFailed',
  'taskUpstreamFailed', 'taskCancelled', 'settledAt', 'onExit')
if run_state[1] ~= 'RUNNING' then
  return 0
end
local queue = {id = id, tasks = prefix, ready = KEYS[7]}
local exit = run_state[10]
local exit_status, keeps_exit
if exit then
  local exit_state = redis.pcall('HMGET', prefix .. exit, 'status', 'priority')
  exit_status = not exit_state.err and exit_state[1]
  keeps_exit = exit_status == 'WAITING' and ARGV[6] ~= '1'
    and (reason == '' or type(redis.pcall('XLEN', of_priority(queue.ready, exit_state[2]))) == 'number')
  if keeps_exit then
    redis.call('XLEN', of_priority(queue.ready, exit_state[2]))
  elseif reason == '' and ARGV[6] ~= '1' then
    return 0
  end
end
-- An attempt of onExit that failed and is not settled yet is not followed by another.
local ends_retries = ARGV[6] == '1' and exit_status == 'FAILED'
-- Both streams may be written to, so both types are checked before the first write.
redis.call('XLEN', jobs_cancelled)
redis.call('XLEN', runs_settled)
local ended = (run_state[5] or 0) + (run_state[6] or 0) + (run_state[7] or 0) + (run_state[8] or 0)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local fenced = {}
local names = {}
for i = 7, #ARGV do
  local key = prefix .. ARGV[i]
  if not (keeps_exit and ARGV[i] == exit) and redis.call('TYPE', key).ok == 'hash' then
    local state = redis.call('HMGET', key, 'status', 'attempt', 'job')
    if state[1] == 'WAITING' or state[1] == 'QUEUED' or state[1] == 'RUNNING' then
      fenced[#fenced + 1] = {ARGV[i], state}
      names[#names + 1] = ARGV[i]
    end
  end
end
for _, found in ipairs(fenced) do
  local state = found[2]
  if state[1] == 'RUNNING' then
    redis.call('XADD', jobs_cancelled, '*', 'run', id, 'task', found[1], 'attempt', state[2], 'job', state[3] or '')
  end
end
if #names > 0 then
  redis.pcall('XADD', events, 'MAXLEN', '~', events_kept, '*', 'event',
    '{"type":"TasksCancelled","run":"' .. id .. '","tasks":["' .. table.concat(names, '","') .. '"]}')
end
-- Nothing is left once onExit, which had begun, is fenced.
local fences_exit = exit and names[#names] == exit and exit_status ~= 'WAITING'
local all = tonumber(run_state[2])
if last and not run_state[9] and keeps_exit then
  if reason ~= '' or ended + #names + 1 == all then
    queue_exit(queue, run, exit, events, events_kept, {reason = reason, is_cancelled = true, cancelled = #names})
  end
elseif last and not run_state[9] and (reason ~= '' or fences_exit or ended + #names == all) then
  redis.call('XADD', runs_settled, '*', 'run', id)
  redis.call('HSET', run, 'settledAt', now)
end
for _, found in ipairs(fenced) do
  redis.call('HSET', prefix .. found[1], 'status', 'CANCELLED', 'settled', '1', 'endedAt', now)
end
if ends_retries then
  redis.call('HSET', prefix .. exit, 'retriesLeft', '0', 'disrupted', '0')
end
if #names > 0 then
  redis.call('HINCRBY', run, 'taskCancelled', #names)
end
drop(KEYS[5], KEYS[6])
if not run_state[3] then
  redis.call('HSET', run, 'cancelledAt', now)
end
if reason ~= '' and not run_state[4] then
  redis.call('HSET', run, 'reason', reason)
end
return 1
