"""The log: a line for each change of state, none per signal, and few however a server behaves."""

import ast
import asyncio
import logging
import re
from pathlib import Path

import pytest
from fake_org import WALL, FakeOrg, client, signal, signals

import riskbatch as rb
from riskbatch.emulator import Fault
from riskbatch.log import EVENTS, EventLog

HOUSE = Path(rb.__file__).parent


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO)
    return lambda: [(r.levelname, r.riskbatch_event) for r in caplog.records if r.name == "riskbatch"]


def said(caplog, event):
    return [record for record in caplog.records if getattr(record, "riskbatch_event", None) == event]


async def test_each_change_of_state_is_one_line(log):
    """Opened, slowed, resumed, paused, resumed, throttled, resumed, refused, draining, closed: a line each."""
    org = FakeOrg(poison=lambda s: s.message == "bad")
    async with client(org) as c:
        for faults in ([Fault.unavailable()] * 3, [Fault.error(401, "E0000011")] * 3, [Fault.rate_limited()] * 3):
            org.faults = faults
            await c.enqueue_many(signals(40))
            await c.flush()
        await c.enqueue_many(signals(5, message="bad"))
        await c.flush()
    assert log() == [
        ("INFO", "opened"),
        ("WARNING", "slowed"),
        ("WARNING", "resumed"),
        ("WARNING", "paused"),
        ("WARNING", "resumed"),
        ("WARNING", "throttled"),
        ("INFO", "resumed"),
        ("WARNING", "refused"),
        ("INFO", "draining"),
        ("WARNING", "refused"),
        ("INFO", "closed"),
    ]


async def test_a_window_that_others_have_used_up_is_said_without_a_429(log, caplog):
    """Headers that show nothing left hold everything: that is a change of state, and so is its end."""
    org = FakeOrg()
    async with client(org, limit=rb.RateLimit(30, 60.0)) as c:
        org.org.spend(29, 0.0, WALL)
        await c.enqueue_many(signals(40))
        await c.flush()
        assert c.statistics().rate_limited == 0
    assert [event for _, event in log()] == ["opened", "throttled", "resumed", "draining", "closed"]
    assert 50 < said(caplog, "throttled")[0].riskbatch_resumes_after <= 62
    assert 50 < said(caplog, "resumed")[0].riskbatch_after <= 65


async def test_a_lower_limit_is_said_once(log, caplog):
    """Headers that allow less change the state too."""
    async with client(FakeOrg(limit=15)) as c:
        await c.enqueue_many(signals(100))
        await c.flush()
    assert [event for _, event in log()] == ["opened", "limit", "draining", "closed"]
    (record,) = said(caplog, "limit")
    assert (record.riskbatch_limit, record.riskbatch_before) == (15, 30)


async def test_the_extra_says_what_the_text_says(caplog):
    """Programs need not parse: org, reason, seconds and counts are fields of the record."""
    org = FakeOrg()
    org.faults = [Fault.error(401, "E0000011")]
    async with client(org) as c:
        await c.enqueue_many(signals(40))
        await c.flush()
    (paused,), (resumed,) = said(caplog, "paused"), said(caplog, "resumed")
    assert paused.riskbatch_org == "https://acme.okta.com"
    assert paused.riskbatch_reason in paused.getMessage()
    assert "Invalid token" in paused.riskbatch_reason
    assert paused.riskbatch_waiting == 20
    assert paused.riskbatch_held_back == 0
    assert 0 < resumed.riskbatch_after < 120


async def test_no_field_collides(caplog):
    """Every field of ours begins with `riskbatch_`, so that no formatter and no other library's field is hidden."""
    caplog.set_level(logging.DEBUG)
    plain = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
    org = FakeOrg(poison=lambda s: True)
    org.faults = [Fault.unavailable(), Fault.rate_limited()]
    async with client(org) as c:
        await c.enqueue(signal())
        await c.flush()
    ours = set().union(*(vars(record) for record in caplog.records)) - plain - {"taskName"}
    assert ours
    assert all(name.startswith("riskbatch_") for name in ours)


async def test_a_thousand_refused_signals_are_a_line_a_minute(caplog, log):
    """One signal after another is refused: the first is said at once, and the rest by number."""
    org = FakeOrg(poison=lambda s: True, name_causes=True)
    async with client(org, close_timeout=0) as c:
        receipts = await c.enqueue_many(signals(1000))
        began = asyncio.get_running_loop().time()
        await c.flush()
        minutes = (asyncio.get_running_loop().time() - began) / 60
    assert all(isinstance(receipt.outcome, rb.Rejected) for receipt in receipts)
    lines = said(caplog, "refused")
    assert 2 < len(lines) <= minutes + 2
    assert sum(1 + line.riskbatch_held_back for line in lines) == 1000
    assert "such changes before" in lines[1].getMessage()


async def test_a_flapping_server_is_a_line_a_minute_and_the_last_state_is_always_said(caplog):
    """A server that changes its mind with every answer for four hours: ten lines, then one a minute, and the end."""
    flapping = True
    org = FakeOrg(script=lambda exchange: Fault.error(401, "E0000011") if flapping and exchange.number % 2 else None)
    async with client(org) as c:
        for _ in range(4 * 60):
            c.enqueue_nowait(signal(0, "HIGH"))
            c.enqueue_nowait(signal(1, "LOW"))
            await asyncio.sleep(60)
        flapping = False
        await c.flush()
        await asyncio.sleep(120)
        lines = said(caplog, "paused") + said(caplog, "resumed")
        assert org.statuses.count(401) >= 240
        assert len(lines) <= 10 + 4 * 60 + 3
        lines.sort(key=lambda record: record.created)
        assert not c.statistics().paused
        assert lines[-1].riskbatch_event == "resumed"


async def test_the_newest_state_takes_the_place_of_those_held_back(caplog):
    """Of a hundred changes within a second ten are said, then the last, a minute later or at the end."""
    for end in (lambda event_log: asyncio.sleep(61), lambda event_log: asyncio.sleep(0, event_log.close())):
        caplog.clear()
        event_log = EventLog("https://acme.okta.com")
        for number in range(100):
            event_log.emit(logging.WARNING, "paused", f"number {number}", reason=str(number))
        assert [r.riskbatch_reason for r in caplog.records] == [str(number) for number in range(10)]
        await end(event_log)
        assert caplog.records[-1].riskbatch_reason == "99"
        assert caplog.records[-1].riskbatch_held_back == 89
        assert len(caplog.records) == 11
        event_log.close()


async def test_a_hook_that_fails_every_other_time_is_a_line_a_minute(caplog):
    """Not one traceback per signal."""
    turn = iter(range(10_000))
    async with client(FakeOrg(), on_settled=lambda _: 1 / (next(turn) % 2)) as c:
        await c.enqueue_many(signals(200))
        await c.flush()
        assert c.statistics().hook_errors == 100
    assert len(said(caplog, "hook_failed")) == 1


async def test_nothing_is_said_per_signal(caplog):
    """Ten thousand signals are as many lines as ten."""
    caplog.set_level(logging.INFO)
    counts = []
    for count in (10, 10_000):
        caplog.clear()
        async with client(FakeOrg()) as c:
            await c.enqueue_many(signals(count))
            await c.flush()
        counts.append(len(caplog.records))
    assert counts[0] == counts[1]


def lines_in_the_code():
    """Find the calls of `log_fields` and `EventLog.emit`: the event, `None` if it is a variable, and the fields."""
    for path in HOUSE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "log_fields":
                event = node.args[0]
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", None) == "emit" and len(node.args) == 3:
                event = node.args[1]
            else:
                continue
            if not (path.name == "log.py" and isinstance(event, ast.Name)):  # where the two are defined
                fields = {keyword.arg for keyword in node.keywords if keyword.arg}
                yield event.value if isinstance(event, ast.Constant) else None, fields


def test_every_line_is_in_the_table():
    """An event that the table does not name is one that nobody can look for; nor is any named that is not written."""
    found = list(lines_in_the_code())
    assert sum(event is None for event, _ in found) == 1  # slowed or paused
    assert {event for event, _ in found} - {None} | {"slowed", "paused"} == set(EVENTS)


def test_every_field_is_in_the_table():
    """A line has no field but those that the table names for its event, the org and what was held back."""
    for event, fields in lines_in_the_code():
        told = EVENTS["paused" if event is None else event].fields.split()
        assert fields <= {"org", "held_back", *told}, event


@pytest.fixture(autouse=True)
def _told_as_the_table_says(caplog):
    """Every line of these tests has the level and the fields of the table."""
    yield
    for record in caplog.get_records("call"):
        if record.name == "riskbatch" and (event := EVENTS.get(record.riskbatch_event)):
            assert record.levelname in re.findall(r"[A-Z]{4,}", event.level), record.riskbatch_event
            fields = {name.removeprefix("riskbatch_") for name in vars(record) if name.startswith("riskbatch_")}
            assert fields <= {"event", "org", "held_back", *event.fields.split()}, record.riskbatch_event


def test_every_line_of_the_library_has_an_event():
    """No call of the logger goes without the field by which programs tell the lines apart."""
    levels = ("debug", "info", "warning", "error", "exception", "log")
    for path in HOUSE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            function = node.func if isinstance(node, ast.Call) else None
            if getattr(getattr(function, "value", None), "id", None) == "logger" and function.attr in levels:
                assert "extra" in [keyword.arg for keyword in node.keywords], f"{path.name}:{node.lineno}"
