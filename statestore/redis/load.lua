-- One actor as its last commit left it: at most a snapshot's share of a large one.
--
-- KEYS: actor, sorted, owing
-- ARGV: id, SNAPSHOT_LIMIT
-- Returns nil (there is none), {owes, flat hash} of a small one, or {owes, flat hash, complete}.

local SLICE = 2000

-- Nothing; but a former primary may not, and is not to answer. Whatever else keeps a server from writing is no reason.
local primary = redis.pcall('HDEL', KEYS[1], '\255')
if type(primary) == 'table' and string.find(primary.err, 'READONLY', 1, true) then
  return primary
end

local head = redis.call('HMGET', KEYS[1], '\255version', '\255sorted')
if not head[1] and redis.call('EXISTS', KEYS[1]) == 0 then
  return false
end
local owes = redis.call('ZSCORE', KEYS[3], ARGV[1]) and 1 or 0
if not head[2] then
  return {owes, redis.call('HGETALL', KEYS[1])}
end

local limit = tonumber(ARGV[2])
local fields = {'\255version'}
local complete = 1

-- The key that a member of `sorted` stands for.
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

-- Takes the keys of a range, at most `most` of them; returns how many.
local function take(low, high, most)
  local found
  if most then
    found = redis.call('ZRANGEBYLEX', KEYS[2], low, high, 'LIMIT', 0, most + 1)
    if #found > most then
      complete = 0
      found[#found] = nil
    end
  else
    found = redis.call('ZRANGEBYLEX', KEYS[2], low, high)
  end
  for _, member in ipairs(found) do
    fields[#fields + 1] = key(member)
  end
  return #found
end

local others = limit - take('[0', '(1', limit)
others = others - take('[1', '(1history-\0\1', others)
take('[1history-\0\1', '(1history-\0\2', limit)
others = others - take('[1history-\0\2', '(1inbox-\0\1', others)
take('[1inbox-\0\1', '(1inbox-\0\2', nil)
others = others - take('[1inbox-\0\2', '(1outbox-\0\1', others)
take('[1outbox-\0\1', '(1outbox-\0\2', nil)
take('[1outbox-\0\2', '+', others)

local flat = {}
for first = 1, #fields, SLICE do
  local last = math.min(first + SLICE - 1, #fields)
  local values = redis.call('HMGET', KEYS[1], unpack(fields, first, last))
  for at = first, last do
    flat[#flat + 1] = fields[at]
    flat[#flat + 1] = values[at - first + 1]
  end
end
return {owes, flat, complete}
