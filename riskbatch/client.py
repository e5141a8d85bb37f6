"""What users hold: one org, one queue, one budget, and the life between `async with` and the last receipt."""

import asyncio
import concurrent.futures
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import aiohttp

from .arguments import ClientOptions, check_options, check_seconds
from .errors import ClientClosed, InvalidSignal
from .lifespan import CLOSED, Lifespan, Observers
from .limiter import Limiter, RateLimit
from .okta.auth import Auth
from .okta.environment import check_org_url, client_options_from_env, settings_from_env
from .okta.http import Middleware, Transport
from .queue import MANY, WhenFull
from .receipts import Receipt
from .signals import RiskLevel, RiskSignal
from .statistics import Statistics
from .stores.sqlite.store import SqliteStore
from .stores.valkey.engine import ValkeyStore
from .threads import LoopFuture, check_loop, runs_here

_NOT_OPEN = "the client is not open: use `async with`"


class Client:
    """
    Sends IP risk signals to one Okta org: HIGH first, 20 a request, within the org's budget of requests.

    Use it as `async with Client(...) as client`. Leaving the block admits no more, sends what waits for up to
    *close_timeout* seconds, and settles every receipt. It belongs to the event loop and process that entered it.

    Args:
        org_url: `https://acme.okta.com`, without `-admin`. Plain http is taken for loopback only.
        auth: An `ApiToken` or a `ServiceApp`.
        limit: The share of the org's budget that this client may use; a server that says less is believed. A
            `Limiter` is for several clients of one org, and brings its own *reserve* and *linger*.
        reserve: Requests in each window that only a payload with a HIGH may use.
        store: A `SqliteStore`, for signals that outlive the process: `enqueue` returns when its file has the signal,
            and what a former process left there is sent. Or a `ValkeyStore`, for processes that share an org's queue
            and budget. `None` keeps signals in memory.
        capacity: The most unsettled signals, of the whole fleet if there is one. What a `SqliteStore` holds when it is
            opened counts too; if that is more than *capacity*, newcomers wait until it is sent down to *capacity*, but
            a HIGH comes in at once ("wait"), or it would wait for hours behind what may be LOW.
        when_full: What `enqueue` does at *capacity*: "wait" for room (a waiting HIGH is let in before a waiting LOW),
            "reject" with `QueueFull`, or "shed" the oldest signal of the lowest level.
        linger: Seconds that a part-filled payload without HIGH may wait to fill: one number for MEDIUM and LOW, or a
            mapping by level; 1 and 5 where it says nothing.
        subjects_per_event: Up to 50: signals with equal timestamp and expiry share an event. The 50 stand in an old
            reference page of Okta's only.
        coalesce: A newer signal for an address supersedes the one that waits, and takes its place in line.
        on_settled: Called with each receipt once it is settled, on the event loop: it must be quick. What it raises
            is logged and counted.
        session: An aiohttp session to use, for a proxy or TLS settings of your own; it is not closed.
        transport: Takes the place of aiohttp, in tests and simulations: a coroutine function from `Request` to
            `Response`, which raises `Unanswered` if no answer comes.
        close_timeout: Seconds that leaving the block may take; the default is under Kubernetes' grace period of 30.

    Raises:
        ConfigurationError: An argument cannot work; the message says which.
    """

    def __init__(
        self,
        org_url: str,
        auth: Auth,
        *,
        limit: RateLimit | Limiter = RateLimit(30, 60.0),  # noqa: B008 - frozen
        reserve: int = 3,
        store: SqliteStore | ValkeyStore | None = None,
        capacity: int = 10_000,
        when_full: WhenFull = "wait",
        linger: float | Mapping[RiskLevel, float] | None = None,
        subjects_per_event: int = 1,
        coalesce: bool = False,
        on_settled: Callable[[Receipt], object] | None = None,
        session: aiohttp.ClientSession | None = None,
        transport: Transport | None = None,
        close_timeout: float = 25.0,
    ) -> None:
        self._org = check_org_url(org_url)
        self._options: ClientOptions = {
            "auth": auth,
            "limit": limit,
            "store": store,
            "capacity": capacity,
            "when_full": when_full,
            "subjects_per_event": subjects_per_event,
            "coalesce": coalesce,
            "on_settled": on_settled,
            "session": session,
            "transport": transport,
            "close_timeout": close_timeout,
        }
        check_options(self._options)
        self._limiter = limit if isinstance(limit, Limiter) else Limiter(limit, reserve=reserve, linger=linger)
        self._observers = Observers()
        self._life: Lifespan | None = None

    @classmethod
    def from_env(cls, **overrides: Unpack[ClientOptions]) -> Self:
        """
        Make a client from the official SDK's environment variables; *overrides* are arguments of `Client`.

        Reads `OKTA_CLIENT_ORGURL` and `OKTA_CLIENT_AUTHORIZATIONMODE`. With `SSWS`, the default, `OKTA_CLIENT_TOKEN`;
        with `PrivateKey`, `OKTA_CLIENT_CLIENTID`, `_PRIVATEKEY` (PEM, also with `\\n` written out, a JWK, or a path)
        and, if they are set, `_KID`, `_SCOPES` (commas or spaces between) and `_DPOPENABLED`. The mode `Bearer` is
        refused: a token from elsewhere could not be renewed. The SDK's okta.yaml is not read. `RISKBATCH_LIMIT`
        (`15/60s`) and `RISKBATCH_LINGER` (seconds) are the arguments *limit* and *linger*, where *overrides* have none.

        Raises:
            ConfigurationError: A variable is missing or asks for what this client cannot do.
            AuthError: The credentials in a variable cannot be used; the message names it.
        """
        overrides["org_url"], overrides["auth"] = settings_from_env(overrides.get("org_url"), overrides.get("auth"))
        found = client_options_from_env()
        if "limit" in found:
            overrides.setdefault("limit", RateLimit(*found["limit"]))
        if "linger" in found:
            overrides.setdefault("linger", found["linger"])
        return cls(**overrides)

    # -- life

    async def __aenter__(self) -> Self:
        if self._life is not None:
            raise ClientClosed("a client is opened once; make a new one")
        life = Lifespan(self._org, self._options, self._limiter, self._observers, self.__repr__)
        await life.open()
        self._life = life
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._close(None, is_interrupted=isinstance(exc, asyncio.CancelledError | KeyboardInterrupt))

    async def aclose(self, timeout: float | None = None) -> None:
        """
        Admit no more, send what waits, and settle the rest as `Abandoned`. Calling it again waits for the same end.

        The most important signals go first, as fast as permits allow. It returns early once nothing more could be
        sent in time. If the call is cancelled, nothing more is sent and what is left is abandoned; if it is cancelled
        once more, that takes no turns for other tasks.

        Args:
            timeout: Seconds; the client's `close_timeout` if not given. Of several calls the first to end decides.
        """
        await self._close(timeout)

    async def _close(self, timeout: float | None, *, is_interrupted: bool = False) -> None:
        timeout = self._options["close_timeout"] if timeout is None else timeout
        check_seconds("timeout", timeout)
        if self._life is None or self._life.task.done():
            return
        check_loop(self._life.loop)
        await self._life.close(timeout, is_interrupted=is_interrupted)

    def __del__(self) -> None:
        life = getattr(self, "_life", None)  # absent if __init__ raised
        if life is not None and not life.task.done():
            warnings.warn(
                f"{self!r} was never closed, so nobody sends what waits: use `async with`, or await client.aclose()",
                ResourceWarning,
                stacklevel=1,
                source=self,
            )

    # -- signals

    async def enqueue(self, signal: RiskSignal, *, timeout: float | None = None) -> Receipt:
        """
        Admit *signal* and return its receipt; it will be sent.

        Waits while the queue is full and `when_full` is "wait". A call that was cancelled has admitted nothing. To
        stop waiting for the receipt recalls nothing.

        Args:
            signal: What to send.
            timeout: Seconds to wait for room. `None` waits as long as it takes.

        Raises:
            QueueFull: No room came within *timeout*, or `when_full` is "reject".
            ClientClosed: The client is not open, or it was closed while this call waited.
            StoreError: The store could not take it; it was not admitted.
            InvalidSignal: *signal* is not a `RiskSignal`.
            WrongLoop: The client belongs to another event loop or process.
        """
        life = self._running(admits=True)
        _check_signal(signal)
        return await life.admission.admit(signal, timeout)

    def enqueue_nowait(self, signal: RiskSignal) -> Receipt:
        """
        Admit *signal* and return its receipt, without ever waiting.

        Raises:
            QueueFull: There is no room, and `when_full` is not "shed".
            StoreError: The client has a store, for which one must wait.
            ClientClosed: The client is not open.
            InvalidSignal: *signal* is not a `RiskSignal`.
            WrongLoop: The client belongs to another event loop or process.
        """
        life = self._running(admits=True)
        _check_signal(signal)
        return life.admission.admit_nowait(signal)

    def enqueue_threadsafe(self, signal: RiskSignal) -> concurrent.futures.Future[Receipt]:
        """
        Begin to admit *signal* from any thread, as a log handler or a synchronous web framework has them; never waits.

        The future's `result(timeout)` is the receipt, once the signal is admitted (and on disk, if there is a store);
        `receipt.wait_threadsafe(timeout)` then waits for the outcome. Of each level, what is handed in first is
        admitted first. `when_full` holds: with "wait" the future is the backpressure, and who does not wait for it may
        have `capacity` more signals on their way (`Statistics.entering`). `future.cancel()` returns True as long as
        the signal is surely not admitted. Closing the client admits what was handed in before, as far as there is
        room; whatever is not admitted has its reason as the future's exception, and the first in a row is logged.

        It may be called on the client's own event loop too, where nobody can wait for the future but with
        `await asyncio.wrap_future(future)`; its `result()` raises `WrongLoop` there instead of waiting for ever.

        Raises:
            QueueFull: At once, if `capacity` signals are on their way already; from the future, as in `enqueue`.
            ClientClosed: At once, if the client is not open, or its event loop is gone; from the future, if it closed
                before there was room.
            StoreError: From the future; as in `enqueue`.
            InvalidSignal: *signal* is not a `RiskSignal`.
            WrongLoop: At once, in a forked process.
        """
        life = self._opened()
        _check_signal(signal)
        return life.handoff.submit(signal)

    async def enqueue_many(self, signals: Iterable[RiskSignal]) -> list[Receipt]:
        """
        Admit *signals* in their order and return their receipts, in the same order.

        It is `enqueue` for each, with a turn for other tasks now and then. If one of them is no signal, or `when_full`
        is "reject" and there is no room for all, none is admitted. If it is cancelled while it waits for room, or the
        client is closed then, those before stay admitted: they are sent, and `on_settled` tells their outcomes.

        Raises:
            QueueFull, ClientClosed, StoreError, InvalidSignal, WrongLoop: As `enqueue`; those before stay admitted too
                if the store fails on the way.
        """
        life = self._running(admits=True)
        checked: list[RiskSignal] = []
        for signal in signals:
            _check_signal(signal)
            checked.append(signal)
            if len(checked) % MANY == 0:
                await asyncio.sleep(0)
        return await life.admission.admit_many(checked)

    async def flush(self, timeout: float | None = None) -> int:
        """
        Wait until every signal admitted so far is settled, and return how many are not (0 unless it timed out).

        While anybody waits here, no payload lingers to fill.

        Args:
            timeout: Seconds. `None` waits as long as it takes.
        """
        return await self._running(admits=False).queue.flush(timeout)

    def _running(self, *, admits: bool) -> Lifespan:
        """Return what was opened, for a caller on its loop; refuse one that comes too late to admit."""
        life = self._opened()
        if admits and life.is_closing:
            raise ClientClosed(CLOSED)
        check_loop(life.loop)
        return life

    def _opened(self) -> Lifespan:
        if self._life is None:
            raise ClientClosed(_NOT_OPEN)
        return self._life

    # -- what it is doing

    @property
    def org_url(self) -> str:
        """The org's URL, without a trailing slash."""
        return self._org

    def observe(
        self,
        *,
        settled: Callable[[Sequence[Receipt]], object] | None = None,
        request: Middleware | None = None,
        closed: Callable[[Statistics], object] | None = None,
    ) -> Callable[[], None]:
        """
        Watch the client, for an exporter of metrics or traces; return what ends the watching.

        It leaves `on_settled` alone, and may begin and end at any time. What is given must be quick and must not
        raise: it runs on the event loop, between the parts of the sender.

        Args:
            settled: Called with the receipts that were settled together.
            request: Takes the place of each request, those for tokens included: it is called with the request, whose
                headers hold credentials, and with what sends it and returns the response or raises `Unanswered`; it
                must do so once, and pass on what comes.
            closed: Called with the last statistics when the client is closed.
        """
        given: list[tuple[list[Any], Any]] = [
            (self._observers.settled, settled),
            (self._observers.request, request),
            (self._observers.closed, closed),
        ]
        kept = [(watchers, one) for watchers, one in given if one is not None]
        for watchers, one in kept:
            watchers.append(one)

        def end() -> None:
            while kept:
                watchers, one = kept.pop()
                watchers.remove(one)

        return end

    def statistics(self) -> Statistics:
        """Return a snapshot of books, budget and trouble. Other threads call `statistics_threadsafe`."""
        if self._life is None:
            limit = self._limiter.window.limit
            return Statistics(limit=limit, permits=limit)
        return self._life.statistics()

    def statistics_threadsafe(self, timeout: float = 1.0) -> Statistics:
        """
        Return a snapshot in any thread, as a scrape of metrics or a health check of a synchronous framework needs it.

        Args:
            timeout: Seconds to wait for the client's event loop to have a turn.

        Raises:
            TimeoutError: The loop had no turn within *timeout*: something blocks it.
        """
        life = self._life
        if life is None or life.loop.is_closed() or runs_here(life.loop):
            return self.statistics()
        answer: LoopFuture[Statistics] = LoopFuture(life.loop)
        life.loop.call_soon_threadsafe(lambda: answer.set_result(life.statistics()))
        return answer.result(timeout)

    def __repr__(self) -> str:
        if self._life is None:
            state = "not open"
        else:
            state = "closed" if self._life.task.done() else "draining" if self._life.is_closing else "open"
        return self.statistics().status(self._org, state)


def _check_signal(signal: object) -> None:
    if not isinstance(signal, RiskSignal):
        raise InvalidSignal("signal", signal, "a RiskSignal")
