-- Admit units of signals, each as far as there is room; if the rest would be rejected, as a whole or not at all. Relies
-- on newcomers.lua, and on this: a replica numbers its admissions, so that a repeated one gets its first answer again.
local done = call('HGET', ADMITTED, a.replica)
local last, before, ids, counts, at = done and cjson.decode(done), sizes(), {}, {}, 2
if last and last.number == a.number then
  last.notices = notices()
  return reply(last)
end

for i, size in ipairs(a.units) do
  local fits = a.when_full == 'shed' and size or math.min(size, math.max(0, room()))
  if a.coalesce and fits < size and size == 1 and call('HEXISTS', BY_IP, argument(at, '').ip) == 1 then fits = 1 end
  if a.when_full == 'reject' and fits < size then fits = 0 end
  for j = 0, fits - 1 do
    set('last', math.max(get('last') + 1, NOW))
    ids[#ids + 1] = text(get('last'))
    admit(argument(at + j, ids[#ids]))
  end
  counts[i], at = fits, at + size
end
local told = {number = a.number, first = ids[1], counts = counts, before = before, after = sizes()}
call('HSET', ADMITTED, a.replica, cjson.encode(told))
told.notices = notices()
return reply(told)
