"""What can be made to go wrong in the emulated org, and how the server starts and ends."""

import asyncio
import gc
import json
import logging
import socket
import time

import aiohttp
import attrs
import pytest
from emulator_calls import WALL, Caller, calling, event, rate, rated, request, subject, until

from riskbatch.emulator import (
    DEFAULT_TOKEN,
    RISK_EVENTS_PATH,
    AccessToken,
    Exchange,
    Fault,
    OktaEmulator,
    Org,
)

# ------------------------------------------------------------------------------------------------ faults


@pytest.mark.parametrize(
    ("fault", "status", "code", "ingested"),
    [
        (Fault.error(), 500, "E0000009", 0),
        (Fault.error(403, "E0000006"), 403, "E0000006", 0),
        (Fault.unavailable(), 503, "E0000181", 0),
        (Fault.unavailable("E0000010"), 503, "E0000010", 0),
        (Fault.rate_limited(limit=15, remaining=0, reset_in=9.0), 429, "E0000047", 0),
        (Fault.crowded(), 429, "E0000047", 0),
        (Fault.proxy_error(), 502, None, 0),
        (Fault.proxy_error(504), 504, None, 0),
        (Fault.redirect("http://127.0.0.1:1/"), 302, None, 0),
        (Fault.oversized(200_000), 202, None, 1),
        (Fault.oversized(200_000, 500), 500, None, 0),
        (Fault.slow(0.05), 202, None, 1),
        (Fault.answer(418, [("X-Okta-Request-Id", "mine")], b"tea"), 418, None, 0),
    ],
)
async def test_a_fault_gives_its_answer_once(fault: Fault, status: int, code: str | None, ingested: int):
    """The next request gets the fault, ingested only where it says so; the one after is served."""
    async with calling() as caller:
        caller.okta.faults.append(fault)
        answer = await caller.send()
        assert answer.status == status
        assert len(caller.okta.signals) == ingested
        [exchange] = caller.okta.requests
        assert (exchange.fault, exchange.status, exchange.error_code) == (fault, status, code)
        if code is not None:
            assert answer.error["errorCode"] == code
        assert (await caller.send()).status == 202
        assert len(caller.okta.signals) == ingested + 1


async def test_faults_have_the_headers_they_promise():
    """5xx without rate headers, HTML without Okta's, chosen and zero rate headers, a Location."""
    async with calling() as caller:
        caller.okta.faults += [
            Fault.unavailable(),
            Fault.proxy_error(),
            Fault.rate_limited(limit=15, remaining=2, reset_in=9.0),
            Fault.crowded(),
            Fault.redirect("http://127.0.0.1:1/"),
            Fault.answer(418, [("x-okta-request-id", "mine")], b"tea"),
            Fault.oversized(200_000),
        ]
        unavailable, proxy, limited, crowded, redirect, odd, oversized = [await caller.send() for _ in range(7)]
        assert not rated(unavailable)
        assert "X-Okta-Request-Id" in unavailable.headers
        assert not rated(proxy)
        assert proxy.headers["Content-Type"] == "text/html"
        assert "X-Okta-Request-Id" not in proxy.headers
        assert rate(limited)[:2] == (15, 2)
        assert 7 < rate(limited)[2] - time.time() <= 9
        assert rate(crowded)[:2] == (0, 0)
        assert 100 < rate(crowded)[2] - time.time() < 121
        assert redirect.headers["Location"] == "http://127.0.0.1:1/"
        assert (odd.headers.getall("X-Okta-Request-Id"), odd.body) == (["mine"], b"tea")
        assert len(oversized.body) == 200_000


@pytest.mark.parametrize(("fault", "ingested"), [(Fault.drop(), 0), (Fault.lost_answer(), 1)])
async def test_a_dropped_connection_answers_nothing(fault: Fault, ingested: int):
    """The connection closes without an answer; only `lost_answer` has ingested the signals."""
    async with calling() as caller:
        caller.okta.faults.append(fault)
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await caller.send()
        assert len(caller.okta.signals) == ingested
        assert caller.okta.requests[0].status is None
        assert (await caller.send()).status == 202


async def test_a_lost_answer_is_still_judged():
    """An invalid request is not ingested because its answer is lost."""
    async with calling() as caller:
        caller.okta.faults.append(Fault.lost_answer())
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await caller.send([event(subject("nowhere"))])
        assert caller.okta.signals == []
        caller.okta.faults.append(Fault.oversized(10))
        assert (await caller.send([event(subject("nowhere"))])).status == 202
        assert caller.okta.requests[-1].error_code is None
        assert caller.okta.signals == []


@pytest.mark.parametrize("fault", [Fault.truncated(), attrs.evolve(Fault.proxy_error(), ending="truncate")])
async def test_a_truncated_answer_breaks_off(fault: Fault):
    """The status arrives, the body ends before its Content-Length."""
    async with calling() as caller:
        caller.okta.faults.append(fault)
        headers = {"Authorization": f"SSWS {DEFAULT_TOKEN}", "Content-Type": "application/json"}
        body = json.dumps([event()]).encode()
        async with caller.session.post(caller.okta.url + RISK_EVENTS_PATH, data=body, headers=headers) as response:
            assert response.status == (fault.status or 202)
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
        assert len(caller.okta.signals) == fault.ingest


@pytest.mark.parametrize("ingest", [False, True])
async def test_a_hang_lasts_until_the_client_gives_up(ingest: bool):
    """No answer comes; the slot is held meanwhile and free once the client has gone."""
    async with calling() as caller:
        caller.okta.faults.append(Fault.hang(ingest=ingest))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await caller.send()
        await until(lambda: caller.okta.org.in_flight == 0)
        assert caller.okta.requests[0].status is None
        assert len(caller.okta.signals) == ingest


async def test_a_hang_holds_its_slot():
    """A hung request counts as in flight."""
    async with calling(concurrency=1) as caller:
        caller.okta.faults.append(Fault.hang())
        hung = asyncio.create_task(caller.send())
        await until(lambda: len(caller.okta.requests) == 1)
        assert rate(await caller.send())[:2] == (0, 0)
        hung.cancel()
        await asyncio.wait([hung])


async def test_latency_and_slowness_delay_the_answer_not_the_ingestion():
    """The signals are in at once; the answer takes latency, which may be a function, plus the fault's delay."""
    async with calling(latency=lambda: 0.05) as caller:
        caller.okta.faults.append(Fault.slow(0.05))
        started = time.monotonic()
        pending = asyncio.create_task(caller.send())
        await until(lambda: len(caller.okta.signals) == 1)
        assert not pending.done()
        assert (await pending).status == 202
        assert time.monotonic() - started >= 0.1


async def test_faults_wait_for_the_request_they_are_meant_for():
    """A fault with a condition is passed over until it holds; the others keep their order; other paths use none."""
    async with calling() as caller:
        poisoned = Fault.error().only_if(lambda exchange: b"192.0.2.66" in (exchange.request.body or b""))
        caller.okta.faults += [poisoned, Fault.unavailable(), Fault.proxy_error()]
        statuses = [(await caller.send(path="/nowhere")).status]
        for ip in ("192.0.2.1", "192.0.2.66", "192.0.2.2", "192.0.2.66"):
            statuses.append((await caller.send([event(subject(ip))])).status)
        assert statuses == [404, 503, 500, 502, 202]
        assert caller.okta.faults == []


async def test_a_script_is_asked_for_every_request_without_a_fault():
    """`script` sees the exchange and may return a fault; `faults` go first."""
    asked = []

    def script(exchange: Exchange) -> Fault | None:
        asked.append(exchange.number)
        return Fault.unavailable() if exchange.number == 3 else None

    async with calling(script=script) as caller:
        caller.okta.faults.append(Fault.error())
        assert [(await caller.send()).status for _ in range(4)] == [500, 202, 503, 202]
        assert asked == [2, 3, 4]


async def test_an_observer_sees_every_request_once_it_is_judged():
    """`on_judged` is called before the answer leaves, for every endpoint, also where a fault replaces the answer."""
    seen = []
    async with calling(on_judged=lambda each: seen.append((each.request.endpoint, each.number, each.status))) as caller:
        caller.okta.faults.append(Fault.unavailable())
        await caller.send()
        await caller.send()
        await caller.send(method="GET", path="/api/v1/users")
    assert seen == [(RISK_EVENTS_PATH, 1, 503), (RISK_EVENTS_PATH, 2, 202), ("/api/v1/users", 0, 404)]


async def test_faults_that_ingest_nothing_use_no_quota():
    """A request that the org never saw does not lower Remaining."""
    async with calling(limit=5) as caller:
        caller.okta.faults += [Fault.error(), Fault.slow(0.0)]
        assert not rated(await caller.send())
        assert [rate(await caller.send())[1] for _ in range(2)] == [4, 3]


# ------------------------------------------------------------------------------------------------ lifecycle


async def test_the_busiest_window_is_found_wherever_it_starts():
    """`most_in_any_window` looks at every window; two arrivals exactly a period apart share none."""
    org = Org(limit=1)
    for now in (0.0, 50.0, 55.0, 59.9, 60.0, 109.9, 110.0, 300.0):
        org.answer(request(), now, WALL + now)
    assert org.most_in_any_window(60.0) == 5
    assert org.most_in_any_window(5.0) == 2
    assert org.most_in_any_window(1000.0) == 8
    assert Org().most_in_any_window() == 0


async def test_it_listens_on_loopback_only():
    """A host that others could reach is refused."""
    for host in ("0.0.0.0", "::", "192.0.2.1", "okta.com", ""):
        with pytest.raises(ValueError, match="loopback"):
            OktaEmulator(host=host)
    async with OktaEmulator(host="localhost") as okta:
        assert okta.url.startswith("http://127.0.0.1:")


async def test_a_port_can_be_chosen_and_is_free_again_afterwards():
    """`port` is used as given, a second emulator on it fails, and leaving the block frees it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for _ in range(2):
        async with OktaEmulator(port=port) as okta:
            assert okta.url == f"http://127.0.0.1:{port}"
            with pytest.raises(OSError, match="in use"):
                await OktaEmulator(port=port).__aenter__()
    with pytest.raises(RuntimeError):
        assert okta.url


async def test_leaving_is_quick_whatever_is_under_way():
    """Hung, delayed and half-sent requests do not keep the block open, and no task is left."""
    before = asyncio.all_tasks()
    async with aiohttp.ClientSession() as session:
        async with OktaEmulator() as okta:
            caller = Caller(okta, session)
            okta.faults += [Fault.hang(), Fault.slow(60.0), Fault.hang(ingest=True)]
            pending = [asyncio.create_task(caller.send()) for _ in range(3)]
            _, writer = await asyncio.open_connection(*okta.url.removeprefix("http://").split(":"))
            writer.write(f"POST {RISK_EVENTS_PATH} HTTP/1.1\r\nHost: okta\r\nContent-Length: 9\r\n\r\n[".encode())
            await until(lambda: len(okta.requests) == 4)
            started = time.monotonic()
        assert asyncio.all_tasks() - set(pending) == before
        assert time.monotonic() - started < 10  # one of them would take a minute
        assert okta.org.in_flight == 0
        assert all(exchange.status is None for exchange in okta.requests)
        results = await asyncio.gather(*pending, return_exceptions=True)
        assert all(isinstance(result, aiohttp.ClientError) for result in results)
        writer.close()
        await asyncio.wait([asyncio.ensure_future(writer.wait_closed())])
    assert asyncio.all_tasks() == before
    gc.collect()


async def test_a_request_that_breaks_off_is_recorded_and_frees_its_slot():
    """A client that dies in the middle of its body leaves an exchange without an answer."""
    async with calling() as caller:
        _, writer = await asyncio.open_connection(*caller.okta.url.removeprefix("http://").split(":"))
        writer.write(f"POST {RISK_EVENTS_PATH} HTTP/1.1\r\nHost: okta\r\nContent-Length: 9\r\n\r\n[".encode())
        await until(lambda: len(caller.okta.requests) == 1)
        writer.close()
        await until(lambda: caller.okta.org.in_flight == 0)
        assert caller.okta.requests[0].status is None
        assert caller.okta.signals == []


async def test_no_token_in_any_repr_or_log(caplog: pytest.LogCaptureFixture):
    """Neither the objects nor the log show an API token or an access token."""
    caplog.set_level(logging.DEBUG)
    async with calling(token="00sesame", access_tokens={"sesame-too": AccessToken()}) as caller:
        await caller.send(auth="SSWS 00sesame")
        await caller.send(auth="Bearer sesame-too")
        await caller.send(auth="Bearer sesame-three")
        shown = f"{caller.okta!r} {caller.okta.org!r} {caller.okta.requests!r} {caller.okta.signals!r} {caplog.text}"
        assert "sesame" not in shown
        assert caller.okta.token == "00sesame"
