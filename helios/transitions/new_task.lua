-- The record of a task that is new in its run. Comes before the scripts that write some.

-- From six arguments, the first at `i`: name, waiting, retries, children, spec, priority. One that waits for nothing is QUEUED from
-- the start; whoever shows the run its tasks emits it.
local function write_task(prefix, i)
  local key = prefix .. ARGV[i]
  local waits = ARGV[i + 1] ~= '0'
  redis.call('HSET', key, 'status', waits and 'WAITING' or 'QUEUED', 'attempt', waits and '0' or '1', 'settled', '0',
    'waiting', ARGV[i + 1], 'retriesLeft', ARGV[i + 2], 'children', ARGV[i + 3], 'spec', ARGV[i + 4])
  if ARGV[i + 5] ~= '' then
    redis.call('HSET', key, 'priority', ARGV[i + 5])
  end
end

