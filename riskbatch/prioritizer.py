"""
Which signal is next: three FIFO lanes, HIGH first; and which signals expiry, coalescing and a full queue remove.

Pure: no clock, no await; instants are arguments, in seconds on one monotonic clock. Nothing here settles a receipt:
what must be settled is returned. Every step is O(1) or O(log n) in what waits.

A waiting signal is in one of two places: ready, in the lane of its level; or aside, because it is held back until a
retry is due, is suspected after a batch that carried it was refused, or was found to have expired.
"""

import heapq
import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import chain, count, islice, takewhile

from .batcher import Batch, Demand, fill_a_payload
from .okta.risk_events import MAX_EVENTS
from .probes import Probes
from .receipts import Receipt
from .signals import RiskLevel

_HIGH = RiskLevel.HIGH
_RANK = {level: rank for rank, level in enumerate(RiskLevel)}  # 0 is sent first
_LOWEST_FIRST = tuple(reversed(RiskLevel))


class Places:
    """
    Where each waiting signal stands: ready in the lane of its level, or aside. A place is unique among all that waits.

    Attributes:
        lanes: The ready signals of each level by place, the first to be sent first.
    """

    def __init__(self) -> None:
        self.lanes: dict[RiskLevel, OrderedDict[int, Receipt]] = {level: OrderedDict() for level in RiskLevel}
        self._aside: dict[int, Receipt] = {}

    def __len__(self) -> int:
        return len(self._aside) + sum(map(len, self.lanes.values()))

    def __iter__(self) -> Iterator[Receipt]:
        return chain(self._aside.values(), *(lane.values() for lane in self.lanes.values()))

    def __contains__(self, receipt: Receipt) -> bool:
        return self.is_aside(receipt) or self.lanes[receipt.signal.risk_level].get(receipt.place) is receipt

    def count(self) -> dict[RiskLevel, int]:
        """Count what waits, by level."""
        counts = {level: len(lane) for level, lane in self.lanes.items()}
        for receipt in self._aside.values():
            counts[receipt.signal.risk_level] += 1
        return counts

    def is_aside(self, receipt: Receipt) -> bool:
        """Tell whether *receipt* waits here, but not in a lane."""
        return self._aside.get(receipt.place) is receipt

    def highest_ready(self) -> RiskLevel | None:
        """Return the highest level of which a signal is ready."""
        return next((level for level, lane in self.lanes.items() if lane), None)

    def oldest(self, level: RiskLevel) -> Receipt | None:
        """Return the first signal of *level*, ready or not."""
        # What failed within the longest delay is at most a window's requests, so this is a short search.
        aside = (receipt for receipt in self._aside.values() if receipt.signal.risk_level is level)
        return min(chain(islice(self.lanes[level].values(), 1), aside), key=_place, default=None)

    def append(self, receipt: Receipt) -> None:
        """Let a newcomer stand at the end of its lane, or in its place if another one stood there."""
        self.lanes[receipt.signal.risk_level][receipt.place] = receipt

    def set_aside(self, receipt: Receipt) -> None:
        """Let *receipt* wait outside the lanes."""
        self._aside[receipt.place] = receipt

    def line_up(self, group: Iterable[Receipt]) -> None:
        """Move those of *group* that are aside to their lanes."""
        by_level: dict[RiskLevel, list[Receipt]] = {}
        for receipt in group:
            if self.is_aside(receipt):
                del self._aside[receipt.place]
                by_level.setdefault(receipt.signal.risk_level, []).append(receipt)
        for level, receipts in by_level.items():
            _insert(self.lanes[level], receipts)

    def line_up_all(self) -> None:
        """Move all that is aside to the lanes."""
        self.line_up(list(self._aside.values()))

    def remove(self, receipt: Receipt) -> None:
        """Let *receipt* wait no more."""
        if self.is_aside(receipt):
            del self._aside[receipt.place]
        else:
            del self.lanes[receipt.signal.risk_level][receipt.place]


def _insert(lane: OrderedDict[int, Receipt], receipts: list[Receipt]) -> None:
    """
    Put *receipts* in *lane*, by place.

    What comes back belongs to the front, among what other requests brought back: few. What a store loads is the last.
    """
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


class Prioritizer:
    """
    All that waits, and the order among it.

    Args:
        subjects_per_event: How many signals may share an event; see batcher.py.
        coalesce: Whether a newer signal for an address supersedes the waiting one.

    Attributes:
        coalesces: Whether they do.
        lanes: The ready signals of each level by place, the first to be sent first.
        probes: The groups of suspects, and their turns.
    """

    def __init__(self, *, subjects_per_event: int = 1, coalesce: bool = False) -> None:
        self.subjects_per_event = subjects_per_event
        self._places = Places()
        self.lanes: dict[RiskLevel, OrderedDict[int, Receipt]] = self._places.lanes
        self.coalesces = coalesce
        self._by_ip: dict[str, Receipt] | None = {} if coalesce else None
        self._held: list[tuple[float, int, list[Receipt], bool]] = []  # heap of (ready at, tie, group, are suspects)
        self.probes: Probes = Probes(self._places.is_aside)
        self._deadlines: list[tuple[float, int, Receipt]] = []  # heap; what waits no more is dropped when it comes up
        self._expired: list[Receipt] = []  # found by `take`, and aside until `overdue` removes them
        self._high_before = self._high_last = -math.inf  # when the last two HIGH were admitted
        self._tie = count()

    @property
    def size(self) -> int:
        """How many signals wait."""
        return len(self._places)

    def count(self) -> dict[RiskLevel, int]:
        """Count all that waits, by level."""
        return self._places.count()

    # -- coming in

    def admit(self, receipt: Receipt) -> Receipt | None:
        """Add a new *receipt*; return the one that it supersedes, for the caller to settle."""
        if receipt.signal.risk_level is _HIGH:
            self._high_before, self._high_last = self._high_last, receipt.admitted_at
        old = None if self._by_ip is None else self._succeed(self._by_ip, receipt)
        if old is None or self.lanes[receipt.signal.risk_level].get(receipt.place) is old:
            self._places.append(receipt)
        else:
            self._places.remove(old)
            self._places.set_aside(receipt)
            self._places.line_up([receipt])
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
            self._places.line_up(kept)
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
            self._places.remove(old)  # the older one came back first
            superseded.append(old)
        self._places.set_aside(receipt)
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

    def _watch(self, receipt: Receipt, deadline: float) -> None:
        """Note the *deadline* of *receipt*; forget those of signals that wait no more once they are most of all."""
        heapq.heappush(self._deadlines, (deadline, next(self._tie), receipt))
        if len(self._deadlines) > 2 * self.size + MAX_EVENTS:
            dated = [(each.deadline, next(self._tie), each) for each in self._places if each.deadline is not None]
            self._deadlines = dated
            heapq.heapify(self._deadlines)

    # -- going out

    def release(self, now: float) -> None:
        """Make ready what was held back until *now*."""
        ready: list[Receipt] = []
        while self._held and self._held[0][0] <= now:
            _, _, group, are_suspects = heapq.heappop(self._held)
            if are_suspects:
                self.probes.add(group)
            else:
                ready += group
        self._places.line_up(ready)  # all at once: one group after the other would move those before it each time

    def ready_at(self) -> float:
        """Return when the next held-back signal becomes ready; infinity if none is held."""
        return self._held[0][0] if self._held else math.inf

    def demand(self) -> Demand:
        """Tell what `take` would take. Call `release` and `overdue` first."""
        level = self._places.highest_ready()
        if suspects := self.probes.next(level):
            # Suspects that were passed over long enough go like a HIGH, or a flood of HIGH would keep all permits.
            return Demand(_HIGH if self.probes.is_due else suspects[0].signal.risk_level, probe=True)
        if level is None:
            return Demand(None)
        high, medium, low = self.lanes.values()
        full_of_high = fill_a_payload([high], self.subjects_per_event)
        return Demand(
            level,
            full=full_of_high or fill_a_payload([high, medium, low], self.subjects_per_event),
            full_of_high=full_of_high,
            high_before=self._high_before,
            high_last=self._high_last,
            medium_since=since(medium),
            low_since=since(low),
        )

    def take(self, now: float, wall: datetime | None = None) -> Batch:
        """
        Remove and return the batch that ranks highest; empty if nothing is ready.

        No ready signal that stays behind outranks one in the batch, unless suspects were passed over for long. What
        has expired by *now*, or by the *wall* clock, does not ride; `overdue` returns it.
        """
        batch = Batch(self.subjects_per_event)
        suspects = self.probes.take(self._places.highest_ready())
        batch.is_probe = bool(suspects)
        if suspects:
            for suspect in suspects:
                self._ride(suspect, batch, now, wall)
            return batch
        for lane in self.lanes.values():
            while lane:
                if not self._ride(next(iter(lane.values())), batch, now, wall):
                    return batch
        return batch

    def _ride(self, receipt: Receipt, batch: Batch, now: float, wall: datetime | None) -> bool:
        """Move *receipt* to *batch*, or aside if it has expired; return False if it does not fit."""
        if receipt.has_expired(now, wall):
            self._places.remove(receipt)
            self._places.set_aside(receipt)
            self._expired.append(receipt)
        elif not batch.add(receipt):
            return False
        else:
            self.remove(receipt)
        return True

    # -- leaving otherwise

    def shed(self, newcomer: RiskLevel) -> Receipt | None:
        """
        Remove and return the signal that makes room for one of level *newcomer*.

        It is the oldest of the lowest level; `None` if the newcomer itself is the lowest and must be shed.
        """
        for level in _LOWEST_FIRST:
            if _RANK[level] < _RANK[newcomer]:
                return None
            if (victim := self._places.oldest(level)) is not None:
                self.remove(victim)
                return victim
        return None

    def overdue(self, now: float, most: int) -> list[Receipt]:
        """Remove and return up to *most* signals whose deadline has passed; call again until none comes."""
        found: list[Receipt] = []
        while len(found) < most and (self._expired or self.overdue_at() <= now):
            receipt = self._expired.pop() if self._expired else heapq.heappop(self._deadlines)[2]
            if receipt in self._places:
                self.remove(receipt)
                found.append(receipt)
        return found

    def overdue_at(self) -> float:
        """Return when to call `overdue` next; infinity if nothing that waits has a deadline."""
        while self._deadlines and self._deadlines[0][2] not in self._places:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else math.inf

    def everything(self) -> Iterator[Receipt]:
        """Remove and yield all that waits, the most important first."""
        self.release(math.inf)
        self._places.line_up_all()
        for lane in self.lanes.values():
            while lane:
                receipt = next(iter(lane.values()))
                self.remove(receipt)
                yield receipt

    def waiting_for(self, ip: str) -> Receipt | None:
        """Return the signal that waits for *ip*, if signals coalesce and there is one."""
        return None if self._by_ip is None else self._by_ip.get(ip)

    def remove(self, receipt: Receipt) -> None:
        """Remove *receipt*; heaps and groups drop it when it comes up there."""
        self._places.remove(receipt)
        if self._by_ip is not None:
            del self._by_ip[receipt.signal.ip]


def since(lane: OrderedDict[int, Receipt]) -> float:
    """Return when the first signal of *lane* was admitted; infinity if none stands there."""
    return next(iter(lane.values())).admitted_at if lane else math.inf


def _place(receipt: Receipt) -> int:
    return receipt.place
