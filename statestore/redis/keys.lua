-- A page of one actor's keys.
--
-- KEYS: actor, sorted
-- ARGV: limit, then low, high of each range of places, in order
-- Returns {0, flat hash} of a small actor, of which the client takes what it wants, or {1, flat page}.

local SLICE = 2000

-- Nothing; but a former primary may not, and is not to answer. Whatever else keeps a server from writing is no reason.
local primary = redis.pcall('HDEL', KEYS[1], '\255')
if type(primary) == 'table' and string.find(primary.err, 'READONLY', 1, true) then
  return primary
end

if not redis.call('HGET', KEYS[1], '\255sorted') then
  return {0, redis.call('HGETALL', KEYS[1])}
end

local function key(member)
  if string.byte(member) == 48 then
    return string.sub(member, 2)
  end
  local family = string.sub(member, 2, -21)
  if string.find(family, '%z') then
    family = string.gsub(family, '%z\255', '\0')
  end
  return family .. string.match(string.sub(member, -18), '^0*(%d%d%d%d%d%d+)$')
end

local room = tonumber(ARGV[1])
local fields = {}
for at = 2, #ARGV, 2 do
  if #fields < room then
    local found = redis.call('ZRANGEBYLEX', KEYS[2], ARGV[at], ARGV[at + 1], 'LIMIT', 0, room - #fields)
    for _, member in ipairs(found) do
      fields[#fields + 1] = key(member)
    end
  end
end

local flat = {}
for first = 1, #fields, SLICE do
  local last = math.min(first + SLICE - 1, #fields)
  local values = redis.call('HMGET', KEYS[1], unpack(fields, first, last))
  for at = first, last do
    flat[#flat + 1] = fields[at]
    flat[#flat + 1] = values[at - first + 1]
  end
end
return {1, flat}
