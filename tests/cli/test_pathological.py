"""Feeds made to hang a reader, and damage that must cost no more than the record it is in."""

import asyncio
import contextlib
import json
import time

import pytest
from budget import budget

import riskbatch as rb
from riskbatch.cli import reader, terminal
from riskbatch.cli.fields import Fields
from riskbatch.cli.records import MAX_ROW, Feed, Record, Unreadable
from riskbatch.cli.report import Report

SIZE = budget(256 * 1024, 1024 * 1024)  # bytes
LOW = Fields(level=rb.RiskLevel.LOW)
HEAD = b"ip,riskLevel,message\n"
GOOD = b'{"ip":"10.0.0.1","riskLevel":"LOW"}'


def filled(unit: bytes, head: bytes = b"") -> bytes:
    return head + unit * (SIZE // len(unit))


def read(data: bytes) -> list[Record]:
    feed = Feed(None, fields=LOW)
    return [record for record in (*feed.push(data), *feed.end()) if record is not None]


PATHOLOGICAL = {
    "cells that open and close": filled(b',x","\n', HEAD),
    "an open quote and pairs of quotes": filled(b'""\n', HEAD + b'1.1.1.1,LOW,"\n'),
    "a quote a line": filled(b'"\n', HEAD),
    "a row of quoted cells": filled(b'"",', HEAD),
    "a row of quotes": filled(b'"', HEAD),
    "a row of commas": filled(b",", HEAD),
    "spaces and quotes": filled(b' "', HEAD),
    "open arrays": filled(b"["),
    "open objects": filled(b"{", b"["),
    "open objects in arrays": filled(b"[{"),
    "quotes in an array": filled(b'"', b"["),
    "backslashes in a text": filled(b"\\", b'["'),
    "no brackets at all": filled(b'"a" ', b"["),
    "a wrapper": filled(b'{"ip":"1.1.1.1"},\n', b'{"data":[\n'),
    "one long line of a list": filled(b"1", b"1.1.1.1\n"),
    "words": filled(b"hello "),
}


@pytest.mark.parametrize("name", PATHOLOGICAL)
def test_a_megabyte_of_it_is_read_in_time_that_grows_with_its_length_alone(name):
    """Every byte is looked at a bounded number of times: twice the bytes take twice the time, give or take."""
    data = PATHOLOGICAL[name]

    def seconds(length: int) -> float:
        began = time.thread_time()
        with contextlib.suppress(Unreadable):
            read(data[:length])
        return time.thread_time() - began

    small = max(0.05, seconds(SIZE // 8))
    assert seconds(SIZE // 4) < 4 * 2 * small


@pytest.mark.parametrize(
    "name", ["cells that open and close", "an open quote and pairs of quotes", "a quote a line", "open objects"]
)
async def test_the_loop_has_its_turn_while_it_is_read(name, monkeypatch):
    """Between two turns there are some milliseconds of work, whatever the feed is; measured in processor time."""

    class Bytes:
        def __init__(self) -> None:
            self.left = PATHOLOGICAL[name][: SIZE // 8]

        async def read(self) -> bytes:
            chunk, self.left = self.left[:65536], self.left[65536:]
            return chunk

    longest, before = 0.0, time.thread_time()

    async def look() -> None:
        nonlocal longest, before
        while True:
            now = time.thread_time()
            longest, before = max(longest, now - before), now
            await asyncio.sleep(0)

    report = Report(LOW, terminal.Screen(None), None, terminal.Stop())
    monkeypatch.setattr("riskbatch.cli.report.HOPELESS", SIZE)
    looking = asyncio.create_task(look())
    async for _ in reader.lots(Bytes(), Feed(None, fields=LOW), report):
        pass
    looking.cancel()
    assert longest < 0.02  # 5 ms is the aim; a shared machine takes its share


# -- damage in CSV


def test_a_row_over_several_lines_behind_a_bad_one_is_still_one_record():
    """Lines are read anew with the same rules: what an attacker puts into a message passes for no row."""
    found = read(HEAD + b'1.1.1.1,LOW,"never closed" x\n2.2.2.2,LOW,"a\n3.3.3.3,HIGH,\nb"\n4.4.4.4,LOW,\n')

    assert [(record.line, record.error is None) for record in found] == [(2, False), (3, True), (6, True)]


def test_a_quote_that_is_never_closed_costs_its_own_line_alone():
    rows = b"".join(b"10.0.%d.%d,LOW,x\n" % (i >> 8, i & 255) for i in range(3000))
    found = read(HEAD + b'x,LOW,"y\n' + rows)

    assert [record.line for record in found if record.error] == [2]
    assert len(rows) > 2 * MAX_ROW
    assert len(found) == 3001


# -- damage in JSON


def damaged(element: bytes, between: bytes) -> bytes:
    return b"[" + between.join([GOOD, element, *[GOOD] * 30]) + b"]"


@pytest.mark.parametrize("between", [b",", b", ", b",\n", b"\n,\n"])
@pytest.mark.parametrize(
    "element",
    [
        b'{"ip":"10.0.0.2,"riskLevel":"LOW"}',  # a quote that is not closed
        b'{"ip":"10.0.0.2","riskLevel":"LOW}',
        b'{"ip":"10.0.0.2","riskLevel":["LOW"}',  # brackets that do not match
        b'{"ip":"10.0.0.2","riskLevel":"LOW"]',
        b'{"ip":{"a":"10.0.0.2","riskLevel":"LOW"}',
        b'{"ip":"10.0.0.2" "riskLevel":"LOW"}',
    ],
)
def test_a_damaged_element_takes_at_most_its_neighbour_with_it(element, between):
    """An unclosed quote or a wrong bracket in an array is one refused record, and those behind it are read."""
    found = read(damaged(element, between))

    assert [record.value for record in found if record.error is None] == [json.loads(GOOD)] * (len(found) - 1)
    assert len(found) in (31, 32)
    assert sum(record.error is not None for record in found) == 1


def test_a_damaged_element_over_several_lines_is_one_refusal():
    """What is left of it passes for nothing."""
    element = b'{\n  "ip": "10.0.0.2,\n  "riskLevel": "LOW"\n}'
    found = read(damaged(element, b",\n"))

    assert [record.line for record in found if record.error] == [2]
    assert len(found) == 32


def test_what_stands_in_a_text_is_no_element():
    """Brackets, commas and quotes inside of a closed text end nothing."""
    value = {"ip": "10.0.0.1", "riskLevel": "LOW", "message": '},{"ip": [\\"'}

    assert [record.value for record in read(json.dumps([value, value]).encode())] == [value, value]
