-- Writes some of a new run's task records. Repeating it before the run is open changes nothing; afterwards it is refused.
-- KEYS: run, task names
-- A root is QUEUED from the start: no entry asks for it before the run is open, which is when it is emitted.
-- ARGV: task prefix, tasks written before, then for each task: name, waiting, retries, children, spec, priority
local run, names = KEYS[1], KEYS[2]
if redis.call('EXISTS', run) == 1 or redis.call('LLEN', names) > tonumber(ARGV[2]) then
  return 0
end
local prefix = ARGV[1]
local added = {}
for i = 3, #ARGV, 6 do
  local root = ARGV[i + 1] == '0'
  redis.call('HSET', prefix .. ARGV[i], 'status', root and 'QUEUED' or 'WAITING', 'attempt', root and '1' or '0', 'settled', '0', 'waiting', ARGV[i + 1],
    'retriesLeft', ARGV[i + 2], 'children', ARGV[i + 3], 'spec', ARGV[i + 4])
  if ARGV[i + 5] ~= '' then
    redis.call('HSET', prefix .. ARGV[i], 'priority', ARGV[i + 5])
  end
  added[#added + 1] = ARGV[i]
end
redis.call('RPUSH', names, unpack(added))
return 1
