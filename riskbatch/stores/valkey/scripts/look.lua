-- Say that the replica lives, learn what was settled, and see what a decision needs. Relies on rows.lua. A claim that
-- its replica does not know was never sent: the answer to the commit was lost. Who is silent for a lease has stopped.
-- But an engine that lost its last seconds may show claims of before: `spent` names those that were sent and answered.
local known, spent, renewed, earliest = {}, {}, {}, NOW + a.lease / 3
for _, name in ipairs(a.known) do known[name] = true end
for _, name in ipairs(a.spent) do spent[name] = true end
for name, each in pairs(claims()) do
  if each.replica == a.replica and known[name] then
    claim(name, each.probe, a.replica, each.ids)
    renewed[#renewed + 1] = name
  elseif each.replica == a.replica then
    unclaim(name, each, spent[name] and 0 or -1, spent[name] and 1 or 0)
    if not spent[name] then call('ZREM', PERMITS, name) end
  elseif each.ends <= NOW then
    unclaim(name, each, 0, 1)
  else
    earliest = math.min(earliest, each.ends)
  end
end
release()
local more, first, heads, left = expire(), first_suspects(), {}, a.heads
for level, lane in ipairs(LANES) do
  if a.heads > 0 then heads[level] = rows(call('ZRANGE', lane, 0, math.max(1, left) - 1)) else heads[level] = {} end
  left = left - #heads[level]
end
local held_at = call('ZRANGE', HELD, 0, 0, 'WITHSCORES')[2]
for _, at in ipairs({held_at or earliest, call('ZRANGE', EXPIRING, 0, 0, 'WITHSCORES')[2]}) do
  earliest = math.min(earliest, tonumber(at))
end
return reply({
  renewed = renewed, notices = notices(), view = view(), heads = heads, suspects = first,
  probed = a.heads > 0 and rows(split(string.sub(first, 3))) or {},
  held_at = held_at, again_at = text(more and NOW or math.max(NOW, earliest)), fleet = fleet(),
})
