"""
What `enqueue` returns, and the closed set of ways in which a signal can end.

Every admitted signal is settled exactly once, with one of six outcomes. An outcome is a value: `await receipt` does
not raise for what the server, the clock or the queue decided.
"""

import asyncio
from collections.abc import Generator
from contextlib import suppress
from datetime import datetime
from typing import TypeAlias

from attrs import frozen

from .errors import RiskbatchError
from .signals import RiskSignal
from .threads import LoopFuture, check_loop


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


class Receipt:
    """
    The promise that one signal will be settled; `await receipt` returns the outcome.

    It is the one object of a signal on its way: what `enqueue` returns is what waits, rides in a batch, is settled, and
    is given to `on_settled`. It may be awaited by any number of tasks, at any time, or by none. Cancelling a wait
    recalls nothing. Instants are on the loop clock, in seconds.

    Attributes:
        signal: The signal it stands for.
        outcome: How the signal ended, `None` until then.
        attempts: How many requests have carried the signal.
        admitted_at: When the signal was admitted; a signal that supersedes another of its level inherits it.
        sequence: The number of its admission; a larger one is newer.
        place: Its place in line within its level: the sequence, or inherited with `admitted_at`.
        deadline: `expires_at` on the loop clock, `None` if it never expires.
        may_have_arrived: A request carried it and the answer was lost.
    """

    __slots__ = (
        "__weakref__",
        "_loop",
        "_waiters",
        "admitted_at",
        "attempts",
        "deadline",
        "may_have_arrived",
        "outcome",
        "place",
        "sequence",
        "signal",
    )

    def __init__(
        self,
        signal: RiskSignal,
        sequence: int,
        admitted_at: float,
        loop: asyncio.AbstractEventLoop,
        deadline: float | None = None,
    ) -> None:
        self.signal: RiskSignal = signal
        self.sequence: int = sequence
        self.place: int = sequence
        self.admitted_at: float = admitted_at
        self.deadline: float | None = deadline
        self.attempts: int = 0
        self.may_have_arrived: bool = False
        self.outcome: Outcome | None = None
        self._loop = loop
        self._waiters: list[asyncio.Future[None] | LoopFuture[None]] | None = None  # most receipts have none

    def done(self) -> bool:
        """Tell whether the signal is settled."""
        return self.outcome is not None

    def settle(self, outcome: Outcome) -> None:
        """Give the signal its one outcome and wake all who wait for it. For the queue, which keeps the books."""
        if self.outcome is not None:
            raise RuntimeError(f"{self!r} is already settled")
        self.outcome = outcome
        for waiter in self._waiters or ():
            if not waiter.done():
                waiter.set_result(None)
        self._waiters = None

    def has_expired(self, now: float, wall: datetime | None = None) -> bool:
        """
        Tell whether the signal is worthless at *now* on the loop clock, or by the clock on the *wall*.

        The loop clock stands still while a machine sleeps; the wall clock may be set. Either is enough.
        """
        if self.deadline is None:
            return False
        expires_at = self.signal.expires_at
        return self.deadline <= now or (wall is not None and expires_at is not None and expires_at <= wall)

    def __await__(self) -> Generator[object, None, Outcome]:
        if self.outcome is None:
            check_loop(self._loop)
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._add_waiter(waiter)
            try:
                yield from waiter
            finally:
                self._remove_waiter(waiter)
        return self._settled()

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
            waiter: LoopFuture[None] = LoopFuture(self._loop)
            try:
                with suppress(RuntimeError):  # a loop that is closed; the future says so
                    self._loop.call_soon_threadsafe(self._add_waiter, waiter)
                waiter.result(timeout)
            except (TimeoutError, RiskbatchError):
                if self.outcome is None:
                    raise
            finally:
                with suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._remove_waiter, waiter)
        return self._settled()

    def _add_waiter(self, waiter: "asyncio.Future[None] | LoopFuture[None]") -> None:
        if self.outcome is not None:
            waiter.set_result(None)
        elif self._waiters is None:
            self._waiters = [waiter]
        else:
            self._waiters.append(waiter)

    def _remove_waiter(self, waiter: "asyncio.Future[None] | LoopFuture[None]") -> None:
        if self._waiters is not None and waiter in self._waiters:
            self._waiters.remove(waiter)

    def _settled(self) -> Outcome:
        assert self.outcome is not None  # noqa: S101 - it is set before anybody is woken
        return self.outcome

    def __repr__(self) -> str:
        state = "unsettled" if self.outcome is None else repr(self.outcome)
        return f"<Receipt {self.signal.risk_level.value} {self.signal.ip}: {state}>"
