"""`riskbatch providers` against the emulator over loopback."""

import asyncio
import json
import re

import pytest

from riskbatch.cli import main
from riskbatch.emulator import OktaEmulator


@pytest.fixture
async def run(monkeypatch):
    """Return a function that runs the command against an emulated org, in a thread."""
    async with OktaEmulator() as okta:
        monkeypatch.setenv("OKTA_CLIENT_ORGURL", okta.url)
        monkeypatch.setenv("OKTA_CLIENT_TOKEN", okta.token)
        monkeypatch.delenv("OKTA_CLIENT_AUTHORIZATIONMODE", raising=False)

        async def command(*argv):
            return await asyncio.wait_for(asyncio.to_thread(main, ["providers", *argv]), 20)

        yield command


async def test_providers_are_listed_created_and_changed(run, capsys):
    """A newcomer sees the pre-made provider, takes it over and sets what Okta does with its events."""
    assert await run("list") == 0
    assert "null" in capsys.readouterr().out
    assert await run("update", "Default", "--client-id", "0oa1", "--action", "enforce_and_log") == 0
    assert await run("create", "Edge detection", "--client-id", "0oa2") == 0
    capsys.readouterr()
    assert await run("list") == 0
    shown = capsys.readouterr().out
    assert re.search(r"Default +enforce_and_log +0oa1 ", shown)
    assert re.search(r"Edge detection +log_only +0oa2 ", shown)
    assert await run("update", "Nobody", "--action", "none") == 2
    assert "there is no provider 'Nobody'" in capsys.readouterr().err


async def test_json_is_one_object_with_a_list(run, capsys):
    """`--json` prints one object; its providers have the names of the documented fields."""
    assert await run("create", "Edge detection", "--client-id", "0oa2", "--json") == 0
    (created,) = json.loads(capsys.readouterr().out)["providers"]
    assert (created["name"], created["client_id"], created["action"]) == ("Edge detection", "0oa2", "log_only")
    assert await run("list", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert list(listed) == ["providers"]
    assert created in listed["providers"]
    assert set(created) == {"name", "client_id", "action", "id", "created", "last_updated"}
