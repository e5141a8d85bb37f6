"""What a service app holds, without a client: pure tests."""

from base64 import b64encode
from hashlib import sha256

import pytest
from acme import ORG, START, answer, challenge, claims, service_app

from riskbatch.okta.credentials import Now, Unauthenticated
from riskbatch.okta.http import Request
from riskbatch.okta.oauth import AppCredentials


def held(dpop: bool | None = None) -> AppCredentials:
    """Credentials that hold a token."""
    credentials = service_app(dpop=dpop).for_org(ORG)
    give(credentials, "first-token", "DPoP" if dpop else "Bearer")
    return credentials


def give(credentials: AppCredentials, token: str, scheme: str, at: float = 0.0) -> None:
    flow = credentials.renew(Now(at, START))
    next(flow)
    body = {"token_type": scheme, "expires_in": 3600, "access_token": token, "scope": "okta.riskEvents.manage"}
    with pytest.raises(StopIteration):
        flow.send((answer(200, body), Now(at, START)))


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
    credentials = service_app().for_org(ORG)
    flow = credentials.renew(Now(100.0, START))
    next(flow)
    body = {"token_type": "bearer", "expires_in": "100", "access_token": "t"}
    with pytest.raises(StopIteration):
        flow.send((answer(200, body), Now(130.0, START)))
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
    credentials = service_app().for_org(ORG)
    flow = credentials.renew(Now(0.0, START))
    next(flow)
    with pytest.raises(Unauthenticated) as failure:
        flow.send((answer(200, body), Now(0.0, START)))
    assert not failure.value.denied
    assert not credentials.usable(0.0)


def test_a_429_of_the_token_endpoint_says_how_long_to_wait():
    """Reset minus Date plus a second for their fractions; the concurrency limit's Reset means nothing."""
    date = "Fri, 21 Aug 2026 12:00:00 GMT"

    def wait(limit: str) -> float | None:
        flow = service_app().for_org(ORG).renew(Now(0.0, START))
        next(flow)
        rate = {"X_Rate_Limit_Limit": limit, "X_Rate_Limit_Remaining": "0"}
        rate["X_Rate_Limit_Reset"] = str(int(START.timestamp()) + 30)
        with pytest.raises(Unauthenticated) as limited:
            flow.send((answer(429, {"errorCode": "E0000047"}, Date=date, **rate), Now(0.0, START)))
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
