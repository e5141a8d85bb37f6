"""A client that is closed while there is no token."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from acme import ORG, Acme, check, ec_key, sending, service_app, signal

import riskbatch as rb


async def test_signals_expire_while_there_is_no_token():
    """Waiting for a token stops no other clock."""
    acme = Acme()
    acme.app.keys.clear()
    async with sending(acme, close_timeout=0.0) as client:
        soon = datetime.now(UTC) + timedelta(seconds=50)
        receipt = await client.enqueue(signal(expires_at=soon))
        await asyncio.sleep(51)
        assert isinstance(receipt.outcome, rb.Expired)


async def test_closing_waits_for_the_token_flow():
    """Signals admitted before a close are sent though the token comes only then."""
    acme = Acme()
    acme.token_latency = 5.0
    async with sending(acme) as client:
        receipts = await client.enqueue_many([signal(n) for n in range(30)])
    assert all(isinstance(receipt.outcome, rb.Accepted) for receipt in receipts)


async def test_closing_does_not_wait_beyond_its_deadline():
    """A token that does not come in time costs no more than the close timeout; the signals surely have not arrived."""
    acme = Acme()
    acme.token_latency = 1000.0
    loop = asyncio.get_running_loop()
    async with sending(acme, close_timeout=7.0) as client:
        receipt = await client.enqueue(signal())
        await asyncio.sleep(3)
    assert loop.time() == pytest.approx(10, abs=0.1)
    assert isinstance(receipt.outcome, rb.Abandoned)
    assert not receipt.outcome.may_have_arrived
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_closing_with_nothing_to_send_is_immediate():
    """A token request under way is given up when nothing waits for it."""
    acme = Acme()
    acme.token_latency = 1000.0
    loop = asyncio.get_running_loop()
    async with sending(acme):
        await asyncio.sleep(3)
    assert loop.time() == pytest.approx(3, abs=0.1)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_closing_tries_for_a_token_once_more():
    """Closing does not wait out a delay between tries: what waits has one more chance."""
    acme = Acme()
    acme.app.keys.clear()
    async with sending(acme) as client:
        receipt = await client.enqueue(signal())
        await asyncio.sleep(3600)
        acme.app.keys.append(ec_key().as_dict(private=False))
        before = asyncio.get_running_loop().time()
    assert isinstance(receipt.outcome, rb.Accepted)
    assert asyncio.get_running_loop().time() - before < 5


async def test_closing_is_early_when_no_try_fits():
    """A token endpoint that said to wait longer than the close may take is not waited for."""
    acme = Acme(dpop=False)
    acme.oauth.token_limit = 1
    acme.oauth._calls.append(0.0)
    async with sending(acme, close_timeout=20.0) as client:
        receipt = await client.enqueue(signal())
        await asyncio.sleep(1)
        assert len(acme.token_times()) == 1
    assert len(acme.token_times()) == 1
    assert asyncio.get_running_loop().time() < 2
    assert isinstance(receipt.outcome, rb.Abandoned)


@pytest.mark.parametrize("after", [0.0, 0.05, 0.1, 0.15, 0.25, 0.35, 0.45])
async def test_a_cancelled_close_leaves_nothing_behind(after):
    """Wherever in the flow it is cancelled: every receipt settled, no task left."""
    acme = Acme()
    client = rb.Client(ORG, service_app(), transport=acme.transport)
    await client.__aenter__()
    receipt = await client.enqueue(signal())
    closing = asyncio.create_task(client.aclose())
    await asyncio.sleep(after)
    closing.cancel()
    await asyncio.wait({closing})
    assert receipt.done()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    check(acme)
