-- An attempt ended: records its result once, counts a success, and hands the task to the submitter.
-- The fence is the attempt: only a RUNNING one can end. An empty entry means that the Job is not wrapped up yet.
-- KEYS: task, run, launched, finished, events
-- ARGV: group, entry, run, task, attempt, status, record, cache, hit bytes, miss bytes, node, disrupted, event, events kept
local task, run, launched, finished, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group, entry, attempt, status = ARGV[1], ARGV[2], ARGV[5], ARGV[6]
local state = redis.call('HMGET', task, 'status', 'attempt')
local applied = 0
if state[1] == 'RUNNING' and state[2] == attempt then
  redis.call('XLEN', finished)
  redis.call('XLEN', events)
  local nodes = redis.call('HGET', run, 'nodes')
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  redis.call('XADD', finished, '*', 'run', ARGV[3], 'task', ARGV[4], 'attempt', attempt)
  redis.call('XADD', events, 'MAXLEN', '~', ARGV[14], '*', 'event', ARGV[13])
  redis.call('HSET', task, 'status', status, 'endedAt', now, 'record', ARGV[7], 'cache', ARGV[8],
    'hitBytes', ARGV[9], 'missBytes', ARGV[10], 'node', ARGV[11], 'disrupted', ARGV[12])
  if status == 'SUCCEEDED' then
    redis.call('HINCRBY', run, 'taskSucceeded', 1)
    if ARGV[8] == 'Hit' or ARGV[8] == 'Partial' or ARGV[8] == 'Miss' then
      redis.call('HINCRBY', run, 'cache' .. ARGV[8] .. 'Tasks', 1)
    end
    if ARGV[9] ~= '0' then
      redis.call('HINCRBY', run, 'cacheHitBytes', ARGV[9])
    end
    if ARGV[10] ~= '0' then
      redis.call('HINCRBY', run, 'cacheMissBytes', ARGV[10])
    end
  end
  if ARGV[11] ~= '' and nodes and not string.find(',' .. nodes .. ',', ',' .. ARGV[11] .. ',', 1, true) then
    redis.call('HSET', run, 'nodes', nodes == '' and ARGV[11] or nodes .. ',' .. ARGV[11])
  end
  applied = 1
end
if entry ~= '' then
  redis.call('XACK', launched, group, entry)
  redis.call('XDEL', launched, entry)
end
return applied
