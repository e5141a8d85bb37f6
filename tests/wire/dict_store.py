"""A store that somebody else has written, from the docstrings of `riskbatch.Store`: dictionaries that outlive it."""

from datetime import UTC, datetime

from attrs import evolve, frozen

import riskbatch as rb


@frozen
class Row:
    row: int
    signal: rb.RiskSignal
    enqueued_at: datetime
    attempts: int = 0
    may_have_arrived: bool = False


@frozen
class Backlog:
    newest: int
    waiting: dict[rb.RiskLevel, int]
    next_expiry: datetime | None


class Place:
    """What stays when no store has it open."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.is_owned = False


class DictStore:
    def __init__(self, place: Place) -> None:
        self.place = place
        self.is_open = False
        self.next = 1

    def _check(self) -> dict[int, Row]:
        if not self.is_open:
            raise rb.StoreError("not open")
        return self.place.rows

    async def open(self, *, by_address: bool) -> Backlog:
        if self.place.is_owned:
            raise rb.StoreError("in use")
        self.place.is_owned = self.is_open = True
        rows = self.place.rows.values()
        newest = max((row.row for row in rows), default=0)
        self.next = newest + 1
        waiting = {level: sum(row.signal.risk_level is level for row in rows) for level in rb.RiskLevel}
        expiries = [row.signal.expires_at for row in rows if row.signal.expires_at is not None]
        return Backlog(newest, waiting, min(expiries, default=None))

    async def add(self, signals):
        rows = self._check()
        added = range(self.next, self.next + len(signals))
        self.next += len(signals)
        rows |= {row: Row(row, signal, datetime.now(UTC)) for row, signal in zip(added, signals, strict=True)}
        return added

    async def withdraw(self, signals, rows):
        for row in rows:
            self._check().pop(row)

    async def load(self, level, after, limit):
        rows = sorted(self._check().items())
        return [row for key, row in rows if key > after and row.signal.risk_level is level][:limit]

    async def find(self, ips):
        return [row for row in self._check().values() if row.signal.ip in ips]

    async def due(self, until, limit):
        rows = [row for row in self._check().values() if row.signal.expires_at is not None]
        later = [row.signal.expires_at for row in rows if row.signal.expires_at > until]
        return [row for row in rows if row.signal.expires_at <= until][:limit], min(later, default=None)

    def settle(self, receipts):
        for receipt in receipts:
            self.place.rows.pop(receipt.row, None)

    def succeed(self, old, new):
        self.place.rows[old.row] = evolve(self.place.rows.pop(new.row), row=old.row)

    def note(self, receipts):
        for r in receipts:
            row = self.place.rows[r.row]
            self.place.rows[r.row] = evolve(row, attempts=r.attempts, may_have_arrived=r.may_have_arrived)

    async def close(self):
        self.abort()

    def abort(self):
        if self.is_open:
            self.place.is_owned = self.is_open = False
