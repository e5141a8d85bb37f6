"""
The one task of a replica that talks to the engine, one call at a time, so that no cancellation cuts a call in two.

Others leave what they want and wait. If the engine is away it tries again, and begins by telling what it knows.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from attrs import define, field

from ...alarm import Alarm
from ...backoff import backoff
from ...errors import ClientClosed, StoreError
from ...limiter import Limiter
from ...log import log_fields
from ...receipts import Abandoned
from .admission import AT_ONCE, Admissions
from .claims import Claim, Claims
from .dispatch import FleetDispatcher
from .engine import EngineAway, EngineFull, encoded
from .notices import OwnReceipts
from .session import Session, Untimely
from .window import View, adopt, tell, told_rate, turns_of_suspects

logger = logging.getLogger("riskbatch")

_SOON = 0.01  # seconds until a call that came late is made again
_FIRST_BACKOFF = 0.2  # seconds: the most until the first new try to reach the engine
_MOST_BACKOFF = 2.0  # seconds between two tries


@define(eq=False)
class Exchange:
    """
    Tells the engine what this replica owes it, and asks what it wants to know.

    Args:
        session: The calls of this replica.
        own: The receipts that were given out here.
        claims: What is in flight from here.
        admissions: What is on its way in.
        dispatcher: Answers the sender.
        limiter: The private one of the decisions.
        alarm: Rings when the sender should look again.
        close: Closes the queue, with a reason, when it failed.
    """

    _session: Session
    _own: OwnReceipts
    _claims: Claims
    _admissions: Admissions
    _dispatcher: FleetDispatcher
    _limiter: Limiter
    _alarm: Alarm
    _close: Callable[[str], None]
    _loop: asyncio.AbstractEventLoop = field(init=False, factory=asyncio.get_running_loop)
    _is_ending: bool = field(init=False, default=False)
    _full_until: float = field(init=False, default=0.0)  # the engine is at maxmemory: when to try to admit again
    _task: asyncio.Task[None] | None = field(init=False, default=None)

    # -- life

    async def open(self, patience: float) -> None:
        """
        Join the fleet; an engine that is away has *patience* seconds to come back.

        Raises:
            StoreError: The engine cannot be reached or refuses.
        """
        until = self._loop.time() + patience
        try:
            while not self._session.joined:
                try:
                    await self._join()
                except (EngineAway, Untimely) as away:
                    if self._loop.time() >= until:
                        raise StoreError(f"the fleet cannot be joined: {away}") from None
                    await asyncio.sleep(patience / 20)
        except BaseException:
            await self._session.close()
            raise
        self._task = asyncio.create_task(self._serve(), name=f"riskbatch fleet {self._session.fleet}")

    @property
    def has_ended(self) -> bool:
        """Whether nobody talks to the engine any more."""
        return self._task is None or self._task.done()

    async def written(self) -> None:
        """Wait until no admission and no answer is on its way to the engine any more, unless it is away."""
        while (self._claims.owed or self._admissions.are_owed) and not (self._session.hindrance or self.has_ended):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(_SOON)

    def abort(self) -> None:
        """Leave the fleet as soon as may be."""
        self._is_ending = True
        self._admissions.work.set()

    async def finish(self) -> None:
        """Tell the engine what is owed to it and leave, whoever cancels; if it is away, leave it at that."""
        self.abort()
        while self._task is not None and not self._task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({self._task})

    async def _serve(self) -> None:
        try:
            await self._run()
            failure: Exception = ClientClosed("the client is closed")
            self._admissions.end(failure)
            self._dispatcher.fail(failure)
        except Exception as error:
            failure = StoreError(f"the fleet failed: {type(error).__name__}")
            text = "the fleet of %s failed, which is a defect; the client is closed"
            fleet = self._session.fleet
            logger.exception(text, fleet, extra=log_fields("crashed", org=fleet))
            self._close(str(failure))
            self._admissions.end(failure)
            self._dispatcher.fail(failure)
        finally:
            await self._session.close()

    async def _run(self) -> None:
        failures = 0
        while not self._is_ending or self._claims.owed or self._admissions.are_owed:
            await self._admissions.work.wait()
            try:
                await self._converse()
                failures = 0
            except Untimely:
                self._admissions.work.set()
                await asyncio.sleep(_SOON)
            except (EngineAway, StoreError) as away:  # also a right that was taken away may be given again
                if self._is_ending:
                    return
                failures += 1
                self._session.note_away(str(away))
                self._admissions.stop_waiting()
                self._admissions.work.set()
                await asyncio.sleep(backoff(failures, _FIRST_BACKOFF, _MOST_BACKOFF, random.uniform(0.5, 1.0)))
        with suppress(EngineAway, StoreError, Untimely):
            if not self._session.away:
                await self._session.call("leave")

    async def _converse(self) -> None:
        """Do what is to do, the most urgent first."""
        self._admissions.work.clear()
        if not self._session.joined:
            await self._join()
            self._session.note_back()
        await self._tell_ends()
        await self._admit()
        await self._admissions.withdraw()
        await self._dispatcher.answer()
        if not self._session.joined or self._claims.owed or self._admissions.are_withdrawn or self._may_admit():
            self._admissions.work.set()

    # -- coming in

    def _may_admit(self) -> bool:
        return self._admissions.are_pending and self._loop.time() >= self._full_until

    async def _admit(self) -> None:
        if not self._may_admit():
            return
        try:
            is_news = await self._admissions.send()
        except EngineFull as full:  # which must not keep the rest from going on
            if self._is_ending:
                raise
            self._session.note_full(str(full))
            self._admissions.stop_waiting()
            self._full_until = self._loop.time() + _MOST_BACKOFF / 2
            self._loop.call_at(self._full_until, self._admissions.work.set)
        else:
            self._session.note_full(None)
            if is_news:
                self._alarm.ring()

    # -- what ended

    async def _tell_ends(self) -> None:
        while self._claims.owed:
            claim = self._claims.owed[0]
            told = await self._session.call("answer", {**claim.answer(), "after": self._own.read_until})
            self._claims.note_told(claim)
            await self._own.read(told["notices"])
            await self._teach(claim, told["view"])
            self._claims.owed.popleft()

    async def _teach(self, claim: Claim, shown: Mapping[str, Any]) -> None:
        """Let all replicas know what an answer said of the budget, if that changes anything."""
        while claim.budgets or claim.refused:
            view = View.of(shown, self._session.anchor)
            adopt(self._limiter, view)
            before = tell(self._limiter, view, *turns_of_suspects(view))
            self._limiter.learn(claim.budgets, claim.answered_at, refused=claim.refused)
            window = tell(self._limiter, view, *turns_of_suspects(view))
            if window == before:
                return
            told = await self._session.call("learn", {"version": view.version, "window": window})
            if told["learned"]:
                return
            shown = told["view"]

    # -- joining

    async def _join(self) -> None:
        """Begin, or begin again: both sides tell what they know, and what only one knows is made good."""
        permits = self._claims.permits_out(self._loop.time())
        news = await self._session.join(permits, told_rate(self._limiter.window.rate))
        self._own.read_until = news or self._own.read_until
        # First what became of an admission whose answer was lost: its signals may have been sent meanwhile, and a
        # notice that is read before there is a receipt finds nobody.
        if self._admissions.are_repeated:
            with suppress(EngineFull):
                await self._admissions.send()
        await self._recover()
        self._session.lost_state = False
        self._session.joined = True

    async def _recover(self) -> None:
        """
        Find out what became of this replica's signals, and give an engine that lost some those back.

        A signal that is missing was settled, and the notice of it is there before; unless this replica was away for
        longer than notices are kept, or the engine has lost both.
        """
        await self._tell_ends()
        numbers = list(self._own.unsettled)
        for start in range(0, len(numbers), AT_ONCE):
            ids = [str(number) for number in numbers[start : start + AT_ONCE]]
            missing = [int(text) for text in (await self._session.call("missing", {"ids": ids}))["ids"]]
            if missing:
                await self._read_on()
            lost = [number for number in missing if number in self._own.unsettled]
            if lost and self._session.lost_state:  # with their ids, so that an answer that is still to come finds them
                signals = [encoded(self._own.unsettled[number].signal) for number in lost]
                await self._session.call("restore", {"ids": [str(number) for number in lost]}, signals)
            else:
                self._own.end(lost, lambda _: Abandoned("settled while this replica was away", may_have_arrived=True))

    async def _read_on(self) -> None:
        while notices := (await self._session.call("read", {"after": self._own.read_until}))["notices"]:
            await self._own.read(notices)
