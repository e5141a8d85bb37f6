"""What users hold: one org, one queue, one budget, and the life between `async with` and the last receipt."""

import asyncio
import concurrent.futures
import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType, TracebackType
from typing import Any, Self, Unpack

import aiohttp

from .arguments import ClientOptions, check_options, check_seconds
from .books import Books
from .capacity import Capacity
from .dispatcher import LocalDispatcher
from .errors import ClientClosed, InvalidSignal
from .limiter import Limiter, RateLimit
from .log import log_fields
from .okta.auth import Auth
from .okta.environment import auth_from_env, check_org_url, org_url_from_env
from .okta.transport import Middleware, Transport, aiohttp_transport, open_session, with_middleware
from .okta.wire import PATH
from .prioritizer import Prioritizer, oldest
from .queue import MANY, Queue, WhenFull
from .receipts import Abandoned, Accepted, Expired, Receipt, Rejected, Shed, Superseded
from .sender import Sender
from .signals import RiskLevel, RiskSignal
from .statistics import Statistics
from .stores.sqlite.admission import StoredAdmission
from .stores.sqlite.backlog import Backlog
from .stores.sqlite.store import SqliteStore
from .stores.valkey.engine import ValkeyStore
from .threads import Handoff, LoopFuture, check_loop, runs_here

logger = logging.getLogger("riskbatch")

_NOT_OPEN = "the client is not open: use `async with`"
_CLOSED = "the client is closed"
_CANCELLED = "the client's task was cancelled from outside"
_DROPPED = "the client was dropped, or its event loop closed, while it was open"
_GRACE = 1.0  # seconds that closing gives to what threads have just submitted: time enough for a disk


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
        self._watchers: list[Callable[[Sequence[Receipt]], object]] = []
        self._middleware: list[Middleware] = []
        self._at_end: list[Callable[[Statistics], object]] = []
        self._life: asyncio.Task[None] | None = None
        self._admission: Queue | StoredAdmission  # the way in
        self._stored: StoredAdmission | None = None
        self._is_ending = False  # nothing is sent any more; what is left is being settled
        self._refusal: str | None = _NOT_OPEN

    @classmethod
    def from_env(cls, **overrides: Unpack[ClientOptions]) -> Self:
        """
        Make a client from the official SDK's environment variables; *overrides* are arguments of `Client`.

        Reads `OKTA_CLIENT_ORGURL` and `OKTA_CLIENT_AUTHORIZATIONMODE`. With `SSWS`, the default, `OKTA_CLIENT_TOKEN`;
        with `PrivateKey`, `OKTA_CLIENT_CLIENTID`, `_PRIVATEKEY` (PEM, also with `\\n` written out, a JWK, or a path)
        and, if they are set, `_KID`, `_SCOPES` (commas or spaces between) and `_DPOPENABLED`. The mode `Bearer` is
        refused: a token from elsewhere could not be renewed. The SDK's okta.yaml is not read.

        Raises:
            ConfigurationError: A variable is missing or asks for what this client cannot do.
            AuthError: The credentials in a variable cannot be used; the message names it.
        """
        if "org_url" not in overrides:
            overrides["org_url"] = org_url_from_env()
        if "auth" not in overrides:
            overrides["auth"] = auth_from_env()
        return cls(**overrides)

    # -- life

    async def __aenter__(self) -> Self:
        if self._life is not None:
            raise ClientClosed("a client is opened once; make a new one")
        self._loop = asyncio.get_running_loop()
        credentials = self._options["auth"].for_org(self._org)
        await self._open_queue()
        self._handoff: Handoff[Receipt] = Handoff(self._admission.admit, self._options["capacity"])
        own_session = None
        transport = self._options["transport"]
        if transport is None:
            session = self._options["session"] or (own_session := open_session())
            transport = aiohttp_transport(session)
        transport = with_middleware(self._middleware, transport)
        dispatcher = LocalDispatcher(self._queue, self._limiter, None if self._stored is None else self._stored.prepare)
        rate, url = self._limiter.window.rate, f"{self._org}{PATH}"
        self._sender = Sender(self._queue, dispatcher, rate, transport, credentials, url)
        self._limiter.watch(self._queue.alarm.ring)
        self._life = asyncio.create_task(self._run(own_session), name=f"riskbatch client for {self._org}")
        self._life.add_done_callback(lambda _: self._abort(_CANCELLED, own_session))
        self._refusal = None
        waiting, limit = self._queue.waiting, self._limiter.window.limit
        found = log_fields("opened", org=self._org, waiting=waiting, limit=limit)
        logger.info("%s: open, and %d signals wait already", self._org, waiting, extra=found)
        return self

    async def _open_queue(self) -> None:
        """Make the queue, and the way into it: its own, or that of a store."""
        options = self._options
        prioritizer = Prioritizer(subjects_per_event=options["subjects_per_event"], coalesce=options["coalesce"])
        capacity, books = Capacity(options["capacity"]), Books(options["on_settled"], self._watchers)
        store, when_full = options["store"], options["when_full"]
        if not isinstance(store, SqliteStore):
            self._queue = self._admission = Queue(prioritizer, capacity, books, when_full=when_full)
            return
        backlog = Backlog(store)
        self._queue = Queue(prioritizer, capacity, books, when_full=when_full, backlog=backlog)
        self._admission = self._stored = StoredAdmission(store, self._queue, backlog, capacity, when_full=when_full)
        await self._stored.open()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._close(None, is_interrupted=isinstance(exc, asyncio.CancelledError | KeyboardInterrupt))

    async def _run(self, own_session: aiohttp.ClientSession | None) -> None:
        """Send until the end, whatever brings it; then settle what is left, so that nobody waits for ever."""
        reason = "the client was closed before the signal was settled"
        try:
            await self._sender.run()
        except asyncio.CancelledError:
            if not self._closing:
                reason = _CANCELLED
            raise
        except Exception as error:
            reason = f"the sender failed: {type(error).__name__}"
            if not self._is_dropped():
                text, extra = "the sender for %s failed; the client is closed", log_fields("crashed", org=self._org)
                logger.exception(text, self._org, extra=extra)
        except BaseException:  # a GeneratorExit, of which a TaskGroup makes a group or an error
            if not self._is_dropped():
                raise
        finally:
            if self._is_dropped():  # where nothing can be awaited
                self._abort(_DROPPED)
            else:
                await self._end(reason, own_session)

    @property
    def _closing(self) -> bool:
        return self._refusal is _CLOSED

    def _is_dropped(self) -> bool:
        """Tell whether `_run` ends because its task is collected as garbage."""
        return self._loop.is_closed() or asyncio.current_task(self._loop) is not self._life

    async def _end(self, reason: str, own_session: aiohttp.ClientSession | None) -> None:
        self._is_ending = True
        self._limiter.unwatch(self._queue.alarm.ring)
        self._queue.close(reason)
        self._handoff.abort(reason)
        if self._stored is not None:
            await self._stored.written()
        await self._handoff.finish()
        with suppress(asyncio.CancelledError):  # somebody is in a hurry: there is no time for slices
            while self._queue.abandon(reason):  # noqa: ASYNC110 - it does not wait, it takes turns
                await asyncio.sleep(0)
        while self._queue.abandon(reason):
            pass
        if self._stored is not None:
            await self._stored.finish()
        if own_session is not None:
            await own_session.close()
        self._log_closed(reason)
        if not self._closing:  # last, since a warning may be an error
            warnings.warn(f"{self!r} ended without aclose(): {reason}", ResourceWarning, stacklevel=1, source=self)

    def _log_closed(self, reason: str) -> None:
        self._sender.event_log.close()
        for tell in self._at_end:
            tell(self.statistics())
        ends = {kind.__name__.lower(): count for kind, count in self._queue.books.settled.items()}
        level = logging.WARNING if ends["abandoned"] and self._options["store"] is None else logging.INFO
        told = ", ".join(f"{count} {kind}" for kind, count in ends.items() if count) or "no signals"
        found = log_fields("closed", org=self._org, reason=reason, **ends)
        logger.log(level, "%s: closed, with %s", self._org, told, extra=found)

    def _abort(self, reason: str, own_session: aiohttp.ClientSession | None = None) -> None:
        """Do what `_run` could not: a task that is cancelled before its first step runs no `finally`."""
        self._limiter.unwatch(self._queue.alarm.ring)
        with suppress(RuntimeError):  # a closed loop, on which nobody waits any more
            self._queue.close(reason)
        self._handoff.abort(reason)
        self._sender.event_log.close()
        while self._queue.abandon(reason):
            pass
        if self._stored is not None:
            self._stored.abort()
        if own_session is not None and not own_session.closed:
            own_session.detach()  # it has no connection yet

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
        if self._life is None or self._life.done():
            return
        check_loop(self._loop)
        self._refusal = _CLOSED
        until = self._loop.time() + timeout
        deadline = self._loop.call_at(until, self._stop_sending)
        try:
            await self._handoff.close(_CLOSED, min(timeout, _GRACE))
            self._queue.close(_CLOSED)
            self._sender.drain(until, is_interrupted=is_interrupted)
            await asyncio.wait({self._life})
        except asyncio.CancelledError:
            self._stop_sending()
            while not self._life.done():  # nothing is left behind if somebody cancels once more
                try:
                    await asyncio.wait({self._life})
                except asyncio.CancelledError:
                    self._life.cancel()
            raise
        finally:
            deadline.cancel()

    def _stop_sending(self) -> None:
        """Send nothing more. What is left is settled in slices, whatever the clock says."""
        if self._life is not None and not self._is_ending:
            self._life.cancel()

    def __del__(self) -> None:
        life = getattr(self, "_life", None)  # absent if __init__ raised
        if life is not None and not life.done():
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
        self._check(signal)
        return await self._admission.admit(signal, timeout)

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
        self._check(signal)
        return self._admission.admit_nowait(signal)

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
        if self._life is None:
            raise ClientClosed(_NOT_OPEN)
        _check_signal(signal)
        return self._handoff.submit(signal)

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
        self._check_open()
        checked: list[RiskSignal] = []
        for signal in signals:
            _check_signal(signal)
            checked.append(signal)
            if len(checked) % MANY == 0:
                await asyncio.sleep(0)
        return await self._admission.admit_many(checked)

    async def flush(self, timeout: float | None = None) -> int:
        """
        Wait until every signal admitted so far is settled, and return how many are not (0 unless it timed out).

        While anybody waits here, no payload lingers to fill.

        Args:
            timeout: Seconds. `None` waits as long as it takes.
        """
        self._check_open()
        return await self._queue.flush(timeout)

    def _check(self, signal: RiskSignal) -> None:
        if self._refusal is not None:
            raise ClientClosed(self._refusal)
        check_loop(self._loop)
        _check_signal(signal)

    def _check_open(self) -> None:
        if self._life is None:
            raise ClientClosed(_NOT_OPEN)
        check_loop(self._loop)

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
            (self._watchers, settled),
            (self._middleware, request),
            (self._at_end, closed),
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
        books, sender, handoff = self._queue.books, self._sender, self._handoff
        now = self._loop.time()
        trouble = sender.current_trouble()
        limit, permits, held_until = sender.budget(now)
        resumes_at = max(held_until, trouble.until if trouble else now)
        return Statistics(
            admitted=books.admitted,
            accepted=books.settled[Accepted],
            rejected=books.settled[Rejected],
            expired=books.settled[Expired],
            shed=books.settled[Shed],
            superseded=books.settled[Superseded],
            abandoned=books.settled[Abandoned],
            waiting=self._queue.waiting,
            waiting_by_level=MappingProxyType(self._queue.waiting_by_level()),
            entering=handoff.size,
            in_flight=books.in_flight,
            oldest_waiting=now - min(now, *map(oldest, self._queue.prioritizer.lanes.values())),
            put_back=sender.counts.put_back,
            requests=sender.counts.requests,
            requests_in_flight=sender.counts.requests_in_flight,
            rate_limited=sender.counts.rate_limited,
            limit=limit,
            permits=permits,
            trouble=trouble.reason if trouble else None,
            paused=trouble is not None and trouble.denied,
            resumes_after=max(0.0, resumes_at - now),
            hook_errors=books.hook_errors,
        )

    def statistics_threadsafe(self, timeout: float = 1.0) -> Statistics:
        """
        Return a snapshot in any thread, as a scrape of metrics or a health check of a synchronous framework needs it.

        Args:
            timeout: Seconds to wait for the client's event loop to have a turn.

        Raises:
            TimeoutError: The loop had no turn within *timeout*: something blocks it.
        """
        if self._life is None or self._loop.is_closed() or runs_here(self._loop):
            return self.statistics()
        answer: LoopFuture[Statistics] = LoopFuture(self._loop)
        self._loop.call_soon_threadsafe(lambda: answer.set_result(self.statistics()))
        return answer.result(timeout)

    def __repr__(self) -> str:
        if self._life is None:
            state = "not open"
        else:
            state = "closed" if self._life.done() else "draining" if self._closing else "open"
        return self.statistics().status(self._org, state)


def _check_signal(signal: object) -> None:
    if not isinstance(signal, RiskSignal):
        raise InvalidSignal("signal", signal, "a RiskSignal")
