-- Checks one commit, and applies it whole or not at all. Redis does not roll back: everything is decided, and every key
-- that may be of a wrong type is looked at, before the first write.
--
-- KEYS: actor, fence, sorted[, owing, rows, instances, due, reminders]
-- ARGV: fence, expected version ('' none), changes (msgpack, '' none), '\255version', version, then key, value, ...
-- Returns 1 (committed), {2, stored fence} or {3, stored version}.

-- Keys from which on an actor's keys are also kept sorted. See docs/state-format.md.
local SORTED_FROM = 1000
-- Lua's unpack fails near 8000.
local SLICE = 2000

local actor, sorted = KEYS[1], KEYS[3]

local function each(command, key, list)
  for first = 1, #list, SLICE do
    redis.call(command, key, unpack(list, first, math.min(first + SLICE - 1, #list)))
  end
end

-- Where a key stands among those of its actor: its member in `sorted`. As `order.place` in Python.
local function place(key)
  local family, digits = string.match(key, '^(.*%-)(%d+)$')
  if family then
    local size = #digits
    if size == 6 or (size > 6 and size <= 18 and string.byte(digits) ~= 48) then
      if string.find(family, '%z') then
        family = string.gsub(family, '%z', '\0\255')
      end
      return '1' .. family .. '\0\1' .. string.rep('0', 18 - size) .. digits
    end
  end
  return '0' .. key
end

-- A former primary reads what it had: only what it may write to answers. Nothing is deleted.
local function answer(reply)
  redis.call('HDEL', KEYS[2], '\255')
  return reply
end

local head = redis.call('HMGET', actor, '\255version', '\255sorted')
local stored, is_sorted = head[1], head[2]
if stored == ARGV[5] then
  return answer(1)
end
local changes = false
if ARGV[3] ~= '' then
  changes = cmsgpack.unpack(ARGV[3])
  if changes[1] == 2 and not stored then
    return answer(1)
  end
end
local fence = redis.call('HGET', KEYS[2], 'fence')
if fence ~= ARGV[1] then
  return answer({2, fence})
end
if (stored or '') ~= ARGV[2] then
  return answer({3, stored})
end

local puts = (#ARGV - 5) / 2
local mode = changes and changes[1] or 0
local grows = mode ~= 2 and ((mode == 1 and 0 or redis.call('HLEN', actor)) + puts > SORTED_FROM)
if is_sorted or grows then
  redis.call('ZCARD', sorted)
end

local old_row, old_reminders = false, {}
if changes and #KEYS > 3 then
  local row, clear, forget, reminders = changes[4], changes[5], changes[6], changes[7]
  redis.call('ZCARD', KEYS[4])
  if row ~= nil or mode == 2 then
    old_row = redis.call('HGET', KEYS[5], changes[8])
    redis.call('ZCARD', KEYS[6])
  end
  if clear or mode == 2 then
    local flat = redis.call('HGETALL', KEYS[8])
    for at = 1, #flat, 2 do old_reminders[flat[at]] = flat[at + 1] end
    redis.call('ZCARD', KEYS[7])
  elseif #forget > 0 or #reminders > 0 then
    local names = {}
    for _, name in ipairs(forget) do names[#names + 1] = name end
    for _, one in ipairs(reminders) do names[#names + 1] = one[1] end
    for first = 1, #names, SLICE do
      local last = math.min(first + SLICE - 1, #names)
      local found = redis.call('HMGET', KEYS[8], unpack(names, first, last))
      for at = first, last do old_reminders[names[at]] = found[at - first + 1] or nil end
    end
    redis.call('ZCARD', KEYS[7])
  end
end

-- Decided. From here on only writes, the version last.

if changes and #KEYS > 3 then
  local recover, row, clear, forget, reminders, id = changes[3], changes[4], changes[5], changes[6], changes[7], changes[8]
  if recover == true then
    redis.call('ZADD', KEYS[4], 0, id)
  elseif recover == false or mode == 2 then
    redis.call('ZREM', KEYS[4], id)
  end
  if old_row then
    -- 8 bytes of time, and a msgpack array whose first field is the status.
    local time = string.sub(old_row, 1, 8)
    local _, status = cmsgpack.unpack_one(old_row, 9)
    local gone = {}
    local by_time, by_status = '\0' .. time .. id, status .. '\0' .. time .. id
    if not row or row[2] ~= by_time then gone[#gone + 1] = by_time end
    if not row or row[3] ~= by_status then gone[#gone + 1] = by_status end
    if #gone > 0 then redis.call('ZREM', KEYS[6], unpack(gone)) end
    if not row then redis.call('HDEL', KEYS[5], id) end
  end
  if row then
    redis.call('ZADD', KEYS[6], 0, row[2], 0, row[3])
    redis.call('HSET', KEYS[5], id, row[1])
  end
  local members = {}
  for name, value in pairs(old_reminders) do
    members[#members + 1] = string.sub(value, 1, 8) .. changes[9] .. name
  end
  each('ZREM', KEYS[7], members)
  if clear or mode == 2 then
    redis.call('UNLINK', KEYS[8])
  else
    each('HDEL', KEYS[8], forget)
  end
  if #reminders > 0 then
    local due, values = {}, {}
    for _, one in ipairs(reminders) do
      due[#due + 1] = 0
      due[#due + 1] = string.sub(one[2], 1, 8) .. changes[9] .. one[1]
      values[#values + 1] = one[1]
      values[#values + 1] = one[2]
    end
    each('ZADD', KEYS[7], due)
    each('HSET', KEYS[8], values)
  end
end

if mode > 0 then
  redis.call('UNLINK', actor, sorted)
  if mode == 2 then
    return 1
  end
  is_sorted = false
elseif changes and #changes[2] > 0 then
  each('HDEL', actor, changes[2])
  if is_sorted then
    local members = {}
    for at, key in ipairs(changes[2]) do members[at] = place(key) end
    each('ZREM', sorted, members)
  end
end

if grows and not is_sorted then
  -- Once in an actor's life, or at a reset: what is there is at most SORTED_FROM keys.
  local members = {}
  for _, key in ipairs(redis.call('HKEYS', actor)) do
    if string.byte(key) ~= 255 then
      members[#members + 1] = 0
      members[#members + 1] = place(key)
    end
  end
  each('ZADD', sorted, members)
  redis.call('HSET', actor, '\255sorted', '1')
  is_sorted = true
end
if is_sorted then
  local members = {}
  for at = 6, #ARGV, 2 do
    members[#members + 1] = 0
    members[#members + 1] = place(ARGV[at])
  end
  each('ZADD', sorted, members)
end
if #ARGV <= SLICE then
  redis.call('HSET', actor, unpack(ARGV, 4))
else
  for first = 6, #ARGV, SLICE do
    redis.call('HSET', actor, unpack(ARGV, first, math.min(first + SLICE - 1, #ARGV)))
  end
  redis.call('HSET', actor, ARGV[4], ARGV[5])
end
return 1
