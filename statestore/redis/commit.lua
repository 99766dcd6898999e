-- Checks commits, and applies each of them whole or not at all. Redis does not roll back: of each commit everything is
-- decided, and every key that may be of a wrong type is looked at, before its first write.
--
-- KEYS, of each commit: actor, fence, sorted[, owing, rows, instances, due, reminders]
-- ARGV, of each commit: how many keys it has, how many values come last; fence, expected version ('' none), changes
--                       (msgpack, '' none), '\255version', version; key, value, ...
-- Returns how many there were, if all are committed; else a flat list of those that are not: number, kind, detail.
-- Kinds: 2 and the stored fence, 3 and the stored version, 4 and an error.

-- Keys from which on an actor's keys are also kept sorted. See docs/state-format.md.
local SORTED_FROM = 1000
-- Lua's unpack fails near 8000.
local SLICE = 2000
local COMMITTED, FENCED, CONFLICT, FAILED = 1, 2, 3, 4

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

-- A former primary still reads what it had: only who may write answers. Nothing is deleted.
local function unchanged(k, kind, detail)
  redis.call('HDEL', KEYS[k + 2], '\255')
  return kind, detail
end

-- What is there of reminders that a commit replaces: name and value.
local function old_reminders(k, changes, all)
  local found, names = {}, {}
  if all then
    local flat = redis.call('HGETALL', KEYS[k + 8])
    for at = 1, #flat, 2 do found[flat[at]] = flat[at + 1] end
    return found
  end
  for _, name in ipairs(changes[6]) do names[#names + 1] = name end
  for _, one in ipairs(changes[7]) do names[#names + 1] = one[1] end
  for first = 1, #names, SLICE do
    local last = math.min(first + SLICE - 1, #names)
    local values = redis.call('HMGET', KEYS[k + 8], unpack(names, first, last))
    for at = first, last do found[names[at]] = values[at - first + 1] or nil end
  end
  return found
end

-- Members of `instances` that an old row has and the new one has not.
local function old_members(k, row, id)
  local stored = redis.call('HGET', KEYS[k + 5], id)
  if not stored then
    return false
  end
  -- 8 bytes of time, and a msgpack array whose first field is the status.
  local time = string.sub(stored, 1, 8)
  local _, status = cmsgpack.unpack_one(stored, 9)
  local gone = {}
  for at, member in ipairs({'\0' .. time .. id, status .. '\0' .. time .. id}) do
    if not row or row[at + 1] ~= member then
      gone[#gone + 1] = member
    end
  end
  return gone
end

-- Looks at all that a commit changes beside its actor's keys. Gives a function that changes it.
local function beside(k, changes, removed)
  local owing, rows, instances, due, reminders = KEYS[k + 4], KEYS[k + 5], KEYS[k + 6], KEYS[k + 7], KEYS[k + 8]
  local recover, row, clear, forget, put = changes[3], changes[4], changes[5], changes[6], changes[7]
  local id, tail = changes[8], changes[9]
  local clears = clear or removed
  local reminds = clears or #forget > 0 or #put > 0
  local gone, old = false, {}
  redis.call('ZCARD', owing)
  if row ~= nil or removed then
    gone = old_members(k, row, id)
    redis.call('ZCARD', instances)
  end
  if reminds then
    old = old_reminders(k, changes, clears)
    redis.call('ZCARD', due)
  end
  return function()
    if recover == true then
      redis.call('ZADD', owing, 0, id)
    elseif recover == false or removed then
      redis.call('ZREM', owing, id)
    end
    if gone and #gone > 0 then
      redis.call('ZREM', instances, unpack(gone))
    end
    if row then
      redis.call('ZADD', instances, 0, row[2], 0, row[3])
      redis.call('HSET', rows, id, row[1])
    elseif gone then
      redis.call('HDEL', rows, id)
    end
    if not reminds then
      return
    end
    local members = {}
    for name, value in pairs(old) do
      members[#members + 1] = string.sub(value, 1, 8) .. tail .. name
    end
    each('ZREM', due, members)
    if clears then
      redis.call('UNLINK', reminders)
    else
      each('HDEL', reminders, forget)
    end
    local places, values = {}, {}
    for _, one in ipairs(put) do
      places[#places + 1] = 0
      places[#places + 1] = string.sub(one[2], 1, 8) .. tail .. one[1]
      values[#values + 1] = one[1]
      values[#values + 1] = one[2]
    end
    each('ZADD', due, places)
    each('HSET', reminders, values)
  end
end

-- Keeps the keys sorted: those that are put as ARGV[first], ARGV[first + 2], …, and, if they were not sorted yet, all.
local function sort(actor, sorted, first, last, is_sorted)
  local members = {}
  if not is_sorted then
    -- Once in an actor's life, or at a reset: what is there is at most SORTED_FROM keys.
    for _, key in ipairs(redis.call('HKEYS', actor)) do
      if string.byte(key) ~= 255 then
        members[#members + 1] = 0
        members[#members + 1] = place(key)
      end
    end
    redis.call('HSET', actor, '\255sorted', '1')
  end
  for at = first, last, 2 do
    members[#members + 1] = 0
    members[#members + 1] = place(ARGV[at])
  end
  each('ZADD', sorted, members)
end

-- One commit, whose keys come after KEYS[k] and whose fence is ARGV[a]. Returns kind and detail.
local function commit(k, a, values)
  local actor, sorted, version = KEYS[k + 1], KEYS[k + 3], ARGV[a + 4]
  local head = redis.call('HMGET', actor, '\255version', '\255sorted')
  local stored, is_sorted = head[1], head[2]
  if stored == version then
    return unchanged(k, COMMITTED)
  end
  local changes, mode, change = false, 0, false
  if ARGV[a + 2] ~= '' then
    changes = cmsgpack.unpack(ARGV[a + 2])
    mode = changes[1]
    if mode == 2 and not stored then
      return unchanged(k, COMMITTED)
    end
  end
  local fence = redis.call('HGET', KEYS[k + 2], 'fence')
  if fence ~= ARGV[a] then
    return unchanged(k, FENCED, fence)
  end
  if (stored or '') ~= ARGV[a + 1] then
    return unchanged(k, CONFLICT, stored)
  end
  local grows = false
  if mode ~= 2 then
    grows = (mode == 1 and 0 or redis.call('HLEN', actor)) + values / 2 > SORTED_FROM
  end
  if is_sorted or grows then
    redis.call('ZCARD', sorted)
  end
  if changes and changes[10] then
    change = beside(k, changes, mode == 2)
  end

  -- Decided. From here on only writes, the version last.

  if change then
    change()
  end
  if mode > 0 then
    redis.call('UNLINK', actor, sorted)
    if mode == 2 then
      return COMMITTED
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
  local last = a + 4 + values
  if is_sorted or grows then
    sort(actor, sorted, a + 5, last, is_sorted)
  end
  if values <= SLICE then
    redis.call('HSET', actor, unpack(ARGV, a + 3, last))
  else
    for first = a + 5, last, SLICE do
      redis.call('HSET', actor, unpack(ARGV, first, math.min(first + SLICE - 1, last)))
    end
    redis.call('HSET', actor, ARGV[a + 3], version)
  end
  return COMMITTED
end

local k, a, number, others = 0, 1, 0, {}
while a < #ARGV do
  local keys, values = tonumber(ARGV[a]), tonumber(ARGV[a + 1])
  number = number + 1
  local done, kind, detail = pcall(commit, k, a + 2, values)
  if not done then
    -- A call that failed gives a table, or before Redis 7 a text.
    kind, detail = FAILED, type(kind) == 'table' and kind.err or kind
    if string.find(detail, 'READONLY', 1, true) then
      return redis.error_reply('READONLY ' .. detail)
    end
  end
  if kind ~= COMMITTED then
    local at = #others
    others[at + 1], others[at + 2], others[at + 3] = number, kind, detail or false
  end
  k, a = k + keys, a + 7 + values
end
return #others > 0 and others or number
