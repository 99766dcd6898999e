-- How many index rows one partition has of each status: a look-up for each status, however many rows it has.
--
-- KEYS: instances
-- Returns {status, count, ...}

local result, low = {}, '[\1'
while true do
  local found = redis.call('ZRANGEBYLEX', KEYS[1], low, '+', 'LIMIT', 0, 1)[1]
  if not found then
    return result
  end
  local status = string.sub(found, 1, string.find(found, '\0', 1, true) - 1)
  result[#result + 1] = status
  result[#result + 1] = redis.call('ZLEXCOUNT', KEYS[1], '[' .. status .. '\0', '(' .. status .. '\1')
  low = '[' .. status .. '\1'
end
