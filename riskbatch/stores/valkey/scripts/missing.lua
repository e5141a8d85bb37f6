-- Which of these the engine does not have. Relies on begin.lua.
local missing = {}
for _, id in ipairs(a.ids) do
  if call('HEXISTS', SIGNALS, id) == 0 then missing[#missing + 1] = id end
end
return reply({ids = missing})
