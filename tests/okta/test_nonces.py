"""DPoP nonces and proofs, of the token endpoint and of the API."""

import asyncio

import pytest
from acme import Acme, accepted, answer, claims, oauth_answer, sending, service_app, signal

import riskbatch as rb


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
