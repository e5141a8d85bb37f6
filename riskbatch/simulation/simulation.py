"""
Is the budget enough for my traffic? The real client on a virtual clock, against a local org without sockets.

An hour takes seconds: the event loop's clock jumps to the next timer instead of waiting for it. Beside it run, if
asked, the two clients that people make by hand: a FIFO queue and a priority queue over `AsyncLimiter(30, 60)`.
"""

import asyncio
import heapq
import math
import random
import selectors
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from statistics import fmean
from typing import Any, TypeAlias, TypeVar

from aiolimiter import AsyncLimiter
from attrs import define, field, frozen
from multidict import CIMultiDict

from ..client import Client
from ..emulator.org import DEFAULT_TOKEN, EmulatedRequest, Org
from ..limiter import RateLimit
from ..okta.auth import ApiToken
from ..okta.http import HEADERS, Request, Response
from ..okta.rate_limits import budgets
from ..okta.renewal import now_on
from ..okta.risk_events import MAX_EVENTS, PATH, encode
from ..receipts import Accepted, Receipt
from ..signals import RiskLevel, RiskSignal

_ORG = "https://simulated.okta.com"
ENDS = ("accepted", "rejected", "expired", "shed", "superseded")
_START = datetime(2026, 1, 1, tzinfo=UTC)  # the org's wall clock when a simulation begins
_T = TypeVar("_T")


# -- a clock that jumps


class _JumpingSelector(selectors.SelectSelector):
    """Moves the clock to the next timer where others would wait for it; there is no I/O to wait for."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("the simulation waits for something that can never happen")
        # As on a real clock, a turn takes time even without a wait: a timer that rounds to now would come for ever.
        self.now += max(1e-9, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on which an hour without work passes at once."""

    def __init__(self) -> None:
        self._clock = _JumpingSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        """Return the virtual seconds since the loop was made."""
        return self._clock.now


def run_virtually(main: Coroutine[Any, Any, _T]) -> _T:
    """Run *main* on a virtual clock that begins at 0."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


# -- traffic


@frozen(order=True)
class Arrival:
    """
    A signal that somebody will enqueue.

    Attributes:
        at: Seconds after the beginning.
        level: Its risk level.
        ip: Its address.
        expires_after: Seconds that it is worth anything; `None` for ever.
    """

    at: float
    level: RiskLevel = field(order=False)
    ip: str = field(order=False)
    expires_after: float | None = field(default=None, order=False)


@frozen
class Traffic:
    """
    Arrivals by rate, as a random process, and bursts.

    Attributes:
        rates: Signals a second, by level; they come independently of each other (a Poisson process).
        bursts: `(count, level, every)`: so many signals of that level within a second, every so many seconds, give or
            take a fifth.
        addresses: How many different addresses report; `None` gives each signal one of its own.
        expires_after: Seconds that a signal is worth anything.
    """

    rates: Mapping[RiskLevel, float] = field(factory=dict)
    bursts: tuple[tuple[int, RiskLevel, float], ...] = ()
    addresses: int | None = None
    expires_after: float | None = None

    def arrivals(self, seconds: float, seed: int) -> Iterator[Arrival]:
        """Yield what comes in *seconds*, in order of time; the same *seed* gives the same."""
        sources = [self._steady(level, rate, seconds, seed) for level, rate in self.rates.items() if rate > 0]
        sources += [self._burst(*burst, seconds, f"{seed}-{number}") for number, burst in enumerate(self.bursts)]
        addresses = random.Random(f"addresses-{seed}")
        for number, (at, level) in enumerate(heapq.merge(*sources, key=lambda arrival: arrival[0])):
            address = number if self.addresses is None else addresses.randrange(self.addresses)
            yield Arrival(at, level, _address(address), self.expires_after)

    def _steady(self, level: RiskLevel, rate: float, end: float, seed: int) -> Iterator[tuple[float, RiskLevel]]:
        rng = random.Random(f"{level.value}-{seed}")
        at = rng.expovariate(rate)
        while at < end:
            yield at, level
            at += rng.expovariate(rate)

    def _burst(
        self, signals: int, level: RiskLevel, every: float, end: float, seed: str
    ) -> Iterator[tuple[float, RiskLevel]]:
        rng = random.Random(f"burst-{seed}")
        at = rng.uniform(0, every)
        while at < end:
            yield from ((time, level) for time in sorted(at + rng.random() for _ in range(signals)) if time < end)
            at += every * rng.uniform(0.8, 1.2)


def _address(number: int) -> str:
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def replay(signals: Iterable[RiskSignal]) -> Iterator[Arrival]:
    """Yield recorded *signals* at the distances of their timestamps; one that is out of order comes when read."""
    begin: datetime | None = None
    at = 0.0
    for signal in signals:
        begin = begin or signal.timestamp
        at = max(at, (signal.timestamp - begin).total_seconds())
        expires_at = signal.expires_at
        expires_after = None if expires_at is None else (expires_at - signal.timestamp).total_seconds()
        yield Arrival(at, signal.risk_level, signal.ip, expires_after)


# -- what came of it


@frozen
class Sample:
    """How many signals of each level waited at an instant, in seconds after the beginning."""

    at: float
    waiting: Mapping[RiskLevel, int]


@define
class Outcome:
    """
    What became of the traffic.

    Attributes:
        name: Of the client.
        seconds: How long the simulation ran.
        arrived: Signals that were enqueued, by level.
        waits: `(sent at, seconds from enqueue to the departure of the request that was accepted)`, by level.
        ended: How many signals ended as what: `accepted`, `expired`, …, `waiting`.
        requests: When each request reached the org, in seconds after the beginning.
        refusals: Requests that were answered 429.
        most_in_window: The most requests in any window of the budget's length.
        budget: The most that one may see there.
        samples: The queue over time.
    """

    name: str
    seconds: float
    budget: RateLimit
    arrived: dict[RiskLevel, int] = field(factory=lambda: dict.fromkeys(RiskLevel, 0))
    waits: dict[RiskLevel, list[tuple[float, float]]] = field(factory=lambda: {level: [] for level in RiskLevel})
    ended: dict[str, int] = field(factory=dict)
    requests: list[float] = field(factory=list)
    refusals: int = 0
    most_in_window: int = 0
    samples: list[Sample] = field(factory=list)

    def delivered(self) -> int:
        """Count the signals that the org took."""
        return sum(map(len, self.waits.values()))

    def waited(self, level: RiskLevel, quantile: float) -> float:
        """Return the wait in seconds that a share *quantile* of the delivered signals of *level* did not exceed."""
        waits = sorted(wait for _, wait in self.waits[level])
        return waits[min(len(waits) - 1, int(quantile * len(waits)))] if waits else math.nan

    def mean_wait(self, level: RiskLevel) -> float:
        """Return the mean wait in seconds of the delivered signals of *level*."""
        waits = self.waits[level]
        return fmean(wait for _, wait in waits) if waits else math.nan

    def requests_a_minute(self) -> float:
        """Return the requests sent in a mean minute."""
        return len(self.requests) / self.seconds * 60

    def fill(self) -> float:
        """Return the mean share of the 20 events that an accepted request carried."""
        accepted = len(self.requests) - self.refusals
        return self.delivered() / accepted / MAX_EVENTS if accepted else math.nan

    def budget_used(self) -> float:
        """Return the requests as a share of what the budget allows in the time."""
        return len(self.requests) / (self.seconds * self.budget.requests / self.budget.period)


# -- the org


class _LocalOrg:
    """Answers like Okta after *latency* seconds, without a socket."""

    def __init__(self, outcome: Outcome, latency: float, window: str) -> None:
        budget = outcome.budget
        self._org = Org(limit=budget.requests, period=budget.period, window="fixed" if window == "fixed" else "sliding")
        self._outcome = outcome
        self._latency = latency

    async def __call__(self, request: Request) -> Response:
        now = asyncio.get_running_loop().time()
        wall = _START.timestamp() + now
        emulated = EmulatedRequest(request.method, PATH, CIMultiDict(request.headers), request.body)
        exchange = self._org.arrive(emulated, now)
        answer = self._org.respond(exchange, now, wall)
        self._outcome.requests.append(now)
        self._outcome.refusals += answer.status == 429
        await asyncio.sleep(self._latency)
        self._org.depart(exchange)
        return Response(answer.status, CIMultiDict(answer.headers), answer.body)

    def close(self) -> None:
        self._outcome.most_in_window = self._org.most_in_any_window(self._outcome.budget.period)


# -- ours


Subject: TypeAlias = Callable[["Simulation"], Awaitable[Outcome]]


@frozen
class Simulation:
    """
    One traffic, one budget, and for how long.

    Attributes:
        arrivals: Makes the traffic anew, in order of time.
        seconds: How long to run; what waits then is counted as waiting.
        budget: What the org allows.
        latency: Seconds from a request to its answer.
        window: How the org counts: "sliding", or "fixed" as Okta does.
        options: Further arguments of `Client`.
    """

    arrivals: Callable[[], Iterable[Arrival]]
    seconds: float = 3600.0
    budget: RateLimit = field(factory=RateLimit)
    latency: float = 0.25
    window: str = "sliding"
    options: Mapping[str, Any] = field(factory=dict)

    def run(self, subject: Subject) -> Outcome:
        """Let *subject* deal with the traffic and tell what came of it."""
        return run_virtually(subject(self))  # type: ignore[arg-type]  # every Subject is a coroutine function


async def riskbatch(simulation: Simulation) -> Outcome:
    """Deal with the traffic by the real client."""
    loop = asyncio.get_running_loop()
    outcome = Outcome("riskbatch", simulation.seconds, simulation.budget)
    org = _LocalOrg(outcome, simulation.latency, simulation.window)

    def on_settled(receipt: Receipt) -> None:
        if isinstance(receipt.outcome, Accepted):
            sent_at = loop.time() - simulation.latency
            outcome.waits[receipt.signal.risk_level].append((sent_at, sent_at - receipt.admitted_at))

    options = {"limit": simulation.budget, "capacity": 10_000_000, **simulation.options}
    async with Client(_ORG, ApiToken(DEFAULT_TOKEN), transport=org, on_settled=on_settled, **options) as client:
        sampling = asyncio.create_task(_sample(outcome, lambda: client.statistics().waiting_by_level))
        for arrival in simulation.arrivals():
            if arrival.at >= simulation.seconds:
                break
            if arrival.at > loop.time():
                await asyncio.sleep(arrival.at - loop.time())
            outcome.arrived[arrival.level] += 1
            await client.enqueue(_signal(arrival))
        await asyncio.sleep(simulation.seconds - loop.time())
        sampling.cancel()
        await asyncio.wait({sampling})
        books = client.statistics()
        outcome.ended = {kind: getattr(books, kind) for kind in ENDS} | {"waiting": books.waiting + books.in_flight}
        await client.aclose(timeout=0)
    org.close()
    return outcome


def _signal(arrival: Arrival) -> RiskSignal:
    timestamp = _START + timedelta(seconds=arrival.at)
    if arrival.expires_after is None:
        return RiskSignal(arrival.ip, arrival.level, timestamp=timestamp)
    # Expiry is told by the wall clock, which does not jump: the client takes the distance from now.
    expires_at = datetime.now(UTC) + timedelta(seconds=arrival.expires_after)
    return RiskSignal(arrival.ip, arrival.level, timestamp=timestamp, expires_at=expires_at)


async def _sample(outcome: Outcome, waiting: Callable[[], Mapping[RiskLevel, int]]) -> None:
    loop = asyncio.get_running_loop()
    step = outcome.seconds / 600
    while True:
        outcome.samples.append(Sample(loop.time(), dict(waiting())))
        await asyncio.sleep(step)


# -- what people make by hand


async def fifo_by_hand(simulation: Simulation) -> Outcome:
    """Deal with the traffic by an `asyncio.Queue` over `AsyncLimiter(30, 60)`."""
    return await _by_hand(simulation, "FIFO + AsyncLimiter", asyncio.Queue(), lambda level: 0)


async def priority_by_hand(simulation: Simulation) -> Outcome:
    """Deal with the traffic by an `asyncio.PriorityQueue` over `AsyncLimiter(30, 60)`."""
    ranks = {level: rank for rank, level in enumerate(RiskLevel)}
    return await _by_hand(simulation, "PriorityQueue + AsyncLimiter", asyncio.PriorityQueue(), ranks.__getitem__)


_Item: TypeAlias = tuple[int, int, float, RiskSignal]  # rank, number, enqueued at, signal


async def _by_hand(
    simulation: Simulation, name: str, queue: "asyncio.Queue[_Item]", rank: Callable[[RiskLevel], int]
) -> Outcome:
    """Take 20 from *queue* for each turn of the limiter; wait for the reset after a 429 and send the same again."""
    loop = asyncio.get_running_loop()
    outcome = Outcome(name, simulation.seconds, simulation.budget)
    org = _LocalOrg(outcome, simulation.latency, simulation.window)
    limiter = AsyncLimiter(simulation.budget.requests, simulation.budget.period)
    auth = ApiToken(DEFAULT_TOKEN)

    async def post(batch: list[_Item]) -> None:
        body = encode([signal] for *_, signal in batch)
        while True:
            sent_at = loop.time()
            response = await org(auth.sign(Request("POST", _ORG + PATH, HEADERS, body), now_on(loop)))
            if response.status == 202:
                break
            resets_after = min((b.resets_after or 0.0 for b in budgets(response.headers)), default=0.0)
            await asyncio.sleep(resets_after + 1.0)
            await limiter.acquire()
        for _, _, enqueued_at, signal in batch:
            outcome.waits[signal.risk_level].append((sent_at, sent_at - enqueued_at))

    async def send(tasks: asyncio.TaskGroup) -> None:
        while True:
            await limiter.acquire()
            batch = [await queue.get()]
            while len(batch) < MAX_EVENTS and not queue.empty():
                batch.append(queue.get_nowait())
            for *_, signal in batch:
                waiting[signal.risk_level] -= 1
            tasks.create_task(post(batch))

    async def work() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(send(tasks))

    working = asyncio.create_task(work())
    waiting = dict.fromkeys(RiskLevel, 0)
    sampling = asyncio.create_task(_sample(outcome, lambda: waiting))
    for number, arrival in enumerate(simulation.arrivals()):
        if arrival.at >= simulation.seconds:
            break
        if arrival.at > loop.time():
            await asyncio.sleep(arrival.at - loop.time())
        outcome.arrived[arrival.level] += 1
        waiting[arrival.level] += 1
        queue.put_nowait((rank(arrival.level), number, loop.time(), _signal(arrival)))
    await asyncio.sleep(simulation.seconds - loop.time())
    working.cancel()
    sampling.cancel()
    await asyncio.wait({working, sampling})
    delivered = outcome.delivered()
    outcome.ended = {"accepted": delivered, "waiting": sum(outcome.arrived.values()) - delivered}
    org.close()
    return outcome


# -- showing it


def report(outcomes: list[Outcome]) -> str:
    """Return a table of *outcomes* for one traffic, and what it means for the traffic in a sentence."""
    heads = "".join(f"{head:>9}" for head in ("arrived", "sent", "mean", "median", "p95", "p99", "max"))
    lines = [f"{'seconds from enqueue to sending':30}{heads}"]
    for outcome in outcomes:
        lines.append(outcome.name)
        for level in RiskLevel:
            if outcome.arrived[level]:
                waits = [outcome.mean_wait(level), *(outcome.waited(level, q) for q in (0.5, 0.95, 0.99, 1.0))]
                shown = "".join(f"{'-' if math.isnan(wait) else f'{wait:.1f}':>9}" for wait in waits)
                lines.append(f"  {level.value:28}{outcome.arrived[level]:>9,}{len(outcome.waits[level]):>9,}{shown}")
        lines.append(f"  {_ends(outcome)}")
        lines.append(
            f"  {outcome.requests_a_minute():.1f} requests a minute, {outcome.fill():.0%} full, "
            f"{outcome.budget_used():.0%} of the budget; at most {outcome.most_in_window} in any "
            f"{outcome.budget.period:g} s (budget {outcome.budget.requests}); {outcome.refusals} answered 429"
        )
    return "\n".join([*lines, "", verdict(outcomes[0])])


def _ends(outcome: Outcome) -> str:
    counts = {kind: outcome.ended.get(kind, 0) for kind in ENDS} | {"still waiting": outcome.ended["waiting"]}
    rare = ("rejected", "superseded")
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count or kind not in rare)


def verdict(outcome: Outcome) -> str:
    """Answer in one sentence whether the budget is enough, and what is lost if it is not."""
    arriving = sum(outcome.arrived.values()) / outcome.seconds
    room = MAX_EVENTS * outcome.budget.requests / outcome.budget.period
    load = f"{arriving:.1f} signals arrive a second, and the budget carries {room:.1f} in full payloads"
    if arriving <= room:
        return f"The budget is enough: {load}."
    late = [level for level in RiskLevel if len(outcome.waits[level]) < 0.99 * outcome.arrived[level]]
    names = " and ".join(level.value for level in late) or "nothing yet"
    return f"The budget is NOT enough: {load}. What stays behind is {names}."


def plot(outcomes: list[Outcome], path: str) -> None:
    """
    Draw the queue and the waits over time into the picture file *path*.

    Raises:
        ModuleNotFoundError: The extra `[plot]` is not installed.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - heavy, and an extra

    colours = dict(zip(RiskLevel, ("tab:red", "tab:orange", "tab:blue"), strict=True))
    figure = Figure(figsize=(6 * len(outcomes), 7), layout="constrained")
    axes = figure.subplots(2, len(outcomes), squeeze=False, sharex=True, sharey="row")
    for column, outcome in enumerate(outcomes):
        depth, waits = axes[0][column], axes[1][column]
        depth.set_title(outcome.name)
        for level, colour in reversed(colours.items()):  # HIGH on top
            if outcome.arrived[level]:
                times = [sample.at / 60 for sample in outcome.samples]
                depth.plot(times, [sample.waiting[level] for sample in outcome.samples], colour, label=level.value)
                points = [(at / 60, wait) for at, wait in outcome.waits[level]]
                waits.scatter(*zip(*points, strict=True) if points else ([], []), s=2, c=colour, label=level.value)
        waits.set_xlabel("minutes")
        depth.legend()
    axes[0][0].set_ylabel("signals waiting")
    axes[0][0].set_yscale("symlog")
    axes[0][0].set_ylim(bottom=0)
    axes[1][0].set_ylabel("wait, seconds")
    axes[1][0].set_yscale("symlog")
    axes[1][0].set_ylim(bottom=0)
    figure.savefig(path)
