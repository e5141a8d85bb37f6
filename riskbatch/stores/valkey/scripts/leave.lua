-- The replica has ended, and owes nothing. Relies on begin.lua.
call('ZREM', REPLICAS, a.replica)
call('HDEL', ADMITTED, a.replica)
call('HDEL', CALLS, a.replica)
return reply({})
