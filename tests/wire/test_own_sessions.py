"""A session of the user's own that spoils every request: sending is paused, and the words say what to change."""

import asyncio
import warnings

import aiohttp
import pytest
from emulator_calls import until

import riskbatch as rb
from riskbatch.emulator import OktaEmulator
from riskbatch.okta.http import HEADERS, Request, Unanswered
from riskbatch.okta.transport import aiohttp_transport


@pytest.fixture
def netrc(tmp_path, monkeypatch):
    def write(text):
        path = tmp_path / ".netrc"
        path.write_text(text)
        path.chmod(0o600)
        monkeypatch.setenv("NETRC", str(path))

    return write


def with_auth():
    with warnings.catch_warnings(action="ignore"):  # newer versions of aiohttp have another spelling
        return aiohttp.ClientSession(auth=aiohttp.BasicAuth("who", "hunter2-and-more"))


SPOILT = {
    "auth": ("", with_auth),
    "matching .netrc": (
        "machine 127.0.0.1 login who password hunter2-and-more\n",
        lambda: aiohttp.ClientSession(trust_env=True),
    ),
    "default .netrc": (
        "default login who password hunter2-and-more\n",
        lambda: aiohttp.ClientSession(trust_env=True),
    ),
}


@pytest.mark.parametrize("name", SPOILT)
async def test_credentials_of_the_sessions_own_pause_and_are_named(name, netrc):
    """Nothing leaves, no permit after the other is spent, and the words name `.netrc` and `auth`."""
    text, make = SPOILT[name]
    netrc(text)
    async with OktaEmulator() as okta, make() as session:
        async with rb.Client(
            okta.url, rb.ApiToken(okta.token), session=session, limit=rb.RateLimit(30, 3.0), close_timeout=0.0
        ) as client:
            receipt = await client.enqueue(rb.RiskSignal("203.0.113.7", "HIGH"))
            await asyncio.sleep(1.0)
            await until(lambda: not client.statistics().requests_in_flight)  # of which nobody could say what became
            statistics = client.statistics()
        assert okta.requests == []
    assert statistics.paused
    assert ".netrc" in statistics.trouble
    assert "`auth`" in statistics.trouble
    assert "Cannot combine AUTHORIZATION header" in statistics.trouble
    assert "hunter2" not in repr(statistics)
    assert statistics.requests < 10
    assert isinstance(receipt.outcome, rb.Abandoned)
    assert not receipt.outcome.may_have_arrived


async def test_a_session_that_needs_no_more_than_a_proxy_is_fine_with_trust_env(netrc):
    """A .netrc about other hosts does no harm."""
    netrc("machine elsewhere.example login who password secret\n")
    async with (
        OktaEmulator() as okta,
        aiohttp.ClientSession(trust_env=True) as session,
        rb.Client(okta.url, rb.ApiToken(okta.token), session=session) as client,
    ):
        assert isinstance(await (await client.enqueue(rb.RiskSignal("203.0.113.7", "HIGH"))), rb.Accepted)


UNSENDABLE = {
    "a header that none can carry": lambda: aiohttp.ClientSession(headers={"X-Team": "a\nb"}),
    "a connector for other schemes": lambda: aiohttp.ClientSession(connector=NoHttp()),
}


class NoHttp(aiohttp.TCPConnector):
    allowed_protocol_schema_set = frozenset({"gopher"})


@pytest.mark.parametrize("name", UNSENDABLE)
async def test_whatever_aiohttp_says_of_our_own_request_pauses(name):
    """It will be as wrong the next time, and nothing of it has left."""
    async with OktaEmulator() as okta, UNSENDABLE[name]() as session:
        request = Request("POST", f"{okta.url}/api", HEADERS, b"[]")
        with pytest.raises(Unanswered, match="the request cannot leave this process") as caught:
            await aiohttp_transport(session)(request)
    assert caught.value.denied
    assert not caught.value.may_have_arrived


async def test_a_session_that_was_closed_pauses():
    """Somebody must give the client another."""
    async with (
        OktaEmulator() as okta,
        aiohttp.ClientSession() as session,
        rb.Client(okta.url, rb.ApiToken(okta.token), session=session, close_timeout=0.0) as client,
    ):
        await session.close()
        receipt = await client.enqueue(rb.RiskSignal("203.0.113.7", "HIGH"))
        await asyncio.sleep(0.3)
        statistics = client.statistics()
    assert statistics.paused
    assert statistics.trouble == "the aiohttp session is closed"
    assert not receipt.outcome.may_have_arrived


async def test_a_request_that_was_begun_may_have_arrived():
    """Whatever breaks after the first byte of the body."""

    class Breaks(aiohttp.TCPConnector):
        async def connect(self, *args, **kwargs):
            connection = await super().connect(*args, **kwargs)
            asyncio.get_running_loop().call_later(0.05, connection.transport.abort)
            return connection

    async def silent(reader, writer):
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with aiohttp.ClientSession(connector=Breaks()) as session:
        with pytest.raises(Unanswered) as caught:
            await aiohttp_transport(session)(Request("POST", url, HEADERS, b"[]"))
    server.close()
    await server.wait_closed()
    assert caught.value.may_have_arrived
    assert not caught.value.denied
