"""
`riskbatch send`: a feed through the client, as large as it may be, with an account of every record.
"""

import argparse
import asyncio
import math
import os
import stat
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any, Self, TextIO

from attrs import frozen

import riskbatch as rb

from ..stores.sqlite.feeds import FeedStore
from ..stores.sqlite.file import Bookmark
from .exits import NOT_ACCEPTED, USAGE
from .options import explain, rate_limit
from .records import CHUNK, FORMATS, Feed, Record, Trail, mended, refusal, signals
from .terminal import (
    Screen,
    Stop,
    because,
    counted,
    duration,
    fit,
    printable,
)

CAPACITY = 10_000  # unsettled signals: a quarter of an hour's budget to look for HIGH in, and some 10 MB

GRACE = 3.0  # seconds that requests on their way get after the first Ctrl-C

SHOWN = 10  # refused records shown where no file takes them

TICK = 0.2  # seconds between two looks at the progress

PLAIN_TICK = 10.0  # seconds between two lines of progress where stderr is no terminal

FOREVER = 366 * 86400.0  # seconds; a client wants a finite time to drain in


def send(options: argparse.Namespace) -> int:
    """Send the feed that *options* name and return the exit status."""
    if options.again and (options.store is None or options.file in (None, "-")):
        raise rb.ConfigurationError("--again is for --store and a FILE, which the store may have taken before")
    if options.file is None:  # with a store, what waits in it is enough
        options.file = "-" if options.store is None else os.devnull
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


@frozen(eq=False, kw_only=True)
class _Item(rb.RiskSignal):
    """
    A signal that knows where it came from.

    Attributes:
        record: The record that it is in.
        number: Of the record.
        original: The part of the record that it stands for.
        taken: The signal's own number in the feed.
        digest: Of the feed up to the record.
    """

    record: Record
    number: int
    original: object
    taken: int = 0
    digest: str = ""

    __eq__ = object.__eq__  # a feed may hold the same signal twice
    __hash__ = object.__hash__

    @classmethod
    def of(cls, signal: rb.RiskSignal, **origin: Any) -> Self:
        """Make one of *signal*."""
        facts: dict[str, Any] = {name: getattr(signal, name) for name in ("message", "timestamp", "expires_at")}
        return cls(signal.ip, signal.risk_level, **facts, **origin)


class _Changed(rb.RiskbatchError):
    """The feed is not what it was when a part of it was taken into the store."""


class _Ledger:
    """
    What became of every record.

    Args:
        screen: Where refused records are shown, if no file takes them.
        rejected: The file that takes them.
        stop: Asked if that file cannot be written.
        kept: What is abandoned stays in a store.

    Attributes:
        records: Records read.
        last: The last of them.
        signals: Signals read, those that are none included.
        counts: Signals by what became of them.
        bookmark: Up to where the store had taken the feed before; `None` if nothing knows.
        passed: Signals that were passed over because of it.
    """

    def __init__(self, screen: Screen, rejected: TextIO | None, stop: Stop, *, kept: bool = False) -> None:
        self._screen = screen
        self._rejected = rejected
        self._stop = stop
        self._kept = kept
        self.records = 0
        self.last: Record | None = None
        self.signals = 0
        self.counts: Counter[str] = Counter()
        self.bookmark: Bookmark | None = None
        self.passed = 0
        self._trail = Trail()
        self._under_way: dict[_Item, None] = {}  # in the order read
        self._first_refused: tuple[int, int] | None = None  # number and line
        self._shown = 0

    def read(self, found: Record) -> list[rb.RiskSignal]:
        """
        Enter a record and return its signals that the store had not taken before; what is none is refused.

        Raises:
            _Changed: The records up to the bookmark are not those that the store has taken.
        """
        self.records += 1
        self.last = found
        record = mended(found)
        made = [(record.error, record.value)] if record.error is not None else list(signals(record.value))
        before = self._trail.count
        self._trail.add(found, len(made))
        already = self._already(before)
        digest = "" if self.bookmark is None else self._trail.digest()
        self.passed += already
        entered: list[rb.RiskSignal] = []
        for taken, (signal, original) in enumerate(made[already:], before + already + 1):
            self.signals += 1
            if isinstance(signal, rb.RiskSignal):
                origin = {"record": record, "number": self.records, "original": original}
                item = _Item.of(signal, **origin, taken=taken, digest=digest)
                self._under_way[item] = None
                entered.append(item)
            else:
                facts = {"cut": True} if record.cut else {}
                self._refuse(record, self.records, "invalid", str(signal), original, **facts)
        return entered

    def _already(self, before: int) -> int:
        """Return how many signals of the record just read, with *before* before it, the store had taken."""
        if self.bookmark is None or before >= self.bookmark.taken:
            return 0
        if self._trail.count < self.bookmark.taken:
            return self._trail.count - before
        if self._trail.digest() != self.bookmark.digest:
            raise self._change()
        return self.bookmark.taken - before

    def _change(self) -> _Changed:
        assert self.bookmark is not None  # noqa: S101 - the callers have looked
        name, taken = printable(self.bookmark.name), counted(self.bookmark.taken, "signal")
        return _Changed(
            f"{name} has changed in the part of which the store has taken {taken}; --again sends it from its beginning"
        )

    def end(self) -> None:
        """
        Note that there are no more records.

        Raises:
            _Changed: There were more when the store took them.
        """
        if self.bookmark is not None and self._trail.count < self.bookmark.taken:
            raise self._change()

    def place(self, signal: rb.RiskSignal | None = None) -> Bookmark:
        """Return where the feed is once *signal*, and all before it, are in the store; or at its end."""
        assert self.bookmark is not None  # noqa: S101 - only asked for a feed that has one
        if signal is None:
            return Bookmark(self.bookmark.name, self._trail.count, self._trail.digest(), ended=True)
        assert isinstance(signal, _Item)  # noqa: S101 - all that is enqueued is
        return Bookmark(self.bookmark.name, signal.taken, signal.digest)

    def settled(self, receipt: rb.Receipt) -> None:
        """Enter the outcome of a signal."""
        item = receipt.signal if isinstance(receipt.signal, _Item) else _from_store(receipt.signal)
        self._under_way.pop(item, None)
        match receipt.outcome:
            case rb.Accepted():
                self.counts["accepted"] += 1
            case rb.Superseded():  # as --coalesce wants it: the newer one stands for it
                self.counts["superseded"] += 1
            case rb.Rejected(reason=reason, code=code):
                self._lose(item, "rejected", f"Okta refused it: {reason}", code=code)
            case rb.Expired(may_have_arrived=maybe):
                self._lose(item, "expired", "its expiresAt passed before it could be sent", maybe)
            case rb.Abandoned() if self._kept:
                pass  # the books count them, and also those that were never loaded
            case rb.Abandoned(reason=reason, may_have_arrived=maybe):
                self._lose(item, "maybe sent" if maybe else "unsent", reason, maybe)
            case outcome:
                self._lose(item, "unsent", type(outcome).__name__.lower())

    def close(self, why: str) -> None:
        """Enter as unsent what was read and never admitted."""
        if self.bookmark is not None:  # it is read again by the next run, so that nobody need send it from elsewhere
            self._rejected = None
        for item in list(self._under_way):
            del self._under_way[item]
            self._lose(item, "unsent", why)

    def refused(self) -> int:
        """Return how many signals were not accepted so far."""
        return self.counts.total() - self.counts["accepted"] - self.counts["superseded"]

    def first_open(self) -> tuple[int, int] | None:
        """Return number and line of the first record that is not, or not yet, accepted."""
        item = next(iter(self._under_way), None)
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
        if number:
            self._first_refused = min(self._first_refused or (number, record.line), (number, record.line))
        if self._rejected is not None:
            try:
                self._rejected.write(refusal(record, number, outcome, reason, original, **facts) + "\n")
                return
            except OSError as error:
                self._rejected = None
                self._stop.ask(f"cannot write to --rejected: {because(error)}", NOT_ACCEPTED)
        if outcome == "unsent":  # there may be thousands; the report says where to go on
            return
        self._shown += 1
        if self._shown <= SHOWN:
            place = f"line {record.line}" if number else "from the store"
            self._screen.say(printable(f"{place}: {reason}"))
        elif self._shown == SHOWN + 1:
            self._screen.say("... and more; --rejected FILE would keep them all")


def _from_store(signal: rb.RiskSignal) -> _Item:
    """Return what there is to say of a signal that an earlier run has read."""
    original = signal.to_json()
    return _Item.of(signal, record=Record(0, original), number=0, original=original)


class _Sending:
    """One run of `riskbatch send`."""

    def __init__(self, options: argparse.Namespace, source: _Source, rejected: TextIO | None) -> None:
        self._source = source
        self._feed = Feed(options.format, "" if options.file == "-" else options.file)
        self._quiet = options.quiet
        self._rejected_name = options.rejected
        self._limit = options.limit or rb.RateLimit()
        self._screen = Screen(sys.stderr)
        self._stop = Stop()
        self._ledger = _Ledger(self._screen, rejected, self._stop, kept=options.store is not None)
        self._store = None if options.store is None else FeedStore(options.store, self._ledger.place)
        self._feed_name = os.path.realpath(options.file) if source.size is not None else None
        self._again = options.again
        self._left = 0  # signals that waited in the store before
        self._is_read = False
        self._rates: deque[tuple[float, int]] = deque()  # instants and what was accepted until then, of a minute
        self._end: tuple[int, float] | None = None  # requests so far, and the end that was foreseen then
        self._client = self._open(options)

    def _open(self, options: argparse.Namespace) -> "rb.Client":
        given = {"org_url": options.org_url, "subjects_per_event": options.subjects_per_event}
        return rb.Client.from_env(
            limit=self._limit,
            capacity=CAPACITY,
            store=self._store,
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
                self._left = client.statistics().admitted
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

    async def _read_all(self, client: "rb.Client") -> None:
        try:
            if self._store is not None and self._feed_name is not None:
                bookmark = await self._store.begin(self._feed_name)
                self._ledger.bookmark = Bookmark(self._feed_name) if self._again else bookmark
            while chunk := await self._source.read():
                await self._enqueue(client, self._feed.push(chunk))
            await self._enqueue(client, self._feed.end())
            self._ledger.end()
            if self._store is not None and self._ledger.bookmark is not None:
                await self._store.turn(self._ledger.place())
            self._is_read = True
        except (rb.RiskbatchError, OSError) as error:
            reason = because(error) if isinstance(error, OSError) else str(error)
            is_usage = self._ledger.records == 0 or isinstance(error, _Changed)
            self._stop.ask(reason, USAGE if is_usage else NOT_ACCEPTED)

    async def _enqueue(self, client: "rb.Client", records: Iterator[Record]) -> None:
        lot: list[rb.RiskSignal] = []
        for record in records:
            lot += self._ledger.read(record)
        await client.enqueue_many(lot)

    async def _drain(self, client: "rb.Client") -> None:
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

    async def _taken(self, client: "rb.Client") -> None:
        """Wait until Okta has taken something: the burst of a drain is not for credentials that nobody has tried."""
        flushing = asyncio.create_task(client.flush())
        try:
            while not (flushing.done() or client.statistics().accepted):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        finally:
            flushing.cancel()

    async def _land(self, client: "rb.Client") -> None:
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

    async def _watch(self, client: "rb.Client") -> None:
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
                self._screen.draw(fit(self._progress(books, short=True), self._screen.width()))
            elif now >= plain_at:
                plain_at = now + PLAIN_TICK
                self._screen.say("riskbatch: " + ", ".join(self._progress(books, short=False)))

    def _progress(self, books: "rb.Statistics", *, short: bool) -> list[str]:
        """Return what there is to say, the most important first."""
        waiting = " ".join(
            f"{level.value[0] if short else level.value} {count}" for level, count in books.waiting_by_level.items()
        )
        parts = [f"waiting {waiting}", f"{books.accepted} accepted"]
        if books.trouble is not None:
            parts.append(printable(f"{'paused' if books.paused else 'slowed down'}: {books.trouble}", 200))
        if (refused := self._ledger.refused()) > 0:
            parts.append(f"{refused} refused")
        if (left := self._seconds_left(books)) is not None:
            parts.append(f"{duration(left)} left")
        return [*parts, f"{books.permits}/{books.limit} permits", f"{self._rate():.0f}/min"]

    def _rate(self) -> float:
        """Return what was accepted per minute of late."""
        (since, before), (now, accepted) = self._rates[0], self._rates[-1]
        return 60 * (accepted - before) / (now - since) if now > since else 0.0

    def _seconds_left(self, books: "rb.Statistics") -> float | None:
        """Return how long the rest should take; `None` if nobody knows. It is foreseen anew with each request."""
        is_known = self._is_read or (self._source.size is not None and self._source.taken > 0)
        if books.paused or not is_known:
            return None
        now = self._rates[-1][0]
        if self._end is None or self._end[0] != books.requests:
            self._end = books.requests, now + self._foreseen(books)
        return max(0.0, self._end[1] - now, books.resumes_after)

    def _foreseen(self, books: "rb.Statistics") -> float:
        unread = 0.0
        if not self._is_read and self._source.size is not None:
            a_byte = self._ledger.signals / self._source.taken
            unread = max(0, self._source.size - self._source.taken) * a_byte
        a_request = max(20.0, books.accepted / max(1, books.requests))  # more if signals share events
        windows = max(0.0, math.ceil((books.waiting + unread) / a_request) - books.permits) / books.limit
        # The end of a feed is sent without spacing, so that its requests come in one burst a window.
        return self._limit.period * (math.ceil(windows) if self._is_read else windows)

    def _report(self, books: "rb.Statistics", seconds: float) -> None:
        ledger = self._ledger
        if self._store is not None:
            ledger.counts["kept"] = books.abandoned
        if self._quiet and not ledger.refused() and not self._stop.asked.is_set():
            return
        say = self._screen.say
        if self._stop.asked.is_set():
            what = "not everything" if ledger.records or self._left else "nothing"
            say(f"riskbatch: {printable(self._stop.why, 500)}; {what} was sent.")
            if not (ledger.records or self._left):
                return
        if self._left:
            say(f"{counted(self._left, 'signal')} waited in the store.")
        if ledger.passed:
            say(f"{counted(ledger.passed, 'signal')} of {printable(self._source.name)} had been taken before.")
        say(
            f"{counted(ledger.records, 'record')} read, {counted(ledger.signals, 'signal')} in them; "
            f"{counted(books.requests, 'request')} in {duration(seconds)}."
        )
        for outcome, meaning in _MEANINGS.items():
            if ledger.counts[outcome] or outcome == "accepted":
                say(f"  {ledger.counts[outcome]:>9} {outcome:<11}{meaning}".rstrip())
        if ledger.refused() > ledger.counts["kept"] and self._rejected_name:
            say(f"What was read and not accepted is in {self._rejected_name}; mend it and send it again.")
        if self._stop.asked.is_set() and ledger.last is not None:
            self._report_place(ledger.last)

    def _report_place(self, last: Record) -> None:
        """Say where to go on."""
        if self._ledger.bookmark is not None:
            done = self._is_read and not self._ledger.counts["kept"]
            self._screen.say("All of it is settled." if done else "The same command goes on where this one stopped.")
            return
        number, line = self._ledger.first_open() or (0, 0)
        if number == 1:
            self._screen.say(f"Line {line} (record 1) is not accepted, so there is no line up to which all is.")
        else:
            self._screen.say(f"All {f'before line {line} (record {number})' if number else 'of it'} is accepted.")
        if number and not self._rejected_name:
            self._screen.say("With --rejected FILE, what was read and not accepted would be in FILE.")
        name = printable(self._source.name)
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
    "kept": "in the store, for the next run",
    "unsent": "surely not sent",
    "maybe sent": "no answer came: Okta may have them or not",
}


HELP = "send a file or a stream of signals"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to *parser*."""
    explain(
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
        "riskbatch send bad.jsonl --rejected worse.jsonl    once more, when it is fixed",
        "tail -F alerts.jsonl | riskbatch send - --limit 15/60s",
        "riskbatch send feed.csv --store queue.db           stop and go on as you like",
        "riskbatch send --store queue.db                    only what waits in it",
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
    add("--limit", metavar="30/60s", type=rate_limit, help="our share of the org's requests per time")
    add("--subjects-per-event", metavar="N", type=int, help="signals with equal times share an event, up to N (50)")
    add("--coalesce", action="store_true", help="a newer signal for an address replaces the one that waits")
    add("--org-url", metavar="URL", help="instead of OKTA_CLIENT_ORGURL")
    add("--quiet", action="store_true", help="no progress, and no report if all was accepted")


def run(options: argparse.Namespace) -> int:
    """Run the command and return the exit status."""
    return send(options)
