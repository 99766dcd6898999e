-- What is fixed when the store is first used: written by whoever comes first.
--
-- KEYS: settings
-- ARGV: partitions, format version
-- Returns {partitions, format version} as they are stored.

if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'partitions', ARGV[1], 'format', ARGV[2])
end
return redis.call('HMGET', KEYS[1], 'partitions', 'format')
