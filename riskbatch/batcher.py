"""
Which signals share a payload, and how a refused one is taken apart.

Pure: no clock, no I/O. A payload has at most 20 events, and an event at most `subjects_per_event` signals, which must
have the same timestamp and expiry, because Okta keeps those per event.
"""

from collections.abc import Iterable, Sequence

from .lanes import Entry
from .okta.risk_events import MAX_EVENTS
from .signals import RiskSignal, format_time


class Seats:
    """
    Which signals fit in one payload, and in which of its events.

    Attributes:
        events: How many signals are in each.
    """

    def __init__(self, subjects_per_event: int = 1) -> None:
        self.events: list[int] = []
        self._subjects_per_event = subjects_per_event
        self._open: dict[tuple[str, str | None], int] = {}

    def take(self, signal: RiskSignal) -> int | None:
        """Return the index of the event in which *signal* rides; `None` if it does not fit."""
        if self._subjects_per_event > 1:
            # Compared as they are written: Okta sees milliseconds.
            key = (format_time(signal.timestamp), format_time(signal.expires_at) if signal.expires_at else None)
            event = self._open.get(key)
            if event is not None and self.events[event] < self._subjects_per_event:
                self.events[event] += 1
                return event
        if self.are_taken():
            return None
        self.events.append(1)
        if self._subjects_per_event > 1:
            self._open[key] = len(self.events) - 1
        return len(self.events) - 1

    def are_taken(self) -> bool:
        """Tell whether a signal with a timestamp of its own would find no room."""
        return len(self.events) == MAX_EVENTS


class Batch:
    """
    The entries that will ride in one request, grouped into events as they are added.

    Attributes:
        entries: In the order in which they were added, the highest rank first.
        is_probe: They are the suspects of a refused batch.
        seats: Those that are taken.
    """

    def __init__(self, subjects_per_event: int = 1) -> None:
        self.is_probe = False
        self.entries: list[Entry] = []
        self._events: list[list[Entry]] = []
        self.seats = Seats(subjects_per_event)

    def add(self, entry: Entry) -> bool:
        """Add *entry* if its signal fits, and tell whether it did."""
        event = self.seats.take(entry.signal)
        if event is None:
            return False
        if event == len(self._events):
            self._events.append([])
        self._events[event].append(entry)
        self.entries.append(entry)
        return True

    @property
    def events(self) -> list[list[RiskSignal]]:
        """The signals, one list per event."""
        return [[entry.signal for entry in event] for event in self._events]

    def named(self, indices: Iterable[tuple[int, int | None]]) -> list[Entry]:
        """
        Return the entries at `(event, subject)` *indices*; no subject means all of the event's.

        Indices that are not in the batch are passed over, since a server may say anything.
        """
        found: dict[Entry, None] = {}  # in the order of naming, each once
        for event, subject in indices:
            entries = self._events[event] if 0 <= event < len(self._events) else []
            if subject is None:
                found.update(dict.fromkeys(entries))
            elif 0 <= subject < len(entries):
                found[entries[subject]] = None
        return list(found)


def split(entries: Sequence[Entry]) -> list[list[Entry]]:
    """
    Split a refused batch of at least two: where the level changes, else in two halves.

    A piece has one level, so that probing it never carries a LOW while somebody's HIGH waits.
    """
    pieces: dict[object, list[Entry]] = {}
    for entry in entries:
        pieces.setdefault(entry.signal.risk_level, []).append(entry)
    if len(pieces) > 1:
        return list(pieces.values())
    middle = len(entries) // 2
    return [list(entries[:middle]), list(entries[middle:])]
