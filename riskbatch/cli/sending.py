"""One run of `riskbatch send`: read, enqueue, show how it goes, drain, and tell what became of it."""

import argparse
import asyncio
import time
from collections.abc import Coroutine
from typing import TextIO

import riskbatch as rb

from .exits import NOT_ACCEPTED, USAGE
from .progress import Progress
from .reader import Changed, FeedImport, lots
from .records import Feed, Record
from .report import Report, write_report
from .source import Source
from .terminal import because, counted, duration, fit, printable

CAPACITY = 10_000  # unsettled signals: a quarter of an hour's budget to look for HIGH in, and some 10 MB
GRACE = 3.0  # seconds that requests on their way get after the first Ctrl-C
TICK = 0.2  # seconds between two looks at the progress
PLAIN_TICK = 10.0  # seconds between two lines of progress where stderr is no terminal
FOREVER = 366 * 86400.0  # seconds; a client wants a finite time to drain in


class Sending:
    """
    Sends *source*.

    Args:
        options: The command line.
        source: Its bytes.
        feed: Turns them into records.
        report: Where each record is entered; it tracks signals unless they are imported.
        report_file: The file of `--report`.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        source: Source,
        feed: Feed,
        report: Report,
        report_file: TextIO | None,
    ) -> None:
        self._options = options
        self._source = source
        self._feed = feed
        self._report_file = report_file
        self._report = report
        self._screen, self._stop = report.screen, report.stop
        self._import: FeedImport | None = None
        if not report.tracks:
            self._import = FeedImport(options.store, source, feed, report, repr((report.fields, options.format)))
        self._left = 0  # signals that waited in the store before this run
        self._is_read = False
        self._limit = options.limit or rb.RateLimit()
        self._progress = Progress(self._limit)
        self._client = self._make_client(options)

    def _make_client(self, options: argparse.Namespace) -> rb.Client:
        given = {"org_url": options.org_url, "subjects_per_event": options.subjects_per_event}
        return rb.Client.from_env(
            limit=self._limit,
            capacity=CAPACITY,
            store=None if options.store is None else rb.SqliteStore(options.store),
            coalesce=options.coalesce,
            on_settled=self._report.settled,
            **{name: value for name, value in given.items() if value is not None},
        )

    async def run(self) -> int:
        """Send everything, or as much as there is time for, and return the exit status."""
        started = time.monotonic()
        if self._source.is_terminal() and not self._options.quiet:
            self._screen.say("Type signals, one a line; Ctrl-D ends.")
        with self._stop.on_signals():
            if self._import is not None:
                await self._stop.unless(self._read(self._import.run(again=self._options.again)))
            if not self._stop.asked.is_set():
                await self._send()
        self._report.close(self._stop.why)
        self._screen.clear()
        status = self._stop.status or (NOT_ACCEPTED if self._report.refused() else 0)
        self._tell(self._client.statistics(), time.monotonic() - started, status)
        return status

    async def _send(self) -> None:
        async with self._client as client:
            self._left = client.statistics().admitted - (self._import.imported if self._import else 0)
            watching = asyncio.create_task(self._watch(client))
            try:
                if self._import is not None or await self._stop.unless(self._read(self._enqueue_all(client))):
                    await self._drain(client)
                if self._stop.asked.is_set():
                    await self._end(client)
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)

    async def _read(self, work: Coroutine[object, object, None]) -> None:
        """Do *work*, which reads the feed; what is wrong with the feed asks to stop."""
        try:
            await work
            self._is_read = True
        except (rb.RiskbatchError, OSError) as error:
            reason = because(error) if isinstance(error, OSError) else str(error)
            is_usage = self._report.records == 0 or isinstance(error, Changed)
            self._stop.ask(reason, USAGE if is_usage else NOT_ACCEPTED)

    async def _enqueue_all(self, client: rb.Client) -> None:
        async for lot in lots(self._source, self._feed, self._report):
            await client.enqueue_many(lot)

    async def _drain(self, client: rb.Client) -> None:
        """Send what waits. A stop must not cancel this: what is on its way would be cut off."""
        if not await self._stop.unless(self._first_accepted(client)):
            return
        draining = asyncio.create_task(client.aclose(FOREVER))
        stopping = asyncio.create_task(self._stop.asked.wait())
        await asyncio.wait({draining, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if self._stop.asked.is_set():
            await self._end(client)
        await draining

    async def _first_accepted(self, client: rb.Client) -> None:
        """Wait until Okta has taken something: the burst of a drain is not for credentials that nobody has tried."""
        flushing = asyncio.create_task(client.flush())
        try:
            while not (flushing.done() or client.statistics().accepted):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        finally:
            flushing.cancel()

    async def _end(self, client: rb.Client) -> None:
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
            now, found = time.monotonic(), client.statistics()
            if found.paused and found.accepted == 0:
                self._stop.ask(f"Okta takes nothing from us: {found.trouble}", USAGE)
            self._progress.look(now, found)
            if self._options.quiet:
                continue
            if self._screen.tty:
                self._screen.draw(fit(self._parts(found, short=True), self._screen.width()))
            elif now >= plain_at:
                plain_at = now + PLAIN_TICK
                self._screen.say("riskbatch: " + ", ".join(self._parts(found, short=False)))

    def _parts(self, found: rb.Statistics, *, short: bool) -> list[str]:
        size, taken, is_read = self._source.size, self._source.taken, self._is_read
        is_known = size is not None and taken > 0
        unread = 0.0
        if size is not None and taken > 0 and not is_read:
            unread = max(0, size - taken) * (self._report.signals - self._report.counts["invalid"]) / taken
        refused = self._report.refused()
        return self._progress.parts(found, refused, unread, is_read=is_read, is_size_known=is_known, short=short)

    def _tell(self, found: rb.Statistics, seconds: float, status: int) -> None:
        """Write the final reports."""
        report = self._report
        if self._options.store is not None:
            report.counts["kept"] = found.abandoned
        if self._report_file is not None:
            more = {"requests": found.requests, "seconds": round(seconds, 3), "status": status}
            common = {"command": "send", "file": self._options.file, "check": False, "stopped": self._stop.why or None}
            write_report(self._report_file, common | report.to_json() | more)
        if self._options.quiet and not report.refused() and not self._stop.asked.is_set():
            return
        say, is_nothing = self._screen.say, not (report.records or self._left)
        if self._stop.asked.is_set():
            what = "nothing" if is_nothing else "not everything"
            say(f"riskbatch: {printable(self._stop.why, 800)}; {what} was sent.")
            if is_nothing:
                return
        self._tell_of_store()
        say(
            f"{counted(report.records, 'record')} read, {counted(report.signals, 'signal')} in them; "
            f"{counted(found.requests, 'request')} in {duration(seconds)}."
        )
        for line in report.table():
            say(line)
        if report.refused() > report.counts["kept"] and self._options.rejected:
            say(f"What was read and not accepted is in {self._options.rejected}; mend it and send it again.")
        if self._stop.asked.is_set() and (report.last is not None or self._import is not None):
            self._tell_place(report.last)

    def _tell_of_store(self) -> None:
        if self._left:
            self._screen.say(f"{counted(self._left, 'signal')} waited in the store.")
        if self._import is not None and self._import.taken_before:
            taken = counted(self._import.taken_before, "signal")
            self._screen.say(f"{taken} of {self._source.name} had been taken before.")

    def _tell_place(self, last: Record | None) -> None:
        """Say where to go on."""
        say, name = self._screen.say, self._source.name
        if self._import is not None:
            if not self._is_read:
                say("Nothing of it came into the store; the same command begins anew.")
            else:
                done = not self._report.counts["kept"]
                say("All of it is settled." if done else "The same command goes on where this one stopped.")
            return
        assert last is not None  # noqa: S101 - something was read
        number, line = self._report.first_open() or (0, 0)
        if number == 1:
            say(f"Line {line} (record 1) is not accepted, so there is no line up to which all is.")
        else:
            say(f"All {f'before line {line} (record {number})' if number else 'of it'} is accepted.")
        if number and not self._options.rejected:
            say("With --rejected FILE, what was read and not accepted would be in FILE.")
        if self._is_read:
            say(f"All of {name} was read.")
        else:
            where = f"line {last.line} (record {self._report.records})"
            say(f"Reading of {name} stopped with the record on {where}; what follows was not sent.")
