"""The whole client against the emulator on real sockets, in seconds where Okta has a minute."""

import asyncio
import gc
import json
import logging
import os
import random
import signal as sys_signal
import socket
import threading
import time
import warnings
from contextlib import suppress

import aiohttp
import pytest

import riskbatch as rb
from riskbatch.emulator import Fault, OktaEmulator
from riskbatch.okta import transport as transport_module

LIMIT = rb.RateLimit(30, 1.5)
FAST = {"limit": LIMIT, "linger": 0.01, "close_timeout": 10.0}


def client(okta: OktaEmulator, **options) -> rb.Client:
    return rb.Client(okta.url, rb.ApiToken(okta.token), **(FAST | options))


def signals(count: int, level: str = "LOW", start: int = 0) -> list[rb.RiskSignal]:
    return [rb.RiskSignal(f"10.1.{(start + i) >> 8}.{(start + i) & 255}", level) for i in range(count)]


async def outcomes(receipts: list[rb.Receipt]) -> list[rb.Outcome]:
    return [await receipt for receipt in receipts]


async def test_signals_arrive_as_they_were_enqueued():
    """What the org gets is what was enqueued, HIGH first, with the System Log's request id in the receipt."""
    async with OktaEmulator() as okta, client(okta) as c:
        low = await c.enqueue(rb.RiskSignal("203.0.113.7", "LOW", message="Credential stuffing"))
        high = await c.enqueue(rb.RiskSignal("2001:DB8::1", "HIGH"))
        assert await c.flush(5) == 0
        assert [signal.ip for signal in okta.signals] == ["2001:db8::1", "203.0.113.7"]
        assert okta.signals[1].message == "Credential stuffing"
        assert okta.signals[1].timestamp == low.signal.to_json()["timestamp"]
        assert high.outcome == rb.Accepted(okta.requests[0].request_id)


@pytest.mark.parametrize("window", ["fixed", "sliding"])
async def test_the_rate_holds_on_real_sockets_whatever_goes_wrong(window):
    """Faults of every kind, random latency: never more than 30 arrivals in a window, and nothing is lost."""
    rng = random.Random(window)
    faults = [
        Fault.drop(),
        Fault.lost_answer(),
        Fault.truncated(),
        Fault.error(),
        Fault.unavailable(),
        Fault.proxy_error(),
        Fault.crowded(),
        Fault.rate_limited(reset_in=1.0),
        Fault.answer(200, [("Content-Type", "text/html")], b"<html>"),
    ]

    def latency() -> float:
        return rng.uniform(0, 0.1)

    async with OktaEmulator(limit=30, period=1.5, window=window, latency=latency) as okta:
        okta.script = lambda _: rng.choice(faults) if len(okta.requests) < 20 and rng.random() < 0.3 else None
        async with client(okta) as c:
            receipts = await c.enqueue_many([*signals(300), *signals(60, "HIGH", 1000)])
            assert await c.flush(30) == 0
        assert okta.most_in_any_window(1.5) <= 30
    assert all(isinstance(end, rb.Accepted) for end in await outcomes(receipts))
    assert {signal.ip for signal in okta.signals} == {receipt.signal.ip for receipt in receipts}


async def test_poison_is_found_on_the_wire():
    """One bad signal, no named causes: it alone is rejected, with Okta's words."""
    async with OktaEmulator(poison=lambda s: s.ip == "10.1.0.13", name_causes=False) as okta, client(okta) as c:
        ends = await outcomes(await c.enqueue_many(signals(20)))
    assert [type(end).__name__ for end in ends] == ["Accepted"] * 13 + ["Rejected"] + ["Accepted"] * 6
    assert ends[13].code == "E0000001"


async def test_a_revoked_token_pauses_and_a_mended_one_resumes():
    """401 keeps everything, says so, and ends when the token works again."""
    async with OktaEmulator(token_valid=False) as okta, client(okta) as c:
        receipts = await c.enqueue_many(signals(50))
        await asyncio.sleep(0.3)
        assert c.statistics().paused
        assert "Invalid token provided" in repr(c)
        okta.org.token_valid = True
        ends = await asyncio.wait_for(outcomes(receipts), 5)
    assert all(isinstance(end, rb.Accepted) for end in ends)


async def test_a_server_that_hangs_is_given_up(monkeypatch):
    """A request without an answer ends with the time-out, and its signals go again."""
    monkeypatch.setattr(transport_module, "TIMEOUT", 0.2)
    async with OktaEmulator() as okta, client(okta) as c:
        okta.faults = [Fault.hang(), Fault.hang(ingest=True)]
        receipt = await c.enqueue(signals(1)[0])
        assert isinstance(await asyncio.wait_for(receipt, 5), rb.Accepted)
        assert receipt.attempts == 3


async def test_a_server_that_comes_back_is_found_again():
    """While nobody listens nothing is lost; when somebody does, all is sent."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    async with rb.Client(f"http://127.0.0.1:{port}", rb.ApiToken("00token"), **FAST) as c:
        receipts = await c.enqueue_many(signals(30))
        await asyncio.sleep(0.2)
        assert "ClientConnectorError" in (c.statistics().trouble or "")
        async with OktaEmulator(port=port, token="00token"):
            ends = await asyncio.wait_for(outcomes(receipts), 8)
    assert all(isinstance(end, rb.Accepted) for end in ends)


async def test_the_end_of_the_block_leaves_no_session_task_or_thread():
    """No task, thread, connection or open session outlives the block, even if requests hang."""
    tasks, threads = asyncio.all_tasks(), threading.enumerate()
    async with OktaEmulator() as okta:
        within = asyncio.all_tasks()
        okta.script = lambda exchange: Fault.hang() if exchange.number > 1 else None
        async with client(okta, close_timeout=0.2) as c:
            receipts = await c.enqueue_many(signals(100))
            await asyncio.sleep(0.1)
        assert all(receipt.done() for receipt in receipts)
        assert not [task for task in asyncio.all_tasks() - within if "riskbatch client" in repr(task)]
        assert await settled(lambda: okta.org.in_flight == 0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == tasks
    assert threading.enumerate() == threads
    gc.collect()  # an open session or socket would be a warning, and so an error


async def settled(condition) -> bool:
    for _ in range(100):
        if condition():
            return True
        await asyncio.sleep(0.01)
    return False


async def test_a_session_of_the_users_own_stays_open():
    """The client closes only what it opened."""
    async with OktaEmulator() as okta, aiohttp.ClientSession() as session:
        async with client(okta, session=session) as c:
            assert isinstance(await c.enqueue_nowait(signals(1)[0]), rb.Accepted)
        assert not session.closed


async def test_a_redirect_does_not_carry_the_token_away():
    """A redirect is a denial, and whoever it points at hears nothing."""
    async with OktaEmulator() as okta, OktaEmulator() as thief, client(okta) as c:
        okta.faults = [Fault.redirect(f"{thief.url}/api/v1/risk/events/ip", 307)] * 2
        assert isinstance(await c.enqueue_nowait(signals(1)[0]), rb.Accepted)
        assert thief.requests == []


async def test_the_token_is_in_no_debug_log(caplog):
    """asyncio's and aiohttp's debug logs have no token either, nor has a broken answer that echoes it."""
    caplog.set_level(logging.DEBUG)
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0
    token = "00debug-token-that-nobody-must-see"

    async def echo(reader, writer):
        request = await reader.readuntil(b"\r\n\r\n")
        secret = next(line for line in request.splitlines() if line.startswith(b"Authorization"))
        writer.write(random.choice([b"HTTP/1.1 " + b"x" * 250 + secret, secret]) + b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    said = []
    async with rb.Client(url, rb.ApiToken(token), **(FAST | {"close_timeout": 0.1})) as c:
        receipts = await c.enqueue_many(signals(3, "HIGH"))
        await asyncio.sleep(1.0)
        said += [repr(c), repr(c.statistics())]
    server.close()
    await server.wait_closed()
    said += [repr(receipt) for receipt in receipts]
    said += [logging.Formatter().format(record) for record in caplog.records]
    assert len(said) > 20
    assert not [text for text in said if token[:12] in text]


async def test_100_000_signals_are_taken_in_without_holding_up_the_loop():
    """While 100,000 signals come in and are thrown away at the end, a heartbeat of the same loop keeps its time."""
    late: list[float] = []

    async def heartbeat() -> None:
        while True:
            before = time.thread_time()  # what others do to a loaded machine does not count
            await asyncio.sleep(0.001)
            late.append(time.thread_time() - before)

    batch = signals(65_000) + signals(35_000, "HIGH")
    async with OktaEmulator() as okta:
        gc.collect()
        gc.disable()  # its pauses are the interpreter's
        try:
            beating = asyncio.create_task(heartbeat())
            async with client(okta, close_timeout=0.1) as c:
                await c.enqueue_many(batch)
                await asyncio.sleep(0.1)
            beating.cancel()
        finally:
            gc.enable()
    late.sort()
    assert len(late) > 100
    assert late[len(late) // 2] < 0.01
    assert late[int(len(late) * 0.95)] < 0.03


async def test_a_user_who_blocks_the_loop_loses_nothing():
    """A loop that stood still for a while goes on where it was, within the rate."""
    async with OktaEmulator(limit=30, period=1.5, window="sliding") as okta, client(okta) as c:
        receipts = await c.enqueue_many(signals(200))
        for _ in range(5):
            time.sleep(0.15)  # noqa: ASYNC251 - that is the point
            await asyncio.sleep(0.01)
        assert await c.flush(10) == 0
        assert okta.most_in_any_window(1.5) <= 30
    assert all(isinstance(end, rb.Accepted) for end in await outcomes(receipts))


async def test_a_forked_child_is_refused_and_sends_nothing():
    """After os.fork the child gets WrongLoop at once, its copy of the queue is not sent, and the parent goes on."""
    read, write = os.pipe()
    async with OktaEmulator() as okta, client(okta, linger=0.4) as c:
        receipts = await c.enqueue_many(signals(10))
        await asyncio.sleep(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: forking with threads about
            pid = os.fork()
        if pid == 0:
            os.write(write, json.dumps(in_the_child(c, receipts[0])).encode())
            os._exit(0)
        os.close(write)
        said = json.loads(await asyncio.to_thread(read_all, read))
        await asyncio.to_thread(os.waitpid, pid, 0)
        assert said == {
            "enqueue_nowait": "WrongLoop",
            "enqueue": "WrongLoop",
            "flush": "WrongLoop",
            "aclose": "WrongLoop",
            "receipt": "WrongLoop",
            "statistics": 10,
        }
        assert await c.flush(5) == 0
        assert len(okta.signals) == 10
        assert len(okta.requests) == 1
    assert all(isinstance(end, rb.Accepted) for end in await outcomes(receipts))
    asyncio.get_running_loop()._default_executor.shutdown(wait=True)


def in_the_child(c: rb.Client, receipt: rb.Receipt) -> dict[str, object]:
    said: dict[str, object] = {}

    async def await_receipt() -> None:
        await receipt

    asyncio.events._set_running_loop(None)
    calls = {
        "enqueue": lambda: c.enqueue(receipt.signal),
        "flush": c.flush,
        "aclose": c.aclose,
        "receipt": await_receipt,
    }
    try:
        c.enqueue_nowait(receipt.signal)
    except rb.RiskbatchError as error:
        said["enqueue_nowait"] = type(error).__name__
    for name, call in calls.items():
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(asyncio.wait_for(call(), 1))
        except Exception as error:
            said[name] = type(error).__name__
    said["statistics"] = c.statistics().waiting
    return said


def read_all(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


async def test_a_child_that_runs_the_inherited_loop_on_sends_nothing():
    """Even if the child goes on with the parent's loop, its sender stops before it sends."""
    async with OktaEmulator() as okta, client(okta, linger=0.3, close_timeout=0.5) as c:
        await c.enqueue_many(signals(10))
        await asyncio.sleep(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            with suppress(BaseException):
                c._life.queue.alarm.ring()
                c._life.sender._process = -1  # as os.getpid() would say; run() looks at it before every request
                asyncio.events._set_running_loop(None)
            os._exit(0)
        await asyncio.to_thread(os.waitpid, pid, 0)
        assert await c.flush(5) == 0
        assert len(okta.signals) == 10
        c._life.sender._process = -1
        c.enqueue_nowait(signals(1)[0])
        with pytest.warns(ResourceWarning, match="without aclose"):
            await asyncio.wait({c._life.task}, timeout=5)
        assert len(okta.requests) == 1
    asyncio.get_running_loop()._default_executor.shutdown(wait=True)


def test_ctrl_c_in_the_middle_drains_and_leaves_nothing():
    """SIGINT under asyncio.run cancels the block, which sends what waits and settles every receipt."""
    receipts: list[rb.Receipt] = []

    async def main() -> None:
        async with OktaEmulator() as okta, client(okta, linger=5.0) as c:
            receipts.extend(await c.enqueue_many(signals(10)))
            asyncio.get_running_loop().call_later(0.05, sys_signal.raise_signal, sys_signal.SIGINT)
            await asyncio.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert all(isinstance(receipt.outcome, rb.Accepted) for receipt in receipts)
