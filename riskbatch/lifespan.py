"""One client from `async with` to the last receipt: what it is made of, the task that drives it, and its end."""

import asyncio
import logging
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import MappingProxyType

import aiohttp
from attrs import define, field

from .arguments import ClientOptions
from .books import Books
from .capacity import Capacity
from .dispatcher import Dispatcher, LocalDispatcher
from .limiter import Limiter
from .log import log_fields
from .okta.http import Middleware
from .okta.risk_events import PATH
from .okta.transport import aiohttp_transport, open_session, with_middleware
from .prioritizer import Prioritizer
from .queue import Queue
from .receipts import Abandoned, Accepted, Expired, Receipt, Rejected, Shed, Superseded
from .sender import Sender
from .statistics import Statistics
from .stores.sqlite.admission import StoredAdmission
from .stores.sqlite.backlog import Backlog
from .stores.sqlite.store import SqliteStore
from .stores.valkey.engine import ValkeyStore
from .stores.valkey.line import FleetQueue
from .threads import Handoff

logger = logging.getLogger("riskbatch")

CLOSED = "the client is closed"
_CANCELLED = "the client's task was cancelled from outside"
_DROPPED = "the client was dropped, or its event loop closed, while it was open"
_GRACE = 1.0  # seconds that closing gives to what threads have just submitted: time enough for a disk


@define
class Observers:
    """Those who watch a client; see `Client.observe`. Each list may change at any time."""

    settled: list[Callable[[Sequence[Receipt]], object]] = field(factory=list)
    request: list[Middleware] = field(factory=list)
    closed: list[Callable[[Statistics], object]] = field(factory=list)


class Lifespan:
    """
    The queue, the sender and the task of one open client.

    Args:
        org: The URL of the org.
        options: The client's arguments.
        limiter: The client's, or one that clients share.
        observers: Those who watch.
        describe: Returns the line that a warning shows.

    Attributes:
        queue: Where the signals wait.
        admission: The way in.
        handoff: What threads have submitted.
        sender: Drives the queue.
        task: Runs until everything is settled.
        is_closing: `close` was called.
    """

    def __init__(
        self,
        org: str,
        options: ClientOptions,
        limiter: Limiter,
        observers: Observers,
        describe: Callable[[], str],
    ) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.is_closing: bool = False
        self._org = org
        self._is_durable = options["store"] is not None
        self._limiter = limiter
        self._observers = observers
        self._describe = describe
        self._is_ending = False  # nothing is sent any more; what is left is being settled
        credentials = options["auth"].for_org(org)
        self.fleet: FleetQueue | None = None
        self._stored: StoredAdmission | FleetQueue | None = None
        dispatcher = self._make_queue(options)
        self.handoff: Handoff[Receipt] = Handoff(self.admission.admit, options["capacity"])
        self._own_session: aiohttp.ClientSession | None = None
        transport = options["transport"]
        if transport is None:
            session = options["session"] or open_session()
            self._own_session = None if options["session"] else session
            transport = aiohttp_transport(session, env_proxies=self._own_session is not None)
        transport = with_middleware(observers.request, transport)
        rate, url = limiter.window.rate, f"{org}{PATH}"
        self.sender: Sender = Sender(self.queue, dispatcher, transport, credentials, rate=rate, url=url)

    def _make_queue(self, options: ClientOptions) -> Dispatcher:
        """Make the queue and the way into it, its own or that of a store; return what gives out its batches."""
        prioritizer = Prioritizer(subjects_per_event=options["subjects_per_event"], coalesce=options["coalesce"])
        capacity = Capacity(options["capacity"])
        books = Books(options["on_settled"], self._observers.settled)
        store, when_full = options["store"], options["when_full"]
        self.queue: Queue | FleetQueue
        self.admission: Queue | StoredAdmission | FleetQueue
        if isinstance(store, ValkeyStore):
            self.queue = self.admission = self._stored = self.fleet = FleetQueue(
                store,
                self._limiter,
                self._org,
                books,
                capacity=options["capacity"],
                when_full=when_full,
                subjects_per_event=options["subjects_per_event"],
                coalesce=options["coalesce"],
            )
            return self.fleet.dispatcher
        if not isinstance(store, SqliteStore):
            self.queue = self.admission = Queue(prioritizer, capacity, books, when_full=when_full)
            return LocalDispatcher(self.queue, self._limiter)
        backlog = Backlog(store)
        self.queue = queue = Queue(prioritizer, capacity, books, when_full=when_full, backlog=backlog)
        self.admission = self._stored = stored = StoredAdmission(store, queue, backlog, capacity, when_full=when_full)
        return LocalDispatcher(queue, self._limiter, stored.prepare)

    async def open(self) -> None:
        """
        Begin to send, with what a store has.

        Raises:
            StoreError: The store cannot be had.
        """
        try:
            if self._stored is not None:
                await self._stored.open()
        except BaseException:
            if self._own_session is not None:
                await self._own_session.close()
            raise
        self._limiter.watch(self.queue.alarm.ring)
        self.task: asyncio.Task[None] = asyncio.create_task(self._run(), name=f"riskbatch client for {self._org}")
        self.task.add_done_callback(lambda _: self._abort(_CANCELLED))
        waiting, limit = self.queue.waiting, self._limiter.window.limit
        found = log_fields("opened", org=self._org, waiting=waiting, limit=limit)
        logger.info("%s: open, and %d signals wait already", self._org, waiting, extra=found)

    async def _run(self) -> None:
        """Send until the end, whatever brings it; then settle what is left, so that nobody waits for ever."""
        reason = "the client was closed before the signal was settled"
        try:
            await self.sender.run()
        except asyncio.CancelledError:
            if not self.is_closing:
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
                await self._end(reason)

    def _is_dropped(self) -> bool:
        """Tell whether `_run` ends because its task is collected as garbage."""
        return self.loop.is_closed() or asyncio.current_task(self.loop) is not self.task

    async def close(self, timeout: float, *, is_interrupted: bool) -> None:
        """Admit no more, send what waits for *timeout* seconds, and settle the rest; see `Client.aclose`."""
        self.is_closing = True
        until = self.loop.time() + timeout
        deadline = self.loop.call_at(until, self._stop_sending)
        try:
            await self.handoff.close(CLOSED, min(timeout, _GRACE))
            self.queue.close(CLOSED)
            self.sender.drain(until, is_interrupted=is_interrupted)
            await asyncio.wait({self.task})
        except asyncio.CancelledError:
            self._stop_sending()
            while not self.task.done():  # nothing is left behind if somebody cancels once more
                try:
                    await asyncio.wait({self.task})
                except asyncio.CancelledError:
                    self.task.cancel()
            raise
        finally:
            deadline.cancel()

    def _stop_sending(self) -> None:
        """Send nothing more. What is left is settled in slices, whatever the clock says."""
        if not self._is_ending:
            self.task.cancel()

    async def _end(self, reason: str) -> None:
        self._is_ending = True
        self._limiter.unwatch(self.queue.alarm.ring)
        self.queue.close(reason)
        self.handoff.abort(reason)
        if self._stored is not None:
            await self._stored.written()
        await self.handoff.finish()
        with suppress(asyncio.CancelledError):  # cancelled a second time: there is no time for slices
            while self.queue.abandon(reason):  # noqa: ASYNC110 - it does not wait, it takes turns
                await asyncio.sleep(0)
        while self.queue.abandon(reason):
            pass
        if self._stored is not None:
            await self._stored.finish()
        if self._own_session is not None:
            await self._own_session.close()
        self._log_end(reason)
        if not self.is_closing:  # last, since a warning may be an error
            warnings.warn(f"{self._describe()} ended without aclose(): {reason}", ResourceWarning, stacklevel=1)

    def _log_end(self, reason: str) -> None:
        self.sender.event_log.close()
        for tell in self._observers.closed:
            tell(self.statistics())
        ends = {kind.__name__.lower(): count for kind, count in self.queue.books.settled.items()}
        level = logging.WARNING if ends["abandoned"] and not self._is_durable else logging.INFO
        told = ", ".join(f"{count} {kind}" for kind, count in ends.items() if count) or "no signals"
        found = log_fields("closed", org=self._org, reason=reason, **ends)
        logger.log(level, "%s: closed, with %s", self._org, told, extra=found)

    def _abort(self, reason: str) -> None:
        """Do what `_run` could not: a task that is cancelled before its first step runs no `finally`."""
        self._limiter.unwatch(self.queue.alarm.ring)
        with suppress(RuntimeError):  # a closed loop, on which nobody waits any more
            self.queue.close(reason)
        self.handoff.abort(reason)
        self.sender.event_log.close()
        while self.queue.abandon(reason):
            pass
        if self._stored is not None:
            self._stored.abort()
        if self._own_session is not None and not self._own_session.closed:
            self._own_session.detach()  # it has no connection yet

    def statistics(self) -> Statistics:
        """Return a snapshot of books, budget and trouble."""
        books, sender, queue = self.queue.books, self.sender, self.queue
        now = self.loop.time()
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
            waiting=queue.waiting,
            waiting_by_level=MappingProxyType(queue.waiting_by_level()),
            entering=self.handoff.size,
            in_flight=books.in_flight,
            oldest_waiting=now - queue.oldest_at(now),
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
            fleet=None if self.fleet is None else self.fleet.statistics,
        )
