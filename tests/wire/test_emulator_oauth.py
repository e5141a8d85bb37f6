"""The emulated org's token endpoint: assertions, proofs of possession, scopes and forms."""

import time
from urllib.parse import urlencode

import pytest
from oauth_calls import ALGORITHMS, calling, key_for, public, refused

from riskbatch.emulator import RISK_EVENTS_PATH, Fault
from riskbatch.emulator.oauth import TOKEN_PATH


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_good_assertion_gets_a_bearer_token(algorithm):
    """200 with token_type Bearer, expires_in 3600 and the scope that was granted; and the token works."""
    async with calling(algorithm=algorithm) as caller:
        answer = await caller.token(caller.assertion(algorithm))
        assert answer.status == 200
        assert set(answer.json) == {"token_type", "expires_in", "access_token", "scope"}
        assert (answer.json["token_type"], answer.json["expires_in"]) == ("Bearer", 3600)
        assert answer.json["scope"] == "okta.riskEvents.manage"
        assert (await caller.event(f"Bearer {answer.json['access_token']}")).status == 202


async def test_a_dpop_app_needs_a_proof_and_the_assertion_is_spent():
    """No DPoP header is 400 invalid_dpop_proof, and the assertion cannot be used again."""
    async with calling(dpop=True) as caller:
        assertion = caller.assertion()
        answer = await caller.token(assertion)
        assert answer.oauth == (400, "invalid_dpop_proof")
        assert answer.json["error_description"] == "The DPoP proof JWT header is missing."
        again = await caller.token(assertion, dpop=caller.proof())
        assert again.oauth == (401, "invalid_client")
        assert again.json["error_description"] == "The client_assertion token has already been used."


async def test_a_dpop_app_needs_the_nonce_and_the_assertion_is_spent():
    """Without or with a wrong nonce 400 use_dpop_nonce with a dpop-nonce header; the assertion is spent."""
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
    """After 24 hours a new nonce is told; the old one is taken until it is three days old."""
    async with calling(dpop=True) as caller:
        oauth = caller.okta.org.oauth
        old = (await caller.token(dpop=caller.proof())).headers["dpop-nonce"]
        oauth._nonces[0] = (oauth._nonces[0][0] - 25 * 3600, old)
        assert (await caller.token(dpop=caller.proof())).headers["dpop-nonce"] != old
        assert (await caller.token(dpop=caller.proof(nonce=old))).status == 200
        oauth._nonces[0] = (oauth._nonces[0][0] - 48 * 3600, old)
        assert (await caller.token(dpop=caller.proof(nonce=old))).oauth == (400, "use_dpop_nonce")


async def test_a_dpop_token_is_bound_to_the_key():
    """Token_type DPoP; the token works with proofs of that key only."""
    async with calling(dpop=True) as caller:
        token = await caller.bound()
        good = caller.proof(path=RISK_EVENTS_PATH, token=token)
        assert (await caller.event(f"DPoP {token}", good)).status == 202
        other = caller.proof("RS256", path=RISK_EVENTS_PATH, token=token)
        refused(await caller.event(f"DPoP {token}", other), 400, "DPoP", "invalid_dpop_proof")


BAD_ASSERTIONS = {
    "audience with a slash": lambda c: c.assertion(aud=f"{c.okta.url}{TOKEN_PATH}/"),
    "audience of the org": lambda c: c.assertion(aud=c.okta.url),
    "audience with two slashes": lambda c: c.assertion(aud=f"{c.okta.url}/{TOKEN_PATH}"),
    "no audience": lambda c: c.assertion(aud="-"),
    "expired": lambda c: c.assertion(exp=int(time.time()) - 1),
    "more than an hour": lambda c: c.assertion(exp=int(time.time()) + 3700),
    "no expiry": lambda c: c.assertion(exp="-"),
    "expiry as text": lambda c: c.assertion(exp=str(int(time.time()) + 100)),
    "from the future": lambda c: c.assertion(iat=int(time.time()) + 60),
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
    """401 invalid_client, and no token."""
    async with calling() as caller:
        answer = await caller.token(BAD_ASSERTIONS[name](caller))
        assert answer.oauth == (401, "invalid_client")
        assert answer.json["error_description"]
        assert caller.okta.org.access_tokens == {}


async def test_with_several_keys_the_kid_decides():
    """An app with two keys needs the kid; a key that is taken out is revoked."""
    async with calling() as caller:
        app = caller.okta.org.oauth.apps["0oa1"]
        app.keys.append(public(key_for("RS256", 1)))
        assert (await caller.token(caller.assertion(header={"kid": None}))).oauth == (401, "invalid_client")
        rsa = {"algorithm": "RS256", "header": {"kid": "k1"}, "key": key_for("RS256", 1)}
        assert (await caller.token(caller.assertion(**rsa))).status == 200
        del app.keys[1]
        assert (await caller.token(caller.assertion(**rsa))).oauth == (401, "invalid_client")


async def test_iat_and_jti_may_be_left_out():
    """Iat and jti are optional; without jti the assertion may be used again."""
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
    """None or unknown is invalid_scope, ungranted consent_required, partly granted a token with fewer."""
    async with calling() as caller:
        answer = await caller.token(form={"scope": scope})
        assert (answer.status, answer.json.get("error") or answer.json["scope"]) == expected


async def test_the_form_must_be_a_form():
    """Another Content-Type is E0000021 in Okta's shape; a repeated parameter is 400 invalid_request."""
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
    """429 E0000047 with the rate headers and a Date; the assertion is spent all the same."""
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
