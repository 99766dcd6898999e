-- Calls whatever the other scripts call, on keys of its own: a user who may not is found out before the first commit, not
-- in the middle of one.
--
-- KEYS: hash, set, string

local hash, set, text = KEYS[1], KEYS[2], KEYS[3]
redis.call('HSET', hash, 'a', '1', 'b', '1')
redis.call('HMGET', hash, 'a', 'b')
redis.call('HGET', hash, 'a')
redis.call('HGETALL', hash)
redis.call('HKEYS', hash)
redis.call('HLEN', hash)
redis.call('HDEL', hash, 'a')
redis.call('EXISTS', hash)
redis.call('ZADD', set, 0, 'a', 0, 'b')
redis.call('ZCARD', set)
redis.call('ZSCORE', set, 'a')
redis.call('ZRANGEBYLEX', set, '-', '+', 'LIMIT', 0, 1)
redis.call('ZLEXCOUNT', set, '-', '+')
redis.call('ZREM', set, 'a')
redis.call('TIME')
redis.call('SET', text, '1', 'PX', 1000)
redis.call('UNLINK', text)
redis.call('SADD', text, 'a')
redis.call('SMEMBERS', text)
redis.call('UNLINK', hash, set, text)
return 1
