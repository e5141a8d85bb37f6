"""A virtual clock by default: minutes are free, and a test that would hang fails at once."""

import asyncio
import os
from pathlib import Path

import async_solipsism
import pytest
import valkey
from local_engine import LocalEngine

pytest_plugins = ["riskbatch.testing.plugin"]

WIRE = Path(__file__).parent / "wire"


def pytest_asyncio_loop_factories(config, item):
    """Real sockets need a real loop; everything else runs on a clock that jumps to the next timer."""
    if WIRE in item.path.parents:
        return {"real": asyncio.new_event_loop}
    return {"virtual": async_solipsism.EventLoop}


@pytest.fixture(scope="session")
def engine_url(tmp_path_factory):
    """A real Valkey: the one at RISKBATCH_TEST_VALKEY, whose database will be emptied, or one that is started here."""
    if url := os.environ.get("RISKBATCH_TEST_VALKEY"):
        yield url
        return
    with LocalEngine(tmp_path_factory.mktemp("valkey"), appendfsync="no") as server:
        yield server.url


@pytest.fixture
def engine(engine_url):
    """A client of it, and nothing in it."""
    client = valkey.Valkey.from_url(engine_url)
    client.flushdb()
    return client
