-- Marks one partition as given back in good order, if its fence is still this one.
--
-- KEYS: fence
-- ARGV: fence

if redis.call('HGET', KEYS[1], 'fence') == ARGV[1] then
  redis.call('HSET', KEYS[1], 'released', 1)
else
  redis.call('HDEL', KEYS[1], '\255') -- Nothing; but a former primary may not, and is not to answer.
end
return 1
