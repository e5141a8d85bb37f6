-- How a signal ends: whoever removes its row announces that, once. Relies on signals.lua, and on Redis' stream of
-- notices that each replica reads on from where it was; a replica that was away for longer asks for what is missing.
local KEEP_NOTICES = 900000 -- milliseconds

local function tried(id) -- how many requests carried it, and whether an answer was lost: 1, or 0
  local attempts, arrived = string.match(call('HGET', TRIED, id) or '0 0', '^(%d+) (%d)$')
  return tonumber(attempts), tonumber(arrived)
end

local function finish(outcome, s) -- the caller announces what is returned; it is marked if its answer was lost
  local _, arrived = tried(s.id)
  leave(s)
  call('HDEL', SIGNALS, s.id)
  call('HDEL', TRIED, s.id)
  count(outcome, 1)
  return arrived == 1 and s.id .. '!' or s.id
end

local function announce(outcome, detail, ids)
  if #ids == 0 then return end
  local oldest = text(time[1] * 1000 - KEEP_NOTICES)
  call('XADD', NOTICES, 'MINID', '~', oldest, '*', outcome, detail, 'ids', table.concat(ids, ','))
  call('PEXPIRE', NOTICES, KEEP_NOTICES)
end

local function expire() -- true if there may be more
  local due, ended = call('ZRANGEBYSCORE', EXPIRING, '-inf', text(NOW), 'LIMIT', 0, 500), {}
  for _, id in ipairs(due) do
    local s = load(id)
    if s then ended[#ended + 1] = finish('Expired', s) else call('ZREM', EXPIRING, id) end
  end
  announce('Expired', '', ended)
  return #due == 500
end
