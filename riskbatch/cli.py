"""
The command line: send a feed, watch a demonstration, run a local Okta.

It stands on the public API alone. Reports and progress go to stderr; stdout belongs to `demo` and `emulate`.
"""

import argparse
import asyncio
import json
import logging
import math
import os
import random
import re
import shlex
import signal
import stat
import statistics
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from typing import TYPE_CHECKING, TextIO

from attrs import frozen

import riskbatch as rb

from .feed import FORMATS, Feed, Record, mended, refusal, signals

if TYPE_CHECKING:
    from .emulator import Exchange, Fault, OktaEmulator

CAPACITY = 10_000  # unsettled signals: a quarter of an hour's budget to look for HIGH in, and some 10 MB
CHUNK = 16 * 1024  # bytes read at a time: some 2 ms of parsing between two turns of the event loop
GRACE = 3.0  # seconds that requests on their way get after the first Ctrl-C
SHOWN = 10  # refused records shown where no file takes them
TICK = 0.2  # seconds between two looks at the progress
PLAIN_TICK = 10.0  # seconds between two lines of progress where stderr is no terminal
FOREVER = 366 * 86400.0  # seconds; a client wants a finite time to drain in

NOT_ACCEPTED, USAGE, INTERRUPTED, PIPE_BROKEN, TERMINATED = 1, 2, 130, 141, 143  # exit statuses; 128 + the signal


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
        reason = _because(error)
    _Screen(sys.stderr).say(f"riskbatch: error: {reason}")
    return USAGE


def _help(parser: argparse.ArgumentParser) -> int:
    parser.print_help(sys.stderr)
    return USAGE


def _because(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)


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
        "",
        "exit status: 0 all accepted, 1 something was not, 2 usage or configuration,",
        "             130 stopped by Ctrl-C, 143 by SIGTERM",
    )
    add = parser.add_argument
    add("file", metavar="FILE", nargs="?", default="-", help="what to send; - is standard input")
    add(
        "--rejected",
        metavar="FILE",
        help="append what was not accepted to FILE, as JSON Lines with the reason; such a file can be sent again",
    )
    add("--format", choices=FORMATS, help="what the feed is, where its name and beginning do not tell")
    add("--limit", metavar="30/60s", type=_rate, help="our share of the org's requests per time")
    add("--subjects-per-event", metavar="N", type=int, help="signals with equal times share an event, up to N (50)")
    add("--coalesce", action="store_true", help="a newer signal for an address replaces the one that waits")
    add("--org-url", metavar="URL", help="instead of OKTA_CLIENT_ORGURL")
    add("--quiet", action="store_true", help="no progress, and no report if all was accepted")
    parser.set_defaults(command=_send)


def _add_demo(parser: argparse.ArgumentParser) -> None:
    _explain(
        parser,
        "Start a local Okta org that takes 30 requests a minute, and send it a feed through\n"
        "the real client in real time: half a minute that shows what this product does.",
        "riskbatch demo",
    )
    parser.set_defaults(command=_demo)


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
    parser.set_defaults(command=_emulate)


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


# -- ending early


class _Stop:
    """
    Asked by a signal, a fault or a reader who left: end in good order; asked twice, at once.

    Attributes:
        why: What asked first.
        status: The exit status it stands for; 0 if nothing asked.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.urged = asyncio.Event()
        self.why = ""
        self.status = 0

    def ask(self, why: str, status: int) -> None:
        """End for the reason *why*; later ones are passed over."""
        if not self.asked.is_set():
            self.why, self.status = why, status
            self.asked.set()

    def signal(self, number: int) -> None:
        """Take a signal: the first asks, the second urges, and the third is the system's again."""
        if self.asked.is_set():
            self.urged.set()
            signal.signal(number, signal.SIG_DFL)
        self.ask(*(("interrupted", INTERRUPTED) if number == signal.SIGINT else ("terminated", TERMINATED)))

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Listen to SIGINT and SIGTERM inside the block."""
        if threading.current_thread() is not threading.main_thread():  # which alone is told of signals
            yield
            return
        loop = asyncio.get_running_loop()

        def heard(number: int, _: object) -> None:
            loop.call_soon_threadsafe(self.signal, number)

        before = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)

    async def unless(self, work: Coroutine[object, object, None]) -> bool:
        """Do *work* until it is done or a stop is asked for, and tell whether it was done; its faults are raised."""
        tasks = [asyncio.create_task(work), asyncio.create_task(self.asked.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(results[0], Exception):
            raise results[0]
        return results[0] is None


# -- the terminal


class _Screen:
    """
    Whole lines, and on a terminal one more that is redrawn in place below them.

    A stream that is closed or broken takes nothing and hurts nobody: progress is not worth the sending.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.tty = stream is not None and stream.isatty()
        self._drawn = ""

    def width(self) -> int:
        """Return the columns that a line may have without wrapping: one less than the terminal's."""
        with suppress(OSError, ValueError, AttributeError):
            columns = os.get_terminal_size(self._stream.fileno()).columns  # type: ignore[union-attr]  # None: suppressed
            return (columns or 80) - 1
        return 79

    def say(self, text: str) -> None:
        """Write *text* as lines of their own."""
        self._write(f"{self._erased()}{text}\n")

    def draw(self, line: str) -> None:
        """Put *line* in place of the one drawn before; nothing but carriage returns and spaces is needed for it."""
        line = line[: self.width()]
        if line != self._drawn:
            self._write(f"{self._erased()}{line}")
            self._drawn = line

    def clear(self) -> None:
        """Take the drawn line away."""
        self._write(self._erased())

    def _erased(self) -> str:
        drawn, self._drawn = min(len(self._drawn), self.width()), ""
        return f"\r{' ' * drawn}\r" if drawn else ""

    def _write(self, text: str) -> None:
        if self._stream is not None and text:
            with suppress(OSError, ValueError):
                self._stream.write(text)
                self._stream.flush()


def _printable(text: str, most: int = 300) -> str:
    """Return *text* as one bounded line: what a feed or a server says must not steer the terminal."""
    line = "".join(c if c.isprintable() else "?" for c in text[: most + 1])
    return line if len(line) <= most else f"{line[: most - 3]}..."


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 99.5 else f"{hours:.0f} h"


# -- send


def _send(options: argparse.Namespace) -> int:
    with ExitStack() as stack:
        source = _Source(options.file)
        stack.callback(source.close)
        rejected = None
        if options.rejected is not None:
            source.refuse_to_be(options.rejected)
            rejected = open(options.rejected, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - closed by the stack
            stack.callback(_close, rejected)
        return asyncio.run(_Sending(options, source, rejected).run())


def _close(file: TextIO) -> None:
    with suppress(OSError):  # each line was flushed; what could not be written was told then
        file.close()


class _Source:
    """
    The bytes of a file or of standard input.

    Attributes:
        size: In bytes; `None` if it is not known, as with a pipe.
        taken: Bytes read so far.
    """

    def __init__(self, name: str) -> None:
        self.name = "standard input" if name == "-" else name
        self._fd = 0 if name == "-" else os.open(name, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            state = os.fstat(self._fd)
        except OSError as error:  # closed by `<&-`
            raise OSError(error.errno, error.strerror, self.name) from None
        if stat.S_ISDIR(state.st_mode):
            raise IsADirectoryError(21, "Is a directory", self.name)
        self.size = state.st_size if stat.S_ISREG(state.st_mode) else None
        self.taken = 0
        self._state = state

    def close(self) -> None:
        if self._fd:
            os.close(self._fd)

    def is_terminal(self) -> bool:
        return os.isatty(self._fd)

    def refuse_to_be(self, name: str) -> None:
        """Raise ConfigurationError if *name* is this very file, which would be read while it grows."""
        with suppress(FileNotFoundError):
            if os.path.samestat(self._state, os.stat(name)) and self.size is not None:
                raise rb.ConfigurationError(f"--rejected {name} is the file that is sent; name another one")

    async def read(self) -> bytes:
        """
        Return the next bytes as soon as there are any; none at the end.

        A daemon thread waits for them, since neither the event loop nor the end of the process may: a pipe can be
        silent for hours.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes | OSError] = loop.create_future()

        def settle(result: bytes | OSError) -> None:
            if not answer.done():
                answer.set_result(result)

        def read() -> None:
            result: bytes | OSError
            try:
                result = os.read(self._fd, CHUNK)
            except OSError as error:
                result = error
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, result)

        threading.Thread(target=read, name=f"reads {self.name}", daemon=True).start()
        result = await answer
        if isinstance(result, OSError):
            raise OSError(result.errno, result.strerror, self.name)
        self.taken += len(result)
        return result


@frozen(eq=False)
class _Item:
    """A signal under way, and where it came from."""

    record: Record
    number: int
    signal: rb.RiskSignal
    original: object


class _Ledger:
    """
    What became of every record.

    Attributes:
        records: Records read.
        last: The last of them.
        signals: Signals read, those that are none included.
        counts: Signals by what became of them.
    """

    def __init__(self, screen: _Screen, rejected: TextIO | None, stop: _Stop) -> None:
        self._screen = screen
        self._rejected = rejected
        self._stop = stop
        self.records = 0
        self.last: Record | None = None
        self.signals = 0
        self.counts: Counter[str] = Counter()
        self._under_way: dict[int, _Item] = {}  # by the identity of the signal, in the order read
        self._first_refused: tuple[int, int] | None = None  # number and line
        self._shown = 0

    def read(self, found: Record) -> list[rb.RiskSignal]:
        """Enter a record and return its signals; what is none is refused."""
        self.records += 1
        self.last = found
        record = mended(found)
        if record.error is not None:
            self.signals += 1
            facts = {"cut": True} if record.cut else {}
            self._refuse(record, self.records, "invalid", record.error, record.value, **facts)
            return []
        entered = []
        for made, original in signals(record.value):
            self.signals += 1
            if isinstance(made, str):
                self._refuse(record, self.records, "invalid", made, original)
            else:
                self._under_way[id(made)] = _Item(record, self.records, made, original)
                entered.append(made)
        return entered

    def settled(self, receipt: rb.Receipt) -> None:
        """Enter the outcome of a signal."""
        item = self._under_way.pop(id(receipt.signal))
        match receipt.outcome:
            case rb.Accepted():
                self.counts["accepted"] += 1
            case rb.Superseded():  # as --coalesce wants it: the newer one stands for it
                self.counts["superseded"] += 1
            case rb.Rejected(reason=reason, code=code):
                self._lose(item, "rejected", f"Okta refused it: {reason}", code=code)
            case rb.Expired(may_have_arrived=maybe):
                self._lose(item, "expired", "its expiresAt passed before it could be sent", maybe)
            case rb.Abandoned(reason=reason, may_have_arrived=maybe):
                self._lose(item, "maybe sent" if maybe else "unsent", reason, maybe)
            case outcome:
                self._lose(item, "unsent", type(outcome).__name__.lower())

    def close(self, why: str) -> None:
        """Enter as unsent what was read and never admitted."""
        for key in list(self._under_way):
            self._lose(self._under_way.pop(key), "unsent", why)

    def refused(self) -> int:
        """Return how many signals were not accepted so far."""
        return self.counts.total() - self.counts["accepted"] - self.counts["superseded"]

    def first_open(self) -> tuple[int, int] | None:
        """Return number and line of the first record that is not, or not yet, accepted."""
        item = next(iter(self._under_way.values()), None)
        under_way = [] if item is None else [(item.number, item.record.line)]
        return min([*under_way, *([self._first_refused] if self._first_refused else [])], default=None)

    def _lose(self, item: _Item, outcome: str, reason: str, maybe: bool = False, code: str | None = None) -> None:
        facts: dict[str, object] = {"may_have_arrived": True} if maybe else {}
        if code is not None:
            facts["code"] = code
        self._refuse(item.record, item.number, outcome, reason, item.original, **facts)

    def _refuse(
        self, record: Record, number: int, outcome: str, reason: str, original: object, **facts: object
    ) -> None:
        self.counts[outcome] += 1
        self._first_refused = min(self._first_refused or (number, record.line), (number, record.line))
        if self._rejected is not None:
            try:
                self._rejected.write(refusal(record, number, outcome, reason, original, **facts) + "\n")
                return
            except OSError as error:
                self._rejected = None
                self._stop.ask(f"cannot write to --rejected: {_because(error)}", NOT_ACCEPTED)
        if outcome == "unsent":  # there may be thousands; the report says where to go on
            return
        self._shown += 1
        if self._shown <= SHOWN:
            self._screen.say(_printable(f"line {record.line}: {reason}"))
        elif self._shown == SHOWN + 1:
            self._screen.say("... and more; --rejected FILE would keep them all")


class _Sending:
    """One run of `riskbatch send`."""

    def __init__(self, options: argparse.Namespace, source: _Source, rejected: TextIO | None) -> None:
        self._source = source
        self._feed = Feed(options.format, "" if options.file == "-" else options.file)
        self._quiet = options.quiet
        self._rejected_name = options.rejected
        self._limit = options.limit or rb.RateLimit()
        self._screen = _Screen(sys.stderr)
        self._stop = _Stop()
        self._ledger = _Ledger(self._screen, rejected, self._stop)
        self._is_read = False
        self._rates: deque[tuple[float, int]] = deque()  # instants and what was accepted until then, of a minute
        self._end: tuple[int, float] | None = None  # requests so far, and the end that was foreseen then
        self._client = self._open(options)

    def _open(self, options: argparse.Namespace) -> rb.Client:
        given = {"org_url": options.org_url, "subjects_per_event": options.subjects_per_event}
        return rb.Client.from_env(
            limit=self._limit,
            capacity=CAPACITY,
            coalesce=options.coalesce,
            on_settled=self._ledger.settled,
            **{name: value for name, value in given.items() if value is not None},
        )

    async def run(self) -> int:
        """Send everything, or as much as there is time for, and return the exit status."""
        started = time.monotonic()
        if self._source.is_terminal() and not self._quiet:
            self._screen.say("Type signals, one a line; Ctrl-D ends.")
        with self._stop.on_signals():
            async with self._client as client:
                watching = asyncio.create_task(self._watch(client))
                try:
                    if await self._stop.unless(self._read_all(client)):
                        await self._drain(client)
                    if self._stop.asked.is_set():
                        await self._land(client)
                finally:
                    watching.cancel()
                    await asyncio.gather(watching, return_exceptions=True)
        self._ledger.close(self._stop.why)
        self._screen.clear()
        self._report(client.statistics(), time.monotonic() - started)
        return self._stop.status or (NOT_ACCEPTED if self._ledger.refused() else 0)

    async def _read_all(self, client: rb.Client) -> None:
        try:
            while chunk := await self._source.read():
                for record in self._feed.push(chunk):
                    await self._enqueue(client, record)
            for record in self._feed.end():
                await self._enqueue(client, record)
            self._is_read = True
        except (rb.RiskbatchError, OSError) as error:
            reason = _because(error) if isinstance(error, OSError) else str(error)
            self._stop.ask(reason, USAGE if self._ledger.records == 0 else NOT_ACCEPTED)

    async def _enqueue(self, client: rb.Client, record: Record) -> None:
        for signal_ in self._ledger.read(record):
            await client.enqueue(signal_)

    async def _drain(self, client: rb.Client) -> None:
        """Send what waits. A stop must not cancel this: what is on its way would be cut off."""
        if not await self._stop.unless(self._taken(client)):
            return
        draining = asyncio.create_task(client.aclose(FOREVER))
        stopping = asyncio.create_task(self._stop.asked.wait())
        await asyncio.wait({draining, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if self._stop.asked.is_set():
            await self._land(client)
        await draining

    async def _taken(self, client: rb.Client) -> None:
        """Wait until Okta has taken something: the burst of a drain is not for credentials that nobody has tried."""
        flushing = asyncio.create_task(client.flush())
        try:
            while not (flushing.done() or client.statistics().accepted):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        finally:
            flushing.cancel()

    async def _land(self, client: rb.Client) -> None:
        """Let the requests on their way be answered, for a moment, and end."""
        if client.statistics().requests_in_flight:
            self._screen.say(f"{self._stop.why}; up to {GRACE:g} s for the requests on their way, unless asked again")
        deadline = time.monotonic() + GRACE

        def is_waiting() -> bool:
            is_early = time.monotonic() < deadline and not self._stop.urged.is_set()
            return is_early and client.statistics().requests_in_flight > 0

        while is_waiting():  # noqa: ASYNC110 - the client tells nobody when a request is answered
            await asyncio.sleep(0.01)
        await client.aclose(0)

    # -- progress and report

    async def _watch(self, client: rb.Client) -> None:
        """Show how it goes, and give up on an org that refuses whatever we send from the first request on."""
        plain_at = time.monotonic() + PLAIN_TICK
        while True:
            await asyncio.sleep(TICK)
            now, books = time.monotonic(), client.statistics()
            if books.paused and books.accepted == 0:
                self._stop.ask(f"Okta takes nothing from us: {books.trouble}", USAGE)
            self._rates.append((now, books.accepted))
            while self._rates[0][0] < now - 60:
                self._rates.popleft()
            if self._quiet:
                continue
            if self._screen.tty:
                self._screen.draw(_fit(self._progress(books, short=True), self._screen.width()))
            elif now >= plain_at:
                plain_at = now + PLAIN_TICK
                self._screen.say("riskbatch: " + ", ".join(self._progress(books, short=False)))

    def _progress(self, books: rb.Statistics, *, short: bool) -> list[str]:
        """Return what there is to say, the most important first."""
        waiting = " ".join(
            f"{level.value[0] if short else level.value} {count}" for level, count in books.waiting_by_level.items()
        )
        parts = [f"waiting {waiting}", f"{books.accepted} accepted"]
        if books.trouble is not None:
            parts.append(_printable(f"{'paused' if books.paused else 'slowed down'}: {books.trouble}", 200))
        if (refused := self._ledger.refused()) > 0:
            parts.append(f"{refused} refused")
        if (left := self._seconds_left(books)) is not None:
            parts.append(f"{_duration(left)} left")
        return [*parts, f"{books.permits}/{books.limit} permits", f"{self._rate():.0f}/min"]

    def _rate(self) -> float:
        """Return what was accepted per minute of late."""
        (since, before), (now, accepted) = self._rates[0], self._rates[-1]
        return 60 * (accepted - before) / (now - since) if now > since else 0.0

    def _seconds_left(self, books: rb.Statistics) -> float | None:
        """Return how long the rest should take; `None` if nobody knows. It is foreseen anew with each request."""
        is_known = self._is_read or (self._source.size is not None and self._source.taken > 0)
        if books.paused or not is_known:
            return None
        now = self._rates[-1][0]
        if self._end is None or self._end[0] != books.requests:
            self._end = books.requests, now + self._foreseen(books)
        return max(0.0, self._end[1] - now, books.resumes_after)

    def _foreseen(self, books: rb.Statistics) -> float:
        unread = 0.0
        if not self._is_read and self._source.size is not None:
            a_byte = self._ledger.signals / self._source.taken
            unread = max(0, self._source.size - self._source.taken) * a_byte
        a_request = max(20.0, books.accepted / max(1, books.requests))  # more if signals share events
        windows = max(0.0, math.ceil((books.waiting + unread) / a_request) - books.permits) / books.limit
        # The end of a feed is sent without spacing, so that its requests come in one burst a window.
        return self._limit.period * (math.ceil(windows) if self._is_read else windows)

    def _report(self, books: rb.Statistics, seconds: float) -> None:
        ledger = self._ledger
        if self._quiet and not ledger.refused() and not self._stop.asked.is_set():
            return
        say = self._screen.say
        if self._stop.asked.is_set():
            what = "not everything" if ledger.records else "nothing"
            say(f"riskbatch: {_printable(self._stop.why, 500)}; {what} was sent.")
            if not ledger.records:
                return
        say(
            f"{_counted(ledger.records, 'record')} read, {_counted(ledger.signals, 'signal')} in them; "
            f"{_counted(books.requests, 'request')} in {_duration(seconds)}."
        )
        for outcome, meaning in _MEANINGS.items():
            if ledger.counts[outcome] or outcome == "accepted":
                say(f"  {ledger.counts[outcome]:>9} {outcome:<11}{meaning}".rstrip())
        if ledger.refused() and self._rejected_name:
            say(f"What was read and not accepted is in {self._rejected_name}; mend it and send it again.")
        if self._stop.asked.is_set() and ledger.last is not None:
            self._report_place(ledger.last)

    def _report_place(self, last: Record) -> None:
        """Say where to go on."""
        number, line = self._ledger.first_open() or (0, 0)
        if number == 1:
            self._screen.say(f"Line {line} (record 1) is not accepted, so there is no line up to which all is.")
        else:
            self._screen.say(f"All {f'before line {line} (record {number})' if number else 'of it'} is accepted.")
        if number and not self._rejected_name:
            self._screen.say("With --rejected FILE, what was read and not accepted would be in FILE.")
        name = _printable(self._source.name)
        if self._is_read:
            self._screen.say(f"All of {name} was read.")
        else:
            where = f"line {last.line} (record {self._ledger.records})"
            self._screen.say(f"Reading of {name} stopped with the record on {where}; what follows was not sent.")


_MEANINGS = {
    "accepted": "",
    "superseded": "by a newer signal for the same address, as --coalesce wants",
    "invalid": "not sent: the record is no valid signal",
    "rejected": "by Okta",
    "expired": "before they could be sent",
    "unsent": "surely not sent",
    "maybe sent": "no answer came: Okta may have them or not",
}


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _fit(parts: list[str], width: int) -> str:
    """Join as many of *parts* as *width* has room for; the first is cut if it must be."""
    line = parts[0]
    for part in parts[1:]:
        if len(line) + 3 + len(part) <= width:
            line = f"{line} | {part}"
    return line[:width]


# -- what arrives at a local Okta


_TIMES = "\N{MULTIPLICATION SIGN}"
_COLOURS = {"HIGH": "1;31", "MEDIUM": "33", "LOW": "2"}


class _Printer:
    """Lines on stdout, in colour where somebody sees it and NO_COLOR is not set (no-color.org)."""

    def __init__(self, stream: TextIO | None, stop: _Stop) -> None:
        self._stream = stream
        self._stop = stop
        is_seen = stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
        self._colour = is_seen and not os.environ.get("NO_COLOR")

    def say(self, text: str = "") -> None:
        """Write *text*; if nobody reads any more, ask for the end."""
        try:
            print(text, file=self._stream, flush=True)
        except BrokenPipeError:
            self._stop.ask("nobody reads", PIPE_BROKEN)
        except UnicodeEncodeError:  # a terminal without the multiplication sign
            print(text.replace(_TIMES, "x").encode("ascii", "replace").decode(), file=self._stream, flush=True)

    def level(self, name: str, text: str) -> str:
        """Return *text* in the colour of the level."""
        return f"\x1b[{_COLOURS[name]}m{text}\x1b[0m" if self._colour and name in _COLOURS else text

    def mix(self, levels: Mapping[str, int], width: int) -> str:
        """Return the count of each level there is, filled up to *width* columns."""
        parts = [(name, f"{name}{_TIMES}{levels[name]}") for name in _COLOURS if levels.get(name)]
        plain = " ".join(text for _, text in parts) or "-"
        return (" ".join(self.level(*part) for part in parts) or "-") + " " * (width - len(plain))


def _subjects(body: bytes | None) -> list[tuple[str, str]]:
    """Return `(ip, level)` of each signal in a payload; nothing if it is no payload."""
    try:
        events = json.loads(body or b"")
        return [(str(subject["ip"]), str(subject["riskLevel"])) for event in events for subject in event["subjects"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        return []


class _Witness:
    """
    Sees each request as the org judges it: give `script` and `latency` to an `OktaEmulator`.

    The emulator asks for a fault, judges, and asks for the latency without a turn of the event loop between, so the
    exchange that was last asked about is the one that was just judged.

    Args:
        fault: Called with each exchange: what goes wrong with it.
        saw: Called with each exchange once it is judged; `None` if it was for another path.
        seconds: From a request to its answer.
    """

    def __init__(
        self,
        fault: Callable[["Exchange"], "Fault | None"],
        saw: Callable[["Exchange | None"], None],
        seconds: Callable[[], float],
    ) -> None:
        self._fault = fault
        self._saw = saw
        self._seconds = seconds
        self._exchange: Exchange | None = None

    def script(self, exchange: "Exchange") -> "Fault | None":
        """Choose the fault of *exchange*."""
        self._exchange = exchange
        return self._fault(exchange)

    def latency(self) -> float:
        """Tell of the exchange and return the seconds to its answer."""
        exchange, self._exchange = self._exchange, None
        self._saw(exchange)
        return self._seconds()


# -- demo


def _demo(_: argparse.Namespace) -> int:
    return asyncio.run(_Demo(sys.stdout, rb.RateLimit()).run())


# Seconds, what arrives then, and why.
_FEED: tuple[tuple[float, dict[str, int], str], ...] = (
    (0.0, {"MEDIUM": 40, "LOW": 230}, "a night's backlog arrives: 40 MEDIUM, 230 LOW"),
    (3.0, {"HIGH": 1}, "a HIGH arrives while {waiting} others wait: it rides the very next request"),
    (7.2, {"HIGH": 2, "LOW": 10}, "2 HIGH and 10 LOW arrive while {waiting} others wait"),
    (11.1, {"MEDIUM": 5}, "5 MEDIUM arrive; there is one among them that Okta refuses"),
    (15.3, {"HIGH": 23}, "23 HIGH at once: a payload full of HIGH does not wait for the pace"),
    (18.9, {"HIGH": 1}, "a HIGH arrives while {waiting} others wait"),
    (21.5, {}, "the feed ends; the rest leaves as fast as permits allow"),
)
_NETS = {"HIGH": "203.0.113", "MEDIUM": "198.51.100", "LOW": "192.0.2"}  # for documentation: RFC 5737
_MESSAGES = {"HIGH": "Credential stuffing", "MEDIUM": "Password spray", "LOW": "Anonymizing proxy"}
_POISON = "198.51.100.43"


class _Demo:
    """
    The feed of `riskbatch demo` through a real client to a local org, told as it happens.

    Args:
        stream: Where the story goes.
        limit: The budget; the feed keeps to its period, a minute, or runs as much faster as that is shorter.
    """

    def __init__(self, stream: TextIO | None, limit: rb.RateLimit) -> None:
        self._limit = limit
        self._second = limit.period / 60
        self._stop = _Stop()
        self._out = _Printer(stream, self._stop)
        self._sent_at: dict[str, float] = {}
        self._made: Counter[str] = Counter()
        self._latencies: dict[str, list[float]] = {name: [] for name in _NETS}
        self._outcomes: Counter[str] = Counter()
        self._rejected: list[rb.Receipt] = []
        self._has_failed = False

    async def run(self) -> int:
        """Tell the story and return the exit status."""
        from .emulator import OktaEmulator  # noqa: PLC0415 - the other commands need no server

        witness = _Witness(self._fault, self._saw, lambda: random.uniform(0.1, 0.3) * self._second)
        with self._stop.on_signals():
            async with OktaEmulator(
                limit=self._limit.requests,
                period=self._limit.period,
                window="sliding",
                latency=witness.latency,
                script=witness.script,
                poison=lambda signal_: signal_.ip == _POISON,
            ) as okta:
                self._client = rb.Client(
                    okta.url, rb.ApiToken(okta.token), limit=self._limit, on_settled=self._settled, close_timeout=0
                )
                async with self._client:
                    self._begin()
                    done = await self._stop.unless(self._tell())
                if done:
                    self._summary(okta)
        return self._stop.status or int(self._outcomes.total() != self._outcomes["Accepted"] + len(self._rejected))

    # -- the story

    def _begin(self) -> None:
        say = self._out.say
        say("A local Okta org takes 30 requests a minute, with at most 20 signals each.")
        say("The real client sends it a feed in real time; + marks what the feed does.")
        say()
        say("  time   no.  the request carries      oldest HIGH  permits  Okta answers")
        say("                                        has waited     left")
        self._started = time.monotonic()

    async def _tell(self) -> None:
        for at, levels, why in _FEED:
            await asyncio.sleep(self._started + at * self._second - time.monotonic())
            self._tell_why(why)
            await self._client.enqueue_many([self._make(name) for name, count in levels.items() for _ in range(count)])
        await self._client.aclose(30 * self._second)

    def _tell_why(self, why: str) -> None:
        self._out.say(f"{self._now():5.1f}s  + {why.format(waiting=self._client.statistics().waiting)}")

    def _make(self, name: str) -> rb.RiskSignal:
        self._made[name] += 1
        ip = f"{_NETS[name]}.{self._made[name]}"
        self._sent_at[ip] = time.monotonic()
        return rb.RiskSignal(ip, name, message=_MESSAGES[name])

    def _now(self) -> float:
        return time.monotonic() - self._started

    def _settled(self, receipt: rb.Receipt) -> None:
        self._outcomes[type(receipt.outcome).__name__] += 1
        if isinstance(receipt.outcome, rb.Accepted):
            latency = time.monotonic() - self._sent_at[receipt.signal.ip]
            self._latencies[receipt.signal.risk_level.value].append(latency)
        elif isinstance(receipt.outcome, rb.Rejected):
            self._rejected.append(receipt)

    # -- what the org sees

    def _fault(self, exchange: "Exchange") -> "Fault | None":
        """Fail the first request that carries two HIGH."""
        from .emulator import Fault  # noqa: PLC0415 - as above

        levels = [level for _, level in _subjects(exchange.request.body)]
        if self._has_failed or levels.count("HIGH") < 2:
            return None
        self._has_failed = True
        return Fault.unavailable()

    def _saw(self, exchange: "Exchange | None") -> None:
        if exchange is None:
            return
        subjects = _subjects(exchange.request.body)
        waits = [time.monotonic() - self._sent_at[ip] for ip, level in subjects if level == "HIGH"]
        oldest = self._out.level("HIGH", f"{max(waits):9.1f} s") if waits else f"{'-':>11}"
        mix = self._out.mix(Counter(level for _, level in subjects), 23)
        permits = self._client.statistics().permits
        self._out.say(
            f"{self._now():5.1f}s  {exchange.number:4}  {mix}  {oldest}  {permits:7}  "
            f"{exchange.status}{self._meaning(exchange, len(subjects))}"
        )

    @staticmethod
    def _meaning(exchange: "Exchange", signals_: int) -> str:
        if exchange.status == 202:
            return ""
        if exchange.status != 400:
            return ": all go back"
        return ": one is bad" if signals_ > 1 else ": this one"

    def _summary(self, okta: "OktaEmulator") -> None:
        say, books = self._out.say, self._client.statistics()
        say()
        say("         signals   median      p95      max   until Okta had accepted them")
        for name, waits in self._latencies.items():
            shown = [statistics.median(waits), _percentile(waits, 0.95), max(waits)] if waits else []
            say(f"{self._out.level(name, f'{name:<7}')}{self._made[name]:9}" + "".join(f"{s:7.1f} s" for s in shown))
        say()
        outcomes = ", ".join(f"{count} {name.lower()}" for name, count in self._outcomes.most_common())
        say(f"Of {self._made.total()} signals: {outcomes}; {books.waiting + books.in_flight} lost.")
        for receipt in self._rejected:
            say(f"Okta refused {receipt.signal.ip} alone; those that travelled with it got through.")
        most = okta.most_in_any_window(self._limit.period)
        say(
            f"{books.requests} requests, at most {most} in any {self._limit.period:g} s, where Okta takes "
            f"{self._limit.requests}; {books.permits} permits are left."
        )


def _percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[math.ceil(share * len(values)) - 1]


# -- emulate


def _emulate(options: argparse.Namespace) -> int:
    return asyncio.run(_Emulation(options, sys.stdout).run())


class _Emulation:
    """One run of `riskbatch emulate`."""

    def __init__(self, options: argparse.Namespace, stream: TextIO | None) -> None:
        self._options = options
        self._stop = _Stop()
        self._out = _Printer(stream, self._stop)
        self._arrivals: deque[float] = deque()  # of the last period
        self._most = 0
        self._requests = 0
        self._signals: Counter[str] = Counter()

    async def run(self) -> int:
        """Serve until somebody says stop; that is the good end."""
        from .emulator import DEFAULT_TOKEN, OktaEmulator  # noqa: PLC0415 - the other commands need no server

        options, limit = self._options, self._options.limit
        rb.ApiToken(options.token or DEFAULT_TOKEN)  # a token that no client could send is refused here
        witness = _Witness(self._fault, self._saw, lambda: float(options.latency))
        with self._stop.on_signals():
            async with OktaEmulator(
                port=options.port,
                limit=limit.requests,
                period=limit.period,
                window=options.window,
                token=options.token or DEFAULT_TOKEN,
                latency=witness.latency,
                script=witness.script,
            ) as self._okta:
                self._begin(self._okta.url, self._okta.token)
                await self._stop.asked.wait()
        self._out.say(
            f"\n{_counted(self._requests, 'request')}, at most {self._most} in any {limit.period:g} s "
            f"(limit {limit.requests}); accepted: {self._out.mix(self._signals, 0)}"
        )
        return PIPE_BROKEN if self._stop.status == PIPE_BROKEN else 0

    def _begin(self, url: str, token: str) -> None:
        limit = self._options.limit
        self._out.say(f"export OKTA_CLIENT_ORGURL={shlex.quote(url)}")
        self._out.say(f"export OKTA_CLIENT_TOKEN={shlex.quote(token)}")
        self._out.say(
            f"# a local Okta: {limit.requests} requests in {limit.period:g} s, {self._options.window} window. "
            f"Paste the two lines\n# above into another terminal and run `riskbatch send FILE` there. Ctrl-C ends."
        )

    def _fault(self, _: "Exchange") -> "Fault | None":
        from .emulator import Fault  # noqa: PLC0415 - as above

        return Fault.unavailable() if random.random() < self._options.fault else None

    def _saw(self, exchange: "Exchange | None") -> None:
        clock = time.strftime("%H:%M:%S")
        if exchange is None:
            self._out.say(f"{clock}        a request for another path than the risk events'")
            return
        levels = Counter(level for _, level in _subjects(exchange.request.body))
        self._requests += 1
        if exchange.status == 202:
            self._signals += levels
        self._count(exchange.arrived_at)
        limit = self._options.limit
        answer = f"{exchange.status} {exchange.error_code or ''}".rstrip()
        self._out.say(
            f"{clock}  {exchange.number:5}  {self._out.mix(levels, 23)}  "
            f"{len(self._arrivals)} in {limit.period:g} s (limit {limit.requests})  {answer}"
        )
        self._okta.requests.clear()  # they are told; an emulator that runs for days must not keep them
        self._okta.signals.clear()

    def _count(self, arrived_at: float) -> None:
        self._arrivals.append(arrived_at)
        while self._arrivals[0] <= arrived_at - self._options.limit.period:
            self._arrivals.popleft()
        self._most = max(self._most, len(self._arrivals))


# -- simulate


def _simulate(options: argparse.Namespace) -> int:
    from . import simulate  # noqa: PLC0415 - as the emulator, it is loaded only where it is used

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
        print(f"{_counted(refused, 'record')} of {name} left out, being no signal", file=sys.stderr)


# -- providers


def _providers(options: argparse.Namespace) -> int:
    return asyncio.run(_call_providers(options))


async def _call_providers(options: argparse.Namespace) -> int:
    from .providers import MANAGE_SCOPE, READ_SCOPE, Providers  # noqa: PLC0415 - loaded only where it is used

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
        print(f"{_printable(each.name):24} {each.action:16} {_printable(each.client_id):24} {_printable(each.id)}")
    return 0
