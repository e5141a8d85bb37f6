"""The way in for other threads: a future that the event loop answers, and the hand-off of signals to the loop."""

import asyncio
import concurrent.futures
import logging
import math
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic
from typing import Generic, TypeVar

from .errors import ClientClosed, QueueFull, WrongLoop
from .log import SELDOM, log_fields
from .signals import RiskLevel, RiskSignal

logger = logging.getLogger("riskbatch")

T = TypeVar("T")

_PROBE_EVERY = 1.0  # seconds between two looks whether the loop that owes the answer is still there
_SLICE = 100  # signals admitted at once: with a durable store they share a transaction
_NO_LOOP = "the event loop was closed under the open client"
_CANCELLED = "the client's task was cancelled from outside"


def runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    """Tell whether this is *loop*'s own thread, in one of its turns."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def check_loop(loop: asyncio.AbstractEventLoop) -> None:
    """
    Refuse a caller that does not run on *loop*: nothing would ever wake it.

    Raises:
        WrongLoop: It runs on another event loop, in another thread without one, or in a forked process.
    """
    if not runs_here(loop):
        raise WrongLoop("a client and its receipts belong to the event loop, and the process, that opened the client")


class LoopFuture(concurrent.futures.Future[T]):
    """
    A `concurrent.futures.Future` whose answer comes from *loop*.

    `result()` and `exception()` wait as those of any such future do, in every thread but that of *loop*, where the
    wait would be for oneself: use `await asyncio.wrap_future(future)` there.

    Raises:
        WrongLoop: Waiting for it on its own loop, or in a forked process, where nothing will ever answer.
        ClientClosed: The loop was closed without an answer.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self._process = os.getpid()

    def result(self, timeout: float | None = None) -> T:
        """Return the answer, or raise what it is, after at most *timeout* seconds (`TimeoutError`)."""
        self._wait(timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the exception that is the answer, if it is one, after at most *timeout* seconds (`TimeoutError`)."""
        self._wait(timeout)
        return super().exception(0)

    def _wait(self, timeout: float | None) -> None:
        deadline = math.inf if timeout is None else monotonic() + timeout
        while not self.done() and (left := deadline - monotonic()) > 0:
            if runs_here(self._loop):
                raise WrongLoop("waiting here would stop the loop that is to answer: await asyncio.wrap_future(...)")
            if os.getpid() != self._process:
                raise WrongLoop("the client belongs to the process that opened it, and this is a fork of that")
            if self._loop.is_closed():
                raise ClientClosed("the event loop of the client was closed before it answered")
            concurrent.futures.wait([self], min(left, _PROBE_EVERY))


class Handoff(Generic[T]):
    """
    The signals that threads have submitted and that are not admitted yet: those of a level in order.

    Args:
        admit: Admits a signal, on the loop.
        capacity: The most signals that may be on their way; one more is `QueueFull`.
    """

    def __init__(self, admit: Callable[[RiskSignal], Awaitable[T]], capacity: int) -> None:
        self._admit = admit
        self._capacity = capacity
        self._loop = asyncio.get_running_loop()
        self._process = os.getpid()
        self._lock = threading.RLock()  # a signal handler may submit while its own thread does
        self._submitted: dict[RiskLevel, deque[tuple[RiskSignal, LoopFuture[T]]]] = {
            level: deque() for level in RiskLevel
        }
        self._admitters: dict[RiskLevel, asyncio.Task[None]] = {}
        self._admitting: set[LoopFuture[T]] = set()
        self._is_scheduled = False  # the loop will look at what was submitted
        self._closed: str | None = None
        self._failed_last = False
        self._quiet_until = -math.inf

    @property
    def size(self) -> int:
        """Signals that are neither admitted nor refused yet."""
        return len(self._admitting) + sum(map(len, self._submitted.values()))

    def submit(self, signal: RiskSignal) -> LoopFuture[T]:
        """Begin to admit *signal*, in any thread; see `Client.enqueue_threadsafe`. Never waits."""
        if os.getpid() != self._process:
            raise WrongLoop("the client belongs to the process that opened it, and this is a fork of that")
        future: LoopFuture[T] = LoopFuture(self._loop)
        with self._lock:
            if self._closed is not None or self._loop.is_closed():
                raise ClientClosed(self._closed or _NO_LOOP)
            if self.size >= self._capacity:
                raise QueueFull(f"{self._capacity} signals that threads submitted wait to be admitted")
            self._submitted[signal.risk_level].append((signal, future))
            is_first, self._is_scheduled = not self._is_scheduled, True
        if is_first:  # one call for all that is submitted until then: a call for each would hold up the loop
            try:
                self._loop.call_soon_threadsafe(self._start_admitters)
            except RuntimeError:
                self.abort(_NO_LOOP)
        return future

    def _start_admitters(self) -> None:
        self._is_scheduled = False
        for level, submitted in self._submitted.items():
            if submitted and level not in self._admitters:
                admitter = self._loop.create_task(self._admit_level(level), name=f"riskbatch admits {level.value}")
                self._admitters[level] = admitter
                admitter.add_done_callback(lambda _, level=level: self._end_admitter(level))  # type: ignore[misc]

    def _end_admitter(self, level: RiskLevel) -> None:
        del self._admitters[level]
        self._start_admitters()  # somebody may have cancelled the task alone

    async def _admit_level(self, level: RiskLevel) -> None:
        submitted = self._submitted[level]
        while submitted:
            taken = [submitted.popleft() for _ in range(min(len(submitted), _SLICE))]
            taken = [each for each in taken if each[1].set_running_or_notify_cancel()]
            futures = {future for _, future in taken}
            self._admitting |= futures
            try:
                await asyncio.gather(*(self._admit_one(signal, future) for signal, future in taken))
            finally:
                for future in futures & self._admitting:
                    self._refuse(future, ClientClosed(_CANCELLED))
            await asyncio.sleep(0)

    async def _admit_one(self, signal: RiskSignal, future: LoopFuture[T]) -> None:
        try:
            receipt = await self._admit(signal)
        except Exception as error:
            self._refuse(future, error)
        else:
            self._admitting.discard(future)
            future.set_result(receipt)
            self._failed_last = False

    def _refuse(self, future: LoopFuture[T], error: Exception) -> None:
        """Answer *future*, and log the first error in a row: most callers never look at the future."""
        self._admitting.discard(future)
        future.set_exception(error)
        now = self._loop.time()
        if not self._failed_last and now >= self._quiet_until:
            self._quiet_until = now + SELDOM
            text = "a thread's signal was not admitted; this is said once until one is: %s"
            extra = log_fields("not_admitted", reason=str(error), error=type(error).__name__)
            logger.warning(text, error, extra=extra)
        self._failed_last = True

    async def close(self, reason: str, grace: float) -> None:
        """Take no more in, and admit what there is room for within *grace* seconds."""
        with self._lock:
            self._closed = self._closed or reason
        self._start_admitters()
        if self._admitters:
            await asyncio.wait(self._admitters.values(), timeout=grace)

    def abort(self, reason: str) -> None:
        """Take no more in, and refuse what no admitter has taken. The queue is closed, and refuses the rest."""
        with self._lock:
            self._closed = self._closed or reason
            left = [future for submitted in self._submitted.values() for _, future in submitted]
            for submitted in self._submitted.values():
                submitted.clear()
        for future in left:
            if future.set_running_or_notify_cancel():
                self._refuse(future, ClientClosed(reason))

    async def finish(self) -> None:
        """Wait for the admitters, whoever cancels. The queue is closed, so it does not take long."""
        while self._admitters:
            with suppress(asyncio.CancelledError):
                await asyncio.wait(self._admitters.values())
