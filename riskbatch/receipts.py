"""
What `enqueue` returns, and the closed set of ways in which a signal can end.

Every admitted signal is settled exactly once, with one of six outcomes. An outcome is a value: `await receipt` does
not raise for what the server, the clock or the queue decided.
"""

import asyncio
import os
from collections.abc import Generator
from contextlib import suppress
from threading import get_ident
from typing import TypeAlias

from attrs import frozen

from .errors import RiskbatchError, WrongLoop
from .signals import RiskSignal
from .threads import Answer


@frozen
class Accepted:
    """Okta answered 202. `request_id` is its `X-Okta-Request-Id`, which finds the request in the System Log."""

    request_id: str | None = None


@frozen
class Rejected:
    """
    Okta refused this signal when it travelled alone; sending it again would be refused again.

    Attributes:
        reason: Okta's summary, with its causes.
        code: Okta's error code, such as `E0000001`; the only part meant for programs.
        status: The HTTP status, 400 or 413.
        request_id: Okta's `X-Okta-Request-Id`.
    """

    reason: str
    code: str | None = None
    status: int = 400
    request_id: str | None = None


@frozen
class Expired:
    """`expires_at` passed before the signal could be sent."""

    may_have_arrived: bool = False


@frozen
class Shed:
    """The queue was full (`when_full="shed"`) and this was the oldest signal of the lowest level."""

    may_have_arrived: bool = False


@frozen
class Superseded:
    """A newer signal for the same address took its place (`coalesce=True`); `by` is the newer one."""

    by: RiskSignal
    may_have_arrived: bool = False


@frozen
class Abandoned:
    """
    The client ended before the signal was settled otherwise.

    Attributes:
        reason: What ended it.
        may_have_arrived: True if a request with this signal was sent and its answer was lost, so that sending the
            signal again may send it twice. False means that Okta surely does not have it.
    """

    reason: str
    may_have_arrived: bool = False


Outcome: TypeAlias = Accepted | Rejected | Expired | Shed | Superseded | Abandoned


_process = object()  # another one in each forked child


def _fork() -> None:
    global _process  # noqa: PLW0603 - what it stands for is global
    _process = object()


os.register_at_fork(after_in_child=_fork)


class Home:
    """
    The event loop that opened a client, in its thread and process: where alone it may be used.

    `asyncio.get_running_loop` alone would do, but up to Python 3.11 it asks the kernel for the process each time.
    """

    __slots__ = ("_process", "_thread", "loop")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._thread = get_ident()
        self._process = _process

    def check(self) -> None:
        """Refuse callers elsewhere, as `check_loop` does."""
        if get_ident() != self._thread or not self.loop.is_running() or _process is not self._process:
            check_loop(self.loop)


def check_loop(loop: asyncio.AbstractEventLoop) -> None:
    """
    Refuse a caller that does not run on *loop*: nothing would ever wake it.

    Raises:
        WrongLoop: It runs on another event loop, in another thread without one, or in a forked process.
    """
    try:
        if asyncio.get_running_loop() is loop:
            return
    except RuntimeError:
        pass
    raise WrongLoop("a client and its receipts belong to the event loop, and the process, that opened the client")


class Receipt:
    """
    The promise that one signal will be settled; `await receipt` returns the outcome.

    May be awaited by any number of tasks, at any time, or by none. Cancelling a wait recalls nothing.

    Attributes:
        signal: The signal it stands for.
        outcome: How the signal ended, `None` until then.
        attempts: How many requests have carried the signal.
    """

    __slots__ = (
        "_loop",
        "_waiters",
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

    signal: RiskSignal
    outcome: Outcome | None
    attempts: int
    # The rest belongs to the queue: instants are on the loop clock, in seconds.
    number: int  # of admission
    place: int  # in line within a level: its number, or the inherited place of the one it superseded
    admitted_at: float  # inherited with the place
    deadline: float | None  # `expires_at` on the loop clock
    may_have_arrived: bool  # a request carried it and the answer was lost
    row: int | None  # where the durable store has it

    def __init__(
        self,
        signal: RiskSignal,
        number: int,
        admitted_at: float,
        deadline: float | None,
        loop: asyncio.AbstractEventLoop,
        *,
        row: int | None = None,
    ) -> None:
        self.signal = signal
        self.row = row
        self._loop = loop
        self.number = self.place = number
        self.admitted_at = admitted_at
        self.deadline = deadline
        self.outcome = None
        self.attempts = 0
        self.may_have_arrived = False
        self._waiters: list[asyncio.Future[None] | Answer[None]] | None = None

    def done(self) -> bool:
        """Tell whether the signal is settled."""
        return self.outcome is not None

    def __await__(self) -> Generator[object, None, Outcome]:
        if self.outcome is None:
            check_loop(self._loop)
            waiter: asyncio.Future[None] = self._loop.create_future()
            if self._waiters is None:
                self._waiters = []
            self._waiters.append(waiter)
            try:
                yield from waiter
            finally:
                if self._waiters is not None:  # cancelled, not settled
                    self._waiters.remove(waiter)
        assert self.outcome is not None  # noqa: S101 - settle() sets it before it wakes anybody
        return self.outcome

    def wait_threadsafe(self, timeout: float | None = None) -> Outcome:
        """
        Wait in another thread until the signal is settled, and return its outcome.

        Args:
            timeout: Seconds. `None` waits as long as it takes.

        Raises:
            TimeoutError: It was not settled within *timeout*. That recalls nothing.
            WrongLoop: Called on the client's own event loop, which would wait for itself; or in a forked process.
            ClientClosed: The event loop was closed under an open client, so that nothing will ever settle it.
        """
        if self.outcome is None:
            answer: Answer[None] = Answer(self._loop)
            try:
                with suppress(RuntimeError):  # a loop that is closed; the answer says so
                    self._loop.call_soon_threadsafe(self._join, answer)
                answer.result(timeout)
            except (TimeoutError, RiskbatchError):
                if self.outcome is None:
                    raise
            finally:
                with suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._leave, answer)
        assert self.outcome is not None  # noqa: S101 - settle() sets it before it wakes anybody
        return self.outcome

    def _join(self, answer: Answer[None]) -> None:
        if self.outcome is not None:
            answer.set_result(None)
        elif self._waiters is None:
            self._waiters = [answer]
        else:
            self._waiters.append(answer)

    def _leave(self, answer: Answer[None]) -> None:
        if self._waiters is not None and answer in self._waiters:
            self._waiters.remove(answer)

    def settle(self, outcome: Outcome) -> None:
        """Give the signal its one outcome and wake all who wait. For the queue, which keeps the books."""
        if self.outcome is not None:
            raise RuntimeError(f"{self!r} is already settled")
        self.outcome = outcome
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def __repr__(self) -> str:
        state = "unsettled" if self.outcome is None else repr(self.outcome)
        return f"<Receipt {self.signal.risk_level.value} {self.signal.ip}: {state}>"
