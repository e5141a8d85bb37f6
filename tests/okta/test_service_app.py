"""A service app's whole way on a virtual clock: what it signs, and several clients."""

import asyncio
import json
from base64 import urlsafe_b64decode

import pytest
from acme import START, TOKEN_URL, Acme, ec_key, pem, rsa_key, sending, service_app, signal
from joserfc.jwk import ECKey, RSAKey

import riskbatch as rb


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


async def test_one_app_may_serve_two_orgs_without_mixing_their_tokens():
    """Credentials belong to a client: no org ever sees the other's token."""
    app = service_app()
    acme, other = Acme(), Acme()
    async with sending(acme, app) as first, sending(other, app) as second:
        await (await first.enqueue(signal()))
        await (await second.enqueue(signal()))
    assert not set(acme.org.access_tokens) & set(other.org.access_tokens)
    assert acme.statuses() == other.statuses() == [202]
