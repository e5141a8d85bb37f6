"""The thin shell on real sockets: what is sent, what comes back, and what is said when nothing does."""

import asyncio
import gzip
import ssl

import aiohttp
import pytest
from raw_server import SECRET, drip, exchange, forever, ok, pour, raw_server, read_request, reset, says

import riskbatch as rb
from riskbatch.emulator import Fault, OktaEmulator
from riskbatch.okta import transport as transport_module
from riskbatch.okta.http import HEADERS, MAX_ANSWER, Request, Unanswered
from riskbatch.okta.transport import aiohttp_transport, open_session


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(transport_module, "TIMEOUT", 0.3)
    monkeypatch.setattr(transport_module, "CONNECT_TIMEOUT", 0.2)


# ------------------------------------------------------------------------------------------------ what is sent


async def test_the_request_has_exactly_the_headers_that_okta_asks_for():
    """User-Agent of our own, both content headers, no compression, no cookie, one Authorization with one space."""
    seen = []

    async def handler(reader, writer):
        seen.append(await read_request(reader))
        writer.write(ok())

    async with raw_server(handler) as url:
        assert (await exchange(url)).status == 202
    head, _, body = seen[0].partition(b"\r\n\r\n")
    start, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    agent = headers.pop("User-Agent")
    assert agent.startswith(f"riskbatch/{rb.__version__} python/3.")
    assert headers.pop("Host") == url.removeprefix("http://")
    assert headers == {
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
        "Content-Length": "2",
        "Authorization": f"SSWS {SECRET}",
    }
    assert (start, body) == ("POST /api HTTP/1.1", b"[]")


async def test_a_cookie_is_never_sent_back():
    """A cookie would make Okta take the client for a browser's session."""
    seen = []

    async def handler(reader, writer):
        for _ in range(2):
            seen.append(await read_request(reader))
            writer.write(ok(b"", b"Set-Cookie: sid=browser; Path=/"))

    async with raw_server(handler) as url, open_session() as session:
        await exchange(url, session)
        await exchange(url, session)
    assert len(seen) == 2
    assert b"cookie" not in seen[1].lower()


async def test_a_connection_is_used_again():
    """A new handshake a request would double the time that it takes."""
    connections = 0

    async def handler(reader, writer):
        nonlocal connections
        connections += 1
        while True:
            await read_request(reader)
            writer.write(ok(b"{}"))

    async with raw_server(handler) as url, open_session() as session:
        for _ in range(5):
            await exchange(url, session)
    assert connections == 1


async def test_the_users_session_is_used_as_it_is_and_stays_open():
    """A session of the user's own is not closed, and its `raise_for_status` does not turn an answer into none."""
    async with OktaEmulator() as okta, aiohttp.ClientSession(raise_for_status=True) as session:
        okta.faults = [Fault.rate_limited(), Fault.error(401, "E0000011")]
        request = Request("POST", f"{okta.url}/api/v1/risk/events/ip", HEADERS, b"[]")
        limited, denied = await aiohttp_transport(session)(request), await aiohttp_transport(session)(request)
        assert (limited.status, denied.status) == (429, 401)
        assert limited.headers["X-Rate-Limit-Remaining"] == "0"
        assert not session.closed


async def test_a_session_that_was_closed_is_told_as_such():
    """Nothing was sent, and the reason names the mistake."""
    session = open_session()
    await session.close()
    with pytest.raises(Unanswered) as caught:
        await exchange("http://127.0.0.1:9", session)
    assert (caught.value.reason, caught.value.may_have_arrived) == ("the aiohttp session is closed", False)


# ------------------------------------------------------------------------------------------------ what comes back


async def test_status_headers_and_body_come_back_as_they_are():
    """Headers that come twice are kept twice."""
    answer = b"HTTP/1.1 429 x\r\nX-Rate-Limit-Limit: 600\r\nX-Rate-Limit-Limit: 30\r\nContent-Length: 2\r\n\r\n{}"
    async with raw_server(says(answer)) as url:
        response = await exchange(url)
    assert response.status == 429
    assert response.headers.getall("x-rate-limit-limit") == ["600", "30"]
    assert response.body == b"{}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(status):
    """A redirect is an answer: nobody else gets the token."""
    elsewhere = []

    async def thief(reader, writer):
        elsewhere.append(await read_request(reader))
        writer.write(ok())

    async with raw_server(thief) as other, OktaEmulator() as okta:
        okta.faults = [Fault.redirect(other, status)]
        request = Request("POST", f"{okta.url}/api/v1/risk/events/ip", HEADERS, b"[]")
        async with open_session() as session:
            assert (await aiohttp_transport(session)(request)).status == status
    assert not elsewhere


@pytest.mark.parametrize("body", [b"", b'{"a": 1}', b"\x00\xff garbage", b"<html></html>"])
async def test_a_body_of_any_kind_comes_back(body):
    """The transport judges nothing."""
    async with raw_server(says(ok(body))) as url:
        assert (await exchange(url)).body == body


async def test_an_answer_of_any_size_is_cut(impatient):
    """Of an answer that never ends only its beginning is read, and its connection is not used again."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"
    async with raw_server(says(head, pour)) as url, open_session() as session:
        response = await exchange(url, session)
        assert len(response.body) == MAX_ANSWER
        assert not session.connector._conns
    async with OktaEmulator() as okta, open_session() as session:
        okta.faults = [Fault.oversized()]
        request = Request("POST", f"{okta.url}/api/v1/risk/events/ip", HEADERS, b"[]")
        assert len((await aiohttp_transport(session)(request)).body) == MAX_ANSWER


async def test_a_compressed_bomb_stays_small():
    """We ask for no compression; a body that is compressed nevertheless is not blown up."""
    bomb = gzip.compress(b"\0" * 64 * 1024 * 1024)
    answer = b"HTTP/1.1 400 x\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    async with raw_server(says(answer + bomb)) as url, open_session() as session:
        loop = asyncio.get_running_loop()
        before = loop.time()
        response = await exchange(url, session)
        assert loop.time() - before < 0.2
    assert len(response.body) <= MAX_ANSWER


# ------------------------------------------------------------------------------------------------ when nothing does


async def refused() -> str:
    async with raw_server(says(b"")) as url:
        return url


async def test_a_refused_connection_surely_did_not_arrive():
    """A connection that was never made is known to have carried nothing."""
    url = await refused()
    with pytest.raises(Unanswered, match="ClientConnectorError") as caught:
        await exchange(url)
    assert not caught.value.may_have_arrived


async def test_a_host_that_does_not_exist_surely_did_not_arrive():
    """So is a name that does not resolve."""
    with pytest.raises(Unanswered) as caught:
        await exchange("http://nowhere.invalid")
    assert not caught.value.may_have_arrived


async def test_a_certificate_that_cannot_be_verified_surely_did_not_arrive():
    """A handshake that fails has carried no request; TLS is verified by default."""

    async def no_tls(reader, writer):
        writer.write(b"this is no TLS")
        await reader.read()

    async with raw_server(no_tls) as url:
        with pytest.raises(Unanswered) as caught:
            await exchange(url.replace("http", "https"))
    assert not caught.value.may_have_arrived
    async with open_session() as session:
        context = session.connector._ssl
        assert context is True or (isinstance(context, ssl.SSLContext) and context.verify_mode is ssl.CERT_REQUIRED)


SILENCES = {
    "half open": says(b"", forever),
    "head drips": says(b"HTTP/1.1 202 Acc", drip),
    "interim answers only": says(b"HTTP/1.1 100 Continue\r\n\r\n", forever),
}


@pytest.mark.parametrize("handler", SILENCES.values(), ids=SILENCES)
async def test_silence_ends_with_the_time_out(handler, impatient):
    """However the server keeps us waiting, the exchange ends in time, and may have arrived."""
    async with raw_server(handler) as url, open_session() as session:
        with pytest.raises(Unanswered, match=r"no answer within 0\.3 s") as caught:
            await asyncio.wait_for(exchange(url, session), 5)
        assert caught.value.may_have_arrived
        assert not session.connector._conns


BREAKS = {
    "closed at once": says(b""),
    "reset": says(b"", reset),
    "reset in the head": says(b"HTTP/1.1 202", reset),
    "garbage": says(b"\x16\x03\x01 hello\r\n\r\n"),
    "bad status line": says(b"HTTP/1.1 twohundred OK\r\n\r\n"),
    "bad header": says(b"HTTP/1.1 202 OK\r\nno colon here\r\n\r\n"),
    "endless header": says(b"HTTP/1.1 202 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n"),
    "bad length": says(b"HTTP/1.1 202 OK\r\nContent-Length: -5\r\n\r\n"),
}


@pytest.mark.parametrize("handler", BREAKS.values(), ids=BREAKS)
async def test_a_broken_answer_is_no_answer_and_may_have_arrived(handler, impatient):
    """Whatever breaks after the request left, the server may have taken it; the reason is one line without secrets."""
    async with raw_server(handler) as url, open_session() as session:
        with pytest.raises(Unanswered) as caught:
            await asyncio.wait_for(exchange(url, session), 5)
        assert caught.value.may_have_arrived
        assert "\n" not in caught.value.reason
        assert SECRET not in repr(caught.value)
        assert caught.value.__cause__ is None
        assert not session.connector._acquired


async def test_a_cancelled_exchange_leaves_no_connection():
    """Whoever cancels a request gets the cancellation, and the connection is closed."""
    async with raw_server(says(b"", forever)) as url, open_session() as session:
        task = asyncio.create_task(exchange(url, session))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        assert not session.connector._acquired
        assert not session.connector._conns
