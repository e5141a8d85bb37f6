--[[
One org's queue and budget, shared by a fleet. Every step of every replica is one call of this script, so each happens as
a whole or not at all.

KEYS are the org's, in one slot of a cluster. ARGV[1] names a step (at the end of the file), ARGV[2] has its arguments as
JSON, what follows are signals. The answer is JSON.

The order is that of prioritizer.py and batcher.py, the rules are those of limiter.py, under the same names; a contract
test drives both alike.

Times are whole milliseconds. The clock is the engine's own, moved by `skew`: the fleet corrects a step of it (see
stores/valkey.py), so that a permit never comes back early. An id is the microsecond of admission and one more than the
last if that is larger: so ids order signals by age, and none is given out twice even by an engine that lost its memory.

A record is "place admitted level expires json": whitespace parts them, "-" stands for no expiry, and the JSON is that of
RiskSignal.to_json, which begins with the address, with times to the microsecond.
]]

local STATE, SIGNALS, TRIED, HIGH, MEDIUM, LOW, HELD, GROUPS, SUSPECTS, EXPIRING, BY_IP, CLAIMS, PERMITS, REPLICAS, CALLS, ADMITTED, NOTICES =
  unpack(KEYS)
local LANES = {HIGH, MEDIUM, LOW}
local MAX_EVENTS = 20
local PATIENCE = 15 -- batches that may pass suspects over
local MARGIN = 1000 -- after a reset: the headers have whole seconds
local KEEP_NOTICES = 900000 -- for a replica that was away; after that it asks which of its signals are left
local KEEP_REPLICA = 3600000 -- for the same: how long a repeated admission is recognized
local RANK_STEP = 1e13 -- parts the levels in SUSPECTS; group numbers are smaller

local call = redis.call

-- -- what is read first and written last

local time = call('TIME')
local ENGINE_MS = time[1] * 1000 + math.floor(time[2] / 1000)

local state = {}
do
  local flat = call('HGETALL', STATE)
  for i = 1, #flat, 2 do state[flat[i]] = flat[i + 1] end
end
local changed = {}

local function get(name, default)
  return tonumber(state[name]) or default
end

local function set(name, value)
  if type(value) == 'number' then value = string.format('%.0f', value) end
  state[name] = value
  changed[name] = value
end

local function count(name, by)
  set(name, get(name, 0) + by)
end

local function save()
  local flat = {}
  for name, value in pairs(changed) do
    flat[#flat + 1] = name
    flat[#flat + 1] = value
  end
  if #flat > 0 then call('HSET', STATE, unpack(flat)) end
end

local a = cjson.decode(ARGV[2])
if a.step and a.skew_from == get('skew', 0) then set('skew', get('skew', 0) - a.step) end
local NOW = ENGINE_MS + get('skew', 0)
local NOW_US = time[1] * 1e6 + time[2] + get('skew', 0) * 1000

local function id_text(number)
  return string.format('%.0f', number)
end

local function new_id()
  local id = math.max(get('last', 0) + 1, NOW_US)
  set('last', id)
  return id_text(id)
end

-- -- signals

local function ip_of(json)
  return string.match(json, '^{"ip":"([^"]+)"')
end

local function parse(record)
  local place, admitted, level, expires, json = string.match(record, '^(%d+) (%d+) (%d) (%S+) (.*)$')
  return {
    place = place,
    admitted = tonumber(admitted),
    level = tonumber(level),
    expires = tonumber(expires),
    json = json,
    ip = ip_of(json),
  }
end

local function load(id)
  local record = call('HGET', SIGNALS, id)
  return record and parse(record) or nil
end

local function store(id, signal)
  local parts = {signal.place, id_text(signal.admitted), signal.level, signal.expires and id_text(signal.expires) or '-', signal.json}
  call('HSET', SIGNALS, id, table.concat(parts, ' '))
end

local function tried(id)
  local text = call('HGET', TRIED, id)
  if not text then return 0, false end
  local attempts, arrived = string.match(text, '^(%d+) (%d)$')
  return tonumber(attempts), arrived == '1'
end

local function note(id, attempts, arrived)
  call('HSET', TRIED, id, string.format('%d %d', attempts, arrived and 1 or 0))
end

-- Strike a signal from every list but the claims; a group of suspects drops it when it comes up.
local function forget(id, signal)
  call('HDEL', SIGNALS, id)
  call('HDEL', TRIED, id)
  call('ZREM', LANES[signal.level], id)
  call('ZREM', HELD, id)
  if signal.expires then call('ZREM', EXPIRING, id) end
  if call('HGET', BY_IP, signal.ip) == id then call('HDEL', BY_IP, signal.ip) end
end

-- Tell the replicas how signals ended. An id is marked if a request carried it and the answer was lost.
local function announce(outcome, detail, ids)
  if #ids == 0 then return end
  call('XADD', NOTICES, 'MINID', '~', id_text(ENGINE_MS - KEEP_NOTICES), '*', outcome, detail, 'ids', table.concat(ids, ','))
  call('PEXPIRE', NOTICES, KEEP_NOTICES)
end

-- Settle one waiting signal; the caller announces the returned id.
local function finish(outcome, id, signal)
  local _, arrived = tried(id)
  forget(id, signal)
  count(outcome, 1)
  return arrived and id .. '!' or id
end

-- -- waiting

local function supersede(id, signal, old_id, old)
  if old.level == signal.level then -- it inherits the place in line and how long that has waited
    signal.place, signal.admitted = old.place, old.admitted
    store(id, signal)
  end
  announce('Superseded', signal.json, {finish('Superseded', old_id, old)})
end

local function line_up(id, signal)
  call('ZADD', LANES[signal.level], signal.place, id)
end

-- Let a signal wait again, unless a newer one for its address does; the caller says where.
local function put_back(id, coalesce)
  local signal = load(id)
  if not signal then return false end
  if coalesce then
    local other = call('HGET', BY_IP, signal.ip)
    if other and other ~= id and call('HEXISTS', SIGNALS, other) == 1 then
      local newer = load(other)
      if tonumber(other) > tonumber(id) then
        announce('Superseded', newer.json, {finish('Superseded', id, signal)})
        return false
      end
      supersede(id, signal, other, newer)
    end
    call('HSET', BY_IP, signal.ip, id)
  end
  if signal.expires then call('ZADD', EXPIRING, signal.expires, id) end
  return signal
end

local function hold(id, ready_at, coalesce)
  local signal = put_back(id, coalesce)
  if not signal then return end
  if ready_at <= NOW then line_up(id, signal) else call('ZADD', HELD, id_text(ready_at), id) end
end

-- A group will be probed in a request of its own. It has one level.
local function suspect(ids, ready_at, coalesce)
  local kept, level = {}, nil
  for _, id in ipairs(ids) do
    local signal = put_back(id, coalesce)
    if signal then
      kept[#kept + 1] = id
      level = signal.level
    end
  end
  if #kept == 0 then return end
  count('group', 1)
  local group = id_text(get('group', 0))
  call('HSET', GROUPS, group, table.concat(kept, ','))
  if ready_at <= NOW then
    call('ZADD', SUSPECTS, id_text((level - 1) * RANK_STEP + tonumber(group)), group)
  else
    call('ZADD', HELD, id_text(ready_at), string.format('g%s %d', group, level))
  end
end

local function release()
  for _, member in ipairs(call('ZRANGEBYSCORE', HELD, '-inf', id_text(NOW), 'LIMIT', 0, 2000)) do
    call('ZREM', HELD, member)
    local group, level = string.match(member, '^g(%d+) (%d)$')
    if group then
      call('ZADD', SUSPECTS, id_text((tonumber(level) - 1) * RANK_STEP + tonumber(group)), group)
    else
      local signal = load(member)
      if signal then line_up(member, signal) end
    end
  end
end

local function expire()
  local due = call('ZRANGEBYSCORE', EXPIRING, '-inf', id_text(NOW), 'LIMIT', 0, 500)
  local ended = {}
  for _, id in ipairs(due) do
    local signal = load(id)
    if signal then ended[#ended + 1] = finish('Expired', id, signal) else call('ZREM', EXPIRING, id) end
  end
  announce('Expired', '', ended)
  return #due == 500
end

-- -- claims: what is in flight, and who answers for it

local function claims()
  local found, flat = {}, call('HGETALL', CLAIMS)
  for i = 1, #flat, 2 do found[flat[i]] = cjson.decode(flat[i + 1]) end
  return found
end

-- The ids that somebody is sending.
local function claimed()
  local ids = {}
  for _, claim in pairs(claims()) do
    for _, id in ipairs(claim.ids) do ids[id] = true end
  end
  return ids
end

local function requeue(claim, ready_at, coalesce)
  if claim.probe then
    suspect(claim.ids, ready_at, coalesce)
  else
    for _, id in ipairs(claim.ids) do hold(id, ready_at, coalesce) end
  end
end

-- Who is silent for longer than the lease has died or stopped sending: its signals go back, its permits stay out.
local function reclaim(coalesce)
  for name, claim in pairs(claims()) do
    if claim.ends <= NOW then
      call('HDEL', CLAIMS, name)
      for _, id in ipairs(claim.ids) do note(id, (tried(id)), true) end
      requeue(claim, NOW, coalesce)
    end
  end
end

-- What a replica does not know to hold, it never sent: the answer to its call was lost.
local function renew(replica, known, lease, period, coalesce)
  local is_known, renewed = {}, {}
  for _, name in ipairs(known) do is_known[name] = true end
  for name, claim in pairs(claims()) do
    if claim.replica == replica and is_known[name] then
      claim.ends = NOW + lease
      call('HSET', CLAIMS, name, cjson.encode(claim))
      call('ZADD', PERMITS, id_text(claim.ends + period), name)
      renewed[#renewed + 1] = name
    elseif claim.replica == replica then
      call('HDEL', CLAIMS, name)
      call('ZREM', PERMITS, name)
      for _, id in ipairs(claim.ids) do
        local attempts, arrived = tried(id)
        note(id, math.max(0, attempts - 1), arrived)
      end
      requeue(claim, NOW, coalesce)
    end
  end
  return renewed
end

-- -- the window

local function returns()
  call('ZREMRANGEBYSCORE', PERMITS, '-inf', id_text(NOW))
  local flat, found = call('ZRANGE', PERMITS, 0, -1, 'WITHSCORES'), {}
  for i = 2, #flat, 2 do found[#found + 1] = tonumber(flat[i]) end
  return found
end

local function limit_of(rate)
  return math.min(rate.requests, get('limit', rate.requests))
end

local function taken_by_others()
  return NOW < get('others_until', 0) and get('others', 0) or 0
end

local function free(rate, out)
  return limit_of(rate) - #out - taken_by_others()
end

-- When permits come back, also those that others have used, ascending.
local function coming_back(out)
  local all = {}
  for _, at in ipairs(out) do all[#all + 1] = at end
  for _ = 1, taken_by_others() do all[#all + 1] = get('others_until', 0) end
  table.sort(all)
  return all
end

local function free_at(rate, out, permits)
  local missing = permits - free(rate, out)
  if missing <= 0 then return NOW end
  return coming_back(out)[missing] or NOW + rate.period
end

-- The smallest even spacing from now on that never has to stop for a permit, with some kept free. Call after the permit
-- is taken.
local function gap(rate, out, kept)
  local available, widest, all = free(rate, out) - kept, 0, coming_back(out)
  for j, at in ipairs(all) do
    if available + j > 0 then
      widest = math.max(widest, (math.min(at, NOW + rate.period) - NOW) / (available + j))
    end
  end
  return math.ceil(widest)
end

local function least_gap(rate)
  return rate.period / rate.requests
end

local function kept(a)
  return math.min(a.reserve, math.floor(limit_of(a.rate) / 2))
end

-- Set the pace for the request that leaves now.
local function depart(a)
  local out = returns()
  local after = gap(a.rate, out, 0)
  if NOW < get('paced_at', 0) then after = math.max(after, math.ceil(least_gap(a.rate) * 4 / 3)) end
  set('paced_at', NOW + after)
  set('others_after', math.max(0, gap(a.rate, out, kept(a)) - after))
end

local function learn_remainder(budget, rate, out)
  local resets_after = math.min(budget.resets_after or rate.period, rate.period)
  if NOW >= get('others_until', 0) then set('others', 0) end
  local surplus = free(rate, out) - budget.remaining
  if surplus > 0 then
    set('others', get('others', 0) + surplus)
    set('others_until', math.max(get('others_until', 0), NOW + resets_after + MARGIN))
  end
end

local function learn(budgets, refused, rate)
  local out, wait, least = returns(), nil, nil
  for _, budget in ipairs(budgets) do least = math.min(least or budget.limit, budget.limit) end
  if least then set('limit', math.min(rate.requests, math.max(1, least))) end
  for _, budget in ipairs(budgets) do
    local is_news = budget.remaining == 0 and free(rate, out) > 0
    learn_remainder(budget, rate, out)
    if refused or is_news then
      wait = math.max(wait or 0, math.min(budget.resets_after or rate.period, rate.period))
    end
  end
  if refused and not wait then wait = rate.period end
  if wait then set('held_until', math.max(get('held_until', 0), NOW + wait + MARGIN)) end
end

-- -- the next batch

local function first_suspects()
  while true do
    local first = call('ZRANGE', SUSPECTS, 0, 0, 'WITHSCORES')
    if #first == 0 then return nil end
    local ids = {}
    for id in string.gmatch(call('HGET', GROUPS, first[1]) or '', '%d+') do
      if call('HEXISTS', SIGNALS, id) == 1 then ids[#ids + 1] = id end
    end
    if #ids > 0 then return {group = first[1], level = math.floor(tonumber(first[2]) / RANK_STEP) + 1, ids = ids} end
    call('ZREM', SUSPECTS, first[1])
    call('HDEL', GROUPS, first[1])
  end
end

local function top_level()
  for level, lane in ipairs(LANES) do
    if call('ZCARD', lane) > 0 then return level end
  end
end

-- Suspects rank by their level and take turns with their equals, but are not passed over for ever.
local function next_probe(suspects, level)
  if not suspects then return nil end
  if not level or suspects.level < level or get('passed_over', 0) >= PATIENCE then return suspects end
  return suspects.level == level and get('probed_last', 0) == 0 and suspects or nil
end

local function event_of(signal)
  local timestamp = string.match(signal.json, '"timestamp":"([^"]+)"')
  local expires_at = string.match(signal.json, '"expiresAt":"([^"]+)"') or ''
  return string.sub(timestamp, 1, 23) .. ' ' .. string.sub(expires_at, 1, 23) -- to the millisecond, which Okta sees
end

-- What would ride now: the ids that rank highest, and whether the payload is full of HIGH, or at all.
local function plan(subjects)
  local ids, events, open, stopped, highs = {}, 0, {}, false, 0
  for level, lane in ipairs(LANES) do
    if stopped then break end
    for _, id in ipairs(call('ZRANGE', lane, 0, MAX_EVENTS * subjects - #ids - 1)) do
      local event = id
      if subjects > 1 then event = event_of(load(id)) end
      if not open[event] or open[event] == subjects then
        if events == MAX_EVENTS then
          stopped = true
          break
        end
        events, open[event] = events + 1, 0
      end
      open[event] = open[event] + 1
      ids[#ids + 1] = id
      if level == 1 then highs = #ids end
    end
    if level == 1 and (stopped or events == MAX_EVENTS) and highs == #ids and highs > 0 then
      return {ids = ids, full = true, full_of_high = true}
    end
  end
  return {ids = ids, full = stopped or events == MAX_EVENTS, full_of_high = false}
end

local function since(lane)
  local first = call('ZRANGE', lane, 0, 0)[1]
  return first and load(first).admitted or math.huge
end

local function paced_at(demand, rate, out, express)
  local paced = get('paced_at', 0)
  if express and demand.full_of_high then return NOW end
  local high = demand.level == 1
  if free(rate, out) * 2 < limit_of(rate) then return high and paced or paced + get('others_after', 0) end
  if not express or not high or demand.probe then return paced end
  local pause, last = least_gap(rate) / 3, get('high_last', 0)
  if last - get('high_before', 0) > pause then return math.min(paced, NOW) end
  return math.min(paced, last + pause)
end

-- The earliest instant at which a request for `demand` may leave.
local function next_at(demand, a, out)
  local high = demand.level == 1
  local spared = (high or a.draining) and 0 or kept(a)
  local at = math.max(NOW, get('held_until', 0), free_at(a.rate, out, spared + 1))
  if not a.draining then at = math.max(at, paced_at(demand, a.rate, out, a.express)) end
  if not (high or demand.full or demand.probe or a.flushing or a.draining) then
    at = math.max(at, math.min(since(MEDIUM) + a.linger.MEDIUM, since(LOW) + a.linger.LOW))
  end
  return math.max(at, NOW + (high and a.high_after or a.others_after))
end

local function demand_now(a)
  local suspects, level = first_suspects(), top_level()
  local probe = next_probe(suspects, level)
  if probe then
    local urgent = get('passed_over', 0) >= PATIENCE
    return {level = urgent and 1 or probe.level, probe = probe, ids = probe.ids}
  end
  if not level then return nil end
  local demand = plan(a.subjects)
  demand.level, demand.passed = level, suspects
  return demand
end

local function take(demand, a)
  if demand.probe then
    call('ZREM', SUSPECTS, demand.probe.group)
    call('HDEL', GROUPS, demand.probe.group)
    set('probed_last', 1)
    set('passed_over', 0)
  else
    set('probed_last', 0)
    if demand.passed then count('passed_over', 1) end
  end
  local claim = {replica = a.replica, ends = NOW + a.lease, probe = demand.probe ~= nil, ids = demand.ids}
  local batch = {}
  for _, id in ipairs(demand.ids) do
    local signal = load(id)
    local attempts, arrived = tried(id)
    note(id, attempts + 1, arrived)
    call('ZREM', LANES[signal.level], id)
    if signal.expires then call('ZREM', EXPIRING, id) end
    if call('HGET', BY_IP, signal.ip) == id then call('HDEL', BY_IP, signal.ip) end
    batch[#batch + 1] = {id, attempts + 1, arrived, signal.json}
  end
  call('HSET', CLAIMS, a.claim, cjson.encode(claim))
  call('ZADD', PERMITS, id_text(claim.ends + a.rate.period), a.claim)
  depart(a)
  count('requests', 1)
  return {ids = batch, probe = claim.probe}
end

local function notices(after)
  local found = {}
  for _, entry in ipairs(call('XRANGE', NOTICES, '(' .. after, '+', 'COUNT', 200)) do
    found[#found + 1] = {entry[1], entry[2][1], entry[2][2], entry[2][4]}
  end
  return found
end

-- When something may change by itself.
local function look_again_at(lease)
  local at = NOW + lease / 3
  for _, key in ipairs({HELD, EXPIRING}) do
    local first = call('ZRANGE', key, 0, 0, 'WITHSCORES')
    if #first > 0 then at = math.min(at, tonumber(first[2])) end
  end
  for _, claim in pairs(claims()) do at = math.min(at, claim.ends) end
  return math.max(NOW, at)
end

local function in_flight()
  local number = 0
  for _, claim in pairs(claims()) do number = number + #claim.ids end
  return number
end

local function fleet(a)
  local rate = a.rate or {requests = get('rate_requests', 0), period = get('rate_period', 0)}
  local holding = {}
  for _, claim in pairs(claims()) do holding[claim.replica] = (holding[claim.replica] or 0) + #claim.ids end
  local alive = call('ZRANGEBYSCORE', REPLICAS, id_text(NOW - 2 * a.lease), '+inf')
  local replicas = {}
  for _, replica in ipairs(alive) do replicas[replica] = holding[replica] or 0 end
  for replica, number in pairs(holding) do replicas[replica] = number end
  local unsettled, flying = call('HLEN', SIGNALS), in_flight()
  return {
    replicas = replicas,
    alive = #alive,
    unsettled = unsettled,
    in_flight = flying,
    waiting = unsettled - flying,
    ready = {call('ZCARD', HIGH), call('ZCARD', MEDIUM), call('ZCARD', LOW)},
    limit = limit_of(rate),
    permits = math.max(0, free(rate, returns())),
    held_after = math.max(0, get('held_until', 0) - NOW),
    admitted = get('admitted', 0),
    requests = get('requests', 0),
    settled = {
      Accepted = get('Accepted', 0), Rejected = get('Rejected', 0), Expired = get('Expired', 0),
      Shed = get('Shed', 0), Superseded = get('Superseded', 0), Dropped = get('Dropped', 0),
    },
  }
end

-- -- coming in

local function shed(level)
  for lowest = #LANES, level, -1 do
    local victim = call('ZRANGE', LANES[lowest], 0, 0)[1]
    if victim then return victim end
    for _, id in ipairs(call('ZRANGE', HELD, 0, 99)) do
      local signal = load(id)
      if signal and signal.level == lowest then return id end
    end
  end
end

-- The signal in an argument of the script: "level after json", with the milliseconds until it expires or "-".
local function signal_at(at)
  local level, after, json = string.match(ARGV[at], '^(%d) (%S+) (.*)$')
  after = tonumber(after)
  return {level = tonumber(level), expires = after and NOW + after, json = json, ip = ip_of(json)}
end

local function admit(a, at, shedding)
  local id, signal = new_id(), signal_at(at)
  local level, expires = signal.level, signal.expires
  signal.place, signal.admitted = id, NOW
  count('admitted', 1)
  if expires and expires <= NOW then
    count('Expired', 1)
    announce('Expired', '', {id})
    return id
  end
  if shedding then
    local victim = shed(level)
    if not victim then
      count('Shed', 1)
      announce('Shed', '', {id})
      return id
    end
    announce('Shed', '', {finish('Shed', victim, load(victim))})
  end
  store(id, signal)
  if a.coalesce then
    local old = call('HGET', BY_IP, signal.ip)
    if old and call('HEXISTS', SIGNALS, old) == 1 then supersede(id, signal, old, load(old)) end
    call('HSET', BY_IP, signal.ip, id)
  end
  line_up(id, signal)
  if expires then call('ZADD', EXPIRING, id_text(expires), id) end
  if level == 1 then
    set('high_before', get('high_last', 0))
    set('high_last', NOW)
  end
  return id
end

local function sizes()
  local found, all = {}, 0
  for level, lane in ipairs(LANES) do
    found[level] = call('ZCARD', lane)
    all = all + found[level]
  end
  found[4] = all
  return found
end

-- A sender's plan changes with the first signal of a level and with each that may fill a payload.
local function is_news(before, after)
  for i = 1, 4 do
    if (before[i] == 0 and after[i] > 0) or math.floor(before[i] / MAX_EVENTS) < math.floor(after[i] / MAX_EVENTS) then
      return true
    end
  end
  return false
end

local step = {}

-- Admit units of signals, each as far as there is room; if the others would be rejected, as a whole or not at all.
function step.admit(a)
  local last = call('HGET', ADMITTED, a.replica)
  if last then
    last = cjson.decode(last)
    if last.number == a.number then
      last.reply.notices = notices(a.after)
      return last.reply
    end
  end
  local before, room = sizes(), a.capacity - call('HLEN', SIGNALS)
  local ids, counts, at = {}, {}, 3
  for i, size in ipairs(a.units) do
    local fits = a.when_full == 'shed' and size or math.min(size, math.max(0, room))
    if a.coalesce and fits < size and size == 1 and call('HEXISTS', BY_IP, signal_at(at).ip) == 1 then fits = 1 end
    if a.when_full == 'reject' and fits < size then fits = 0 end
    for j = 0, fits - 1 do
      ids[#ids + 1] = admit(a, at + j, a.when_full == 'shed' and a.capacity <= call('HLEN', SIGNALS))
    end
    room = a.capacity - call('HLEN', SIGNALS)
    counts[i] = fits
    at = at + size
  end
  local reply = {first = ids[1], counts = counts, news = is_news(before, sizes())}
  call('HSET', ADMITTED, a.replica, cjson.encode({number = a.number, reply = reply}))
  reply.notices = notices(a.after)
  return reply
end

-- Say that the replica lives, learn what was settled, and take a batch with its permit if the rules let one go.
function step.take(a)
  local renewed = renew(a.replica, a.known, a.lease, a.rate.period, a.coalesce)
  reclaim(a.coalesce)
  release()
  local more = expire()
  local reply = {renewed = renewed, notices = notices(a.after)}
  if get('rate_requests') ~= a.rate.requests or get('rate_period') ~= a.rate.period then -- for who only looks
    set('rate_requests', a.rate.requests)
    set('rate_period', a.rate.period)
  end
  local alone = call('ZCOUNT', REPLICAS, id_text(NOW - 2 * a.lease), '+inf') == 1
  a.draining = a.draining and alone
  local again_at = more and NOW or look_again_at(a.lease)
  if a.sending and not more and not a.forgot then
    local demand = demand_now(a)
    local at = demand and next_at(demand, a, returns()) or math.huge
    if at <= NOW then reply.batch = take(demand, a) else again_at = math.min(again_at, at) end
    if at > NOW and at < math.huge then reply.next_after = at - NOW end
  end
  reply.again_after = math.max(0, again_at - NOW)
  reply.fleet = fleet(a)
  return reply
end

-- Settle and put back what rode in a claim, and let its permit come back a period from now.
function step.answer(a)
  local claim = call('HDEL', CLAIMS, a.claim) == 1
  if a.unsent then call('ZREM', PERMITS, a.claim) else call('ZADD', PERMITS, id_text(NOW + a.rate.period), a.claim) end
  learn(a.budgets, a.refused, a.rate)
  local held = claimed()
  for id, attempts in pairs(a.tried) do
    if not held[id] and call('HEXISTS', SIGNALS, id) == 1 then note(id, math.abs(attempts), attempts < 0) end
  end
  for _, end_ in ipairs(a.landed) do
    -- Also what came late, because the lease had ended: unless somebody else is sending it again just now. And what an
    -- engine that lost its memory does not know, is told to whoever waits for it.
    local ended = {}
    for _, id in ipairs(end_.ids) do
      local signal = not held[id] and load(id)
      if signal then ended[#ended + 1] = finish(end_.outcome, id, signal) elseif not held[id] then ended[#ended + 1] = id end
    end
    announce(end_.outcome, end_.detail, ended)
  end
  if claim then -- otherwise they wait already
    for _, back in ipairs(a.back) do
      for _, id in ipairs(back.ids) do hold(id, NOW + back.after, a.coalesce) end
    end
    for _, back in ipairs(a.suspects) do suspect(back.ids, NOW + back.after, a.coalesce) end
  end
  return {notices = notices(a.after)}
end

-- Take back signals whose `enqueue` was cancelled; what is in flight already stays.
function step.withdraw(a)
  local held = claimed()
  for _, id in ipairs(a.ids) do
    local signal = not held[id] and load(id)
    if signal then
      forget(id, signal)
      count('admitted', -1)
    end
  end
  return {}
end

-- Begin, or begin again after the connection was lost: what the replica remembers of the window is put in where the
-- engine does not have it. If the engine lost everything, nothing leaves before all it forgot has come back.
function step.hello(a)
  local lost = a.epoch ~= '' and a.epoch ~= state.epoch
  if not state.epoch then set('epoch', a.new_epoch) end
  if lost then set('held_until', math.max(get('held_until', 0), NOW + a.rate.period)) end
  for _, permit in ipairs(a.permits) do
    if not call('ZSCORE', PERMITS, permit[1]) then call('ZADD', PERMITS, id_text(NOW + permit[2]), permit[1]) end
  end
  for _, gone in ipairs(call('ZRANGEBYSCORE', REPLICAS, '-inf', id_text(NOW - KEEP_REPLICA))) do
    call('ZREM', REPLICAS, gone)
    call('HDEL', ADMITTED, gone)
    call('HDEL', CALLS, gone)
  end
  local last = call('XREVRANGE', NOTICES, '+', '-', 'COUNT', 1)[1]
  return {
    epoch = state.epoch,
    last = last and last[1] or '0-0',
    append_only = string.match(call('INFO', 'persistence'), 'aof_enabled:(%d)') == '1',
    eviction = string.match(call('INFO', 'memory'), 'maxmemory_policy:([%w-]+)') or 'unknown',
  }
end

function step.read(a)
  return {notices = notices(a.after)}
end

function step.bye(a)
  call('ZREM', REPLICAS, a.replica)
  call('HDEL', ADMITTED, a.replica)
  call('HDEL', CALLS, a.replica)
  return {}
end

-- Which of these the engine does not have.
function step.missing(a)
  local missing = {}
  for _, id in ipairs(a.ids) do
    if call('HEXISTS', SIGNALS, id) == 0 then missing[#missing + 1] = id end
  end
  return {ids = missing}
end

-- Give an engine that lost them signals that it had, with their ids.
function step.restore(a)
  for i, id in ipairs(a.ids) do
    if call('HEXISTS', SIGNALS, id) == 0 then
      local signal = signal_at(2 + i)
      signal.place, signal.admitted = id, math.floor(tonumber(id) / 1000)
      set('last', math.max(get('last', 0), tonumber(id)))
      store(id, signal)
      count('admitted', 1)
      hold(id, NOW, a.coalesce)
    end
  end
  return {}
end

local function listed(id, waits)
  local signal = load(id)
  local attempts, arrived = tried(id)
  return signal and {id, id_text(signal.admitted), attempts, arrived, signal.json, waits}
end

-- What waits, for operators: a page of one level after a place in line.
function step.list(a)
  local found, cursor = {}, a.after
  for _, id in ipairs(call('ZRANGEBYSCORE', LANES[a.level], '(' .. a.after, '+inf', 'LIMIT', 0, 500)) do
    found[#found + 1] = listed(id, 'ready')
    cursor = load(id).place
  end
  return {signals = found, after = cursor}
end

-- What is in no lane: held back for a retry, to be probed, or in flight. At most a window's requests, and few more.
function step.list_others(a)
  local found = {}
  local function add(ids, waits)
    for id in string.gmatch(ids, '%d+') do found[#found + 1] = listed(id, waits) end
  end
  for _, member in ipairs(call('ZRANGE', HELD, 0, -1)) do
    if string.sub(member, 1, 1) ~= 'g' then add(member, 'held back') end
  end
  for _, ids in ipairs(call('HVALS', GROUPS)) do add(ids, 'to be probed') end
  for _, claim in pairs(claims()) do add(table.concat(claim.ids, ','), 'in flight') end
  return {signals = found}
end

-- Remove waiting signals for an operator; what is in flight stays.
function step.drop(a)
  local held, dropped = claimed(), {}
  for _, id in ipairs(a.ids) do
    local signal = not held[id] and load(id)
    if signal then dropped[#dropped + 1] = finish('Dropped', id, signal) end
  end
  announce('Dropped', '', dropped)
  return {dropped = #dropped}
end

function step.statistics(a)
  return fleet(a)
end

-- A call that comes late, or reads a clock that was stepped, does nothing: an instant that was written down by a wrong
-- clock would let a permit back early.
local function is_untimely()
  return a.not_before and (NOW < a.not_before or NOW > a.not_after)
end

-- A replica numbers its calls. If the engine knows less of them than were answered, or has another epoch, it has lost
-- some of its memory, or was replaced by a copy that was behind: nothing is sent before the replica has said hello.
local function note_call()
  local forgot = a.epoch ~= state.epoch or tonumber(call('HGET', CALLS, a.replica) or 0) < a.answered
  if ARGV[1] ~= 'bye' then
    call('HSET', CALLS, a.replica, a.call)
    call('ZADD', REPLICAS, id_text(NOW), a.replica)
  end
  return forgot
end

local reply
if is_untimely() then
  reply = {untimely = true}
else
  if a.replica then a.forgot = note_call() end
  reply = step[ARGV[1]](a)
  save()
end
reply.now = id_text(NOW)
reply.skew = get('skew', 0)
reply.forgot = a.forgot
return cjson.encode(reply)
