"""
The signals of one level that stand in line, in columns; an `Entry` is one that has stepped out of the columns.

Pure: no clock, no I/O. Most signals only stand in line until they are sent, and need no object for that. What has a
history or a peculiarity (it rode in a request before, may expire, or coalesces) is an entry from the beginning.

A long line is packed: a column for each fact, in tuples of nothing but text, numbers and times, which Python's garbage
collector does not keep in its lists. Otherwise each full collection would walk through all that waits, and a million
signals with their entries would stop the event loop for a third of a second.
Source: `_PyTuple_MaybeUntrack` in CPython's Objects/tupleobject.c (read 2026-11-24).
"""

import math
import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, MutableSequence, Sequence
from itertools import chain, zip_longest
from operator import attrgetter
from typing import Any, TypeAlias

from .receipts import Outcome
from .signals import RiskLevel, RiskSignal

_RUN = 512  # signals; a list of so many is shifted in some 0.1 µs, and packed in some 0.1 ms


class Entry:
    """
    A signal on its way through the queue. Instants are on the loop clock, in seconds.

    Attributes:
        signal: What is to be sent.
        number: Of its admission.
        place: In line within a level: the number, or the inherited place of the one that it superseded.
        admitted_at: Inherited with the place.
        deadline: `expires_at` on the loop clock.
        row: Where a store has it.
        attempts: How many requests have carried it.
        may_have_arrived: A request carried it and the answer was lost.
        outcome: How it ended, `None` until then.
    """

    __slots__ = (
        "admitted_at",
        "attempts",
        "deadline",
        "may_have_arrived",
        "number",
        "outcome",
        "place",
        "row",
        "signal",
    )

    def __init__(
        self,
        signal: RiskSignal,
        number: int,
        admitted_at: float,
        deadline: float | None = None,
        row: int | None = None,
    ) -> None:
        self.signal = signal
        self.number = self.place = number
        self.admitted_at = admitted_at
        self.deadline = deadline
        self.row = row
        self.attempts = 0
        self.may_have_arrived = False
        self.outcome: Outcome | None = None

    def settle(self, outcome: Outcome) -> None:
        """Give the signal its one outcome. For the queue, which keeps the books."""
        if self.outcome is not None:
            raise RuntimeError(f"{self!r} is already settled")
        self.outcome = outcome

    def has_expired(self, now: float) -> bool:
        """Tell whether its deadline has passed."""
        return self.deadline is not None and self.deadline <= now

    def __repr__(self) -> str:
        return f"<Entry {self.number}, {self.signal.risk_level.value} {self.signal.ip}: {self.outcome or 'unsettled'}>"


Stored: TypeAlias = tuple[RiskSignal, int]  # with the row
_Facts: TypeAlias = tuple[Any, ...]  # of a signal; with its row; or with all that an entry knows
Cell: TypeAlias = RiskSignal | Stored | Entry | _Facts
_OF_SIGNAL = "ip", "message", "timestamp", "expires_at"
_OF_ENTRY = "row", "deadline", "number", "attempts", "may_have_arrived"
_of_signal, _of_entry = attrgetter(*_OF_SIGNAL), attrgetter(*_OF_ENTRY)


def _facts(cell: Cell) -> _Facts:
    more: _Facts = ()
    if isinstance(cell, Entry):
        signal, more = cell.signal, _of_entry(cell)
    elif isinstance(cell, RiskSignal):
        signal = cell
    elif len(cell) == 2:
        signal, more = cell[0], cell[1:]
    else:
        return cell  # nobody has looked at it since it was unpacked
    if type(signal) is not RiskSignal:
        return signal, None, None, None, *more  # a subclass of the user's, which may hold more
    return *_of_signal(signal), *more


def _columns(names: tuple[str, ...], objects: Iterable[object]) -> tuple[_Facts, ...]:
    return tuple([tuple(map(attrgetter(name), objects)) for name in names])


class Run:
    """
    Some hundred neighbours in line, a column for each fact.

    Attributes:
        places: Ascending.
        times: When each was admitted.
        cells: The signals, if that, the place and the time are all there is to them; or with a row; or the entries.
        is_packed: The cells are a tuple of columns, one for each fact; nothing may be changed before `unpack`.
    """

    __slots__ = ("cells", "is_packed", "level", "places", "times")

    def __init__(self, level: RiskLevel) -> None:
        self.level = level
        self.places: MutableSequence[int] = []
        self.times: MutableSequence[float] = []
        self.cells: list[Cell] = []
        self.is_packed = False

    def condense(self) -> None:
        """Keep places and times without an object for each, which is slower to add to."""
        length = len(self.places)
        self.places = array("q", struct.pack(f"{length}q", *self.places))  # thrice as fast as `array("q", places)`
        self.times = array("d", struct.pack(f"{length}d", *self.times))

    def pack(self) -> None:
        """Make the garbage collector overlook what stands here."""
        self.is_packed = True
        signals: Sequence[object] = self.cells
        more: tuple[_Facts, ...] = ()
        kinds = {*map(type, self.cells)}
        if kinds == {Entry}:
            (signals,), more = _columns(("signal",), self.cells), _columns(_OF_ENTRY, self.cells)
        elif kinds == {tuple} and {*map(len, self.cells)} == {2}:  # type: ignore[arg-type]
            signals, rows = zip(*self.cells, strict=True)
            more = (rows,)
        if {*map(type, signals)} == {RiskSignal}:  # a column at a time is at least twice as fast
            columns = _columns(_OF_SIGNAL, signals) + more
        else:
            columns = tuple(zip_longest(*map(_facts, self.cells)))
        self.cells = columns  # type: ignore[assignment]

    def unpack(self) -> None:
        """Let what stands here be changed."""
        self.is_packed = False
        self.cells = [*zip(*self.cells, strict=True)]

    def entry(self, index: int) -> Entry:
        """Return the entry at *index*, which stays what stands there, and may be changed."""
        cell = self.cells[index]
        if not isinstance(cell, Entry):
            self.cells[index] = cell = self._entry(cell, self.places[index], self.times[index])
        return cell

    def _entry(self, cell: "RiskSignal | Stored | _Facts", place: int, admitted_at: float) -> Entry:
        entry = Entry(self._signal(cell), place, admitted_at)
        if isinstance(cell, tuple):
            more = cell[1:] if len(cell) == 2 else cell[4:]
            if more:
                entry.row = more[0]
            if more[1:] and more[2] is not None:
                entry.deadline, entry.number, entry.attempts, entry.may_have_arrived = more[1:]
        return entry

    def signals(self) -> Iterator[RiskSignal]:
        """Yield the signals, equal to those that were admitted."""
        return map(self._signal, zip(*self.cells, strict=True) if self.is_packed else self.cells)

    def _signal(self, cell: Cell) -> RiskSignal:
        if isinstance(cell, RiskSignal):
            return cell
        if isinstance(cell, Entry):
            return cell.signal
        if isinstance(cell[0], RiskSignal):
            return cell[0]
        ip, message, timestamp, expires_at = cell[:4]
        return RiskSignal(ip, self.level, message=message, timestamp=timestamp, expires_at=expires_at)

    def insert(self, index: int, entry: Entry) -> None:
        """Let *entry* stand at *index*."""
        self.places.insert(index, entry.place)
        self.times.insert(index, entry.admitted_at)
        self.cells.insert(index, entry)

    def delete(self, index: int) -> None:
        """Remove what stands at *index*."""
        del self.places[index], self.times[index], self.cells[index]

    def halve(self) -> "Run":
        """Remove and return the younger half."""
        middle, younger = len(self.places) // 2, Run(self.level)
        younger.places, self.places = self.places[middle:], self.places[:middle]
        younger.times, self.times = self.times[middle:], self.times[:middle]
        younger.cells, self.cells = self.cells[middle:], self.cells[:middle]
        return younger


class Lane:
    """
    The ready signals of one level, in the order of their places.

    Kept in runs, so that a place is found by halving, and one comes or goes in the middle, without a walk.

    Attributes:
        tail: The youngest run. Who adds to it calls `turn` now and then.
    """

    __slots__ = ("_before", "_runs", "_unpacked", "level", "tail")

    def __init__(self, level: RiskLevel) -> None:
        self.level = level
        self._runs: list[Run] = []  # before the tail; none is empty
        self._before = 0  # signals in them
        self._unpacked: list[Run] = []  # those of them that may be packed
        self.tail = Run(level)

    @property
    def size(self) -> int:
        """How many stand here."""
        return self._before + len(self.tail.places)

    @property
    def since(self) -> float:
        """When the oldest was admitted; infinity if none stands here."""
        times = (self._runs[0] if self._runs else self.tail).times
        return times[0] if times else math.inf

    @property
    def first(self) -> Entry | None:
        """The oldest."""
        first = self._open(self._runs[0]) if self._runs else self.tail
        return first.entry(0) if first.places else None

    def append(self, entry: Entry) -> None:
        """Add the youngest."""
        tail = self.tail
        tail.places.append(entry.place)
        tail.times.append(entry.admitted_at)
        tail.cells.append(entry)
        if len(tail.places) >= _RUN:
            self.turn()

    def turn(self) -> None:
        """Begin another tail if this one is long."""
        if len(self.tail.places) >= _RUN:
            self.tail.condense()
            self._runs.append(self.tail)
            self._unpacked.append(self.tail)
            self._before += len(self.tail.places)
            self.tail = Run(self.level)

    def merge(self, entry: Entry) -> None:
        """Add *entry* where its place is."""
        number, run, index = self._find(entry.place)
        self._open(run).insert(index, entry)
        if run is self.tail:
            self.turn()
            return
        self._before += 1
        if len(run.places) > 2 * _RUN:
            self._runs.insert(number + 1, younger := run.halve())
            self._unpacked.append(younger)

    def get(self, place: int) -> Entry | None:
        """Return the one with that place."""
        _, run, index = self._find(place)
        if index == len(run.places) or run.places[index] != place:
            return None
        return self._open(run).entry(index)

    def pop(self, place: int) -> Entry | None:
        """Remove and return the one with that place."""
        number, run, index = self._find(place)
        if index == len(run.places) or run.places[index] != place:
            return None
        entry = self._open(run).entry(index)
        run.delete(index)
        if run is not self.tail:
            self._before -= 1
            if not run.places:
                del self._runs[number]
        return entry

    def _find(self, place: int) -> tuple[int, Run, int]:
        """Return the run, its number, and the index there, where *place* is or would be."""
        runs, tail = self._runs, self.tail
        if not runs or (tail.places and place >= tail.places[0]):
            number, run = len(runs), tail
        else:
            number = 0
            if len(runs) > 1 and place >= runs[1].places[0]:  # most of what goes stands in the first
                number = bisect_right(runs, place, 1, key=_first_place) - 1
            run = runs[number]
        return number, run, bisect_left(run.places, place)

    def _open(self, run: Run) -> Run:
        if run.is_packed:
            run.unpack()
            self._unpacked.append(run)
        return run

    @property
    def packable(self) -> bool:
        """Whether `pack` has something to do."""
        return bool(self._unpacked)

    def pack(self, runs: int) -> None:
        """Pack so many *runs*, but not the first, which will soon be changed again."""
        for _ in range(min(runs, len(self._unpacked))):
            run = self._unpacked.pop()
            if not run.is_packed and self._runs and run is not self._runs[0]:
                run.pack()

    def places(self) -> Iterator[int]:
        """Yield the places, the oldest first."""
        return chain.from_iterable(run.places for run in (*self._runs, self.tail))

    def signals(self) -> Iterator[RiskSignal]:
        """Yield the signals, the oldest first."""
        for run in (*self._runs, self.tail):
            yield from run.signals()


def _first_place(run: Run) -> int:
    return run.places[0]
