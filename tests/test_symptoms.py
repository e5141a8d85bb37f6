"""
One test for each way in which clients of this kind are known to hurt their users, numbered as in our study of them.

Not here: 4 (a loop that the user blocks sends nothing, and an asyncio library cannot change that), 7 and 8 (forks; in
wire/test_client_wire.py, on a real loop), 25 (no shared state without a store), 29 (no disk without a store), 31 (no
threads at all, see test_promises.py).
"""

import asyncio
import gc
import math
import sys
import time
import tracemalloc
import weakref
from datetime import UTC, datetime, timedelta

import pytest
from budget import budget
from fake_org import FakeOrg, balanced, client, ip, outcomes, signal, signals

import riskbatch as rb
from riskbatch import limiter as limiter_module
from riskbatch.emulator import Fault
from riskbatch.okta.http import Unanswered

DOWN = Unanswered("ClientConnectorError: Cannot connect", may_have_arrived=False)


def down(**options) -> FakeOrg:
    return FakeOrg(script=lambda _: Fault.unavailable(), **options)


async def test_01_every_wait_ends_while_the_server_is_down():
    """Symptom: with the server down, send and stop never return."""
    async with client(down(), close_timeout=5) as c:
        receipt = await c.enqueue(signal())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(receipt, 10)
        assert await c.flush(10) == 1
    assert isinstance(await receipt, rb.Abandoned)
    assert asyncio.get_running_loop().time() <= 25


async def test_02_whoever_cancels_all_tasks_leaves_no_dead_client():
    """Symptom: the sender died quietly when all tasks were cancelled, and later sends hung."""
    me = asyncio.current_task()
    c = client(down())
    await c.__aenter__()
    receipt = c.enqueue_nowait(signal())
    await asyncio.sleep(10)
    for task in asyncio.all_tasks() - {me}:
        task.cancel()
    with pytest.warns(ResourceWarning, match="without aclose"):  # noqa: PT031
        assert isinstance(await asyncio.wait_for(receipt, 1), rb.Abandoned)
        await asyncio.sleep(0.1)
    with pytest.raises(rb.ClientClosed):
        await c.enqueue(signal())
    await c.aclose()


async def test_03_forgetting_to_open_is_an_error_at_once():
    """Symptom: without start() the first send waits for ever."""
    with pytest.raises(rb.ClientClosed, match="async with"):
        await client(FakeOrg()).enqueue(signal())


async def test_05_a_lone_signal_is_sent_without_flush():
    """Symptom: the last part-filled batch was delivered only by flush()."""
    async with client(FakeOrg(), linger=None) as c:
        assert isinstance(await asyncio.wait_for(c.enqueue_nowait(signal()), 6), rb.Accepted)


async def test_06_a_refused_signal_does_not_touch_its_neighbours():
    """Symptom: one bad message failed the whole batch."""
    async with client(FakeOrg(poison=lambda s: s.ip == ip(5))) as c:
        ends = await outcomes(await c.enqueue_many(signals(20)))
    assert sum(isinstance(end, rb.Accepted) for end in ends) == 19


async def test_09_flush_does_not_hang_when_the_sender_is_gone():
    """Symptom: flush() waited for a consumer that was dead or disabled."""
    async with client(FakeOrg()) as c:
        await c.aclose()
        assert await asyncio.wait_for(c.flush(), 1) == 0


async def test_10_a_close_interrupts_the_backoff():
    """Symptom: shutdown sat through a minute of backoff sleep."""
    org = down()
    async with client(org) as c:
        await c.enqueue(signal())
        await asyncio.sleep(1800)
        org.script = None
        before = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - before < 3  # a request may have been failing at that very moment
    assert org.ips == [ip(0)]


async def test_10_a_failure_during_the_close_is_soon_tried_again():
    """Symptom: the last request failed while the client closed, and its retry was due after the end."""
    failing = iter([Fault.unavailable()] * 6)
    org = FakeOrg(script=lambda _: next(failing, None))
    async with client(org, close_timeout=25.0) as c:
        receipt = await c.enqueue(signal())
        before = asyncio.get_running_loop().time()
    assert isinstance(receipt.outcome, rb.Accepted)
    assert asyncio.get_running_loop().time() - before < 6 * 2.5


async def test_11_enqueue_never_waits_for_the_network():
    """Symptom: the host's own requests were delayed by minutes while the backend was down."""
    async with client(FakeOrg(script=lambda _: Fault.hang()), close_timeout=0) as c:
        for number in range(2000):
            await c.enqueue(signal(number))
        assert asyncio.get_running_loop().time() == 0


async def test_12_flush_really_flushes():
    """Symptom: the documented flush() did nothing, and data was lost at exit."""
    org = FakeOrg()
    async with client(org, linger=1e6) as c:
        await c.enqueue_many(signals(7))
        assert await c.flush() == 0
        assert len(org.ips) == 7


def test_13_the_end_of_the_program_drains_through_the_block():
    """Symptom: an atexit hook cannot await anything once the loop is closed."""
    import async_solipsism

    org = FakeOrg()

    async def main() -> None:
        async with client(org, linger=1e6) as c:
            await c.enqueue_many(signals(7))

    loop = async_solipsism.EventLoop()
    loop.run_until_complete(main())
    loop.close()
    assert len(org.ips) == 7


async def test_14_a_full_queue_does_not_hinder_the_close():
    """Symptom: the final flush went through the full queue and was dropped."""
    org = FakeOrg()
    async with client(org, capacity=40) as c:
        await c.enqueue_many(signals(40))
        late = asyncio.create_task(c.enqueue(signal(50)))
        await asyncio.sleep(0)
    assert isinstance((await asyncio.gather(late, return_exceptions=True))[0], rb.ClientClosed)
    assert len(org.ips) == 40


async def test_15_memory_is_bounded_when_the_server_slows_down():
    """Symptom: memory grew until the process was killed."""
    async with client(down(), capacity=1000, when_full="shed", close_timeout=0) as c:
        await c.enqueue_many(signals(1000))
        tracemalloc.start()
        try:
            await c.enqueue_many(signals(1000))
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            for number in range(budget(8, 20)):
                await c.enqueue_many(signals(1000, start=number * 1000))
                await asyncio.sleep(60)
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert c.statistics().waiting + c.statistics().in_flight <= 1000
    assert grown < 300_000


async def test_16_receipts_are_plain_awaitables_that_always_end():
    """Symptom: futures could not be awaited, and never completed after an uncaught error."""
    org = FakeOrg()
    org.faults = [ValueError("boo")]
    async with client(org) as c:
        receipt = await c.enqueue(signal())
        first, second = await asyncio.gather(asyncio.wait_for(receipt, 100), receipt)
    assert first is second


async def test_17_a_drop_is_counted_told_to_the_hook_and_to_whoever_waits():
    """Symptom: events were dropped silently when the queue was full."""
    told = []
    async with client(down(), capacity=2, when_full="shed", on_settled=told.append, close_timeout=0) as c:
        c.enqueue_nowait(signal(7))
        await asyncio.sleep(0.01)  # in flight
        receipt = c.enqueue_nowait(signal())
        waiter = asyncio.create_task(asyncio.wait_for(receipt, 10))
        await asyncio.sleep(0)
        c.enqueue_nowait(signal(1, "HIGH"))
        assert c.statistics().shed == 1
        assert told == [receipt]
        assert await waiter == rb.Shed()


async def test_18_a_413_ends_with_single_signals_not_with_a_lost_batch_or_a_hang():
    """Symptom: 413 dropped the batch; an item that cannot be split hung the exporter."""
    org = FakeOrg(script=lambda _: Fault.answer(413))
    async with client(org) as c:
        ends = await outcomes(await c.enqueue_many(signals(20)))
    assert {(type(end), end.status) for end in ends} == {(rb.Rejected, 413)}
    assert len(org.departures) == 39


async def test_19_a_permanent_refusal_is_not_retried_for_ever():
    """Symptom: permanent 400s were retried and filled the disk."""
    org = FakeOrg(poison=lambda _: True)
    async with client(org) as c:
        receipt = await c.enqueue(signal())
        await asyncio.sleep(3600)
        assert receipt.attempts == 1
        assert len(org.departures) == 1


@pytest.mark.parametrize("status", [402, 406, 409, 415, 418, 421, 425, 428, 431, 451])
async def test_20_an_unknown_4xx_keeps_the_signals(status):
    """Symptom: a transient overload was coded "permanent", and data was lost."""
    org = FakeOrg()
    org.faults = [Fault.answer(status)] * 2
    async with client(org) as c:
        assert isinstance(await c.enqueue_nowait(signal()), rb.Accepted)


async def test_21_every_retry_pays_and_a_flood_does_not_hammer():
    """Symptom: retries bypassed the rate limit, and per-request backoff still hammered the server."""
    org = down()
    async with client(org, close_timeout=0) as c:
        await c.enqueue_many(signals(20_000))
        await asyncio.sleep(600)
    assert org.org.most_in_any_window() <= 30
    assert len(org.departures) < 60


async def test_22_a_slow_server_is_not_taken_for_a_limited_one():
    """Symptom: concurrency control oscillated and took a chain of retries for one long round trip."""
    org = FakeOrg(delay=lambda: (4.0, 4.0))
    async with client(org) as c:
        await c.enqueue_many(signals(4000))
        await asyncio.sleep(60)
        before = len(org.departures)
        await asyncio.sleep(300)
        assert len(org.departures) - before >= 0.75 * 150
        c._life.sender.drain(0)


async def test_23_a_burst_and_its_refill_do_not_add_up():
    """Symptom: a fixed-window refresh gave twice the burst around a boundary."""
    org = FakeOrg(phase=30.0, window="sliding")
    async with client(org, reserve=0) as c:
        await asyncio.sleep(29.0)
        await c.enqueue_many(signals(1200, "HIGH"))
        await c.flush()
    assert org.org.most_in_any_window() <= 30
    assert set(org.statuses) == {202}


async def test_24_priority_works_with_default_settings():
    """Symptom: jobs were pinned to their slots when they came, so priority did nothing."""
    org = FakeOrg()
    async with client(org, linger=None, close_timeout=0) as c:
        await c.enqueue_many(signals(2000))
        await asyncio.sleep(30)
        high = c.enqueue_nowait(signal(9999, "HIGH"))
        assert isinstance(await asyncio.wait_for(high, 4), rb.Accepted)


async def test_26_an_absurd_reset_does_not_park_an_hour():
    """Symptom: an uncapped Retry-After parked the client for an hour."""
    org = FakeOrg()
    org.faults = [Fault.rate_limited(reset_in=3600.0), Fault.answer(503, [("Retry-After", "86400")])]
    async with client(org) as c:
        assert isinstance(await asyncio.wait_for(c.enqueue_nowait(signal()), 70), rb.Accepted)


@pytest.mark.parametrize("jump", [-86400.0, 86400.0])
async def test_27_a_step_of_the_wall_clock_neither_stalls_nor_hurries(jump, monkeypatch):
    """Symptom: limiters that read the wall clock broke when it was set."""
    org = FakeOrg()
    real = time.time
    async with client(org) as c:
        await c.enqueue_many(signals(2000))
        await asyncio.sleep(50)
        monkeypatch.setattr(time, "time", lambda: real() + jump)
        await c.flush()
    assert org.org.most_in_any_window() <= 30
    assert asyncio.get_running_loop().time() < 240
    assert "time.time" not in str(vars(limiter_module))


async def test_28_no_cancellation_is_swallowed():
    """Symptom: wait_for around a pop lost an item, or the cancellation."""
    async with client(down(), capacity=1, close_timeout=0) as c:
        receipt = c.enqueue_nowait(signal())
        tasks = [
            asyncio.create_task(c.enqueue(signal(1))),
            asyncio.create_task(c.enqueue(signal(1), timeout=100)),
            asyncio.create_task(c.flush()),
            asyncio.create_task(c.flush(100)),
            asyncio.create_task(outcomes([receipt])),
        ]
        await asyncio.sleep(1)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        assert balanced(c)


async def test_30_a_lost_answer_is_counted_once_and_told():
    """Symptom: the answer was lost, and the retry was counted twice."""
    org = FakeOrg()
    org.faults = [Fault.lost_answer()]
    async with client(org) as c:
        receipt = await c.enqueue(signal())
        await receipt
        assert receipt.attempts == 2
        assert c.statistics().accepted == 1
    assert org.ips == [ip(0), ip(0)]  # Okta has it twice, which is what "at least once" means
    org.script = lambda _: Fault.lost_answer()
    async with client(org, close_timeout=1) as c:
        receipt = await c.enqueue(signal())
    assert receipt.outcome.may_have_arrived


async def test_32_an_exception_in_the_hook_does_not_stop_delivery():
    """Symptom: an exception in a delivery callback stopped all delivery."""
    async with client(FakeOrg(), on_settled=lambda _: 1 / 0) as c:
        ends = await outcomes(await c.enqueue_many(signals(100)))
    assert all(isinstance(end, rb.Accepted) for end in ends)


# ------------------------------------------------------------------------------------------------ traps of the naive


async def test_trap_the_batch_is_chosen_when_the_request_can_leave():
    """Trap: popping signals before holding a permit, so that a payload is stale when it leaves."""
    org = FakeOrg()
    async with client(org, limit=rb.RateLimit(1, 60.0)) as c:
        await c.enqueue_many(signals(40))
        await asyncio.sleep(59)
        c.enqueue_nowait(signal(90, "HIGH"))
        await asyncio.sleep(3)
        assert org.departures[1][1][0] == ip(90)
        await c.aclose(0)


async def test_trap_a_failed_request_does_not_block_the_others():
    """Trap: a retry loop inside the send blocks the head of the line."""
    org = FakeOrg()
    org.faults = [Fault.hang()]
    async with client(org) as c:
        first = await c.enqueue_many(signals(20))
        await asyncio.sleep(1)
        others = await c.enqueue_many(signals(60, start=20))
        await asyncio.wait_for(outcomes(others), 10)
        assert not any(receipt.done() for receipt in first)
        await c.flush()


async def test_trap_a_denial_neither_hammers_nor_drops():
    """Trap: 401 is retried for ever at full speed, or worse, its signals are dropped."""
    org = FakeOrg(token_valid=False)
    async with client(org, close_timeout=0) as c:
        await c.enqueue_many(signals(100))
        await asyncio.sleep(3600)
        assert len(org.departures) < 180
        assert c.statistics().waiting + c.statistics().in_flight == 100


async def test_trap_receipts_that_nobody_awaits_cost_nothing_and_warn_of_nothing():
    """Trap: thousands of unread futures with exceptions are thousands of warnings."""
    org = FakeOrg(poison=lambda _: True)
    async with client(org) as c:
        receipts = await c.enqueue_many(signals(3))
        await c.flush()
        dead = sys.getrefcount(receipts[0])
        assert dead < 5
        del receipts
        gc.collect()


async def test_trap_a_closed_client_is_garbage():
    """Trap: a closed client is kept alive by a timer, a task, or a hook."""
    c = client(FakeOrg())
    async with c:
        await c.enqueue_many(signals(30, expires_at=datetime.now(UTC) + timedelta(hours=5)))
    ghost = weakref.ref(c)
    del c
    gc.collect()
    assert ghost() is None


async def test_trap_expiry_leaves_nothing_behind():
    """Trap: what has expired or was cancelled stays in some heap until its time comes."""
    org = FakeOrg()
    async with client(org) as c:
        for number in range(100):
            await c.enqueue_many(signals(20, start=number * 20, expires_at=datetime.now(UTC) + timedelta(hours=5)))
            await c.flush()
        inside = c._life.queue.prioritizer
        assert not inside._deadlines or inside.overdue_at() == math.inf
        assert not inside._held
        assert inside.size == 0
