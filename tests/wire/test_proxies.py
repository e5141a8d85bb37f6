"""Proxies: the one that the environment names is used, and what it says or is called shows no password."""

import asyncio
import logging
import os
import socket
import ssl
import subprocess
import sys
from base64 import b64encode
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
from raw_server import ok, raw_server, read_request

import riskbatch as rb
from riskbatch.cli import main
from riskbatch.emulator import OktaEmulator
from riskbatch.okta.http import Request, Unanswered
from riskbatch.okta.providers import Providers
from riskbatch.okta.transport import aiohttp_transport, open_session

ORG = "https://acme.okta.example"
PASSWORD = "hunter2-and-more"
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """An environment with no proxy but that of the test."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)

    def put(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return put


def proxy_that_says(answer, seen=None):
    async def handler(reader, writer):
        head = await read_request(reader)
        if seen is not None:
            seen.append(head)
        writer.write(answer)
        await writer.drain()

    return raw_server(handler)


def with_user(url, user="who", password=PASSWORD):
    return url.replace("://", f"://{user}:{password}@")


async def exchange(url=ORG, session=None):
    request = Request("POST", f"{url}/api", {"Authorization": "SSWS 00token"}, b"[]")
    if session is not None:
        return await aiohttp_transport(session)(request)
    async with open_session() as own:
        return await aiohttp_transport(own, env_proxies=True)(request)


async def trouble_of(**options):
    """What a client says, in all its ways, after its first request."""
    async with rb.Client(ORG, rb.ApiToken("00token"), close_timeout=0.0, **options) as client:
        receipt = await client.enqueue(rb.RiskSignal("203.0.113.7", "HIGH"))
        for _ in range(100):
            await asyncio.sleep(0.02)
            if client.statistics().trouble and not client.statistics().requests_in_flight:
                break
        statistics, shown = client.statistics(), repr(client)
    return statistics, shown, receipt.outcome


# ------------------------------------------------------------------------------------------------ which one


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("scheme", ["http://", ""])
async def test_the_environments_proxy_is_asked_for_a_tunnel(environment, variable, scheme):
    """In every spelling that curl and requests know, and with what proves to it who asks."""
    seen = []
    async with proxy_that_says(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", seen) as url:
        environment(**{variable: with_user(url, "who", "p%40ss").replace("http://", scheme)})
        with pytest.raises(Unanswered):
            await exchange()
    head = seen[0].decode()
    assert head.startswith("CONNECT acme.okta.example:443 HTTP/1.1\r\n")
    assert f"Proxy-Authorization: Basic {b64encode(b'who:p@ss').decode()}\r\n" in head
    assert "SSWS" not in head


@pytest.mark.parametrize(
    "no_proxy", ["*", "okta.example", ".okta.example", "a, acme.okta.example", "acme.okta.example:443"]
)
async def test_no_proxy_is_kept_to(environment, no_proxy):
    """What NO_PROXY names is reached without a proxy, or not at all."""
    seen = []
    async with proxy_that_says(b"", seen) as url:
        environment(HTTPS_PROXY=url, NO_PROXY=no_proxy)
        with pytest.raises(Unanswered, match=r"Cannot connect to host acme\.okta\.example"):
            await exchange()
    assert seen == []


async def test_a_loopback_org_is_never_reached_through_a_proxy(environment, monkeypatch, tmp_path):
    """A local org's token goes to nobody else, and a .netrc puts nothing in its place."""
    (tmp_path / ".netrc").write_text("default login who password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    seen = []
    async with proxy_that_says(b"", seen) as url, OktaEmulator() as okta:
        environment(HTTP_PROXY=url, HTTPS_PROXY=url, ALL_PROXY=url)
        for org in (okta.url, okta.url.replace("127.0.0.1", "localhost")):
            async with rb.Client(org, rb.ApiToken(okta.token)) as client:
                assert isinstance(await (await client.enqueue(rb.RiskSignal("203.0.113.7", "HIGH"))), rb.Accepted)
    assert seen == []


async def test_a_session_of_the_users_own_has_proxies_of_its_own(environment):
    """The environment does not overrule what somebody has built."""
    seen = []
    async with proxy_that_says(b"", seen) as url, aiohttp.ClientSession() as session:
        environment(HTTPS_PROXY=url)
        with pytest.raises(Unanswered, match="Cannot connect to host"):
            await exchange(session=session)
    assert seen == []


UNUSABLE = [
    f"socks5://who:{PASSWORD}@127.0.0.1:1080",
    f"http://who:{PASSWORD}/x@127.0.0.1:3128",
    f"http://who:{PASSWORD}@127.0.0.1:99999",
    "http://",
]


@pytest.mark.parametrize("proxy", UNUSABLE)
async def test_a_proxy_that_cannot_be_used_pauses(environment, proxy):
    """The words name the variable and what it must look like, and not what it has."""
    environment(HTTPS_PROXY=proxy)
    statistics, shown, outcome = await trouble_of()
    assert statistics.paused
    assert "HTTPS_PROXY" in statistics.trouble
    assert PASSWORD not in repr(statistics) + shown
    assert not outcome.may_have_arrived


async def test_all_goes_through_the_tunnel(environment, tmp_path):
    """A client without a session of the user's sends through the tunnel that the proxy makes, and TLS is verified."""
    (tmp_path / "send.py").write_text(SEND)
    async with tls_org(tmp_path) as org, tunnel(org) as (proxy, tunnels):
        environment(HTTPS_PROXY=with_user(proxy), SSL_CERT_FILE=str(tmp_path / "cert"))
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, tmp_path / "send.py"], capture_output=True, text=True, timeout=30
        )
    assert done.stdout.startswith("Accepted"), done.stderr
    assert tunnels == ["acme.okta.example:443"]


SEND = f"""
import asyncio, riskbatch as rb
async def main():
    async with rb.Client("{ORG}", rb.ApiToken("00token"), close_timeout=5) as client:
        print(await asyncio.wait_for(await client.enqueue(rb.RiskSignal("203.0.113.7", "HIGH")), 10))
asyncio.run(main())
"""


class tunnel:  # noqa: N801 - reads as what it is
    """A proxy that makes tunnels to *port*, whatever it is asked for, and the names that it was asked for."""

    def __init__(self, port):
        self.port, self.asked = port, []

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}", self.asked

    async def serve(self, reader, writer):
        self.asked.append((await read_request(reader)).split()[1].decode())
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        inner, outer = await asyncio.open_connection("127.0.0.1", self.port)
        await asyncio.gather(self.pass_on(reader, outer), self.pass_on(inner, writer))

    async def pass_on(self, reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def __aexit__(self, *_):
        self.server.close()
        await self.server.wait_closed()


class tls_org:  # noqa: N801 - reads as what it is
    """A TLS server with a certificate for the org, which answers 202."""

    def __init__(self, path):
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        host = ORG.removeprefix("https://")
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, host)])
        builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        (path / "key").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
        (path / "cert").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(pem))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(path / "cert", path / "key")

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=self.context)
        return self.server.sockets[0].getsockname()[1]

    async def serve(self, reader, writer):
        await read_request(reader)
        writer.write(ok())
        writer.close()

    async def __aexit__(self, *_):
        self.server.close()
        await self.server.wait_closed()


# ------------------------------------------------------------------------------------------------ what it says


def says_no(status, reason="Proxy Says No", *headers):
    return "\r\n".join([f"HTTP/1.1 {status} {reason}", *headers, "Content-Length: 0", "", ""]).encode()


@pytest.mark.parametrize("whose", ["ours", "the user's", "trust_env"])
@pytest.mark.parametrize(("status", "paused"), [(407, True), (403, True), (502, False), (500, False), (429, False)])
async def test_a_tunnel_that_was_not_made_has_carried_nothing(environment, caplog, whose, status, paused):
    """The signals surely have not arrived, a 407 needs a person, and the password is nowhere."""
    caplog.set_level(logging.DEBUG)
    echo = b64encode(f"who:{PASSWORD}".encode()).decode()
    async with proxy_that_says(says_no(status, f"bad {PASSWORD} {echo}" if whose == "ours" else "no")) as url:
        environment(HTTPS_PROXY=with_user(url))
        own = {"proxy": with_user(url)} if whose == "the user's" else {"trust_env": True}
        session = None if whose == "ours" else aiohttp.ClientSession(**own)
        statistics, shown, outcome = await trouble_of(session=session)
        if session is not None:
            await session.close()
    assert statistics.paused is paused
    assert f"the proxy refuses to connect to the org: HTTP {status}" in statistics.trouble
    assert isinstance(outcome, rb.Abandoned)
    assert not outcome.may_have_arrived
    for text in (repr(statistics), shown, repr(outcome), caplog.text):
        assert PASSWORD not in text
        assert echo not in text


BREAKS = {
    "closes at once": b"",
    "speaks no HTTP": b"\x00\x01\x02\r\n\r\n",
    "closes the tunnel": b"HTTP/1.1 200 OK\r\n\r\n",
    "speaks no TLS in the tunnel": b"HTTP/1.1 200 OK\r\n\r\nhello",
}


@pytest.mark.parametrize("name", BREAKS)
@pytest.mark.parametrize("own", [False, True])
async def test_a_tunnel_that_breaks_before_the_request_has_carried_nothing(environment, name, own):
    """However the proxy fails, nothing of the request has left this process."""
    async with proxy_that_says(BREAKS[name]) as url:
        environment(HTTPS_PROXY=with_user(url))
        session = aiohttp.ClientSession(proxy=with_user(url)) if own else None
        with pytest.raises(Unanswered) as caught:
            await exchange(session=session)
        if session is not None:
            await session.close()
    assert not caught.value.may_have_arrived
    assert not caught.value.denied
    assert PASSWORD not in repr(caught.value)


# ------------------------------------------------------------------------------------------------ doctor


@pytest.fixture
def doctor(environment, capsys):
    environment(OKTA_CLIENT_ORGURL=ORG, OKTA_CLIENT_TOKEN="00token")

    async def run():
        assert await asyncio.to_thread(main, ["doctor"]) == 1
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (says_no(407), "the proxy wants other credentials"),
        (says_no(502), "the proxy refuses to connect to the org"),
        (b"", "the proxy"),
    ],
)
async def test_doctor_names_the_proxy_in_use(environment, doctor, answer, words):
    """Without its password, and what it refuses is not blamed on the spelling of the org's name."""
    async with proxy_that_says(answer) as url:
        environment(HTTPS_PROXY=with_user(url))
        said = await doctor()
    assert f"ok    proxy        {url}" in said
    assert words in said
    assert "spelt" not in said
    assert PASSWORD not in said


async def test_doctor_says_when_the_proxy_itself_is_not_there(environment, doctor):
    """Neither a proxy that nobody listens at nor one whose name is not known is taken for the org."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    for proxy in (f"127.0.0.1:{port}", "nowhere.invalid:3128"):
        environment(HTTPS_PROXY=f"http://who:{PASSWORD}@{proxy}")
        said = await doctor()
        assert f"the proxy http://{proxy} does not answer; is HTTPS_PROXY right?" in said
        assert PASSWORD not in said


async def test_doctor_speaks_of_no_proxy_where_there_is_none(environment, doctor):
    """A name that is not known may be one that only a proxy knows."""
    said = await doctor()
    assert " proxy " not in said.partition("reach")[0]
    assert "HTTPS_PROXY" in said
    assert os.environ.get("HTTPS_PROXY") is None


async def test_doctor_says_what_a_proxy_must_look_like(environment, doctor):
    """A proxy of another kind is no riddle."""
    environment(HTTPS_PROXY=UNUSABLE[0])
    said = await doctor()
    assert "mend  proxy" in said
    assert "http://proxy.example:3128" in said
    assert PASSWORD not in said


# ------------------------------------------------------------------------------------------------ providers


async def test_the_providers_are_asked_for_through_the_proxy_too(environment):
    """What refuses there is told without the proxy's password."""
    seen = []
    async with proxy_that_says(says_no(407), seen) as url:
        environment(HTTPS_PROXY=with_user(url))
        async with Providers(ORG, rb.ApiToken("00token")) as providers:
            with pytest.raises(rb.RequestFailed, match="the proxy refuses") as caught:
                await providers.list()
    assert seen[0].startswith(b"CONNECT acme.okta.example:443")
    assert PASSWORD not in repr(caught.value)
