-- Writes records of tasks that a run is about to get. Nobody finds them before the run has them; if it never gets them, they
-- expire. Repeating it changes nothing.
-- KEYS: the task that makes them, run
-- ARGV: attempt of that task, task prefix, seconds kept, how often the run had grown when its DAG was read, then for each
--       task: name, waiting, retries, children, spec, priority
local state = redis.call('HMGET', KEYS[1], 'status', 'attempt', 'checking', 'grown')
if state[1] ~= 'QUEUED' or state[2] ~= ARGV[1] or state[3] ~= ARGV[1] or state[4]
  or (redis.call('HGET', KEYS[2], 'growths') or '0') ~= ARGV[4] then
  return 0
end
for i = 5, #ARGV, 6 do
  write_task(ARGV[2], i)
  redis.call('EXPIRE', ARGV[2] .. ARGV[i], ARGV[3])
end
return 1
