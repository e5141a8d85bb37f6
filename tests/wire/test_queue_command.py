"""`riskbatch queue` on a store's file, and on the queues of an engine."""

import asyncio
import json
import re
from datetime import timedelta

import pytest

import riskbatch as rb
from riskbatch.cli import main
from riskbatch.emulator import OktaEmulator

SIGNALS = [
    {"ip": "10.0.0.1", "riskLevel": "LOW"},
    {"ip": "10.0.0.2", "riskLevel": "HIGH", "message": "Credential stuffing"},
    {"ip": "nobody"},
    {"ip": "10.0.0.3", "riskLevel": "LOW"},
]


@pytest.fixture
def feed(tmp_path):
    path = tmp_path / "feed.jsonl"
    path.write_text("".join(f"{json.dumps(record)}\n" for record in SIGNALS))
    return str(path)


@pytest.fixture
def store(tmp_path, feed, capsys):
    """Return a store's file with the valid signals of the feed."""
    path = str(tmp_path / "signals.db")
    assert main(["queue", "import", path, feed]) == 0
    captured = capsys.readouterr()
    assert captured.out == "3 signals imported\n"
    assert "1 record of " in captured.err
    return path


def test_what_waits_is_listed_exported_and_dropped(store, tmp_path, capsys):
    """An operator looks at what a feed brought, exports it and drops a level of it."""
    assert main(["queue", "stats", store]) == 0
    assert re.search(r"HIGH +1 waiting, the oldest since", capsys.readouterr().out)
    assert main(["queue", "drop", store]) == 2
    assert "drop what?" in capsys.readouterr().err
    assert main(["queue", "drop", store, "--level", "LOW"]) == 0
    assert "2 signals dropped" in capsys.readouterr().out
    assert main(["queue", "ls", store]) == 0
    assert re.fullmatch(r" +2 \S+Z HIGH   10\.0\.0\.2 Credential stuffing\n", capsys.readouterr().out)
    assert main(["queue", "export", store]) == 0
    assert json.loads(capsys.readouterr().out)["riskLevel"] == "HIGH"
    assert main(["queue", "ls", str(tmp_path / "nothing.db")]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_json_of_a_file_is_one_object(store, capsys):
    """`stats --json` and `ls --json` print one object each."""
    assert main(["queue", "stats", store, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["waiting"] == {"HIGH": 1, "MEDIUM": 0, "LOW": 2}
    assert set(told["oldest"]) == {"HIGH", "LOW"}
    assert (told["store"], told["expired"], told["settled"], told["owner"]) == (store, 0, {}, None)
    assert told["size"] > 0
    assert main(["queue", "ls", store, "--json", "--level", "LOW"]) == 0
    listed = json.loads(capsys.readouterr().out)["signals"]
    assert [each["signal"]["ip"] for each in listed] == ["10.0.0.1", "10.0.0.3"]
    assert {name: listed[0][name] for name in ("row", "state", "attempts", "may_have_arrived")} == {
        "row": 1,
        "state": "ready",
        "attempts": 0,
        "may_have_arrived": False,
    }


def test_json_of_nothing_is_an_object_too(store, capsys):
    """A script that reads the list of an empty queue reads an empty list."""
    assert main(["queue", "ls", store, "--json", "--level", "MEDIUM"]) == 0
    assert json.loads(capsys.readouterr().out) == {"signals": []}


async def test_json_of_what_is_settled_tells_how_signals_ended(tmp_path, capsys):
    """`ls --settled --json` has the outcome of each signal that the store keeps."""
    path = tmp_path / "signals.db"
    store = rb.SqliteStore(path, keep_settled=timedelta(days=1))
    async with OktaEmulator() as okta, rb.Client(okta.url, rb.ApiToken(okta.token), store=store) as client:
        await (await client.enqueue(rb.RiskSignal("203.0.113.7", "HIGH")))
    assert await asyncio.to_thread(main, ["queue", "ls", str(path), "--settled", "--json"]) == 0
    (ended,) = json.loads(capsys.readouterr().out)["signals"]
    assert (ended["outcome"], ended["signal"]["ip"]) == ("Accepted", "203.0.113.7")
    assert ended["detail"]["request_id"]


# -- fleets


@pytest.fixture
def fleet(engine, engine_url, feed, capsys):
    """Return the engine's URL; it has the queue of the fleet *acme* with the signals of the feed."""
    assert main(["queue", "import", engine_url, feed, "--name", "acme"]) == 0
    capsys.readouterr()
    return engine_url


@pytest.mark.parametrize("verb", [["stats"], ["ls"], ["export"], ["drop", "--all"]])
def test_a_fleet_that_does_not_exist_is_told_and_those_that_do_are_listed(verb, fleet, capsys):
    """A mistyped name does not look like an empty queue: the names that exist are listed, and the status is 1."""
    assert main(["queue", verb[0], fleet, "--name", "acmee", *verb[1:]]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "there is no fleet 'acmee' in " in captured.err
    assert captured.err.endswith("; there are: acme\n")


def test_without_a_name_the_fleets_are_listed(fleet, feed, capsys):
    """Whoever does not know the name of a fleet finds it."""
    assert main(["queue", "import", fleet, feed, "--name", "beta"]) == 0
    capsys.readouterr()
    assert main(["queue", "stats", fleet]) == 2
    assert capsys.readouterr().err.endswith("there are: acme, beta\n")


def test_an_engine_without_a_fleet_says_so(engine, engine_url, capsys):
    """Nothing is listed, nothing is made."""
    assert main(["queue", "stats", engine_url, "--name", "acme"]) == 1
    assert capsys.readouterr().err.endswith("; there is none\n")
    assert engine.keys("*") == []


def test_a_fleet_that_has_sent_everything_still_exists(fleet, capsys):
    """An empty queue is not a queue that does not exist."""
    assert main(["queue", "drop", fleet, "--name", "acme", "--all"]) == 0
    assert main(["queue", "stats", fleet, "--name", "acme"]) == 0
    assert "0 wait" in capsys.readouterr().out


def test_json_of_a_fleet_is_one_object(fleet, capsys):
    """`stats --json` and `ls --json` print one object each."""
    assert main(["queue", "stats", fleet, "--name", "acme", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ready"] == {"HIGH": 1, "MEDIUM": 0, "LOW": 2}
    assert (told["name"], told["waiting"], told["held_back"], told["in_flight"]) == ("acme", 3, 0, 0)
    assert set(told) >= {"store", "admitted", "accepted", "requests", "permits", "limit", "held_after", "replicas"}
    assert main(["queue", "ls", fleet, "--name", "acme", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["signals"]
    assert [each["signal"]["riskLevel"] for each in listed] == ["HIGH", "LOW", "LOW"]
    assert {each["state"] for each in listed} == {"ready"}


def test_an_engine_that_is_away_is_one_line(capsys):
    """No traceback, and no password of the URL."""
    assert main(["queue", "stats", "valkey://user:secret@127.0.0.1:1/0", "--name", "acme"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("riskbatch: error: ")
    assert len(err.splitlines()) == 1
    assert "secret" not in err
