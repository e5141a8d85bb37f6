-- Take back signals whose `enqueue` was cancelled; what is in flight already stays. Relies on claims.lua.
local held = claimed()
for _, id in ipairs(a.ids) do
  local s = not held[id] and load(id)
  if s then
    leave(s)
    call('HDEL', SIGNALS, id)
    call('HDEL', TRIED, id)
    count('admitted', -1)
  end
end
return reply({})
