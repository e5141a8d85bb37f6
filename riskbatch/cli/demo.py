"""
`riskbatch demo` and `riskbatch emulate`: a local Okta, and what arrives there, line by line.
"""

import argparse
import asyncio
import json
import math
import os
import random
import shlex
import statistics
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

import riskbatch as rb

from .terminal import PIPE_BROKEN, Stop, counted

if TYPE_CHECKING:
    from ..emulator import Exchange, Fault, OktaEmulator


def demo(_: argparse.Namespace) -> int:
    """Show the product at the real pace and return the exit status."""
    return asyncio.run(_Demo(sys.stdout, rb.RateLimit()).run())


def emulate(options: argparse.Namespace) -> int:
    """Run a local Okta until Ctrl-C and return the exit status."""
    return asyncio.run(_Emulation(options, sys.stdout).run())


_TIMES = "\N{MULTIPLICATION SIGN}"

_COLOURS = {"HIGH": "1;31", "MEDIUM": "33", "LOW": "2"}


class _Printer:
    """Lines on stdout, in colour where somebody sees it and NO_COLOR is not set (no-color.org)."""

    def __init__(self, stream: TextIO | None, stop: Stop) -> None:
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
        self._stop = Stop()
        self._out = _Printer(stream, self._stop)
        self._sent_at: dict[str, float] = {}
        self._made: Counter[str] = Counter()
        self._latencies: dict[str, list[float]] = {name: [] for name in _NETS}
        self._outcomes: Counter[str] = Counter()
        self._rejected: list[rb.Receipt] = []
        self._has_failed = False

    async def run(self) -> int:
        """Tell the story and return the exit status."""
        from ..emulator import OktaEmulator  # noqa: PLC0415 - the other commands need no server

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
        from ..emulator import Fault  # noqa: PLC0415 - as above

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


class _Emulation:
    """One run of `riskbatch emulate`."""

    def __init__(self, options: argparse.Namespace, stream: TextIO | None) -> None:
        self._options = options
        self._stop = Stop()
        self._out = _Printer(stream, self._stop)
        self._arrivals: deque[float] = deque()  # of the last period
        self._most = 0
        self._requests = 0
        self._signals: Counter[str] = Counter()

    async def run(self) -> int:
        """Serve until somebody says stop; that is the good end."""
        from ..emulator import DEFAULT_TOKEN, OktaEmulator  # noqa: PLC0415 - the other commands need no server

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
            f"\n{counted(self._requests, 'request')}, at most {self._most} in any {limit.period:g} s "
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
        from ..emulator import Fault  # noqa: PLC0415 - as above

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
