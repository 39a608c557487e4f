-- Settles a task whose attempt ended: a success releases its children, a failure with attempts left queues the next.
-- Returns 'settled', 'retried', 'failed' (nothing written: the caller settles it by fail_task) or 'stale'.
-- KEYS: task, run, finished, ready, runs settled, settled count, events
-- ARGV: group, entry, run, task, attempt, task prefix, events kept, disruptions allowed
local task, run, finished, ready = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local runs_settled, settled_count, events = KEYS[5], KEYS[6], KEYS[7]
local group, entry, id, name, attempt, prefix = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local events_kept = ARGV[7]

local function acknowledge()
  redis.call('XACK', finished, group, entry)
  redis.call('XDEL', finished, entry)
end

local state = redis.call('HMGET', task, 'status', 'attempt', 'settled', 'children', 'retriesLeft', 'disrupted', 'disruptions')
if (state[1] ~= 'SUCCEEDED' and state[1] ~= 'FAILED') or state[2] ~= attempt or state[3] ~= '0' then
  acknowledge()
  return 'stale'
end
redis.call('XLEN', ready)
redis.call('XLEN', events)
redis.call('XLEN', runs_settled)
local run_state = redis.call('HMGET', run, 'cancelledAt', 'taskCount', 'status')

if state[1] == 'FAILED' then
  local disruptions = tonumber(state[7] or '0')
  local disrupted = state[6] == '1' and disruptions < tonumber(ARGV[8])
  local retries = tonumber(state[5])
  if run_state[1] or run_state[3] ~= 'RUNNING' or (not disrupted and retries == 0) then
    return 'failed'
  end
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local following = tostring(tonumber(attempt) + 1)
  redis.call('XADD', ready, '*', 'run', id, 'task', name, 'attempt', following)
  redis.call('XADD', events, 'MAXLEN', '~', events_kept, '*', 'event',
    '{"type":"TasksQueued","run":"' .. id .. '","attempt":' .. following .. ',"tasks":["' .. name .. '"]}')
  if disrupted then
    redis.call('HSET', task, 'disruptions', disruptions + 1)
  else
    redis.call('HSET', task, 'retriesLeft', retries - 1)
  end
  redis.call('HSET', task, 'status', 'QUEUED', 'attempt', following, 'queuedAt', now)
  acknowledge()
  return 'retried'
end

local children = {}
if not run_state[1] then
  for child in string.gmatch(state[4], '[^\n]+') do
    local found = redis.call('HMGET', prefix .. child, 'status', 'waiting')
    if found[1] == 'WAITING' then
      children[#children + 1] = {child, found[2]}
    end
  end
end
local count = tonumber(redis.call('GET', settled_count) or '0')
local queued = {}
if #children > 0 then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  for _, found in ipairs(children) do
    local child = prefix .. found[1]
    if found[2] == '1' then
      redis.call('XADD', ready, '*', 'run', id, 'task', found[1], 'attempt', '1')
      redis.call('HSET', child, 'status', 'QUEUED', 'attempt', '1', 'waiting', '0', 'queuedAt', now)
      queued[#queued + 1] = '"' .. found[1] .. '"'
    else
      redis.call('HINCRBY', child, 'waiting', -1)
    end
  end
end
if #queued > 0 then
  redis.call('XADD', events, 'MAXLEN', '~', events_kept, '*', 'event',
    '{"type":"TasksQueued","run":"' .. id .. '","attempt":1,"tasks":[' .. table.concat(queued, ',') .. ']}')
end
if count + 1 == tonumber(run_state[2]) then
  redis.call('XADD', runs_settled, '*', 'run', id)
end
redis.call('INCR', settled_count)
redis.call('HSET', task, 'settled', '1')
acknowledge()
return 'settled'
