"""
Which signal is next: three FIFO lanes, HIGH first; and which signals expiry, coalescing and a full queue remove.

Pure: no clock, no await; instants are arguments, in seconds on one monotonic clock. Nothing here settles a receipt:
what must be settled is returned. Every step is O(1) or O(log n) in what waits.

A waiting signal is in one of two places: ready, in the lane of its level; or aside, because it is held back until a
retry is due, is suspected after a batch that carried it was refused, or was found to have expired.
"""

import heapq
import math
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import chain, count, islice, takewhile

from attrs import frozen

from .batcher import Batch, EventSlots
from .okta.wire import MAX_EVENTS
from .receipts import Receipt
from .signals import RiskLevel

_PROBE_EVERY = 16  # batches, while suspects wait: half of a window's 30 requests
_HIGH = RiskLevel.HIGH
_RANK = {level: rank for rank, level in enumerate(RiskLevel)}  # 0 is sent first
_LOWEST_FIRST = tuple(reversed(RiskLevel))


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
        coalesce: Whether a newer signal for an address supersedes the waiting one.

    Attributes:
        lanes: The ready signals of each level by place, the first to be sent first.
    """

    def __init__(self, *, subjects_per_event: int = 1, coalesce: bool = False) -> None:
        self.lanes: dict[RiskLevel, OrderedDict[int, Receipt]] = {level: OrderedDict() for level in RiskLevel}
        self.subjects_per_event = subjects_per_event
        self._aside: dict[int, Receipt] = {}  # by place, which is unique among all that waits
        self._held: list[tuple[float, int, list[Receipt], bool]] = []  # heap of (ready at, tie, group, are suspects)
        self._suspects: dict[RiskLevel, deque[list[Receipt]]] = {level: deque() for level in RiskLevel}
        self._probed_last = False
        self._passed_over = 0  # batches taken since the last probe, while suspects waited
        self._high_before = self._high_last = -math.inf  # when the last two HIGH were admitted
        self._deadlines: list[tuple[float, int, Receipt]] = []  # heap; what waits no more is dropped when it comes up
        self._expired: list[Receipt] = []  # found by `take`, and aside until `overdue` removes them
        self._by_ip: dict[str, Receipt] | None = {} if coalesce else None
        self._tie = count()

    @property
    def size(self) -> int:
        """How many signals wait."""
        return len(self._aside) + sum(map(len, self.lanes.values()))

    def count(self) -> dict[RiskLevel, int]:
        """Count all that waits, by level."""
        counts = {level: len(lane) for level, lane in self.lanes.items()}
        for receipt in self._aside.values():
            counts[receipt.signal.risk_level] += 1
        return counts

    # -- coming in

    def admit(self, receipt: Receipt) -> Receipt | None:
        """Add a new *receipt*; return the one that it supersedes, for the caller to settle."""
        if receipt.signal.risk_level is _HIGH:
            self._high_before, self._high_last = self._high_last, receipt.admitted_at
        lane = self.lanes[receipt.signal.risk_level]
        old = None if self._by_ip is None else self._succeed(self._by_ip, receipt)
        if old is None or lane.get(receipt.place) is old:
            lane[receipt.place] = receipt  # at the end, or in the place of the old one
        else:
            self._discard(old)
            self._line_up([receipt])
        if receipt.deadline is not None:
            self._watch(receipt, receipt.deadline)
        return old

    def put_back(self, receipts: Iterable[Receipt], ready_at: float = -math.inf) -> list[Receipt]:
        """
        Take back what could not be sent: to the front of the lanes, once *ready_at* has come.

        Returns the receipts that a newer signal for their address supersedes, for the caller to settle.
        """
        superseded: list[Receipt] = []
        kept = [receipt for receipt in receipts if self._take_back(receipt, superseded)]
        if ready_at == -math.inf:
            self._line_up_aside(kept)
        elif kept:
            heapq.heappush(self._held, (ready_at, next(self._tie), kept, False))
        return superseded

    def suspect(self, groups: Iterable[list[Receipt]], ready_at: float = -math.inf) -> list[Receipt]:
        """
        Take back *groups* of which each will be probed in a request of its own; returns as `put_back` does.

        A group has one level, and came out of one batch, so that it fits in a payload.
        """
        superseded: list[Receipt] = []
        for group in groups:
            if kept := [receipt for receipt in group if self._take_back(receipt, superseded)]:
                heapq.heappush(self._held, (ready_at, next(self._tie), kept, True))
        return superseded

    def _take_back(self, receipt: Receipt, superseded: list[Receipt]) -> bool:
        """Put *receipt* aside, unless a newer one waits for its address; add the older of the two to *superseded*."""
        newer = self.waiting_for(receipt.signal.ip)
        if newer is not None and newer.sequence > receipt.sequence:
            superseded.append(receipt)
            return False
        if self._by_ip is not None and (old := self._succeed(self._by_ip, receipt)) is not None:
            self._discard(old)  # the older one came back first
            superseded.append(old)
        self._aside[receipt.place] = receipt
        if receipt.deadline is not None:
            self._watch(receipt, receipt.deadline)
        return True

    def _succeed(self, by_ip: dict[str, Receipt], receipt: Receipt) -> Receipt | None:
        """
        Let *receipt* be the one for its address, and return the one that was.

        At the same level its place in line is inherited, or an address that is reported again and again would never be
        sent; so is the time since which it waits, or it would linger for ever.
        """
        old = by_ip.get(receipt.signal.ip)
        if old is not None and old.signal.risk_level is receipt.signal.risk_level:
            receipt.place = old.place
            receipt.admitted_at = old.admitted_at
        by_ip[receipt.signal.ip] = receipt
        return old

    def _line_up(self, receipts: list[Receipt]) -> None:
        """
        Put *receipts* of one level in its lane, by place.

        What comes back belongs to the front, among what other requests brought back: few.
        """
        lane = self.lanes[receipts[0].signal.risk_level]
        returned = []
        for receipt in sorted(receipts, key=_place):
            if not lane or receipt.place > next(reversed(lane)):
                lane[receipt.place] = receipt
            else:
                returned.append(receipt)
        if returned:
            last = returned[-1].place
            front = takewhile(lambda receipt: receipt.place < last, lane.values())
            for receipt in sorted((*front, *returned), key=_place, reverse=True):
                lane[receipt.place] = receipt
                lane.move_to_end(receipt.place, last=False)

    def _watch(self, receipt: Receipt, deadline: float) -> None:
        """Note the *deadline* of *receipt*; forget those of signals that wait no more once they are most of all."""
        heapq.heappush(self._deadlines, (deadline, next(self._tie), receipt))
        if len(self._deadlines) > 2 * self.size + MAX_EVENTS:
            waiting = chain(self._aside.values(), *(lane.values() for lane in self.lanes.values()))
            self._deadlines = [(each.deadline, next(self._tie), each) for each in waiting if each.deadline is not None]
            heapq.heapify(self._deadlines)

    # -- going out

    def release(self, now: float) -> None:
        """Make ready what was held back until *now*."""
        while self._held and self._held[0][0] <= now:
            _, _, group, are_suspects = heapq.heappop(self._held)
            if are_suspects:
                self._suspects[group[0].signal.risk_level].append(group)
            else:
                self._line_up_aside(group)

    def _line_up_aside(self, group: Iterable[Receipt]) -> None:
        """Move those of *group* that are still aside to their lanes."""
        by_level: dict[RiskLevel, list[Receipt]] = {}
        for receipt in group:
            if self._is_aside(receipt):
                del self._aside[receipt.place]
                by_level.setdefault(receipt.signal.risk_level, []).append(receipt)
        for receipts in by_level.values():
            self._line_up(receipts)

    def _is_aside(self, receipt: Receipt) -> bool:
        return self._aside.get(receipt.place) is receipt

    def ready_at(self) -> float:
        """Return when the next held-back signal becomes ready; infinity if none is held."""
        return self._held[0][0] if self._held else math.inf

    def demand(self) -> Demand:
        """Tell what `take` would take. Call `release` and `overdue` first."""
        high, medium, low = self.lanes.values()
        if suspects := self._next_probe():
            # Suspects that were passed over long enough go like a HIGH, or a flood of HIGH would keep all permits.
            return Demand(_HIGH if self._is_probe_due() else suspects[0].signal.risk_level, probe=True)
        level = self._highest_ready()
        if level is None:
            return Demand(None)
        full_of_high = self._fills(high)
        return Demand(
            level,
            full=full_of_high or self._fills(high, medium, low),
            full_of_high=full_of_high,
            high_before=self._high_before,
            high_last=self._high_last,
            medium_since=oldest(medium),
            low_since=oldest(low),
        )

    def take(self, now: float, wall: datetime | None = None) -> Batch:
        """
        Remove and return the batch that ranks highest; empty if nothing is ready.

        No ready signal that stays behind outranks one in the batch, unless suspects were passed over for long. What
        has expired by *now*, or by the *wall* clock, does not ride; `overdue` returns it.
        """
        batch = Batch(self.subjects_per_event)
        suspects = self._next_probe()
        self._probed_last = batch.is_probe = bool(suspects)
        if suspects:
            self._suspects[suspects[0].signal.risk_level].popleft()
            self._passed_over = 0
            for suspect in suspects:
                if suspect.has_expired(now, wall):
                    self._expired.append(suspect)
                else:
                    batch.add(suspect)
                    self._remove(suspect)
            return batch
        self._passed_over += bool(self._first_suspects())
        for lane in self.lanes.values():
            while lane:
                receipt = next(iter(lane.values()))
                if receipt.has_expired(now, wall):
                    self._aside[receipt.place] = lane.pop(receipt.place)
                    self._expired.append(receipt)
                elif batch.add(receipt):
                    self._remove(receipt)
                else:
                    return batch
        return batch

    def _highest_ready(self) -> RiskLevel | None:
        return next((level for level, lane in self.lanes.items() if lane), None)

    def _is_probe_due(self) -> bool:
        return self._passed_over >= _PROBE_EVERY - 1

    def _next_probe(self) -> list[Receipt]:
        """
        Return the suspects that `take` would take; none if it would take from the lanes.

        Suspects rank by their level like all others, and take turns with their equals. But they cannot fill the free
        slots of another batch, so they are not passed over for ever.
        """
        suspects = self._first_suspects()
        ready = self._highest_ready()
        if not suspects or ready is None or self._is_probe_due():
            return suspects
        level = suspects[0].signal.risk_level
        is_next = _RANK[level] < _RANK[ready] or (level is ready and not self._probed_last)
        return suspects if is_next else []

    def _first_suspects(self) -> list[Receipt]:
        for groups in self._suspects.values():
            while groups:
                groups[0] = [receipt for receipt in groups[0] if self._is_aside(receipt)]  # the rest is settled
                if groups[0]:
                    return groups[0]
                groups.popleft()
        return []

    def _fills(self, *lanes: OrderedDict[int, Receipt]) -> bool:
        if self.subjects_per_event == 1:
            return sum(map(len, lanes)) >= MAX_EVENTS
        slots = EventSlots(self.subjects_per_event)
        waiting = chain.from_iterable(lane.values() for lane in lanes)
        return any(slots.place(receipt.signal) is None for receipt in waiting) or slots.is_full()

    # -- leaving otherwise

    def shed(self, newcomer: RiskLevel) -> Receipt | None:
        """
        Remove and return the signal that makes room for one of level *newcomer*.

        It is the oldest of the lowest level; `None` if the newcomer itself is the lowest and must be shed.
        """
        for level in _LOWEST_FIRST:
            if _RANK[level] < _RANK[newcomer]:
                return None
            # What failed within the longest delay is at most a window's requests, so this is a short search.
            aside = (receipt for receipt in self._aside.values() if receipt.signal.risk_level is level)
            first = islice(self.lanes[level].values(), 1)
            victim = min(chain(first, aside), key=_place, default=None)
            if victim is not None:
                self._remove(victim)
                return victim
        return None

    def overdue(self, now: float, most: int) -> list[Receipt]:
        """Remove and return up to *most* signals whose deadline has passed; call again until none comes."""
        found: list[Receipt] = []
        while len(found) < most and (self._expired or self.overdue_at() <= now):
            receipt = self._expired.pop() if self._expired else heapq.heappop(self._deadlines)[2]
            if self._waits(receipt):
                self._remove(receipt)
                found.append(receipt)
        return found

    def overdue_at(self) -> float:
        """Return when to call `overdue` next; infinity if nothing that waits has a deadline."""
        while self._deadlines and not self._waits(self._deadlines[0][2]):
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else math.inf

    def everything(self) -> Iterator[Receipt]:
        """Remove and yield all that waits, the most important first."""
        self.release(math.inf)
        self._line_up_aside(list(self._aside.values()))
        for lane in self.lanes.values():
            while lane:
                receipt = next(iter(lane.values()))
                self._remove(receipt)
                yield receipt

    def waiting_for(self, ip: str) -> Receipt | None:
        """Return the signal that waits for *ip*, if signals coalesce and there is one."""
        return None if self._by_ip is None else self._by_ip.get(ip)

    def _waits(self, receipt: Receipt) -> bool:
        return self._is_aside(receipt) or self.lanes[receipt.signal.risk_level].get(receipt.place) is receipt

    def _remove(self, receipt: Receipt) -> None:
        """Remove *receipt*, wherever it waits."""
        self._discard(receipt)
        if self._by_ip is not None:
            del self._by_ip[receipt.signal.ip]

    def _discard(self, receipt: Receipt) -> None:
        """Remove *receipt* from lane or aside; heaps and groups drop it when it comes up there."""
        if self._is_aside(receipt):
            del self._aside[receipt.place]
        else:
            del self.lanes[receipt.signal.risk_level][receipt.place]


def oldest(lane: OrderedDict[int, Receipt]) -> float:
    """Return when the first signal of *lane* was admitted; infinity if none stands there."""
    return next(iter(lane.values())).admitted_at if lane else math.inf


def _place(receipt: Receipt) -> int:
    return receipt.place
