-- Adds a warning to a run that is kept; one that is there already is not added again.
-- KEYS: run
-- ARGV: warning, one line
local found = redis.call('HMGET', KEYS[1], 'status', 'warnings')
if not found[1] then
  return 0
end
local warnings = found[2] or ''
if string.find('\n' .. warnings .. '\n', '\n' .. ARGV[1] .. '\n', 1, true) then
  return 0
end
redis.call('HSET', KEYS[1], 'warnings', warnings == '' and ARGV[1] or warnings .. '\n' .. ARGV[1])
return 1
