"""The stand-in for users' unit tests: it records what Okta would get, and fails as it is told."""

import asyncio
import subprocess
import sys
from datetime import UTC, datetime
from functools import partial

import fake_org
import pytest
from multidict import CIMultiDict

import riskbatch as rb
from riskbatch.okta.http import Response
from riskbatch.testing import QUICK, RecordingTransport, lost, unreachable

URL = "https://acme.okta.com"
NOW = datetime.now(UTC).replace(microsecond=0)  # whole milliseconds, as on the wire
signal, signals = partial(fake_org.signal, timestamp=NOW), partial(fake_org.signals, timestamp=NOW)
ANSWERS = [503, 500, 401, 403, 404, 429, lost(), unreachable(), ValueError("broken")]


def client(okta, **options):
    return rb.Client(URL, rb.ApiToken("any"), transport=okta, **QUICK, **options)


async def test_it_records_what_was_sent():
    """Signals are equal to those that were enqueued, in the order and the requests in which they left."""
    okta = RecordingTransport()
    sent = [*signals(25, message="Password spray"), signal(99, "HIGH")]
    async with client(okta) as c:
        await c.enqueue_many(sent)
        await c.flush()
        assert c.statistics().accepted == 26
    assert sorted(okta.signals, key=sent.index) == sent
    assert okta.signals[0] == sent[-1]
    assert [len(each) for each in okta.requests] == [20, 6]
    assert repr(okta) == "<RecordingTransport requests=2 signals=26>"


async def test_it_refuses_what_it_is_told_to():
    """A refused signal ends as Rejected, and its companions are taken."""
    okta = RecordingTransport(refuse=lambda s: s.message == "bad")
    async with client(okta) as c:
        bad, *good = await c.enqueue_many([signal(0, message="bad"), *signals(30, start=1)])
        assert isinstance(await bad, rb.Rejected)
        await c.flush()
    assert {signal.ip for signal in okta.signals} == {receipt.signal.ip for receipt in good}
    assert len(okta.signals) == 30


@pytest.mark.parametrize(
    "answer", [503, 500, 401, 403, 404, 429, lost(), unreachable(), ValueError("broken")], ids=repr
)
async def test_it_fails_as_it_is_told_and_keeps_nobody_waiting(answer):
    """Each failure is used up once, the client deals with it as ever, and the test need not wait."""
    okta = RecordingTransport()
    okta.answers.append(answer)
    async with client(okta) as c:
        receipt = await c.enqueue(signal())
        assert isinstance(await asyncio.wait_for(receipt, 2.0), rb.Accepted)
        assert receipt.attempts == 2
    assert okta.requests == [[receipt.signal]] * 2


async def test_a_whole_response_is_answered_as_it_is():
    """For whatever else a test needs."""
    okta = RecordingTransport()
    okta.answers.append(Response(202, CIMultiDict({"X-Okta-Request-Id": "abc"}), b""))
    async with client(okta) as c:
        assert await (await c.enqueue(signal())) == rb.Accepted("abc")
    assert okta.signals == []


async def test_a_service_app_gets_its_token_too():
    """The credentials of production need not be swapped for a test."""
    from joserfc.jwk import ECKey

    okta = RecordingTransport()
    app = rb.ServiceApp("0oa1", ECKey.generate_key("P-256").as_dict(private=True))
    async with rb.Client(URL, app, transport=okta, **QUICK) as c:
        assert isinstance(await (await c.enqueue(signal())), rb.Accepted)


def test_other_peoples_test_runs_load_nothing_of_riskbatch():
    """The fixture is asked for by name; no entry point loads it into everybody's test run."""
    from importlib.metadata import entry_points

    assert not [each for each in entry_points(group="pytest11") if "riskbatch" in each.value]


def test_the_stand_ins_do_not_need_pytest():
    """`riskbatch.testing` works with any test framework; only the plugin beside it imports pytest."""
    code = "import sys, riskbatch.testing; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
