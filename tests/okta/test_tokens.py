"""Access tokens in time: when they are fetched, renewed and replaced."""

import asyncio
from datetime import timedelta

import pytest
from acme import START, Acme, answer, ec_key, form_claims, oauth_answer, sending, signal

import riskbatch as rb


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


async def test_one_flow_for_all_who_wait():
    """A hundred waiting signals and an hour's wait cause one token flow, not one each."""
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
        assert all(-10 < at < 10 for at in issued[::2])  # ours first, in every flow
        assert all(at < -(10**8) for at in issued[1::2])
        acme.app.keys[:] = [ec_key().as_dict(private=False)]
        assert isinstance(await receipt, rb.Accepted)


@pytest.mark.parametrize("life", [0.05, 0.5, 1.0])
async def test_a_token_endpoint_that_grants_moments_is_asked_rarely(life):
    """With nothing to send, at most two flows succeed in any five seconds, and what is to be sent is sent."""
    acme = Acme(dpop=False, latency=0.01)
    body = {"token_type": "Bearer", "expires_in": life, "access_token": "opaque", "scope": "x"}
    acme.script = lambda is_token, _: answer(200, body) if is_token else answer(202)
    async with sending(acme) as client:
        await asyncio.sleep(60)
        assert isinstance(await (await client.enqueue(signal())), rb.Accepted)
        times = acme.token_times()
        assert len(times) <= 26
        assert all(third - first >= 5.0 for first, third in zip(times, times[2:], strict=False))


async def test_a_new_token_that_is_refused_is_replaced_at_once():
    """The floor between two flows does not hold up the first replacement."""
    acme = Acme(dpop=False)
    async with sending(acme) as client:
        acme.oauth.revoke_tokens()
        await asyncio.sleep(0.5)
        acme.oauth.revoke_tokens()
        before = asyncio.get_running_loop().time()
        assert isinstance(await (await client.enqueue(signal())), rb.Accepted)
        assert asyncio.get_running_loop().time() - before < 3
    assert acme.statuses() == [401, 202]


@pytest.mark.parametrize("life", [30.0, 3600.0])
async def test_the_floor_delays_no_token_of_a_normal_life(life):
    """Half a minute is long enough: no signal ever waits for a token."""
    acme = Acme(dpop=False, latency=0.01)
    acme.oauth.token_lifetime = life
    async with sending(acme) as client:
        await (await client.enqueue(signal()))
        for number in range(60):
            await asyncio.sleep(7.3)
            before = asyncio.get_running_loop().time()
            assert isinstance(await (await client.enqueue(signal(number))), rb.Accepted)
            assert asyncio.get_running_loop().time() - before < 0.1
