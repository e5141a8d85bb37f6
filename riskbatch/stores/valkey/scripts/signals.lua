-- A signal: its row is "place admitted level expires json", and an argument "level after json" has the microseconds
-- until it expires, or "-". Relies on begin.lua; on JSON that begins with the address; and on ids that order signals
-- by age: an id is the microsecond of admission, or one more than the last.
local function ip_of(json) return string.match(json, '^{"ip":"([^"]+)"') end

local function load(id)
  local row = call('HGET', SIGNALS, id)
  if not row then return nil end
  local s = {id = id}
  s.place, s.admitted, s.level, s.expires, s.json = string.match(row, '^(%d+) (%d+) (%d) (%S+) (.*)$')
  s.level, s.ip = tonumber(s.level), ip_of(s.json)
  return s
end

local function argument(at, id)
  local level, after, json = string.match(ARGV[at], '^(%d) (%S+) (.*)$')
  local s = {id = id, place = id, admitted = text(NOW), level = tonumber(level), json = json, ip = ip_of(json)}
  s.expires = after == '-' and '-' or text(NOW + after)
  return s
end

local function store(s)
  call('HSET', SIGNALS, s.id, table.concat({s.place, s.admitted, s.level, s.expires, s.json}, ' '))
end

local function sizes() return {call('ZCARD', HIGH), call('ZCARD', MEDIUM), call('ZCARD', LOW)} end

local function note(id, attempts, arrived) call('HSET', TRIED, id, attempts .. ' ' .. arrived) end

local function leave(s) -- it waits no more, but in a group of suspects, which drops it when it comes up
  for _, key in ipairs({LANES[s.level], HELD}) do call('ZREM', key, s.id) end
  if s.expires ~= '-' then call('ZREM', EXPIRING, s.id) end
  if call('HGET', BY_IP, s.ip) == s.id then call('HDEL', BY_IP, s.ip) end
end
