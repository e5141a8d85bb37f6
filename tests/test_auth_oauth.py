"""A service app on a virtual clock against an org in the same process; each test states one promise."""

import asyncio
import json
import logging
import os
import random
import subprocess
import sys
import traceback
import warnings
from base64 import b64encode, urlsafe_b64decode
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from urllib.parse import parse_qsl

import async_solipsism
import pytest
from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OctKey, RSAKey
from multidict import CIMultiDict

import riskbatch as rb
from riskbatch.emulator import EmulatedRequest, Org
from riskbatch.okta import auth, keys, renewal
from riskbatch.okta.auth import Now, Unauthenticated
from riskbatch.okta.oauth import AppCredentials
from riskbatch.okta.transport import Unanswered
from riskbatch.okta.wire import Denied, Request, Response, classify, oauth_error

ORG = "https://acme.okta.com"
TOKEN_URL = f"{ORG}/oauth2/v1/token"
START = datetime(2026, 8, 21, 12, 0, tzinfo=UTC)
WIDE = rb.RateLimit(30, 60.0)


# ------------------------------------------------------------------------------------------------ small fakes


@cache
def ec_key() -> ECKey:
    return ECKey.generate_key("P-256", {"kid": "first"})


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(key, form=ser.PrivateFormat.PKCS8, encryption=None) -> str:
    return key.private_bytes(ser.Encoding.PEM, form, encryption or ser.NoEncryption()).decode()


def service_app(**more) -> rb.ServiceApp:
    return rb.ServiceApp("0oa1", ec_key().as_dict(private=True), **more)


class Acme:
    """An org behind a transport: it answers after *latency*, by the virtual clock, and remembers what it was sent."""

    def __init__(self, *, dpop=True, latency=0.1, **options) -> None:
        options = {"limit": 10_000, "base_url": ORG} | options
        self.org = Org(**options)
        self.app = self.org.register_app("0oa1", ec_key().as_dict(private=False), dpop=dpop)
        self.latency = latency
        self.token_latency = latency
        self.script = None  # (is_token, request) -> Response, an exception, or None
        self.sent: list[tuple[float, bool, Request, Response | None]] = []

    @property
    def oauth(self):
        return self.org.oauth

    def token_times(self) -> list[float]:
        return [at for at, is_token, *_ in self.sent if is_token]

    def statuses(self) -> list[int]:
        return [exchange.status for exchange in self.org.requests]

    async def transport(self, request: Request) -> Response:
        loop = asyncio.get_running_loop()
        path = request.url.removeprefix(ORG)
        is_token = path == "/oauth2/v1/token"
        at = loop.time()
        self.sent.append((at, is_token, request, None))
        place = len(self.sent) - 1
        instead = self.script(is_token, request) if self.script else None
        response = instead
        if instead is None:
            headers = {**request.headers, "Host": "acme.okta.com"}
            wall = START.timestamp() + loop.time()
            emulated = EmulatedRequest(request.method, path, CIMultiDict(headers), request.body)
            answer = self.org.answer(emulated, loop.time(), wall)
            response = Response(answer.status, CIMultiDict(answer.headers), answer.body)
        self.sent[place] = (at, is_token, request, None if isinstance(response, Exception) else response)
        await asyncio.sleep(self.token_latency if is_token else self.latency)
        if isinstance(response, Exception):
            raise response
        return response


class Wall:
    """The client's wall clock: the virtual one, and what somebody has put it off by."""

    off = timedelta()

    @classmethod
    def now(cls, _zone) -> datetime:
        return START + timedelta(seconds=asyncio.get_running_loop().time()) + cls.off


@pytest.fixture(autouse=True)
def wall(monkeypatch):
    monkeypatch.setattr(renewal, "datetime", Wall)
    monkeypatch.setattr(Wall, "off", timedelta())
    return Wall


@pytest.fixture(autouse=True)
def _no_secret_is_logged(caplog):
    caplog.set_level(logging.DEBUG)
    yield
    assert "eyJ" not in caplog.text
    assert ec_key().as_dict(private=True)["d"] not in caplog.text


@asynccontextmanager
async def sending(acme: Acme, app=None, **options):
    options = {"limit": WIDE} | options
    async with (
        asyncio.timeout(50_000),
        rb.Client(f"{ORG}/", app or service_app(), transport=acme.transport, **options) as client,
    ):
        yield client
    check(acme)


def check(acme: Acme) -> None:
    """What holds after every run: no id was ever used twice, and never more than 30 requests in a minute."""
    assert len(acme.oauth.spent) == len(set(acme.oauth.spent))
    assert acme.org.most_in_any_window(60.0) <= 30


def signal(number=1, level="HIGH", **more) -> rb.RiskSignal:
    return rb.RiskSignal(f"203.0.{number // 250}.{number % 250 + 1}", level, **more)


async def accepted(receipts) -> bool:
    return {type(await receipt) for receipt in receipts} == {rb.Accepted}


def answer(status, body=b"", **headers) -> Response:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, CIMultiDict(headers), body if isinstance(body, bytes) else json.dumps(body).encode())


def oauth_answer(status, error, description="", **headers) -> Response:
    return answer(status, {"error": error, "error_description": description}, **headers)


def challenge(status, error, description="", scheme="DPoP", **headers) -> Response:
    text = f'{scheme} realm="http://acme.okta.com", error="{error}", error_description="{description}"'
    return answer(status, WWW_Authenticate=text, **headers)


# ------------------------------------------------------------------------------------------------ the whole way


@pytest.mark.parametrize("dpop", [True, False])
@pytest.mark.parametrize("asked", [None, True, False])
async def test_it_sends_whatever_the_org_wants(dpop, asked):
    """With dpop=None a client learns what the org wants; True and False are kept to, and say so where they cannot."""
    acme = Acme(dpop=dpop)
    async with sending(acme, service_app(dpop=asked)) as client:
        receipt = await client.enqueue(signal())
        if dpop and asked is False:
            await asyncio.sleep(1)
            statistics = client.statistics()
            assert statistics.paused
            assert "dpop=False" in statistics.trouble
            assert "invalid_dpop_proof" in statistics.trouble
            acme.app.dpop = False
        assert isinstance(await receipt, rb.Accepted)
        scheme = "DPoP" if acme.app.dpop or asked else "Bearer"
        assert acme.org.requests[-1].request.headers["Authorization"].startswith(f"{scheme} eyJ")
        assert client.statistics().trouble is None


async def test_the_assertion_is_what_okta_documents():
    """iss and sub the client id, aud the exact token URL, a life of five minutes, iat in the past, kid of the key."""
    acme = Acme()
    async with sending(acme, service_app(scopes=["okta.riskEvents.manage"])) as client:
        await (await client.enqueue(signal()))
    for seen in acme.oauth.requests:
        assert seen.claims["iss"] == seen.claims["sub"] == "0oa1"
        assert seen.claims["aud"] == TOKEN_URL
        assert seen.claims["exp"] - seen.claims["iat"] == 300
        assert -10 <= seen.claims["iat"] - (START.timestamp() + seen.arrived_at) <= -4
        assert seen.header == {"alg": "ES256", "typ": "JWT", "kid": "first"}


@pytest.mark.parametrize("curve", ["P-256", "P-384", "P-521", "RS256", "RS384", "RS512"])
async def test_every_algorithm_signs(curve):
    """RS256, RS384, RS512 by the JWK's alg, ES256, ES384, ES512 by the curve."""
    if curve.startswith("RS"):
        key = RSAKey.import_key(pem(rsa_key()), {"alg": curve})
        algorithm = curve
    else:
        key = ECKey.generate_key(curve)
        algorithm = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}[curve]
    acme = Acme()
    acme.app.keys[:] = [key.as_dict(private=False)]
    app = rb.ServiceApp("0oa1", key.as_dict(private=True))
    async with sending(acme, app) as client:
        assert isinstance(await (await client.enqueue(signal())), rb.Accepted)
    assert acme.oauth.requests[-1].header["alg"] == algorithm


async def test_the_proof_key_is_not_the_clients_key():
    """The key in a proof is generated here, another for every client, and its jwk shows only the public half."""
    seen = []
    for _ in range(2):
        acme = Acme()
        async with sending(acme) as client:
            await (await client.enqueue(signal()))
        header = acme.org.requests[0].request.headers["DPoP"].split(".")[0]
        seen.append(json.loads(urlsafe_b64decode(header + "==")))
    assert {head["typ"] for head in seen} == {"dpop+jwt"}
    assert all(set(head["jwk"]) == {"kty", "crv", "x", "y"} for head in seen)
    assert len({head["jwk"]["x"] for head in seen} | {ec_key().as_dict()["x"]}) == 3


# ------------------------------------------------------------------------------------------------ tokens in time


@pytest.mark.parametrize("dpop", [True, False])
async def test_tokens_are_renewed_before_they_end_and_nobody_notices(dpop):
    """Over three hours no request is refused, and there are as few tokens as hours ask for."""
    acme = Acme(dpop=dpop)
    acme.token_latency = 20.0
    async with sending(acme) as client:
        for number in range(180):
            receipt = await client.enqueue(signal(number))
            asked_at = asyncio.get_running_loop().time()
            assert isinstance(await receipt, rb.Accepted)
            assert number == 0 or asyncio.get_running_loop().time() - asked_at < 3
            await asyncio.sleep(60)
    assert set(acme.statuses()) == {202}
    assert len([seen for seen in acme.oauth.requests if seen.status == 200]) == 4


async def test_an_idle_client_keeps_its_token_fresh():
    """The first signal after two idle hours goes at once."""
    acme = Acme()
    async with sending(acme) as client:
        await asyncio.sleep(7200)
        acme.token_latency = 1000.0
        before = asyncio.get_running_loop().time()
        await (await client.enqueue(signal()))
        assert asyncio.get_running_loop().time() - before < 1
    assert acme.statuses() == [202]


async def test_a_token_request_takes_no_permit():
    """Requests for tokens are not among the requests a minute, nor in the count of requests."""
    acme = Acme()
    async with sending(acme, limit=rb.RateLimit(1, 60.0)) as client:
        await (await client.enqueue(signal()))
        assert client.statistics().requests == 1
        assert len(acme.oauth.requests) == 3
        assert asyncio.get_running_loop().time() < 1


async def test_a_high_that_arrives_during_a_token_request_rides_first():
    """The token is there before the batch is taken: HIGH overtakes LOW that waited for the token."""
    acme = Acme()
    acme.token_latency = 10.0
    async with sending(acme) as client:
        await client.enqueue_many([signal(n, "LOW") for n in range(40)])
        await asyncio.sleep(20)
        assert acme.org.requests == []
        await client.enqueue(signal(99, "HIGH"))
        await client.flush()
    assert acme.org.signals[0].risk_level == "HIGH"


async def test_one_conversation_for_all_who_wait():
    """A hundred waiting signals and an hour's wait cause one token conversation, not one each."""
    acme = Acme(dpop=False)
    acme.token_latency = 30.0
    async with sending(acme) as client:
        await client.enqueue_many([signal(n) for n in range(100)])
        await client.flush()
    assert len(acme.oauth.requests) == 1


async def test_a_refused_token_is_replaced_once_and_nothing_is_lost():
    """A 401 in the middle of requests in flight: one new token, every signal accepted, and no trouble is reported."""
    acme = Acme(latency=30.0)
    acme.token_latency = 0.1
    async with sending(acme) as client:
        first = await client.enqueue_many([signal(n) for n in range(100)])
        await asyncio.sleep(45)
        acme.oauth.revoke_tokens()
        second = await client.enqueue_many([signal(100 + n) for n in range(100)])
        await asyncio.sleep(60)
        assert client.statistics().trouble is None
        outcomes = [await receipt for receipt in first + second]
    assert all(isinstance(outcome, rb.Accepted) for outcome in outcomes)
    assert len([seen for seen in acme.oauth.requests if seen.status == 200]) == 2
    assert acme.statuses().count(401) > 1
    assert len({received.ip for received in acme.org.signals}) == len(acme.org.signals) == 200


async def test_a_token_that_ends_early_is_replaced():
    """Tokens that in truth live a minute cost one refused request each, and no signal."""
    acme = Acme()
    acme.oauth.true_lifetime = 60.0
    async with sending(acme) as client:
        for number in range(30):
            assert isinstance(await (await client.enqueue(signal(number))), rb.Accepted)
            await asyncio.sleep(25)
    assert 0 < acme.statuses().count(401) <= 15
    assert acme.statuses().count(202) == 30


@pytest.mark.parametrize("life", [0.5, 2.0, 30.0])
async def test_short_lived_tokens_work(life):
    """A token of seconds is renewed as often as it takes, without a hot loop."""
    acme = Acme(dpop=False, latency=0.01)
    acme.oauth.token_lifetime = life
    if life < 1:  # the emulated org tells whole seconds
        body = {"token_type": "Bearer", "expires_in": life, "access_token": "opaque", "scope": "x"}
        acme.script = lambda is_token, _: answer(200, body) if is_token else answer(202)
    async with sending(acme) as client:
        for number in range(10):
            assert isinstance(await (await client.enqueue(signal(number))), rb.Accepted)
            await asyncio.sleep(6)
    assert len(acme.token_times()) < 60 / (life * 0.7) + 3


async def test_a_token_that_had_ended_before_it_came_is_trouble():
    """When answers take longer than tokens live, tries come with growing delay."""
    acme = Acme(dpop=False)
    acme.oauth.token_lifetime, acme.token_latency = 1.0, 2.0
    async with sending(acme, close_timeout=1.0) as client:
        await client.enqueue(signal())
        await asyncio.sleep(600)
        assert "ended before it came" in client.statistics().trouble
    assert len(acme.token_times()) < 30


@pytest.mark.parametrize("jump", [timedelta(days=1), timedelta(days=-1), timedelta(minutes=7), timedelta(minutes=-7)])
async def test_a_jump_of_the_wall_clock_stops_nothing(jump, wall):
    """A wall clock that jumps expires no token, and what Okta then refuses is stamped by Okta's own clock."""
    acme = Acme()
    async with sending(acme) as client:
        await (await client.enqueue(signal()))
        tokens = len(acme.oauth.requests)
        wall.off = jump
        await asyncio.sleep(100)
        assert len(acme.oauth.requests) == tokens
        assert isinstance(await (await client.enqueue(signal())), rb.Accepted)
        await asyncio.sleep(4000)
        assert isinstance(await (await client.enqueue(signal())), rb.Accepted)
        wall.off = timedelta()
        assert isinstance(await (await client.enqueue(signal())), rb.Accepted)
        await asyncio.sleep(4000)
        assert isinstance(await (await client.enqueue(signal())), rb.Accepted)
        assert client.statistics().trouble is None
    assert acme.statuses().count(400) <= 2


async def test_a_wrong_date_header_is_only_tried(wall):
    """A server whose Date is nonsense is tried by that clock once, after a refusal, and then by ours again."""
    acme = Acme()
    acme.app.keys[:] = []
    acme.org.clock_skew = 0.0

    def nonsense(is_token, request):
        if is_token and not acme.app.keys:
            return oauth_answer(401, "invalid_client", "bad key", Date="Thu, 01 Jan 2015 00:00:00 GMT")
        return None

    acme.script = nonsense
    async with sending(acme) as client:
        receipt = await client.enqueue(signal())
        await asyncio.sleep(5)
        assert len(acme.token_times()) >= 4
        issued = [form_claims(request)["iat"] - START.timestamp() for _, is_token, request, _ in acme.sent if is_token]
        assert all(-10 < at < 10 for at in issued[::2])  # ours first, in every conversation
        assert all(at < -(10**8) for at in issued[1::2])
        acme.app.keys[:] = [ec_key().as_dict(private=False)]
        assert isinstance(await receipt, rb.Accepted)


# ------------------------------------------------------------------------------------------------ nonces


async def test_nonces_of_the_resource_rotate_and_cost_no_signal():
    """The API's nonce may rotate with every other request: every signal is accepted and there is never trouble."""
    acme = Acme()
    acme.oauth.resource_nonces, acme.oauth.resource_nonce_life = True, 2
    async with sending(acme) as client:
        for number in range(20):
            assert isinstance(await (await client.enqueue(signal(number))), rb.Accepted)
            assert client.statistics().trouble is None
            await asyncio.sleep(10)
    assert acme.statuses().count(202) == 20


async def test_announced_nonces_need_no_challenge():
    """A nonce is adopted from any answer, so a server that announces the next one never has to ask."""
    acme = Acme()
    acme.oauth.resource_nonces, acme.oauth.resource_nonce_life, acme.oauth.announce_nonces = True, 1, True
    async with sending(acme) as client:
        for number in range(10):
            await (await client.enqueue(signal(number)))
    assert acme.statuses() == [400] + [202] * 10


async def test_the_nonce_may_rotate_again_on_the_retry():
    """Three challenges in a row are answered as fast as permits allow, and are no trouble."""
    acme = Acme()
    acme.oauth.resource_nonces = True
    async with sending(acme) as client:
        await (await client.enqueue(signal()))
        acme.oauth.challenges = 3
        receipt = await client.enqueue(signal(2))
        await asyncio.sleep(3)
        assert client.statistics().trouble is None
        await receipt
        assert asyncio.get_running_loop().time() < 15
    assert acme.statuses() == [400, 202, 400, 400, 400, 202]


async def test_endless_challenges_are_trouble_with_growing_delay():
    """A server that never takes a nonce gets a few requests and then ever rarer ones; when it relents all is sent."""
    acme = Acme()
    acme.oauth.resource_nonces, acme.oauth.challenges = True, 10**6
    async with sending(acme) as client:
        receipts = await client.enqueue_many([signal(n) for n in range(50)])
        await asyncio.sleep(600)
        statistics = client.statistics()
        assert "use_dpop_nonce" in statistics.trouble
        assert statistics.in_flight + statistics.waiting == 50
        assert len(acme.org.requests) < 60
        acme.oauth.challenges = 0
        await client.flush()
        assert await accepted(receipts)
        assert client.statistics().trouble is None


@pytest.mark.parametrize("status", [400, 401])
@pytest.mark.parametrize("place", ["header", "body", "both"])
async def test_a_challenge_is_understood_wherever_it_stands(status, place):
    """400 or 401, in WWW-Authenticate, in a JSON body, or in both, with an empty body as Okta sends it."""
    acme = Acme()
    asked = []

    def script(is_token, request):
        if is_token or asked:
            return None
        asked.append(request)
        body = {"error": "use_dpop_nonce"} if place != "header" else b""
        headers = {"WWW_Authenticate": 'DPoP error="use_dpop_nonce"'} if place != "body" else {}
        return answer(status, body, DPoP_Nonce="from-the-api", **headers)

    acme.script = script
    async with sending(acme) as client:
        assert isinstance(await (await client.enqueue(signal())), rb.Accepted)
    [*_, (_, _, request, _)] = acme.sent
    assert claims(request.headers["DPoP"])["nonce"] == "from-the-api"
    assert len(acme.oauth.requests) == 3


def form_claims(request: Request) -> dict:
    return claims(dict(parse_qsl(request.body.decode()))["client_assertion"])


def claims(jwt: str) -> dict:
    return json.loads(urlsafe_b64decode(jwt.split(".")[1] + "=="))


async def test_nonces_of_the_two_servers_are_kept_apart():
    """No proof for the API carries the token endpoint's nonce, nor the other way round."""
    acme = Acme()
    acme.oauth.resource_nonces = True
    async with sending(acme) as client:
        await (await client.enqueue(signal()))
        acme.oauth.revoke_tokens()
        await (await client.enqueue(signal(2)))
    seen = {True: set(), False: set()}
    for _, is_token, request, _ in acme.sent:
        if "DPoP" in request.headers:
            seen[is_token].add(claims(request.headers["DPoP"]).get("nonce"))
    assert not (seen[True] & seen[False]) - {None}
    assert all(len(nonces - {None}) == 1 for nonces in seen.values())


async def test_a_known_nonce_saves_the_round_trip():
    """The second token takes one request: proof and nonce are known by then."""
    acme = Acme()
    async with sending(acme) as client:
        await (await client.enqueue(signal()))
        assert [seen.status for seen in acme.oauth.requests] == [400, 400, 200]
        acme.oauth.revoke_tokens()
        await (await client.enqueue(signal(2)))
        assert [seen.status for seen in acme.oauth.requests] == [400, 400, 200, 200]
        acme.oauth.rotate_token_nonce()
        acme.oauth.revoke_tokens()
        await (await client.enqueue(signal(3)))
        assert [seen.error for seen in acme.oauth.requests][4:] == ["use_dpop_nonce", None]


async def test_the_token_endpoint_may_rotate_its_nonce_on_the_retry():
    """Three challenges in a row by the token endpoint end in a token; endless ones in trouble with growing delay."""
    acme = Acme()
    left = [3]

    def script(is_token, _):
        if is_token and left[0] > 0:
            left[0] -= 1
            return oauth_answer(400, "use_dpop_nonce", "again", DPoP_Nonce=f"nonce-{left[0]}")
        return None

    acme.script = script
    async with sending(acme, service_app(dpop=True)) as client:
        left[0] = 2  # the emulator's own challenge is the third
        await (await client.enqueue(signal()))
        assert asyncio.get_running_loop().time() < 1
        left[0] = 10**6
        acme.oauth.revoke_tokens()
        receipt = await client.enqueue(signal(2))
        asked = len(acme.token_times())
        await asyncio.sleep(600)
        assert len(acme.token_times()) - asked < 100
        assert "use_dpop_nonce" in client.statistics().trouble
        assert not client.statistics().paused
        left[0] = 0
        assert isinstance(await receipt, rb.Accepted)


async def test_a_nonce_that_is_called_a_bad_proof_is_given_up():
    """A token endpoint that calls a stale nonce invalid_dpop_proof is asked for a new one."""
    acme = Acme()
    refuse = []

    def script(is_token, request):
        if is_token and "nonce" in claims(request.headers.get("DPoP", ".e30=")) and refuse:
            return refuse.pop()
        return None

    acme.script = script
    async with sending(acme) as client:
        await (await client.enqueue(signal()))
        refuse.append(oauth_answer(400, "invalid_dpop_proof", "The nonce is not valid."))
        acme.oauth.revoke_tokens()
        receipt = await client.enqueue(signal(2))
        asked_at = asyncio.get_running_loop().time()
        while not receipt.done():
            await asyncio.sleep(0.05)
            assert client.statistics().trouble is None
        assert asyncio.get_running_loop().time() - asked_at < 5


async def test_a_proof_is_minted_anew_after_a_429():
    """The proof of a request that met 429 is spent; the batch goes out again with another, and is accepted."""
    acme = Acme(limit=3, window="sliding")
    acme.oauth.resource_nonces = True
    async with sending(acme) as client:
        receipts = await client.enqueue_many([signal(n) for n in range(100)])
        assert await accepted(receipts)
    assert 429 in acme.statuses()
    assert set(acme.statuses()) <= {202, 400, 429}
    assert acme.statuses().count(400) <= 5  # what left at once before the first challenge came


# ------------------------------------------------------------------------------------------------ failures


DENIALS = {
    "revoked key": (lambda acme: acme.app.keys.clear(), "invalid_client", "signature"),
    "scope not granted": (lambda acme: acme.app.scopes.clear(), "consent_required", "not allowed any"),
    "zone": (lambda acme: setattr(acme.app, "in_zone", False), "access_denied", "network zone"),
}


@pytest.mark.parametrize("name", DENIALS)
async def test_what_a_person_must_mend_pauses_and_resumes_by_itself(name, caplog):
    """Paused in the server's own words, probed ever more rarely, and sending again within a minute once mended."""
    spoil, error, words = DENIALS[name]
    acme = Acme()
    keys_, scopes = list(acme.app.keys), set(acme.app.scopes)
    spoil(acme)
    async with sending(acme) as client:
        receipts = await client.enqueue_many([signal(n) for n in range(30)])
        await asyncio.sleep(3600)
        statistics = client.statistics()
        assert statistics.paused
        assert error in statistics.trouble
        assert words in statistics.trouble
        assert statistics.waiting == 30
        assert 0 < statistics.resumes_after <= 60
        assert error in caplog.text
        assert len(acme.token_times()) < 400
        gaps = [b - a for a, b in zip(acme.token_times(), acme.token_times()[1:], strict=False)]
        assert max(gaps) > 30
        assert acme.org.requests == []
        acme.app.keys[:], acme.app.in_zone = keys_, True
        acme.app.scopes |= scopes
        await asyncio.sleep(62)
        assert all(isinstance(receipt.outcome, rb.Accepted) for receipt in receipts)
        assert client.statistics().trouble is None
    assert len([record for record in caplog.records if error in record.getMessage()]) <= 4


async def test_a_key_revoked_while_the_token_lives_is_told_before_it_stops_anything():
    """Renewal fails in the background: the trouble is told, sending goes on, and stops only with the token."""
    acme = Acme()
    async with sending(acme) as client:
        await (await client.enqueue(signal()))
        kept, acme.app.keys[:] = list(acme.app.keys), []
        await asyncio.sleep(3400)
        statistics = client.statistics()
        assert "invalid_client" in statistics.trouble
        assert not statistics.paused
        assert isinstance(await (await client.enqueue(signal(2))), rb.Accepted)
        await asyncio.sleep(300)
        receipt = await client.enqueue(signal(3))
        await asyncio.sleep(100)
        assert client.statistics().paused
        assert receipt.outcome is None
        acme.app.keys[:] = kept
        assert isinstance(await receipt, rb.Accepted)
    assert set(acme.statuses()) == {202}


PASSING = {
    "no answer": lambda: Unanswered("ConnectionResetError", may_have_arrived=True),
    "500": lambda: oauth_answer(500, "server_error"),
    "503": lambda: answer(503, b"<html>"),
    "400 temporarily_unavailable": lambda: oauth_answer(400, "temporarily_unavailable", "later"),
    "200 of somebody else": lambda: answer(200, b"<html>sign in to the wifi</html>"),
    "400 of somebody else": lambda: answer(400, b"<html>"),
    "a defect": lambda: RuntimeError("a defect of the transport"),
}


@pytest.mark.parametrize("name", PASSING)
async def test_a_token_endpoint_that_is_down_for_ten_minutes(name):
    """It is no person's fault, tries become rarer, and everything is sent within a minute of its return."""
    acme = Acme()
    loop = asyncio.get_running_loop()
    acme.script = lambda is_token, _: PASSING[name]() if is_token and loop.time() < 600 else None
    async with sending(acme) as client:
        receipts = await client.enqueue_many([signal(n) for n in range(60)])
        await asyncio.sleep(599)
        statistics = client.statistics()
        assert statistics.trouble.startswith("no access token")
        assert not statistics.paused
        assert statistics.waiting == 60
        assert len(acme.token_times()) < 40
        await asyncio.sleep(70)
        assert all(isinstance(receipt.outcome, rb.Accepted) for receipt in receipts)


async def test_a_rate_limited_token_endpoint_is_left_alone_until_its_reset():
    """429 in Okta's shape: the next try comes a second after the reset, by the server's own clock, and not before."""
    acme = Acme(dpop=False, clock_skew=1234.0)
    acme.oauth.token_limit = 1
    acme.oauth.token_lifetime = 50.0
    acme.app.dpop = True  # a conversation takes three requests, so the second is limited
    async with sending(acme) as client:
        receipt = await client.enqueue(signal())
        await asyncio.sleep(30)
        statistics = client.statistics()
        assert "rate limit" in statistics.trouble
        assert not statistics.paused
        assert isinstance(await receipt, rb.Accepted)
    statuses = [seen.status for seen in acme.oauth.requests]
    limited = [place for place, status in enumerate(statuses) if status == 429]
    assert limited
    for place in limited:
        assert statuses[place + 1] != 429
        counted, again = (acme.oauth.requests[place + n].arrived_at for n in (-1, 1))
        assert 60 <= again - counted < 62


async def test_an_absurd_reset_of_the_token_endpoint_is_capped():
    """A reset in a day is not believed for longer than two minutes."""
    acme = Acme(dpop=False)
    first = []

    def script(is_token, _):
        if is_token and not first:
            first.append(1)
            date, reset = "Fri, 21 Aug 2026 12:00:00 GMT", str(int(START.timestamp()) + 86_400)
            rate = {"X_Rate_Limit_Limit": "5", "X_Rate_Limit_Remaining": "0", "X_Rate_Limit_Reset": reset}
            return answer(429, {"errorCode": "E0000047", "errorSummary": "too many"}, Date=date, **rate)
        return None

    acme.script = script
    async with sending(acme) as client:
        await (await client.enqueue(signal()))
        assert asyncio.get_running_loop().time() < 125


async def test_a_scope_that_is_missing_is_told_and_once_granted_is_in_a_new_token(caplog):
    """A token with fewer scopes is told plainly; the API's refusal pauses; a grant reaches us by a new token."""
    acme = Acme()
    acme.app.scopes = {"okta.users.read"}
    app = service_app(scopes=["okta.riskEvents.manage", "okta.users.read"])
    async with sending(acme, app) as client:
        receipt = await client.enqueue(signal())
        await asyncio.sleep(300)
        assert "was not granted okta.riskEvents.manage" in caplog.text
        statistics = client.statistics()
        assert statistics.paused
        assert "insufficient_scope" in statistics.trouble
        assert "okta.riskEvents.manage" in statistics.trouble
        assert len(acme.org.requests) < 30
        acme.app.scopes.add("okta.riskEvents.manage")
        assert isinstance(await receipt, rb.Accepted)
    assert caplog.text.count("was not granted") == 1


@pytest.mark.parametrize("what", ["role", "provider"])
async def test_a_missing_role_or_provider_pauses_and_resumes(what):
    """403 E0000006 is somebody's to mend, and no reason for new tokens."""
    acme = Acme(provider_registered=None if what == "provider" else True)
    acme.app.has_role = what != "role"
    async with sending(acme) as client:
        receipt = await client.enqueue(signal())
        await asyncio.sleep(300)
        assert client.statistics().paused
        assert "permission" in client.statistics().trouble
        acme.app.has_role = True
        next(iter(acme.org.providers.values()))["clientId"] = "0oa1"
        assert isinstance(await receipt, rb.Accepted)
    assert len(acme.oauth.requests) == 3


async def test_a_feature_that_is_off_is_not_blamed_on_the_token():
    """401 E0000015 pauses like any denial, and fetches no new token."""
    acme = Acme(feature_enabled=False)
    async with sending(acme) as client:
        receipt = await client.enqueue(signal())
        await asyncio.sleep(300)
        assert client.statistics().paused
        acme.org.feature_enabled = True
        assert isinstance(await receipt, rb.Accepted)
    assert len(acme.oauth.requests) == 3


async def test_tokens_that_are_never_taken_are_trouble_with_growing_delay():
    """A server that refuses every token gets a few and then ever rarer ones, and nothing is lost."""
    acme = Acme()
    refusing = [True]
    refused = challenge(401, "invalid_token", "The access token was issued by somebody else.")
    acme.script = lambda is_token, _: refused if refusing[0] and not is_token else None
    async with sending(acme) as client:
        receipts = await client.enqueue_many([signal(n) for n in range(100)])
        await asyncio.sleep(600)
        assert client.statistics().paused
        assert "issued by somebody else" in client.statistics().trouble
        assert len(acme.sent) < 120
        refusing[0] = False
        assert await accepted(receipts)


async def test_an_app_that_turns_to_dpop_is_followed():
    """When the API wants a proof for tokens that had none, the next token is bound to a key."""
    acme = Acme(dpop=False)
    async with sending(acme) as client:
        await (await client.enqueue(signal()))
        wanting = challenge(400, "invalid_request", "The resource request requires a DPoP proof.", "Bearer")
        acme.app.dpop = True
        acme.script = lambda is_token, request: (
            wanting if not is_token and request.headers["Authorization"].startswith("Bearer") else None
        )
        assert isinstance(await (await client.enqueue(signal(2))), rb.Accepted)
    assert acme.org.requests[-1].request.headers["Authorization"].startswith("DPoP ")


async def test_a_bearer_token_is_refused_where_dpop_is_insisted_on():
    """dpop=True never sends a token that is not bound to its key."""
    acme = Acme()
    body = {"token_type": "Bearer", "expires_in": 3600, "access_token": "opaque", "scope": "okta.riskEvents.manage"}
    acme.script = lambda is_token, _: answer(200, body) if is_token else None
    async with sending(acme, service_app(dpop=True), close_timeout=0.0) as client:
        await client.enqueue(signal())
        await asyncio.sleep(60)
        assert client.statistics().paused
        assert "dpop=True" in client.statistics().trouble
    assert acme.org.requests == []


# ------------------------------------------------------------------------------------------------ the end


async def test_signals_expire_while_there_is_no_token():
    """Waiting for a token stops no other clock."""
    acme = Acme()
    acme.app.keys.clear()
    async with sending(acme, close_timeout=0.0) as client:
        soon = datetime.now(UTC) + timedelta(seconds=50)
        receipt = await client.enqueue(signal(expires_at=soon))
        await asyncio.sleep(51)
        assert isinstance(receipt.outcome, rb.Expired)


async def test_closing_waits_for_the_token_conversation():
    """Signals admitted before a close are sent though the token comes only then."""
    acme = Acme()
    acme.token_latency = 5.0
    async with sending(acme) as client:
        receipts = await client.enqueue_many([signal(n) for n in range(30)])
    assert all(isinstance(receipt.outcome, rb.Accepted) for receipt in receipts)


async def test_closing_does_not_wait_beyond_its_deadline():
    """A token that does not come in time costs no more than the close timeout; the signals surely have not arrived."""
    acme = Acme()
    acme.token_latency = 1000.0
    loop = asyncio.get_running_loop()
    async with sending(acme, close_timeout=7.0) as client:
        receipt = await client.enqueue(signal())
        await asyncio.sleep(3)
    assert loop.time() == pytest.approx(10, abs=0.1)
    assert isinstance(receipt.outcome, rb.Abandoned)
    assert not receipt.outcome.may_have_arrived
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_closing_with_nothing_to_send_is_immediate():
    """A token request under way is given up when nothing waits for it."""
    acme = Acme()
    acme.token_latency = 1000.0
    loop = asyncio.get_running_loop()
    async with sending(acme):
        await asyncio.sleep(3)
    assert loop.time() == pytest.approx(3, abs=0.1)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_closing_tries_for_a_token_once_more():
    """Closing does not wait out a delay between tries: what waits has one more chance."""
    acme = Acme()
    acme.app.keys.clear()
    async with sending(acme) as client:
        receipt = await client.enqueue(signal())
        await asyncio.sleep(3600)
        acme.app.keys.append(ec_key().as_dict(private=False))
        before = asyncio.get_running_loop().time()
    assert isinstance(receipt.outcome, rb.Accepted)
    assert asyncio.get_running_loop().time() - before < 5


async def test_closing_is_early_when_no_try_fits():
    """A token endpoint that said to wait longer than the close may take is not waited for."""
    acme = Acme(dpop=False)
    acme.oauth.token_limit = 1
    acme.oauth._calls.append(0.0)
    async with sending(acme, close_timeout=20.0) as client:
        receipt = await client.enqueue(signal())
        await asyncio.sleep(1)
        assert len(acme.token_times()) == 1
    assert len(acme.token_times()) == 1
    assert asyncio.get_running_loop().time() < 2
    assert isinstance(receipt.outcome, rb.Abandoned)


@pytest.mark.parametrize("after", [0.0, 0.05, 0.1, 0.15, 0.25, 0.35, 0.45])
async def test_a_cancelled_close_leaves_nothing_behind(after):
    """Wherever in the conversation it is cancelled: every receipt settled, no task left."""
    acme = Acme()
    client = rb.Client(ORG, service_app(), transport=acme.transport)
    await client.__aenter__()
    receipt = await client.enqueue(signal())
    closing = asyncio.create_task(client.aclose())
    await asyncio.sleep(after)
    closing.cancel()
    await asyncio.wait({closing})
    assert receipt.done()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    check(acme)


# ------------------------------------------------------------------------------------------------ secrets


async def test_what_a_server_echoes_is_shown_nowhere(caplog):
    """Assertion, proof, token and key are masked in log, statistics, repr and outcomes, whole and in pieces."""
    acme = Acme()
    secret = ec_key().as_dict(private=True)["d"]
    echoed = []

    def script(is_token, request):
        parts = [
            secret,
            request.headers.get("DPoP", ""),
            request.headers.get("Authorization", ""),
            request.body.decode(),
        ]
        echoed.extend(part for text in parts for part in text.replace("=", " ").replace("&", " ").split() if part)
        loop = asyncio.get_running_loop()
        if is_token and loop.time() < 100:
            echo = parts[int(loop.time()) % 4] or secret
            return oauth_answer(401, "invalid_client", f"bad: {echo[40:]} / {echo}")
        if not is_token and loop.time() < 300:
            echo = [parts[2], parts[1], parts[2].partition(".")[2]][int(loop.time()) % 3]
            return challenge(403, "access_denied", f"bad: {echo[50:]} {echo[3:]}")
        if not is_token and loop.time() < 400:
            return answer(400, {"errorCode": "E0000001", "errorSummary": f"no: {parts[2]}"})
        return None

    acme.script = script
    shown = []
    async with sending(acme) as client:
        receipt = await client.enqueue(signal())
        for _ in range(40):
            await asyncio.sleep(10)
            shown += [repr(client), repr(client.statistics()), repr(receipt), repr(client._auth)]
            shown += [repr(client._life.sender._credentials), str(client.statistics())]
        shown.append(repr(await receipt))
    shown.append(caplog.text)
    text = "\n".join(shown)
    assert "[redacted]" in text
    for part in echoed:
        for start in range(0, len(part) - 20, 7):
            assert part[start : start + 20] not in text or part[start : start + 12] in OPEN


OPEN = (
    "client_assertion_type client_assertion grant_type client_credentials okta.riskEvents.manage "
    "urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer"
)


@given(st.text(max_size=80), st.text(max_size=80), st.integers(0, 60), st.integers(12, 90))
def test_no_piece_of_a_secret_is_shown(before, after, start, size):
    """Whatever surrounds it, no twelve characters of a secret are left."""
    secret = "".join(random.Random(7).choices("abcdefghijklmnopqrstuvwxyz0123456789+/-_", k=120))
    piece = secret[start : start + size]
    masked = auth.redact(f"{before}{piece}{after}", [secret])
    assert all(secret[i : i + 12] not in masked for i in range(len(secret) - 11))


@given(st.text())
def test_what_is_no_secret_is_left_alone(text):
    """Text without secrets and JWTs is returned as it is."""
    assert auth.redact(text.replace("eyJ", ""), ["a-secret-of-somebody"]) == text.replace("eyJ", "")


def test_whatever_looks_like_a_jwt_is_masked():
    """Also one that is not known to be a secret, and one that is cut short."""
    assert auth.redact("see eyJhbGciOi.eyJzdWIi.c2ln-_x, (eyJhbGci)", []) == "see [redacted], ([redacted])"


def test_reprs_and_errors_of_an_api_token_do_not_show_it():
    """An ApiToken is shown nowhere, and its header has one space."""
    token = rb.ApiToken("00-secret-token")
    signed = token.sign(Request("POST", ORG, {}, b""), Now(0.0, START))
    assert signed.headers["Authorization"] == "SSWS 00-secret-token"
    assert "secret" not in repr(token) + repr(signed) + str(token)
    assert "secret" not in token.redact("bad token 00-secret-token!")
    for bad in ("00 secret token", "", "{secret}", "secrét", "secret\n", None, 7):
        with pytest.raises(rb.AuthError) as caught:
            rb.ApiToken(bad)
        frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)][1:]
        assert "secret" not in str(caught.value)
        assert not any("token" in frame.f_locals for frame in frames)


# ------------------------------------------------------------------------------------------------ a property


MISCHIEF = {
    "revoke": lambda acme: acme.oauth.revoke_tokens(),
    "token nonce": lambda acme: acme.oauth.rotate_token_nonce(),
    "nonce": lambda acme: acme.oauth.rotate_resource_nonce(),
    "nonces on": lambda acme: setattr(acme.oauth, "resource_nonces", True),
    "nonces off": lambda acme: setattr(acme.oauth, "resource_nonces", False),
    "challenges": lambda acme: setattr(acme.oauth, "challenges", 5),
    "short": lambda acme: setattr(acme.oauth, "true_lifetime", 20.0),
    "long": lambda acme: setattr(acme.oauth, "true_lifetime", None),
    "spend": lambda acme: acme.org.spend(30, asyncio.get_running_loop().time(), START.timestamp()),
    "no key": lambda acme: acme.app.keys.clear(),
    "key": lambda acme: acme.app.keys.__setitem__(slice(None), [ec_key().as_dict(private=False)]),
    "no scope": lambda acme: acme.app.scopes.clear(),
    "scope": lambda acme: acme.app.scopes.add("okta.riskEvents.manage"),
    "limit": lambda acme: setattr(acme.oauth, "token_limit", 2),
    "no limit": lambda acme: setattr(acme.oauth, "token_limit", None),
    "slow": lambda acme: setattr(acme, "latency", 7.0),
    "fast": lambda acme: setattr(acme, "latency", 0.1),
    "slow token": lambda acme: setattr(acme, "token_latency", 9.0),
    "fast token": lambda acme: setattr(acme, "token_latency", 0.1),
    "clock": lambda acme: setattr(Wall, "off", timedelta(seconds=-400)),
    "clock ahead": lambda acme: setattr(Wall, "off", timedelta(seconds=400)),
    "clock right": lambda acme: setattr(Wall, "off", timedelta()),
}


@given(
    st.booleans(),
    st.lists(st.tuples(st.sampled_from(sorted(MISCHIEF)), st.floats(0.0, 90.0), st.integers(0, 30)), max_size=12),
)
@settings(max_examples=60, deadline=None)
def test_no_id_is_reused_and_no_signal_lost_whatever_the_org_does(dpop, story):
    """Over any run: no jti twice, at most 30 requests a minute, the books agree, and in the end all is accepted."""

    async def run() -> None:
        acme = Acme(dpop=dpop, limit=30, window="sliding")
        receipts = []
        async with sending(acme) as client:
            for name, pause, count in story:
                MISCHIEF[name](acme)
                receipts += await client.enqueue_many([signal(n) for n in range(count)])
                await asyncio.sleep(pause)
                books = client.statistics()
                assert books.admitted == books.settled + books.waiting + books.in_flight
            acme.oauth.challenges, acme.oauth.token_limit, acme.oauth.true_lifetime = 0, None, None
            acme.latency = acme.token_latency = 0.1
            MISCHIEF["key"](acme)
            MISCHIEF["scope"](acme)
            assert await client.flush(timeout=1200) == 0
            assert all(isinstance(receipt.outcome, rb.Accepted) for receipt in receipts)
            assert len(acme.org.signals) == len(receipts)

    Wall.off = timedelta()
    with asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner:
        runner.run(run())
    Wall.off = timedelta()


# ------------------------------------------------------------------------------------------------ the pure part


def held(dpop: bool | None = None) -> AppCredentials:
    """Credentials that hold a token."""
    credentials = AppCredentials(service_app(dpop=dpop), ORG)
    give(credentials, "first-token", "DPoP" if dpop else "Bearer")
    return credentials


def give(credentials: AppCredentials, token: str, scheme: str, at: float = 0.0) -> None:
    conversation = credentials.renew(Now(at, START))
    next(conversation)
    body = {"token_type": scheme, "expires_in": 3600, "access_token": token, "scope": "okta.riskEvents.manage"}
    with pytest.raises(StopIteration):
        conversation.send((answer(200, body), Now(at, START)))


def test_a_late_401_for_an_old_token_leaves_the_new_one():
    """What an answer says about a token that is replaced does not touch the new one."""
    now = Now(0.0, START)
    credentials = held()
    old = credentials.sign(Request("POST", ORG, {}, b""), now)
    give(credentials, "second-token", "Bearer")
    assert credentials.learn(old, challenge(401, "invalid_token", scheme="Bearer"), now)
    assert credentials.usable(0.0)
    assert credentials.sign(old, now).headers["Authorization"] == "Bearer second-token"


def test_the_life_of_a_token_counts_from_when_it_was_asked_for():
    """A slow answer does not make a token live longer."""
    credentials = AppCredentials(service_app(), ORG)
    conversation = credentials.renew(Now(100.0, START))
    next(conversation)
    body = {"token_type": "bearer", "expires_in": "100", "access_token": "t"}
    with pytest.raises(StopIteration):
        conversation.send((answer(200, body), Now(130.0, START)))
    assert credentials.renew_at() == 180.0
    assert credentials.usable(194.9)
    assert not credentials.usable(195.1)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"[" * 50_000,
        {},
        {"access_token": "a b", "token_type": "Bearer"},
        {"access_token": "a\nX: y", "token_type": "Bearer"},
        {"access_token": "", "token_type": "Bearer"},
        {"access_token": 1, "token_type": "Bearer"},
        {"access_token": "a", "token_type": "mac"},
        {"access_token": "a", "token_type": "Bearer", "expires_in": 0},
        {"access_token": "a", "token_type": "Bearer", "expires_in": -5},
        {"access_token": "a", "token_type": "Bearer", "expires_in": "soon"},
        {"access_token": "a", "token_type": "Bearer", "expires_in": None},
        {"access_token": "a", "token_type": "Bearer", "expires_in": float("nan")},
        {"access_token": "a", "token_type": "Bearer", "expires_in": float("inf")},
    ],
)
def test_an_answer_without_a_usable_token_is_a_passing_failure(body):
    """Whatever a 200 may hold, it ends in a token or in a failure that says so."""
    credentials = AppCredentials(service_app(), ORG)
    conversation = credentials.renew(Now(0.0, START))
    next(conversation)
    with pytest.raises(Unauthenticated) as failure:
        conversation.send((answer(200, body), Now(0.0, START)))
    assert not failure.value.denied
    assert not credentials.usable(0.0)


def test_a_429_of_the_token_endpoint_says_how_long_to_wait():
    """Reset minus Date plus a second for their fractions; the concurrency limit's Reset means nothing."""
    date = "Fri, 21 Aug 2026 12:00:00 GMT"

    def wait(limit: str) -> float | None:
        conversation = AppCredentials(service_app(), ORG).renew(Now(0.0, START))
        next(conversation)
        rate = {"X_Rate_Limit_Limit": limit, "X_Rate_Limit_Remaining": "0"}
        rate["X_Rate_Limit_Reset"] = str(int(START.timestamp()) + 30)
        with pytest.raises(Unauthenticated) as limited:
            conversation.send((answer(429, {"errorCode": "E0000047"}, Date=date, **rate), Now(0.0, START)))
        assert not limited.value.denied
        return limited.value.retry_after

    assert wait("5") == 31.0
    assert wait("0") is None


def test_a_proof_names_the_url_without_query_and_fragment():
    """htu has no query and no fragment; htm is the method; ath is the token's hash."""
    credentials = held(dpop=True)
    signed = credentials.sign(Request("GET", f"{ORG}/api/v1/x?limit=2#here", {}, b""), Now(0.0, START))
    proof = claims(signed.headers["DPoP"])
    assert (proof["htm"], proof["htu"]) == ("GET", f"{ORG}/api/v1/x")
    assert proof["ath"] == b64encode(sha256(b"first-token").digest(), b"-_").decode().rstrip("=")
    assert "nonce" not in proof


@pytest.mark.parametrize("nonce", ["", "with space", "x" * 2000, "new\x7f", "é"])
def test_a_nonce_that_no_header_could_carry_is_not_adopted(nonce):
    """Only printable ASCII of sane length becomes a nonce."""
    credentials = held(dpop=True)
    request = credentials.sign(Request("POST", ORG, {}, b""), Now(0.0, START))
    assert not credentials.learn(request, challenge(400, "use_dpop_nonce", DPoP_Nonce=nonce), Now(0.0, START))
    assert "nonce" not in claims(credentials.sign(request, Now(0.0, START)).headers["DPoP"])


@pytest.mark.parametrize(
    ("headers", "error", "description"),
    [
        (['DPoP error="use_dpop_nonce"'], "use_dpop_nonce", ""),
        (["DPoP error=use_dpop_nonce, realm=x"], "use_dpop_nonce", ""),
        (['Bearer realm="a, error=b", error="invalid_token", error_description="a \\"b\\""'], "invalid_token", 'a "b"'),
        (['Bearer error="invalid_token"', 'DPoP error="use_dpop_nonce"'], "use_dpop_nonce", ""),
        (['Basic realm="x"', 'Bearer error="invalid_token"'], "invalid_token", ""),
        (['Bearer realm="x"'], "", ""),
        (["Bearer " + 'error="' * 5000], "error=", ""),
    ],
)
def test_challenges_are_read(headers, error, description):
    """WWW-Authenticate in all its spellings; of several headers the one that can be answered at once counts."""
    response = Response(401, CIMultiDict([("WWW-Authenticate", header) for header in headers]), b"")
    told = oauth_error(response)
    assert (told.error, told.description) == (error, description)


def test_an_oauth_body_is_described_in_its_words():
    """What the server says in a JSON body is what a person reads."""
    verdict = classify(oauth_answer(403, "access_denied", "The client is elsewhere."))
    assert verdict.reason == "HTTP 403 access_denied The client is elsewhere."
    assert isinstance(classify(oauth_answer(400, "invalid_request", "Something.")), Denied)


# ------------------------------------------------------------------------------------------------ keys


def every_form():
    private = rsa_key()
    p384 = ec.generate_private_key(ec.SECP384R1())
    jwk = ec_key().as_dict(private=True)
    traditional = ser.PrivateFormat.TraditionalOpenSSL
    return {
        "PKCS#8 RSA": (pem(private), "RS256"),
        "PKCS#1 RSA": (pem(private, traditional), "RS256"),
        "PKCS#8 EC": (pem(p384), "ES384"),
        "SEC 1 EC": (pem(p384, traditional), "ES384"),
        "written out newlines": (pem(private).replace("\n", "\\n"), "RS256"),
        "written out CRLF, quoted": ('"' + pem(private).replace("\n", "\\r\\n") + '"', "RS256"),
        "CRLF and spaces": ("\r\n  " + pem(private).replace("\n", "\r\n"), "RS256"),
        "bytes": (pem(private).encode(), "RS256"),
        "JWK": (jwk, "ES256"),
        "JWK as JSON": (json.dumps(jwk), "ES256"),
        "JWK with alg": (RSAKey.import_key(pem(private), {"alg": "RS512"}).as_dict(private=True), "RS512"),
        "JWK without primes": (
            {k: v for k, v in RSAKey.import_key(pem(private)).as_dict(private=True).items() if k in "kty n e d"},
            "RS256",
        ),
    }


def test_every_form_of_a_key_is_taken(tmp_path):
    """PEM of every kind, with literal newlines, a JWK, its JSON, and the path of each, as text and as Path."""
    for name, (form, algorithm) in every_form().items():
        assert keys.load(form).algorithm == algorithm, name
        if isinstance(form, str):
            path = tmp_path / "key"
            path.write_text(form)
            assert keys.load(path).algorithm == keys.load(str(path)).algorithm == algorithm, name


def test_the_key_id_is_the_arguments_or_the_jwks():
    """The argument wins over the JWK's kid."""
    assert service_app().key_id == "first"
    assert service_app(key_id="other").key_id == "other"
    assert rb.ServiceApp("0oa1", pem(rsa_key())).key_id is None


def bad_keys():
    private = rsa_key()
    jwk = ec_key().as_dict(private=True)
    rsa_jwk = RSAKey.import_key(pem(private)).as_dict(private=True)
    public = private.public_key().public_bytes(ser.Encoding.PEM, ser.PublicFormat.SubjectPublicKeyInfo).decode()
    with warnings.catch_warnings(action="ignore"):
        weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    traditional = ser.PrivateFormat.TraditionalOpenSSL
    other = ECKey.generate_key("P-256").as_dict(private=True)
    return {
        "encrypted PKCS#8": (pem(private, encryption=ser.BestAvailableEncryption(b"x")), "encrypted"),
        "encrypted PKCS#1": (pem(private, traditional, ser.BestAvailableEncryption(b"x")), "encrypted"),
        "public PEM": (public, "no private part"),
        "certificate": ("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----", "no private part"),
        "OpenSSH": (pem(private, ser.PrivateFormat.OpenSSH), "ssh-keygen"),
        "public RSA JWK": ({k: v for k, v in rsa_jwk.items() if k in "kty n e"}, "no private part"),
        "public EC JWK": (ec_key().as_dict(private=False), "no private part"),
        "symmetric": (OctKey.generate_key(256).as_dict(private=True), "symmetric"),
        "symmetric JSON": ('{"kty":"oct","k":"c2VjcmV0LXNlY3JldA"}', "symmetric"),
        "Ed25519 PEM": (pem(ed25519.Ed25519PrivateKey.generate()), "not a readable RSA or EC"),
        "Ed25519 JWK": ({"kty": "OKP", "crv": "Ed25519", "d": "c2VjcmV0LXNlY3JldA", "x": "AA"}, "RSA or EC"),
        "secp256k1 PEM": (pem(ec.generate_private_key(ec.SECP256K1())), "curve"),
        "secp256k1 JWK": ({**jwk, "crv": "secp256k1"}, "curve"),
        "P-224": (pem(ec.generate_private_key(ec.SECP224R1())), "curve"),
        "1024 bits": (pem(weak), "1024 bits"),
        "wrong alg for curve": ({**jwk, "alg": "ES512"}, "alg"),
        "PS256": ({**rsa_jwk, "alg": "PS256"}, "alg"),
        "HS256": ({**rsa_jwk, "alg": "HS256"}, "alg"),
        "alg of the other kind": ({**rsa_jwk, "alg": "ES256"}, "alg"),
        "for encryption": ({**jwk, "use": "enc"}, "use"),
        "key set": ({"keys": [jwk]}, "set of keys"),
        "halves of two keys": ({**jwk, "x": other["x"], "y": other["y"]}, "numbers"),
        "broken base64": ({**jwk, "d": "secret!!" + jwk["d"]}, "numbers"),
        "number where text should be": ({**jwk, "d": 12345678901234567890}, "numbers"),
        "missing coordinates": ({k: v for k, v in jwk.items() if k != "y"}, "numbers"),
        "cut PEM": (pem(private)[:600], "not a readable"),
        "garbage PEM": ("-----BEGIN PRIVATE KEY-----\nc2VjcmV0LXNlY3JldA==\n-----END PRIVATE KEY-----", "readable"),
        "cut JSON": (json.dumps(jwk)[:-5], "neither PEM"),
        "JSON array": ("{}", "kty"),
        "bare base64": (jwk["d"] * 30, "path of a readable file"[:4]),
        "no such file": ("/nonexistent/secret-place.pem", "neither PEM"),
        "a directory": (os.sep, "neither PEM"),
        "NUL": ("secret\0", "neither PEM"),
        "empty": ("  ", "empty"),
        "None": (None, "NoneType"),
        "number": (7, "int"),
    }  # fmt: skip


def test_a_bad_key_is_refused_by_name_and_never_shown():
    """Every bad key is an AuthError that says what is wrong, without key material in message, cause or context."""
    for name, (bad, words) in bad_keys().items():
        with pytest.raises(rb.AuthError) as caught:
            rb.ServiceApp("0oa1", bad)
        error = caught.value
        assert words in str(error), name
        assert str(error).startswith("private_key"), name
        assert error.__cause__ is None, name
        assert error.__context__ is None, name
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][1:]
        assert not any("private_key" in frame.f_locals for frame in frames), name
        assert traceback.TracebackException.from_exception(error, capture_locals=True).stack
        texts = [v for k, v in bad.items() if k in ("d", "k", "p", "q", "x")] if isinstance(bad, dict) else [bad]
        for text in texts:
            for line in str(text).split():
                if len(line) > 8 and "-----" not in line:
                    assert line[:12] not in "".join(traceback.format_exception(error)), name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"client_id": ""}, "client_id"),
        ({"client_id": "{clientId}"}, "placeholder"),
        ({"client_id": "0oa 1"}, "client_id"),
        ({"key_id": ""}, "key_id"),
        ({"scopes": ()}, "scopes is empty"),
        ({"scopes": " "}, "scopes is empty"),
        ({"scopes": [7]}, "scopes has a int"),
        ({"scopes": ['say "x"']}, "not a scope"),
        ({"dpop": "yes"}, "dpop"),
    ],
)
def test_other_arguments_are_checked(arguments, words):
    """What cannot work is refused at construction, by name."""
    with pytest.raises(rb.AuthError, match=words):
        rb.ServiceApp(**{"client_id": "0oa1", "private_key": ec_key().as_dict(private=True)} | arguments)


def test_scopes_are_taken_in_every_spelling():
    """A list, or one text with commas or spaces; each scope once, in order."""
    for scopes in (["a", "b", "a"], "a b", "a,b", " a , b,", ["a b"]):
        assert service_app(scopes=scopes).scopes == ("a", "b")


def test_a_service_app_shows_everything_but_its_key():
    """repr has client id, key id and scopes."""
    shown = repr(service_app())
    assert "0oa1" in shown
    assert "first" in shown
    assert ec_key().as_dict(private=True)["d"] not in shown
    assert "SigningKey" not in shown


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    """A missing crypto library is an AuthError with the pip command; ApiToken works without it."""
    monkeypatch.setitem(sys.modules, "joserfc", None)
    monkeypatch.setitem(sys.modules, "joserfc.jwk", None)
    monkeypatch.delitem(sys.modules, "riskbatch.okta.keys", raising=False)
    monkeypatch.delattr("riskbatch.okta.keys", raising=False)
    with pytest.raises(rb.AuthError, match=r"pip install 'riskbatch\[oauth\]'"):
        service_app()


def test_the_core_and_the_emulator_never_import_the_crypto_library():
    """Importing riskbatch, its providers and its emulator loads neither joserfc nor cryptography."""
    code = (
        "import sys, riskbatch, riskbatch.emulator, riskbatch.providers; riskbatch.ApiToken('x');"
        "print(sorted({'joserfc', 'cryptography'} & {name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# ------------------------------------------------------------------------------------------------ the environment


@pytest.fixture
def environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith("OKTA_"):
            monkeypatch.delenv(name)

    def put(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(f"OKTA_CLIENT_{name}", value)

    put(ORGURL=f"{ORG}/")
    return put


def test_a_service_app_comes_from_the_sdks_variables(environment, tmp_path):
    """Mode PrivateKey with id, key, kid, scopes and DPoP switch; the key as text, literal newlines, JSON or path."""
    path = tmp_path / "key.pem"
    path.write_text(pem(rsa_key()))
    environment(AUTHORIZATIONMODE="PrivateKey", CLIENTID="0oa1")
    for key in (
        pem(rsa_key()),
        pem(rsa_key()).replace("\n", "\\n"),
        json.dumps(ec_key().as_dict(private=True)),
        str(path),
    ):
        environment(PRIVATEKEY=key)
        made = rb.Client.from_env()._auth
        assert (made.client_id, made.scopes, made.dpop) == ("0oa1", ("okta.riskEvents.manage",), None)
    for dpop, expected in (("true", True), ("False", False), ("1", True), ("0", False), ("", None)):
        environment(SCOPES="okta.a,okta.b", KID="k1", DPOPENABLED=dpop)
        made = rb.Client.from_env()._auth
        assert (made.scopes, made.key_id, made.dpop) == (("okta.a", "okta.b"), "k1", expected)
    environment(SCOPES="okta.a okta.b")
    assert rb.Client.from_env()._auth.scopes == ("okta.a", "okta.b")


JWK = json.dumps(ec_key().as_dict(private=True))


@pytest.mark.parametrize(
    ("variables", "error", "words"),
    [
        ({}, rb.ConfigurationError, "OKTA_CLIENT_TOKEN is not set"),
        ({"PRIVATEKEY": "x"}, rb.ConfigurationError, "AUTHORIZATIONMODE to PrivateKey"),
        ({"TOKEN": "a b"}, rb.AuthError, "^OKTA_CLIENT_TOKEN must"),
        ({"AUTHORIZATIONMODE": "Bearer"}, rb.ConfigurationError, "could not be renewed"),
        ({"AUTHORIZATIONMODE": "Basic"}, rb.ConfigurationError, "OKTA_CLIENT_AUTHORIZATIONMODE is 'Basic'"),
        ({"AUTHORIZATIONMODE": "PrivateKey"}, rb.ConfigurationError, "OKTA_CLIENT_CLIENTID"),
        ({"AUTHORIZATIONMODE": "PrivateKey", "CLIENTID": "0oa1"}, rb.ConfigurationError, "OKTA_CLIENT_PRIVATEKEY"),
        ({"AUTHORIZATIONMODE": "PrivateKey", "CLIENTID": "{c}", "PRIVATEKEY": JWK}, rb.AuthError, "_CLIENTID is still"),
        (
            {"AUTHORIZATIONMODE": "PrivateKey", "CLIENTID": "0oa1", "PRIVATEKEY": "not-a-key"},
            rb.AuthError,
            "^OKTA_CLIENT_PRIVATEKEY is neither",
        ),
        (
            {"AUTHORIZATIONMODE": "PrivateKey", "CLIENTID": "0oa1", "PRIVATEKEY": "x", "DPOPENABLED": "maybe"},
            rb.ConfigurationError,
            "OKTA_CLIENT_DPOPENABLED",
        ),
    ],
)
def test_errors_of_the_environment_name_the_variable(environment, variables, error, words):
    """Whoever reads the message knows which variable to mend; nothing of its value's secret is shown."""
    environment(**variables)
    with pytest.raises(error, match=words) as caught:
        rb.Client.from_env()
    assert "not-a-key" not in str(caught.value)
    assert caught.value.__context__ is None


def test_an_api_token_comes_from_the_environment(environment):
    """SSWS is the default mode."""
    environment(TOKEN="00token")
    assert rb.Client.from_env()._auth == rb.ApiToken("00token")


# ------------------------------------------------------------------------------------------------ several clients


async def test_one_app_may_serve_two_orgs_without_mixing_their_tokens():
    """Credentials belong to a client: no org ever sees the other's token."""
    app = service_app()
    acme, other = Acme(), Acme()
    async with sending(acme, app) as first, sending(other, app) as second:
        await (await first.enqueue(signal()))
        await (await second.enqueue(signal()))
    assert not set(acme.org.access_tokens) & set(other.org.access_tokens)
    assert acme.statuses() == other.statuses() == [202]
