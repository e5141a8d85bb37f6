-- Write down what an answer taught, if nobody has changed the window since it was read. Relies on view.lua.
local learned = a.version == get('version')
if learned then
  call('HSET', STATE, 'window', a.window)
  count('version', 1)
end
return reply({learned = learned, view = view()})
