-- Moves an entry that cannot be handled to the dead letters, with its reason.
-- KEYS: dead letters, the entry's stream
-- ARGV: group, entry, reason, deliveries, fields and values of the entry …
local dead, stream = KEYS[1], KEYS[2]
redis.call('XLEN', dead)
local letter = {'stream', stream, 'entry', ARGV[2], 'reason', ARGV[3], 'deliveries', ARGV[4]}
for i = 5, #ARGV do
  letter[#letter + 1] = ARGV[i]
end
redis.call('XADD', dead, '*', unpack(letter))
redis.call('XACK', stream, ARGV[1], ARGV[2])
redis.call('XDEL', stream, ARGV[2])
return 1
