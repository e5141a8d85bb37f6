"""What keeps a service app from its token, or its token from being taken."""

import asyncio

import pytest
from acme import START, Acme, accepted, answer, challenge, oauth_answer, sending, service_app, signal

import riskbatch as rb
from riskbatch.okta.http import Unanswered

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
        assert 0 <= statistics.resumes_after <= 60  # 0 while a token is asked for
        assert error in caplog.text
        assert len(acme.token_times()) < 400
        gaps = [b - a for a, b in zip(acme.token_times(), acme.token_times()[1:], strict=False)]
        assert max(gaps) > 30
        assert acme.org.requests == []
        acme.app.keys[:], acme.app.in_zone = keys_, True
        acme.app.scopes |= scopes
        await asyncio.sleep(66)  # a minute for the token, and what two requests take
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
    acme.app.dpop = True  # a flow takes three requests, so the second is limited
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
