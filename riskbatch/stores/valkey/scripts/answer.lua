-- Settle and put back what rode in a claim, and let its permit come back a period from now. Relies on view.lua, and on
-- this: a permit of a claim that has ended, or that this engine never knew, only comes back earlier, never later.
local known = call('HDEL', CLAIMS, a.claim) == 1
if a.unsent then
  call('ZREM', PERMITS, a.claim)
elseif known then
  call('ZADD', PERMITS, text(NOW + a.period), a.claim)
else
  call('ZADD', PERMITS, 'XX', 'LT', text(NOW + a.period), a.claim)
end
local held = claimed() -- what somebody else is sending again by now, is answered by that one
for id, attempts in pairs(a.tried) do
  if not held[id] and call('HEXISTS', SIGNALS, id) == 1 then note(id, math.abs(attempts), attempts < 0 and 1 or 0) end
end
for _, settled in ipairs(a.settled) do
  local ended = {}
  for _, id in ipairs(settled.ids) do -- also what comes late; and what an engine forgot, somebody may wait for
    local s = not held[id] and load(id)
    if s then ended[#ended + 1] = finish(settled.outcome, s) elseif not held[id] then ended[#ended + 1] = id end
  end
  announce(settled.outcome, settled.detail, ended)
end
if known then -- otherwise they wait already
  for _, back in ipairs(a.back) do put_back(back.ids, NOW + back.after) end
  for _, back in ipairs(a.suspects) do suspect(back.ids, NOW + back.after) end
end
return reply({notices = notices(), view = view()})
