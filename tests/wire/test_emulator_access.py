"""What the emulated org's API says to access tokens and proofs, and its risk providers."""

import json
import subprocess
import sys
import time

import pytest
from oauth_calls import Answer, calling, key_for, public, refused

from riskbatch.emulator import DEFAULT_TOKEN, PROVIDERS_PATH, RISK_EVENTS_PATH, Fault

# ------------------------------------------------------------------------------------------------ access tokens


async def test_a_token_that_expired_or_is_revoked():
    """401 invalid_token with an empty body."""
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
    """403 insufficient_scope naming the scope."""
    async with calling(scopes=["okta.users.read"]) as caller:
        token = (await caller.token(form={"scope": "okta.users.read"})).json["access_token"]
        refused(await caller.event(f"Bearer {token}"), 403, "Bearer", "insufficient_scope")


async def test_an_app_without_role_or_provider():
    """403 E0000006 with a body; `provider_registered=None` asks the list of providers."""
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
    """A DPoP-bound token as Bearer is 400 invalid_request; without a proof it is an invalid proof."""
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
    "too old": {"iat": int(time.time()) - 400},
    "from the future": {"iat": int(time.time()) + 400},
    "time as text": {"iat": str(int(time.time()))},
    "no token hash": {"ath": "-"},
    "hash of another token": {"ath": "b3RoZXI"},
    "type": {"header": {"typ": "JWT"}},
    "no key": {"header": {"jwk": None}},
    "another key": {"header": {"jwk": public(key_for("ES256", 3))}},
    "private key": {"header": {"jwk": key_for("ES256", 7).as_dict(private=True)}},
}


@pytest.mark.parametrize("name", BAD_PROOFS)
async def test_a_bad_proof_is_refused(name):
    """400 invalid_dpop_proof with an empty body."""
    async with calling(dpop=True) as caller:
        token = await caller.bound()
        proof = caller.proof(**{"path": RISK_EVENTS_PATH, "token": token} | BAD_PROOFS[name])
        refused(await caller.event(f"DPoP {token}", proof), 400, "DPoP", "invalid_dpop_proof")
        assert caller.okta.signals == []


@pytest.mark.parametrize("path", [f"{RISK_EVENTS_PATH}?x=1", f"/{RISK_EVENTS_PATH}", f"{RISK_EVENTS_PATH}/", "", "#f"])
async def test_htu_must_match_byte_by_byte(path):
    """A query, a fragment or a doubled slash in htu is an invalid proof."""
    async with calling(dpop=True) as caller:
        token = await caller.bound()
        path = RISK_EVENTS_PATH + path if path == "#f" else path
        refused(
            await caller.event(f"DPoP {token}", caller.proof(path=path, token=token)), 400, "DPoP", "invalid_dpop_proof"
        )


async def test_a_proof_is_good_once_even_if_it_met_429():
    """Its jti is spent by any answer, also by the 429 of a fault."""
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
    """There is one DPoP header or the proof is invalid."""
    async with calling(dpop=True) as caller:
        token = await caller.bound()
        headers = [("Authorization", f"DPoP {token}"), ("Content-Type", "application/json")]
        headers += [("DPoP", caller.proof(path=RISK_EVENTS_PATH, token=token)) for _ in range(2)]
        async with caller.session.post(caller.okta.url + RISK_EVENTS_PATH, data=b"[]", headers=headers) as response:
            assert response.status == 400


async def test_the_resource_may_want_a_nonce():
    """400 use_dpop_nonce with DPoP-Nonce and an empty body; it may rotate on the retry, and after uses."""
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
