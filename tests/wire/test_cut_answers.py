"""Once status and headers are there, they are the answer, and the body is what could be read of it."""

import asyncio
import gzip
import json
import zlib

import aiohttp
import pytest
from raw_server import drip, exchange, forever, ok, raw_server, read_request, reset, says

import riskbatch as rb
from riskbatch.okta import transport as transport_module
from riskbatch.okta.http import Unanswered
from riskbatch.okta.transport import open_session


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(transport_module, "BODY_TIMEOUT", 0.3)


HEAD = b"HTTP/1.1 202 Accepted\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def in_parts(*parts):
    async def handler(reader, writer):
        await read_request(reader)
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.05)

    return handler


UNREADABLE = {
    "closed in the body": says(ok(b"{}", length=50)),
    "reset in the body": in_parts(ok(b"{}", length=50)),
    "reset at once": says(ok(length=50), reset),
    "body never comes": says(ok(length=10), forever),
    "body trickles": says(ok(length=100_000), drip),
    "no length, never closed": says(HEAD + b"\r\n", forever),
    "bad chunk": says(CHUNKED + b"zz\r\nhello"),
    "bad chunk later": in_parts(CHUNKED, b"zz\r\nhello"),
    "bad chunk in the middle": in_parts(CHUNKED + b"2\r\n{}\r\n", b"zz\r\nhello"),
    "cut chunk": says(CHUNKED + b"ff\r\nhello"),
    "bad trailer": says(CHUNKED + b"0\r\nno colon\r\n\r\n"),
    "more than was announced": says(ok() + b"garbage garbage\r\n\r\n"),
    "no gzip": says(ok(b"hello", b"Content-Encoding: gzip")),
    "cut gzip": says(ok(gzip.compress(b"hello" * 99)[:20], b"Content-Encoding: gzip")),
    "no deflate": says(ok(b"hello", b"Content-Encoding: deflate")),
    "no brotli": says(ok(b"hello", b"Content-Encoding: br")),
    "unknown encoding": says(ok(b"hello", b"Content-Encoding: of-our-own")),
    "long header line": says(ok(b"", b"Content-Security-Policy: " + b"x" * 60_000)),
    "long cookies": says(ok(b"", *[b"Set-Cookie: a=" + b"x" * 9000] * 20)),
    "400 headers": says(ok(b"", *[b"X-%d: x" % number for number in range(400)])),
    "long reason phrase": says(b"HTTP/1.1 202 " + b"x" * 20_000 + b"\r\nContent-Length: 0\r\n\r\n"),
}


@pytest.mark.parametrize("handler", UNREADABLE.values(), ids=UNREADABLE)
async def test_a_202_is_a_202_whatever_comes_after_it(handler):
    """A signal whose request was answered 202 is accepted, and sent once."""
    requests = 0

    async def counted(reader, writer):
        nonlocal requests
        requests += 1
        await handler(reader, writer)

    async with raw_server(counted) as url, rb.Client(url, rb.ApiToken("00token"), close_timeout=0.0) as client:
        outcome = await asyncio.wait_for(await client.enqueue(rb.RiskSignal("203.0.113.7", "HIGH")), 5)
    assert isinstance(outcome, rb.Accepted)
    assert requests == 1


IN_A_SESSION_OF_THE_USERS = set(UNREADABLE) - {"bad chunk", "bad trailer", "more than was announced"}


@pytest.mark.parametrize("name", sorted(IN_A_SESSION_OF_THE_USERS))
async def test_so_it_is_in_a_session_of_the_users_own(name):
    """What belongs to a request and not to a session is bounded and read there in the same way."""
    async with raw_server(UNREADABLE[name]) as url, aiohttp.ClientSession() as session:
        assert (await asyncio.wait_for(exchange(url, session), 5)).status == 202


CUT = {name for name in UNREADABLE if "body" in name or "chunk" in name or "reset" in name or "closed" in name}


@pytest.mark.parametrize("name", sorted(CUT))
async def test_a_connection_whose_body_was_not_read_is_not_used_again(name):
    """The rest of a body must not be taken for the next answer."""
    async with raw_server(UNREADABLE[name]) as url, open_session() as session:
        await exchange(url, session)
        assert not session.connector._acquired
        assert not session.connector._conns


ERROR = json.dumps(
    {"errorCode": "E0000001", "errorSummary": "Api validation failed", "errorCauses": [{"errorSummary": "ip: bad"}]}
).encode()


def error(status: bytes, body: bytes, *headers: bytes, length: int | None = None) -> bytes:
    return ok(body, *headers, length=length).replace(b"202 Accepted", status)


@pytest.mark.parametrize(
    ("body", "reason"), [(ERROR, "Api validation failed: ip: bad"), (ERROR[:40], "no reason given")]
)
async def test_a_cut_400_is_a_400(body, reason):
    """Its words count if they are whole, and its code if that has come."""
    handler = says(error(b"400 Bad Request", body, length=5000))
    async with raw_server(handler) as url, rb.Client(url, rb.ApiToken("00token"), close_timeout=0.0) as client:
        outcome = await asyncio.wait_for(await client.enqueue(rb.RiskSignal("203.0.113.7", "HIGH")), 5)
    assert outcome == rb.Rejected(reason, "E0000001", 400, None)


async def test_a_cut_429_keeps_its_headers():
    """It is for the rate, by the headers' own words, and nothing of it is called another's answer."""
    rate = [b"X-Rate-Limit-Limit: 30", b"X-Rate-Limit-Remaining: 0", b"X-Rate-Limit-Reset: 1767268842"]
    date = b"Date: Thu, 01 Jan 2026 12:00:00 GMT"
    handler = says(error(b"429 Too Many Requests", b"{", *rate, date, length=500))
    async with raw_server(handler) as url, rb.Client(url, rb.ApiToken("00token"), close_timeout=0.0) as client:
        await client.enqueue(rb.RiskSignal("203.0.113.7", "HIGH"))
        await asyncio.sleep(0.3)
        statistics = client.statistics()
    assert statistics.rate_limited == 1
    assert statistics.trouble is None
    assert 30 < statistics.resumes_after < 50


@pytest.mark.parametrize(
    ("encoding", "encode"), [(b"gzip", gzip.compress), (b"x-gzip", gzip.compress), (b"Deflate", zlib.compress)]
)
async def test_a_compressed_error_is_read(encoding, encode):
    """Something in between compresses although we ask for none."""
    handler = says(error(b"400 Bad Request", encode(ERROR), b"Content-Encoding: " + encoding))
    async with raw_server(handler) as url:
        assert (await exchange(url)).body == ERROR


REFUSED = {
    "header line": (ok(b"", b"X: " + b"x" * 70_000), "Got more than 65536 bytes"),
    "headers": (ok(b"", *[b"X-%d: x" % number for number in range(600)]), "Too many headers"),
    "no HTTP": (b"hello\r\n\r\n", ""),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_the_parser_refuses_before_there_is_a_status_is_told(name):
    """The reason says who refused and why, and does not speak of a status 400 that nobody has sent."""
    answer, words = REFUSED[name]
    async with raw_server(says(answer)) as url:
        with pytest.raises(Unanswered) as caught:
            await exchange(url)
        async with rb.Client(url, rb.ApiToken("00token"), close_timeout=0.0) as client:
            await client.enqueue(rb.RiskSignal("203.0.113.7", "HIGH"))
            await asyncio.sleep(0.2)
            trouble = client.statistics().trouble
    assert caught.value.may_have_arrived
    assert not caught.value.denied
    assert "400" not in caught.value.reason
    for said in (caught.value.reason, trouble):
        assert said.startswith("aiohttp's parser refused the answer before it had a status: ")
        assert words in said
