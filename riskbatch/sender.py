"""
The one loop where all parts meet: wait for a permit, take the batch, submit it, settle it or put it back.

The permit comes first and the batch second, so that a HIGH which arrives while everything waits rides the very next
request. A request that failed is not repeated: its signals go back to the front of their lanes, and whatever ranks
highest when the next permit is free is sent then. So a retry pays for its request like all others.
"""

import asyncio
import logging
import math
import os
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from attrs import define, evolve

from .alarm import Alarm
from .batcher import Batch, split
from .dispatcher import TIMER_RESOLUTION, Dispatcher, Terms
from .limiter import RateLimit
from .log import EventLog, log_fields
from .okta.credentials import Credentials
from .okta.http import HEADERS, Request, Transport, Unanswered
from .okta.rate_limits import Budget, budgets
from .okta.redaction import plain
from .okta.renewal import Renewal, now_on
from .okta.risk_events import PATH, encode
from .okta.verdicts import (
    AccessDenied,
    BatchAccepted,
    BatchRefused,
    CredentialsRefused,
    RateLimited,
    TooConcurrent,
    Unavailable,
    Verdict,
    classify,
    refusal_text,
    verdict_on,
)
from .receipts import Accepted, Outcome, Receipt, Rejected
from .trouble import Health, Trouble

logger = logging.getLogger("riskbatch")

_TRUSTED_ATTEMPTS = 3  # after which the indices that a server names are no longer trusted


class SendingQueue(Protocol):
    """What the sender needs of a queue, whether its signals wait in memory or in a store that processes share."""

    @property
    def alarm(self) -> Alarm:
        """Rings when the sender should look again."""

    @property
    def waiting(self) -> int:
        """Signals of this client that are in no request at the moment."""

    def settle(self, receipts: Sequence[Receipt], outcome: Callable[[Receipt], Outcome]) -> None:
        """Give *receipts*, which are in flight, their outcomes."""

    def put_back(self, receipts: Sequence[Receipt], ready_at: float = -math.inf) -> None:
        """Return *receipts* from flight to the front of their lanes, held back until *ready_at*."""

    def suspect(self, groups: Sequence[list[Receipt]], ready_at: float = -math.inf) -> None:
        """Return *groups* from flight, each to be probed in a request of its own."""

    def retry_now(self) -> None:
        """Make ready what is held back, for the last try."""


@define
class Counts:
    """What the sender has done, for `Statistics`."""

    requests: int = 0
    requests_in_flight: int = 0
    put_back: int = 0
    rate_limited: int = 0


class Sender:
    """
    Drives one client's queue to Okta.

    Args:
        queue: Where the signals wait.
        dispatcher: Gives out batches with their permits.
        transport: One request out, one answer in.
        credentials: Sign requests; they are renewed here, in the background.
        rate: The budget, whose gaps and windows waits are measured in.
        url: Where risk events go.
    """

    def __init__(
        self,
        queue: SendingQueue,
        dispatcher: Dispatcher,
        transport: Transport,
        credentials: Credentials,
        *,
        rate: RateLimit,
        url: str,
    ) -> None:
        self._queue = queue
        self._dispatcher = dispatcher
        self._transport = transport
        self._credentials = credentials
        self.event_log: EventLog = EventLog(url.removesuffix(PATH))
        self._renewal = Renewal(credentials, transport, queue.alarm.ring, self.event_log)
        self._url = url
        self._loop = asyncio.get_running_loop()
        self._process = os.getpid()
        # A try after a failure costs a permit, so the waits are measured in gaps and windows, not in absolute time.
        self._first_backoff = rate.period / rate.requests / 2
        self.health: Health = Health(self.event_log, first=self._first_backoff, most=rate.period)
        self.counts: Counts = Counts()
        self._drain_by: float | None = None

    # -- the loop

    async def run(self) -> None:
        """Send until `drain` was called and nothing is left that could be sent in time."""
        async with asyncio.TaskGroup() as submissions:
            while os.getpid() == self._process:  # a forked child must not send its parent's signals
                self._queue.alarm.silence()
                now = self._loop.time() + TIMER_RESOLUTION
                self._renewal.maybe_start(submissions, now)
                batch = await self._dispatcher.next_batch(self._terms(now))
                if isinstance(batch, Batch):
                    self._launch(batch, submissions)
                    await asyncio.sleep(0)  # thirty that may leave at once would stop the loop for long
                elif self._is_drained(batch.leaves_at):
                    self._renewal.cancel()
                    return
                else:
                    await self._queue.alarm.wait(min(batch.until, self._renew_at()))

    def _renew_at(self) -> float:
        return math.inf if self._renewal.under_way else self._renewal.next_at()

    def _terms(self, now: float) -> Terms:
        leave_before = math.inf if self._drain_by is None else self._drain_by
        terms = Terms(draining=self._drain_by is not None, leave_before=leave_before)
        if not self._credentials.usable(now):
            return evolve(terms, hold_until=max(now, self._renew_at()))
        trouble = self.health.trouble
        if trouble is None:
            return terms
        if trouble.denied:
            return evolve(terms, hold_until=math.inf if self.counts.requests_in_flight else trouble.until)
        return evolve(terms, others_until=trouble.until, express=False)

    def _is_drained(self, leaves_at: float) -> bool:
        if self._drain_by is None or self.counts.requests_in_flight:
            return False
        is_over = self._loop.time() >= self._drain_by
        if self._renewal.under_way and self._queue.waiting:
            return is_over
        return is_over or self._queue.waiting == 0 or leaves_at >= self._drain_by

    def drain(self, until: float, *, is_interrupted: bool = False) -> None:
        """
        Send what is left, the most important first, as long as it can be sent before *until* on the loop clock.

        Somebody who pressed Ctrl-C (*is_interrupted*) sees a warning of what keeps the program.
        """
        if self._drain_by is None:
            left, waiting = until - self._loop.time(), self._queue.waiting
            warns = is_interrupted and waiting > 0
            hint = "; a second Ctrl-C gives up what still waits" if warns else ""
            text = f"draining, {waiting} signals wait for up to {left:.0f} s{hint}"
            level = logging.WARNING if warns else logging.INFO
            self.event_log.emit(level, "draining", text, waiting=waiting, timeout=left)
        self._drain_by = until
        self.health.end_soon()
        self._renewal.retry_now()
        self._queue.retry_now()

    def budget(self, now: float) -> tuple[int, int, float]:
        """Return the limit of a window, the permits that are free, and until when the server holds everything."""
        return self._dispatcher.budget(now)

    def current_trouble(self) -> Trouble | None:
        """Return what keeps signals from going now, or soon will: no new credentials, or a server that fails."""
        now = self._loop.time()
        if self._dispatcher.outage is not None:
            return Trouble(self._dispatcher.outage, False, 1, now, now, now)
        failure, usable = self._renewal.failure, self._credentials.usable(now)
        if failure is None or (self.health.trouble is not None and usable):
            return self.health.trouble
        return Trouble(
            failure.reason, failure.denied and not usable, failure.failures, failure.until, failure.until, 0.0
        )

    def _launch(self, batch: Batch, submissions: asyncio.TaskGroup) -> None:
        self.counts.requests += 1
        self.counts.requests_in_flight += 1
        submission = submissions.create_task(self._submit(batch, self._loop.time() + TIMER_RESOLUTION))
        # Not a `finally` in _submit, which a task that is cancelled before its first step never enters.
        submission.add_done_callback(lambda done: self._give_up(batch) if done.cancelled() else None)

    async def _submit(self, batch: Batch, departed_at: float) -> None:
        verdict = await self._ask(batch)
        self._release_permit(batch)
        self._act(batch, verdict, departed_at, self._loop.time())
        self._dispatcher.finish(batch)
        self._queue.alarm.ring()

    def _give_up(self, batch: Batch) -> None:
        """Take back what rode in a request that was cancelled: the client ends, or somebody cancelled it alone."""
        self._release_permit(batch)
        self._act_unanswered(batch, self._loop.time() + self._first_backoff, may_have_arrived=True)
        self._dispatcher.finish(batch)

    def _release_permit(self, batch: Batch) -> None:
        self.counts.requests_in_flight -= 1
        self._dispatcher.release_permit(batch)

    async def _ask(self, batch: Batch) -> Verdict:
        if not self._credentials.usable(self._loop.time()):  # they were refused since the batch was taken
            return CredentialsRefused()
        try:
            request = Request("POST", self._url, HEADERS, encode(batch.events), len(batch.receipts))
            request = self._credentials.sign(request, now_on(self._loop))
            response = await self._dispatcher.exchange(batch, partial(self._transport, request))
            verdict = classify(response)
            self._learn(batch, budgets(response.headers), refused=isinstance(verdict, RateLimited))
            return CredentialsRefused() if self._credentials.learn(request, response, now_on(self._loop)) else verdict
        except Unanswered as lost:
            return verdict_on(lost)
        except Exception as error:  # a defect of ours or of a custom transport must not take the other requests down
            reason = f"an unexpected {type(error).__name__}, see the log"
            if self.health.trouble is None or self.health.trouble.reason != reason:
                shown = self._credentials.redact(traceback.format_exc())  # which may show what the request holds
                text = "a request failed in an unexpected way; its signals are put back\n%s"
                logger.error(text, shown, extra=log_fields("defect"))
            return Unavailable(reason, may_have_arrived=True)

    def _learn(self, batch: Batch, said: list[Budget], *, refused: bool) -> None:
        """Adopt what the answer to *batch* says of the budget, and log what is new."""
        now = self._loop.time()
        limit, _, held_until = self._dispatcher.budget(now)
        self._dispatcher.learn(batch, said, refused=refused)
        limit_now, _, held_now = self._dispatcher.budget(now)
        if limit_now != limit:
            text = f"the server's headers allow {limit_now} requests a window now, {limit} before"
            self.event_log.emit(logging.INFO, "limit", text, limit=limit_now, before=limit)
        if held_now > max(now, held_until):
            self.health.throttled(now, held_now, self._queue.waiting, limit_now)

    def _clean(self, said: str | None) -> str | None:
        """Return a server's words as one bounded line, without credentials that it echoes."""
        if said is None:
            return None
        if said.endswith("…"):  # cut short: the last word may be half of a token, which nobody would recognize
            said = f"{said.rpartition(' ')[0]} …"
        return plain(self._credentials.redact(said))

    # -- what an answer means for its signals

    def _act(self, batch: Batch, verdict: Verdict, departed_at: float, now: float) -> None:
        waiting = self._queue.waiting
        match verdict:
            case BatchAccepted(request_id):
                self.health.succeeded(now, self._dispatcher.budget(now)[2])
                accepted = Accepted(self._clean(request_id))
                self._queue.settle(batch.receipts, lambda _: accepted)
            case BatchRefused():
                self.health.succeeded(now, self._dispatcher.budget(now)[2])
                self._isolate(batch, verdict)
            case RateLimited():
                self.counts.rate_limited += 1
                self._put_back(batch)  # the limiter holds everything until then
            case CredentialsRefused():
                self._put_back(batch)
            case TooConcurrent():
                # A slot may be free at once, whatever the reset time says (okta-sdk-python issue 270).
                reason, most = "too many of the org's requests are in flight", 4 * self._first_backoff
                self._put_back(batch, self.health.failed(reason, departed_at, now, waiting, most=most))
            case AccessDenied(reason):
                self.health.failed(self._clean(reason) or "", departed_at, now, waiting, denied=True)
                self._put_back(batch)
            case Unavailable(reason, may_have_arrived):
                ready_at = self.health.failed(self._clean(reason) or "", departed_at, now, waiting)
                self._act_unanswered(batch, ready_at, may_have_arrived=may_have_arrived)

    def _act_unanswered(self, batch: Batch, ready_at: float, *, may_have_arrived: bool) -> None:
        for receipt in batch.receipts:
            receipt.may_have_arrived |= may_have_arrived
        self._put_back(batch, ready_at)

    def _put_back(self, batch: Batch, ready_at: float = -math.inf) -> None:
        self.counts.put_back += len(batch.receipts)
        if batch.is_probe:
            self._queue.suspect([batch.receipts], ready_at)
        else:
            self._queue.put_back(batch.receipts, ready_at)

    def _isolate(self, batch: Batch, refused: BatchRefused) -> None:
        """Find the signal that Okta refuses without losing its companions."""
        receipts = batch.receipts
        if len(receipts) == 1:
            reason, code, request_id = map(self._clean, (refused.reason, refused.code, refused.request_id))
            rejected = Rejected(reason or "", code, refused.status, request_id)
            self._queue.settle(receipts, lambda _: rejected)
            text = refusal_text(code, reason)
            logger.debug("%s", text, extra=log_fields("signal_refused", code=code, reason=reason))
            self.event_log.emit(logging.WARNING, "refused", text, code=code, reason=reason, status=refused.status)
            return
        # Causes that keep naming somebody while the batch keeps being refused are not trusted any more.
        trusted = max(receipt.attempts for receipt in receipts) <= _TRUSTED_ATTEMPTS
        named = batch.named(refused.named) if trusted else []
        if named and len(named) < len(receipts):
            suspects = set(named)
            self._queue.suspect([[receipt] for receipt in named])
            self._queue.put_back([receipt for receipt in receipts if receipt not in suspects])
        else:
            self._queue.suspect(split(receipts))
