"""
A real engine on the test's virtual clock: the scripts run in a real Valkey, and read the time that the loop shows.

So hours of a fleet take seconds, and every call can be delayed, lost or answered into the void.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence

import valkey

from riskbatch.stores.valkey.engine import Engine, EngineAway, ValkeyStore
from riskbatch.stores.valkey.scripts import script

BASE = 1_700_000_000.0  # what the engine's clock shows at loop time 0
_TIME = "test:time"


class VirtualEngine:
    """
    The world between the replicas and the engine.

    Attributes:
        delay: Seconds of one way, asked for each call.
        away: Replicas by their number (from 0) that cannot reach the engine; "lost" answers are those of calls that
            were carried out.
        step: Seconds that the engine's clock was stepped by.
    """

    def __init__(self, client: valkey.Valkey) -> None:
        self.client = client
        self.delay: Callable[[], float] = lambda: 0.0005
        self.away: dict[int, str] = {}
        self.step = 0.0
        self.replicas = 0
        self.calls: list[str] = []
        self._scripts: dict[str, Callable[..., object]] = {}

    def connect(self, store: ValkeyStore, org: str) -> Engine:
        engine = _Engine(self, self.replicas, store)
        self.replicas += 1
        return engine

    def run(self, keys: list[str], given: list[str]) -> bytes:
        now = round((BASE + asyncio.get_running_loop().time() + self.step) * 1e6)
        pipeline = self.client.pipeline(transaction=True)
        pipeline.delete(_TIME)
        pipeline.rpush(_TIME, now // 1_000_000, now % 1_000_000)
        self._script(given[0])(keys=keys, args=given[1:], client=pipeline)
        return pipeline.execute()[-1]

    def _script(self, step: str) -> Callable[..., object]:
        if step not in self._scripts:
            text = script(step).replace("call('TIME')", f"call('LRANGE', '{_TIME}', 0, -1)")
            self._scripts[step] = self.client.register_script(text)
        return self._scripts[step]


class _Engine(Engine):
    def __init__(self, world: VirtualEngine, number: int, store: ValkeyStore) -> None:
        super().__init__(None, store.name or "fleet", "valkey://virtual", timeout=60.0, owned=False)
        self._world = world
        self._number = number
        self._lost_after = store.lease / 3

    async def call(self, step: str, arguments: Mapping[str, object], signals: Sequence[str] = ()) -> dict:
        loop, world = asyncio.get_running_loop(), self._world
        sent = loop.time()
        world.calls.append(step)
        if world.away.get(self._number) == "cut":
            await asyncio.sleep(self._lost_after)
            raise EngineAway("cut off")
        await asyncio.sleep(world.delay())
        if world.away.get(self._number) == "refused":
            raise EngineAway("connection refused")
        text = world.run(self._keys, [step, json.dumps(arguments), *signals])
        if world.away.get(self._number) == "lost":
            await asyncio.sleep(self._lost_after)
            raise EngineAway("the answer was lost")
        await asyncio.sleep(world.delay())
        return self._read(text, sent, loop.time())
