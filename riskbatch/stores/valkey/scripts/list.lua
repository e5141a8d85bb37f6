-- What waits, for operators: a page of one level after a place in line; or, without a level, what is in no lane, which
-- is at most a window's requests and few more. Relies on rows.lua.
local found = {}
local function add(ids, waits)
  for _, row in ipairs(rows(ids)) do
    row[8] = waits
    found[#found + 1] = row
  end
end

if a.level then
  add(call('ZRANGEBYSCORE', LANES[a.level], '(' .. a.after, '+inf', 'LIMIT', 0, 500), 'ready')
else
  for _, member in ipairs(call('ZRANGE', HELD, 0, -1)) do
    local is_group = string.find(member, ':')
    add(is_group and split(string.sub(member, 3)) or {member}, is_group and 'to be probed' or 'held back')
  end
  for _, member in ipairs(call('ZRANGE', SUSPECTS, 0, -1)) do add(split(string.sub(member, 3)), 'to be probed') end
  for _, each in pairs(claims()) do add(each.ids, 'in flight') end
end
return reply({signals = found})
