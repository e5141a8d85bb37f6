"""The fixture `riskbatch_okta`, as users' test suites have it."""

import asyncio
import time
import urllib.request

import pytest

import riskbatch as rb
from riskbatch.emulator import OktaEmulator
from riskbatch.testing import QUICK, serve_okta


def test_in_a_sync_test(riskbatch_okta):
    """Code that runs its own loop finds the org, and the test sees what arrived."""

    async def service():
        async with rb.Client(riskbatch_okta.url, rb.ApiToken(riskbatch_okta.token), **QUICK) as client:
            await client.enqueue(rb.RiskSignal("203.0.113.7", "HIGH"))

    asyncio.run(service())
    assert [signal.ip for signal in riskbatch_okta.signals] == ["203.0.113.7"]


@pytest.mark.riskbatch_okta(limit=2, token_valid=True)
async def test_in_an_async_test_with_arguments(riskbatch_okta):
    """The marker's arguments are the emulator's; its methods work from any thread."""
    riskbatch_okta.spend(2)
    async with rb.Client(riskbatch_okta.url, rb.ApiToken(riskbatch_okta.token), close_timeout=0) as client:
        await client.enqueue(rb.RiskSignal("203.0.113.7", "HIGH"))
        async with asyncio.timeout(5):
            while not client.statistics().rate_limited:  # noqa: ASYNC110 - the answer comes from another thread
                await asyncio.sleep(0.01)
    assert [exchange.status for exchange in riskbatch_okta.requests] == [429]


def test_it_is_gone_afterwards_and_says_what_is_wrong_with_its_arguments():
    """Nothing listens any more once the block is left."""
    with serve_okta() as okta:
        url = okta.url
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(url)
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url)
    with pytest.raises(ValueError, match="limit"), serve_okta(limit=0):
        pass


def test_a_port_that_is_taken_is_the_cause_of_the_error():
    """The caller learns why, not only that it did not start."""
    with serve_okta() as okta:
        second = serve_okta(port=int(okta.url.rpartition(":")[2]))
        with pytest.raises(RuntimeError, match="did not start") as caught, second:
            pass
    assert "address already in use" in str(caught.value.__cause__)


async def test_no_test_waits_for_the_second_request(riskbatch_okta):
    """A client with QUICK sends ten requests to the fixture's org, one after another, within a second."""
    began = time.monotonic()
    async with rb.Client(riskbatch_okta.url, rb.ApiToken(riskbatch_okta.token), **QUICK) as client:
        for n in range(10):
            await (await client.enqueue(rb.RiskSignal(f"203.0.113.{n}", "LOW")))
    assert len(riskbatch_okta.requests) == 10
    assert time.monotonic() - began < 1.0


async def test_the_environment_names_the_org_and_its_whole_budget():
    """With these variables `Client.from_env()` finds the org; without a URL there are none."""
    okta = OktaEmulator(limit=15, period=0.5, token="any")
    with pytest.raises(RuntimeError):
        okta.environment  # noqa: B018
    async with okta:
        assert okta.environment == {
            "OKTA_CLIENT_ORGURL": okta.url,
            "OKTA_CLIENT_AUTHORIZATIONMODE": "SSWS",
            "OKTA_CLIENT_TOKEN": "any",
            "RISKBATCH_LIMIT": "15/0.5s",
            "RISKBATCH_LINGER": "0",
        }


@pytest.mark.riskbatch_okta(limit=30)
def test_the_marker_can_make_the_org_as_slow_as_okta(riskbatch_okta):
    """The variables follow: a program gets the budget that the org has."""
    assert riskbatch_okta.environment["RISKBATCH_LIMIT"] == "30/60s"


async def test_no_program_that_uses_from_env_waits_for_the_second_request(riskbatch_okta, monkeypatch):
    """With the fixture's variables it sends ten requests, one after another, within a second."""
    for name, value in riskbatch_okta.environment.items():
        monkeypatch.setenv(name, value)
    began = time.monotonic()
    async with rb.Client.from_env() as client:
        for n in range(10):
            await (await client.enqueue(rb.RiskSignal(f"203.0.113.{n}", "LOW")))
    assert len(riskbatch_okta.requests) == 10
    assert time.monotonic() - began < 1.0


def test_an_argument_of_the_program_outweighs_a_variable(riskbatch_okta, monkeypatch):
    """What the code says is what counts; a bad variable is refused all the same, with its name."""
    for name, value in riskbatch_okta.environment.items():
        monkeypatch.setenv(name, value)
    rb.Client.from_env(limit=rb.RateLimit(5), linger=1.0)
    monkeypatch.setenv("RISKBATCH_LIMIT", "many")
    with pytest.raises(rb.ConfigurationError, match="RISKBATCH_LIMIT is 'many'"):
        rb.Client.from_env()
