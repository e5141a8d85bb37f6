"""
The receipts that a replica has given out, and the fleet's notices of how signals ended.

A signal is settled where it was enqueued, whichever replica sent it: whoever removes its row from the engine puts a
notice in a stream, which all replicas read.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice

from ...alarm import Alarm
from ...books import Books
from ...queue import SLICE
from ...receipts import Abandoned, Accepted, Expired, Outcome, Receipt, Rejected, Shed, Superseded
from ...signals import RiskLevel, RiskSignal

Notice = tuple[str, str, str, str]  # place in the stream, outcome, its fields as JSON, ids with "!" if one may be there


class OwnReceipts:
    """
    The signals that this replica admitted and that are not settled.

    Args:
        books: The counts.
        alarm: Rings when nothing is left.

    Attributes:
        unsettled: By id, the oldest first.
        read_until: The last of the fleet's notices that was read.
        on_room: Called when some have ended, which makes room in the fleet.
    """

    def __init__(self, books: Books, alarm: Alarm) -> None:
        self.books = books
        self.unsettled: dict[int, Receipt] = {}
        self.read_until: str = "0-0"
        self.on_room: Callable[[], None] = lambda: None
        self._alarm = alarm
        self._counts = dict.fromkeys(RiskLevel, 0)
        self._in_flight: set[int] = set()

    @property
    def waiting(self) -> int:
        """Signals that are in none of this replica's own requests."""
        return len(self.unsettled) - len(self._in_flight)

    def waiting_by_level(self) -> dict[RiskLevel, int]:
        """Count them by level."""
        flying = Counter(self.unsettled[number].signal.risk_level for number in self._in_flight)
        return {level: count - flying[level] for level, count in self._counts.items()}

    def oldest_at(self, default: float) -> float:
        """Return when the oldest was admitted; *default* if there is none."""
        return next((receipt.admitted_at for receipt in self.unsettled.values()), default)

    def admit(self, signal: RiskSignal, number: int) -> Receipt:
        """Return the receipt of *signal*, which the engine has as *number*."""
        receipt = self.unsettled[number] = self.books.admit(signal, number)
        self._counts[signal.risk_level] += 1
        return receipt

    def withdraw(self, number: int) -> None:
        """Forget a signal whose `enqueue` was cancelled: it counts as never admitted."""
        if number in self.unsettled:
            self.books.withdraw(self._remove(number))

    def depart(self, numbers: Iterable[int]) -> None:
        """Count those of *numbers* that are this replica's own as in flight."""
        self._in_flight |= self.unsettled.keys() & set(numbers)
        self.books.in_flight = len(self._in_flight)

    def leave_flight(self, numbers: Iterable[int]) -> None:
        """Count *numbers* as in flight no more."""
        self._in_flight.difference_update(numbers)
        self.books.in_flight = len(self._in_flight)

    def _remove(self, number: int) -> Receipt:
        receipt = self.unsettled.pop(number)
        self._counts[receipt.signal.risk_level] -= 1
        self.leave_flight([number])
        return receipt

    def end(self, numbers: Iterable[int], outcome: Callable[[Receipt], Outcome]) -> None:
        """Settle those of *numbers* that are not settled yet: the only place that does."""
        ended = [self._remove(number) for number in numbers if number in self.unsettled]
        if not ended:
            return
        self.settle(ended, outcome)
        self.on_room()

    def settle(self, receipts: list[Receipt], outcome: Callable[[Receipt], Outcome]) -> None:
        """Settle *receipts* that never had a number, or have one no more."""
        self.books.settle(receipts, outcome)
        self.books.tell(receipts)
        if self.books.unsettled == 0:
            self._alarm.ring()

    async def read(self, notices: Iterable[Notice] | None) -> None:
        """Settle what the fleet tells of."""
        count = 0
        for place, kind, detail, ids in notices or ():
            self.read_until = place
            numbers = []
            for text in ids.split(","):
                receipt = self.unsettled.get(number := int(text.rstrip("!")))
                if receipt is not None:
                    receipt.may_have_arrived |= text.endswith("!")
                    numbers.append(number)
            self.end(numbers, _outcome(kind, detail))
            count += len(numbers)
            if count >= SLICE:
                count = 0
                await asyncio.sleep(0)

    def abandon(self, reason: str) -> bool:
        """Settle what waits as `Abandoned`, a slice at the most; the fleet keeps it, for the other replicas."""
        told = f"{reason}; it is kept in the store"
        self.end(list(islice(self.unsettled, SLICE)), lambda receipt: Abandoned(told, receipt.may_have_arrived))
        return bool(self.unsettled)


def _outcome(kind: str, detail: str) -> Callable[[Receipt], Outcome]:
    """Return what makes the outcome that a notice tells of."""
    told = json.loads(detail) if detail else {}
    match kind:
        case "Accepted":
            accepted = Accepted(**told)
            return lambda _: accepted
        case "Rejected":
            rejected = Rejected(**told)
            return lambda _: rejected
        case "Superseded":
            by = RiskSignal.from_json(told)
            return lambda receipt: Superseded(by, receipt.may_have_arrived)
        case "Expired":
            return lambda receipt: Expired(receipt.may_have_arrived)
        case "Shed":
            return lambda receipt: Shed(receipt.may_have_arrived)
        case _:
            return lambda receipt: Abandoned("dropped by an operator", receipt.may_have_arrived)
