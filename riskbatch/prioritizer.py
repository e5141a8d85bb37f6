"""
Which signal is next: three FIFO lanes, HIGH first, and whom expiry, coalescing and a full queue remove.

Pure: no clock, no await; instants are arguments, in seconds on one monotonic clock. Nothing here settles a receipt:
who must be settled is returned. Every step costs the same with a million signals waiting.

A waiting receipt is in one of three places: ready, in the lane of its level; held back until a retry is due; or in a
group of suspects, after Okta refused the batch that carried it and did not say why.
"""

import heapq
import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, count
from operator import attrgetter

from attrs import frozen

from .batcher import Batch
from .receipts import Receipt
from .signals import RiskLevel
from .wire import MAX_EVENTS

_PATIENCE = 15  # batches that may pass suspects over: half a window's
_HIGH = RiskLevel.HIGH
_RANK = {level: rank for rank, level in enumerate(RiskLevel)}  # 0 is sent first
_LOWEST_FIRST = tuple(reversed(RiskLevel))
_IP_SHARDS = 256  # growing one hash table to a million entries would stop the event loop for some 30 ms
_RUN = 512  # receipts; a list of so many is shifted in some 0.1 µs
_BUCKETS = 16  # sets a second of expiry, for the same reason


_place = attrgetter("place")


def _first_place(run: list[Receipt]) -> int:
    return run[0].place


class Lane:
    """
    The ready receipts of one level, in the order of their places.

    Kept in runs of some hundred, so that one is found by halving, and comes or goes in the middle, without a walk.
    """

    __slots__ = ("_last", "_runs", "size")

    def __init__(self) -> None:
        self._last: list[Receipt] = []
        self._runs = [self._last]  # none is empty, but the only one
        self.size = 0

    @property
    def first(self) -> Receipt | None:
        """The oldest."""
        return self._runs[0][0] if self.size else None

    def append(self, receipt: Receipt) -> None:
        """Add the youngest."""
        if len(self._last) >= _RUN:
            self._runs.append([])
            self._last = self._runs[-1]
        self._last.append(receipt)
        self.size += 1

    def extend(self, receipts: list[Receipt]) -> None:
        """Add the youngest, at most some hundred, in their order."""
        if len(self._last) >= _RUN:
            self._runs.append([])
            self._last = self._runs[-1]
        self._last.extend(receipts)
        self.size += len(receipts)

    def merge(self, receipts: Iterable[Receipt]) -> None:
        """Add *receipts* where their places are."""
        for receipt in receipts:
            number, index = self._find(receipt)
            run = self._runs[number]
            run.insert(index, receipt)
            self.size += 1
            if len(run) > 2 * _RUN:
                self._runs[number : number + 1] = run[:_RUN], run[_RUN:]
                self._last = self._runs[-1]

    def replace(self, old: Receipt, new: Receipt) -> bool:
        """Put *new*, which has its place, where *old* stands; tell whether it stood here."""
        number, index = self._find(old)
        run = self._runs[number]
        if index == len(run) or run[index] is not old:
            return False
        run[index] = new
        return True

    def remove(self, receipt: Receipt) -> None:
        """Take *receipt* out, wherever it stands; nothing happens if it is not here."""
        number, index = self._find(receipt)
        run = self._runs[number]
        if index == len(run) or run[index] is not receipt:
            return
        del run[index]
        self.size -= 1
        if not run and len(self._runs) > 1:
            del self._runs[number]
            self._last = self._runs[-1]

    def _find(self, receipt: Receipt) -> tuple[int, int]:
        """Return the number of the run, and the index there, where *receipt* stands or would stand."""
        place, runs = receipt.place, self._runs
        number = 0
        if len(runs) > 1 and place >= runs[1][0].place:  # most of what goes stands in the first
            number = bisect_right(runs, place, 1, key=_first_place) - 1
        return number, bisect_left(runs[number], place, key=_place)

    def __iter__(self) -> Iterator[Receipt]:
        return chain.from_iterable(self._runs)


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
    All waiting receipts, and the order among them.

    Args:
        subjects_per_event: How many signals may share an event; see batcher.py.
        coalesce: Whether a newer signal for an address takes the place of the waiting one.
    """

    def __init__(self, *, subjects_per_event: int = 1, coalesce: bool = False) -> None:
        self.lanes = {level: Lane() for level in RiskLevel}
        self.size = 0
        self.subjects_per_event = subjects_per_event
        self._held: list[tuple[float, int, Receipt]] = []  # heap; a receipt settled meanwhile is dropped when due
        self._suspects: dict[RiskLevel, deque[list[Receipt]]] = {level: deque() for level in RiskLevel}
        self._held_suspects: list[tuple[float, int, list[Receipt]]] = []
        self._probed_last = False
        self._passed_over = 0  # batches taken since the last probe, while suspects waited
        self._high_before = self._high_last = -math.inf  # when the last two HIGH were admitted
        self._overdue: list[Receipt] = []
        self._expiring: dict[int, set[Receipt]] = {}  # by the second of the deadline, _BUCKETS sets each
        self._expired_until = 0  # the second before which no bucket is left
        self._by_ip: list[dict[str, Receipt]] | None = [{} for _ in range(_IP_SHARDS)] if coalesce else None
        self._tie = count()

    # -- coming in

    def admit(self, receipt: Receipt) -> Receipt | None:
        """Add a new *receipt*; return the one that it supersedes, for the caller to settle."""
        superseded = None
        if self._by_ip is None:
            self.append(receipt)
        else:
            superseded = self._coalesce(receipt)
            self.size += 1
            if receipt.signal.risk_level is _HIGH:
                self._note_high(receipt)
        if receipt.deadline is not None:
            self._watch(receipt, receipt.deadline)
        return superseded

    def append(self, receipt: Receipt) -> int:
        """Add a new *receipt*, when not coalescing; not for its deadline. Return how long its lane is then."""
        self.size += 1
        level = receipt.signal.risk_level
        if level is _HIGH:
            self._note_high(receipt)
        lane = self.lanes[level]
        lane.append(receipt)
        return lane.size

    def admit_all(self, receipts: list[Receipt]) -> None:
        """Add new *receipts*, at most some hundred; not while coalescing."""
        self.size += len(receipts)
        for level, some in _by_level(receipts).items():
            self.lanes[level].extend(some)
            if level is _HIGH:
                for receipt in some[-2:]:
                    self._note_high(receipt)
        for receipt in receipts:
            if receipt.deadline is not None:
                self._watch(receipt, receipt.deadline)

    def _note_high(self, receipt: Receipt) -> None:
        self._high_before, self._high_last = self._high_last, receipt.admitted_at

    def _coalesce(self, receipt: Receipt) -> Receipt | None:
        """
        Let *receipt* supersede the waiting one for its address.

        At the same level it inherits the place in line, or an address that is reported again and again would never
        be sent; at another level it starts at the back of that lane.
        """
        assert self._by_ip is not None  # noqa: S101 - only called when coalescing
        shard = _shard(self._by_ip, receipt.signal.ip)
        old = shard.get(receipt.signal.ip)
        shard[receipt.signal.ip] = receipt
        lane = self.lanes[receipt.signal.risk_level]
        if old is None or not _inherit(receipt, old):
            lane.append(receipt)
        elif not lane.replace(old, receipt):
            lane.merge([receipt])
        if old is not None:
            self._forget(old)
        return old

    def put_back(self, receipts: Iterable[Receipt], ready_at: float) -> list[Receipt]:
        """
        Take back what could not be sent: to the front of the lanes, once *ready_at* has come.

        Returns the receipts that a newer signal for their address has superseded meanwhile, for the caller to settle.
        """
        kept, superseded = self._return(receipts)
        if ready_at == -math.inf:
            self._line_up(kept)
        else:
            for receipt in kept:
                heapq.heappush(self._held, (ready_at, next(self._tie), receipt))
        return superseded

    def suspect(self, groups: Iterable[list[Receipt]], ready_at: float = -math.inf) -> list[Receipt]:
        """
        Take back *groups* of which each will be probed in a request of its own; returns as `put_back` does.

        A group has one level, and came out of one batch, so that it fits in a payload.
        """
        superseded = []
        for group in groups:
            kept, lost = self._return(group)
            superseded += lost
            if kept:
                heapq.heappush(self._held_suspects, (ready_at, next(self._tie), kept))
        return superseded

    def _return(self, receipts: Iterable[Receipt]) -> tuple[list[Receipt], list[Receipt]]:
        """Count *receipts* as waiting again; return those that do, and those that a newer signal supersedes."""
        kept, superseded = [], []
        for receipt in receipts:
            if self._by_ip is not None:
                shard = _shard(self._by_ip, receipt.signal.ip)
                other = shard.get(receipt.signal.ip)
                if other is not None and other.number > receipt.number:
                    superseded.append(receipt)
                    continue
                if other is not None:  # an older one, which came back first
                    _inherit(receipt, other)
                    self._forget(other)
                    superseded.append(other)
                shard[receipt.signal.ip] = receipt
            if receipt.deadline is not None:
                self._watch(receipt, receipt.deadline)
            self.size += 1
            kept.append(receipt)
        return kept, superseded

    def _line_up(self, receipts: Iterable[Receipt]) -> None:
        for level, returning in _by_level(receipts).items():
            self.lanes[level].merge(returning)

    # -- going out

    def release(self, now: float) -> None:
        """Make ready what was held back until *now*."""
        due = []
        while self._held and self._held[0][0] <= now:
            due.append(heapq.heappop(self._held)[2])
        self._line_up(receipt for receipt in due if receipt.outcome is None)
        while self._held_suspects and self._held_suspects[0][0] <= now:
            group = heapq.heappop(self._held_suspects)[2]
            self._suspects[_level(group)].append(group)

    def ready_at(self) -> float:
        """Return when the next held-back receipt becomes ready; infinity if none is held."""
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
            medium_since=math.inf if medium.first is None else medium.first.admitted_at,
            low_since=math.inf if low.first is None else low.first.admitted_at,
        )

    def take(self, now: float) -> Batch:
        """
        Remove and return the batch that ranks highest; empty if nothing is ready.

        No ready receipt that stays behind outranks one in the batch, unless suspects were passed over for long.
        """
        batch = Batch(self.subjects_per_event)
        if suspects := self._next_probe():
            self._suspects[_level(suspects)].popleft()
            self._probed_last = True
            self._passed_over = 0
            batch.is_probe = True
            for suspect in suspects:
                if _has_expired(suspect, now):
                    self._overdue.append(suspect)
                else:
                    batch.add(suspect)
                    self._forget(suspect)
            return batch
        self._probed_last = False
        self._passed_over += bool(self._first_suspects())
        for lane in self.lanes.values():
            while (receipt := lane.first) is not None:
                if _has_expired(receipt, now):
                    lane.remove(receipt)
                    self._overdue.append(receipt)
                elif batch.add(receipt):
                    self._forget(receipt)
                else:
                    return batch
        return batch

    def _top(self) -> RiskLevel | None:
        return next((level for level, lane in self.lanes.items() if lane.first is not None), None)

    def _next_probe(self) -> list[Receipt]:
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

    def _first_suspects(self) -> list[Receipt]:
        for groups in self._suspects.values():
            while groups:
                groups[0] = [receipt for receipt in groups[0] if receipt.outcome is None]  # settled while they waited
                if groups[0]:
                    return groups[0]
                groups.popleft()
        return []

    def _fills(self, *lanes: Lane) -> bool:
        if self.subjects_per_event == 1:
            return sum(lane.size for lane in lanes) >= MAX_EVENTS
        batch = Batch(self.subjects_per_event)
        return any(not batch.add(receipt) for receipt in chain(*lanes)) or batch.is_full()

    # -- leaving otherwise

    def shed(self, newcomer: RiskLevel) -> Receipt | None:
        """
        Remove and return the receipt that makes room for a signal of level *newcomer*.

        It is the oldest of the lowest level; `None` if the newcomer itself is the lowest and must be shed.
        """
        for level in _LOWEST_FIRST:
            if _RANK[level] < _RANK[newcomer]:
                return None
            victim = self._oldest(level)
            if victim is not None:
                self._forget(victim)
                return victim
        return None

    def _oldest(self, level: RiskLevel) -> Receipt | None:
        first = self.lanes[level].first
        ready = () if first is None else (first,)
        # What failed within the longest delay is at most a window's requests, so this is a short search.
        elsewhere = (receipt for receipt in self._elsewhere() if receipt.signal.risk_level is level)
        return min(chain(ready, elsewhere), key=lambda receipt: receipt.place, default=None)

    def _elsewhere(self) -> Iterator[Receipt]:
        """Yield what waits outside the lanes."""
        held = (receipt for _, _, receipt in self._held)
        groups = chain(*self._suspects.values(), (group for _, _, group in self._held_suspects))
        waiting = chain(held, self._overdue, chain.from_iterable(groups))
        return (receipt for receipt in waiting if receipt.outcome is None)

    def count(self) -> dict[RiskLevel, int]:
        """Count all that waits, by level."""
        counts = {level: lane.size for level, lane in self.lanes.items()}
        for receipt in self._elsewhere():
            counts[receipt.signal.risk_level] += 1
        return counts

    def overdue(self, now: float, most: int) -> list[Receipt]:
        """Remove and return up to *most* receipts whose deadline has passed; call again until none comes."""
        found: list[Receipt] = []
        while self._overdue and len(found) < most:
            receipt = self._overdue.pop()
            if receipt.outcome is None:
                self._forget(receipt)
                found.append(receipt)
        while len(found) < most and self._next_expiring(math.floor(now)) < math.floor(now):
            self._empty_second(self._expired_until, found, most)
        for lane in self.lanes.values():
            while len(found) < most and (head := lane.first) is not None and _has_expired(head, now):
                self._forget(head)
                found.append(head)
        return found

    def _next_expiring(self, now: int) -> float:
        """Return the second to be emptied next, *now* or later if none is; a long time without any is leapt over."""
        if not self._expiring:
            return math.inf
        if now - self._expired_until > len(self._expiring):
            self._expired_until = min(self._expiring) // _BUCKETS
        return self._expired_until

    def _empty_second(self, second: int, found: list[Receipt], most: int) -> None:
        for key in range(second * _BUCKETS, (second + 1) * _BUCKETS):
            bucket = self._expiring.get(key, set())
            while bucket and len(found) < most:
                receipt = bucket.pop()
                self._forget(receipt)
                found.append(receipt)
            if bucket:
                return
            self._expiring.pop(key, None)
        self._expired_until = second + 1

    def overdue_at(self, now: float) -> float:
        """Return when to call `overdue` next, at most a second after a deadline; infinity if nothing has one."""
        return math.floor(now) + 1.0 if self._expiring else math.inf

    def everything(self) -> Iterator[Receipt]:
        """Remove and yield all that waits, the most important first."""
        self.release(math.inf)
        for groups in self._suspects.values():
            self._line_up(receipt for group in groups for receipt in group if receipt.outcome is None)
            groups.clear()
        for lane in self.lanes.values():
            while lane.first is not None:
                first = lane.first
                self._forget(first)
                yield first
        while self._overdue:
            receipt = self._overdue.pop()
            if receipt.outcome is None:
                self._forget(receipt)
                yield receipt

    def _watch(self, receipt: Receipt, deadline: float) -> None:
        second = math.floor(deadline)
        self._expired_until = min(self._expired_until, second) if self._expiring else second
        self._expiring.setdefault(_expiry_key(receipt, deadline), set()).add(receipt)

    def waiting_for(self, ip: str) -> Receipt:
        """Return the one receipt that waits for *ip*; only while coalescing."""
        assert self._by_ip is not None  # noqa: S101 - nothing is superseded otherwise
        return _shard(self._by_ip, ip)[ip]

    def _forget(self, receipt: Receipt) -> None:
        """Strike *receipt* from every list it is in; a heap drops it when it comes up."""
        self.size -= 1
        self.lanes[receipt.signal.risk_level].remove(receipt)
        if receipt.deadline is not None:
            key = _expiry_key(receipt, receipt.deadline)
            if (bucket := self._expiring.get(key)) is not None:
                bucket.discard(receipt)
                if not bucket:
                    del self._expiring[key]
        if self._by_ip is not None:
            shard = _shard(self._by_ip, receipt.signal.ip)
            if shard.get(receipt.signal.ip) is receipt:
                del shard[receipt.signal.ip]


def _by_level(receipts: Iterable[Receipt]) -> dict[RiskLevel, list[Receipt]]:
    found: dict[RiskLevel, list[Receipt]] = {}
    for receipt in receipts:
        found.setdefault(receipt.signal.risk_level, []).append(receipt)
    return found


def _level(group: list[Receipt]) -> RiskLevel:
    return group[0].signal.risk_level


def _shard(by_ip: list[dict[str, Receipt]], ip: str) -> dict[str, Receipt]:
    return by_ip[hash(ip) % _IP_SHARDS]


def _inherit(receipt: Receipt, old: Receipt) -> bool:
    """Let *receipt* take over the place of *old* and how long it has waited, if they have the same level."""
    if old.signal.risk_level is not receipt.signal.risk_level:
        return False
    receipt.place = old.place
    receipt.admitted_at = old.admitted_at  # or a LOW that is reported every second would linger for ever
    return True


def _has_expired(receipt: Receipt, now: float) -> bool:
    return receipt.deadline is not None and receipt.deadline <= now


def _expiry_key(receipt: Receipt, deadline: float) -> int:
    # Those that came together share a set and end together, or the last of a million would free all memory at once.
    return math.floor(deadline) * _BUCKETS + (receipt.number >> 16) % _BUCKETS
