-- How signals come back from a request. Relies on waiting.lua, and on this: whose row is gone has ended meanwhile.
local function wait_again(member, ready_at)
  if ready_at <= NOW then come_up(member) else call('ZADD', HELD, text(ready_at), member) end
end

local function put_back(ids, ready_at)
  for _, id in ipairs(ids) do
    local s = load(id)
    if s and watch(s) then wait_again(id, ready_at) end
  end
end

local function suspect(ids, ready_at)
  local kept, level = {}, nil
  for _, id in ipairs(ids) do
    local s = load(id)
    if s and watch(s) then
      kept[#kept + 1], level = id, s.level
    end
  end
  if level then wait_again(level .. ':' .. table.concat(kept, ','), ready_at) end
end

local function release()
  for _, member in ipairs(call('ZRANGEBYSCORE', HELD, '-inf', text(NOW), 'LIMIT', 0, 1000)) do
    call('ZREM', HELD, member)
    come_up(member)
  end
end

local function split(ids)
  local found = {}
  for id in string.gmatch(ids, '%d+') do found[#found + 1] = id end
  return found
end
