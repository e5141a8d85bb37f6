"""Calls of an emulated org with a service app, for the tests of the emulator."""

import hashlib
import json
import secrets
import time
from base64 import urlsafe_b64encode
from contextlib import asynccontextmanager
from functools import cache
from typing import NamedTuple
from urllib.parse import urlencode

import aiohttp
from joserfc import jws
from joserfc.jwk import ECKey, RSAKey
from multidict import CIMultiDictProxy

from riskbatch.emulator import RISK_EVENTS_PATH, OktaEmulator
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
