-- Ends a settled run: writes the metrics folded from its tasks, adds what the cache did to the sums of its DAG and of its
-- nodes, and deletes the runs that fall out of the window.
-- KEYS: run, runs settled, events, runs, active, dag runs, counted (whose sums are kept, by when they were last added to),
--       runs notices, where traces are sent: runs traced
-- ARGV: group, entry, run, key prefix, runs kept per dag, runs kept in all, event, events kept, sums kept,
--       numbers of the notices to send, number of run fields, run fields and values …, then for each sum: whose, number of counters, counters and increments …
local run, runs_settled, events, runs, active, dag_runs = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local counted = KEYS[7]
local group, entry, id, prefix = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local state = redis.call('HMGET', run, 'status', 'startTime')
local applied = 0

local function forget(old)
  local tasks = redis.call('LRANGE', prefix .. 'run:' .. old .. ':tasks', 0, -1)
  for _, name in ipairs(tasks) do
    local key = prefix .. 'task:' .. old .. ':' .. name
    local attempts = tonumber(redis.call('HGET', key, 'attempt') or '0')
    for attempt = 1, attempts do
      local log = prefix .. 'log:' .. old .. ':' .. name .. ':' .. attempt .. ':'
      redis.call('UNLINK', log .. 'fetch', log .. 'task', log .. 'publish')
    end
    redis.call('UNLINK', key)
  end
  local base = prefix .. 'run:' .. old
  local dag_name = redis.call('HGET', base, 'dagName')
  if dag_name then
    redis.call('ZREM', prefix .. 'dag:' .. dag_name .. ':runs', old)
    -- For `helios gc` alone, so its failure is ignored.
    redis.pcall('XADD', prefix .. 'runs:forgotten', 'MAXLEN', '~', 50000, '*', 'run', old, 'dag', dag_name)
  end
  redis.call('ZREM', runs, old)
  redis.call('ZREM', prefix .. 'runs:logs', old)
  redis.call('UNLINK', base, base .. ':dag', base .. ':tasks', base .. ':watched')
  drop(base .. ':offered', base .. ':backlog')
end

local function trim(index, kept)
  local excess = redis.call('ZCARD', index) - kept
  if excess > 0 then
    for _, old in ipairs(redis.call('ZRANGE', index, 0, excess - 1)) do
      if not redis.call('ZSCORE', active, old) then
        forget(old)
      end
    end
  end
end

-- Sums are for people to look at, like events: one that is broken, or full, must not keep a run from its end.
local function count(first, now)
  local at = first
  while at < #ARGV do
    local whose, counters = ARGV[at], tonumber(ARGV[at + 1])
    for i = at + 2, at + 1 + counters * 2, 2 do
      redis.pcall('HINCRBY', prefix .. 'dag:' .. whose .. ':stats', ARGV[i], ARGV[i + 1])
    end
    redis.pcall('ZADD', counted, now, whose)
    at = at + 2 + counters * 2
  end
  local excess = redis.pcall('ZCARD', counted)
  if type(excess) == 'number' and excess > tonumber(ARGV[9]) then
    for _, whose in ipairs(redis.call('ZRANGE', counted, 0, excess - tonumber(ARGV[9]) - 1)) do
      redis.call('UNLINK', prefix .. 'dag:' .. whose .. ':stats')
      redis.call('ZREM', counted, whose)
    end
  end
end

if state[1] == 'RUNNING' then
  redis.call('ZCARD', runs)
  redis.call('ZCARD', active)
  redis.call('ZCARD', dag_runs)
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  redis.pcall('XADD', events, 'MAXLEN', '~', ARGV[8], '*', 'event', ARGV[7])
  -- Like events: what is only looked at must not keep a run from its end.
  for number in string.gmatch(ARGV[10], '%d+') do
    redis.pcall('XADD', KEYS[8], 'MAXLEN', '~', 10000, '*', 'run', id, 'number', number)
  end
  if KEYS[9] then
    redis.pcall('XADD', KEYS[9], 'MAXLEN', '~', 10000, '*', 'run', id)
  end
  local first_sum = 12 + tonumber(ARGV[11]) * 2
  for i = 12, first_sum - 1, 2 do
    redis.call('HSET', run, ARGV[i], ARGV[i + 1])
  end
  redis.call('HSET', run, 'endTime', now, 'durationMs', now - (tonumber(state[2]) or now))
  redis.call('ZREM', active, id)
  drop(run .. ':offered', run .. ':backlog')
  count(first_sum, now)
  trim(dag_runs, tonumber(ARGV[5]))
  trim(runs, tonumber(ARGV[6]))
  applied = 1
end
if entry ~= '' then
  redis.call('XACK', runs_settled, group, entry)
  redis.call('XDEL', runs_settled, entry)
end
return applied
