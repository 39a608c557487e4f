-- Makes room again in a stream that can take no entry, because one with the highest id there can be was added: once all
-- of it is handled, the stream goes, and its next id is the clock's. Nobody can have added anything meanwhile.
-- KEYS: stream
-- ARGV: the highest id
local stream, last = KEYS[1], ARGV[1]
if redis.call('EXISTS', stream) == 0 or redis.call('XLEN', stream) > 0 then
  return 0
end
local state = redis.call('XINFO', 'STREAM', stream)
for i = 1, #state, 2 do
  if state[i] == 'last-generated-id' and state[i + 1] == last then
    return redis.call('UNLINK', stream)
  end
end
return 0
