"""The emulator's OAuth half and its risk providers keep to Okta's contract; each test is one row of that contract."""

import hashlib
import json
import secrets
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from contextlib import asynccontextmanager
from functools import cache
from typing import NamedTuple
from urllib.parse import urlencode

import aiohttp
import pytest
from joserfc import jws
from joserfc.jwk import ECKey, RSAKey
from multidict import CIMultiDictProxy

from riskbatch.emulator import DEFAULT_TOKEN, PROVIDERS_PATH, RISK_EVENTS_PATH, Fault, OktaEmulator
from riskbatch.emulator.oauth import TOKEN_PATH

JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ALGORITHMS = ["RS256", "RS384", "RS512", "ES256", "ES384", "ES512"]


@cache
def key_for(algorithm: str, number: int = 0):
    if algorithm.startswith("RS"):
        return RSAKey.generate_key(2048, {"kid": f"k{number}"})
    return ECKey.generate_key({"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}[algorithm], {"kid": f"k{number}"})


def public(key) -> dict:
    return key.as_dict(private=False)


def sign(key, header: dict, claims: dict) -> str:
    header = {name: value for name, value in header.items() if value is not None}
    return jws.serialize_compact(header, json.dumps(claims), key, algorithms=ALGORITHMS)


class Answer(NamedTuple):
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def oauth(self) -> tuple[int, str]:
        return self.status, self.json["error"]


class Caller(NamedTuple):
    okta: OktaEmulator
    session: aiohttp.ClientSession

    async def send(self, method, path, body=b"", **headers) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items() if value is not None}
        async with self.session.request(
            method, self.okta.url + path, data=body, headers=named, skip_auto_headers=["Content-Type"]
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    def assertion(self, algorithm="ES256", header=None, key=None, **claims) -> str:
        now = int(time.time())
        base = {"iss": "0oa1", "sub": "0oa1", "aud": self.okta.url + TOKEN_PATH, "iat": now, "exp": now + 300}
        base = {name: value for name, value in {**base, "jti": secrets.token_hex(8), **claims}.items() if value != "-"}
        return sign(key or key_for(algorithm), {"alg": algorithm, "kid": "k0"} | (header or {}), base)

    def proof(self, algorithm="ES256", method="POST", path=TOKEN_PATH, token=None, header=None, **claims) -> str:
        key = key_for(algorithm, 7)
        base = {"htm": method, "htu": self.okta.url + path, "iat": int(time.time()), "jti": secrets.token_hex(8)}
        if token is not None:
            base["ath"] = urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).decode().rstrip("=")
        base = {name: value for name, value in {**base, **claims}.items() if value != "-"}
        jwk = {name: value for name, value in public(key).items() if name in ("kty", "crv", "x", "y", "n", "e")}
        return sign(key, {"alg": algorithm, "typ": "dpop+jwt", "jwk": jwk} | (header or {}), base)

    async def token(self, assertion=None, *, dpop=None, form=None, path=TOKEN_PATH, **headers) -> Answer:
        fields = {
            "grant_type": "client_credentials",
            "scope": "okta.riskEvents.manage",
            "client_assertion_type": JWT_BEARER,
            "client_assertion": assertion or self.assertion(),
        }
        fields = {name: value for name, value in (fields | (form or {})).items() if value is not None}
        kind = {"Content_Type": "application/x-www-form-urlencoded", "DPoP": dpop} | headers
        return await self.send("POST", path, urlencode(fields).encode(), **kind)

    async def bound(self) -> str:
        """Return a DPoP-bound token."""
        nonce = (await self.token(dpop=self.proof())).headers["dpop-nonce"]
        return (await self.token(dpop=self.proof(nonce=nonce))).json["access_token"]

    async def event(self, authorization: str, dpop=None) -> Answer:
        body = b'[{"subjects": [{"ip": "203.0.113.7", "riskLevel": "HIGH"}]}]'
        headers = {"Authorization": authorization, "Content_Type": "application/json", "DPoP": dpop}
        return await self.send("POST", RISK_EVENTS_PATH, body, **headers)


@asynccontextmanager
async def calling(dpop=False, algorithm="ES256", scopes=("okta.riskEvents.manage",), **options):
    async with OktaEmulator(**options) as okta, aiohttp.ClientSession() as session:
        okta.org.register_app("0oa1", public(key_for(algorithm)), scopes=scopes, dpop=dpop)
        yield Caller(okta, session)


# ------------------------------------------------------------------------------------------------ rows 21 to 28


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_good_assertion_gets_a_bearer_token(algorithm):
    """Row 21: 200 with token_type Bearer, expires_in 3600 and the scope that was granted; and the token works."""
    async with calling(algorithm=algorithm) as caller:
        answer = await caller.token(caller.assertion(algorithm))
        assert answer.status == 200
        assert set(answer.json) == {"token_type", "expires_in", "access_token", "scope"}
        assert (answer.json["token_type"], answer.json["expires_in"]) == ("Bearer", 3600)
        assert answer.json["scope"] == "okta.riskEvents.manage"
        assert (await caller.event(f"Bearer {answer.json['access_token']}")).status == 202


async def test_a_dpop_app_needs_a_proof_and_the_assertion_is_spent():
    """Row 22: no DPoP header is 400 invalid_dpop_proof, and the assertion cannot be used again."""
    async with calling(dpop=True) as caller:
        assertion = caller.assertion()
        answer = await caller.token(assertion)
        assert answer.oauth == (400, "invalid_dpop_proof")
        assert answer.json["error_description"] == "The DPoP proof JWT header is missing."
        again = await caller.token(assertion, dpop=caller.proof())
        assert again.oauth == (401, "invalid_client")
        assert again.json["error_description"] == "The client_assertion token has already been used."


async def test_a_dpop_app_needs_the_nonce_and_the_assertion_is_spent():
    """Row 23: without or with a wrong nonce 400 use_dpop_nonce with a dpop-nonce header; the assertion is spent."""
    async with calling(dpop=True) as caller:
        assertion = caller.assertion()
        answer = await caller.token(assertion, dpop=caller.proof())
        assert answer.oauth == (400, "use_dpop_nonce")
        nonce = answer.headers["dpop-nonce"]
        assert (await caller.token(assertion, dpop=caller.proof(nonce=nonce))).oauth == (401, "invalid_client")
        wrong = await caller.token(dpop=caller.proof(nonce="wrong"))
        assert (wrong.oauth, wrong.headers["dpop-nonce"]) == ((400, "use_dpop_nonce"), nonce)
        assert (await caller.token(dpop=caller.proof(nonce=nonce))).status == 200


async def test_nonces_of_the_token_endpoint_rotate_daily_and_work_for_three_days():
    """Row 23: after 24 hours a new nonce is told; the old one is taken until it is three days old."""
    async with calling(dpop=True) as caller:
        oauth = caller.okta.org.oauth
        old = (await caller.token(dpop=caller.proof())).headers["dpop-nonce"]
        oauth._nonces[0] = (oauth._nonces[0][0] - 25 * 3600, old)
        assert (await caller.token(dpop=caller.proof())).headers["dpop-nonce"] != old
        assert (await caller.token(dpop=caller.proof(nonce=old))).status == 200
        oauth._nonces[0] = (oauth._nonces[0][0] - 48 * 3600, old)
        assert (await caller.token(dpop=caller.proof(nonce=old))).oauth == (400, "use_dpop_nonce")


async def test_a_dpop_token_is_bound_to_the_key():
    """Row 24: token_type DPoP; the token works with proofs of that key only."""
    async with calling(dpop=True) as caller:
        token = await caller.bound()
        good = caller.proof(path=RISK_EVENTS_PATH, token=token)
        assert (await caller.event(f"DPoP {token}", good)).status == 202
        other = caller.proof("RS256", path=RISK_EVENTS_PATH, token=token)
        refused(await caller.event(f"DPoP {token}", other), 400, "DPoP", "invalid_dpop_proof")


NOW = time.time
BAD_ASSERTIONS = {
    "audience with a slash": lambda c: c.assertion(aud=f"{c.okta.url}{TOKEN_PATH}/"),
    "audience of the org": lambda c: c.assertion(aud=c.okta.url),
    "audience with two slashes": lambda c: c.assertion(aud=f"{c.okta.url}/{TOKEN_PATH}"),
    "no audience": lambda c: c.assertion(aud="-"),
    "expired": lambda c: c.assertion(exp=int(NOW()) - 1),
    "more than an hour": lambda c: c.assertion(exp=int(NOW()) + 3700),
    "no expiry": lambda c: c.assertion(exp="-"),
    "expiry as text": lambda c: c.assertion(exp=str(int(NOW()) + 100)),
    "from the future": lambda c: c.assertion(iat=int(NOW()) + 60),
    "issuer is not the subject": lambda c: c.assertion(sub="0oa2"),
    "unknown client": lambda c: c.assertion(iss="0oa2", sub="0oa2"),
    "wrong kid": lambda c: c.assertion(header={"kid": "k9"}),
    "another key": lambda c: c.assertion(key=key_for("ES256", 3)),
    "algorithm that does not fit": lambda c: c.assertion("RS256"),
    "no JWT": lambda c: "not.a.jwt",
    "two parts": lambda c: "e30.e30",
}


@pytest.mark.parametrize("name", BAD_ASSERTIONS)
async def test_a_bad_assertion_is_an_invalid_client(name):
    """Row 25: 401 invalid_client, and no token."""
    async with calling() as caller:
        answer = await caller.token(BAD_ASSERTIONS[name](caller))
        assert answer.oauth == (401, "invalid_client")
        assert answer.json["error_description"]
        assert caller.okta.org.access_tokens == {}


async def test_with_several_keys_the_kid_decides():
    """Row 25: an app with two keys needs the kid; a key that is taken out is revoked."""
    async with calling() as caller:
        app = caller.okta.org.oauth.apps["0oa1"]
        app.keys.append(public(key_for("RS256", 1)))
        assert (await caller.token(caller.assertion(header={"kid": None}))).oauth == (401, "invalid_client")
        rsa = {"algorithm": "RS256", "header": {"kid": "k1"}, "key": key_for("RS256", 1)}
        assert (await caller.token(caller.assertion(**rsa))).status == 200
        del app.keys[1]
        assert (await caller.token(caller.assertion(**rsa))).oauth == (401, "invalid_client")


async def test_iat_and_jti_may_be_left_out():
    """Row 25: iat and jti are optional; without jti the assertion may be used again."""
    async with calling() as caller:
        assertion = caller.assertion(iat="-", jti="-")
        assert [(await caller.token(assertion)).status for _ in range(2)] == [200, 200]


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        (None, (400, "invalid_scope")),
        ("", (400, "invalid_scope")),
        ("okta.nonsense.manage", (400, "invalid_scope")),
        ("okta.users.read", (400, "consent_required")),
        ("okta.riskEvents.manage okta.users.read", (200, "okta.riskEvents.manage")),
    ],
)
async def test_scopes_are_granted_refused_or_cut(scope, expected):
    """Row 26: none or unknown is invalid_scope, ungranted consent_required, partly granted a token with fewer."""
    async with calling() as caller:
        answer = await caller.token(form={"scope": scope})
        assert (answer.status, answer.json.get("error") or answer.json["scope"]) == expected


async def test_the_form_must_be_a_form():
    """Row 27: another Content-Type is E0000021 in Okta's shape; a repeated parameter is 400 invalid_request."""
    async with calling() as caller:
        answer = await caller.token(Content_Type="application/json")
        assert (answer.status, answer.json["errorCode"]) == (400, "E0000021")
        kind = "application/x-www-form-urlencoded"
        body = urlencode([("client_assertion", caller.assertion()), ("scope", "a"), ("scope", "b")]).encode()
        assert (await caller.send("POST", TOKEN_PATH, body, Content_Type=kind)).oauth == (400, "invalid_request")
        assert (await caller.token(path=f"{TOKEN_PATH}?scope=a")).oauth == (400, "invalid_request")
        assert (await caller.token(form={"client_assertion": None})).oauth == (401, "invalid_client")
        assert (await caller.token(form={"client_assertion_type": "x"})).oauth == (400, "invalid_request")
        assert (await caller.token(form={"grant_type": "password"})).oauth == (400, "unsupported_grant_type")
        assert (await caller.send("GET", TOKEN_PATH)).status == 405


async def test_a_limited_token_endpoint_answers_in_oktas_shape():
    """Row 28: 429 E0000047 with the rate headers and a Date; the assertion is spent all the same."""
    async with calling() as caller:
        caller.okta.org.oauth.token_limit = 1
        assert (await caller.token()).status == 200
        assertion = caller.assertion()
        answer = await caller.token(assertion)
        assert (answer.status, answer.json["errorCode"]) == (429, "E0000047")
        assert answer.headers["X-Rate-Limit-Remaining"] == "0"
        assert 0 < int(answer.headers["X-Rate-Limit-Reset"]) - time.time() <= 60
        assert (await caller.token(assertion)).oauth == (401, "invalid_client")


async def test_the_token_endpoint_can_be_made_to_fail():
    """Faults of the token endpoint have a list of their own; token_failure fails for good; zones are kept."""
    async with calling() as caller:
        caller.okta.token_faults.append(Fault.unavailable())
        assert (await caller.token()).status == 503
        caller.okta.org.oauth.token_failure = (400, "temporarily_unavailable", "later")
        assert (await caller.token()).oauth == (400, "temporarily_unavailable")
        caller.okta.org.oauth.token_failure = None
        caller.okta.org.oauth.apps["0oa1"].in_zone = False
        assert (await caller.token()).oauth == (403, "access_denied")
        assert caller.okta.requests == []


# ------------------------------------------------------------------------------------------------ rows 7 to 14


def refused(answer: Answer, status: int, scheme: str, error: str) -> None:
    """Okta's shape: no body, and all about it in WWW-Authenticate."""
    assert (answer.status, answer.body, answer.headers["Content-Length"]) == (status, b"", "0")
    challenge = answer.headers["WWW-Authenticate"]
    assert challenge.startswith(f"{scheme} ")
    assert f'error="{error}"' in challenge
    assert ('algs="RS256 RS384 RS512 ES256 ES384 ES512",' in challenge) == (scheme == "DPoP")
    assert 'authorization_uri="http://127.0.0.1:' in challenge
    assert 'scope="okta.riskEvents.manage"' in challenge
    assert 'resource="/api/v1/risk/events/ip"' in challenge


async def test_a_token_that_expired_or_is_revoked():
    """Row 8: 401 invalid_token with an empty body."""
    async with calling() as caller:
        caller.okta.org.oauth.true_lifetime = 0.0
        token = (await caller.token()).json["access_token"]
        refused(await caller.event(f"Bearer {token}"), 401, "Bearer", "invalid_token")
        caller.okta.org.oauth.true_lifetime = None
        token = (await caller.token()).json["access_token"]
        assert (await caller.event(f"Bearer {token}")).status == 202
        refused(await caller.event(f"DPoP {token}"), 401, "DPoP", "invalid_token")
        caller.okta.org.oauth.revoke_tokens()
        refused(await caller.event(f"Bearer {token}"), 401, "Bearer", "invalid_token")


async def test_a_token_without_the_scope():
    """Row 9: 403 insufficient_scope naming the scope."""
    async with calling(scopes=["okta.users.read"]) as caller:
        token = (await caller.token(form={"scope": "okta.users.read"})).json["access_token"]
        refused(await caller.event(f"Bearer {token}"), 403, "Bearer", "insufficient_scope")


async def test_an_app_without_role_or_provider():
    """Row 10: 403 E0000006 with a body; `provider_registered=None` asks the list of providers."""
    async with calling(provider_registered=None) as caller:
        token = (await caller.token()).json["access_token"]
        answer = await caller.event(f"Bearer {token}")
        assert (answer.status, answer.json["errorCode"]) == (403, "E0000006")
        next(iter(caller.okta.org.providers.values()))["clientId"] = "0oa1"
        assert (await caller.event(f"Bearer {token}")).status == 202
        caller.okta.org.oauth.apps["0oa1"].has_role = False
        answer = await caller.event(f"Bearer {token}")
        assert (answer.status, answer.json["errorCode"]) == (403, "E0000006")


async def test_a_bound_token_needs_its_scheme_and_a_proof():
    """Row 12: a DPoP-bound token as Bearer is 400 invalid_request; without a proof it is an invalid proof."""
    async with calling(dpop=True) as caller:
        token = await caller.bound()
        proof = caller.proof(path=RISK_EVENTS_PATH, token=token)
        refused(await caller.event(f"Bearer {token}", proof), 400, "Bearer", "invalid_request")
        refused(await caller.event(f"DPoP {token}"), 400, "DPoP", "invalid_dpop_proof")


BAD_PROOFS = {
    "method": {"htm": "GET"},
    "no method": {"htm": "-"},
    "no URL": {"htu": "-"},
    "no id": {"jti": "-"},
    "empty id": {"jti": ""},
    "no time": {"iat": "-"},
    "too old": {"iat": int(NOW()) - 400},
    "from the future": {"iat": int(NOW()) + 400},
    "time as text": {"iat": str(int(NOW()))},
    "no token hash": {"ath": "-"},
    "hash of another token": {"ath": "b3RoZXI"},
    "type": {"header": {"typ": "JWT"}},
    "no key": {"header": {"jwk": None}},
    "another key": {"header": {"jwk": public(key_for("ES256", 3))}},
    "private key": {"header": {"jwk": key_for("ES256", 7).as_dict(private=True)}},
}


@pytest.mark.parametrize("name", BAD_PROOFS)
async def test_a_bad_proof_is_refused(name):
    """Row 13: 400 invalid_dpop_proof with an empty body."""
    async with calling(dpop=True) as caller:
        token = await caller.bound()
        proof = caller.proof(**{"path": RISK_EVENTS_PATH, "token": token} | BAD_PROOFS[name])
        refused(await caller.event(f"DPoP {token}", proof), 400, "DPoP", "invalid_dpop_proof")
        assert caller.okta.signals == []


@pytest.mark.parametrize("path", [f"{RISK_EVENTS_PATH}?x=1", f"/{RISK_EVENTS_PATH}", f"{RISK_EVENTS_PATH}/", "", "#f"])
async def test_htu_must_match_byte_by_byte(path):
    """Row 13: a query, a fragment or a doubled slash in htu is an invalid proof."""
    async with calling(dpop=True) as caller:
        token = await caller.bound()
        path = RISK_EVENTS_PATH + path if path == "#f" else path
        refused(
            await caller.event(f"DPoP {token}", caller.proof(path=path, token=token)), 400, "DPoP", "invalid_dpop_proof"
        )


async def test_a_proof_is_good_once_even_if_it_met_429():
    """Row 13: its jti is spent by any answer, also by the 429 of a fault."""
    async with calling(dpop=True, limit=2) as caller:
        token = await caller.bound()

        async def once_and_again():
            proof = caller.proof(path=RISK_EVENTS_PATH, token=token)
            first = await caller.event(f"DPoP {token}", proof)
            refused(again := await caller.event(f"DPoP {token}", proof), 400, "DPoP", "invalid_dpop_proof")
            assert "already been used" in again.headers["WWW-Authenticate"]
            return first.status

        assert await once_and_again() == 202
        caller.okta.faults.append(Fault.rate_limited())
        assert await once_and_again() == 429
        assert await once_and_again() == 202
        assert await once_and_again() == 429


async def test_two_proofs_in_one_request_are_none():
    """Row 13: there is one DPoP header or the proof is invalid."""
    async with calling(dpop=True) as caller:
        token = await caller.bound()
        headers = [("Authorization", f"DPoP {token}"), ("Content-Type", "application/json")]
        headers += [("DPoP", caller.proof(path=RISK_EVENTS_PATH, token=token)) for _ in range(2)]
        async with caller.session.post(caller.okta.url + RISK_EVENTS_PATH, data=b"[]", headers=headers) as response:
            assert response.status == 400


async def test_the_resource_may_want_a_nonce():
    """Row 14: 400 use_dpop_nonce with DPoP-Nonce and an empty body; it may rotate on the retry, and after uses."""
    async with calling(dpop=True) as caller:
        oauth = caller.okta.org.oauth
        oauth.resource_nonces, oauth.challenges, oauth.resource_nonce_life = True, 1, 2
        token = await caller.bound()

        async def attempt(nonce: str) -> Answer:
            return await caller.event(f"DPoP {token}", caller.proof(path=RISK_EVENTS_PATH, token=token, nonce=nonce))

        first = await attempt("-")
        refused(first, 400, "DPoP", "use_dpop_nonce")
        nonce = first.headers["DPoP-Nonce"]
        assert (await attempt(nonce)).status == 202
        oauth.announce_nonces = True
        second = await attempt(nonce)
        assert second.status == 202
        assert second.headers["DPoP-Nonce"] != nonce
        refused(await attempt(nonce), 400, "DPoP", "use_dpop_nonce")
        assert (await attempt(second.headers["DPoP-Nonce"])).status == 202


# ------------------------------------------------------------------------------------------------ risk providers


async def test_risk_providers():
    """A default provider is there; log_only is the default; PUT replaces; DELETE is 204; there are at most three."""
    async with calling(scopes=["okta.riskProviders.manage"]) as caller:
        token = (await caller.token(form={"scope": "okta.riskProviders.manage"})).json["access_token"]

        async def ask(method, path="", value=None, **headers):
            body = b"" if value is None else json.dumps(value).encode()
            auth = {"Authorization": f"Bearer {token}", "Content_Type": "application/json"} | headers
            return await caller.send(method, PROVIDERS_PATH + path, body, **auth)

        [default] = (await ask("GET")).json
        assert (default["name"], default["clientId"], default["action"]) == ("Default ", "null", "log_only")
        assert default["_links"]["self"]["href"] == f"{caller.okta.url}{PROVIDERS_PATH}/{default['id']}"
        made = await ask("POST", value={"name": "Edge", "clientId": "0oa1"})
        assert (made.status, made.json["action"]) == (201, "log_only")
        path = f"/{made.json['id']}"
        put = await ask("PUT", path, {"name": "Edge 2", "clientId": "0oa1", "action": "none", "id": "mine"})
        assert (put.status, put.json["name"], put.json["action"], put.json["id"]) == (200, "Edge 2", "none", path[1:])
        assert (await ask("PUT", path, {"name": "Edge 3", "clientId": "0oa1"})).json["action"] == "log_only"
        assert (await ask("GET", path)).json["name"] == "Edge 3"
        for bad in (
            {"name": "", "clientId": "c"},
            {"name": "n" * 51, "clientId": "c"},
            {"name": "x"},
            {"name": "x", "clientId": "c", "action": "enforce"},
            {"name": "Default ", "clientId": "c"},
            [],
        ):
            answer = await ask("POST", value=bad)
            assert (answer.status, answer.json["errorCode"]) == (400, "E0000001")
        assert (await ask("POST", value={"name": "n" * 50, "clientId": "c"})).status == 201
        assert (await ask("POST", value={"name": "fourth", "clientId": "c"})).json["errorCode"] == "E0000001"
        assert (await ask("DELETE", path)).status == 204
        assert (await ask("GET", path)).json["errorCode"] == "E0000007"
        assert (await ask("PATCH", path)).status == 405
        assert (await ask("GET", Authorization=f"SSWS {DEFAULT_TOKEN}")).status == 200


async def test_risk_providers_need_their_scopes():
    """Reading takes read or manage, writing manage; a token without is 403 insufficient_scope."""
    async with calling(scopes=["okta.riskProviders.read"]) as caller:
        token = (await caller.token(form={"scope": "okta.riskProviders.read"})).json["access_token"]
        auth = {"Authorization": f"Bearer {token}", "Content_Type": "application/json"}
        assert (await caller.send("GET", PROVIDERS_PATH, **auth)).status == 200
        answer = await caller.send("POST", PROVIDERS_PATH, b"{}", **auth)
        assert answer.status == 403
        assert 'scope="okta.riskProviders.manage"' in answer.headers["WWW-Authenticate"]


def test_the_emulator_needs_no_crypto_library_without_oauth():
    """A plain SSWS exchange loads nothing of the extra."""
    code = """
import asyncio, sys, aiohttp
from riskbatch.emulator import OktaEmulator
async def main():
    async with OktaEmulator() as okta, aiohttp.ClientSession() as session:
        headers = {"Authorization": f"SSWS {okta.token}", "Content-Type": "application/json"}
        event = b'[{"subjects": [{"ip": "203.0.113.7", "riskLevel": "LOW"}]}]'
        async with session.post(okta.url + "/api/v1/risk/events/ip", data=event, headers=headers) as response:
            print(response.status, "cryptography" in sys.modules or "joserfc" in sys.modules)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "202 False\n"
