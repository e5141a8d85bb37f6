-- Write down a decision: these signals leave in one request, with this permit. Relies on this: nothing has changed that
-- the decision was made of, or the commit is refused; so a permit that was free at the look is free now. All is checked
-- before the first write. `waiting` has for each level a place, and how many stand in its lane up to there.
local refused = forgot or a.version ~= get('version') or a.suspects ~= first_suspects()
  or call('ZCOUNT', EXPIRING, '-inf', text(NOW)) > 0
for level, most in ipairs(a.waiting) do
  refused = refused or call('ZCOUNT', LANES[level], '-inf', most[1]) ~= most[2]
end
local signals = {}
for i, id in ipairs(a.ids) do
  signals[i] = load(id)
  refused = refused or not signals[i] or not (a.probe or call('ZSCORE', LANES[signals[i].level], id))
end
if refused then return reply({refused = true}) end
for _, s in ipairs(signals) do
  local attempts, arrived = tried(s.id)
  note(s.id, attempts + 1, arrived)
  leave(s)
end
if a.probe then call('ZREM', SUSPECTS, a.suspects) end
claim(a.claim, a.probe, a.replica, a.ids)
call('HSET', STATE, 'window', a.window)
count('version', 1)
count('requests', 1)
return reply({})
