"""
The command line: its options, and what each command calls.

It stands on the public API alone. Reports and progress go to stderr; stdout belongs to what a command shows.
"""

import argparse
import asyncio
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import TYPE_CHECKING

import riskbatch as rb

from .demo import demo, emulate
from .records import CHUNK, FORMATS, Feed, signals
from .send import send
from .terminal import INTERRUPTED, PIPE_BROKEN, USAGE, Screen, because, counted, printable

if TYPE_CHECKING:
    from ..stores import StoredSignal
    from ..stores.sqlite.admin import FileStatistics
    from ..stores.valkey.admin import Shared


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv* (`sys.argv` if not given) and return the exit status; a fault is one line."""
    logger = logging.getLogger("riskbatch")
    silent = logging.NullHandler()  # each command says in its own way what the log would
    logger.addHandler(silent)
    try:
        status = _run(argv)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of our stdout has left, as `| head` does
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's last flush complains
        return PIPE_BROKEN
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        logger.removeHandler(silent)
    return status


def _run(argv: Sequence[str] | None) -> int:
    parser = _parser()
    try:
        options = parser.parse_args(argv)
    except SystemExit as done:  # --help, --version, or a usage error that argparse has written
        return done.code if isinstance(done.code, int) else USAGE
    try:
        return int(options.command(options)) if options.command else _help(parser)
    except BrokenPipeError:
        raise
    except rb.RiskbatchError as error:
        reason = str(error)
    except OSError as error:
        reason = because(error)
    Screen(sys.stderr).say(f"riskbatch: error: {reason}")
    return USAGE


def _help(parser: argparse.ArgumentParser) -> int:
    parser.print_help(sys.stderr)
    return USAGE


# -- options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="riskbatch")
    _explain(
        parser,
        "Send IP risk signals to Okta: HIGH first, 20 a request, never more than 30\nrequests a minute.",
        "riskbatch demo                                see it work; no Okta org is needed",
        "riskbatch send feed.csv --rejected bad.jsonl  send a file",
        "tail -F alerts.jsonl | riskbatch send -       send signals as they come",
    )
    parser.add_argument("--version", action="version", version=f"riskbatch {version('riskbatch')}")
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_send(commands.add_parser("send", help="send a file or a stream of signals"))
    _add_demo(commands.add_parser("demo", help="watch the real client at the real pace, against a local Okta"))
    _add_emulate(commands.add_parser("emulate", help="run a strict local Okta to send to"))
    _add_simulate(commands.add_parser("simulate", help="is the budget enough for my traffic? an hour in seconds"))
    _add_providers(
        commands.add_parser("providers", help="list, create or change who may send, and what Okta does with it")
    )
    _add_doctor(commands.add_parser("doctor", help="is all in order for sending? if not, what must be mended"))
    _add_queue(commands.add_parser("queue", help="look at, move or mend what waits in a store"))
    return parser


def _explain(parser: argparse.ArgumentParser, about: str, *examples: str) -> None:
    parser.description = about
    parser.epilog = "\n".join(["examples:", *(f"  {example}".rstrip() for example in examples)])
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.allow_abbrev = False  # an abbreviation that works today is ambiguous with the next option


def _add_send(parser: argparse.ArgumentParser) -> None:
    _explain(
        parser,
        """\
Send a feed of signals to the org that OKTA_CLIENT_ORGURL names, with the API
token in OKTA_CLIENT_TOKEN. (No option takes the token: it would show in `ps`.)

A feed is JSON Lines, a JSON array, or CSV with a header. A record has ip,
riskLevel (HIGH, MEDIUM, LOW) and optionally message, timestamp, expiresAt; in
JSON it may also be a whole Okta RiskEvent with its subjects. A feed is read as it
is sent, so it may be larger than memory, or never end; HIGH goes first among the
10,000 signals read ahead.

A record that is not accepted never stops the rest. Ctrl-C stops, and says what
was sent.""",
        "riskbatch send feed.csv --rejected bad.jsonl",
        "riskbatch send bad.jsonl --rejected worse.jsonl      once more, when it is mended",
        "tail -F alerts.jsonl | riskbatch send - --limit 15/60s",
        "riskbatch send feed.csv --store queue.db             stop and go on as you like",
        "riskbatch send --store queue.db                      only what waits in it",
        "",
        "exit status: 0 all accepted, 1 something was not, 2 usage or configuration,",
        "             130 stopped by Ctrl-C, 143 by SIGTERM",
    )
    add = parser.add_argument
    add("file", metavar="FILE", nargs="?", help="what to send; - is standard input, as is nothing without --store")
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
    add("--format", choices=FORMATS, help="what the feed is, where its name and beginning do not tell")
    add("--limit", metavar="30/60s", type=_rate, help="our share of the org's requests per time")
    add("--subjects-per-event", metavar="N", type=int, help="signals with equal times share an event, up to N (50)")
    add("--coalesce", action="store_true", help="a newer signal for an address replaces the one that waits")
    add("--org-url", metavar="URL", help="instead of OKTA_CLIENT_ORGURL")
    add("--quiet", action="store_true", help="no progress, and no report if all was accepted")
    parser.set_defaults(command=send)


def _add_demo(parser: argparse.ArgumentParser) -> None:
    _explain(
        parser,
        "Start a local Okta org that takes 30 requests a minute, and send it a feed through\n"
        "the real client in real time: half a minute that shows what this product does.",
        "riskbatch demo",
    )
    parser.set_defaults(command=demo)


def _add_emulate(parser: argparse.ArgumentParser) -> None:
    _explain(
        parser,
        "Run a strict local Okta org until Ctrl-C, and print what to export so that\n`riskbatch send` finds it.",
        "riskbatch emulate --port 8080",
        "riskbatch emulate --limit 15/60s --window sliding --latency 0.3 --fault 0.05",
    )
    add = parser.add_argument
    add("--port", type=_port, default=0, help="on 127.0.0.1; any free one if not given")
    add("--limit", metavar="30/60s", type=_rate, default=rb.RateLimit(), help="requests that the org takes per time")
    add("--window", choices=("fixed", "sliding"), default="fixed", help="how it counts them; fixed, as Okta does")
    add("--latency", metavar="SECONDS", type=_number(86400.0), default=0.1, help="until an answer; 0.1")
    add("--token", help="the API token that it takes")
    add("--fault", metavar="SHARE", type=_number(1.0), default=0.0, help="of the requests that get a 503, such as 0.05")
    parser.set_defaults(command=emulate)


def _add_simulate(parser: argparse.ArgumentParser) -> None:
    _explain(
        parser,
        """\
Run the real client on a virtual clock against a local org without sockets, and
tell how long signals of each level would wait, what is left over, and what the
org would see. Traffic is given by rate, by bursts, or as a recorded feed whose
timestamps say when each signal came.""",
        "riskbatch simulate --high 1/s --low 40/s --compare",
        "riskbatch simulate --low 5/s --burst 300xHIGH/300s --plot waits.png",
        "riskbatch simulate --replay yesterday.jsonl --limit 15/60s",
    )
    add = parser.add_argument
    for level in rb.RiskLevel:
        name = level.value.lower()
        add(
            f"--{name}",
            metavar="RATE",
            type=_per_second,
            default=0.0,
            help=f"{level.value} signals, such as 5/s or 90/m",
        )
    burst = "so many signals within a second, every so many seconds, give or take a fifth; may be given again"
    add("--burst", metavar="300xHIGH/300s", type=_burst, action="append", default=[], help=burst)
    add("--replay", metavar="FILE", help="a recorded feed instead, in any form that `send` reads")
    add("--for", metavar="TIME", dest="seconds", type=_time, help="such as 90m or 1h; 1h, or as long as the feed")
    add("--limit", metavar="30/60s", type=_rate, default=rb.RateLimit(), help="requests that the org takes per time")
    add("--window", choices=("fixed", "sliding"), default="fixed", help="how it counts them; fixed, as Okta does")
    add("--latency", metavar="SECONDS", type=_number(60.0), default=0.25, help="from a request to its answer; 0.25")
    add("--reserve", metavar="N", type=int, default=3, help="requests that only a payload with a HIGH may use; 3")
    add("--subjects-per-event", metavar="N", type=int, default=1, help="signals with equal times share an event")
    add("--coalesce", action="store_true", help="a newer signal for an address replaces the one that waits")
    add("--addresses", metavar="N", type=int, help="how many addresses report; each signal has its own if not given")
    add(
        "--expires-after", metavar="TIME", type=_time, help="how long a signal is worth anything; for ever if not given"
    )
    add(
        "--capacity",
        metavar="N",
        type=int,
        default=1_000_000,
        help="signals that may wait; then the oldest of the lowest go",
    )
    add("--seed", type=int, default=0, help="another number makes other traffic of the same kind")
    add("--compare", action="store_true", help="beside it, the two clients that people make by hand")
    add("--plot", metavar="FILE.png", help="draw the queue and the waits over time (needs riskbatch[plot])")
    parser.set_defaults(command=_simulate)


def _add_providers(parser: argparse.ArgumentParser) -> None:
    _explain(
        parser,
        """\
The risk providers of the org that OKTA_CLIENT_ORGURL names: at most three. A
sender must be one before its first event, by the client id of its app, and what
it sends changes nothing at sign-in until its action is enforce_and_log. A service
app needs the scope okta.riskProviders.manage (okta.riskProviders.read to list).""",
        "riskbatch providers list",
        "riskbatch providers update Default --client-id 0oa1234 --action enforce_and_log",
        "riskbatch providers create 'Edge detection' --client-id 0oa1234",
    )
    parser.set_defaults(command=_providers, verb="list")
    verbs = parser.add_subparsers(title="what to do", metavar="VERB", dest="verb", required=True)
    actions = ("none", "log_only", "enforce_and_log")
    for verb in ("list", "create", "update"):
        each = verbs.add_parser(verb, allow_abbrev=False)
        each.add_argument("--org-url", metavar="URL", help="instead of OKTA_CLIENT_ORGURL")
        if verb == "list":
            continue
        each.add_argument("name", metavar="NAME", help="of the new one" if verb == "create" else "or id, of the one")
        each.add_argument("--client-id", required=verb == "create", help="of the service app that sends")
        default = "log_only" if verb == "create" else None
        each.add_argument("--action", default=default, choices=actions, help="what Okta does with its events")
        if verb == "update":
            each.add_argument("--name", dest="new_name", metavar="NEW", help="a new name")


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    _explain(
        parser,
        """\
Check the org and the credentials that the environment names: URL, reach, TLS,
clock, endpoint, credentials, scopes, risk provider and budget; and say in plain
words what to mend. It changes nothing, and sends no risk event unless --send asks
for one. A service app needs okta.riskProviders.read for the provider.""",
        "riskbatch doctor",
        "riskbatch doctor --send 203.0.113.7",
        "",
        "exit status: 0 all is well, 1 something must be mended",
    )
    parser.add_argument("--org-url", metavar="URL", help="instead of OKTA_CLIENT_ORGURL")
    parser.add_argument(
        "--send", metavar="IP", help="really send a LOW signal for this address, and look at the budget"
    )
    parser.set_defaults(command=_doctor)


def _add_queue(parser: argparse.ArgumentParser) -> None:
    _explain(
        parser,
        """\
What waits in the file of a SqliteStore, or in the queue of a fleet. Looking into a
file is allowed while a client has it, import and drop are refused then; with a fleet
all is allowed at any time.""",
        "riskbatch queue stats signals.db",
        "riskbatch queue ls signals.db --level HIGH",
        "riskbatch queue ls signals.db --settled               with keep_settled=...: was it sent?",
        "riskbatch queue export signals.db > backlog.jsonl",
        "riskbatch queue import other.db backlog.jsonl",
        "riskbatch queue drop signals.db --level LOW",
        "riskbatch queue stats valkey://host:6379/0 --name acme",
    )
    parser.set_defaults(command=_queue)
    verbs = parser.add_subparsers(title="what to do", metavar="VERB", dest="verb", required=True)
    for verb in ("stats", "ls", "export", "import", "drop"):
        each = verbs.add_parser(verb, allow_abbrev=False)
        each.add_argument("store", metavar="STORE", help="the file, or the URL of the fleet's engine")
        each.add_argument("--name", help="of the fleet")
        if verb == "import":
            each.add_argument("feed", metavar="FILE", help="signals in any form that `send` reads")
        if verb in ("ls", "drop"):
            each.add_argument("--level", choices=[level.value for level in rb.RiskLevel], help="only of this level")
        if verb == "ls":
            each.add_argument("--settled", action="store_true", help="instead, how signals ended, as far as it is kept")
        if verb == "drop":
            each.add_argument("--row", type=int, help="only this one, as `ls` shows it")
            each.add_argument("--all", action="store_true", help="everything that waits")


def _per_second(text: str) -> float:
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)/(s|m|min|h)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate such as 5/s, 90/m or 100/h")
    return float(match[1]) / {"s": 1, "m": 60, "min": 60, "h": 3600}[match[2]]


def _burst(text: str) -> tuple[int, rb.RiskLevel, float]:
    match = re.fullmatch(r"(\d{1,6})x(HIGH|MEDIUM|LOW)/(\w+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not COUNTxLEVEL/TIME, such as 300xHIGH/300s")
    return int(match[1]), rb.RiskLevel[match[2]], _time(match[3])


def _time(text: str) -> float:
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)(s|m|min|h|d|)", text)
    if match is None or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 30s, 90m or 1h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}[match[2]]


def _rate(text: str) -> rb.RateLimit:
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9}(?:\.\d{1,9})?)s?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not REQUESTS/SECONDS, such as 30/60s")
    try:
        return rb.RateLimit(int(match[1]), float(match[2]))
    except rb.ConfigurationError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _port(text: str) -> int:
    if re.fullmatch(r"\d{1,5}", text) and int(text) < 2**16:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 65535")


def _number(most: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        with suppress(ValueError):
            if 0 <= float(text) <= most:
                return float(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {most:g}")

    return parse


# -- simulate


def _simulate(options: argparse.Namespace) -> int:
    from ..simulation import simulation as simulate  # noqa: PLC0415 - as the emulator, it is loaded only where it is used

    if options.replay is None and not (options.high or options.medium or options.low or options.burst):
        raise rb.ConfigurationError("there is no traffic: give a rate such as --high 1/s, a --burst, or --replay FILE")
    recorded = None if options.replay is None else list(simulate.replay(_recorded(options.replay)))
    traffic = simulate.Traffic(
        {rb.RiskLevel[name]: getattr(options, name.lower()) for name in ("HIGH", "MEDIUM", "LOW")},
        tuple(options.burst),
        options.addresses,
        options.expires_after,
    )
    seconds = options.seconds or (max(60.0, recorded[-1].at + 60.0) if recorded else 3600.0)
    simulation = simulate.Simulation(
        (lambda: traffic.arrivals(seconds, options.seed)) if recorded is None else (lambda: recorded),
        seconds,
        options.limit,
        options.latency,
        options.window,
        {
            "reserve": options.reserve,
            "subjects_per_event": options.subjects_per_event,
            "coalesce": options.coalesce,
            "capacity": options.capacity,
            "when_full": "shed",
        },
    )
    subjects = [simulate.riskbatch]
    if options.compare:
        subjects += [simulate.fifo_by_hand, simulate.priority_by_hand]
    outcomes = [simulation.run(subject) for subject in subjects]
    print(simulate.report(outcomes))
    if options.plot:
        try:
            simulate.plot(outcomes, options.plot)
        except ModuleNotFoundError:
            raise rb.ConfigurationError("--plot needs matplotlib: pip install 'riskbatch[plot]'") from None
    return 0


def _recorded(name: str) -> Iterator[rb.RiskSignal]:
    """Yield the valid signals of the feed *name*; how many are not is told on stderr."""
    feed, refused = Feed(None, name), 0
    with open(name, "rb") as file:
        chunks = iter(lambda: file.read(CHUNK), b"")
        for records in (*(feed.push(chunk) for chunk in chunks), feed.end()):
            for record in records:
                for found, _ in signals(record.value):
                    if isinstance(found, rb.RiskSignal):
                        yield found
                    else:
                        refused += 1
    if refused:
        print(f"{counted(refused, 'record')} of {name} left out, being no signal", file=sys.stderr)


def _doctor(options: argparse.Namespace) -> int:
    from .doctor import doctor  # noqa: PLC0415 - loaded only where it is used

    return doctor(options)


# -- providers


def _providers(options: argparse.Namespace) -> int:
    return asyncio.run(_call_providers(options))


async def _call_providers(options: argparse.Namespace) -> int:
    from ..okta.providers import MANAGE_SCOPE, READ_SCOPE, Providers  # noqa: PLC0415 - loaded only where it is used

    scope = READ_SCOPE if options.verb == "list" else MANAGE_SCOPE
    async with Providers.from_env(scope=scope, org_url=options.org_url) as providers:
        if options.verb == "create":
            found = [await providers.create(options.name, options.client_id, options.action)]
        elif options.verb == "update":
            changes = {"name": options.new_name, "client_id": options.client_id, "action": options.action}
            found = [await providers.update(options.name, **changes)]
        else:
            found = await providers.list()
    print(f"{'name':24} {'action':16} {'client id':24} id")
    for each in found:
        print(f"{printable(each.name):24} {each.action:16} {printable(each.client_id):24} {printable(each.id)}")
    return 0


# -- queue


def _queue(options: argparse.Namespace) -> int:
    from ..stores.sqlite import admin  # noqa: PLC0415 - loaded only where it is used

    level = rb.RiskLevel[options.level] if getattr(options, "level", None) else None
    if options.verb == "drop" and options.row is None and level is None and not options.all:
        raise rb.ConfigurationError("drop what? give --row, --level or --all")
    if "://" in options.store:
        return asyncio.run(_fleet_queue(options, level))
    if options.verb == "import":
        print(f"{counted(admin.import_signals(options.store, _recorded(options.feed)), 'signal')} imported")
    elif options.verb == "export":
        for obj in admin.export_signals(options.store):
            print(json.dumps(obj))
    elif options.verb == "ls" and options.settled:
        for ended in admin.settled(options.store):
            if level in (None, ended.signal.risk_level):
                print(f"{ended.settled_at:%Y-%m-%dT%H:%M:%SZ} {ended.outcome:10} {_described(ended.signal)}")
    elif options.verb == "ls":
        for each in admin.ls(options.store, level):
            _print_waiting(each)
    elif options.verb == "drop":
        print(f"{counted(admin.drop(options.store, row=options.row, level=level), 'signal')} dropped")
    else:
        _print_stats(admin.stats(options.store))
    return 0


async def _fleet_queue(options: argparse.Namespace, level: rb.RiskLevel | None) -> int:
    from ..stores.valkey import admin  # noqa: PLC0415 - loaded only where it is used

    if options.name is None:
        raise rb.ConfigurationError("whose queue? give --name, as the fleet's ValkeyStore has it")
    if getattr(options, "settled", False):
        raise rb.ConfigurationError("a fleet does not keep what is settled; its receipts and on_settled tell")
    engine = rb.ValkeyStore(options.store, name=options.name).connect("")
    try:
        if options.verb == "import":
            print(f"{counted(await admin.import_signals(engine, _recorded(options.feed)), 'signal')} imported")
        elif options.verb == "drop":
            print(f"{counted(await admin.drop(engine, row=options.row, level=level), 'signal')} dropped")
        elif options.verb == "stats":
            _print_fleet(await admin.stats(engine))
        else:
            async for each in admin.ls(engine, level):
                if options.verb == "ls":
                    _print_waiting(each, "" if each.waits == "ready" else each.waits)
                elif each.waits != "in flight":
                    print(json.dumps(each.signal.to_json()))
    finally:
        await engine.close()
    return 0


def _print_waiting(each: "StoredSignal | Shared", state: str = "") -> None:
    may = " may have arrived" if each.may_have_arrived else ""
    came = f"{each.enqueued_at:%Y-%m-%dT%H:%M:%SZ}"
    print(f"{each.row:>10} {came} {_described(each.signal)}{may} {state}".rstrip())


def _described(signal: rb.RiskSignal) -> str:
    return f"{signal.risk_level.value:6} {signal.ip} {signal.message or ''}".rstrip()


def _print_fleet(found: rb.FleetStatistics) -> None:
    for level, count in found.ready_by_level.items():
        print(f"{level.value:8}{count:>10,} ready")
    held_back = found.waiting - sum(found.ready_by_level.values())
    print(f"{found.waiting:,} wait, {held_back:,} of them held back; {found.in_flight:,} are in flight")
    print(f"{found.admitted:,} admitted so far, {found.accepted:,} accepted, in {found.requests:,} requests")
    wait = f", and nothing is sent for {found.held_after:.0f} s" if found.held_after else ""
    print(f"{found.permits} of {found.limit} permits are free{wait}")
    for replica, count in sorted(found.replicas.items()):
        print(f"{replica} has {counted(count, 'signal')} in flight")


def _print_stats(found: "FileStatistics") -> None:
    for level, count in found.waiting.items():
        since = f", the oldest since {found.oldest[level]:%Y-%m-%dT%H:%M:%SZ}" if level in found.oldest else ""
        print(f"{level.value:8}{count:>10,} waiting{since}")
    for outcome, count in found.settled.items():
        print(f"{outcome:8}{count:>10,} kept of those settled")
    owner = "no client has it open" if found.owner is None else f"process {found.owner} has it open"
    print(f"{found.expired:,} of those that wait have expired; {found.size:,} bytes; {owner}")
