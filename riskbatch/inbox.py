"""
What other threads hand in: signals on their way to the queue, each with an `Answer` that becomes its receipt.

No lock: whoever hands in appends first and then looks whether all is over; whoever ends it says so first and then takes
out what is there. So one of the two sees each signal, and none is left behind without an answer.
"""

import asyncio
import logging
import math
import os
from collections import deque
from contextlib import suppress
from itertools import dropwhile

from .errors import ClientClosed, QueueFull, WrongLoop
from .log import SELDOM, log_fields
from .queue import Queue
from .receipts import Receipt
from .signals import RiskLevel, RiskSignal
from .threads import Answer

logger = logging.getLogger("riskbatch")

_CHUNK = 100  # signals of a level admitted at once: with a durable store they share a transaction
_NO_LOOP = "the event loop was closed under the open client"
_CANCELLED = "the client's task was cancelled from outside"


class Inbox:
    """
    The signals that threads have handed in and that *queue* has not admitted yet.

    Args:
        queue: Where they go: by level, and the first handed in first.
        capacity: The most that may be on their way; one more is `QueueFull`.
    """

    def __init__(self, queue: Queue, capacity: int) -> None:
        self._queue = queue
        self._capacity = capacity
        self._loop = asyncio.get_running_loop()
        self._process = os.getpid()
        self._lanes: dict[RiskLevel, deque[tuple[RiskSignal, Answer[Receipt]]]] = {}  # each made when it is needed
        self._porters: dict[RiskLevel, asyncio.Task[None]] = {}
        self._carried: set[Answer[Receipt]] = set()  # taken out of the lanes, and not admitted yet
        self._called = False  # the loop will look
        self._closed: str | None = None
        self._over = False  # closed, and its grace has passed
        self._failed_last = False
        self._quiet_until = -math.inf

    @property
    def size(self) -> int:
        """Signals that are neither admitted nor refused yet."""
        return len(self._carried) + sum(map(len, list(self._lanes.values())))

    # -- in any thread

    def hand_in(self, signal: RiskSignal) -> Answer[Receipt]:
        """Begin to admit *signal*; see `Client.enqueue_threadsafe`. Never waits."""
        if os.getpid() != self._process:
            raise WrongLoop("the client belongs to the process that opened it, and this is a fork of that")
        if self._closed is not None or self._loop.is_closed():
            raise ClientClosed(self._closed or _NO_LOOP)
        if self.size >= self._capacity:
            raise QueueFull(f"{self._capacity} signals that threads handed in wait to be admitted")
        answer: Answer[Receipt] = Answer(self._loop)
        self._lanes.setdefault(signal.risk_level, deque()).append((signal, answer))
        self._call()
        if self._over:
            self._refuse_all(self._closed or _NO_LOOP)
        return answer

    def _call(self) -> None:
        """Have the loop look once for all that is handed in until then: a call for each would hold it up."""
        if self._called:
            return
        try:
            self._called = True
            self._loop.call_soon_threadsafe(self._look)
        except RuntimeError:
            self.abort(_NO_LOOP)
        except BaseException:  # a signal's handler that raises
            self._called = False
            raise

    # -- on the loop

    def _look(self) -> None:
        self._called = False
        for level, lane in list(self._lanes.items()):
            if lane and level not in self._porters:
                porter = self._loop.create_task(self._carry(level), name=f"riskbatch admits {level.value} of threads")
                self._porters[level] = porter
                porter.add_done_callback(lambda _, level=level: self._rest(level))  # type: ignore[misc]

    def _rest(self, level: RiskLevel) -> None:
        del self._porters[level]
        if not self._over:
            self._look()  # somebody may have cancelled the task alone

    async def _carry(self, level: RiskLevel) -> None:
        lane = self._lanes[level]
        while lane:
            chunk = [lane.popleft() for _ in range(min(len(lane), _CHUNK))]
            chunk = [each for each in chunk if each[1].set_running_or_notify_cancel()]
            self._carried.update(answer for _, answer in chunk)
            try:
                # Those after the first that has to wait do so too, or they would go before it.
                await asyncio.gather(*(self._admit(*each) for each in dropwhile(self._admit_at_once, chunk)))
            finally:
                for answer in self._carried.intersection(answer for _, answer in chunk):
                    self._refuse(answer, ClientClosed(_CANCELLED))
            await asyncio.sleep(0)

    def _admit_at_once(self, each: tuple[RiskSignal, Answer[Receipt]]) -> bool:
        receipt = self._queue.admit_at_once(each[0])
        if receipt is not None:
            self._answer(each[1], receipt)
        return receipt is not None

    async def _admit(self, signal: RiskSignal, answer: Answer[Receipt]) -> None:
        try:
            self._answer(answer, await self._queue.admit(signal, None))
        except Exception as error:
            self._refuse(answer, error)

    def _answer(self, answer: Answer[Receipt], receipt: Receipt) -> None:
        self._carried.discard(answer)
        answer.set_result(receipt)
        self._failed_last = False

    def _refuse(self, answer: Answer[Receipt], error: Exception) -> None:
        self._carried.discard(answer)
        if answer.running() or answer.set_running_or_notify_cancel():
            answer.set_exception(error)
            self._say(error)

    def _say(self, error: Exception) -> None:
        """Log the first of a row, since most callers will never look at the answer; at most one line a minute."""
        now = self._loop.time()
        if not self._failed_last and now >= self._quiet_until:
            self._quiet_until = now + SELDOM
            text = "a thread's signal was not admitted; this is said once until one is: %s"
            logger.warning(text, error, extra=log_fields("not_admitted", reason=str(error), error=type(error).__name__))
        self._failed_last = True

    def _refuse_all(self, reason: str) -> None:
        for lane in list(self._lanes.values()):
            with suppress(IndexError):  # another thread may be at it too
                while True:
                    self._refuse(lane.popleft()[1], ClientClosed(reason))

    # -- the end

    async def close(self, reason: str, grace: float) -> None:
        """Take no more in, and admit what there is room for within *grace* seconds."""
        self._closed = self._closed or reason
        if self.size:
            self._look()
            await asyncio.wait(self._porters.values(), timeout=grace)

    def abort(self, reason: str) -> None:
        """Take no more in, and refuse what no porter carries yet. The queue is closed, and refuses the rest."""
        self._closed, self._over = self._closed or reason, True
        self._refuse_all(reason)

    async def finish(self) -> None:
        """Wait for the porters, whoever cancels. The queue is closed, so it does not take long."""
        while self._porters:
            with suppress(asyncio.CancelledError):
                await asyncio.wait(self._porters.values())
