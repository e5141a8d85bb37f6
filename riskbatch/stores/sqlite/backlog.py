"""
What a store has beyond memory: which rows are on disk only, and when they come into memory.

Of each level, what stands in memory is the beginning of what the store has. While rows of a level are on disk only,
newcomers of that level stay there too, and are loaded in turn. So memory is bounded, whatever the store holds and
whatever comes, and within a level the order of the rows is the order of sending.

Like the prioritizer, this settles nothing: what must be settled is returned.
"""

import asyncio
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import compress, islice
from weakref import WeakValueDictionary

from ...books import deadline
from ...prioritizer import Prioritizer
from ...queue import SLICE
from ...receipts import Receipt
from ...signals import RiskLevel, RiskSignal
from .. import StoredSignal
from .receipt_rows import ReceiptRows
from .store import SqliteStore

HEAD = 2_000  # signals of a level in memory from which on newcomers stay on disk
CHUNK = 250  # signals loaded at once: some 2 ms of the event loop
_SOON = 0.02  # seconds until the next look, if more has expired than was returned


class Backlog:
    """
    The rows of *store* that no receipt in memory stands for, and those for which one does.

    Args:
        store: Where all of them are.

    Attributes:
        on_disk: How many rows of each level are on disk only.
        expires_at: When the first of them may expire, on the loop clock.
        newest: The largest row that has come in.
        rows: Which row each receipt has, and what becomes of it.
        lock: Held while somebody looks at rows on disk and then acts.
    """

    def __init__(self, store: SqliteStore) -> None:
        self.on_disk: dict[RiskLevel, int] = dict.fromkeys(RiskLevel, 0)
        self.expires_at: float = math.inf
        self.lock: asyncio.Lock = asyncio.Lock()
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._loaded = dict.fromkeys(RiskLevel, 0)  # the row up to which memory has had all of a level
        self.newest: int = 0
        self.rows: ReceiptRows = ReceiptRows(store)
        self._coming: set[int] = set()  # rows that are written and have not come in yet
        self._held: WeakValueDictionary[int, Receipt] = WeakValueDictionary()  # by row: receipts of what is on disk
        self._older: dict[str, list[Receipt]] | None = None  # by address: what is on disk; see `find`

    @property
    def size(self) -> int:
        """How many rows are on disk only."""
        return sum(self.on_disk.values())

    async def open(self, *, by_address: bool) -> int:
        """Own the store, and return how many signals it holds; none is in memory yet."""
        found = await self._store.open(by_address=by_address)
        self.newest = found.newest
        self.on_disk.update(found.waiting)
        self._expect(found.next_expiry)
        return self.size

    def _expect(self, expiry: datetime | None) -> None:
        waits = math.inf if expiry is None else (expiry - datetime.now(UTC)).total_seconds()
        self.expires_at = self._loop.time() + waits

    # -- coming in

    async def add(self, signals: Sequence[RiskSignal]) -> Sequence[int]:
        """Return the rows of *signals* once the store has them; 0 for those that have expired, which it need not."""
        now = datetime.now(UTC)
        lasts = [signal.expires_at is None or signal.expires_at > now for signal in signals]
        lasting = list(compress(signals, lasts))
        added = iter(await self._store.add(lasting) if lasting else ())
        rows = [next(added) if is_lasting else 0 for is_lasting in lasts]
        self._coming.update(rows)
        self._coming.discard(0)
        return rows

    async def withdraw(self, rows: Sequence[int]) -> None:
        """Return when *rows*, which have not come in, are gone."""
        self._coming.difference_update(rows)
        await self._store.withdraw([row for row in rows if row])

    async def find(self, signals: Sequence[RiskSignal]) -> None:
        """Look up what is on disk for the addresses of *signals*, which come in next. The caller holds the lock."""
        until = self._until()
        found = await self._store.find([signal.ip for signal in signals])
        self._older = {}
        for stored in sorted(found, key=lambda stored: stored.row):
            if self._loaded[stored.signal.risk_level] < stored.row <= until:
                self._older.setdefault(stored.signal.ip, []).append(self._receipt(stored))

    def forget_found(self) -> None:
        """Forget what `find` has found: they have come in."""
        self._older = None

    def supersedes(self, signal: RiskSignal) -> bool:
        """Tell whether something for the address of *signal* was found on disk."""
        return signal.ip in (self._older or ())

    def come_in(self, rows: Sequence[int]) -> None:
        """Note that the signals of *rows* come in now, in this turn of the event loop."""
        self._coming.difference_update(rows)
        self.newest = max(self.newest, *rows)

    def line_up(self, newcomer: Receipt, prioritizer: Prioritizer) -> list[Receipt]:
        """Let *newcomer* wait, in memory or on disk; return what it supersedes."""
        superseded = [] if self._older is None else self._older.pop(newcomer.signal.ip, [])
        self._leave_disk(superseded)
        in_memory = prioritizer.waiting_for(newcomer.signal.ip)
        if in_memory is not None:
            superseded.append(in_memory)
        if self._stays(newcomer, in_memory, prioritizer):
            if in_memory is not None:
                prioritizer.remove(in_memory)
            self._keep(newcomer, superseded)
        else:
            prioritizer.admit(newcomer)
        return superseded

    def _leave_disk(self, receipts: Sequence[Receipt]) -> None:
        for receipt in receipts:
            self.on_disk[receipt.signal.risk_level] -= 1
            self._held.pop(receipt.place, None)

    def _stays(self, newcomer: Receipt, in_memory: Receipt | None, prioritizer: Prioritizer) -> bool:
        level = newcomer.signal.risk_level
        if in_memory is not None and in_memory.signal.risk_level is level:
            return False  # it takes the place of what is in memory
        is_full = self.on_disk[level] > 0 or len(prioritizer.lanes[level]) >= HEAD
        if is_full and newcomer.sequence > self._loaded[level]:
            return True
        self._loaded[level] = max(self._loaded[level], newcomer.sequence)
        return False

    def _keep(self, newcomer: Receipt, superseded: Sequence[Receipt]) -> None:
        """Count *newcomer* as on disk, in the place of the first of its level that it has superseded there."""
        level = newcomer.signal.risk_level
        first = next((old for old in superseded if old.signal.risk_level is level), None)
        if first is not None:
            newcomer.place, newcomer.admitted_at = first.place, first.admitted_at
            self.rows.successors[first.place] = newcomer
        self.on_disk[level] += 1
        self._held[newcomer.place] = newcomer
        if self._older is not None:
            self._older[newcomer.signal.ip] = [newcomer]  # the next of the same call may be for the same address
        if newcomer.deadline is not None:
            self.expires_at = min(self.expires_at, newcomer.deadline)

    # -- from disk

    def _until(self) -> int:
        """Return the row up to which all have come in, or are gone: what is read up to there is not about to come."""
        return min(self._coming, default=self.newest + 1) - 1

    async def load(self, level: RiskLevel) -> tuple[list[Receipt], int]:
        """
        Return the next receipts of *level*, and how many rows between them cannot be read and count no longer.

        The caller holds the lock.
        """
        after, until = self._loaded[level], self._until()
        if not self.on_disk[level] or until <= after:
            return [], 0
        chunk = await self._store.load(level, after, until, CHUNK)
        self._loaded[level] = max(self._loaded[level], chunk.last)
        self.on_disk[level] -= chunk.damaged
        receipts = [self._receipt(stored) for stored in chunk.signals]
        self._leave_disk(receipts)
        return receipts, chunk.damaged

    async def due(self) -> list[Receipt]:
        """Return receipts of what has expired on disk, and is there no longer. The caller holds the lock."""
        until = self._until()  # what comes in while the file is read may have been settled as expired already
        found, later = await self._store.due(datetime.now(UTC), SLICE)
        self._expect(later)
        if len(found) == SLICE or any(each.row > until for each in found):
            self.expires_at = self._loop.time() + _SOON
        on_disk = (each for each in found if self._loaded[each.signal.risk_level] < each.row <= until)
        expired = [self._receipt(each) for each in on_disk]
        self._leave_disk(expired)
        return expired

    def _receipt(self, stored: StoredSignal) -> Receipt:
        """Return the very receipt that `enqueue` has returned, if somebody holds it; else make one."""
        held = self._held.get(stored.row)
        if held is not None:
            return held
        now = self._loop.time()
        waited = max(0.0, (datetime.now(UTC) - stored.enqueued_at).total_seconds())
        receipt = Receipt(stored.signal, stored.row, now - waited, self._loop, deadline(stored.signal, now))
        receipt.attempts, receipt.may_have_arrived = stored.attempts, stored.may_have_arrived
        return receipt

    # -- the end

    def abandon(self, most: int) -> list[Receipt]:
        """Return up to *most* receipts that somebody holds of what is on disk; it counts no longer."""
        held = list(islice(self._held.values(), most))
        self._leave_disk(held)
        return held

    def abandon_rest(self) -> int:
        """Return how many rows are on disk of which nobody holds a receipt; they count no longer."""
        count = self.size
        self.on_disk = dict.fromkeys(RiskLevel, 0)
        self.expires_at = math.inf
        return count
