-- Binds a request id to the first run that brings it; every later one is told whose it is.
-- KEYS: request
-- ARGV: run id, digest of the submission, seconds the binding is kept
local held = redis.call('HMGET', KEYS[1], 'run', 'digest')
if held[1] then
  return held
end
redis.call('HSET', KEYS[1], 'run', ARGV[1], 'digest', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return {ARGV[1], ARGV[2]}
