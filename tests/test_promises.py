"""The promises of the README, each in the sentence it keeps. P4, durability, is kept by the stores and tested there."""

import asyncio
import gc
import logging
import random
import threading
import time
import warnings
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import async_solipsism
import pytest
from budget import budget
from fake_org import WALL, FakeOrg, balanced, client, every_tick, ip, outcomes, signal, signals
from multidict import CIMultiDict

import riskbatch as rb
from riskbatch import queue as queue_module
from riskbatch.emulator import Fault
from riskbatch.okta.http import Response, Unanswered

TOKEN = "00aZ-this_token_must_never_be_seen-9x"
POISON = 4242


def soon(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def poisoned(*numbers: int):
    bad = {ip(number) for number in numbers or (POISON,)}
    return lambda received: received.ip in bad


def wild_faults(rng: random.Random, often: float):
    """Everything that goes wrong on the way, *often* of the time."""
    kinds = [
        Fault.drop(),
        Fault.lost_answer(),
        Fault.truncated(),
        Fault.hang(),
        Fault.slow(20.0),
        Fault.error(),
        Fault.unavailable(),
        Fault.proxy_error(),
        Fault.crowded(),
        Fault.rate_limited(reset_in=20.0),
        Unanswered("ClientConnectorError: refused", may_have_arrived=False),
    ]
    return lambda exchange: rng.choice(kinds) if rng.random() < often else None


async def produce(rb_client: rb.Client, rates: dict[str, float], until: float, rng: random.Random) -> list[rb.Receipt]:
    loop = asyncio.get_running_loop()
    receipts = []

    async def one(level: str, rate: float) -> None:
        while loop.time() < until:
            await asyncio.sleep(rng.expovariate(rate))
            receipts.append(await rb_client.enqueue(rb.RiskSignal(ip(len(receipts)), level)))

    await asyncio.gather(*(one(level, rate) for level, rate in rates.items()))
    return receipts


HOUR = budget(600.0, 3600.0)  # virtual seconds of traffic


# ------------------------------------------------------------------------------------------------ P1 rate


@pytest.mark.parametrize("window", ["fixed", "sliding"])
@pytest.mark.parametrize("weather", ["calm", "stormy", "crowded"])
async def test_no_window_of_60_seconds_sees_more_than_30_requests_arrive(window, weather):
    """No window of 60 s, wherever it starts and whatever the network delays, sees more than 30 of our requests."""
    rng = random.Random(f"{window} {weather}")
    most_delay = 0.25 if weather == "calm" else 8.0
    org = FakeOrg(
        window=window,
        phase=17.0,
        delay=lambda: (rng.uniform(0, most_delay), rng.uniform(0, most_delay)),
        script=wild_faults(rng, 0.15) if weather == "stormy" else None,
    )

    async def others() -> None:
        while weather == "crowded":
            await asyncio.sleep(rng.uniform(5, 60))
            now = asyncio.get_running_loop().time()
            org.org.spend(rng.randrange(1, 25), now, WALL + now)

    neighbours = asyncio.create_task(others())
    async with client(org, capacity=3_000, when_full="shed", close_timeout=60) as c:
        await produce(c, {"LOW": 9.0, "HIGH": 0.5, "MEDIUM": 0.5}, HOUR, rng)
        assert balanced(c)
    neighbours.cancel()
    assert org.org.most_in_any_window(60.0) <= 30
    assert len(org.departures) > (900 if weather == "calm" else 300) * HOUR / 3600
    if weather == "calm":
        assert set(org.statuses) == {202}  # nobody else spends: never a single 429


async def test_probes_and_retries_pay_for_their_requests_like_all_others():
    """Retries and probes are requests: a flood of poison and failures stays below 30 in any 60 s too."""
    bad = {ip(i) for i in range(0, 1500, 7)}
    rng = random.Random(7)
    org = FakeOrg(poison=lambda s: s.ip in bad, name_causes=False, script=wild_faults(rng, 0.1), window="sliding")
    async with client(org, limit=rb.RateLimit(30, 60.0)) as c:
        await c.enqueue_many(signals(1500))
        await c.flush(3600)
        assert balanced(c)
    assert org.org.most_in_any_window(60.0) <= 30


# ------------------------------------------------------------------------------------------------ P2 order


class Observer:
    """Looks at every request as it leaves: nobody may wait ready who outranks somebody aboard."""

    def __init__(self, org: FakeOrg) -> None:
        self.client: rb.Client | None = None
        self.receipts: dict[str, rb.Receipt] = {}
        self.seen = 0
        self.left_behind: list[tuple[int, rb.Receipt]] = []  # an assertion here would look like a broken transport
        org.on_departure = self

    def enqueue(self, *more: rb.RiskSignal) -> list[rb.Receipt]:
        assert self.client is not None
        receipts = [self.client.enqueue_nowait(one) for one in more]
        self.receipts |= {receipt.signal.ip: receipt for receipt in receipts}
        return receipts

    def rank(self, receipt: rb.Receipt) -> tuple[int, int]:
        return list(rb.RiskLevel).index(receipt.signal.risk_level), receipt.sequence

    def __call__(self, ips: list[str]) -> None:
        self.seen += 1
        aboard = [self.receipts[one] for one in ips]
        now = asyncio.get_running_loop().time()
        lanes = self.client._life.queue.prioritizer.lanes.values()
        # What is enqueued in the very turn in which the request leaves may be too late for it.
        ready = [one for lane in lanes for one in lane.values() if one.admitted_at < now]
        lowest = max(self.rank(receipt) for receipt in aboard)
        self.left_behind += [(self.seen, one) for one in ready if self.rank(one) < lowest]


@pytest.mark.parametrize("seed", range(3))
async def test_when_a_request_leaves_no_waiting_signal_outranks_one_aboard(seed):
    """When a request leaves, no waiting signal outranks one that rides in it, apart from those held back by a retry."""
    rng = random.Random(seed)
    org = FakeOrg(script=wild_faults(rng, 0.1), delay=lambda: (rng.uniform(0, 2), rng.uniform(0, 2)))
    observer = Observer(org)
    async with client(org) as c:
        observer.client = c
        for number in range(4000):
            level = rng.choices(["HIGH", "MEDIUM", "LOW"], [1, 2, 9])[0]
            observer.enqueue(signal(number, level))
            if rng.random() < 0.3:
                await asyncio.sleep(rng.expovariate(3.0))
        await c.flush(600)
    assert observer.seen > 100
    assert not observer.left_behind


async def test_a_high_enqueued_while_10_000_low_wait_rides_the_next_request():
    """A HIGH that arrives behind ten thousand waiting LOW leaves with the very next request."""
    org = FakeOrg()
    async with client(org, close_timeout=0) as c:
        await c.enqueue_many(signals(10_000))
        for number in range(5):
            await asyncio.sleep(random.uniform(2, 9))
            before = len(org.departures)
            high = c.enqueue_nowait(signal(50_000 + number, "HIGH"))
            assert isinstance(await high, rb.Accepted)
            assert org.carried(high.signal.ip) == [before]


async def test_within_a_level_the_oldest_goes_first():
    """Within a level the order is that of admission, put-backs included."""
    org = FakeOrg()
    org.faults = [None, Fault.unavailable(), None, Fault.drop()]
    async with client(org) as c:
        await c.enqueue_many(signals(200))
        await c.flush()
    first_try = list(dict.fromkeys(one for _, aboard in org.departures for one in aboard))
    assert first_try == [ip(i) for i in range(200)]


# ------------------------------------------------------------------------------------------------ P3 nothing lost


@pytest.mark.parametrize("coalesce", [False, True])
@pytest.mark.parametrize("when_full", ["wait", "reject", "shed"])
async def test_the_books_balance_at_every_instant_and_every_signal_is_settled_once(when_full, coalesce):
    """At any instant admitted == settled + waiting + in flight, and each admitted signal is settled exactly once."""
    rng = random.Random(f"{when_full} {coalesce}")
    org = FakeOrg(script=wild_faults(rng, 0.25), poison=lambda s: s.ip.endswith(".13"), name_causes=False)
    settled: Counter[rb.Receipt] = Counter()
    receipts: list[rb.Receipt] = []
    wrong: list[rb.Statistics] = []

    def check() -> None:
        if not balanced(c):
            wrong.append(c.statistics())

    def hook(receipt: rb.Receipt) -> None:
        check()
        settled[receipt] += 1
        if rng.random() < 0.02:
            raise RuntimeError("a hook fails")

    async def producer() -> None:
        for _ in range(250):
            level = rng.choice(["HIGH", "MEDIUM", "LOW", "LOW"])
            expires_at = soon(rng.uniform(-1, 60)) if rng.random() < 0.4 else None
            one = rb.RiskSignal(ip(rng.randrange(400)), level, expires_at=expires_at)
            try:
                if rng.random() < 0.5:
                    receipts.append(await c.enqueue(one, timeout=rng.choice([None, 0.0, 5.0])))
                else:
                    receipts.append(c.enqueue_nowait(one))
            except rb.QueueFull:
                pass
            if rng.random() < 0.2:
                await asyncio.sleep(rng.expovariate(1.0))

    async def impatient() -> None:
        for _ in range(80):
            with pytest.raises((TimeoutError, rb.QueueFull)):
                await asyncio.wait_for(enqueue_until_full(), rng.uniform(0, 1))

    async def enqueue_until_full() -> None:
        while True:
            receipts.append(await c.enqueue(signal(rng.randrange(400), "MEDIUM")))
            await asyncio.sleep(0.3)

    c = client(org, capacity=120, when_full=when_full, coalesce=coalesce, on_settled=hook, close_timeout=40)
    async with c:
        stop = every_tick(check)
        await asyncio.gather(*(producer() for _ in range(8)), impatient())
        assert await c.flush(30) < 240
    stop()
    end = c.statistics()
    assert not wrong
    assert end.admitted == end.settled == settled.total() == len(settled)
    assert all(receipt.done() for receipt in receipts)
    assert set(receipts) <= set(settled)
    kinds = {type(receipt.outcome) for receipt in settled}
    assert {rb.Accepted, rb.Expired} <= kinds
    assert (rb.Superseded in kinds) == coalesce
    assert (rb.Shed in kinds) == (when_full == "shed")


# ------------------------------------------------------------------------------------------------ P5 valid, isolated


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
@pytest.mark.parametrize("position", range(20))
async def test_one_bad_signal_never_takes_its_19_companions_down(position, named):
    """19 are accepted, one is rejected with Okta's own words, about ten probes are the price, and traffic goes on."""
    org = FakeOrg(poison=poisoned(position), name_causes=named)
    async with client(org) as c:
        receipts = await c.enqueue_many(signals(20))
        await asyncio.sleep(3.0)
        fresh = [c.enqueue_nowait(signal(100 + i, "HIGH")) for i in range(3)]
        await asyncio.sleep(6.0)
        assert all(isinstance(receipt.outcome, rb.Accepted) for receipt in fresh)
        await c.flush()
        requests = c.statistics().requests
    bad = receipts.pop(position)
    assert all(isinstance(receipt.outcome, rb.Accepted) for receipt in receipts)
    assert isinstance(bad.outcome, rb.Rejected)
    assert (bad.outcome.code, bad.outcome.status) == ("E0000001", 400)
    assert "Api validation failed" in bad.outcome.reason
    assert bad.outcome.request_id == org.org.requests[org.carried(bad.signal.ip)[-1]].request_id
    assert requests <= (4 if named else 13)
    assert sorted(org.ips) == sorted(set(org.ips))  # nobody was sent twice


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
@pytest.mark.parametrize("bad", [(0, 19), (3, 4), (0, 1, 2), (5, 10, 15), tuple(range(20))], ids=str)
async def test_several_bad_signals_are_all_found(bad, named):
    """However many of a batch Okta refuses, exactly these are rejected."""
    org = FakeOrg(poison=poisoned(*bad), name_causes=named)
    async with client(org) as c:
        receipts = await c.enqueue_many(signals(20))
        await c.flush()
    rejected = [i for i, receipt in enumerate(receipts) if isinstance(receipt.outcome, rb.Rejected)]
    assert rejected == list(bad)
    assert c.statistics().accepted == 20 - len(bad)


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
async def test_a_bad_signal_among_a_thousand_in_one_payload_is_found(named):
    """With 50 subjects an event a payload has up to 1000 signals, and still only the bad one is rejected."""
    org = FakeOrg(poison=poisoned(777), name_causes=named)
    when = datetime(2026, 1, 1, tzinfo=UTC)
    async with client(org, subjects_per_event=50) as c:
        receipts = await c.enqueue_many(signals(1000, timestamp=when))
        await c.flush()
        requests = c.statistics().requests
    assert [i for i, r in enumerate(receipts) if isinstance(r.outcome, rb.Rejected)] == [777]
    assert c.statistics().accepted == 999
    assert requests <= (5 if named else 24)


@pytest.mark.parametrize("index", [0, 1, 7, 19, 300])
@pytest.mark.parametrize("fresh", [0, 60])
async def test_a_server_that_names_the_wrong_signal_never_has_an_innocent_rejected(index, fresh):
    """A wrong index costs a few probes, never an innocent signal, and fresh HIGH do not keep the search going."""
    org = FakeOrg(poison=poisoned())
    body = b'{"errorCode":"E0000001","errorSummary":"no","errorCauses":[{"errorSummary":"[%d].subjects[0]: no"}]}'

    async def misled(request):
        response = await org(request)
        if response.status == 400:
            return Response(400, response.headers, body % index)
        return response

    async with client(org, transport=misled) as c:
        receipts = await c.enqueue_many([*signals(12), signal(POISON), *signals(7, start=50)])
        for number in range(fresh):
            await asyncio.sleep(2.0)
            receipts.append(c.enqueue_nowait(signal(1000 + number, "HIGH")))
        assert await c.flush(120.0) == 0
    rejected = [receipt.signal.ip for receipt in receipts if isinstance(receipt.outcome, rb.Rejected)]
    assert rejected == [ip(POISON)]
    assert sum(isinstance(receipt.outcome, rb.Accepted) for receipt in receipts) == 19 + fresh
    assert org.statuses.count(400) <= 10


# ------------------------------------------------------------------------------------------------ P6 a good guest


@pytest.mark.parametrize("end", ["expired", "shed", "superseded", "abandoned", "waiting"])
async def test_many_signals_that_end_at_once_do_not_block_the_loop(end, monkeypatch):
    """However many signals end at once, the loop gets its turn after every few hundred of them."""
    count = budget(20_000, 100_000)
    work: list[int] = []
    turns: list[float] = []
    original = queue_module.Queue.end

    def counted(queue, receipts, outcome):
        work[-1] += len(receipts)
        return original(queue, receipts, outcome)

    def tick() -> None:
        turns.append(time.thread_time())  # a loaded machine steals turns, but no processor time
        work.append(0)

    monkeypatch.setattr(queue_module.Queue, "end", counted)
    org = FakeOrg()
    org.script = lambda _: Fault.unavailable()
    tick()
    gc.collect()
    gc.disable()  # a collection's pause is the interpreter's, and depends on all the tests before
    try:
        capacity = count + 20 if end == "superseded" else count  # those in flight cannot be superseded
        c = client(org, capacity=capacity, when_full="shed", coalesce=end == "superseded", close_timeout=1)
        async with c:
            expires_at = soon(30) if end == "expired" else None
            batch, more = signals(count, expires_at=expires_at), signals(count, "HIGH", start=count)
            stop = every_tick(tick)
            receipts = await c.enqueue_many(batch)
            if end == "expired":
                await asyncio.sleep(60)
                assert c.statistics().expired == count
            elif end == "shed":
                await c.enqueue_many(more)
                assert c.statistics().shed >= count - 20
            elif end == "superseded":
                await c.enqueue_many(batch)
                assert c.statistics().superseded >= count - 20
        stop()
    finally:
        gc.enable()
    assert all(receipt.done() for receipt in receipts)
    assert max(work) <= queue_module.SLICE + 20
    steps = [after - before for before, after in pairwise(turns[1:])]
    assert max(steps) < 0.25  # one pass over 100,000 takes longer


async def test_nothing_outlives_the_block():
    """No task, thread or open session is left when `async with` is over."""
    tasks, threads = asyncio.all_tasks(), threading.enumerate()
    for fault in (None, Fault.hang(), Fault.error(), Fault.crowded()):
        org = FakeOrg(script=lambda _, fault=fault: fault)
        async with client(org, close_timeout=3) as c:
            waiting = [asyncio.create_task(wait_for(r)) for r in await c.enqueue_many(signals(50))]
        await asyncio.gather(*waiting)
        assert asyncio.all_tasks() == tasks
        assert threading.enumerate() == threads
        assert org.org.in_flight == 0


async def wait_for(receipt: rb.Receipt) -> rb.Outcome:
    return await receipt


class Scenario:
    """One short life with everything in it, to be cancelled at any tick."""

    def __init__(self) -> None:
        self.org = FakeOrg(poison=poisoned(3), name_causes=False)
        self.org.faults = [None, Fault.lost_answer(), Fault.crowded(), None, Fault.hang()]
        self.settled: Counter[rb.Receipt] = Counter()
        self.receipts: list[rb.Receipt] = []
        self.attempted: set[str] = set()
        self.client = client(
            self.org,
            capacity=45,
            limit=rb.RateLimit(30, 6.0),
            close_timeout=5.0,
            on_settled=lambda receipt: self.settled.update([receipt]),
        )

    async def enqueue(self, number: int, level: str) -> None:
        self.attempted.add(ip(number))
        self.receipts.append(await self.client.enqueue(signal(number, level), timeout=9.0))

    async def run(self) -> None:
        async with self.client as c:
            self.receipts += await c.enqueue_many(signals(30))
            await c.flush(0.3)
            async with asyncio.TaskGroup() as group:
                for number in range(30, 60):
                    group.create_task(self.enqueue(number, "HIGH" if number % 5 == 0 else "LOW"))
            await self.receipts[0]
            await c.flush()

    def check(self) -> None:
        c = self.client
        if c._life is None:
            return
        s = c.statistics()
        assert c._life.task.done()
        assert s.admitted == s.settled == self.settled.total() == len(self.settled)
        assert (s.waiting, s.in_flight, s.requests_in_flight, self.org.org.in_flight) == (0, 0, 0, 0)
        assert all(receipt.done() for receipt in self.receipts)
        # What Okta has was either accepted or is said to have perhaps arrived.
        for receipt in self.settled:
            if receipt.signal.ip in self.org.ips and not isinstance(receipt.outcome, rb.Accepted):
                assert receipt.outcome.may_have_arrived


def pick_main(main: asyncio.Task, scenario: Scenario) -> list[asyncio.Task]:
    return [main]


def pick_life(main: asyncio.Task, scenario: Scenario) -> list[asyncio.Task]:
    return [scenario.client._life.task] if scenario.client._life else []


def pick_all(main: asyncio.Task, scenario: Scenario) -> list[asyncio.Task]:
    return list(asyncio.all_tasks(main.get_loop()))


def pick_submissions(main: asyncio.Task, scenario: Scenario) -> list[asyncio.Task]:
    return [task for task in asyncio.all_tasks(main.get_loop()) if "_submit" in repr(task.get_coro())]


def pick_main_twice(main: asyncio.Task, scenario: Scenario) -> list[asyncio.Task]:
    main.get_loop().call_soon(main.cancel)
    main.get_loop().call_soon(lambda: main.get_loop().call_soon(main.cancel))
    return [main]


def cancel_at(tick: int, pick) -> bool:
    """Run the scenario, cancel what *pick* says at *tick*, and tell whether the scenario was that long."""
    loop = async_solipsism.EventLoop()
    asyncio.set_event_loop(loop)
    ticks = 0
    try:
        scenario = Scenario()
        main = loop.create_task(scenario.run())
        run_once = loop._run_once

        def counted() -> None:
            nonlocal ticks
            if ticks == tick:
                for task in pick(main, scenario):
                    task.cancel()
            ticks += 1
            run_once()

        loop._run_once = counted
        main.add_done_callback(lambda _: loop.stop())
        loop.call_later(300.0, loop.stop)
        loop.run_forever()
        assert main.done(), "hung"
        if not main.cancelled():
            main.exception()
        left = asyncio.all_tasks(loop)
        assert not left, left
        scenario.check()
    finally:
        loop.close()
        asyncio.set_event_loop(None)
    return ticks > tick


@pytest.mark.parametrize("pick", [pick_main, pick_main_twice, pick_life, pick_all, pick_submissions])
def test_a_cancellation_at_any_await_loses_nothing_and_leaves_nothing(pick):
    """Whatever is cancelled, and when: nothing is lost, hung, counted twice, or left behind."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # a client whose task is cancelled from outside says so
        tick = 0
        while cancel_at(tick, pick):
            tick += budget(4, 1)
    assert tick > 50


# ------------------------------------------------------------------------------------------------ P7 secrets


class Echo:
    """A server that says everything it was told."""

    def __init__(self, status: int, body: str, headers: dict[str, str] | None = None) -> None:
        self.status, self.body, self.headers = status, body, headers or {}

    async def __call__(self, request):
        secret = request.headers["Authorization"]
        headers = CIMultiDict({name: value.replace("{secret}", secret) for name, value in self.headers.items()})
        return Response(self.status, headers, self.body.replace("{secret}", secret).encode())


ECHOES = {
    "taken": Echo(202, "", {"X-Okta-Request-Id": "{secret}"}),
    "refused in two lines": Echo(400, '{"errorCode":"E1\\nforged {secret}","errorSummary":"a"}'),
    "refused": Echo(400, '{"errorCode":"{secret}","errorSummary":"a","errorCauses":[{"errorSummary":"{secret}"}]}'),
    "refused at the edge": Echo(400, '{"errorCode":"E1","errorSummary":"' + "x" * 270 + ' {secret}"}'),
    "escaped": Echo(400, '{"errorCode":"E1","errorSummary":"' + "".join(f"\\u{ord(c):04x}" for c in TOKEN) + '"}'),
    "denied": Echo(401, '{"errorCode":"E0000011","errorSummary":"no such token: {secret}"}'),
    "denied at the edge": Echo(401, '{"errorCode":"E1","errorSummary":"' + "x" * 280 + ' {secret}"}'),
    "challenge": Echo(401, "", {"WWW-Authenticate": 'Bearer error="{secret}", error_description="{secret}"'}),
    "redirect": Echo(302, "{secret}", {"Location": "https://evil.example/{secret}"}),
    "content type": Echo(502, "<html>{secret}</html>", {"Content-Type": "text/{secret}"}),
    "too large": Echo(413, "{secret}"),
}


async def blurts(request):
    raise RuntimeError(f"could not send {request.headers}") from ValueError(str(request.headers))


async def blurts_a_reason(request):
    raise Unanswered(f"ClientError: {'x' * 280} {request.headers['Authorization']}", may_have_arrived=True)


@pytest.mark.parametrize("token", ["e", "0", "1", "E0000001", "errorCode"])
async def test_a_token_that_looks_like_an_answer_spoils_no_answer(token):
    """Redaction is for what people read: no token, however short, keeps the client from understanding Okta."""
    org = FakeOrg(poison=poisoned(3), token=token)
    org.faults = [Fault.rate_limited(reset_in=20.0)]
    async with rb.Client("https://acme.okta.com", rb.ApiToken(token), transport=org) as c:
        receipts = await c.enqueue_many(signals(20))
        await c.flush(40)
        assert c.statistics().rate_limited == 1
    assert [i for i, receipt in enumerate(receipts) if isinstance(receipt.outcome, rb.Rejected)] == [3]


@pytest.mark.parametrize("server", [*ECHOES.values(), blurts, blurts_a_reason], ids=[*ECHOES, "blurts", "lost"])
async def test_the_token_is_in_no_log_repr_outcome_or_statistic(server, caplog):
    """No token in a log, repr, exception, outcome or statistic, even if the server or a transport echoes it."""
    caplog.set_level(logging.DEBUG)
    asyncio.get_running_loop().set_debug(True)
    auth = rb.ApiToken(TOKEN)
    said = [repr(auth), str(auth)]
    async with rb.Client("https://acme.okta.com", auth, transport=server, close_timeout=1) as c:
        receipts = await c.enqueue_many(signals(3, "HIGH"))
        await asyncio.sleep(20)
        said += [repr(c), repr(c.statistics()), repr(c._life.sender.health.trouble)]
        said += [repr(task) for task in asyncio.all_tasks()]
    for receipt in receipts:
        said += [repr(receipt), repr(await receipt)]
    for record in caplog.records:
        said += [record.getMessage(), repr(record.args), logging.Formatter().format(record)]
        assert record.name != "riskbatch" or "Traceback" in record.getMessage() or "\n" not in record.getMessage()
    fragment = TOKEN[:10]
    assert len(said) > 8
    assert not [text for text in said if fragment in text]


async def test_no_redirect_is_followed():
    """A redirect is a denial: the request is not sent elsewhere, and the signals wait."""
    org = FakeOrg()
    org.faults = [Fault.redirect("https://evil.example/", status) for status in (301, 302, 303, 307, 308)]
    urls = []

    async def send(request):
        urls.append(request.url)
        return await org(request)

    async with client(org, transport=send) as c:
        receipt = await c.enqueue(signal())
        assert isinstance(await receipt, rb.Accepted)
        assert receipt.attempts == 6
    assert set(urls) == {"https://acme.okta.com/api/v1/risk/events/ip"}


@pytest.mark.parametrize("host", ["acme.okta.com", "127.0.0.1.nip.io", "localhost.evil.example", "10.0.0.1", "0.0.0.0"])
def test_plain_http_is_refused_except_to_loopback(host):
    """Plain http would show the token to the network."""
    with pytest.raises(rb.ConfigurationError, match="https"):
        rb.Client(f"http://{host}", rb.ApiToken(TOKEN))


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost:8080", "[::1]:8080", "127.1.2.3"])
def test_plain_http_to_loopback_is_for_tests(host):
    """The emulator speaks plain http on loopback."""
    rb.Client(f"http://{host}", rb.ApiToken(TOKEN))


@pytest.mark.parametrize("bad", ["", " ", "has space", "new\nline", "nön-ascii", "{apiToken}", None, 7])
def test_an_unusable_token_is_refused_without_being_shown(bad):
    """The error says what is wrong, never the token."""
    with pytest.raises(rb.AuthError) as caught:
        rb.ApiToken(bad)
    assert not bad or str(bad) not in str(caught.value) or not str(bad).strip()
    assert caught.value.__cause__ is None


def test_a_session_is_only_opened_by_the_block():
    """Making a client opens nothing, needs no loop and starts nothing."""
    threads = threading.enumerate()
    rb.Client("https://acme.okta.com", rb.ApiToken(TOKEN))
    gc.collect()
    assert threading.enumerate() == threads


async def test_outcomes_are_values_and_are_awaited_by_anybody():
    """A receipt may be awaited many times, by many, or by nobody."""
    async with client(FakeOrg()) as c:
        receipt = await c.enqueue(signal())
        first, second = await asyncio.gather(receipt, receipt)
        assert first is second is (await receipt)
        assert (await outcomes([receipt])) == [first]
