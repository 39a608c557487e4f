-- Settles a task whose attempt ended: a success releases its children, a failure with attempts left queues the next.
-- Returns 'settled', 'retried', 'failed' (nothing written: the caller settles it by fail_task) or 'stale'.
-- KEYS: task, run, finished, ready, runs settled, events, offered, backlog
-- ARGV: group, entry, run, task, attempt, task prefix, events kept, disruptions allowed
local task, run, finished, runs_settled, events = KEYS[1], KEYS[2], KEYS[3], KEYS[5], KEYS[6]
local group, entry, id, name, attempt, prefix = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

local function acknowledge()
  redis.call('XACK', finished, group, entry)
  redis.call('XDEL', finished, entry)
end

local function announce(event)
  redis.pcall('XADD', events, 'MAXLEN', '~', ARGV[7], '*', 'event', event)
end

local state = redis.call('HMGET', task, 'status', 'attempt', 'settled', 'children', 'retriesLeft', 'disrupted', 'disruptions',
  'hitBytes', 'missBytes', 'record', 'priority')
if (state[1] ~= 'SUCCEEDED' and state[1] ~= 'FAILED') or state[2] ~= attempt or state[3] ~= '0' then
  acknowledge()
  return 'stale'
end
local run_state = redis.call('HMGET', run, 'status', 'cancelledAt', 'taskCount', 'taskSucceeded', 'taskFailed',
  'taskUpstreamFailed', 'taskCancelled', 'settledAt', 'window', 'onExit')
local queue = {id = id, tasks = prefix, ready = KEYS[4], offered = KEYS[7], backlog = KEYS[8],
  window = tonumber(run_state[9])}
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local is_exit = run_state[10] == name
-- A cancelled run's onExit task goes on: what ends it too is its own status.
local running = run_state[1] == 'RUNNING' and (not run_state[2] or is_exit)
local ended = (run_state[4] or 0) + (run_state[5] or 0) + (run_state[6] or 0) + (run_state[7] or 0)

if state[1] == 'FAILED' then
  local disruptions = tonumber(state[7] or '0')
  local disrupted = state[6] == '1' and disruptions < tonumber(ARGV[8])
  local retries = tonumber(state[5]) or 0
  if not running or (not disrupted and retries == 0) then
    return 'failed'
  end
  local following = tostring(tonumber(attempt) + 1)
  check_types(queue, state[11])
  leave(queue, state[11], name)
  place(queue, state[11], name, following)
  if disrupted then
    redis.call('HSET', task, 'disruptions', disruptions + 1)
  else
    redis.call('HSET', task, 'retriesLeft', retries - 1)
  end
  -- What this attempt fetched was fetched, whatever the next one finds in the cache.
  for number, field in ipairs({'Hit', 'Miss'}) do
    local bytes = state[7 + number]
    if bytes and bytes ~= '0' and tonumber(bytes) then
      redis.call('HINCRBY', task, 'earlier' .. field .. 'Bytes', bytes)
      redis.call('HINCRBY', run, 'cache' .. field .. 'Bytes', bytes)
    end
  end
  -- Nor is what that took, or came from; only its record says so, and one that cannot be read says nothing.
  local known, record = pcall(cjson.decode, state[10] or '')
  for _, field in ipairs({'fetchMs', 'savedMs', 'peerBytes', 'storeBytes'}) do
    local number = known and type(record) == 'table' and record[field]
    if type(number) == 'number' and number > 0 and number < 2 ^ 50 then
      redis.call('HINCRBY', task, 'earlier' .. string.upper(string.sub(field, 1, 1)) .. string.sub(field, 2),
        string.format('%.0f', number))
    end
  end
  -- For the run's trace: the next attempt's times take the place of this one's.
  local was, fields = {}, {'queuedAt', 'launchedAt', 'endedAt', 'node', 'pendingAt', 'scheduledAt', 'fetchingAt', 'runningAt',
    'publishingAt'}
  for number, value in ipairs(redis.call('HMGET', task, unpack(fields))) do
    was[fields[number]] = value or nil
  end
  if known and type(record) == 'table' then
    was.record = {}
    for _, field in ipairs({'exitCode', 'reason', 'cache', 'fetchElapsedMs', 'fetchedAt', 'startedAt', 'finishedAt', 'publishedAt'}) do
      was.record[field] = record[field]
    end
  end
  redis.call('HSET', task, 'was:' .. attempt, cjson.encode(was))
  redis.call('HSET', task, 'status', 'QUEUED', 'attempt', following, 'queuedAt', now)
  refill(queue, state[11])
  announce('{"type":"TasksQueued","run":"' .. id .. '","attempt":' .. following .. ',"tasks":["' .. name .. '"]}')
  acknowledge()
  return 'retried'
end

-- Every child's record is read before the first write, so that one of the wrong type leaves nothing half done.
local children, kinds = {}, {}
if running then
  for child in string.gmatch(state[4], '[^\n]+') do
    local found = redis.call('HMGET', prefix .. child, 'status', 'waiting', 'priority')
    if found[1] == 'WAITING' then
      if not tonumber(found[2]) then
        return redis.error_reply('WRONGTYPE task ' .. child .. ' waits for no number of tasks')
      end
      children[#children + 1] = {child, found[2], found[3]}
      kinds[found[3] or ''] = true
    end
  end
end
for priority in pairs(kinds) do
  check_types(queue, priority)
end
local queued = {}
for _, found in ipairs(children) do
  local child = prefix .. found[1]
  if found[2] == '1' then
    place(queue, found[3], found[1], '1')
    redis.call('HSET', child, 'status', 'QUEUED', 'attempt', '1', 'waiting', '0', 'queuedAt', now)
    queued[#queued + 1] = '"' .. found[1] .. '"'
  else
    redis.call('HINCRBY', child, 'waiting', -1)
  end
end
-- The counters count a success when its attempt ends, every other end when it is settled; so when they add up, no task is left.
if run_state[1] == 'RUNNING' and not run_state[8] then
  local count = tonumber(run_state[3])
  if ended == count or is_exit then
    local emitted = redis.call('XADD', runs_settled, '*', 'run', id)
    redis.call('HSET', run, 'settledAt', string.match(emitted, '^%d+'))
  elseif run_state[10] and ended + 1 == count then
    queue_exit(queue, run, run_state[10], events, ARGV[7], {})
  end
end
if #children > 0 then
  redis.call('HSET', task, 'settled', '1')
end
leave(queue, state[11], name)
for priority in pairs(kinds) do
  refill(queue, priority)
end
if #queued > 0 then
  announce('{"type":"TasksQueued","run":"' .. id .. '","attempt":1,"tasks":[' .. table.concat(queued, ',') .. ']}')
end
acknowledge()
return 'settled'
