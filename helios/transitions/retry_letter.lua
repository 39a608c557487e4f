-- Puts the entry of a dead letter back into its stream, while its run still goes on. Returns 1, 0 when the letter is gone,
-- or -1 when the run is not RUNNING: then its fences would let the entry change nothing, so the letter stays.
-- KEYS: dead letters, the entry's stream, run
-- ARGV: letter
local dead, stream, run, letter = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
local found = redis.call('XRANGE', dead, letter, letter)[1]
if not found then
  return 0
end
if redis.call('HGET', run, 'status') ~= 'RUNNING' then
  return -1
end
local about = {stream = true, entry = true, reason = true, deliveries = true}
local fields = {}
for i = 1, #found[2], 2 do
  if not about[found[2][i]] then
    fields[#fields + 1] = found[2][i]
    fields[#fields + 1] = found[2][i + 1]
  end
end
redis.call('XADD', stream, '*', unpack(fields))
redis.call('XDEL', dead, letter)
return 1
