"""
Which signal is next: three FIFO lanes, HIGH first, and whom expiry, coalescing and a full queue remove.

Pure: no clock, no await; instants are arguments, in seconds on one monotonic clock. Nothing here settles an entry:
who must be settled is returned. Every step costs the same with a million signals waiting.

A waiting signal is in one of two places: ready, in the lane of its level; or aside, as it is held back until a retry is
due, is suspected after Okta refused the batch that carried it and did not say why, or was found to have expired.
"""

import heapq
import math
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, count

from attrs import frozen

from .batcher import Batch, Seats
from .lanes import Entry, Lane
from .okta.risk_events import MAX_EVENTS
from .signals import RiskLevel

_PATIENCE = 15  # batches that may pass suspects over: half a window's
_HIGH = RiskLevel.HIGH
_LEVELS = tuple(RiskLevel)  # by rank
_RANK = {level: rank for rank, level in enumerate(RiskLevel)}  # 0 is sent first
_LOWEST_FIRST = tuple(reversed(RiskLevel))
_IP_SHARDS = 256  # growing one hash table to a million entries would stop the event loop for some 30 ms
_BUCKETS = 16  # tables a second of expiry, for the same reason


@frozen
class Demand:
    """
    What the next request would carry, as far as the limiter's rules care.

    Attributes:
        level: The highest level aboard; `None` if nothing is ready.
        full: The payload would be full.
        full_of_high: The payload would be full of HIGH.
        high_before: When the last HIGH but one was admitted.
        high_last: When the last HIGH was admitted.
        probe: The payload would be a group of suspects, which does not wait to fill.
        medium_since: When the oldest ready MEDIUM was admitted; infinity if there is none.
        low_since: The same for LOW.
    """

    level: RiskLevel | None
    full: bool = False
    full_of_high: bool = False
    high_before: float = math.inf
    high_last: float = math.inf
    probe: bool = False
    medium_since: float = math.inf
    low_since: float = math.inf


class Prioritizer:
    """
    All that waits, and the order among it.

    Args:
        subjects_per_event: How many signals may share an event; see batcher.py.
        coalesce: Whether a newer signal for an address takes the place of the waiting one.
    """

    def __init__(self, *, subjects_per_event: int = 1, coalesce: bool = False) -> None:
        self.lanes = {level: Lane(level) for level in RiskLevel}
        self.subjects_per_event = subjects_per_event
        self._aside: dict[int, Entry] = {}  # by place, which is unique among all that waits
        self._held: list[tuple[float, int, Entry]] = []  # heap; an entry that is aside no more is dropped when due
        self._suspects: dict[RiskLevel, deque[list[Entry]]] = {level: deque() for level in RiskLevel}
        self._held_suspects: list[tuple[float, int, list[Entry]]] = []
        self._probed_last = False
        self._passed_over = 0  # batches taken since the last probe, while suspects waited
        self._high_before = self._high_last = -math.inf  # when the last two HIGH were admitted
        self._overdue: list[Entry] = []
        self._expiring: dict[int, dict[int, None]] = {}  # spots by the second of the deadline, _BUCKETS tables each
        self._expired_until = 0  # the second before which no bucket is left
        self._by_ip: list[dict[str, int]] | None = [{} for _ in range(_IP_SHARDS)] if coalesce else None  # spots
        self._tie = count()

    @property
    def size(self) -> int:
        """How many signals wait."""
        return len(self._aside) + sum(lane.size for lane in self.lanes.values())

    # -- coming in

    def admit(self, entry: Entry) -> Entry | None:
        """Add a new *entry*; return the one that it supersedes, for the caller to settle."""
        superseded = None if self._by_ip is None else self._coalesce(self._by_ip, entry)
        lane = self.lanes[entry.signal.risk_level]
        if entry.place == entry.number:
            lane.append(entry)
        else:
            lane.merge(entry)
        if entry.signal.risk_level is _HIGH:
            self.note_high(entry.admitted_at)
        if entry.deadline is not None:
            self._watch(entry, entry.deadline)
        return superseded

    def note_high(self, admitted_at: float) -> None:
        """Note when a HIGH was admitted. `admit` does so, but signals may be put in a lane without it."""
        self._high_before, self._high_last = self._high_last, admitted_at

    def _coalesce(self, by_ip: list[dict[str, int]], entry: Entry) -> Entry | None:
        """
        Remove and return the one that waits for the address of *entry*.

        At the same level its place in line is inherited, or an address that is reported again and again would never be
        sent; at another level one starts at the back of that lane.
        """
        shard = _shard(by_ip, entry.signal.ip)
        spot = shard.get(entry.signal.ip)
        old = None if spot is None else self._pull(spot)
        if old is not None:
            _inherit(entry, old)
        shard[entry.signal.ip] = _spot(entry)
        return old

    def put_back(self, entries: Iterable[Entry], ready_at: float) -> list[Entry]:
        """
        Take back what could not be sent: to the front of the lanes, once *ready_at* has come.

        Returns the entries that a newer signal for their address has superseded meanwhile, for the caller to settle.
        """
        superseded: list[Entry] = []
        for entry in entries:
            if not self._return(entry, superseded):
                continue
            if ready_at == -math.inf:
                self.lanes[entry.signal.risk_level].merge(entry)
            else:
                self._aside[entry.place] = entry
                heapq.heappush(self._held, (ready_at, next(self._tie), entry))
        return superseded

    def suspect(self, groups: Iterable[list[Entry]], ready_at: float = -math.inf) -> list[Entry]:
        """
        Take back *groups* of which each will be probed in a request of its own; returns as `put_back` does.

        A group has one level, and came out of one batch, so that it fits in a payload.
        """
        superseded: list[Entry] = []
        for group in groups:
            kept = []
            for entry in group:
                if self._return(entry, superseded):
                    self._aside[entry.place] = entry
                    kept.append(entry)
            if kept:
                heapq.heappush(self._held_suspects, (ready_at, next(self._tie), kept))
        return superseded

    def _return(self, entry: Entry, superseded: list[Entry]) -> bool:
        """
        List *entry* as waiting again, for the caller to put in its place before the next one returns.

        Adds to *superseded* the older of two signals for its address; if that is *entry*, returns False.
        """
        if self._by_ip is not None:
            shard = _shard(self._by_ip, entry.signal.ip)
            spot = shard.get(entry.signal.ip)
            if spot is not None:
                if self._at(spot).number > entry.number:
                    superseded.append(entry)
                    return False
                older = self._pull(spot)  # it came back first
                _inherit(entry, older)
                superseded.append(older)
            shard[entry.signal.ip] = _spot(entry)
        if entry.deadline is not None:
            self._watch(entry, entry.deadline)
        return True

    # -- going out

    def release(self, now: float) -> None:
        """Make ready what was held back until *now*."""
        while self._held and self._held[0][0] <= now:
            self._line_up(heapq.heappop(self._held)[2])
        while self._held_suspects and self._held_suspects[0][0] <= now:
            group = heapq.heappop(self._held_suspects)[2]
            self._suspects[_level(group)].append(group)

    def _line_up(self, entry: Entry) -> None:
        if self._is_aside(entry):
            del self._aside[entry.place]
            self.lanes[entry.signal.risk_level].merge(entry)

    def _is_aside(self, entry: Entry) -> bool:
        return self._aside.get(entry.place) is entry

    def ready_at(self) -> float:
        """Return when the next held-back signal becomes ready; infinity if none is held."""
        return min(
            self._held[0][0] if self._held else math.inf,
            self._held_suspects[0][0] if self._held_suspects else math.inf,
        )

    def demand(self) -> Demand:
        """Tell what `take` would take. Call `release` and `overdue` first."""
        high, medium, low = (self.lanes[level] for level in RiskLevel)
        if suspects := self._next_probe():
            # Without the patience of the reserve, a flood of HIGH would keep the permits from them for ever.
            return Demand(RiskLevel.HIGH if self._passed_over >= _PATIENCE else _level(suspects), probe=True)
        level = self._top()
        if level is None:
            return Demand(None)
        full_of_high = self._fills(high)
        return Demand(
            level,
            full=full_of_high or self._fills(high, medium, low),
            full_of_high=full_of_high,
            high_before=self._high_before,
            high_last=self._high_last,
            medium_since=medium.since,
            low_since=low.since,
        )

    def take(self, now: float) -> Batch:
        """
        Remove and return the batch that ranks highest; empty if nothing is ready.

        No ready signal that stays behind outranks one in the batch, unless suspects were passed over for long.
        """
        batch = Batch(self.subjects_per_event)
        if suspects := self._next_probe():
            self._suspects[_level(suspects)].popleft()
            self._probed_last = True
            self._passed_over = 0
            batch.is_probe = True
            for suspect in suspects:
                if suspect.has_expired(now):
                    self._overdue.append(suspect)
                else:
                    batch.add(suspect)
                    del self._aside[suspect.place]
                    self._unlist(suspect)
            return batch
        self._probed_last = False
        self._passed_over += bool(self._first_suspects())
        for lane in self.lanes.values():
            while (entry := lane.first) is not None:
                if entry.has_expired(now):
                    self._aside[entry.place] = entry
                    self._overdue.append(entry)
                elif batch.add(entry):
                    self._unlist(entry)
                else:
                    return batch
                lane.pop(entry.place)
        return batch

    def _top(self) -> RiskLevel | None:
        return next((level for level, lane in self.lanes.items() if lane.size), None)

    def _next_probe(self) -> list[Entry]:
        """
        Return the suspects that `take` would take; none if it would take from the lanes.

        Suspects rank by their level like all others, and take turns with their equals. But they cannot ride along in
        the spare seats of higher ones, so they are not passed over for ever.
        """
        suspects = self._first_suspects()
        level = self._top()
        if not suspects or level is None or _RANK[_level(suspects)] < _RANK[level] or self._passed_over >= _PATIENCE:
            return suspects
        return suspects if _level(suspects) is level and not self._probed_last else []

    def _first_suspects(self) -> list[Entry]:
        for groups in self._suspects.values():
            while groups:
                groups[0] = [entry for entry in groups[0] if self._is_aside(entry)]  # others were settled meanwhile
                if groups[0]:
                    return groups[0]
                groups.popleft()
        return []

    def _fills(self, *lanes: Lane) -> bool:
        if self.subjects_per_event == 1:
            return sum(lane.size for lane in lanes) >= MAX_EVENTS
        seats = Seats(self.subjects_per_event)
        signals = chain.from_iterable(lane.signals() for lane in lanes)
        return any(seats.take(signal) is None for signal in signals) or seats.are_taken()

    # -- leaving otherwise

    def shed(self, newcomer: RiskLevel) -> Entry | None:
        """
        Remove and return the one that makes room for a signal of level *newcomer*.

        It is the oldest of the lowest level; `None` if the newcomer itself is the lowest and must be shed.
        """
        for level in _LOWEST_FIRST:
            if _RANK[level] < _RANK[newcomer]:
                return None
            victim = self._oldest(level)
            if victim is not None:
                return self._pull(_spot(victim))
        return None

    def _oldest(self, level: RiskLevel) -> Entry | None:
        first = self.lanes[level].first
        ready = () if first is None else (first,)
        # What failed within the longest delay is at most a window's requests, so this is a short search.
        elsewhere = (entry for entry in self._aside.values() if entry.signal.risk_level is level)
        return min(chain(ready, elsewhere), key=lambda entry: entry.place, default=None)

    def count(self) -> dict[RiskLevel, int]:
        """Count all that waits, by level."""
        counts = {level: lane.size for level, lane in self.lanes.items()}
        for entry in self._aside.values():
            counts[entry.signal.risk_level] += 1
        return counts

    def overdue(self, now: float, most: int) -> list[Entry]:
        """Remove and return up to *most* whose deadline has passed; call again until none comes."""
        found: list[Entry] = []
        while self._overdue and len(found) < most:
            entry = self._overdue.pop()
            if self._is_aside(entry):
                found.append(self._pull(_spot(entry)))
        while len(found) < most and self._next_expiring(math.floor(now)) < math.floor(now):
            self._empty_second(self._expired_until, found, most)
        for lane in self.lanes.values():
            while len(found) < most and (head := lane.first) is not None and head.has_expired(now):
                found.append(self._pull(_spot(head)))
        return found

    def _next_expiring(self, now: int) -> float:
        """Return the second to be emptied next, *now* or later if none is; a long time without any is leapt over."""
        if not self._expiring:
            return math.inf
        if now - self._expired_until > len(self._expiring):
            self._expired_until = min(self._expiring) // _BUCKETS
        return self._expired_until

    def _empty_second(self, second: int, found: list[Entry], most: int) -> None:
        for key in range(second * _BUCKETS, (second + 1) * _BUCKETS):
            bucket = self._expiring.get(key, {})
            while bucket and len(found) < most:
                found.append(self._pull(bucket.popitem()[0]))
            if bucket:
                return
        self._expired_until = second + 1

    def overdue_at(self, now: float) -> float:
        """Return when to call `overdue` next, at most a second after a deadline; infinity if nothing has one."""
        return math.floor(now) + 1.0 if self._expiring else math.inf

    def everything(self) -> Iterator[Entry]:
        """Remove and yield all that waits, the most important first."""
        self.release(math.inf)
        for groups in self._suspects.values():
            for entry in chain.from_iterable(groups):
                self._line_up(entry)
            groups.clear()
        for lane in self.lanes.values():
            while (first := lane.first) is not None:
                yield self._pull(_spot(first))
        while self._overdue:
            entry = self._overdue.pop()
            if self._is_aside(entry):
                yield self._pull(_spot(entry))

    def _watch(self, entry: Entry, deadline: float) -> None:
        second = math.floor(deadline)
        self._expired_until = min(self._expired_until, second) if self._expiring else second
        self._expiring.setdefault(_expiry_key(entry, deadline), {})[_spot(entry)] = None

    def waiting_for(self, ip: str) -> Entry:
        """Return the one that waits for *ip*, or raise `KeyError`; only while coalescing."""
        assert self._by_ip is not None  # noqa: S101 - nothing is superseded otherwise
        return self._at(_shard(self._by_ip, ip)[ip])

    # -- where one waits

    def _at(self, spot: int) -> Entry:
        place, rank = divmod(spot, len(_LEVELS))
        return self._aside.get(place) or self.lanes[_LEVELS[rank]].get(place) or _nobody(spot)

    def _pull(self, spot: int) -> Entry:
        """Remove and return the one at *spot*, wherever that is; a heap drops it when it comes up."""
        place, rank = divmod(spot, len(_LEVELS))
        entry = self._aside.pop(place, None) or self.lanes[_LEVELS[rank]].pop(place) or _nobody(spot)
        self._unlist(entry)
        return entry

    def _unlist(self, entry: Entry) -> None:
        """Strike *entry* from the lists of those that expire, and of addresses."""
        if entry.deadline is not None:
            bucket = self._expiring[key := _expiry_key(entry, entry.deadline)]
            bucket.pop(_spot(entry), None)
            if not bucket:
                del self._expiring[key]
        if self._by_ip is not None:
            del _shard(self._by_ip, entry.signal.ip)[entry.signal.ip]


def _spot(entry: Entry) -> int:
    """Return lane and place of *entry* as one number: the garbage collector does not walk tables of numbers."""
    return entry.place * len(_LEVELS) + _RANK[entry.signal.risk_level]


def _nobody(spot: int) -> Entry:
    raise RuntimeError(f"nobody waits at {spot}")


def _level(group: list[Entry]) -> RiskLevel:
    return group[0].signal.risk_level


def _shard(by_ip: list[dict[str, int]], ip: str) -> dict[str, int]:
    return by_ip[hash(ip) % _IP_SHARDS]


def _inherit(entry: Entry, old: Entry) -> None:
    """Let *entry* take over the place of *old* and how long it has waited, if they have the same level."""
    if old.signal.risk_level is entry.signal.risk_level:
        entry.place = old.place
        entry.admitted_at = old.admitted_at  # or a LOW that is reported every second would linger for ever


def _expiry_key(entry: Entry, deadline: float) -> int:
    # Those that came together share a table and end together, or the last of a million would free all memory at once.
    return math.floor(deadline) * _BUCKETS + (entry.number >> 16) % _BUCKETS
