"""A service app over real sockets, against the emulator, which checks every claim, signature and id."""

import asyncio
import logging

import pytest
from joserfc.jwk import ECKey

import riskbatch as rb
from riskbatch.emulator import Fault, OktaEmulator
from riskbatch.okta.providers import Providers, RiskProvider

KEY = ECKey.generate_key("P-256", {"kid": "k1"})
QUICK = rb.RateLimit(30, 2.0)


def app(**more) -> rb.ServiceApp:
    return rb.ServiceApp("0oa1", KEY.as_dict(private=True), **more)


def registered(okta: OktaEmulator, **more):
    return okta.org.register_app("0oa1", KEY.as_dict(private=False), **more)


def signal(number: int, level="HIGH") -> rb.RiskSignal:
    return rb.RiskSignal(f"203.0.113.{number % 250}", level)


@pytest.mark.parametrize(("dpop", "slash"), [(True, "/"), (False, "")])
async def test_every_signal_arrives_while_everything_rotates(dpop, slash, caplog, monkeypatch):
    """Nonces rotate, tokens are revoked and end early, 429s and lost answers come between: all arrive, no id twice."""
    monkeypatch.setattr("riskbatch.okta.renewal._TWO_FLOWS_IN", 0.5)
    caplog.set_level(logging.DEBUG)
    async with OktaEmulator(limit=1000) as okta:
        registered(okta, dpop=dpop)
        oauth = okta.org.oauth
        oauth.resource_nonces, oauth.resource_nonce_life = dpop, 3
        async with rb.Client(okta.url + slash, app(), limit=rb.RateLimit(30, 1.0)) as client:
            receipts = []
            for number in range(40):
                receipts.append(await client.enqueue(signal(number)))
                if number % 15 == 5:
                    oauth.revoke_tokens()
                if number % 15 == 8:
                    oauth.rotate_token_nonce()
                    oauth.rotate_resource_nonce()
                if number == 10:
                    okta.faults.append(Fault.rate_limited(limit=30, reset_in=-1.0))
                if number == 15:
                    okta.token_faults.append(Fault.drop())
                    oauth.revoke_tokens()
                await asyncio.sleep(0.03)
            assert await client.flush(timeout=30) == 0
        assert {type(receipt.outcome) for receipt in receipts} == {rb.Accepted}
        assert len(oauth.spent) == len(set(oauth.spent))
        assert {received.ip for received in okta.signals} == {receipt.signal.ip for receipt in receipts}
        assert "eyJ" not in caplog.text


async def test_redirects_of_the_token_endpoint_are_not_followed():
    """An assertion goes nowhere but to the org."""
    async with OktaEmulator() as okta, OktaEmulator() as elsewhere:
        registered(okta, dpop=False)
        okta.token_faults.append(Fault.redirect(f"{elsewhere.url}/oauth2/v1/token", 307))
        async with rb.Client(okta.url, app(), limit=QUICK) as client:
            await (await client.enqueue(signal(1)))
        assert elsewhere.org.oauth.requests == []


@pytest.mark.parametrize("fault", [Fault.hang(), Fault.slow(30.0)], ids=["hang", "slow"])
async def test_closing_while_a_token_request_hangs(fault):
    """Leaving the block keeps to its timeout whatever the token endpoint does."""
    async with OktaEmulator() as okta:
        registered(okta)
        okta.token_faults.append(fault)
        before = asyncio.get_running_loop().time()
        async with rb.Client(okta.url, app(), limit=QUICK, close_timeout=0.3) as client:
            receipt = await client.enqueue(signal(1))
        assert asyncio.get_running_loop().time() - before < 1
        assert isinstance(receipt.outcome, rb.Abandoned)


async def test_the_first_day():
    """Register the sender in place of the default provider with enforce_and_log, then send as that sender."""
    scopes = ["okta.riskEvents.manage", "okta.riskProviders.manage"]
    async with OktaEmulator(provider_registered=None) as okta:
        registered(okta, scopes=scopes)
        async with Providers(okta.url, app(scopes=["okta.riskProviders.manage"])) as providers:
            [default] = await providers.list()
            assert (default.name, default.client_id, default.action) == ("Default ", "null", "log_only")
            changed = await providers.update("Default", client_id="0oa1", action="enforce_and_log")
            assert (changed.id, changed.name, changed.client_id) == (default.id, "Default ", "0oa1")
            assert await providers.list() == [changed]
        async with rb.Client(okta.url, app(), limit=QUICK) as client:
            assert isinstance(await (await client.enqueue(signal(1))), rb.Accepted)


async def test_providers_are_created_up_to_three():
    """What Okta refuses is a RequestFailed in its words; what it would refuse surely is one of ours."""
    async with OktaEmulator() as okta:
        okta.org.oauth.resource_nonces, okta.org.oauth.resource_nonce_life = True, 1
        registered(okta, scopes=["okta.riskProviders.manage"])
        async with Providers(okta.url, app(scopes=["okta.riskProviders.manage"])) as providers:
            made = await providers.create("Edge", "0oa1", "enforce_and_log")
            assert made.action == "enforce_and_log"
            assert made.id
            await providers.create("n" * 50, "0oa2")
            with pytest.raises(rb.RequestFailed, match="no more than 3") as refused:
                await providers.create("fourth", "0oa3")
            assert (refused.value.status, refused.value.code) == (400, "E0000001")
            assert refused.value.request_id
            assert refused.value.__context__ is None
            for bad in (("", "c"), ("n" * 51, "c"), ("n", ""), ("n", "c", "enforce")):
                with pytest.raises(rb.ConfigurationError):
                    await providers.create(*bad)
            with pytest.raises(rb.ConfigurationError, match="no provider 'nobody'"):
                await providers.update("nobody", action="none")
            with pytest.raises(rb.ConfigurationError, match="id is"):
                await providers.update(RiskProvider("n", "c", id="../users"))
            assert (await providers.update(made, action="none")).action == "none"
        assert len(okta.org.oauth.spent) == len(set(okta.org.oauth.spent))


async def test_providers_say_what_keeps_them_from_okta():
    """A refused key is an AuthError, a missing scope and a dead host a RequestFailed."""
    async with OktaEmulator() as okta:
        client = registered(okta)
        wanted = app(scopes=["okta.riskProviders.manage", "okta.riskEvents.manage"])
        async with Providers(okta.url, wanted) as providers:
            with pytest.raises(rb.RequestFailed, match=r"insufficient_scope.*okta.riskProviders.manage") as missing:
                await providers.list()
            assert missing.value.status == 403
            client.keys.clear()
            with pytest.raises(rb.AuthError, match="invalid_client"):
                await providers.list()
        dead = okta.url
    async with Providers(dead, rb.ApiToken("00token")) as providers:
        with pytest.raises(rb.RequestFailed, match="Connect") as lost:
            await providers.list()
        assert lost.value.status is None
    with pytest.raises(rb.ConfigurationError, match="async with"):
        await providers.list()
