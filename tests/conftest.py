"""A virtual clock by default: minutes are free, and a test that would hang fails at once."""

import asyncio
from pathlib import Path

import async_solipsism

WIRE = Path(__file__).parent / "wire"


def pytest_asyncio_loop_factories(config, item):
    """Real sockets need a real loop; everything else runs on a clock that jumps to the next timer."""
    if WIRE in item.path.parents:
        return {"real": asyncio.new_event_loop}
    return {"virtual": async_solipsism.EventLoop}
