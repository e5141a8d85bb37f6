"""`riskbatch demo`: the real client sends a feed to a local Okta in real time, and each request is shown."""

import argparse
import asyncio
import math
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

import riskbatch as rb

from .options import explain
from .printer import Printer, subjects
from .terminal import Stop

if TYPE_CHECKING:
    from ..emulator import Exchange, Fault, OktaEmulator

HELP = "watch the real client at the real pace, against a local Okta"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to *parser*."""
    explain(
        parser,
        "Start a local Okta org that takes 30 requests a minute, and send it a feed with\n"
        "the real client in real time: half a minute that shows what this product does.",
        "riskbatch demo",
    )


def run(_: argparse.Namespace) -> int:
    """Show the product at the real pace and return the exit status."""
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
    The feed of `riskbatch demo`, sent through a real client to a local org, and shown as it happens.

    Args:
        stream: Where the lines go.
        limit: The budget. With a period of a minute the feed takes half a minute; with a shorter one it is faster.
    """

    def __init__(self, stream: TextIO | None, limit: rb.RateLimit) -> None:
        self._limit = limit
        self._second = limit.period / 60
        self._stop = Stop()
        self._out = Printer(stream, self._stop)
        self._sent_at: dict[str, float] = {}
        self._made: Counter[str] = Counter()
        self._latencies: dict[str, list[float]] = {name: [] for name in _NETS}
        self._outcomes: Counter[str] = Counter()
        self._rejected: list[rb.Receipt] = []
        self._has_failed = False

    async def run(self) -> int:
        """Send the feed and return the exit status."""
        from ..emulator import OktaEmulator  # noqa: PLC0415 - the other commands need no server

        with self._stop.on_signals():
            async with OktaEmulator(
                limit=self._limit.requests,
                period=self._limit.period,
                window="sliding",
                latency=lambda: random.uniform(0.1, 0.3) * self._second,
                script=self._fault,
                on_judged=self._show,
                poison=lambda signal_: signal_.ip == _POISON,
            ) as okta:
                self._client = rb.Client(
                    okta.url, rb.ApiToken(okta.token), limit=self._limit, on_settled=self._settled, close_timeout=0
                )
                async with self._client:
                    self._begin()
                    done = await self._stop.unless(self._send_feed())
                if done:
                    self._summary(okta)
        return self._stop.status or int(self._outcomes.total() != self._outcomes["Accepted"] + len(self._rejected))

    # -- the feed

    def _begin(self) -> None:
        say = self._out.say
        say("A local Okta org takes 30 requests a minute, with at most 20 signals each.")
        say("The real client sends it a feed in real time; + marks what the feed does.")
        say()
        say("  time   no.  the request carries      oldest HIGH  permits  Okta answers")
        say("                                        has waited     left")
        self._started = time.monotonic()

    async def _send_feed(self) -> None:
        for at, levels, why in _FEED:
            await asyncio.sleep(self._started + at * self._second - time.monotonic())
            self._announce(why)
            await self._client.enqueue_many([self._make(name) for name, count in levels.items() for _ in range(count)])
        await self._client.aclose(30 * self._second)

    def _announce(self, why: str) -> None:
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

        levels = [level for _, level in subjects(exchange.request.body)]
        if self._has_failed or levels.count("HIGH") < 2:
            return None
        self._has_failed = True
        return Fault.unavailable()

    def _show(self, exchange: "Exchange") -> None:
        if not exchange.number:  # a stranger's request to another endpoint
            return
        carried = subjects(exchange.request.body)
        waits = [time.monotonic() - self._sent_at[ip] for ip, level in carried if level == "HIGH"]
        oldest = self._out.level("HIGH", f"{max(waits):9.1f} s") if waits else f"{'-':>11}"
        mix = self._out.mix(Counter(level for _, level in carried), 23)
        permits = self._client.statistics().permits
        self._out.say(
            f"{self._now():5.1f}s  {exchange.number:4}  {mix}  {oldest}  {permits:7}  "
            f"{exchange.status}{self._meaning(exchange, len(carried))}"
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
