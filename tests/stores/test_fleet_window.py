"""The window of a fleet, told to the engine and adopted from it; and what each failure of the engine means. Pure."""

import asyncio
import json
import math
import re
from pathlib import Path

import attrs
import pytest
import valkey.exceptions
from hypothesis import given
from hypothesis import strategies as st

import riskbatch as rb
from riskbatch.dispatcher import Terms, departs_at
from riskbatch.limiter import Limiter, RateLimit
from riskbatch.okta.rate_limits import Budget
from riskbatch.prioritizer import Demand
from riskbatch.stores.valkey import scripts
from riskbatch.stores.valkey.clock import GRAIN, Anchor
from riskbatch.stores.valkey.engine import Engine, EngineAway, EngineFull
from riskbatch.stores.valkey.window import View, adopt, private, tell, turns_of_suspects

LEVELS = st.sampled_from(rb.RiskLevel)
INSTANTS = st.floats(0.0, 300.0)
DEMANDS = st.builds(
    Demand,
    level=LEVELS,
    full=st.booleans(),
    full_of_high=st.booleans(),
    high_before=INSTANTS,
    high_last=INSTANTS,
    probe=st.booleans(),
    medium_since=INSTANTS,
    low_since=INSTANTS,
)
BUDGETS = st.builds(
    Budget, limit=st.integers(1, 40), remaining=st.integers(0, 40), resets_after=st.none() | st.floats(0.0, 90.0)
)
STEPS = st.lists(
    st.tuples(
        st.floats(0.0, 20.0), st.sampled_from(["depart", "answer", "learn", "refused"]), st.lists(BUDGETS, max_size=2)
    ),
    max_size=60,
)


async def live_through(limiter: Limiter, steps) -> float:
    """Let *limiter* have a history, and return the instant at which it ends."""
    now = 1.0
    for after, step, budgets in steps:
        now += after
        if step == "depart" and limiter.window.free(now) > 0:
            await limiter.depart(now)
        elif step == "answer" and limiter.window.in_flight:
            limiter.answered(now)
        elif step in ("learn", "refused"):
            limiter.learn(budgets, now, refused=step == "refused")
    return now


@given(
    steps=STEPS,
    demands=st.lists(DEMANDS, min_size=1, max_size=5),
    later=st.floats(0.0, 120.0),
    shift=st.integers(0, 10**9),
)
async def test_a_limiter_that_is_told_and_adopted_decides_as_the_original(steps, demands, later, shift):
    """Window, pace, reserve and holds are the same for a replica that reads what another one has told the engine."""
    original = Limiter(RateLimit(30, 60.0), reserve=3, linger=2.0)
    now = await live_through(original, steps)
    anchor = Anchor(1_700_000_000_000_000, now)
    free = original.window.free(now)
    returns = [anchor.engine_at(at) for at in original.window.answered_returns]
    view = View(7, anchor, "", returns, original.window.in_flight)
    view = attrs.evolve(view, window=tell(original, view, True, 4))
    seen = Anchor(anchor.engine + shift, now + shift / 1e6)  # another replica, at another moment
    view = attrs.evolve(view, anchor=seen)
    adopted = private(original)
    adopt(adopted, view)
    assert adopted.window.free(now) == free
    assert turns_of_suspects(view) == (True, 4)
    at = now + later
    for demand in demands:
        for draining in (False, True):
            one, other = (
                departs_at(limiter, demand, Terms(draining=draining), at, flushing=False)
                for limiter in (original, adopted)
            )
            assert one == other if math.inf in (one, other) else abs(one - other) < 2 * GRAIN
    assert tell(adopted, view, True, 4) == view.window  # and what is told on, does not drift
    if adopted.window.free(at) > 0:
        await original.depart(at)
        await adopted.depart(at)
        assert abs(original.paced_at - adopted.paced_at) < 10 * GRAIN
        assert abs(original.others_after - adopted.others_after) < 10 * GRAIN


def test_an_instant_of_the_engine_never_comes_early_here():
    """A permit is back on the loop clock after it is back on the engine's."""
    anchor = Anchor(1_000_000, 5.0)
    assert anchor.at(1_000_000) >= 5.0
    assert anchor.at(1_500_000) == pytest.approx(5.5, abs=2 * GRAIN)
    assert anchor.engine_at(anchor.at(1_234_567)) == 1_234_567


def test_what_another_release_has_told_is_not_read():
    """A replica that cannot read the window does not send, and says why."""
    view = View(1, Anchor(0, 0.0), json.dumps({"layout": 99}))
    with pytest.raises(rb.StoreError, match="another release"):
        adopt(Limiter(), view)


async def test_the_limiter_of_a_user_is_not_overwritten():
    """Decisions are made with a private limiter of the same settings: one that is shared stays as it is."""
    shared = Limiter(RateLimit(15, 30.0), reserve=2, linger=0.5)
    own = private(shared)
    await own.depart(1.0)
    assert shared.window.in_flight == 0
    assert (own.window.rate, own.reserve, own.linger) == (shared.window.rate, shared.reserve, shared.linger)


# ------------------------------------------------------------------------------------------------ scripts


def test_no_rule_of_the_limiter_and_none_of_the_order_of_sending_is_in_a_script():
    """The engine knows neither pace, reserve, linger and express, nor how many events a payload has."""
    texts = "".join(path.read_text() for path in Path(scripts.__file__).with_name("scripts").glob("*.lua"))
    assert not re.findall(r"\b(pace|paced_at|reserve|linger|express|others_until|held_until|limit|MAX_EVENTS)\b", texts)


@pytest.mark.parametrize(
    "path", sorted(Path(scripts.__file__).with_name("scripts").glob("*.lua")), ids=lambda p: p.stem
)
def test_a_script_is_short_and_says_what_it_relies_on(path):
    """A script has at most 35 lines, and begins with a comment that says what it may rely on."""
    lines = path.read_text().splitlines()
    assert len(lines) <= 35
    comment = " ".join(lines[: next(i for i, line in enumerate(lines) if not line.startswith("--"))])
    assert re.search(r"[Rr]el(y|ies)[- ]+on", comment)
    assert max(map(len, lines)) <= 120


# ------------------------------------------------------------------------------------------------ failures


class FailingClient:
    """Raises what it is given, as the package's own client would."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.connection_pool = self
        self.disconnected = 0

    async def evalsha(self, *_):
        raise self.error

    async def disconnect(self):
        self.disconnected += 1


def engine_of(client: object) -> Engine:
    return Engine(client, "acme", "valkey://h", timeout=1.0, owned=False)


def failures():
    arguments = {"AskError": "1 127.0.0.1:1", "MovedError": "1 127.0.0.1:1"}
    for name, kind in vars(valkey.exceptions).items():
        if isinstance(kind, type) and issubclass(kind, Exception) and kind is not valkey.exceptions.NoScriptError:
            yield pytest.param(kind(arguments.get(name, "it failed")), id=name)


@pytest.mark.parametrize("error", list(failures()))
async def test_every_failure_of_the_package_passes_but_those_that_a_person_must_mend(error):
    """Every class of the package's exceptions means that the engine is away, but authentication and permission."""
    for_good = ("AuthenticationError", "AuthorizationError", "NoPermissionError")
    expected = rb.StoreError if type(error).__name__ in for_good else EngineAway
    with pytest.raises(expected):
        await engine_of(FailingClient(error)).call("look", {})


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("WRONGTYPE Operation against a key holding the wrong kind of value", rb.StoreError),
        ("ERR ACL failure in script: User risk has no permissions to run the 'zadd' command", rb.StoreError),
        ("NOPERM User risk has no permissions to run the 'evalsha' command", rb.StoreError),
        ("OOM command not allowed when used memory > 'maxmemory'.", EngineFull),
        ("LOADING Valkey is loading the dataset in memory", EngineAway),
        ("CLUSTERDOWN The cluster is down", EngineAway),
        ("MISCONF Errors writing to the AOF file", EngineAway),
        ("BUSY Valkey is busy running a script", EngineAway),
    ],
)
async def test_what_an_engine_says_is_judged_by_its_words(said, kind):
    """A refusal for good is a StoreError; whatever passes by itself is not."""
    with pytest.raises(kind):
        await engine_of(FailingClient(valkey.exceptions.ResponseError(said))).call("look", {})


@pytest.mark.parametrize("kind", [valkey.exceptions.ReadOnlyError, valkey.exceptions.ResponseError])
async def test_a_primary_that_became_a_replica_costs_the_connections_to_it(kind):
    """READONLY behind a stable address drops the open connections, so that the next ones reach the new primary."""
    is_wrapped = kind is valkey.exceptions.ResponseError  # by an engine before Redis 7
    client = FailingClient(kind(f"{'READONLY ' * is_wrapped}You can't write against a read only replica."))
    with pytest.raises(EngineAway):
        await engine_of(client).call("look", {})
    assert client.disconnected == 1


async def test_a_cluster_client_that_forgot_its_nodes_is_given_them_back():
    """A cluster whose nodes were all away for a while is found again."""
    client = FailingClient(valkey.exceptions.ValkeyClusterException("Valkey Cluster cannot be connected"))
    client.nodes_manager = type("Nodes", (), {"startup_nodes": {"one": 1}})()
    engine = engine_of(client)
    client.nodes_manager.startup_nodes.clear()
    with pytest.raises(EngineAway):
        await engine.call("look", {})
    assert client.nodes_manager.startup_nodes == {"one": 1}


async def test_a_call_ends_though_the_package_swallows_its_cancellation():
    """A call ends after its timeout, or when it is cancelled, even if valkey-py goes on connecting."""

    class Deaf:
        async def evalsha(self, *_):
            for _ in range(3):
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    continue

    engine, loop = engine_of(Deaf()), asyncio.get_running_loop()
    tasks = asyncio.all_tasks()
    with pytest.raises(EngineAway):
        await engine.call("look", {})
    assert loop.time() < 2.0
    call = asyncio.create_task(engine.call("look", {}))
    await asyncio.sleep(0.1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await engine.close()
    assert asyncio.all_tasks() == tasks
