"""`riskbatch queue`: what operators do with what waits in a store's file or in a fleet's queue."""

import argparse
import asyncio
import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Self

from ..errors import ConfigurationError
from ..signals import RiskLevel, RiskSignal
from ..stores.sqlite import admin as files
from ..stores.valkey import admin as fleets
from ..stores.valkey.engine import Engine, FleetStatistics, ValkeyStore
from .exits import DONE, NOT_ACCEPTED
from .options import explain
from .recorded import recorded
from .terminal import Screen, counted, printable

if TYPE_CHECKING:
    from ..stores import StoredSignal
    from ..stores.sqlite.admin import FileStatistics, Settled
    from ..stores.valkey.admin import Shared

HELP = "count, list, export, import or drop what waits in a store"

_VERBS = {
    "stats": "count what waits, by level, and say who has it open",
    "ls": "list what waits, in the order of sending",
    "export": "print what waits as JSON Lines, which `send` and `import` read",
    "import": "add the signals of a feed",
    "drop": "remove what waits; it will not be sent",
}

_STATS_KEYS = """\
one JSON object. Of a file: store, waiting and oldest (by level), expired, settled (by outcome), size (bytes), owner
(process id or null). Of a fleet: store, name, ready (by level), waiting, held_back, in_flight, admitted, accepted,
requests, permits, limit, held_after (seconds), replicas (signals in flight, by name)"""

_LS_KEYS = """\
one JSON object: "signals" is a list of objects with row, state, enqueued_at, attempts, may_have_arrived and signal (as
`export` prints it); with --settled: settled_at, enqueued_at, outcome, detail and signal"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to *parser*."""
    explain(
        parser,
        """\
What waits in the file of a SqliteStore, or in the queue of a fleet. A client may
have the file open for stats, ls and export, but not for import and drop. With a
fleet, all is allowed at any time.""",
        "riskbatch queue stats signals.db",
        "riskbatch queue ls signals.db --level HIGH",
        "riskbatch queue ls signals.db --settled    with keep_settled: was it sent?",
        "riskbatch queue export signals.db > backlog.jsonl",
        "riskbatch queue import other.db backlog.jsonl",
        "riskbatch queue drop signals.db --level LOW",
        "riskbatch queue stats valkey://host:6379/0 --name acme",
    )
    verbs = parser.add_subparsers(title="what to do", metavar="VERB", dest="verb", required=True)
    for verb, line in _VERBS.items():
        each = verbs.add_parser(verb, help=line, description=f"{line[0].upper()}{line[1:]}.")
        each.add_argument("store", metavar="STORE", help="the file, or the URL of the fleet's engine")
        each.add_argument("--name", metavar="NAME", help="the name of the fleet")
        _add_more(each, verb)


def _add_more(parser: argparse.ArgumentParser, verb: str) -> None:
    add = parser.add_argument
    if verb == "import":
        add("feed", metavar="FILE", help="signals in any form that `send` reads")
    if verb in ("ls", "drop"):
        add("--level", choices=[level.value for level in RiskLevel], help="only signals of this level")
    if verb == "ls":
        add("--settled", action="store_true", help="instead, how signals ended, as far as the store keeps it")
    if verb == "drop":
        add("--row", metavar="ROW", type=int, help="only the signal that `ls` shows with this number")
        add("--all", action="store_true", help="everything that waits")
    if verb in ("stats", "ls"):
        add("--json", action="store_true", help=_STATS_KEYS if verb == "stats" else _LS_KEYS)


def run(options: argparse.Namespace) -> int:
    """Run the command and return the exit status."""
    options.level = RiskLevel[options.level] if getattr(options, "level", None) else None
    if options.verb == "drop" and options.row is None and options.level is None and not options.all:
        raise ConfigurationError("drop what? give --row, --level or --all")
    if "://" in options.store:
        return asyncio.run(_run_on_fleet(options))
    _run_on_file(options)
    return DONE


# -- a file


def _run_on_file(options: argparse.Namespace) -> None:
    store, level = options.store, options.level
    if options.verb == "import":
        print(f"{counted(files.import_signals(store, recorded(options.feed)), 'signal')} imported")
    elif options.verb == "drop":
        print(f"{counted(files.drop(store, row=options.row, level=level), 'signal')} dropped")
    elif options.verb == "stats":
        _show_file(store, files.stats(store), options.json)
    elif options.verb == "export":
        for obj in files.export_signals(store):
            print(json.dumps(obj))
    elif options.settled:
        with _Listing(options.json) as listing:
            for ended in files.settled(store):
                if level in (None, ended.signal.risk_level):
                    listing.add_settled(ended)
    else:
        with _Listing(options.json) as listing:
            for each in files.ls(store, level):
                listing.add_waiting(each)


def _show_file(store: str, found: "FileStatistics", as_json: bool) -> None:
    if as_json:
        numbers = {
            "store": store,
            "waiting": {level.value: count for level, count in found.waiting.items()},
            "oldest": {level.value: _time(at) for level, at in found.oldest.items()},
            "expired": found.expired,
            "settled": found.settled,
            "size": found.size,
            "owner": found.owner,
        }
        print(json.dumps(numbers, indent=2))
        return
    for level, count in found.waiting.items():
        since = f", the oldest since {_time(found.oldest[level])}" if level in found.oldest else ""
        print(f"{level.value:8}{count:>10,} waiting{since}")
    for outcome, count in found.settled.items():
        print(f"{printable(outcome):8}{count:>10,} kept of those settled")
    owner = "no client has it open" if found.owner is None else f"process {found.owner} has it open"
    print(f"{found.expired:,} of those that wait have expired; {found.size:,} bytes; {owner}")


# -- a fleet


async def _run_on_fleet(options: argparse.Namespace) -> int:
    if getattr(options, "settled", False):
        raise ConfigurationError("a fleet does not keep what is settled; its receipts and on_settled tell")
    engine = ValkeyStore(options.store, name=options.name or "any").connect("")  # without a name: to list the names
    try:
        names = [] if options.verb == "import" and options.name else await fleets.names(engine)
        there_are = f"there are: {', '.join(map(printable, names))}" if names else "there is none"
        if options.name is None:
            raise ConfigurationError(f"whose queue? give --name, as the fleet's ValkeyStore has it; {there_are}")
        if options.verb != "import" and options.name not in names:
            text = f"riskbatch: error: there is no fleet {options.name!r} in {printable(engine.shown)}; {there_are}"
            Screen(sys.stderr).say(text)
            return NOT_ACCEPTED
        await _run_verb(engine, options)
    finally:
        await engine.close()
    return DONE


async def _run_verb(engine: Engine, options: argparse.Namespace) -> None:
    level = options.level
    if options.verb == "import":
        print(f"{counted(await fleets.import_signals(engine, recorded(options.feed)), 'signal')} imported")
    elif options.verb == "drop":
        print(f"{counted(await fleets.drop(engine, row=options.row, level=level), 'signal')} dropped")
    elif options.verb == "stats":
        _show_fleet(engine, options.json, await fleets.stats(engine))
    elif options.verb == "export":
        async for each in fleets.ls(engine):
            if each.waits != "in flight":
                print(json.dumps(each.signal.to_json()))
    else:
        with _Listing(options.json) as listing:
            async for each in fleets.ls(engine, level):
                listing.add_waiting(each, each.waits)


def _show_fleet(engine: Engine, as_json: bool, found: FleetStatistics) -> None:
    held_back = found.waiting - sum(found.ready_by_level.values())
    if as_json:
        same = ("waiting", "in_flight", "admitted", "accepted", "requests", "permits", "limit", "held_after")
        numbers = {
            "store": engine.shown,  # without the password that the URL may have
            "name": engine.name,
            "ready": {level.value: count for level, count in found.ready_by_level.items()},
            "held_back": held_back,
            **{name: getattr(found, name) for name in same},
            "replicas": dict(found.replicas),
        }
        print(json.dumps(numbers, indent=2))
        return
    for level, count in found.ready_by_level.items():
        print(f"{level.value:8}{count:>10,} ready")
    print(f"{found.waiting:,} wait, {held_back:,} of them held back; {found.in_flight:,} are in flight")
    print(f"{found.admitted:,} admitted so far, {found.accepted:,} accepted, in {found.requests:,} requests")
    wait = f", and nothing is sent for {found.held_after:.0f} s" if found.held_after else ""
    print(f"{found.permits} of {found.limit} permits are free{wait}")
    for replica, count in sorted(found.replicas.items()):
        print(f"{printable(replica)} has {counted(count, 'signal')} in flight")


# -- lists


class _Listing:
    """Signals on stdout: a line each, or the elements of one JSON object. None is kept, however many there are."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._separator = ""

    def __enter__(self) -> Self:
        if self._as_json:
            print('{"signals": [', end="")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._as_json and kind is None:  # after an error, what is there is no whole object, and must not look so
            print("\n]}")

    def add_waiting(self, each: "StoredSignal | Shared", state: str = "ready") -> None:
        """Show a signal that waits."""
        if self._as_json:
            names = ("row", "attempts", "may_have_arrived")
            numbers = {name: getattr(each, name) for name in names}
            self._add({"state": state, "enqueued_at": _time(each.enqueued_at), **numbers}, each.signal)
        else:
            may = " may have arrived" if each.may_have_arrived else ""
            shown = "" if state == "ready" else f" {state}"
            print(f"{each.row:>10} {_time(each.enqueued_at)} {_described(each.signal)}{may}{shown}")

    def add_settled(self, each: "Settled") -> None:
        """Show a signal that has its outcome."""
        if self._as_json:
            times = {"settled_at": _time(each.settled_at), "enqueued_at": _time(each.enqueued_at)}
            self._add({**times, "outcome": each.outcome, "detail": each.detail}, each.signal)
        else:
            print(f"{_time(each.settled_at)} {printable(each.outcome):10} {_described(each.signal)}")

    def _add(self, fields: dict[str, object], signal: RiskSignal) -> None:
        print(f"{self._separator}\n{json.dumps({**fields, 'signal': signal.to_json()})}", end="")
        self._separator = ","


def _time(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"


def _described(signal: RiskSignal) -> str:
    return f"{signal.risk_level.value:6} {signal.ip} {printable(signal.message or '', 600)}".rstrip()
