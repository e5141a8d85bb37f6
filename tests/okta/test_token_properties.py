"""Whatever an org does, no id is used twice and no signal is lost."""

import asyncio
from datetime import timedelta

import async_solipsism
from acme import START, Acme, Wall, ec_key, sending, signal
from budget import budget
from hypothesis import given, settings
from hypothesis import strategies as st

import riskbatch as rb

MISCHIEF = {
    "revoke": lambda acme: acme.oauth.revoke_tokens(),
    "token nonce": lambda acme: acme.oauth.rotate_token_nonce(),
    "nonce": lambda acme: acme.oauth.rotate_resource_nonce(),
    "nonces on": lambda acme: setattr(acme.oauth, "resource_nonces", True),
    "nonces off": lambda acme: setattr(acme.oauth, "resource_nonces", False),
    "challenges": lambda acme: setattr(acme.oauth, "challenges", 5),
    "short": lambda acme: setattr(acme.oauth, "true_lifetime", 20.0),
    "long": lambda acme: setattr(acme.oauth, "true_lifetime", None),
    "spend": lambda acme: acme.org.spend(30, asyncio.get_running_loop().time(), START.timestamp()),
    "no key": lambda acme: acme.app.keys.clear(),
    "key": lambda acme: acme.app.keys.__setitem__(slice(None), [ec_key().as_dict(private=False)]),
    "no scope": lambda acme: acme.app.scopes.clear(),
    "scope": lambda acme: acme.app.scopes.add("okta.riskEvents.manage"),
    "limit": lambda acme: setattr(acme.oauth, "token_limit", 2),
    "no limit": lambda acme: setattr(acme.oauth, "token_limit", None),
    "slow": lambda acme: setattr(acme, "latency", 7.0),
    "fast": lambda acme: setattr(acme, "latency", 0.1),
    "slow token": lambda acme: setattr(acme, "token_latency", 9.0),
    "fast token": lambda acme: setattr(acme, "token_latency", 0.1),
    "clock": lambda acme: setattr(Wall, "off", timedelta(seconds=-400)),
    "clock ahead": lambda acme: setattr(Wall, "off", timedelta(seconds=400)),
    "clock right": lambda acme: setattr(Wall, "off", timedelta()),
}


@given(
    st.booleans(),
    st.lists(st.tuples(st.sampled_from(sorted(MISCHIEF)), st.floats(0.0, 90.0), st.integers(0, 30)), max_size=12),
)
@settings(max_examples=budget(15, 60), deadline=None)
def test_no_id_is_reused_and_no_signal_lost_whatever_the_org_does(dpop, story):
    """Over any run: no jti twice, at most 30 requests a minute, the books agree, and in the end all is accepted."""

    async def run() -> None:
        acme = Acme(dpop=dpop, limit=30, window="sliding")
        receipts = []
        async with sending(acme) as client:
            for name, pause, count in story:
                MISCHIEF[name](acme)
                receipts += await client.enqueue_many([signal(n) for n in range(count)])
                await asyncio.sleep(pause)
                books = client.statistics()
                assert books.admitted == books.settled + books.waiting + books.in_flight
            acme.oauth.challenges, acme.oauth.token_limit, acme.oauth.true_lifetime = 0, None, None
            acme.latency = acme.token_latency = 0.1
            MISCHIEF["key"](acme)
            MISCHIEF["scope"](acme)
            assert await client.flush(timeout=1200) == 0
            assert all(isinstance(receipt.outcome, rb.Accepted) for receipt in receipts)
            assert len(acme.org.signals) == len(receipts)

    Wall.off = timedelta()
    with asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner:
        runner.run(run())
    Wall.off = timedelta()
