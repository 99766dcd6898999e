-- A lease. The record outlives every holder; `held` lives as long as a lease does that is not renewed.
--
-- `number` counts what one contender asked for: what arrives after something younger of the same contender is void, so a
-- request that was given up can do nothing any more.
--
-- KEYS: record, held
-- ARGV: acquire, token, number, Unix time in ms, ms to live, what `held` was for too long ('' nothing)
--       write, token, number, term, ms to live, value
--       renew, token, number, term, ms to live, number of the last write known to be stored
--       release, token, number
-- Returns {1, term} or {0, held}.

local token, number = ARGV[2], tonumber(ARGV[3])
local record = redis.call('HMGET', KEYS[1], 'term', 'holder', 'number', 'released')
local term, holder, last, released = record[1] or '0', record[2], tonumber(record[3] or '0'), record[4]
local held = redis.call('GET', KEYS[2])
local mine = holder == token

local function refused()
  redis.call('HDEL', KEYS[1], '\255') -- Nothing; but a former primary may not, and is not to answer.
  return {0, held or ''}
end

if mine and number <= last then
  return refused()
end
if ARGV[1] == 'acquire' then
  if not mine and holder and released == '0' and held and held ~= ARGV[6] then
    return refused()
  end
  local next_term = string.format('%.0f', math.max(tonumber(term) + 1, tonumber(ARGV[4])))
  redis.call('SET', KEYS[2], token .. ' ' .. ARGV[3], 'PX', ARGV[5])
  redis.call('HSET', KEYS[1], 'term', next_term, 'holder', token, 'number', ARGV[3], 'released', '0')
  return {1, next_term}
end
if not mine or released ~= '0' then
  return refused()
end
if ARGV[1] == 'release' then
  redis.call('HSET', KEYS[1], 'released', '1', 'number', ARGV[3])
  redis.call('DEL', KEYS[2])
  return {1, term}
end
if term ~= ARGV[4] then
  return refused()
end
if ARGV[1] == 'write' then
  redis.call('SET', KEYS[2], token .. ' ' .. ARGV[3], 'PX', ARGV[5])
  redis.call('HSET', KEYS[1], 'value', ARGV[6], 'number', ARGV[3])
  return {1, term}
end
-- A store that lost a write of this holder: its number is older.
if last < tonumber(ARGV[6]) then
  return refused()
end
redis.call('SET', KEYS[2], token .. ' ' .. ARGV[3], 'PX', ARGV[5])
return {1, term}
