-- Stands before every script: names the keys, reads the arguments, refuses a call that comes late. Every script may
-- rely on this: nothing else runs in the engine meanwhile, all keys are of one fleet, and NOW is the engine's clock in
-- microseconds as the fleet has corrected it. An instant is written as text, or it loses digits.
local STATE, SIGNALS, TRIED, HIGH, MEDIUM, LOW, HELD, SUSPECTS, EXPIRING, BY_IP, CLAIMS, PERMITS, REPLICAS, CALLS,
  ADMITTED, NOTICES = unpack(KEYS)
local LANES, call, a = {HIGH, MEDIUM, LOW}, redis.call, cjson.decode(ARGV[1])

local function text(number) return string.format('%.0f', number) end
local function get(name) return tonumber(call('HGET', STATE, name)) or 0 end
local function set(name, number) call('HSET', STATE, name, text(number)) end
local function count(name, by) call('HINCRBY', STATE, name, by) end

-- An engine at maxmemory refuses a script at its first write if that may add. After a write that only frees it lets the
-- rest go on: so an admission is refused there, and all else goes on.
if not a.units then call('HDEL', CALLS, '') end
local time, skew = call('TIME'), get('skew')
if a.step and a.skew_from == skew then
  skew = skew - a.step
  set('skew', skew)
end
local NOW = time[1] * 1e6 + time[2] + skew
local forgot = false -- the engine lost some of its memory, or was replaced by a copy that was behind

local function reply(found)
  found.now, found.skew, found.forgot = text(NOW), text(skew), forgot
  return cjson.encode(found)
end

if a.not_before and (NOW < a.not_before or NOW > a.not_after) then return reply({untimely = true}) end
if a.replica then
  local known = tonumber(call('HGET', CALLS, a.replica)) or 0
  forgot = a.epoch ~= (call('HGET', STATE, 'epoch') or '') or known < a.answered
  call('HSET', CALLS, a.replica, a.call)
  call('ZADD', REPLICAS, text(NOW), a.replica)
end
