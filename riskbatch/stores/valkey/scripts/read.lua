-- Learn what was settled. Relies on rows.lua.
return reply({notices = notices()})
