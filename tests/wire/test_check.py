"""`riskbatch send --check` and `--report`: what a run would do, and what one has done, also for programs."""

import json
import os
from contextlib import closing

import pytest
from test_cli_wire import LIMIT, counts, environment, lines, run, scaled, signal_

from riskbatch.stores.sqlite import file


@pytest.fixture(autouse=True)
def no_org(monkeypatch):
    """A check needs neither."""
    for name in [name for name in os.environ if name.startswith("OKTA_CLIENT_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def org(monkeypatch):
    def point(okta):
        for name, value in environment(okta).items():
            monkeypatch.setenv(name, value)

    return point


async def test_a_check_says_what_would_be_sent(tmp_path, capsys):
    """It counts by level, groups refusals by reason, and finds duplicates, expired and not public addresses."""
    ips = ["0.0.0.0", "10.1.1.1", "127.0.0.1", "224.0.0.1", "::1", "203.0.113.7", "203.0.113.7", "8.8.8.8"]
    records = [{"ip": ip, "riskLevel": "HIGH" if ip == "8.8.8.8" else "LOW"} for ip in ips]
    late = signal_(1, expiresAt="2020-01-01T00:00:00Z")
    bad = [{"ip": f"10.0.0.{n}/8", "riskLevel": "LOW"} for n in range(3)]
    (tmp_path / "feed").write_text(lines(*records, late, *bad, "{"))
    report = tmp_path / "report.json"

    assert await run("send", tmp_path / "feed", "--check", "--report", report) == 1

    err = capsys.readouterr().err
    assert "HIGH 1, MEDIUM 0, LOW 7" in err
    assert counts(err) == {"accepted": 8, "expired": 1, "invalid": 4}
    assert "invalid, 3 times: ip must be a single address: a network cannot be sent; the first on line 10" in err
    assert "1 signal for an address that came before" in err
    assert "5 signals for an address that is not public" in err
    found = json.loads(report.read_text())
    assert found["levels"] == {"HIGH": 1, "MEDIUM": 0, "LOW": 7}
    assert found["not_public"] == {"unspecified": 1, "private": 1, "loopback": 2, "multicast": 1}
    assert (found["check"], found["duplicates"], found["requests"], found["status"]) == (True, 1, 1, 1)


@pytest.mark.parametrize(
    ("options", "requests", "seconds"),
    [((), 100, 180.0), (("--limit", "15/60s"), 100, 360.0), (("--subjects-per-event", "50"), 2, 0.0)],
)
async def test_a_check_says_how_long_it_takes_at_the_budget(options, requests, seconds, tmp_path):
    """A window's worth of requests leaves at once and the next a period later; rows without a time share events."""
    (tmp_path / "feed").write_text("".join(f"10.0.{n >> 8}.{n & 255}\n" for n in range(2000)))
    report = tmp_path / "report.json"

    assert await run("send", tmp_path / "feed", "--check", "--level", "LOW", *options, "--report", report) == 0

    found = json.loads(report.read_text())
    assert (found["requests"], found["seconds"]) == (requests, seconds)


async def test_a_check_ends_as_a_run_would(tmp_path, capsys):
    """0 for a feed without faults, 1 with a fault, 2 for what cannot be read; a hopeless feed is read to its end."""
    feed = tmp_path / "feed"
    feed.write_text(lines(signal_(1)))
    assert await run("send", feed, "--check", "--quiet") == 0
    assert capsys.readouterr().err == ""
    feed.write_text("hello\n")
    assert await run("send", feed, "--check") == 2
    feed.write_text(lines(*[{}] * 3000, signal_(1)))
    capsys.readouterr()
    assert await run("send", feed, "--check") == 1
    err = capsys.readouterr().err
    assert counts(err) == {"accepted": 1, "invalid": 3000}
    assert "A run would stop at line 1001" in err


async def test_a_hopeless_feed_is_not_tried_to_its_end(tmp_path, org, capsys):
    """After a thousand refusals and no signal at all, the run says so and stops."""
    (tmp_path / "feed").write_text(lines(*[{}] * 3000, signal_(1)))
    async with scaled() as okta:
        org(okta)
        assert await run("send", tmp_path / "feed", *LIMIT) == 1
        assert okta.requests == []
    err = capsys.readouterr().err
    assert "there is no signal among the first 1,001 refused" in err
    assert counts(err) == {"accepted": 0, "invalid": 1001}


async def test_a_report_is_one_object(tmp_path, org):
    """What the terminal says, for programs."""
    (tmp_path / "feed").write_text(lines(signal_(1), "x", signal_(2)))
    async with scaled(latency=0) as okta:
        org(okta)
        name = tmp_path / "report.json"
        assert await run("send", tmp_path / "feed", "--format", "jsonl", "--report", name, "--quiet", *LIMIT) == 1
    found = json.loads(name.read_text())
    assert found["outcomes"]["accepted"] == 2
    assert found["outcomes"]["invalid"] == 1
    assert found["reasons"] == [
        {"outcome": "invalid", "reason": "not JSON: Expecting value", "count": 1, "first_line": 2}
    ]
    assert (found["records"], found["signals"], found["requests"], found["status"]) == (3, 3, 1, 1)
    assert (found["command"], found["stopped"], found["check"]) == ("send", None, False)
    common = {"command", "file", "check", "stopped", "status", "requests", "seconds"}
    assert set(found) == common | {"records", "signals", "outcomes", "reasons"}


async def test_rows_without_a_time_fill_events(tmp_path, org):
    """With --subjects-per-event 50, two thousand addresses of a list go in two requests."""
    (tmp_path / "feed").write_text("".join(f"10.0.{n >> 8}.{n & 255}\n" for n in range(2000)))
    async with scaled(latency=0) as okta:
        org(okta)
        options = ("--level", "LOW", "--subjects-per-event", "50")
        assert await run("send", tmp_path / "feed", *options, *LIMIT) == 0
        assert (len(okta.signals), len(okta.requests)) == (2000, 2)


@pytest.mark.parametrize("option", ["FILE", "--rejected", "--store", "--report"])
async def test_the_name_of_a_file_cannot_steer_the_terminal(option, tmp_path, org, capsys):
    """Escape sequences and line breaks in names are shown as question marks."""
    evil = f"no\x1b[31m\u202e\n{tmp_path.name}/x"
    (tmp_path / "feed").write_text(lines("bad", signal_(1)))
    argv = [evil] if option == "FILE" else [tmp_path / "feed", option, tmp_path / evil]
    async with scaled(latency=0) as okta:
        org(okta)
        assert await run("send", *argv, *LIMIT) == 2
    err = capsys.readouterr().err
    assert "no?[31m" in err
    assert all(line.isprintable() for line in err.splitlines())


# -- imports


async def test_a_file_that_grows_is_read_from_where_it_ended_by_whole_lines(tmp_path, org, capsys):
    """A last line that was not finished is a change; a finished one is where to go on."""
    feed, store = tmp_path / "feed", tmp_path / "queue.db"
    async with scaled(latency=0) as okta:
        org(okta)
        feed.write_text(lines(signal_(1)) + '{"ip": "10.0.0.2", "ri')
        assert await run("send", feed, "--store", store, *LIMIT) == 1
        feed.write_text(lines(signal_(1), signal_(2)))
        assert await run("send", feed, "--store", store, *LIMIT) == 2
        assert "--again" in capsys.readouterr().err
        assert await run("send", feed, "--store", store, "--again", *LIMIT) == 0
        feed.write_text(lines(signal_(1), signal_(2), signal_(3)))
        assert await run("send", feed, "--store", store, *LIMIT) == 0
        assert sorted(each.ip for each in okta.signals) == ["10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.3"]


async def test_a_file_that_was_read_by_wrong_options_can_be_read_again(tmp_path, org):
    """An import without a signal is not remembered."""
    feed, store = tmp_path / "feed.json", tmp_path / "queue.db"
    feed.write_text(lines({"src": "10.0.0.1"}))
    async with scaled(latency=0) as okta:
        org(okta)
        assert await run("send", feed, "--store", store, "--level", "LOW", "--fields", "ip=source", *LIMIT) == 1
        assert await run("send", feed, "--store", store, "--level", "LOW", "--fields", "ip=src", *LIMIT) == 0
        assert len(okta.signals) == 1


async def test_an_import_that_fails_leaves_nothing(tmp_path, org, capsys):
    """A file that turns out to be no feed, or hopeless, brings no signal into the store."""
    feed, store = tmp_path / "feed", tmp_path / "queue.db"
    feed.write_text(lines(*[{}] * 2000))
    async with scaled(latency=0) as okta:
        org(okta)
        assert await run("send", feed, "--store", store, *LIMIT) == 1
        feed.write_text("hello\n")
        assert await run("send", feed, "--store", store, *LIMIT) == 2
        assert okta.requests == []
    assert "Nothing of it came into the store" in capsys.readouterr().err
    with closing(file.connect(str(store))) as db:
        assert db.execute("SELECT count(*) FROM signals").fetchone() == (0,)
    feed.write_text(lines(signal_(1)))
    async with scaled(latency=0) as okta:
        org(okta)
        assert await run("send", feed, "--store", store, *LIMIT) == 0
        assert len(okta.signals) == 1


async def test_a_file_that_an_earlier_version_had_begun_is_not_sent_twice(tmp_path, org, capsys):
    """Its bookmark cannot be followed any more, so that a person must say to send all of it."""
    feed, store = tmp_path / "feed", tmp_path / "queue.db"
    feed.write_text(lines(signal_(1)))
    with closing(file.connect(str(store))) as db:
        db.execute("CREATE TABLE IF NOT EXISTS feeds (name TEXT PRIMARY KEY, taken INT, digest TEXT, ended INT)")
        db.execute("INSERT INTO feeds VALUES (?, 1, '', 0)", (str(feed),))
    async with scaled(latency=0) as okta:
        org(okta)
        assert await run("send", feed, "--store", store, *LIMIT) == 2
        assert "an earlier version" in capsys.readouterr().err
        assert await run("send", feed, "--store", store, "--again", *LIMIT) == 0
        assert await run("send", feed, "--store", store, *LIMIT) == 0
        assert len(okta.signals) == 1
