"""Which row of a store each receipt has, and what becomes of it when the signal is tried, settled or superseded."""

from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

from ...receipts import Abandoned, Receipt, Superseded
from .store import SqliteStore


class ReceiptRows:
    """
    The rows of receipts. A receipt's row is its sequence, or the one that it has inherited; a sequence of 0 has none.

    Args:
        store: Where the rows are.

    Attributes:
        successors: By place: the receipts that have taken the place of what is superseded next, on disk.
    """

    def __init__(self, store: SqliteStore) -> None:
        self.successors: dict[int, Receipt] = {}
        self._store = store
        self._inherited: WeakKeyDictionary[Receipt, int] = WeakKeyDictionary()

    def note(self, receipts: Sequence[Receipt]) -> None:
        """Let the store remember what was tried."""
        self._store.note([(self._row(receipt), receipt) for receipt in receipts])

    def record(self, settled: Sequence[Receipt], waiting_for: Callable[[str], Receipt | None]) -> None:
        """
        Let the store forget what is *settled*. What was abandoned stays, for the next client.

        Args:
            settled: Receipts that have their outcomes.
            waiting_for: Returns the receipt in memory that waits for an address.
        """
        ended = [(self._row(receipt), receipt) for receipt in settled if not isinstance(receipt.outcome, Abandoned)]
        self._store.settle([(row, receipt) for row, receipt in ended if row])
        for row, receipt in ended:
            if isinstance(receipt.outcome, Superseded):
                successor = self.successors.pop(receipt.place, None) or waiting_for(receipt.signal.ip)
                if successor is not None and successor.place == row:
                    self._inherit(row, successor)

    def _inherit(self, row: int, successor: Receipt) -> None:
        """Give *row* to *successor*; or after a restart it would stand behind what it stands before."""
        if self._row(successor) != row:
            self._store.replace(successor.signal.risk_level, row, self._row(successor))
            self._inherited[successor] = row

    def _row(self, receipt: Receipt) -> int:
        return self._inherited.get(receipt, receipt.sequence)
