-- Raises the fence of one partition.
--
-- KEYS: fence
-- ARGV: term, epoch
-- Returns {1, whether the last owner released it, or there was none} or {0, stored fence}.

local stored = redis.call('HMGET', KEYS[1], 'fence', 'released')
local released = 1
if stored[1] then
  local term, epoch = string.match(stored[1], '^(%d+)%.(%d+)$')
  local new_term, new_epoch = tonumber(ARGV[1]), tonumber(ARGV[2])
  term, epoch = tonumber(term), tonumber(epoch)
  if new_term < term or (new_term == term and new_epoch <= epoch) then
    redis.call('HDEL', KEYS[1], '\255') -- Nothing; but a former primary may not, and is not to answer.
    return {0, stored[1]}
  end
  released = tonumber(stored[2])
end
redis.call('HSET', KEYS[1], 'fence', ARGV[1] .. '.' .. ARGV[2], 'released', 0)
return {1, released}
