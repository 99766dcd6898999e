-- Marks one partition as given back in good order, if its fence is still this one.
--
-- KEYS: fence
-- ARGV: fence

if redis.call('HGET', KEYS[1], 'fence') == ARGV[1] then
  redis.call('HSET', KEYS[1], 'released', 1)
end
return 1
