"""
A replica's side of a fleet: its admissions into the shared queue, its share of the requests, and its receipts.

One task talks to the engine, one call at a time, so that no cancellation cuts a call in two; others leave with it what
they want and wait. If the engine is away it tries again, and begins by telling what it remembers.
"""

import asyncio
import json
import logging
import math
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import attrs
from attrs import define, field

from ...batcher import Batch
from ...errors import ClientClosed, InvalidSignal, QueueFull, StoreError
from ...receipts import Receipt as Entry
from ...limiter import Limiter
from ...log import EventLog, log_fields
from ...okta.wire import MAX_EVENTS
from ...queue import SLICE, Queue
from ...receipts import Abandoned, Accepted, Expired, Outcome, Receipt, Rejected, Shed, Superseded
from ...sender import backoff
from ...signals import RiskLevel, RiskSignal
from .claims import Claim, Found, Terms
from .decide import NEAR, Decider, Look, Plan, Row
from .engine import EngineAway, ValkeyStore, encoded, microseconds
from .session import TOLERANCE, Session, Untimely
from .statistics import FleetStatistics
from .window import View, adopt, free_of, private, tell, told_rate, turns_of_suspects

logger = logging.getLogger("riskbatch")

_AT_ONCE = 250  # signals a call: 1 or 2 ms of the engine's time, and of this loop's
_WHOLE = 5_000  # signals of one `enqueue_many` that are admitted together or not at all
_MOMENT = 0.01  # seconds until another look at what is soon to change
_MOST_BACKOFF = 2.0  # seconds between two tries to reach the engine


@define(eq=False)
class _Add:
    """Signals on their way to the engine, for one caller."""

    signals: list[RiskSignal]
    alone: bool  # `enqueue`, of which a cancellation leaves nothing behind
    done: asyncio.Future[None]
    gone: asyncio.Future[None]  # the caller was cancelled, and they are out again
    entries: list[Entry] = field(factory=list)
    receipts: list[Receipt] = field(factory=list)
    tried: bool = False  # the engine had no room for all of them
    withdrawn: bool = False

    @property
    def level(self) -> RiskLevel:
        return self.signals[0].risk_level


class FleetQueue(Queue):
    """
    Every unsettled signal that this replica admitted; they wait in the engine, among those of all replicas.

    Args:
        store: Where the engine is.
        limiter: The budget, and the rules that the script shall keep.
        org: The org's URL.
        args, kwargs: As of `Queue`.
    """

    def __init__(self, store: ValkeyStore, limiter: Limiter, org: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        rate = limiter.window.rate
        self._period = rate.period + TOLERANCE
        self._lease = store.lease
        self._buffer = store.buffer
        self._org = org
        self._journal = EventLog(org)
        self._engine = store.connect(org)
        common = {
            "period": microseconds(self._period),
            "lease": microseconds(self._lease),
            "coalesce": self._coalesce,
        }
        self._session = Session(self._engine, common, self._journal)
        self._subjects = self._prioritizer.subjects_per_event
        self._rate = told_rate(rate)
        self._limiter = private(limiter)
        self._decider = Decider(self._limiter, self._subjects, self._entry_of)
        self._view: View | None = None
        self._own: dict[int, Entry] = {}  # unsettled, by id, the oldest first
        self._unsettled = dict.fromkeys(RiskLevel, 0)  # the same, counted
        self._flying: set[int] = set()  # those of them that are in a claim of ours
        self._pending: dict[RiskLevel, deque[_Add]] = {level: deque() for level in RiskLevel}
        self._adding: list[_Add] = []  # in the call that is under way, or must be repeated
        self._buffered = 0  # signals in these two
        self._number = 0  # of that call: the engine recognizes a repeated one
        self._full = False
        self._withdrawals: deque[tuple[list[str], asyncio.Future[None]]] = deque()
        self._claims: dict[str, Claim] = {}
        self._claim_of: dict[Entry, Claim] = {}
        self._claimed = 0
        self._answers: deque[Claim] = deque()
        self._permits: deque[tuple[str, float]] = deque()  # of answered requests, and when that was
        self._look: tuple[Terms, asyncio.Future[Found]] | None = None
        self._news = False
        self._work = asyncio.Event()
        self._ending = False
        self._task: asyncio.Task[None] | None = None
        self.fleet = FleetStatistics()

    # -- life

    async def open(self) -> None:
        """
        Become a replica; an engine that is away has a lease's time to come back.

        Raises:
            StoreError: The engine cannot be reached or refuses.
        """
        until = self._loop.time() + self._lease
        try:
            while not self._session.joined:
                try:
                    await self._hello()
                except EngineAway as away:
                    if self._loop.time() >= until:
                        raise StoreError(f"the fleet cannot be joined: {away}") from None
                    await asyncio.sleep(self._lease / 20)
        except BaseException:
            await self._engine.close()
            raise
        self._task = asyncio.create_task(self._serve(), name=f"riskbatch fleet {self._engine.name}")

    async def written(self) -> None:
        """Wait until no admission and no answer is under way to the engine any more, unless it is away."""
        while (self._adding or self._answers) and not self.fleet.away and not self._has_ended():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    def abort(self) -> None:
        """Leave the fleet as soon as may be."""
        self._ending = True
        self._work.set()

    async def finish(self) -> None:
        """Tell the engine what is owed to it and leave, whoever cancels; if it is away, leave it at that."""
        self.abort()
        while self._task is not None and not self._task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({self._task})

    # -- the one task that talks to the engine

    async def _serve(self) -> None:
        failures = 0
        try:
            while not self._ending or self._owes():
                await self._work.wait()
                try:
                    await self._exchange()
                    failures = 0
                except Untimely:
                    self._work.set()
                    await asyncio.sleep(_MOMENT)
                except (EngineAway, StoreError) as away:  # also a right that was taken away may be given again
                    if self._ending:
                        break
                    failures += 1
                    self._note_away(str(away))
                    await asyncio.sleep(backoff(failures, 0.2, _MOST_BACKOFF, random.uniform(0.5, 1.0)))
            if not self.fleet.away:
                with suppress(EngineAway, StoreError, Untimely):
                    await self._session.call("leave")
            self._refuse_all(ClientClosed(self._closed))
        except Exception as error:
            self._fail(error)
        finally:
            self._journal.close()
            await self._engine.close()

    def _fail(self, error: Exception) -> None:
        """Tell everybody who waits that it will not get better."""
        failure = StoreError(f"the fleet failed: {type(error).__name__}")
        text, lost = (
            "the fleet of %s failed, which is a defect; the client is closed",
            log_fields("crashed", org=self._org),
        )
        logger.error(text, self._engine.name, exc_info=error, extra=lost)
        self.close(str(failure))
        self._refuse_all(failure)

    def _refuse_all(self, failure: Exception) -> None:
        for add in self._adding:
            _refuse(add.done, failure)
            _resolve(add.gone)
        for _, gone in self._withdrawals:
            _resolve(gone)
        if self._look is not None:
            _refuse(self._look[1], failure)

    def _owes(self) -> bool:
        return bool(self._answers or self._withdrawals or self._adding)

    def _note_away(self, reason: str) -> None:
        if self.fleet.away is None:
            text = f"the fleet's engine is away, nothing is sent: {reason}"
            self._journal.emit(logging.WARNING, "engine_away", text, reason=reason)
        self.fleet = attrs.evolve(self.fleet, away=reason)
        self._session.joined = False
        self._work.set()
        for gone in [add.gone for add in self._adding] + [gone for _, gone in self._withdrawals]:
            _resolve(gone)  # nobody waits for what may take long; it will be done

    async def _exchange(self) -> None:
        """Do what is to do, the most urgent first."""
        self._work.clear()
        if not self._session.joined:
            await self._hello()
            if self.fleet.away:
                text = f"the fleet's engine answers again, after: {self.fleet.away}"
                self._journal.emit(logging.WARNING, "engine_back", text, reason=self.fleet.away)
                self.fleet = attrs.evolve(self.fleet, away=None)
        await self._send_answers()
        if self._adding or self._has_pending():
            await self._admit_pending()
        while self._withdrawals:
            ids, gone = self._withdrawals[0]
            await self._session.call("withdraw", {"ids": ids})
            self._withdrawals.popleft()
            _resolve(gone)
        if self._look is not None:
            await self._look_now(*self._look)
        if not self._session.joined or self._answers or self._withdrawals or self._has_pending():
            self._work.set()

    def _has_pending(self) -> bool:
        return not self._full and any(self._pending.values())

    async def _hello(self) -> None:
        """Begin, or begin again: both sides tell what they remember, and what only one knows is mended."""
        now = self._loop.time()
        answered = [(name, at + self._period - now) for name, at in self._permits]
        out = [(name, self._period + self._lease) for name in self._claims]
        ended = [(claim.name, claim.answered_at + self._period - now) for claim in self._answers if not claim.unsent]
        await self._session.join([permit for permit in (*answered, *out, *ended) if permit[1] > 0], self._rate)
        await self._recover()
        self._session.lost_state = False
        self._session.joined = True

    async def _recover(self) -> None:
        """
        Find out what became of this replica's signals, and give an engine that lost some those back.

        Who is missing was settled, and the notice of it is there before; unless this replica was away for longer than
        notices are kept, or the engine has lost both.
        """
        await self._send_answers()
        numbers = list(self._own)
        for start in range(0, len(numbers), _AT_ONCE):
            page = [str(number) for number in numbers[start : start + _AT_ONCE]]
            missing = [int(text) for text in (await self._session.call("missing", {"ids": page}))["ids"]]
            if missing:
                await self._read_on()
            lost = {number: self._own[number] for number in missing if number in self._own}
            if lost and self._session.lost_state:  # with the same ids, so that an answer that is still to come finds them
                signals = [encoded(entry.signal) for entry in lost.values()]
                await self._session.call("restore", {"ids": [str(number) for number in lost]}, signals)
            elif lost:
                self._end_own(lost, lambda _: Abandoned("settled while this replica was away", may_have_arrived=True))

    async def _read_on(self) -> None:
        while notices := (await self._session.call("read"))["notices"]:
            await self._settle(notices)

    # -- the books, which are this replica's own

    @property
    def waiting(self) -> int:
        """Signals that this replica admitted, that are not settled, and that are in none of its own requests."""
        return len(self._own) - len(self._flying)

    def waiting_by_level(self) -> dict[RiskLevel, int]:
        """Count them by level."""
        flying = Counter(self._own[number].signal.risk_level for number in self._flying)
        return {level: count - flying[level] for level, count in self._unsettled.items()}

    def oldest_by_level(self) -> dict[RiskLevel, float]:
        """Return when the oldest of them was admitted, under its level."""
        return {entry.signal.risk_level: entry.admitted_at for entry in islice(self._own.values(), 1)}

    def _land_again(self, numbers: Iterable[int]) -> None:
        self._flying.difference_update(numbers)
        self.in_flight = len(self._flying)

    def _end_own(self, ended: Mapping[int, Entry], outcome: Callable[[Entry], Outcome]) -> None:
        for number in ended:
            self._disown(number)
        self._land_again(ended)
        self._end(list(ended.values()), outcome)

    def _disown(self, number: int) -> None:
        self._unsettled[self._own.pop(number).signal.risk_level] -= 1

    async def _settle(self, notices: Iterable[tuple[str, str, str, str]]) -> None:
        """Settle those of ours that the fleet tells of."""
        count = 0
        for place, kind, detail, ids in notices or ():
            self._session.read_until = place
            ended = {}
            for text in ids.split(","):
                entry = self._own.get(number := int(text.rstrip("!")))
                if entry is not None:
                    entry.may_have_arrived |= text.endswith("!")
                    ended[number] = entry
            if ended:
                self._full = False
                self._end_own(ended, _outcome(kind, detail))
            count += len(ended)
            if count >= SLICE:
                count = 0
                await asyncio.sleep(0)

    # -- coming in

    def room(self) -> int:
        """Return how many signals more may be on their way to the engine."""
        return self._buffer - self._buffered - self._promised

    def _has_place_for(self, signal: RiskSignal) -> bool:
        return self.room() > 0

    def admit_at_once(self, signal: RiskSignal, row: int | None = None) -> Receipt | None:
        """Admit nothing: the engine must have it first."""
        return None

    def admit_many_at_once(self, signals: Sequence[RiskSignal]) -> list[Receipt]:
        """Admit nothing: the engine must have them first."""
        return []

    def admit_nowait(self, signal: RiskSignal) -> Receipt:
        """Refuse: nothing can be shared without waiting."""
        raise StoreError("enqueue_nowait cannot wait for the store; with a store, use `await enqueue`")

    async def admit(self, signal: RiskSignal, timeout: float | None) -> Receipt:
        """Admit *signal* once the engine has it."""
        return (await self._add([signal], timeout, alone=True))[0]

    async def admit_many(self, signals: Sequence[RiskSignal]) -> list[Receipt]:
        """Admit *signals* in their order, some hundred in one call."""
        size = _WHOLE if self._when_full == "reject" else _AT_ONCE
        receipts: list[Receipt] = []
        for start in range(0, len(signals), size):
            receipts += await self._add(list(signals[start : start + size]), None, alone=False)
        return receipts

    async def _add(self, signals: list[RiskSignal], timeout: float | None, *, alone: bool) -> list[Receipt]:
        deadline = None if timeout is None else self._loop.time() + timeout
        add = _Add(signals, alone, self._loop.create_future(), self._loop.create_future())
        await self._find_place(add, timeout)
        if not add.done.done():
            self._buffered += len(signals)
            self._pending[add.level].append(add)
            self._work.set()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await asyncio.shield(add.done)
            # *timeout* is for room, not for the way there.
            while not (add.done.done() or add.tried or self.fleet.away or self._has_ended()):  # noqa: ASYNC110 - rare
                await asyncio.sleep(_MOMENT)
        except BaseException:
            await self._withdraw(add)
            raise
        if not add.done.done():
            await self._withdraw(add)
            raise self._late(timeout)
        add.done.result()
        return add.receipts

    def _late(self, timeout: float | None) -> Exception:
        if self.fleet.away:
            return StoreError(f"the engine did not answer within {timeout} s: {self.fleet.away}")
        return QueueFull(f"no room came within {timeout} s (capacity {self._capacity})")

    async def _find_place(self, add: _Add, timeout: float | None) -> None:
        """Wait for room in the buffer, make it, or raise, as `when_full` says."""
        if self._closed is not None:
            raise ClientClosed(self._closed)
        if self.room() > 0:
            return
        if self._when_full == "reject":
            raise QueueFull(f"{self._buffer} signals are on their way to the engine (buffer {self._buffer})")
        if self._when_full == "wait":
            await self._wait_for_room(add.level, timeout)
            self._promise(-1)
            if self._closed is not None:
                raise ClientClosed(self._closed)
        else:
            self._shed_pending(self._lowest_pending(add))

    def _lowest_pending(self, newcomer: _Add) -> _Add:
        """Remove and return what makes room for *newcomer*: the oldest of the lowest level, or itself."""
        for level in reversed(RiskLevel):
            if self._pending[level]:
                victim = self._pending[level].popleft()
                self._buffered -= len(victim.signals)
                return victim
            if level is newcomer.level:
                break
        return newcomer

    def _shed_pending(self, add: _Add) -> None:
        for signal in add.signals:
            self._begin(add, signal, None)
        self._end(add.entries, lambda _: Shed())
        _resolve(add.done)

    def _begin(self, add: _Add, signal: RiskSignal, number: int | None) -> Entry:
        entry = Entry(signal, self._next_number(), self._loop.time(), row=number)
        add.entries.append(entry)
        add.receipts.append(self._receipt(entry))
        return entry

    async def _admit_pending(self) -> None:
        if not self._adding:
            self._adding = self._choose()
            self._number += 1
        adding = self._adding
        given = {
            "number": self._number,
            "units": [len(add.signals) for add in adding],
            "when_full": self._when_full,
            "capacity": self._capacity,
                    }
        signals = [encoded(signal) for add in adding for signal in add.signals]
        told = await self._session.call("admit", given, signals)
        self._adding = []
        number = int(told.get("first") or 0)
        for add, count in zip(adding, told["counts"], strict=True):
            self._enter(add, range(number, number + count))
            number += count
        if self._is_news(told["before"], told["after"]):
            self.wake()
        await self._settle(told["notices"])  # whom the newcomers shed or superseded, before they go on
        self._promise_room()

    def _is_news(self, before: Sequence[int], after: Sequence[int]) -> bool:
        """Tell whether the plan changes: with the first of a level, and with each that may fill a payload."""
        counts = [*zip(before, after, strict=True), (sum(before), sum(after))]
        return any(
            old < new and old < self._decider.payload and (old == 0 or old // MAX_EVENTS < new // MAX_EVENTS)
            for old, new in counts
        )

    def _choose(self) -> list[_Add]:
        """Take from the buffer what the next call admits, the highest level first."""
        chosen: list[_Add] = []
        size = 0
        for adds in self._pending.values():
            while adds and (not chosen or size + len(adds[0].signals) <= _AT_ONCE):
                chosen.append(adds.popleft())
                size += len(chosen[-1].signals)
        return chosen

    def _enter(self, add: _Add, numbers: range) -> None:
        """Give *add* the receipts of its first signals, which the engine has as *numbers*; the others wait on."""
        if add.withdrawn:
            self._buffered -= len(add.signals)
            self._withdrawals.append(([str(number) for number in numbers], add.gone))
            return
        for signal, number in zip(add.signals, numbers, strict=False):
            self._own[number] = self._begin(add, signal, number)
            self._unsettled[signal.risk_level] += 1
        del add.signals[: len(numbers)]
        self._buffered -= len(numbers)
        if not add.signals:
            _resolve(add.done)
        elif self._when_full == "reject":
            self._buffered -= len(add.signals)
            _refuse(
                add.done, QueueFull(f"the fleet has no room for {len(add.signals)} more (capacity {self._capacity})")
            )
        elif self._closed is not None:
            self._buffered -= len(add.signals)
            _refuse(add.done, ClientClosed(self._closed))
        else:
            self._full = add.tried = True
            self._pending[add.level].appendleft(add)

    async def _withdraw(self, add: _Add) -> None:
        """
        Return when the signals of *add* that its caller has no receipt of are surely not in the queue.

        While the engine is away, that is left for later; and what a replica has claimed in that very moment, is sent.
        """
        if add.done.done():  # at the same moment
            if not add.alone or add.done.exception() is not None:
                return
            self._recall(add)
        elif add in self._adding:
            add.withdrawn = True
        else:
            self._pending[add.level].remove(add)
            self._buffered -= len(add.signals)
            self._promise_room()
            return
        self._work.set()
        while not add.gone.done() and not self.fleet.away and not self._has_ended():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({add.gone, self._task}, return_when="FIRST_COMPLETED")  # type: ignore[type-var]

    def _recall(self, add: _Add) -> None:
        for entry in add.entries:
            if entry.row is not None and entry.row in self._own:
                self._disown(entry.row)
                self._count(-1)
                self._land_again([entry.row])
                for flush in self._flushes:
                    flush.count(entry)
        self._withdrawals.append(([str(entry.row) for entry in add.entries], add.gone))

    def _has_ended(self) -> bool:
        return self._task is None or self._task.done()

    # -- going out

    def wake(self) -> None:
        """As of every queue; what is said while nobody waits is not forgotten."""
        self._news = True
        super().wake()

    async def changed(self, until: float) -> None:
        """As of every queue."""
        if not self._news:
            await super().changed(until)

    async def look(self, terms: Terms) -> Found:
        """Look at the shared queue, and claim what should be sent now and by this replica."""
        if self._has_ended():
            raise StoreError(f"the fleet of {self._engine.name} has failed")
        self._news = False
        found: asyncio.Future[Found] = self._loop.create_future()
        self._look = (terms, found)
        self._work.set()
        try:
            return await found
        except asyncio.CancelledError:
            self._look = None
            if found.done() and not found.cancelled() and (claim := found.result().claim) is not None:
                self.give_back(claim)
            raise

    async def _look_now(self, terms: Terms, found: "asyncio.Future[Found]") -> None:
        result = await self._decide(terms)
        self._look = None
        if not found.done():
            found.set_result(result)
        elif result.claim is not None:  # nobody looks any more
            self.give_back(result.claim)

    async def _decide(self, terms: Terms) -> Found:
        while True:
            near = self._view is None or self._decider.earliest(self._view, self._now(), terms) <= self._now() + NEAR
            look = await self._look_at(self._decider.payload if near and terms.sending else 0)
            if self._withdrawals or not self._session.joined:  # what a decision is made of, will change first
                return Found(None, 0.0, math.inf)
            now = self._now()
            if not terms.sending:
                return Found(None, look.again_at - now, math.inf)
            if not near:
                at = self._decider.earliest(look.view, now, terms)
                if at <= now + NEAR:
                    continue
                return Found(None, min(at + look.turn, look.again_at) - now, at - now)
            plan = await self._decider.decide(look, terms, now, flushing=self.flushing)
            if isinstance(plan, float):
                return Found(None, min(plan + look.turn if plan > now else plan, look.again_at) - now, plan - now)
            claim = await self._commit(plan)
            if claim is not None:
                return Found(claim, 0.0, 0.0)

    def _now(self) -> float:
        return self._loop.time() + 1e-6

    async def _look_at(self, heads: int) -> Look:
        known, sent_at = list(self._claims.values()), self._loop.time()
        names = [claim.name for claim in (*known, *self._answers)]
        spent = [name for name, _ in self._permits]
        told = await self._session.call("look", {"known": names, "spent": spent, "heads": heads})
        renewed = set(told["renewed"] or ())
        for claim in known:
            if claim.name in self._claims:
                claim.renew(sent_at + self._lease if claim.name in renewed else self._loop.time())
        self._view = View.of(told["view"], self._engine.anchor)
        look = Look.of(told, self._view, self._session.name)
        adopt(self._limiter, self._view)
        self.fleet = FleetStatistics.of(told["fleet"], free_of(self._limiter, self._loop.time()))
        self._full = self._full and told["fleet"]["unsettled"] >= self._capacity
        await self._settle(told["notices"])
        return look

    async def _commit(self, plan: Plan) -> Claim | None:
        self._claimed += 1
        name, sent_at = f"{self._session.name}:{self._claimed}", self._loop.time()
        told = await self._session.call("commit", {"claim": name, **plan.given})
        if "refused" in told:
            return None
        claim = Claim(self._subjects, name, sent_at + self._lease)
        claim.is_probe = plan.batch.is_probe
        for entry in plan.batch.entries:
            assert entry.row is not None
            claim.add(entry)
            entry.attempts += 1
            self._tell(entry)
            self._claim_of[entry] = claim
            if entry.row in self._own:
                self._flying.add(entry.row)
        self.in_flight = len(self._flying)
        self._claims[name] = claim
        return claim

    def _entry_of(self, row: Row, view: View) -> Entry:
        number, place, admitted, expires, attempts, arrived, text = row
        entry = self._own.get(int(number)) or self._foreign(int(number), text)
        assert entry is not None
        entry.place = int(place)
        entry.admitted_at = view.anchor.at(int(admitted))
        entry.deadline = None if expires == "-" else view.anchor.at(int(expires))
        entry.attempts, entry.may_have_arrived = attempts, bool(arrived)
        return entry

    def _foreign(self, number: int, text: str) -> Entry | None:
        """Make an entry for another replica's signal; nobody here awaits it."""
        try:
            signal = RiskSignal.from_json(json.loads(text))
        except (InvalidSignal, ValueError) as error:
            text = "the fleet has a signal that cannot be read, and is dropped: %s"
            logger.error(text, error, extra=log_fields("store_failed", reason="unreadable", count=1))
            return None
        return Entry(signal, 0, self._loop.time(), row=number)

    def give_back(self, claim: Claim) -> None:
        """Return a *claim* of which no request was made."""
        claim.keep_unsent()
        self.put_back(claim.entries)
        self.answered(claim)

    def land(self, entries: Sequence[Entry], outcome: Callable[[Entry], Outcome]) -> None:
        """Settle *entries* that are in flight: each where it was enqueued, once the engine tells of it."""
        told: dict[Outcome, list[str]] = {}
        for entry in entries:
            told.setdefault(outcome(entry), []).append(str(entry.row))
        for ended, ids in told.items():
            detail = json.dumps(attrs.asdict(ended))
            self._claim_of[entries[0]].landed.append({"outcome": type(ended).__name__, "detail": detail, "ids": ids})

    def put_back(self, entries: Iterable[Entry], ready_at: float = -math.inf) -> None:
        """As of every queue, when the request has been `answered`."""
        if entries := list(entries):
            self._claim_of[entries[0]].back.append(self._returning(entries, ready_at))

    def suspect(self, groups: list[list[Entry]], ready_at: float = -math.inf) -> None:
        """As of every queue, when the request has been `answered`."""
        for group in groups:
            self._claim_of[group[0]].suspects.append(self._returning(group, ready_at))

    def _returning(self, entries: Sequence[Entry], ready_at: float) -> dict[str, object]:
        after = microseconds(max(0.0, ready_at - self._loop.time()))
        return {"ids": [str(entry.row) for entry in entries], "after": after}

    def answered(self, batch: Batch) -> None:
        """Tell the engine what became of *batch*, and that its permit comes back."""
        assert isinstance(batch, Claim)  # noqa: S101 - the sender has them from `look`
        del self._claims[batch.name]
        for entry in batch.entries:
            self._claim_of.pop(entry, None)
        batch.answered_at = self._loop.time()
        self._answers.append(batch)
        self._work.set()

    async def _send_answers(self) -> None:
        while self._answers:
            claim = self._answers[0]
            told = await self._session.call("answer", claim.answer())
            if not claim.unsent:
                self._permits.append((claim.name, claim.answered_at))
            while self._permits and self._permits[0][1] + self._period < self._loop.time():
                self._permits.popleft()
            self._land_again([entry.row for entry in claim.entries if entry.row is not None])
            await self._settle(told["notices"])
            await self._learn(claim, told)
            self._answers.popleft()

    async def _learn(self, claim: Claim, told: Mapping[str, Any]) -> None:
        """Teach the fleet what an answer said of the budget, if that changes anything."""
        if claim.unsent or not (claim.budgets or claim.refused):
            return
        while True:
            view = View.of(told["view"], self._engine.anchor)
            adopt(self._limiter, view)
            probed_last, passed_over = turns_of_suspects(view)
            before = tell(self._limiter, view, probed_last=probed_last, passed_over=passed_over)
            self._limiter.learn(claim.budgets, claim.answered_at, refused=claim.refused)
            window = tell(self._limiter, view, probed_last=probed_last, passed_over=passed_over)
            if window == before:
                return
            told = await self._session.call("learn", {"version": view.version, "window": window})
            if told["learned"]:
                return

    # -- the end

    def close(self, reason: str) -> None:
        """As of every queue; what is not on its way to the engine yet is not admitted."""
        super().close(reason)
        for adds in self._pending.values():
            while adds:
                _refuse(adds.popleft().done, ClientClosed(self._closed))

    def abandon(self, reason: str) -> bool:
        """Settle as `Abandoned` what waits; the fleet keeps it, for the other replicas."""
        ended = dict(islice(self._own.items(), SLICE))
        told = f"{reason}; it is kept in the store"
        self._end_own(ended, lambda entry: Abandoned(told, entry.may_have_arrived))
        return bool(self._own)


def _outcome(kind: str, detail: str) -> Callable[[Entry], Outcome]:
    """Return what makes the outcome that a notice tells of."""
    told = json.loads(detail) if detail else {}
    match kind:
        case "Accepted":
            accepted = Accepted(**told)
            return lambda _: accepted
        case "Rejected":
            rejected = Rejected(**told)
            return lambda _: rejected
        case "Superseded":
            by = RiskSignal.from_json(told)
            return lambda entry: Superseded(by, entry.may_have_arrived)
        case "Expired":
            return lambda entry: Expired(entry.may_have_arrived)
        case "Shed":
            return lambda entry: Shed(entry.may_have_arrived)
        case _:
            return lambda entry: Abandoned("dropped by an operator", entry.may_have_arrived)


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _refuse(future: "asyncio.Future[Any]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # whoever was cancelled does not look
