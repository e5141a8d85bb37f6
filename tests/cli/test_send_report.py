"""What became of every record."""

import io
import json
from datetime import UTC, datetime

import pytest

from riskbatch.cli import report, terminal
from riskbatch.cli.fields import Fields
from riskbatch.cli.records import Record

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def account(rejected: io.StringIO | None = None, screen: io.StringIO | None = None) -> report.Report:
    return report.Report(Fields(), terminal.Screen(screen), rejected, terminal.Stop())


def test_what_was_read_and_never_admitted_is_unsent():
    """The record that waits for room when the end comes is not forgotten."""
    file = io.StringIO()
    told = account(file)
    told.read(Record(3, {"ip": "1.1.1.1", "riskLevel": "LOW"}), NOW)
    told.close("interrupted")

    assert told.first_open() == (1, 3)
    assert json.loads(file.getvalue()) == {
        "line": 3,
        "record": 1,
        "outcome": "unsent",
        "reason": "interrupted",
        "original": {"ip": "1.1.1.1", "riskLevel": "LOW"},
    }


def test_a_signal_that_stands_twice_in_a_feed_is_two():
    """Records that are equal in everything, their times included, are each sent and accounted for."""
    file = io.StringIO()
    told = account(file)
    twice = {"ip": "1.1.1.1", "riskLevel": "LOW", "timestamp": "2026-01-01T00:00:00Z"}
    entered = told.read(Record(1, twice), NOW) + told.read(Record(2, twice), NOW)
    assert len(set(entered)) == 2
    told.close("interrupted")
    assert [json.loads(line)["line"] for line in file.getvalue().splitlines()] == [1, 2]


def test_refusals_are_grouped_by_reason_with_the_first_line_of_each():
    """Whoever has a thousand refusals reads a few lines."""
    told = account()
    for line in range(1, 31):
        told.read(Record(line, {"ip": f"10.0.0.{line}/8" if line % 3 else f"x{line}", "riskLevel": "LOW"}), NOW)
    lines = list(told.table())

    assert any("invalid, 20 times: ip must be a single address" in line and "line 1" in line for line in lines)
    assert any("invalid, 10 times: ip must be an IPv4" in line and "line 3" in line for line in lines)
    assert len(lines) == 4
    assert [each["count"] for each in told.to_json()["reasons"]] == [20, 10]


def test_reasons_are_bounded():
    """A feed that invents reasons does not fill the memory."""
    told = account()
    for line in range(1, 201):
        told.read(Record(line, {f"field{line}": 1}), NOW)

    assert len(told.to_json()["reasons"]) <= report.KINDS + 1
    assert sum(each["count"] for each in told.to_json()["reasons"]) == 200


def test_after_a_thousand_refusals_and_no_signal_the_rest_is_not_tried():
    told = account()
    for line in range(report.HOPELESS):
        told.read(Record(line, {}), NOW)
        told.give_up_if_hopeless()
    told.read(Record(report.HOPELESS, {}), NOW)
    with pytest.raises(report.NoSignals, match="no signal"):
        told.give_up_if_hopeless()

    assert told.records == report.HOPELESS + 1


def test_one_signal_among_a_thousand_refusals_is_reason_to_go_on():
    told = account()
    for line in range(1, 3000):
        told.read(Record(line, {"ip": "1.1.1.1", "riskLevel": "LOW"} if line == 1000 else {}), NOW)
        told.give_up_if_hopeless()

    assert told.counts["invalid"] == 2998


def test_what_a_record_says_cannot_steer_the_terminal():
    screen = io.StringIO()
    told = account(screen=screen)
    told.read(Record(1, {"\x1b[31m": 1, "\u202e": 2, "ip": "\x1b[2J"}), NOW)
    for line in told.table():
        told.screen.say(line)

    assert all(line.isprintable() for line in screen.getvalue().splitlines())
