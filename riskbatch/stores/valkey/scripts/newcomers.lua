-- How one signal comes in, and who makes room for it. Relies on waiting.lua.
local function room() return a.capacity - call('HLEN', SIGNALS) end

local function victim(level) -- the oldest of the lowest level that waits, if that does not outrank the newcomer
  for lowest = #LANES, level, -1 do
    local first = call('ZRANGE', LANES[lowest], 0, 0)[1]
    if first then return load(first) end
    for _, id in ipairs(call('ZRANGE', HELD, 0, 99)) do
      local s = load(id)
      if s and s.level == lowest then return s end
    end
  end
end

local function admit(s)
  count('admitted', 1)
  if s.expires ~= '-' and tonumber(s.expires) <= NOW then
    count('Expired', 1)
    return announce('Expired', '', {s.id})
  elseif a.when_full == 'shed' and room() <= 0 then
    local loser = victim(s.level)
    announce('Shed', '', {loser and finish('Shed', loser) or s.id})
    if not loser then return count('Shed', 1) end
  end
  store(s)
  watch(s)
  line_up(s)
  if s.level == 1 then call('HSET', STATE, 'high_before', text(get('high_last')), 'high_last', text(NOW)) end
end
