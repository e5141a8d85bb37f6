"""
Which signals share a payload, what the next one would carry, and how a refused one is taken apart.

Pure: no clock, no I/O. A payload has at most 20 events, and an event at most `subjects_per_event` signals, which must
have the same timestamp and expiry, because Okta keeps those per event.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from attrs import frozen

from .okta.risk_events import MAX_EVENTS
from .receipts import Receipt
from .signals import RiskLevel, RiskSignal, format_time


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


class EventSlots:
    """
    Which signals fit in one payload, and in which of its events.

    Attributes:
        events: How many signals are in each.
    """

    def __init__(self, subjects_per_event: int = 1) -> None:
        self.events: list[int] = []
        self._subjects_per_event = subjects_per_event
        self._open: dict[tuple[str, str | None], int] = {}

    def place(self, signal: RiskSignal) -> int | None:
        """Take a slot and return the index of its event; `None` if *signal* does not fit."""
        if self._subjects_per_event > 1:
            # Compared as they are written: Okta sees milliseconds.
            key = (format_time(signal.timestamp), format_time(signal.expires_at) if signal.expires_at else None)
            event = self._open.get(key)
            if event is not None and self.events[event] < self._subjects_per_event:
                self.events[event] += 1
                return event
        if self.is_full():
            return None
        self.events.append(1)
        if self._subjects_per_event > 1:
            self._open[key] = len(self.events) - 1
        return len(self.events) - 1

    def is_full(self) -> bool:
        """Tell whether a signal with a timestamp of its own would find no room."""
        return len(self.events) == MAX_EVENTS


class Batch:
    """
    The signals that share one request, grouped into events as they are added.

    Attributes:
        receipts: In the order in which they were added, the highest rank first.
        is_probe: They are suspects of a refused batch.
        slots: Those that are taken.
    """

    def __init__(self, subjects_per_event: int = 1) -> None:
        self.is_probe = False
        self.receipts: list[Receipt] = []
        self._events: list[list[Receipt]] = []
        self.slots: EventSlots = EventSlots(subjects_per_event)

    def add(self, receipt: Receipt) -> bool:
        """Add *receipt* if its signal fits, and tell whether it did."""
        event = self.slots.place(receipt.signal)
        if event is None:
            return False
        if event == len(self._events):
            self._events.append([])
        self._events[event].append(receipt)
        self.receipts.append(receipt)
        return True

    @property
    def events(self) -> list[list[RiskSignal]]:
        """The signals, one list per event."""
        return [[receipt.signal for receipt in event] for event in self._events]

    def named(self, indices: Iterable[tuple[int, int | None]]) -> list[Receipt]:
        """
        Return the receipts at `(event, subject)` *indices*; no subject means all of the event's.

        Indices that are not in the batch are passed over, since a server may say anything.
        """
        found: dict[Receipt, None] = {}  # in the order of naming, each once
        for event, subject in indices:
            receipts = self._events[event] if 0 <= event < len(self._events) else []
            if subject is None:
                found.update(dict.fromkeys(receipts))
            elif 0 <= subject < len(receipts):
                found[receipts[subject]] = None
        return list(found)


def fill_a_payload(lanes: Iterable[Mapping[int, Receipt]], subjects_per_event: int) -> bool:
    """Tell whether the signals of *lanes*, the first to be sent first, leave no slot of a payload free."""
    if subjects_per_event == 1:
        return sum(map(len, lanes)) >= MAX_EVENTS
    slots = EventSlots(subjects_per_event)
    waiting = chain.from_iterable(lane.values() for lane in lanes)
    return any(slots.place(receipt.signal) is None for receipt in waiting) or slots.is_full()


def split(receipts: Sequence[Receipt]) -> list[list[Receipt]]:
    """
    Split a refused batch of at least two: where the level changes, else in two halves.

    A piece has one level, so that a probe never carries a LOW while a HIGH waits.
    """
    pieces: dict[object, list[Receipt]] = {}
    for receipt in receipts:
        pieces.setdefault(receipt.signal.risk_level, []).append(receipt)
    if len(pieces) > 1:
        return list(pieces.values())
    middle = len(receipts) // 2
    return [list(receipts[:middle]), list(receipts[middle:])]
