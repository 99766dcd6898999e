-- A lease: one record, which outlives every holder.
--
-- `number` counts what one contender asked for: what arrives after something younger of the same contender is void, so a
-- request that was given up can do nothing any more.
--
-- KEYS: record
-- ARGV: acquire, token, number, Unix time in ms, the mark that the contender saw for too long ('' none), ms after which
--         the server's clock says that it was too long
--       write, token, number, term, value
--       renew, token, number, term, number of the last write known to be stored
--       release, token, number
-- Returns {1, term} or {0, mark}: a mark changes with everything that the holder does.

local what, token, number = ARGV[1], ARGV[2], tonumber(ARGV[3])
local record = redis.call('HMGET', KEYS[1], 'term', 'holder', 'number', 'released', 'written', 'at')
local term, holder, last, released = record[1] or '0', record[2], tonumber(record[3] or '0'), record[4]
local mine = holder == token
local mark = holder and holder .. ' ' .. last or ''
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function refused()
  redis.call('HDEL', KEYS[1], '\255') -- Nothing; but a former primary may not, and is not to answer.
  return {0, mark}
end

-- Takes over the request's number, by which everybody sees that the holder is alive.
local function done(...)
  redis.call('HSET', KEYS[1], 'number', ARGV[3], 'at', string.format('%.0f', now), ...)
  return {1, term}
end

if mine and number <= last then
  return refused()
end
if what == 'acquire' then
  local free = mine or not holder or released == '1' or mark == ARGV[5]
  if not free and now - tonumber(record[6]) < tonumber(ARGV[6]) then
    return refused()
  end
  term = string.format('%.0f', math.max(tonumber(term) + 1, tonumber(ARGV[4])))
  return done('term', term, 'holder', token, 'released', '0', 'written', ARGV[3])
end
if not mine or released == '1' then
  return refused()
end
if what == 'release' then
  return done('released', '1')
end
if term ~= ARGV[4] then
  return refused()
end
if what == 'write' then
  return done('value', ARGV[5], 'written', ARGV[3])
end
-- A store that lost a write of this holder has an older one.
if tonumber(record[5]) < tonumber(ARGV[5]) then
  return refused()
end
return done()
