"""What users hold: one org, one queue, one budget, and the life between `async with` and the last receipt."""

import asyncio
import concurrent.futures
import inspect
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from threading import get_ident
from types import MappingProxyType, TracebackType
from typing import Any, Self, get_args
from weakref import WeakSet

import aiohttp
from attrs import field, frozen

from .errors import ClientClosed, ConfigurationError, InvalidSignal
from .inbox import Inbox
from .limiter import Limiter, RateLimit
from .log import log_fields
from .okta.auth import Auth
from .okta.environment import auth_from_env, check_org_url, org_url_from_env
from .okta.transport import Middleware, Transport, aiohttp_transport, open_session, with_middleware
from .okta.wire import MAX_SUBJECTS, PATH
from .prioritizer import Prioritizer
from .queue import MANY, Queue, WhenFull
from .receipts import Abandoned, Accepted, Expired, Receipt, Rejected, Shed, Superseded, check_loop
from .sender import Sender
from .signals import RiskLevel, RiskSignal
from .stores import Store
from .stores.sqlite.durable import DurableQueue
from .stores.valkey.engine import ValkeyStore
from .stores.valkey.fleet import FleetQueue
from .stores.valkey.replica import Replica
from .stores.valkey.statistics import FleetStatistics
from .threads import Answer, runs_here

logger = logging.getLogger("riskbatch")

_NOT_OPEN = "the client is not open: use `async with`"
_CANCELLED = "the client's task was cancelled from outside"
_DROPPED = "the client was dropped, or its event loop closed, while it was open"
_GRACE = 1.0  # seconds that closing gives to what threads have just handed in: time enough for a disk

_open_clients: WeakSet["Client"] = WeakSet()


def _fork() -> None:
    for client in _open_clients:
        client._thread = None


os.register_at_fork(after_in_child=_fork)


@frozen
class Statistics:
    """
    A snapshot of one client. At any instant `admitted == settled + waiting + in_flight`.

    Attributes:
        admitted: Signals that were let in since the client was opened, and those that it found in its store.
        accepted: Signals that Okta took.
        rejected: Signals that Okta refused one by one.
        expired: Signals whose `expires_at` passed before they could be sent.
        shed: Signals that made room for others, or found none (`when_full="shed"`).
        superseded: Signals whose place a newer one for the same address took (`coalesce=True`).
        abandoned: Signals that the client's end left unsettled otherwise; a store keeps them for the next client. Those
            that it had not yet loaded have no receipt, and `on_settled` is not called for them.
        waiting: Signals in the queue.
        waiting_by_level: The same by level.
        entering: Signals that threads have handed in (`enqueue_threadsafe`) and that are not admitted yet.
        in_flight: Signals in requests that have no answer yet.
        oldest_waiting: Seconds since the oldest ready signal was admitted; 0.0 if none is ready.
        put_back: Times a signal came back from a request that failed and waits again.
        requests: Requests sent, retries and probes included.
        requests_in_flight: Requests without an answer yet.
        rate_limited: Answers 429 for the rate.
        limit: Requests a window allows now: what was configured, or less if the server's headers say so.
        permits: Requests that could leave now as far as the window is concerned.
        trouble: Why sending is slowed down or paused, or soon will be because the access token cannot be renewed, in
            the server's words where it had any; `None` if it is not.
        paused: Whether nothing but single probes is sent until somebody mends the `trouble`.
        resumes_after: Seconds until the next try while there is trouble or the server said to wait; 0.0 otherwise.
        hook_errors: Times `on_settled` raised.
        fleet: What all replicas do together, with a `ValkeyStore`; all the rest is of this client alone, except for
            *limit* and *permits*, which they share.
    """

    admitted: int = 0
    accepted: int = 0
    rejected: int = 0
    expired: int = 0
    shed: int = 0
    superseded: int = 0
    abandoned: int = 0
    waiting: int = 0
    waiting_by_level: Mapping[RiskLevel, int] = field(factory=lambda: MappingProxyType(dict.fromkeys(RiskLevel, 0)))
    entering: int = 0
    in_flight: int = 0
    oldest_waiting: float = 0.0
    put_back: int = 0
    requests: int = 0
    requests_in_flight: int = 0
    rate_limited: int = 0
    limit: int = 0
    permits: int = 0
    trouble: str | None = None
    paused: bool = False
    resumes_after: float = 0.0
    hook_errors: int = 0
    fleet: FleetStatistics | None = None

    @property
    def settled(self) -> int:
        """Signals that have an outcome."""
        return self.accepted + self.rejected + self.expired + self.shed + self.superseded + self.abandoned


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
        capacity: The most unsettled signals, of the whole fleet if there is one; bounds the memory.
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
        store: Store | ValkeyStore | None = None,
        capacity: int = 100_000,
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
        _check_number("capacity", capacity, 1, math.inf)
        _check_number("subjects_per_event", subjects_per_event, 1, MAX_SUBJECTS)
        _check_seconds("close_timeout", close_timeout)
        if when_full not in get_args(WhenFull):
            raise ConfigurationError(f"when_full is {when_full!r}; it must be one of {get_args(WhenFull)}")
        if inspect.iscoroutinefunction(on_settled):
            raise ConfigurationError("on_settled is a coroutine function; it must be a plain one that returns at once")
        if on_settled is not None and not callable(on_settled):
            raise ConfigurationError(f"on_settled is a {type(on_settled).__name__}; it must be a function of a receipt")
        if not isinstance(limit, RateLimit | Limiter):
            raise ConfigurationError(f"limit is {limit!r}; it must be a RateLimit, such as RateLimit(15, 60.0)")
        if not isinstance(session, aiohttp.ClientSession | None):
            raise ConfigurationError(f"session is a {type(session).__name__}; it must be an aiohttp.ClientSession")
        if not isinstance(auth, Auth):
            raise ConfigurationError(f"auth is a {type(auth).__name__}; it must be an ApiToken or a ServiceApp")
        if not isinstance(store, Store | ValkeyStore | None):
            raise ConfigurationError(f"store is a {type(store).__name__}; it must be a Store, such as a SqliteStore")
        self._auth = auth
        self._store = store
        self._limiter = limit if isinstance(limit, Limiter) else Limiter(limit, reserve=reserve, linger=linger)
        self._capacity = capacity
        self._when_full: WhenFull = when_full
        self._subjects_per_event = subjects_per_event
        self._coalesce = coalesce
        self._on_settled = on_settled
        self._session = session
        self._transport = transport
        self._close_timeout = close_timeout
        self._watchers: list[Callable[[Sequence[Receipt]], object]] = []
        self._middleware: list[Middleware] = []
        self._at_end: list[Callable[[Statistics], object]] = []
        self._life: asyncio.Task[None] | None = None
        self._closing = False
        self._refusal: str | None = _NOT_OPEN
        self._thread: int | None = None  # in which signals come in; `None` while they may not, and in a forked child

    @classmethod
    def from_env(cls, **overrides: Any) -> Self:
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
        credentials = self._auth.for_org(self._org)
        self._queue = await self._open_queue()
        self._inbox = Inbox(self._queue, self._capacity)
        own_session = None
        transport = self._transport
        if transport is None:
            session = self._session or (own_session := open_session())
            transport = aiohttp_transport(session)
        transport = with_middleware(self._middleware, transport)
        make_sender = Replica if isinstance(self._queue, FleetQueue) else Sender
        self._sender = make_sender(self._queue, self._limiter, transport, credentials, f"{self._org}{PATH}")
        self._life = asyncio.create_task(self._live(own_session), name=f"riskbatch client for {self._org}")
        self._refusal, self._thread = None, get_ident()
        _open_clients.add(self)
        self._life.add_done_callback(lambda _: self._bury(_CANCELLED, own_session))
        waiting, limit = self._queue.waiting, self._limiter.window.limit
        found = log_fields("opened", org=self._org, waiting=waiting, limit=limit)
        logger.info("%s: open, and %d signals wait already", self._org, waiting, extra=found)
        return self

    async def _open_queue(self) -> Queue:
        queue = self._make_queue()(
            Prioritizer(subjects_per_event=self._subjects_per_event, coalesce=self._coalesce),
            capacity=self._capacity,
            when_full=self._when_full,
            coalesce=self._coalesce,
            on_settled=self._on_settled,
            watchers=self._watchers,
        )
        await queue.open()
        return queue

    def _make_queue(self) -> Callable[..., Queue]:
        if isinstance(self._store, ValkeyStore):
            return partial(FleetQueue, self._store, self._limiter, self._org)
        return Queue if self._store is None else partial(DurableQueue, self._store)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _live(self, own_session: aiohttp.ClientSession | None) -> None:
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
                self._bury(_DROPPED)
            else:
                await self._end(reason, own_session)

    def _is_dropped(self) -> bool:
        """Tell whether `_live` ends because its task is collected as garbage."""
        return self._loop.is_closed() or asyncio.current_task(self._loop) is not self._life

    async def _end(self, reason: str, own_session: aiohttp.ClientSession | None) -> None:
        self._queue.close(reason)
        self._inbox.abort(reason)
        await self._queue.written()
        await self._inbox.finish()
        with suppress(asyncio.CancelledError):  # a second one only means that there is no time for slices
            while self._queue.abandon(reason):  # noqa: ASYNC110 - it does not wait, it takes turns
                await asyncio.sleep(0)
        while self._queue.abandon(reason):
            pass
        await self._queue.finish()
        if own_session is not None:
            await own_session.close()
        self._say_closed(reason)
        if not self._closing:  # last, since a warning may be an error
            warnings.warn(f"{self!r} ended without aclose(): {reason}", ResourceWarning, stacklevel=1, source=self)

    def _say_closed(self, reason: str) -> None:
        self._sender.event_log.close()
        for tell in self._at_end:
            tell(self.statistics())
        ends = {kind.__name__.lower(): count for kind, count in self._queue.settled.items()}
        level = logging.WARNING if ends["abandoned"] and self._store is None else logging.INFO
        told = ", ".join(f"{count} {kind}" for kind, count in ends.items() if count) or "no signals"
        found = log_fields("closed", org=self._org, reason=reason, **ends)
        logger.log(level, "%s: closed, with %s", self._org, told, extra=found)

    def _bury(self, reason: str, own_session: aiohttp.ClientSession | None = None) -> None:
        """Do what `_live` could not: a task that is cancelled before its first step runs no `finally`."""
        with suppress(RuntimeError):  # a closed loop, on which nobody waits any more
            self._queue.close(reason)
        self._inbox.abort(reason)
        self._sender.event_log.close()
        while self._queue.abandon(reason):
            pass
        self._queue.abort()
        if own_session is not None and not own_session.closed:
            own_session.detach()  # it has no connection yet

    async def aclose(self, timeout: float | None = None) -> None:
        """
        Admit no more, send what waits, and settle the rest as `Abandoned`. Calling it again waits for the same end.

        The most important signals go first, as fast as permits allow. It returns early once nothing more could be
        sent in time. If the call is cancelled, what is left is abandoned at once.

        Args:
            timeout: Seconds; the client's `close_timeout` if not given. Of several calls the first to end decides.
        """
        timeout = self._close_timeout if timeout is None else timeout
        _check_seconds("timeout", timeout)
        if self._life is None or self._life.done():
            return
        check_loop(self._loop)
        self._closing, self._refusal, self._thread = True, "the client is closed", None
        until = self._loop.time() + timeout
        deadline = self._loop.call_at(until, self._life.cancel)
        try:
            await self._inbox.close(self._refusal, min(timeout, _GRACE))
            self._queue.close(self._refusal)
            self._sender.drain(until)
            await asyncio.wait({self._life})
        except asyncio.CancelledError:
            while not self._life.done():  # a few turns, and nothing is left behind if somebody cancels once more
                self._life.cancel()
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({self._life})
            raise
        finally:
            deadline.cancel()

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
        if get_ident() != self._thread or type(signal) is not RiskSignal or not self._loop.is_running():
            self._check(signal)
        return self._queue.admit_at_once(signal) or await self._queue.admit(signal, timeout)

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
        if get_ident() != self._thread or type(signal) is not RiskSignal or not self._loop.is_running():
            self._check(signal)
        return self._queue.admit_at_once(signal) or self._queue.admit_nowait(signal)

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
        return self._inbox.hand_in(signal)

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
        receipts: list[Receipt] = []
        if isinstance(signals, list) and len(signals) <= min(MANY, self._queue.room()):
            _check_signals(signals)
            receipts = self._queue.admit_many_at_once(signals)
            if len(receipts) == len(signals):
                return receipts
            signals = signals[len(receipts) :]
        coming = iter(signals)
        checked = more = _check_signals(list(islice(coming, MANY)))
        while len(more) == MANY:
            await asyncio.sleep(0)
            more = _check_signals(list(islice(coming, MANY)))
            checked += more
        return receipts + await self._queue.admit_many(checked)

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
        queue, sender = self._queue, self._sender
        now = self._loop.time()
        oldest = min((since for since in queue.oldest_by_level().values()), default=now)
        trouble = sender.current_trouble()
        limit, permits, held_until = sender.budget(now)
        resumes_at = max(held_until, trouble.until if trouble else now)
        return Statistics(
            admitted=queue.admitted,
            accepted=queue.settled[Accepted],
            rejected=queue.settled[Rejected],
            expired=queue.settled[Expired],
            shed=queue.settled[Shed],
            superseded=queue.settled[Superseded],
            abandoned=queue.settled[Abandoned],
            waiting=queue.waiting,
            waiting_by_level=MappingProxyType(queue.waiting_by_level()),
            entering=self._inbox.size,
            in_flight=queue.in_flight,
            oldest_waiting=now - oldest,
            put_back=sender.counts.put_back,
            requests=sender.counts.requests,
            requests_in_flight=sender.counts.requests_in_flight,
            rate_limited=sender.counts.rate_limited,
            limit=limit,
            permits=permits,
            trouble=trouble.reason if trouble else None,
            paused=trouble is not None and trouble.denied,
            resumes_after=max(0.0, resumes_at - now),
            hook_errors=queue.hook_errors,
            fleet=queue.fleet if isinstance(queue, FleetQueue) else None,
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
        answer: Answer[Statistics] = Answer(self._loop)
        self._loop.call_soon_threadsafe(lambda: answer.set_result(self.statistics()))
        return answer.result(timeout)

    def __repr__(self) -> str:
        s = self.statistics()
        if self._life is None:
            state = "not open"
        else:
            state = "closed" if self._life.done() else "draining" if self._closing else "open"
        levels = " ".join(f"{level.value} {count}" for level, count in s.waiting_by_level.items())
        entering = f", {s.entering} entering" if s.entering else ""
        others = ("rejected", "expired", "shed", "superseded", "abandoned")
        ends = "".join(f", {getattr(s, end)} {end}" for end in others if getattr(s, end))
        pause = f", next try in {s.resumes_after:.0f} s" if s.resumes_after else ""
        trouble = f", {'paused' if s.paused else 'slowed down'}: {s.trouble}" if s.trouble else ""
        fleet = f", fleet of {s.fleet.alive} with {s.fleet.waiting} waiting" if s.fleet else ""
        return (
            f"<Client {self._org} {state}: {s.waiting} waiting ({levels}){entering}, {s.in_flight} in flight, "
            f"{s.accepted} accepted{ends}, {s.permits} of {s.limit} permits free{fleet}{pause}{trouble}>"
        )


def _check_signals(signals: list[RiskSignal]) -> list[RiskSignal]:
    if list(map(type, signals)).count(RiskSignal) < len(signals):
        for signal in signals:
            _check_signal(signal)
    return signals


def _check_signal(signal: object) -> None:
    if not isinstance(signal, RiskSignal):
        raise InvalidSignal("signal", signal, "a RiskSignal")


def _check_number(name: str, value: object, least: int, most: float) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        span = f"from {least} to {most}" if most < math.inf else f"of at least {least}"
        raise ConfigurationError(f"{name} is {value!r}; it must be a whole number {span}")


def _check_seconds(name: str, value: object) -> None:
    if not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ConfigurationError(f"{name} is {value!r}; it must be a finite number of seconds, 0 or more")
