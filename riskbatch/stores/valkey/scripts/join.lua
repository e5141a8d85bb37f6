-- Begin, or begin again: what the replica knows of the window is put in where the engine does not have it, which makes
-- older decisions invalid. Relies on begin.lua. If the engine has lost everything, nothing leaves for a period, because
-- what ended replicas had sent is known to nobody.
local KEEP_REPLICA = 3600e6 -- microseconds: how long the repeated call of a silent replica is recognized
local epoch = call('HGET', STATE, 'epoch')
if not epoch then
  epoch = a.new_epoch
  call('HSET', STATE, 'epoch', epoch)
end
if a.epoch ~= '' and a.epoch ~= epoch then set('trusted_at', math.max(get('trusted_at'), NOW + a.period)) end
for _, permit in ipairs(a.permits) do call('ZADD', PERMITS, 'NX', text(NOW + permit[2]), permit[1]) end
call('HSET', STATE, 'rate', a.rate)
count('version', 1)
for _, gone in ipairs(call('ZRANGEBYSCORE', REPLICAS, '-inf', text(NOW - KEEP_REPLICA))) do
  call('ZREM', REPLICAS, gone)
  call('HDEL', ADMITTED, gone)
  call('HDEL', CALLS, gone)
end
local last = call('XREVRANGE', NOTICES, '+', '-', 'COUNT', 1)[1]
return reply({
  epoch = epoch,
  last = last and last[1] or '0-0',
  append_only = string.match(call('INFO', 'persistence'), 'aof_enabled:(%d)') == '1',
  eviction = string.match(call('INFO', 'memory'), 'maxmemory_policy:([%w-]+)') or 'unknown',
})
