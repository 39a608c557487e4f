-- Drops all logs of a stored run, which makes room; the run says so.
-- KEYS: run, log sizes
-- ARGV: run, key prefix
local run, sizes = KEYS[1], KEYS[2]
local id, prefix = ARGV[1], ARGV[2]
local stored = redis.call('EXISTS', run)
if stored == 1 then
  for _, name in ipairs(redis.call('LRANGE', run .. ':tasks', 0, -1)) do
    local attempts = tonumber(redis.call('HGET', prefix .. 'task:' .. id .. ':' .. name, 'attempt') or '0')
    for attempt = 1, attempts do
      local log = prefix .. 'log:' .. id .. ':' .. name .. ':' .. attempt .. ':'
      redis.call('UNLINK', log .. 'fetch', log .. 'task', log .. 'publish')
    end
  end
  redis.call('HSET', run, 'logsDropped', '1')
end
redis.call('ZREM', sizes, id)
return stored
