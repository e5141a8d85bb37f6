"""
What `enqueue` returns, and the closed set of ways in which a signal can end.

Every admitted signal is settled exactly once, with one of six outcomes. An outcome is a value: `await receipt` does
not raise for what the server, the clock or the queue decided.
"""

import asyncio
import math
from array import array
from collections.abc import Generator
from contextlib import suppress
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


PAD = 512  # receipts on a pad, which takes some 10 KB once one of them is told anything
_NOTHING: tuple[float, int, Outcome | None] = (math.nan, 0, None)


class Pad:
    """
    What has become of `PAD` receipts with consecutive numbers. It lives as long as one of them does.

    Attributes:
        loop: Of the client.
    """

    __slots__ = ("__weakref__", "_columns", "_waiters", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._columns: tuple[array[float], array[int], list[Outcome | None]] | None = None  # see `tell`
        self._waiters: dict[int, list[asyncio.Future[None] | Answer[None]]] = {}

    def known(self, number: int) -> tuple[float, int, Outcome | None]:
        """Return what was told last of the signal with this *number*."""
        if self._columns is None:
            return _NOTHING
        times, tries, outcomes = self._columns
        index = number % PAD
        return times[index], tries[index], outcomes[index]

    def tell(self, number: int, admitted_at: float, attempts: int, outcome: Outcome | None) -> None:
        """Note what has become of the signal with this *number*, and wake all who wait if it has ended."""
        if self._columns is None:  # most pads are gone before
            self._columns = array("d", [math.nan]) * PAD, array("I", [0]) * PAD, [None] * PAD
        times, tries, outcomes = self._columns
        index = number % PAD
        times[index], tries[index], outcomes[index] = admitted_at, attempts, outcome
        if outcome is not None:
            for waiter in self._waiters.pop(number, ()):
                if not waiter.done():
                    waiter.set_result(None)

    def join(self, number: int, waiter: "asyncio.Future[None] | Answer[None]") -> None:
        """Let *waiter* have its result when that signal has ended."""
        if self.known(number)[2] is not None:
            waiter.set_result(None)
        else:
            self._waiters.setdefault(number, []).append(waiter)

    def leave(self, number: int, waiter: "asyncio.Future[None] | Answer[None]") -> None:
        """Forget *waiter*, who waits no more."""
        waiters = self._waiters.get(number, [])
        if waiter in waiters:
            waiters.remove(waiter)
            if not waiters:
                del self._waiters[number]


class Receipt:
    """
    The promise that one signal will be settled; `await receipt` returns the outcome.

    May be awaited by any number of tasks, at any time, or by none. Cancelling a wait recalls nothing. `on_settled` gets
    another object than `enqueue` returned, which is equal to it and has an equal signal.

    Attributes:
        signal: The signal it stands for.
    """

    __slots__ = ("_pad", "number", "signal")

    # Most receipts are dropped at once, so that one is as little as can be, and its state is on the pad. There is no
    # `__init__`, which would be an eighth of all that `enqueue` costs: `Queue` sets these.
    signal: RiskSignal
    number: int  # of admission
    _pad: Pad

    @property
    def outcome(self) -> Outcome | None:
        """How the signal ended, `None` until then."""
        return self._pad.known(self.number)[2]

    @property
    def attempts(self) -> int:
        """How many requests have carried the signal."""
        return self._pad.known(self.number)[1]

    @property
    def admitted_at(self) -> float:
        """When the signal was admitted, in seconds on the loop clock; known once a request has carried it."""
        return self._pad.known(self.number)[0]

    def done(self) -> bool:
        """Tell whether the signal is settled."""
        return self.outcome is not None

    def __await__(self) -> Generator[object, None, Outcome]:
        pad, number = self._pad, self.number
        if self.outcome is None:
            check_loop(pad.loop)
            waiter: asyncio.Future[None] = pad.loop.create_future()
            pad.join(number, waiter)
            try:
                yield from waiter
            finally:
                pad.leave(number, waiter)
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
        pad, number = self._pad, self.number
        if self.outcome is None:
            answer: Answer[None] = Answer(pad.loop)
            try:
                with suppress(RuntimeError):  # a loop that is closed; the answer says so
                    pad.loop.call_soon_threadsafe(pad.join, number, answer)
                answer.result(timeout)
            except (TimeoutError, RiskbatchError):
                if self.outcome is None:
                    raise
            finally:
                with suppress(RuntimeError):
                    pad.loop.call_soon_threadsafe(pad.leave, number, answer)
        return self._settled()

    def _settled(self) -> Outcome:
        outcome = self.outcome
        assert outcome is not None  # noqa: S101 - the pad is told before it wakes anybody
        return outcome

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Receipt):
            return NotImplemented
        return self._pad is other._pad and self.number == other.number

    def __hash__(self) -> int:
        return hash(self.number)

    def __repr__(self) -> str:
        state = "unsettled" if self.outcome is None else repr(self.outcome)
        return f"<Receipt {self.signal.risk_level.value} {self.signal.ip}: {state}>"
