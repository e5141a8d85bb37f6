-- What the fleet holds, and who holds it. Relies on view.lua.
return reply({fleet = fleet(), view = view()})
