"""`riskbatch send`: a feed through the client, as large as it may be, with an account of every record."""

import argparse
import asyncio
import os
import sys
from contextlib import ExitStack, suppress
from typing import Literal, TextIO

import riskbatch as rb

from .check import Check
from .exits import NOT_ACCEPTED
from .fields import Fields, fields_of
from .options import explain, rate_limit
from .records import FORMATS, Feed
from .report import Report, write_report
from .source import Source
from .terminal import Screen, Stop

HELP = "send a file or a stream of signals"

_ABOUT = """\
Send a feed of signals to the org that OKTA_CLIENT_ORGURL names, with the API
token in OKTA_CLIENT_TOKEN. (No option takes the token: it would show in `ps`.)

A feed is JSON Lines, a JSON array, CSV with a header, or a list of addresses;
the content decides. A record has ip, riskLevel (HIGH, MEDIUM, LOW) and
optionally message, timestamp, expiresAt; --fields gives them other names, and
--level a level to all that have none. In JSON it may also be a whole Okta
RiskEvent. A feed is read as it is sent, so it may be larger than memory, or
never end; HIGH goes first among the 10,000 signals read ahead.

A record that is not accepted never stops the rest. Ctrl-C stops, and says what
was sent."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what `send` takes to *parser*."""
    explain(
        parser,
        _ABOUT,
        "riskbatch send feed.csv --check                      what would be sent?",
        "riskbatch send feed.csv --rejected bad.jsonl",
        "riskbatch send bad.jsonl --rejected worse.jsonl   once more, when it is fixed",
        "riskbatch send blocklist.txt --level HIGH            an address a line",
        "riskbatch send eve.json --fields ip=src_ip,message=alert.signature \\",
        "    --clean-messages --level MEDIUM",
        "tail -F alerts.jsonl | riskbatch send - --limit 15/60s",
        "riskbatch send feed.csv --store queue.db            stop and go on as you like",
        "riskbatch send --store queue.db                      only what waits in it",
        "",
        "exit status: 0 all accepted, 1 something was not, 2 usage or configuration,",
        "             130 stopped by Ctrl-C, 143 by SIGTERM",
    )
    add = parser.add_argument
    add(
        "file",
        metavar="FILE",
        nargs="?",
        help="what to send; - is standard input. If not given: standard input, or what is in --store",
    )
    add("--check", action="store_true", help="read everything, send nothing, and say what would be sent")
    add(
        "--fields",
        metavar="ip=NAME,...",
        help="which fields to read, by Okta's names: ip=src_ip,message=alert.signature; dots go into JSON",
    )
    levels = [level.value for level in rb.RiskLevel]
    add("--level", metavar="LEVEL", type=str.upper, choices=levels, help="of records that have none: HIGH, MEDIUM, LOW")
    add("--clean-messages", action="store_true", help="replace the characters of messages that Okta refuses")
    add("--format", choices=FORMATS, help="what the feed is, where its beginning does not tell")
    add(
        "--rejected",
        metavar="FILE",
        help="append what was not accepted to FILE, as JSON Lines with the reason; such a file can be sent again",
    )
    add(
        "--store",
        metavar="FILE",
        help="keep what waits in this file; the same command goes on after Ctrl-C, a crash or a power cut",
    )
    add("--again", action="store_true", help="send FILE from its beginning, also what the store has taken of it before")
    add("--report", metavar="FILE.json", help="write the final report to FILE.json, as one JSON object")
    add("--limit", metavar="30/60s", type=rate_limit, help="our share of the org's requests per time")
    add("--subjects-per-event", metavar="N", type=int, help="signals with equal times share an event, up to N (50)")
    add("--coalesce", action="store_true", help="a newer signal for an address replaces the one that waits")
    add("--org-url", metavar="URL", help="instead of OKTA_CLIENT_ORGURL")
    add("--quiet", action="store_true", help="no progress, and no report if all was accepted")


def run(options: argparse.Namespace) -> int:
    """Send the feed that *options* name and return the exit status."""
    if options.again and (options.store is None or options.file in (None, "-")):
        raise rb.ConfigurationError("--again is for --store and a FILE, which the store may have taken before")
    if options.file is None:  # with a store, what waits in it is enough
        options.file = "-" if options.store is None else os.devnull
    from .sending import Sending  # noqa: PLC0415 - imports aiohttp, which `--check` and the options do not need

    fields = _fields(options)
    with ExitStack() as stack:
        source = Source(options.file)
        stack.callback(source.close)
        rejected = _open(stack, source, "--rejected", options.rejected, "a")
        report = _open(stack, source, "--report", options.report, "w")
        feed = Feed(options.format, "" if options.file == "-" else options.file, fields)
        told = Report(fields, Screen(sys.stderr), rejected, Stop(), kept=options.store is not None)
        if options.check:
            told.tracks = False
            return _check(options, source, feed, told, report)
        told.tracks = options.store is None or source.size is None
        return asyncio.run(Sending(options, source, feed, told, report).run())


def _open(stack: ExitStack, source: Source, option: str, name: str | None, mode: Literal["a", "w"]) -> TextIO | None:
    if name is None:
        return None
    source.refuse_to_be(option, name)
    file = open(name, mode, encoding="utf-8", buffering=1)  # noqa: SIM115 - closed by the stack
    stack.callback(_close, file)
    return file


def _close(file: TextIO) -> None:
    with suppress(OSError):  # each line was flushed; what could not be written was told then
        file.close()


def _fields(options: argparse.Namespace) -> Fields:
    paths = {} if options.fields is None else fields_of(options.fields)
    return Fields(paths, None if options.level is None else rb.RiskLevel[options.level], options.clean_messages)


def _check(options: argparse.Namespace, source: Source, feed: Feed, report: Report, file: TextIO | None) -> int:
    per_event = 1 if options.subjects_per_event is None else options.subjects_per_event
    if not 1 <= per_event <= 50:  # Okta's limit, as the client has it
        raise rb.ConfigurationError(f"--subjects-per-event is {per_event}; it must be from 1 to 50")
    check = Check(feed, report, options.limit or rb.RateLimit(), per_event)
    check.run(iter(source.read_now, b""))
    status = NOT_ACCEPTED if report.refused() else 0
    if not options.quiet or status:
        for line in check.lines(source.name):
            report.screen.say(line)
    if file is not None:
        common = {"command": "send", "file": options.file, "check": True, "status": status, "stopped": None}
        write_report(file, common | report.to_json() | check.to_json())
    return status
