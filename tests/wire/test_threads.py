"""Signals from other threads: nothing waits for ever, nothing is lost silently, and the books balance throughout."""

import asyncio
import concurrent.futures
import gc
import logging
import multiprocessing
import os
import threading
import time
from contextlib import asynccontextmanager, suppress

import pytest
from fake_org import FakeOrg, balanced, client, ip, signal

import riskbatch as rb

FAST = {"limit": rb.RateLimit(6000, 60.0)}
SOON = 5.0  # seconds that no wait here comes near, unless something hangs


def threads(count, target, *args):
    started = [threading.Thread(target=target, args=(number, *args), daemon=True) for number in range(count)]
    for thread in started:
        thread.start()
    return started


def in_thread(function, *args):
    """A turn of another thread, which the loop does not wait for elsewhere."""
    return asyncio.wait_for(asyncio.to_thread(function, *args), SOON)


def not_admitted(caplog):
    return [getattr(record, "riskbatch_event", None) for record in caplog.records].count("not_admitted")


class Gate:
    """A transport that answers nothing until it is opened. Who comes in that moment overtakes those who wait."""

    def __init__(self):
        self.org, self.open = FakeOrg(delay=lambda: (0.0, 0.0)), asyncio.Event()
        self.came = 0

    async def __call__(self, request):
        self.came += 1
        await self.open.wait()
        return await self.org(request)


@asynccontextmanager
async def fast(org=None, **options):
    async with client(org or FakeOrg(limit=6000, delay=lambda: (0.0, 0.0)), **FAST, **options) as c:
        yield c


@pytest.mark.parametrize("durable", [False, True])
async def test_many_threads_hand_in_and_every_signal_arrives_once(durable, tmp_path):
    """Eight threads, with or without a store: each future is a receipt, each signal arrives, each thread sees it."""
    org = FakeOrg(limit=6000, delay=lambda: (0.0, 0.0))
    ends = []

    def produce(number):
        futures = [c.enqueue_threadsafe(signal(100 * number + i)) for i in range(100)]
        receipts = [future.result(SOON) for future in futures]
        ends.extend(receipt.wait_threadsafe(SOON) for receipt in receipts)

    async with fast(org, store=rb.SqliteStore(tmp_path / "s.db") if durable else None) as c:
        started = threads(8, produce)
        while any(thread.is_alive() for thread in started):
            assert balanced(c)
            await asyncio.sleep(0.005)
        assert c.statistics().entering == 0
    assert sorted(org.ips) == sorted(ip(number) for number in range(800))
    assert len(ends) == 800
    assert all(isinstance(end, rb.Accepted) for end in ends)


async def test_with_a_store_the_future_means_on_disk(tmp_path):
    """Once `result()` has returned, another process would find the signal."""
    from riskbatch.stores.sqlite import admin

    async with fast(Gate(), store=rb.SqliteStore(tmp_path / "s.db"), close_timeout=0) as c:
        receipt = await in_thread(lambda: c.enqueue_threadsafe(signal(1, "HIGH")).result(SOON))
        assert [row.signal for row in admin.ls(tmp_path / "s.db")] == [receipt.signal]


async def test_what_is_handed_in_first_goes_first():
    """Within a level the order of the calls is kept."""
    org = FakeOrg(limit=6000, delay=lambda: (0.0, 0.0))
    async with fast(org) as c:
        futures = [c.enqueue_threadsafe(signal(number)) for number in range(450)]
        await in_thread(futures[-1].result)
        await c.flush()
    assert org.ips == [ip(number) for number in range(450)]


async def test_wait_is_backpressure_that_lets_a_high_in_first():
    """With a full queue the future stays open; a HIGH handed in last is admitted before the LOW handed in first."""
    gate = Gate()
    async with fast(gate, capacity=2) as c:
        await c.enqueue_many([signal(0), signal(1)])
        low = c.enqueue_threadsafe(signal(2))
        await asyncio.sleep(0.01)
        high = c.enqueue_threadsafe(signal(3, "HIGH"))
        await asyncio.sleep(0.01)
        assert (low.done(), high.done(), c.statistics().entering) == (False, False, 2)
        with pytest.raises(rb.QueueFull, match="wait to be admitted"):
            c.enqueue_threadsafe(signal(4))
        assert balanced(c)
        gate.open.set()
        await c.flush()
    assert sorted(gate.org.ips) == [ip(number) for number in range(4)]
    assert low.result().number > high.result().number


async def test_many_handed_in_while_the_loop_is_busy_come_in_by_slices():
    """Thirty thousand signals that waited for a blocked loop do not hold it up again: others have turns in between."""
    async with client(Gate(), close_timeout=0) as c:
        sent = [signal(number, level) for number in range(10_000) for level in rb.RiskLevel]
        (thread,) = threads(1, lambda _: [c.enqueue_threadsafe(each) for each in sent])
        thread.join()  # which blocks the loop
        turns, most, before = 0, 0, 0
        while c.statistics().entering:
            await asyncio.sleep(0)
            turns, most, before = turns + 1, max(most, c.statistics().admitted - before), c.statistics().admitted
    assert turns >= 100
    assert most <= 300


async def test_memory_is_bounded_however_fast_threads_are():
    """A loop that does nothing for a while finds `capacity` signals at the most; the others were refused at once."""
    async with fast(capacity=50) as c:
        taken = [c.enqueue_threadsafe(signal(number)) for number in range(50)]
        with pytest.raises(rb.QueueFull):
            c.enqueue_threadsafe(signal(50))
        assert c.statistics().entering == 50
        await asyncio.wait(map(asyncio.wrap_future, taken))
        c.enqueue_threadsafe(signal(51))
    assert c.statistics().accepted == 51


async def test_reject_and_shed_are_what_they_are_for_enqueue(caplog):
    """`when_full` holds: QueueFull is in the future, said once in the log; a shed signal has its outcome."""
    async with fast(Gate(), capacity=1, when_full="reject", close_timeout=0) as c:
        await c.enqueue(signal(0))
        for _ in range(3):
            with pytest.raises(rb.QueueFull, match="capacity 1"):
                await asyncio.wrap_future(c.enqueue_threadsafe(signal(1)))
        assert c.statistics().admitted == 1
    assert not_admitted(caplog) == 1
    async with fast(Gate(), capacity=1, when_full="shed", close_timeout=0) as c:
        await c.enqueue(signal(0))
        receipt = await asyncio.wrap_future(c.enqueue_threadsafe(signal(1)))
        assert isinstance(receipt.outcome, rb.Shed)


async def test_on_the_loops_own_thread_it_works_and_waiting_is_refused():
    """A log handler may run anywhere; what would wait for itself raises at once instead."""
    async with fast() as c:
        future = c.enqueue_threadsafe(signal(0))
        for wait in (future.result, future.exception):
            with pytest.raises(rb.WrongLoop, match="wrap_future"):
                wait()
        receipt = await asyncio.wrap_future(future)
        assert future.result() is receipt
        assert future.exception() is None
        with pytest.raises(rb.WrongLoop, match="wrap_future"):
            receipt.wait_threadsafe(1.0)
        await receipt
        assert receipt.wait_threadsafe(0.0) is receipt.outcome


async def test_cancelled_means_surely_not_admitted():
    """`cancel()` is True only if the signal is never sent; a wait that times out recalls nothing."""
    gate = Gate()
    async with fast(gate, capacity=100) as c:
        futures = [c.enqueue_threadsafe(signal(number)) for number in range(90)]
        assert all(future.cancel() for future in futures[::2])
        receipts = [await asyncio.wrap_future(future) for future in futures[1::2]]
        with pytest.raises(TimeoutError):
            await in_thread(receipts[0].wait_threadsafe, 0.01)
        assert not futures[1].cancel()
        assert c.statistics().admitted == 45
        await asyncio.sleep(0)
        assert not receipts[0]._waiters
        while gate.came < 3:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
        gate.open.set()
        assert isinstance(await in_thread(receipts[0].wait_threadsafe, SOON), rb.Accepted)
    assert gate.org.ips == [ip(number) for number in range(1, 90, 2)]


async def test_mistakes_are_told_at_once(tmp_path):
    """No signal, no client, no loop: each is an exception of the call, not of a future that nobody looks at."""
    c = client(FakeOrg())
    with pytest.raises(rb.ClientClosed, match="not open"):
        c.enqueue_threadsafe(signal())
    async with c:
        with pytest.raises(rb.InvalidSignal, match="must be a RiskSignal"):
            c.enqueue_threadsafe("203.0.113.7")
    with pytest.raises(rb.ClientClosed, match="the client is closed"):
        await in_thread(c.enqueue_threadsafe, signal())


@pytest.mark.parametrize("durable", [False, True])
async def test_closing_admits_what_was_handed_in_before(durable, tmp_path):
    """A producer that has just handed in its last signals need not wait for them before the client is left."""
    org = FakeOrg(limit=6000, delay=lambda: (0.0, 0.0))
    async with fast(org, store=rb.SqliteStore(tmp_path / "s.db") if durable else None) as c:
        futures = await in_thread(lambda: [c.enqueue_threadsafe(signal(number)) for number in range(250)])
        c._loop.call_soon(lambda: c._loop.create_task(late()))
        refused = []

        async def late():
            for enqueue in (c.enqueue, lambda signal: asyncio.wrap_future(c.enqueue_threadsafe(signal))):
                try:
                    await enqueue(signal(999))
                except rb.ClientClosed:
                    refused.append(enqueue)

    assert len(org.ips) == 250
    assert all(isinstance(future.result().outcome, rb.Accepted) for future in futures)
    assert len(refused) == 2


async def test_closing_at_any_moment_admits_what_was_handed_in_before():
    """Whatever the porters of other levels are doing when the client is left."""
    for turns in range(12):
        async with fast() as c:
            futures = [c.enqueue_threadsafe(signal(1, "HIGH"))]
            for _ in range(turns):
                await asyncio.sleep(0)
            futures += [c.enqueue_threadsafe(signal(2, level)) for level in rb.RiskLevel]
        assert [type(future.result().outcome) for future in futures] == [rb.Accepted] * 4


@pytest.mark.parametrize("durable", [False, True])
async def test_what_finds_no_room_before_the_end_is_told_and_logged(durable, tmp_path, caplog):
    """Futures whose turn never came end with ClientClosed, whatever they waited for, and the log says so once."""
    store = rb.SqliteStore(tmp_path / "s.db") if durable else None
    async with fast(Gate(), capacity=10, store=store, close_timeout=0.05) as c:
        await c.enqueue_many([signal(number) for number in range(10)])
        futures = [c.enqueue_threadsafe(signal(100 + i, level)) for i in range(3) for level in rb.RiskLevel]
        waits = [asyncio.create_task(in_thread(future.exception)) for future in futures]
        await asyncio.sleep(0.01)
    assert {type(await wait) for wait in waits} == {rb.ClientClosed}
    assert c.statistics().admitted == 10
    assert c.statistics().entering == 0
    assert not_admitted(caplog) == 1


async def test_a_client_cancelled_from_outside_answers_every_thread():
    """Ctrl-C in `asyncio.run` cancels all tasks: futures and receipts end, in whatever order the tasks do."""
    with pytest.warns(ResourceWarning, match="without aclose"):  # noqa: PT031
        c = await client(Gate(), capacity=5, **FAST).__aenter__()
        admitted = await asyncio.wrap_future(c.enqueue_threadsafe(signal(0)))
        await c.enqueue_many([signal(number) for number in range(10, 14)])
        outside = [c.enqueue_threadsafe(signal(number)) for number in (1, 2)]
        wait = asyncio.create_task(in_thread(admitted.wait_threadsafe))
        await asyncio.sleep(0.01)
        outside.append(c.enqueue_threadsafe(signal(3, "HIGH")))
        for task in asyncio.all_tasks():
            if "riskbatch" in task.get_name() or "_admit" in repr(task) or "_submit" in repr(task):
                task.cancel()
        assert isinstance(await wait, rb.Abandoned)
        for future in outside:
            assert isinstance(await in_thread(future.exception), rb.ClientClosed)
        await asyncio.wait({c._life.task})
    assert balanced(c)


async def test_a_porter_cancelled_alone_is_replaced():
    """Who cancels one task of the library's loses nothing but the signals it carried, and those are told."""
    gate = Gate()
    async with fast(gate, capacity=2) as c:
        await c.enqueue_many([signal(0), signal(9)])
        stuck = c.enqueue_threadsafe(signal(1))
        await asyncio.sleep(0.01)
        late = c.enqueue_threadsafe(signal(2, "LOW"))
        (porter,) = [task for task in asyncio.all_tasks() if "of threads" in task.get_name()]
        porter.cancel()
        assert isinstance(await in_thread(stuck.exception), rb.ClientClosed)
        gate.open.set()
        receipt = await in_thread(late.result)
        assert isinstance(await receipt, rb.Accepted)
    assert ip(1) not in gate.org.ips


def abandoned_loop():
    """A loop that is closed under an open client, which a correct program never does."""
    loop = asyncio.new_event_loop()
    c = loop.run_until_complete(client(FakeOrg(delay=lambda: (60.0, 0.0)), capacity=1, **FAST).__aenter__())
    receipt = loop.run_until_complete(c.enqueue(signal(0)))
    loop.run_until_complete(asyncio.sleep(0.01))
    return loop, c, receipt


def test_a_loop_that_is_gone_answers_too(monkeypatch):
    """A future handed in too late, one that waits, and a receipt: none waits for ever once the loop is closed."""
    monkeypatch.setattr("riskbatch.threads._PROBE_EVERY", 0.05)
    loop, c, receipt = abandoned_loop()
    waiting = c.enqueue_threadsafe(signal(1))
    waits, ends = [waiting.result, receipt.wait_threadsafe], []

    def wait(number):
        try:
            waits[number]()
        except rb.ClientClosed as error:
            ends.append(str(error))

    started = threads(2, wait)
    time.sleep(0.05)
    loop.close()
    with pytest.raises(rb.ClientClosed, match="loop"):
        c.enqueue_threadsafe(signal(2))
    for thread in started:
        thread.join(SOON)
        assert not thread.is_alive()
    assert len(ends) == 2
    monkeypatch.setattr(logging.getLogger("asyncio"), "disabled", True)  # that a task was destroyed, which is so
    del c, receipt, waiting, waits[:]
    with pytest.warns(ResourceWarning, match="was never closed"):
        gc.collect()


def fork_and_hand_in(c, queue):
    try:
        c.enqueue_threadsafe(signal())
    except rb.WrongLoop as error:
        queue.put(str(error))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing to fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
async def test_a_forked_child_is_refused():
    """A child has the parent's objects but not its loop; its signals would never leave."""
    fork = multiprocessing.get_context("fork")
    async with fast() as c:
        told = fork.SimpleQueue()
        child = fork.Process(target=fork_and_hand_in, args=(c, told))
        child.start()
        await in_thread(child.join, SOON)
        assert "fork" in told.get()


async def test_a_handler_of_our_own_log_cannot_loop():
    """A handler on the root logger that hands in what it hears, our own lines included, comes to an end."""

    class Handler(logging.Handler):
        def emit(self, record):
            with suppress(rb.RiskbatchError):
                c.enqueue_threadsafe(signal(1, message="heard"))

    handler = Handler()
    logging.getLogger().addHandler(handler)
    try:
        async with fast(Gate(), capacity=1, when_full="reject", close_timeout=0) as c:
            await c.enqueue(signal())
            logging.getLogger("app").warning("something")
            await asyncio.sleep(0.02)
            assert c.statistics().entering == 0
    finally:
        logging.getLogger().removeHandler(handler)


def test_an_answer_is_a_future_like_any_other():
    """`concurrent.futures.wait` and `as_completed` take it."""

    async def main():
        async with fast() as c:
            futures = [c.enqueue_threadsafe(signal(number)) for number in range(3)]
            done = await in_thread(lambda: concurrent.futures.wait(futures, SOON).done)
            assert done == set(futures)

    asyncio.run(main())
