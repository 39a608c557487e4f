-- An attempt ended: records its result once, counts a success, and hands the task to the submitter.
-- The fence is the attempt: only a RUNNING one can end. An empty entry means that the Job is not wrapped up yet.
-- KEYS: task, run, launched, finished, events, jobs cancelled
-- ARGV: group, entry, run, task, attempt, status, record, cache, hit bytes, miss bytes, node, disrupted, event, events kept,
--       disagrees (the pod failed, but the attempt's early success stays), whether its Job must be deleted
local task, run, launched, finished, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group, entry, attempt, status = ARGV[1], ARGV[2], ARGV[5], ARGV[6]
local cache, hit_bytes, miss_bytes, node = ARGV[8], ARGV[9], ARGV[10], ARGV[11]
local state = redis.call('HMGET', task, 'status', 'attempt', 'job')
local applied = 0
if state[1] == 'RUNNING' and state[2] == attempt then
  local nodes = redis.call('HGET', run, 'nodes')
  if ARGV[16] == '1' then
    redis.call('XADD', KEYS[6], '*', 'run', ARGV[3], 'task', ARGV[4], 'attempt', attempt, 'job', state[3] or '')
  end
  local emitted = redis.call('XADD', finished, '*', 'run', ARGV[3], 'task', ARGV[4], 'attempt', attempt)
  redis.call('HSET', task, 'status', status, 'endedAt', string.match(emitted, '^%d+'), 'record', ARGV[7],
    'cache', cache, 'hitBytes', hit_bytes, 'missBytes', miss_bytes, 'node', node, 'disrupted', ARGV[12])
  if status == 'SUCCEEDED' then
    redis.call('HINCRBY', run, 'taskSucceeded', 1)
    if cache == 'Hit' or cache == 'Partial' or cache == 'Miss' then
      redis.call('HINCRBY', run, 'cache' .. cache .. 'Tasks', 1)
    end
    if hit_bytes ~= '0' then
      redis.call('HINCRBY', run, 'cacheHitBytes', hit_bytes)
    end
    if miss_bytes ~= '0' then
      redis.call('HINCRBY', run, 'cacheMissBytes', miss_bytes)
    end
  end
  if node ~= '' and nodes and not string.find(',' .. nodes .. ',', ',' .. node .. ',', 1, true) then
    redis.call('HSET', run, 'nodes', nodes == '' and node or nodes .. ',' .. node)
  end
  redis.pcall('XADD', events, 'MAXLEN', '~', ARGV[14], '*', 'event', ARGV[13])
  applied = 1
end
if entry ~= '' then
  local first = redis.call('XACK', launched, group, entry) == 1
  if first and ARGV[15] == '1' and redis.call('EXISTS', run) == 1 then
    redis.pcall('HINCRBY', run, 'disagreements', 1)
  end
  redis.call('XDEL', launched, entry)
end
return applied
