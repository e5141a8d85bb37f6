"""The fixture `riskbatch_okta`, as users' test suites have it."""

import asyncio
import urllib.request

import pytest

import riskbatch as rb
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
