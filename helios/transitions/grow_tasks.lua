-- Writes records of tasks that a run is about to get. Nobody finds them before the run has them; if it never gets them, they
-- expire. Repeating it changes nothing.
-- KEYS: the task that makes them, run
-- ARGV: attempt of that task, task prefix, seconds kept, how often the run had grown, then for each task: name, waiting, retries, children, spec, priority
local state = redis.call('HMGET', KEYS[1], 'status', 'attempt', 'checking', 'grown')
if state[1] ~= 'QUEUED' or state[2] ~= ARGV[1] or state[3] ~= ARGV[1] or state[4]
  or (redis.call('HGET', KEYS[2], 'growths') or '0') ~= ARGV[4] then
  return 0
end
for i = 5, #ARGV, 6 do
  local key = ARGV[2] .. ARGV[i]
  local first = ARGV[i + 1] == '0'
  redis.call('HSET', key, 'status', first and 'QUEUED' or 'WAITING', 'attempt', first and '1' or '0', 'settled', '0',
    'waiting', ARGV[i + 1], 'retriesLeft', ARGV[i + 2], 'children', ARGV[i + 3], 'spec', ARGV[i + 4])
  if ARGV[i + 5] ~= '' then
    redis.call('HSET', key, 'priority', ARGV[i + 5])
  end
  redis.call('EXPIRE', key, ARGV[3])
end
return 1
