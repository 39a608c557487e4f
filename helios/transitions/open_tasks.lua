-- Writes some of a new run's task records. Repeating it before the run is open changes nothing; afterwards it is refused.
-- KEYS: run, task names
-- ARGV: task prefix, values per task (5), then for each task: name, waiting, retries, children, spec
local run, names = KEYS[1], KEYS[2]
if redis.call('EXISTS', run) == 1 then
  return 0
end
local prefix = ARGV[1]
redis.call('LLEN', names)
for i = 3, #ARGV, 5 do
  local task = prefix .. ARGV[i]
  if redis.call('EXISTS', task) == 0 then
    redis.call('HSET', task, 'status', 'WAITING', 'attempt', '0', 'settled', '0', 'waiting', ARGV[i + 1],
      'retriesLeft', ARGV[i + 2], 'children', ARGV[i + 3], 'spec', ARGV[i + 4])
    redis.call('RPUSH', names, ARGV[i])
  end
end
return 1
