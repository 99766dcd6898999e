-- Index rows of one partition that meet conditions which no index answers: a bounded number is looked at.
--
-- KEYS: instances, rows
-- ARGV: low, high, entries to look at, length of what stands before an id in a member, id prefix[, name]
-- Returns {the last member looked at, or '' when there are no more, members that meet the conditions...}

local most, head, prefix, name = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], ARGV[6]
local found = redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1], ARGV[2], 'LIMIT', 0, most)
local result = {#found == most and found[most] or ''}
for _, member in ipairs(found) do
  local id = string.sub(member, head + 1)
  if string.sub(id, 1, #prefix) == prefix then
    local found_name = name
    if name then
      -- 8 bytes of time, and a msgpack array that begins with status and name.
      local row = redis.call('HGET', KEYS[2], id)
      if row then
        local at = cmsgpack.unpack_one(row, 9)
        at, found_name = cmsgpack.unpack_one(row, at)
      else
        found_name = false
      end
    end
    if found_name == name then
      result[#result + 1] = member
    end
  end
end
return result
