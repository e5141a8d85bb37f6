"""What the engine commits: a decision as it was made, or nothing of it. A real engine on a virtual clock."""

import asyncio
import itertools

import pytest
from fake_org import signal
from test_promises import soon
from virtual_engine import VirtualEngine

import riskbatch as rb
from riskbatch.stores.valkey.engine import encoded

PERIOD, LEASE = 60_000_000, 10_000_000  # microseconds


class Caller:
    """One replica that calls scripts by hand."""

    names = itertools.count()

    def __init__(self, world: VirtualEngine) -> None:
        self.engine = world.connect(rb.ValkeyStore("valkey://h", name="acme"), "https://acme.okta.com")
        self.told = {"replica": f"r{next(self.names)}", "call": 1, "answered": 0, "epoch": "", "period": PERIOD}
        self.told |= {"lease": LEASE, "coalesce": False, "after": "0-0"}
        self.number = 0

    async def call(self, step: str, *signals: rb.RiskSignal, **given: object) -> dict:
        return await self.engine.call(step, self.told | given, [encoded(one) for one in signals])

    async def join(self, **permits: int) -> None:
        reply = await self.call("join", new_epoch="e", permits=list(permits.items()), rate="[30, 60.0]")
        self.told["epoch"] = reply["epoch"]

    async def admit(self, *signals: rb.RiskSignal) -> None:
        self.number += 1
        units = [1] * len(signals)
        await self.call("admit", *signals, number=self.number, units=units, when_full="wait", capacity=1000)

    async def look(self) -> dict:
        return await self.call("look", known=[], spent=[], heads=20)

    async def commit(self, look: dict, count: int, **given: object) -> dict:
        """Commit the first *count* LOW of a *look*, as a decision would."""
        rows = look["heads"][2][:count]
        waiting = [("+inf", 0), ("+inf", 0), (rows[-1][1], count)]
        decided = {"version": look["view"]["version"], "ids": [row[0] for row in rows], "probe": False}
        decided |= {"suspects": "", "waiting": waiting, "window": '{"layout":1}', "claim": "c"}
        return await self.call("commit", **decided | given)


@pytest.fixture
async def two(engine):
    world = VirtualEngine(engine)
    pair = Caller(world), Caller(world)
    for one in pair:
        await one.join()
    await pair[0].admit(*(signal(number) for number in range(3)))
    return pair


async def test_a_decision_that_still_holds_is_committed_with_its_permit_and_its_claim(two):
    """A commit takes signals and permit in one step, and a second one of the same look is refused."""
    one, other = two
    look = await one.look()
    assert "refused" not in await one.commit(look, 2)
    assert (await other.commit(look, 2, claim="d"))["refused"]
    seen = await other.look()
    assert (seen["view"]["in_flight"], seen["fleet"]["in_flight"], seen["fleet"]["requests"]) == (1, 2, 1)
    assert seen["view"]["version"] == look["view"]["version"] + 1
    assert len(seen["heads"][2]) == 1


async def higher(one: Caller) -> None:
    await one.admit(signal(100, "HIGH"))


async def permits_of_another(one: Caller) -> None:
    await one.join(p=50_000_000)


async def a_lesson(one: Caller) -> None:
    view = (await one.look())["view"]
    await one.call("learn", version=view["version"], window='{"layout":1,"limit":15}')


async def a_drop(one: Caller) -> None:
    await one.call("drop", ids=[(await one.look())["heads"][2][1][0]])


async def an_expiry(one: Caller) -> None:
    await asyncio.sleep(61.0)


async def an_older_one_that_comes_back(one: Caller) -> None:
    """Somebody's request failed in between: the oldest waits again, and its version is another one."""
    look = await one.look()
    await one.commit(look, 1, claim="x")
    told = {"unsent": False, "settled": [], "tried": {}, "suspects": []}
    await one.call("answer", claim="x", back=[{"ids": [look["heads"][2][0][0]], "after": 0}], **told)


@pytest.mark.parametrize(
    "what",
    [higher, permits_of_another, a_lesson, a_drop, an_expiry, an_older_one_that_comes_back],
    ids=lambda f: f.__name__,
)
async def test_a_decision_is_refused_once_something_that_mattered_has_changed(two, engine, what):
    """A commit is refused, and changes nothing, if one of higher rank came, the window changed, or one is gone."""
    one, other = two
    if what is an_expiry:
        await other.admit(signal(50, expires_at=soon(60.0)))
    look = await one.look()
    await what(other)
    before = {key: engine.dump(key) for key in engine.keys("*") if not key.endswith((b"calls", b"replicas", b"time"))}
    assert (await one.commit(look, 2))["refused"]
    after = {key: engine.dump(key) for key in engine.keys("*") if not key.endswith((b"calls", b"replicas", b"time"))}
    assert after == before


async def test_what_only_gives_leaves_a_decision_valid(two):
    """An admission of lower rank, and a permit that comes back, refuse no commit."""
    one, other = two
    await other.commit(await other.look(), 1, claim="x")
    look = await one.look()
    await other.admit(signal(60))
    told = {"unsent": False, "settled": [], "tried": {}, "suspects": [], "back": []}
    await other.call("answer", claim="x", **told)
    assert "refused" not in await one.commit(look, 2)


async def test_a_permit_of_a_claim_that_has_ended_never_comes_back_later_than_it_was_known(two, engine):
    """A late answer takes no permit away from decisions that counted on it."""
    one, other = two
    await one.commit(await one.look(), 1)
    await asyncio.sleep(11.0)
    view = (await other.look())["view"]
    assert (view["in_flight"], len(view["returns"])) == (0, 1)
    told = {"unsent": False, "settled": [], "tried": {}, "suspects": [], "back": []}
    await one.call("answer", claim="c", **told)
    assert (await other.look())["view"]["returns"] == view["returns"]


async def test_a_replica_whose_engine_forgot_commits_nothing(two, engine):
    """A decision of before is refused by an engine that has lost its memory since."""
    one, _ = two
    look = await one.look()
    engine.flushdb()
    assert (await one.commit(look, 2))["refused"]
