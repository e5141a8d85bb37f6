"""`riskbatch send --check`: what a run would make of a feed, without an org and without sending anything."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import riskbatch as rb

from .records import Feed, Record
from .report import FeedSignal, Report
from .terminal import counted, duration

EVENTS = 20  # a request. Source: Okta's Risk Events reference, read 2026-08-21
_SHARED = ip_network("100.64.0.0/10")  # RFC 6598
# RFC 5737 and 3849: in examples and tests they stand for public addresses
_DOCUMENTATION = [ip_network(each) for each in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")]
_KINDS: dict[str, Callable[[IPv4Address | IPv6Address], bool]] = {
    "unspecified": lambda ip: ip.is_unspecified or ip in ip_network("0.0.0.0/8"),
    "loopback": lambda ip: ip.is_loopback,
    "multicast": lambda ip: ip.is_multicast,
    "link-local": lambda ip: ip.is_link_local,
    "private": lambda ip: ip.is_private or ip in _SHARED,
    "reserved": lambda ip: ip.is_reserved,
}


def kind_if_not_public(text: str) -> str:
    """Return what kind of address *text* is, "" if it is one of the public Internet."""
    ip = ip_address(text)
    if ip.is_global and not ip.is_multicast:
        return ""
    if any(ip in network for network in _DOCUMENTATION):
        return ""
    return next((kind for kind, is_kind in _KINDS.items() if is_kind(ip)), "reserved")


class Check:
    """
    Reads a feed to its end and counts.

    Args:
        feed: The feed.
        report: Where its records are entered.
        limit: The budget.
        subjects_per_event: How many signals with equal times share an event.
    """

    def __init__(self, feed: Feed, report: Report, limit: rb.RateLimit, subjects_per_event: int) -> None:
        self._feed = feed
        self._report = report
        self._limit = limit
        self._subjects_per_event = subjects_per_event
        self._levels: Counter[str] = Counter()
        self._addresses: set[int] = set()  # hashes, which are smaller than the texts
        self._duplicates = 0
        self._not_public: Counter[str] = Counter()
        self._first_not_public = 0  # its line
        self._times: Counter[tuple[datetime, datetime | None]] = Counter()
        self._stops_at = 0  # the line on which a run would give up

    def run(self, chunks: Iterator[bytes]) -> None:
        """
        Read all *chunks*.

        Raises:
            Unreadable: It is no feed.
        """
        now = datetime.now(UTC)
        for chunk in chunks:
            now = datetime.now(UTC)
            self._enter(self._feed.push(chunk), now)
        self._enter(self._feed.end(), now)
        self._report.counts["accepted"] = self._levels.total()

    def _enter(self, records: Iterator[Record | None], now: datetime) -> None:
        for record in filter(None, records):
            for signal in self._report.read(record, now):
                self._count(signal, now)
            if not self._stops_at and self._report.is_hopeless():
                self._stops_at = record.line

    def _count(self, signal: FeedSignal, now: datetime) -> None:
        if signal.expires_at is not None and signal.expires_at <= now:
            self._report.expired(signal)
            return
        self._levels[signal.risk_level.value] += 1
        key = hash(signal.ip)
        self._duplicates += key in self._addresses
        self._addresses.add(key)
        if kind := kind_if_not_public(signal.ip):
            self._not_public[kind] += 1
            self._first_not_public = self._first_not_public or signal.record.line
        if self._subjects_per_event > 1:
            self._times[signal.timestamp, signal.expires_at] += 1

    def _requests(self) -> int:
        """Return how many requests carry the signals, if none of them waits for others to fill an event."""
        events = sum(math.ceil(count / self._subjects_per_event) for count in self._times.values())
        return math.ceil((events or self._levels.total()) / EVENTS)

    def _seconds(self) -> float:
        """Return how long these requests take: one window's worth leaves at once, the next a period later."""
        return self._limit.period * max(0, math.ceil(self._requests() / self._limit.requests) - 1)

    def lines(self, name: str) -> Iterator[str]:
        """Yield what to tell."""
        report = self._report
        yield (
            f"{name} is read as {self._feed.form}: {counted(report.records, 'record')}, "
            f"{counted(report.signals, 'signal')} in them. Nothing was sent."
        )
        by_level = ", ".join(f"{level.value} {self._levels[level.value]}" for level in rb.RiskLevel)
        yield f"Would be sent: {by_level}."
        yield from report.table()
        if self._duplicates:
            yield f"{counted(self._duplicates, 'signal')} for an address that came before."
        if self._not_public:
            kinds = ", ".join(f"{kind} {count}" for kind, count in self._not_public.items())
            yield (
                f"{counted(self._not_public.total(), 'signal')} for an address that is not public "
                f"({kinds}; the first on line {self._first_not_public})."
            )
        if self._stops_at:
            yield f"A run would stop at line {self._stops_at}: so many refusals, and not one signal."
        budget = f"{self._limit.requests} requests a {self._limit.period:g} s"
        yield f"{counted(self._requests(), 'request')}: about {duration(self._seconds())} at {budget}."

    def to_json(self) -> dict[str, object]:
        """Return what `--report` has of a check alone."""
        return {
            "levels": {level.value: self._levels[level.value] for level in rb.RiskLevel},
            "duplicates": self._duplicates,
            "not_public": dict(self._not_public),
            "requests": self._requests(),
            "seconds": self._seconds(),
        }
