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
  write_task(prefix, i)
  added[#added + 1] = ARGV[i]
end
redis.call('RPUSH', names, unpack(added))
return 1
