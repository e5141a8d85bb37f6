"""How many signals came in, are in flight, and ended how; who is told of it, and who waits for it."""

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import get_args

from .log import SELDOM, log_fields
from .receipts import Abandoned, Outcome, Receipt
from .signals import RiskSignal

logger = logging.getLogger("riskbatch")

_NESTED_HOOKS = 50  # far below Python's limit, at which an error could strike anywhere


class Books:
    """
    How many signals came in, are in flight, and ended how; and who is told.

    Args:
        on_settled: Called with each receipt once it is settled; what it raises is logged and counted.
        watchers: Called with those that were settled together; they raise nothing.

    Attributes:
        admitted: Signals that were admitted, ever.
        in_flight: Signals in requests that have no answer yet.
        settled: Signals that have an outcome, by its type.
        last: The newest sequence.
        hook_errors: Times *on_settled* raised.
    """

    def __init__(
        self,
        on_settled: Callable[[Receipt], object] | None = None,
        watchers: Sequence[Callable[[Sequence[Receipt]], object]] = (),
    ) -> None:
        self.admitted: int = 0
        self.in_flight = 0
        self.settled: dict[type[Outcome], int] = dict.fromkeys(get_args(Outcome), 0)
        self.last: int = 0
        self.hook_errors: int = 0
        self._on_settled = on_settled
        self._watchers = watchers
        self._loop = asyncio.get_running_loop()
        self._flushes: list[_Flush] = []
        self._hooks_inside = 0  # calls of the hook that have not returned: a hook may enqueue, and so settle, again
        self._hook_failed_last = False
        self._hook_quiet_until = -math.inf

    @property
    def unsettled(self) -> int:
        """Signals that wait or are in flight."""
        return self.admitted - sum(self.settled.values())

    @property
    def flushing(self) -> bool:
        """Whether somebody waits for all to be settled."""
        return bool(self._flushes)

    def admit(self, signal: RiskSignal, row: int | None = None) -> Receipt:
        """Count *signal* as admitted and return its receipt; *row* is its sequence, if a store has given it one."""
        now = self._loop.time()
        sequence = self.last + 1 if row is None else row
        self.last = max(self.last, sequence)
        self.admitted += 1
        return Receipt(signal, sequence, now, self._loop, deadline(signal, now))

    def settle(self, receipts: Sequence[Receipt], outcome: Callable[[Receipt], Outcome]) -> None:
        """Give *receipts*, which neither wait nor are in flight, their outcomes."""
        for receipt in receipts:
            ended = outcome(receipt)
            receipt.settle(ended)
            self.settled[type(ended)] += 1
            for flush in self._flushes:
                if receipt.sequence <= flush.last:
                    flush.count(1)

    def withdraw(self, receipt: Receipt) -> None:
        """Count *receipt* as never admitted, since its `enqueue` was cancelled while a store admitted it."""
        self.admitted -= 1
        for flush in self._flushes:
            if receipt.sequence <= flush.last:
                flush.count(1)

    def lose(self, count: int) -> None:
        """Count *count* admitted signals no longer: the store that had them cannot read them."""
        self.admitted -= count
        for flush in self._flushes:
            flush.count(count)

    def abandon(self, count: int) -> None:
        """Count *count* signals as abandoned that are in a store only, and of which nobody holds a receipt."""
        self.settled[Abandoned] += count
        for flush in self._flushes:
            flush.count(count)

    def tell(self, receipts: Sequence[Receipt]) -> None:
        """Tell watchers and hook of *receipts* that were settled together, once the books balance."""
        for watch in self._watchers:
            watch(receipts)
        if self._on_settled is not None:
            for receipt in receipts:
                self._call_hook(self._on_settled, receipt)

    def _call_hook(self, on_settled: Callable[[Receipt], object], receipt: Receipt) -> None:
        self._hooks_inside += 1
        try:
            if self._hooks_inside > _NESTED_HOOKS:
                raise RecursionError("on_settled enqueues what ends at once, again and again")
            on_settled(receipt)
        except (Exception, asyncio.CancelledError):  # the latter is what the result of a cancelled future raises
            self.hook_errors += 1
            if not self._hook_failed_last and self._loop.time() >= self._hook_quiet_until:
                self._hook_quiet_until = self._loop.time() + SELDOM
                text, extra = "on_settled raised; this is said once until it succeeds again", log_fields("hook_failed")
                logger.exception(text, extra=extra)
            self._hook_failed_last = True
        else:
            self._hook_failed_last = False
        finally:
            self._hooks_inside -= 1

    async def flush(self, timeout: float | None) -> int:
        """Wait until all that is admitted now is settled; return how much is not after *timeout* seconds."""
        flush = _Flush(self._loop.create_future(), self.last, self.unsettled)
        if flush.left == 0:
            return 0
        self._flushes.append(flush)
        try:
            async with asyncio.timeout(timeout):
                await flush.done
        except TimeoutError:
            pass
        finally:
            self._flushes.remove(flush)
        return flush.left


class _Flush:
    """Counts down the signals that were unsettled when it began: those up to the sequence *last*."""

    def __init__(self, done: asyncio.Future[None], last: int, left: int) -> None:
        self.done = done
        self.last = last
        self.left = left

    def count(self, settled: int) -> None:
        self.left -= settled
        if self.left == 0 and not self.done.done():
            self.done.set_result(None)


def deadline(signal: RiskSignal, now: float) -> float | None:
    """Return when *signal* expires on the loop clock, which shows *now*; `None` if it never does."""
    if signal.expires_at is None:
        return None
    return now + (signal.expires_at - datetime.now(UTC)).total_seconds()
