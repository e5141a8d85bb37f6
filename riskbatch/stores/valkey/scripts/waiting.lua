-- How a signal comes to wait, for the first time or again. Relies on ending.lua, and on this: of two signals for an
-- address that wait, BY_IP names one. A group of suspects, "level:id,id", has one level.
local RANK_STEP = 1e13 -- parts the levels in SUSPECTS; the numbers of groups are smaller

local function line_up(s) call('ZADD', LANES[s.level], s.place, s.id) end

local function watch(s) -- false if a newer signal waits for its address
  if a.coalesce then
    local other = call('HGET', BY_IP, s.ip)
    other = other and other ~= s.id and load(other)
    if other and tonumber(other.id) > tonumber(s.id) then
      announce('Superseded', other.json, {finish('Superseded', s)})
      return false
    elseif other then
      if other.level == s.level then -- it inherits the place in line, and how long that has waited
        s.place, s.admitted = other.place, other.admitted
        store(s)
      end
      announce('Superseded', s.json, {finish('Superseded', other)})
    end
    call('HSET', BY_IP, s.ip, s.id)
  end
  if s.expires ~= '-' then call('ZADD', EXPIRING, s.expires, s.id) end
  return true
end

local function come_up(member) -- a group, or the id of one signal
  local level, s = string.match(member, '^(%d):'), load(member)
  if level then
    count('group', 1)
    call('ZADD', SUSPECTS, text(level * RANK_STEP + get('group')), member)
  elseif s then
    line_up(s)
  end
end
