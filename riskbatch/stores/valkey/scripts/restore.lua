-- Give an engine that lost them signals that it had, with their ids. Relies on waiting.lua.
for i, id in ipairs(a.ids) do
  if call('HEXISTS', SIGNALS, id) == 0 then
    local s = argument(1 + i, id)
    s.admitted = id
    set('last', math.max(get('last'), tonumber(id)))
    store(s)
    count('admitted', 1)
    if watch(s) then line_up(s) end
  end
end
return reply({})
