-- Remove waiting signals for an operator; what is in flight stays. Relies on claims.lua.
local held, dropped = claimed(), {}
for _, id in ipairs(a.ids) do
  local s = not held[id] and load(id)
  if s then dropped[#dropped + 1] = finish('Dropped', s) end
end
announce('Dropped', '', dropped)
return reply({dropped = #dropped})
