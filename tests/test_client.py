"""The life of a client, the checks of its arguments, and what it says about itself."""

import asyncio
import gc
import logging
import re
import warnings
from itertools import pairwise

import attrs
import pytest
from fake_org import FakeOrg, balanced, client, every_tick, outcomes, signal, signals

import riskbatch as rb
from riskbatch import sender as sender_module
from riskbatch.emulator import DEFAULT_TOKEN, Fault
from riskbatch.okta.environment import check_org_url
from riskbatch.okta.http import Unanswered
from riskbatch.queue import SLICE

URL = "https://acme.okta.com"
AUTH = rb.ApiToken(DEFAULT_TOKEN)


async def now() -> float:
    return asyncio.get_running_loop().time()


# ------------------------------------------------------------------------------------------------ leaving the block


async def test_leaving_the_block_sends_what_waits_and_settles_everything():
    """The end of the block is a drain: no lingering, no reserve, no pace, the most important first."""
    org = FakeOrg()
    async with client(org, linger=1000.0) as c:
        receipts = await c.enqueue_many([*signals(25), *signals(5, "HIGH", start=50)])
    assert await now() < 3
    assert all(receipt.done() for receipt in receipts)
    assert org.departures[0][1][:5] == [f"10.0.0.{50 + i}" for i in range(5)]
    assert c.statistics().accepted == 30


async def test_a_drain_uses_every_permit_at_once_and_ends_early():
    """600 signals leave in one burst; of the rest, nothing could be sent in time, so the drain does not sit it out."""
    org = FakeOrg()
    async with client(org, close_timeout=25) as c:
        for each in signals(1000) + signals(20, "HIGH", start=2000):
            c.enqueue_nowait(each)  # without a turn, so that nothing has left when the drain begins
    assert await now() < 1
    s = c.statistics()
    assert (s.accepted, s.abandoned) == (600, 420)
    assert org.departures[0][1][0] == "10.0.7.208"


async def test_an_exception_in_the_block_drains_too_and_is_not_hidden():
    """An exception passes through unchanged, after what was enqueued has been sent."""
    org = FakeOrg()

    async def fail() -> None:
        async with client(org) as c:
            await c.enqueue(signal())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert org.ips == ["10.0.0.0"]


@pytest.mark.parametrize(
    "fault",
    [Fault.hang(), Fault.error(), Fault.drop(), Fault.crowded(), Fault.error(401, "E0000011"), Fault.rate_limited()],
    ids=["hang", "500", "drop", "concurrency", "401", "429"],
)
@pytest.mark.parametrize("timeout", [0, 0.5, 7.0])
async def test_a_close_returns_by_its_timeout_whatever_the_server_does(fault, timeout):
    """aclose(timeout) always returns, with every receipt settled."""
    org = FakeOrg(script=lambda _: fault)
    async with client(org) as c:
        receipts = await c.enqueue_many([*signals(500), *signals(50, "HIGH", start=600)])
        await asyncio.sleep(5)
        before = await now()
        await c.aclose(timeout)
        assert await now() - before <= timeout + 0.01
        ends = await outcomes(receipts)
        assert {type(end) for end in ends} == {rb.Abandoned}
        flying = [end for end in ends if end.may_have_arrived]
        assert len(flying) <= c.statistics().requests * 20
    assert balanced(c)


async def test_a_close_tells_who_may_have_arrived():
    """Abandoned says for each signal whether Okta may have it: whose answer was lost, and who never left."""
    org = FakeOrg(script=lambda _: Fault.hang(ingest=True))
    async with client(org) as c:
        receipts = await c.enqueue_many(signals(30))
        await asyncio.sleep(0.5)
        await c.aclose(0)
    assert [receipt.outcome.may_have_arrived for receipt in receipts] == [True] * 20 + [False] * 10
    assert all(receipt.outcome.may_have_arrived == (receipt.signal.ip in org.ips) for receipt in receipts)


async def test_what_may_have_arrived_once_is_not_forgotten():
    """A lost answer counts, though the tries after it never got out."""
    never = Unanswered("ClientConnectorError: Cannot connect", may_have_arrived=False)
    org = FakeOrg()
    org.faults = [Fault.lost_answer(), *[never] * 500]
    async with client(org, close_timeout=0) as c:
        receipt = await c.enqueue(signal())
        await asyncio.sleep(300)
        assert receipt.attempts > 2
    assert receipt.outcome.may_have_arrived


async def test_a_close_tries_once_more_what_is_held_back(monkeypatch):
    """Signals that wait for a retry are not left to wait when the end comes: they are tried at once."""
    monkeypatch.setattr("random.random", lambda: 0.9)
    org = FakeOrg()
    org.faults = [Fault.error()] * 12
    async with client(org) as c:
        await c.enqueue_many(signals(5))
        while org.faults:  # noqa: ASYNC110 - the clock jumps
            await asyncio.sleep(1)
        await asyncio.sleep(0.2)
        assert c.statistics().resumes_after > 0.5
        before = await now()
    assert await now() - before < 0.5
    assert c.statistics().accepted == 5


async def test_a_close_is_not_slept_through():
    """A client in the middle of a long backoff or pause closes as soon as nothing more can be sent."""
    for fault in (Fault.unavailable(), Fault.error(401, "E0000011")):
        org = FakeOrg(script=lambda _, fault=fault: fault)
        async with client(org, close_timeout=1000.0) as c:
            await c.enqueue_many(signals(5))
            await asyncio.sleep(1000)
            before = await now()
            await c.aclose(2.0)
        assert await now() - before <= 2.0


async def test_close_twice_and_at_once_is_one_close():
    """Calling aclose() again, or from several tasks, waits for the same end; afterwards it does nothing."""
    org = FakeOrg()
    async with client(org) as c:
        await c.enqueue_many(signals(30))
        await asyncio.gather(*(c.aclose() for _ in range(5)))
        assert c.statistics().accepted == 30
        await c.aclose()
    await c.aclose(0)


async def test_of_several_closes_the_first_to_end_decides():
    """An impatient close ends a patient one."""
    org = FakeOrg(script=lambda _: Fault.hang())
    async with client(org) as c:
        await c.enqueue_many(signals(30))
        patient = asyncio.create_task(c.aclose(100))
        await asyncio.sleep(1)
        await c.aclose(1)
        await patient
    assert await now() == pytest.approx(2)


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_a_cancelled_close_abandons_at_once_and_leaves_no_task(times):
    """Cancelling aclose(), even more than once, ends the client then and there."""
    org = FakeOrg(script=lambda _: Fault.hang())
    tasks = asyncio.all_tasks()
    async with client(org) as c:
        receipts = await c.enqueue_many(signals(5000))
        close = asyncio.create_task(c.aclose(100))
        await asyncio.sleep(1)
        for _ in range(times):
            close.cancel()
            await asyncio.sleep(0)
        await asyncio.wait({close})
        assert close.cancelled()
        assert asyncio.all_tasks() == tasks
        assert all(isinstance(receipt.outcome, rb.Abandoned) for receipt in receipts)
    assert await now() == pytest.approx(1)


async def test_what_is_left_is_abandoned_in_slices_though_the_time_is_up():
    """The end of the time to close does not settle all that waits in one turn of the loop."""
    in_turn, most, closing = 0, 0, []

    def settled(_: rb.Receipt) -> None:
        nonlocal in_turn
        in_turn += 1
        if not closing:  # now, as what is left is being abandoned, the time to close ends
            closing.append(asyncio.create_task(c.aclose(0)))

    def turned() -> None:
        nonlocal in_turn, most
        in_turn, most = 0, max(most, in_turn)

    org = FakeOrg(script=lambda _: Fault.hang())
    async with client(org, on_settled=settled, close_timeout=1) as c:
        await c.enqueue_many(signals(20_000))
        stop = every_tick(turned)
    stop()
    await closing[0]
    assert c.statistics().abandoned == 20_000
    assert most <= 2 * SLICE


@pytest.mark.parametrize("waiting", [0, 3])
async def test_an_interrupted_block_says_what_keeps_it(waiting, caplog):
    """Ctrl-C is a cancellation; whoever pressed it is told how many wait, for how long, and what a second one does."""
    entered = asyncio.Event()

    async def service() -> None:
        org = FakeOrg(script=lambda _: Fault.hang())
        async with client(org, limit=rb.RateLimit(1, 3600.0), close_timeout=20) as c:
            await c.enqueue(signal(99, "HIGH"))
            await asyncio.sleep(1)  # in flight, with the one permit
            for number in range(waiting):
                await c.enqueue(signal(number))
            entered.set()
            await asyncio.sleep(1e6)

    task = asyncio.create_task(service())
    await entered.wait()
    task.cancel()
    await asyncio.wait({task})
    (line,) = [record for record in caplog.records if getattr(record, "riskbatch_event", "") == "draining"] or [None]
    if waiting:
        assert line.levelno == logging.WARNING
        assert "3 signals wait for up to 20 s" in line.message
        assert "second Ctrl-C" in line.message
    else:
        assert line is None  # an INFO, which is not captured here


async def test_a_bad_timeout_is_refused_before_anything_happens():
    """A timeout that is no number of seconds closes nothing."""
    async with client(FakeOrg()) as c:
        for bad in (-1, float("nan"), float("inf"), "5"):
            with pytest.raises(rb.ConfigurationError, match="timeout"):
                await c.aclose(bad)
        assert isinstance(await c.enqueue_nowait(signal()), rb.Accepted)


# ------------------------------------------------------------------------------------------------ before and after


async def test_a_client_is_of_no_use_before_it_is_open():
    """Every call but aclose and statistics says how to open it; nothing waits for ever."""
    c = client(FakeOrg())
    for call in (c.enqueue(signal()), c.enqueue_many([signal()]), c.flush()):
        with pytest.raises(rb.ClientClosed, match="async with"):
            await call
    with pytest.raises(rb.ClientClosed, match="async with"):
        c.enqueue_nowait(signal())
    await c.aclose()
    assert c.statistics() == rb.Statistics(limit=30, permits=30)
    assert "not open" in repr(c)
    async with c:  # a close before the opening has done nothing
        assert isinstance(await c.enqueue_nowait(signal()), rb.Accepted)
        assert " open:" in repr(c)


async def test_a_client_is_of_no_use_after_it_is_closed():
    """A closed client admits nothing, and can neither be opened again nor confused by a flush."""
    async with client(FakeOrg()) as c:
        await c.enqueue(signal())
    for call in (c.enqueue(signal()), c.enqueue_many([signal()])):
        with pytest.raises(rb.ClientClosed, match="closed"):
            await call
    with pytest.raises(rb.ClientClosed):
        c.enqueue_nowait(signal())
    assert await c.flush() == 0
    with pytest.raises(rb.ClientClosed, match="once"):
        async with c:
            pass
    assert "closed" in repr(c)
    assert c.statistics().accepted == 1


async def test_a_draining_client_admits_nothing():
    """From the first moment of aclose() on, enqueue says that it is too late."""
    async with client(FakeOrg()) as c:
        await c.enqueue_many(signals(30))
        close = asyncio.create_task(c.aclose())
        await asyncio.sleep(0)
        assert "draining" in repr(c)
        with pytest.raises(rb.ClientClosed, match="the client is closed"):
            await c.enqueue(signal())
        await close


async def test_a_client_belongs_to_the_loop_that_opened_it():
    """In another event loop every call, and the wait for a receipt, is refused at once."""
    org = FakeOrg(script=lambda _: Fault.hang())

    def elsewhere(make) -> None:
        loop = asyncio.new_event_loop()
        try:
            with pytest.raises(rb.WrongLoop):
                loop.run_until_complete(make())
        finally:
            loop.close()

    async with client(org, close_timeout=0) as c:
        receipt = c.enqueue_nowait(signal())

        async def wait():
            await receipt

        for make in (lambda: c.enqueue(signal()), lambda: c.enqueue_many([]), c.flush, c.aclose, wait):
            await asyncio.to_thread(elsewhere, make)
        with pytest.raises(rb.WrongLoop):
            await asyncio.to_thread(c.enqueue_nowait, signal())
        assert c.statistics().admitted == 1
        assert " open:" in repr(c)
        asyncio.get_running_loop()._default_executor.shutdown(wait=True)


def test_a_client_is_of_no_use_while_its_loop_stands_still():
    """Another loop of the same thread, or none, is refused too: nothing would send what was enqueued."""
    home, elsewhere = asyncio.new_event_loop(), asyncio.new_event_loop()
    c = client(FakeOrg(script=lambda _: Fault.hang()), close_timeout=0)
    try:
        home.run_until_complete(c.__aenter__())
        with pytest.raises(rb.WrongLoop):
            elsewhere.run_until_complete(c.enqueue(signal()))
        with pytest.raises(rb.WrongLoop):
            c.enqueue_nowait(signal())
        home.run_until_complete(c.enqueue(signal()))
        home.run_until_complete(c.aclose())
        assert c.statistics().admitted == 1
    finally:
        home.close()
        elsewhere.close()


async def test_a_sender_that_is_cancelled_from_outside_settles_everybody():
    """A cancelled sender is a crashed one: receipts are settled, flush ends, enqueue refuses, and it is said."""
    org = FakeOrg(script=lambda _: Fault.hang())
    with pytest.warns(ResourceWarning, match=r"ended without aclose.*cancelled from outside"):  # noqa: PT031
        async with client(org, capacity=40) as c:
            receipts = await c.enqueue_many(signals(40))
            newcomer = asyncio.create_task(c.enqueue(signal(50)))
            flush = asyncio.create_task(c.flush())
            await asyncio.sleep(1)
            c._life.task.cancel()
            ends = await asyncio.wait_for(outcomes(receipts), 1)
            assert {end.reason for end in ends} == {"the client's task was cancelled from outside"}
            assert await flush == 0
            with pytest.raises(rb.ClientClosed, match="cancelled from outside"):
                await newcomer
            with pytest.raises(rb.ClientClosed, match="cancelled from outside"):
                await c.enqueue(signal(50))


async def test_a_sender_that_crashes_settles_everybody(monkeypatch, caplog):
    """Even a defect of ours leaves no receipt waiting for ever."""
    org = FakeOrg(script=lambda _: Fault.hang())
    with pytest.warns(ResourceWarning, match="ended without aclose"):  # noqa: PT031
        async with client(org) as c:
            receipts = await c.enqueue_many(signals(40))
            await asyncio.sleep(1)
            monkeypatch.setattr(sender_module.Sender, "_terms", lambda *_: 1 / 0)
            c.enqueue_nowait(signal(60, "HIGH"))
            ends = await asyncio.wait_for(outcomes(receipts), 1)
            assert {type(end) for end in ends} == {rb.Abandoned}
            with pytest.raises(rb.ClientClosed, match="the sender failed"):
                await c.enqueue(signal(50))
    assert "the sender for https://acme.okta.com failed" in caplog.text


async def test_a_warning_that_is_an_error_settles_everybody_too():
    """Where warnings are errors, the warning that a client ended without aclose() comes after the settling."""
    org = FakeOrg(script=lambda _: Fault.hang())
    c = client(org)
    await c.__aenter__()
    receipts = await c.enqueue_many(signals(40))
    await asyncio.sleep(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        c._life.task.cancel()
        await asyncio.wait({c._life.task})
    assert isinstance(c._life.task.exception(), ResourceWarning)
    assert all(receipt.done() for receipt in receipts)


async def test_a_client_that_is_cancelled_before_its_first_step_is_closed():
    """Even a sender that never ran accepts nothing that nobody would send."""
    c = rb.Client(URL, AUTH)
    await c.__aenter__()
    early = c.enqueue_nowait(signal())
    c._life.task.cancel()
    assert isinstance(await asyncio.wait_for(early, 1), rb.Abandoned)
    with pytest.raises(rb.ClientClosed):
        await c.enqueue(signal())
    await c.aclose()
    del c
    gc.collect()  # no session is left open: that would be a warning, and so an error


async def test_a_client_that_was_never_closed_is_a_resource_warning():
    """Forgetting aclose() is told, with the number that waits."""
    c = client(FakeOrg(token_valid=False))
    await c.__aenter__()
    c.enqueue_nowait(signal())
    with pytest.warns(ResourceWarning, match=r"1 waiting.*was never closed"):
        c.__del__()
    await c.aclose(0)


async def test_an_idle_client_that_is_dropped_says_so_once(caplog):
    """When the last reference to an open client goes, the garbage collector's warning tells what to do."""
    c = client(FakeOrg())
    await c.__aenter__()
    await asyncio.sleep(1)
    caplog.set_level(logging.CRITICAL, "asyncio")  # which says that a pending task was destroyed, and so it was
    with pytest.warns(ResourceWarning, match=r"was never closed.*use `async with`") as said:  # noqa: PT031
        del c
        gc.collect()
    assert len(said) == 1
    assert not caplog.records


def test_a_client_left_open_at_the_end_of_asyncio_run_says_so_once():
    """The end of the loop settles what waits, and says that aclose() was forgotten."""
    receipts = []

    async def main():
        c = client(FakeOrg(token_valid=False))
        await c.__aenter__()
        receipts.append(await c.enqueue(signal()))

    with pytest.warns(ResourceWarning, match="ended without aclose") as said:  # noqa: PT031
        asyncio.run(main())
        gc.collect()
    assert len(said) == 1
    assert isinstance(receipts[0].outcome, rb.Abandoned)


# ------------------------------------------------------------------------------------------------ statistics


async def test_the_repr_is_one_line_of_status():
    """What on-call wants to know first: what waits, how signals ended, the budget, the trouble and the next try."""
    org = FakeOrg(poison=lambda s: s.message == "bad")
    c = client(org)
    assert repr(c) == (
        "<Client https://acme.okta.com not open: 0 waiting (HIGH 0 MEDIUM 0 LOW 0), 0 in flight, 0 accepted, "
        "30 of 30 permits free>"
    )
    async with c:
        await c.enqueue_many([*signals(2), signal(9, message="bad")])
        await c.flush()
        assert "0 in flight, 2 accepted, 1 rejected, 2" in repr(c)
        org.org.token_valid = False
        await c.enqueue_many(signals(3, "HIGH"))
        await asyncio.sleep(30)
        status = repr(c)
        assert re.search(r" open: 3 waiting \(HIGH 3 MEDIUM 0 LOW 0\), ", status)
        assert re.search(
            r"permits free, next try in \d+ s, paused: HTTP 401 E0000011: Invalid token provided>$", status
        )
        assert status.isprintable()
        org.org.token_valid = True
    assert " closed: 0 waiting" in repr(c)


async def test_statistics_show_every_way_in_which_a_signal_can_end():
    """Every field counts what its docstring says."""
    org = FakeOrg(poison=lambda s: s.message == "bad")
    org.faults = [None, Fault.error()]
    failures = iter([True])

    def hook(_):
        if next(failures, False):
            raise ValueError

    async with client(org, coalesce=True, capacity=25, when_full="shed", on_settled=hook, close_timeout=0) as c:
        c.enqueue_nowait(signal(0, message="bad"))
        await c.flush()
        c.enqueue_nowait(signal(1))
        await asyncio.sleep(3)
        s = c.statistics()
        assert (s.rejected, s.requests, s.put_back, s.hook_errors) == (1, 2, 1, 1)
        assert s.trouble == "HTTP 500 E0000009: Internal Server Error"
        assert not s.paused
        await c.flush()
        await c.enqueue_many(signals(10))
        await c.enqueue_many(signals(10))
        assert c.statistics().superseded == 10
        assert c.statistics().waiting_by_level == {rb.RiskLevel.HIGH: 0, rb.RiskLevel.MEDIUM: 0, rb.RiskLevel.LOW: 10}
        await asyncio.sleep(0.01)
        s = c.statistics()
        assert (s.waiting + s.in_flight, s.oldest_waiting >= 0) == (10, True)
        await c.enqueue_many(signals(18, start=100))
        assert c.statistics().shed == 3
        assert c.statistics().permits < 30
        assert c.statistics().limit == 30
        with pytest.raises(TypeError):
            c.statistics().waiting_by_level[rb.RiskLevel.LOW] = 7
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            c.statistics().waiting = 7
    s = c.statistics()
    assert s.abandoned == s.admitted - s.accepted - s.rejected - s.shed - s.superseded
    assert s.settled == s.admitted


async def test_oldest_waiting_is_the_age_of_the_oldest_ready_signal():
    """The age grows while nothing can be sent, and is 0 when nothing is ready."""
    org = FakeOrg(token_valid=False)
    async with client(org, close_timeout=0) as c:
        assert c.statistics().oldest_waiting == 0.0
        c.enqueue_nowait(signal())
        await asyncio.sleep(100)
        c.enqueue_nowait(signal(1, "HIGH"))
        await asyncio.sleep(50)
        assert c.statistics().oldest_waiting in (pytest.approx(150), 0.0)


async def test_requests_in_flight_is_right_when_a_receipt_wakes_its_waiter():
    """Whoever reads the statistics right after the last outcome finds nothing in flight."""
    async with client(FakeOrg()) as c:
        await c.enqueue_nowait(signal())
        s = c.statistics()
        assert (s.requests_in_flight, s.in_flight, s.accepted) == (0, 0, 1)


def test_every_field_of_statistics_is_explained():
    """Each field has its line in the docstring, and the docstring has no other."""
    described = [line.strip().split(":")[0] for line in (rb.Statistics.__doc__ or "").splitlines() if ": " in line]
    assert [field.name for field in attrs.fields(rb.Statistics)] == described


# ------------------------------------------------------------------------------------------------ arguments

BAD = {
    "limit": [30, None, (30, 60)],
    "reserve": [-1, 1.5, "3", True, None],
    "capacity": [0, -1, 1.5, "9", None],
    "subjects_per_event": [0, 51, 2.0, None],
    "when_full": ["drop", None, 3],
    "linger": [-1, "5", float("nan"), {"LOW": 5}, {rb.RiskLevel.HIGH: 1.0}, {rb.RiskLevel.LOW: -1}],
    "close_timeout": [-1, float("inf"), float("nan"), "25", None],
    "on_settled": [5, "print"],
    "session": ["session", 5],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_an_argument_that_cannot_work_is_refused_at_construction(name, value):
    """The message names the argument and what would do."""
    with pytest.raises(rb.ConfigurationError, match=rf"{name}.*must|linger has"):
        rb.Client(URL, AUTH, **{name: value})


async def test_a_hook_that_is_a_coroutine_function_is_refused():
    """Its coroutine would never be awaited."""

    async def hook(receipt):
        """Never awaited."""

    with pytest.raises(rb.ConfigurationError, match="coroutine function"):
        rb.Client(URL, AUTH, on_settled=hook)


def test_a_token_is_no_auth():
    """A bare string is not taken for a token, and is not shown."""
    with pytest.raises(rb.ConfigurationError, match="ApiToken") as caught:
        rb.Client(URL, "s3cret")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://acme.okta.com", "https://acme.okta.com"),
        ("https://acme.okta.com/", "https://acme.okta.com"),
        (" https://ACME.Okta.com \n", "https://acme.okta.com"),
        ("HTTPS://acme.oktapreview.com:443", "https://acme.oktapreview.com"),
        ("https://id.example.com:8443", "https://id.example.com:8443"),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
        ("http://[::1]:80", "http://[::1]"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
    ],
)
def test_an_org_url_is_kept_without_what_does_not_belong(given, kept):
    """Paths are appended to exactly this base: a doubled slash would break signatures later."""
    assert check_org_url(given) == kept


@pytest.mark.parametrize(
    "url",
    [
        "",
        None,
        7,
        b"https://acme.okta.com",
        "acme.okta.com",
        "https://",
        "https:///path",
        "ftp://acme.okta.com",
        "http://acme.okta.com",
        "https://acme.okta.com/api",
        "https://acme.okta.com/?a=b",
        "https://acme.okta.com/#top",
        "https://acme-admin.okta.com",
        "https://acme.okta.com.com",
        "https://{yourOktaDomain}",
        "https://yourOktaDomain",
        "https://user:pw@acme.okta.com",
        "https://acme.okta.com:99999",
        "https://acme.okta.com:x",
        "https://[::1",
        "https://a b.okta.com",
        "https://acme.okta.com https://other.okta.com",
    ],
)
def test_what_is_no_org_url_is_refused(url):
    """A wrong URL is found at construction, and credentials in it are not shown."""
    with pytest.raises(rb.ConfigurationError, match="org_url") as caught:
        rb.Client(url, AUTH)
    assert "pw" not in str(caught.value)


# ------------------------------------------------------------------------------------------------ the environment


@pytest.fixture
def environment(monkeypatch):
    for name in ("ORGURL", "TOKEN", "AUTHORIZATIONMODE"):
        monkeypatch.delenv(f"OKTA_CLIENT_{name}", raising=False)
    return lambda **values: [monkeypatch.setenv(f"OKTA_CLIENT_{name}", value) for name, value in values.items()]


def test_from_env_reads_the_sdks_variables(environment):
    """The official SDK's variables make a client; arguments come before them."""
    environment(ORGURL="https://acme.okta.com/", TOKEN="t0k3n", AUTHORIZATIONMODE="SSWS")
    c = rb.Client.from_env(capacity=5)
    assert "https://acme.okta.com not open" in repr(c)
    assert "t0k3n" not in repr(c)
    assert "https://other.okta.com" in repr(rb.Client.from_env(org_url="https://other.okta.com"))
    rb.Client.from_env(auth=AUTH)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "OKTA_CLIENT_ORGURL is not set"),
        ({"ORGURL": ""}, "OKTA_CLIENT_ORGURL is not set"),
        ({"ORGURL": URL}, "OKTA_CLIENT_TOKEN is not set"),
        ({"ORGURL": "http://acme.okta.com", "TOKEN": "t"}, "https"),
        ({"ORGURL": URL, "TOKEN": "{apiToken}"}, "placeholder"),
        ({"ORGURL": URL, "TOKEN": "t", "AUTHORIZATIONMODE": "Bearer"}, "AUTHORIZATIONMODE"),
    ],
)
def test_from_env_says_what_is_missing(environment, values, says):
    """A variable that is missing or cannot work is named."""
    environment(**values)
    with pytest.raises(rb.RiskbatchError, match=says):
        rb.Client.from_env()


async def test_the_arguments_do_what_they_say():
    """A lower limit, a share of subjects and a linger of one's own reach the wire."""
    org = FakeOrg(limit=5)
    async with client(org, limit=rb.RateLimit(5, 60.0), subjects_per_event=2, linger=0.0, reserve=0) as c:
        when = (signal()).timestamp
        await c.enqueue_many(signals(400, timestamp=when))
        await c.flush()
    assert max(len(aboard) for _, aboard in org.departures) == 40
    assert org.org.most_in_any_window() <= 5
    assert min(b - a for (a, _), (b, _) in pairwise(org.departures)) > 5


async def test_the_log_names_no_signal(caplog):
    """Addresses and messages are personal data of somebody: no level of the log has them."""
    caplog.set_level(logging.DEBUG)
    org = FakeOrg()
    org.faults = [Fault.error(), Fault.error(401, "E0000011"), Fault.crowded()]
    async with client(org) as c:
        await c.enqueue(rb.RiskSignal("203.0.113.77", "HIGH", message="very-private"))
        await c.flush()
    assert caplog.records
    assert "203.0.113" not in caplog.text
    assert "very-private" not in caplog.text


async def test_two_clients_of_one_org_share_a_limiter():
    """Clients that are given one `Limiter` keep one budget between them, and neither starves the other."""
    org = FakeOrg()
    limiter = rb.Limiter(rb.RateLimit(30, 60.0))
    async with client(org, limit=limiter, close_timeout=0) as one, client(org, limit=limiter, close_timeout=0) as two:
        for number in range(3000):
            one.enqueue_nowait(signal(number, "LOW"))
            two.enqueue_nowait(signal(number, "LOW"))
        await asyncio.sleep(600)
        accepted = one.statistics().accepted, two.statistics().accepted
        assert one.statistics().permits == two.statistics().permits
    assert org.org.most_in_any_window(60.0) <= 30
    assert sum(accepted) > 20 * 25 * 10 * 0.9
    assert min(accepted) > 0.2 * max(accepted)
