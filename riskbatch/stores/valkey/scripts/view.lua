-- What a decision is made of. Relies on claims.lua. `version` grows with whatever takes something away from a decision:
-- another commit, what an answer taught, a replica that joins with permits of its own. What only gives leaves it.
local function view()
  call('ZREMRANGEBYSCORE', PERMITS, '-inf', text(NOW))
  local flat, returns, in_flight = call('ZRANGE', PERMITS, 0, -1, 'WITHSCORES'), {}, 0
  for i = 1, #flat, 2 do
    if call('HEXISTS', CLAIMS, flat[i]) == 1 then in_flight = in_flight + 1 else returns[#returns + 1] = flat[i + 1] end
  end
  return {
    version = get('version'), window = call('HGET', STATE, 'window') or '', trusted_at = text(get('trusted_at')),
    rate = call('HGET', STATE, 'rate') or '', returns = returns, in_flight = in_flight,
    high_before = text(get('high_before')), high_last = text(get('high_last')),
  }
end

local function fleet()
  local replicas, flying, alive = {}, 0, call('ZRANGEBYSCORE', REPLICAS, text(NOW - 2 * a.lease), '+inf')
  for _, replica in ipairs(alive) do replicas[replica] = 0 end
  for _, each in pairs(claims()) do
    replicas[each.replica] = (replicas[each.replica] or 0) + #each.ids
    flying = flying + #each.ids
  end
  local unsettled = call('HLEN', SIGNALS)
  return {
    replicas = replicas, alive = alive, unsettled = unsettled, in_flight = flying, waiting = unsettled - flying,
    ready = sizes(), admitted = get('admitted'), accepted = get('Accepted'), requests = get('requests'),
  }
end
