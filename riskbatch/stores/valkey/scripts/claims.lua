-- What is in flight, and who answers for it: "ends probe replica id,id". Relies on returning.lua, and on this: a
-- replica gives up a request before its claim ends. A claim's permit is out until a period after the claim's end.
local function claims()
  local found, flat = {}, call('HGETALL', CLAIMS)
  for i = 1, #flat, 2 do
    local ends, probe, replica, ids = string.match(flat[i + 1], '^(%d+) (%d) (%S+) (.*)$')
    found[flat[i]] = {ends = tonumber(ends), probe = probe == '1', replica = replica, ids = split(ids)}
  end
  return found
end

local function claim(name, probe, replica, ids)
  local ends = NOW + a.lease
  call('HSET', CLAIMS, name, table.concat({text(ends), probe and 1 or 0, replica, table.concat(ids, ',')}, ' '))
  call('ZADD', PERMITS, text(ends + a.period), name)
end

local function claimed() -- the ids that somebody is sending
  local ids = {}
  for _, each in pairs(claims()) do
    for _, id in ipairs(each.ids) do ids[id] = true end
  end
  return ids
end

local function unclaim(name, each, attempts, arrived) -- its signals wait again; a request more or less has carried them
  call('HDEL', CLAIMS, name)
  for _, id in ipairs(each.ids) do
    local before, was = tried(id)
    if call('HEXISTS', SIGNALS, id) == 1 then note(id, math.max(0, before + attempts), math.max(was, arrived)) end
  end
  if each.probe then suspect(each.ids, NOW) else put_back(each.ids, NOW) end
end
