-- Signals and notices as a replica reads them. Relies on claims.lua.
local function rows(ids)
  local found = {}
  for _, id in ipairs(ids) do
    local s, attempts, arrived = load(id), tried(id)
    if s then found[#found + 1] = {id, s.place, s.admitted, s.expires, attempts, arrived, s.json} end
  end
  return found
end

local function first_suspects() -- the group that comes first, "level:id,id"; groups that have ended are forgotten
  while true do
    local first = call('ZRANGE', SUSPECTS, 0, 0)[1]
    if not first then return '' end
    for _, id in ipairs(split(string.sub(first, 3))) do
      if call('HEXISTS', SIGNALS, id) == 1 then return first end
    end
    call('ZREM', SUSPECTS, first)
  end
end

local function notices() -- those after the last that the replica has read: "place, outcome, detail, ids"
  local found = {}
  for _, entry in ipairs(call('XRANGE', NOTICES, '(' .. a.after, '+', 'COUNT', 200)) do
    found[#found + 1] = {entry[1], entry[2][1], entry[2][2], entry[2][4]}
  end
  return found
end
