"""What became of every record of a feed: the account of `riskbatch send`."""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Self, TextIO

from attrs import define, frozen

import riskbatch as rb

from .exits import NOT_ACCEPTED
from .fields import Fields
from .records import Record, from_rejected_line, refusal
from .terminal import Screen, Stop, because, counted, printable

SHOWN = 10  # refused records shown where no file takes them
HOPELESS = 1_000  # refusals without a single signal, after which the feed must be something else
KINDS = 20  # reasons that are told apart; what a feed says must not fill the memory

MEANINGS = {
    "accepted": "",
    "superseded": "by a newer signal for the same address, as --coalesce wants",
    "invalid": "not sent: the record is no valid signal",
    "rejected": "by Okta",
    "expired": "before they could be sent",
    "kept": "in the store, for the next run",
    "unsent": "surely not sent",
    "maybe sent": "no answer came: Okta may have them or not",
}


@frozen(eq=False, kw_only=True)
class FeedSignal(rb.RiskSignal):
    """
    A signal that knows where it came from.

    Attributes:
        record: The record that it is in.
        number: Of the record; 0 if an earlier run, or an import, has read it.
        original: The part of the record that it stands for.
    """

    record: Record
    number: int
    original: object

    def __eq__(self, other: object) -> bool:
        return self is other  # a feed may hold the same signal twice

    def __hash__(self) -> int:
        return id(self)

    @classmethod
    def of(cls, signal: rb.RiskSignal, **origin: Any) -> Self:
        """Make one of *signal*."""
        others: dict[str, Any] = {name: getattr(signal, name) for name in ("message", "timestamp", "expires_at")}
        return cls(signal.ip, signal.risk_level, **others, **origin)

    @classmethod
    def from_store(cls, signal: rb.RiskSignal) -> Self:
        """Return what there is to say of a signal that the store had."""
        original = signal.to_json()
        return cls.of(signal, record=Record(0, original), number=0, original=original)


class NoSignals(rb.RiskbatchError):
    """So many records are no signals, and not one is, that the rest need not be tried."""


@define
class _Reason:
    count: int
    line: int  # of the first; 0 if it is not known


class Report:
    """
    Enters each record as it is read and each signal as it is settled.

    Args:
        fields: What is read of a record.
        screen: Where refused records are shown, if no file takes them.
        rejected: The file that takes them.
        stop: Asked if that file cannot be written.
        kept: What is abandoned stays in a store.

    Attributes:
        fields, screen, stop: As given.
        tracks: Whether each signal that is read will be enqueued: `close` says then what became of it.
        records: Records read.
        signals: Signals read, those that are none included.
        last: The last record.
        counts: Signals by what became of them.
    """

    def __init__(
        self,
        fields: Fields,
        screen: Screen,
        rejected: TextIO | None,
        stop: Stop,
        *,
        kept: bool = False,
    ) -> None:
        self.fields = fields
        self.screen = screen
        self._rejected = rejected
        self.stop = stop
        self._kept = kept
        self.tracks = True
        self.records: int = 0
        self.signals: int = 0
        self.last: Record | None = None
        self.counts: Counter[str] = Counter()
        self._under_way: dict[FeedSignal, None] = {}  # in the order read
        self._first_refused: tuple[int, int] | None = None  # number and line
        self._reasons: dict[tuple[str, str], _Reason] = {}  # by outcome and reason
        self._shown = 0

    def read(self, found: Record, now: datetime) -> list[FeedSignal]:
        """
        Enter a record and return its signals; what is none is refused.

        Args:
            found: The record.
            now: The timestamp of signals that have none.
        """
        self.records += 1
        self.last = found
        record = from_rejected_line(found)
        if record.error is not None:
            self.signals += 1
            more = {"cut": True} if record.cut else {}
            self._refuse(record, self.records, "invalid", record.error, record.value, kind=record.kind, **more)
            return []
        signals = []
        for signal, original in self.fields.signals(record.value, now):
            self.signals += 1
            if isinstance(signal, rb.RiskSignal):
                signals.append(FeedSignal.of(signal, record=record, number=self.records, original=original))
            else:
                self._refuse(record, self.records, "invalid", signal.reason, original, kind=signal.kind)
        if self.tracks:
            self._under_way.update(dict.fromkeys(signals))
        return signals

    def is_hopeless(self) -> bool:
        """Tell whether nothing of what was read so far is a signal, and it was much."""
        return self.counts["invalid"] == self.signals > HOPELESS

    def give_up_if_hopeless(self) -> None:
        """Raise NoSignals if it is."""
        if self.is_hopeless():
            refused = self.counts["invalid"]
            raise NoSignals(f"there is no signal among the first {refused:,} refused; the feed must be something else")

    def settled(self, receipt: rb.Receipt) -> None:
        """Enter the outcome of a signal."""
        signal = receipt.signal
        if not isinstance(signal, FeedSignal):
            signal = FeedSignal.from_store(signal)
        self._under_way.pop(signal, None)
        match receipt.outcome:
            case rb.Accepted():
                self.counts["accepted"] += 1
            case rb.Superseded():  # as --coalesce wants it: the newer one stands for it
                self.counts["superseded"] += 1
            case rb.Rejected(reason=reason, code=code):
                self._lose(signal, "rejected", f"Okta refused it: {reason}", code=code)
            case rb.Expired(may_have_arrived=maybe):
                self.expired(signal, maybe)
            case rb.Abandoned() if self._kept:
                pass  # the client's statistics count them, and also those that were never loaded
            case rb.Abandoned(reason=reason, may_have_arrived=maybe):
                self._lose(signal, "maybe sent" if maybe else "unsent", reason, maybe)
            case outcome:
                self._lose(signal, "unsent", type(outcome).__name__.lower())

    def expired(self, signal: FeedSignal, maybe: bool = False) -> None:
        """Enter a signal that expires before it could be sent; *maybe* it has arrived all the same."""
        self._lose(signal, "expired", "its expiresAt passed before it could be sent", maybe)

    def close(self, why: str) -> None:
        """Enter as unsent what was read and never admitted."""
        for signal in list(self._under_way):
            del self._under_way[signal]
            self._lose(signal, "unsent", why)

    def refused(self) -> int:
        """Return how many signals were not accepted so far."""
        return self.counts.total() - self.counts["accepted"] - self.counts["superseded"]

    def first_open(self) -> tuple[int, int] | None:
        """Return number and line of the first record that is not, or not yet, accepted."""
        signal = next(iter(self._under_way), None)
        under_way = [] if signal is None else [(signal.number, signal.record.line)]
        return min([*under_way, *([self._first_refused] if self._first_refused else [])], default=None)

    # -- refusals

    def _lose(
        self, signal: FeedSignal, outcome: str, reason: str, maybe: bool = False, code: str | None = None
    ) -> None:
        more: dict[str, Any] = {"may_have_arrived": True} if maybe else {}
        if code is not None:
            more["code"] = code
        self._refuse(signal.record, signal.number, outcome, reason, signal.original, **more)

    def _refuse(
        self,
        record: Record,
        number: int,
        outcome: str,
        reason: str,
        original: object,
        *,
        kind: str = "",
        **more: Any,
    ) -> None:
        self.counts[outcome] += 1
        self._count(outcome, kind or reason, record.line)
        if number:
            self._first_refused = min(self._first_refused or (number, record.line), (number, record.line))
        if self._rejected is not None:
            try:
                self._rejected.write(refusal(record, number, outcome, reason, original, **more) + "\n")
                return
            except OSError as error:
                self._rejected = None
                self.stop.ask(f"cannot write to --rejected: {because(error)}", NOT_ACCEPTED)
        if outcome == "unsent":  # there may be thousands; the report says where to go on
            return
        self._shown += 1
        if self._shown <= SHOWN:
            self.screen.say(printable(f"{f'line {record.line}' if number else 'from the store'}: {reason}", 500))
        elif self._shown == SHOWN + 1:
            self.screen.say("... and more; --rejected FILE would keep them all")

    def _count(self, outcome: str, reason: str, line: int) -> None:
        key = outcome, printable(reason, 500)
        if key not in self._reasons and len(self._reasons) >= KINDS:
            key = outcome, "other reasons"
        first = self._reasons.setdefault(key, _Reason(0, line))
        first.count += 1

    # -- what it comes to

    def table(self) -> Iterator[str]:
        """Yield the lines that say how many signals came to which end, and why."""
        for outcome, meaning in MEANINGS.items():
            if self.counts[outcome] or outcome == "accepted":
                yield f"  {self.counts[outcome]:>9} {outcome:<11}{meaning}".rstrip()
        for (outcome, reason), found in self._reasons.items():
            if outcome != "unsent":
                where = f"; the first on line {found.line}" if found.line else ""
                yield f"  {outcome}, {counted(found.count, 'time')}: {reason}{where}"

    def to_json(self) -> dict[str, object]:
        """Return the part of `--report` that is the same for all runs."""
        return {
            "records": self.records,
            "signals": self.signals,
            "outcomes": {name.replace(" ", "_"): self.counts[name] for name in MEANINGS},
            "reasons": [
                {"outcome": outcome, "reason": reason, "count": found.count, "first_line": found.line or None}
                for (outcome, reason), found in self._reasons.items()
            ],
        }


def write_report(file: TextIO, report: dict[str, object]) -> None:
    """Write the one object of `--report`."""
    json.dump(report, file, indent=2)
    file.write("\n")
