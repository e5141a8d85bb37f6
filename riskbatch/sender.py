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
import random
import traceback

from attrs import define, evolve, frozen

from .batcher import Batch, split
from .limiter import Limiter
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
from .prioritizer import Demand
from .queue import Queue
from .receipts import Accepted, Rejected
from .signals import RiskLevel

logger = logging.getLogger("riskbatch")

_GRAIN = 1e-6  # seconds: a timer may fire this early, and waiting again for so little would spin
_BELIEVED = 3  # attempts after which the indices that a server names are no longer trusted


def backoff(failures: int, first: float, most: float, jitter: float) -> float:
    """
    Return the seconds to wait after the *failures*-th failure in a row: full jitter over a doubling span.

    Args:
        failures: From 1.
        first: The span after the first failure, in seconds.
        most: The longest span, in seconds.
        jitter: From 0 to 1, evenly drawn, so that many clients do not come back at once.
    """
    return float(min(most, first * 2.0 ** min(failures - 1, 60)) * jitter)


@frozen
class Trouble:
    """
    Why sending is slowed down or stopped.

    Attributes:
        reason: In the server's words where it had any.
        denied: Everything stops but one probe at a time, because a person must mend something. Otherwise a HIGH that
            is ready still goes.
        failures: In a row.
        until: When the next try is due, on the loop clock.
        known_at: When the last failure came; an answer to an older request says nothing new.
        began_at: When the first of them came.
    """

    reason: str
    denied: bool
    failures: int
    until: float
    known_at: float
    began_at: float


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
        limiter: When a request may leave.
        transport: One request out, one answer in.
        credentials: Sign requests; they are renewed here, in the background.
        url: Where risk events go.
    """

    def __init__(
        self, queue: Queue, limiter: Limiter, transport: Transport, credentials: Credentials, url: str
    ) -> None:
        self._queue = queue
        self._limiter = limiter
        self._transport = transport
        self._credentials = credentials
        self.event_log = EventLog(url.removesuffix(PATH))
        self._renewal = Renewal(credentials, transport, queue.wake, self.event_log)
        self._url = url
        self._loop = asyncio.get_running_loop()
        self._process = os.getpid()
        # A try after a failure costs a permit, so the waits are measured in gaps and windows, not in absolute time.
        self._first_backoff = limiter.window.rate.period / limiter.window.rate.requests / 2
        self._most_backoff = limiter.window.rate.period
        self.trouble: Trouble | None = None
        self.counts = Counts()
        self._throttled_at: float | None = None  # since when the window has been used up: a row of 429s is one line
        self._drain_by: float | None = None

    # -- the loop

    async def run(self) -> None:
        """Send until `drain` was called and nothing is left that could be sent in time."""
        self._limiter.watch(self._queue.wake)
        try:
            await self._run()
        finally:
            self._limiter.unwatch(self._queue.wake)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as submissions:
            while os.getpid() == self._process:  # a forked child must not send its parent's signals
                now = self._loop.time() + _GRAIN
                if self._queue.expire(now):
                    await asyncio.sleep(0)
                    continue
                self._renewal.maybe_start(submissions, now)
                demand = self._queue.demand(now)
                at = self._next_at(now, demand)
                if at <= now and (self._drain_by is None or now < self._drain_by):
                    if self._limiter.has_room(now):
                        await self._depart(submissions)
                    else:  # the bucket rounds otherwise than next_at
                        await self._queue.changed(now + 0.001)
                elif self._is_drained(min(at, self._queue.ready_at())):
                    self._renewal.cancel()
                    return
                else:
                    renew_at = math.inf if self._renewal.under_way else self._renewal.next_at()
                    await self._queue.changed(min(at, self._queue.ready_at(), self._queue.overdue_at(now), renew_at))

    def drain(self, until: float) -> None:
        """Send what is left, the most important first, as long as it can be sent before *until* on the loop clock."""
        if self._drain_by is None:
            left, waiting = until - self._loop.time(), self._queue.waiting
            text = f"draining, {waiting} signals wait for up to {left:.0f} s"
            self.event_log.emit(logging.INFO, "draining", text, waiting=waiting, timeout=left)
        self._drain_by = until
        if self.trouble is not None:
            self.trouble = evolve(self.trouble, until=-math.inf)  # after the end it could not be tried again
        self._renewal.retry_now()
        self._queue.hurry()

    @property
    def _draining(self) -> bool:
        return self._drain_by is not None

    def current_trouble(self) -> Trouble | None:
        """Return what keeps signals from going now, or soon will: no new credentials, or a server that fails."""
        failure, usable = self._renewal.failure, self._credentials.usable(self._loop.time())
        if failure is None or (self.trouble is not None and usable):
            return self.trouble
        return Trouble(
            failure.reason, failure.denied and not usable, failure.failures, failure.until, failure.until, 0.0
        )

    def budget(self, now: float) -> tuple[int, int, float]:
        """Return the limit of a window, the permits that are free, and until when the server holds everything."""
        window = self._limiter.window
        return window.limit, max(0, window.free(now)), self._limiter.held_until

    def _next_at(self, now: float, demand: Demand) -> float:
        if not self._credentials.usable(now):
            return math.inf if self._renewal.under_way else self._renewal.next_at()
        at = self._limiter.next_at(now, demand, flushing=self._queue.flushing, draining=self._draining)
        if self.trouble is None or demand.level is None:
            return at
        if self.trouble.denied:
            return math.inf if self.counts.requests_in_flight else max(at, self.trouble.until)
        if demand.level is RiskLevel.HIGH and not self._draining:
            return max(at, self._limiter.paced_at)  # no express into a server that fails
        return max(at, self.trouble.until)

    def _is_drained(self, next_at: float) -> bool:
        if self._drain_by is None or self.counts.requests_in_flight:
            return False
        if self._renewal.under_way and self._queue.waiting:
            return self._loop.time() >= self._drain_by
        return self._queue.waiting == 0 or next_at >= self._drain_by or self._loop.time() >= self._drain_by

    async def _depart(self, submissions: asyncio.TaskGroup) -> None:
        now = self._loop.time() + _GRAIN  # as `run` reckons: a permit that counted as free must be free here too
        batch = self._queue.take(now)
        if batch.entries:
            await self._limiter.depart(now)  # never suspends, so the batch cannot be lost to a cancellation here
            self._launch(batch, submissions, now)

    def _launch(self, batch: Batch, submissions: asyncio.TaskGroup, now: float) -> None:
        self.counts.requests += 1
        self.counts.requests_in_flight += 1
        submission = submissions.create_task(self._submit(batch, now))
        # Not a `finally` in _submit, which a task that is cancelled before its first step never enters.
        submission.add_done_callback(lambda done: self._give_up(batch) if done.cancelled() else None)

    async def _submit(self, batch: Batch, departed_at: float) -> None:
        verdict = await self._ask(batch)
        self._return_permit()
        self._act(batch, verdict, departed_at, self._loop.time())
        self._queue.answered(batch)
        self._queue.wake()

    def _give_up(self, batch: Batch) -> None:
        """Take back what rode in a request that was cancelled: the client ends, or somebody cancelled it alone."""
        self._return_permit()
        self._act_unanswered(batch, self._loop.time() + self._first_backoff, may_have_arrived=True)
        self._queue.answered(batch)

    def _return_permit(self) -> None:
        self.counts.requests_in_flight -= 1
        self._limiter.answered(self._loop.time())

    async def _ask(self, batch: Batch) -> Verdict:
        if not self._credentials.usable(self._loop.time()):  # they were refused since the batch was taken
            return CredentialsRefused()
        try:
            request = Request("POST", self._url, HEADERS, encode(batch.events), len(batch.entries))
            request = self._credentials.sign(request, now_on(self._loop))
            response = await self._transport(request)
            verdict = classify(response)
            self._learn_budget(batch, budgets(response.headers), refused=isinstance(verdict, RateLimited))
            return CredentialsRefused() if self._credentials.learn(request, response, now_on(self._loop)) else verdict
        except Unanswered as lost:
            return verdict_on(lost)
        except Exception as error:  # a defect of ours or of a custom transport must not take the other requests down
            reason = f"an unexpected {type(error).__name__}, see the log"
            if self.trouble is None or self.trouble.reason != reason:
                shown = self._credentials.redact(traceback.format_exc())  # which may show what the request holds
                logger.error(
                    "a request failed in an unexpected way; its signals are put back\n%s",
                    shown,
                    extra=log_fields("defect"),
                )
            return Unavailable(reason, may_have_arrived=True)

    def _learn_budget(self, _: Batch, said: list[Budget], *, refused: bool) -> None:
        """Adopt what the answer to a batch says of the budget."""
        now, limit, held_until = self._loop.time(), self._limiter.window.limit, self._limiter.held_until
        self._limiter.learn(said, now, refused=refused)
        if self._limiter.window.limit != limit:
            self._say_limit(limit)
        if self._limiter.held_until > max(now, held_until):
            self._say_throttled(now)

    def _say_limit(self, before: int) -> None:
        limit = self._limiter.window.limit
        text = f"the server's headers allow {limit} requests a window now, {before} before"
        self.event_log.emit(logging.INFO, "limit", text, limit=limit, before=before)

    def _say_throttled(self, now: float) -> None:
        if self._throttled_at is None:
            self._throttled_at = now
            hold = self._limiter.held_until - now
            text = f"the requests of this window are used up; nothing is sent for {hold:.0f} s"
            found = {"resumes_after": hold, "waiting": self._queue.waiting, "limit": self._limiter.window.limit}
            self.event_log.emit(logging.WARNING, "throttled", text, **found)

    def _clean(self, said: str | None) -> str | None:
        """Return a server's words as one bounded line, without credentials that it echoes."""
        if said is None:
            return None
        if said.endswith("…"):  # cut short: the last word may be half of a token, which nobody would recognize
            said = f"{said.rpartition(' ')[0]} …"
        return plain(self._credentials.redact(said))

    # -- what an answer means for its signals

    def _act(self, batch: Batch, verdict: Verdict, departed_at: float, now: float) -> None:
        match verdict:
            case BatchAccepted(request_id):
                self._recovered()
                accepted = Accepted(self._clean(request_id))
                self._queue.land(batch.entries, lambda _: accepted)
            case BatchRefused():
                self._recovered()
                self._isolate(batch, verdict)
            case RateLimited():
                self.counts.rate_limited += 1
                self._put_back(batch)  # the limiter holds everything until then
            case CredentialsRefused():
                self._put_back(batch)
            case TooConcurrent():
                # A slot may be free at once, whatever the reset time says (okta-sdk-python issue 270).
                reason = "too many of the org's requests are in flight"
                self._put_back(batch, self._slow_down(reason, departed_at, now, most=4 * self._first_backoff))
            case AccessDenied(reason):
                self._slow_down(reason, departed_at, now, denied=True)
                self._put_back(batch)
            case Unavailable(reason, may_have_arrived):
                ready_at = self._slow_down(reason, departed_at, now)
                self._act_unanswered(batch, ready_at, may_have_arrived=may_have_arrived)

    def _act_unanswered(self, batch: Batch, ready_at: float, *, may_have_arrived: bool) -> None:
        for entry in batch.entries:
            entry.may_have_arrived |= may_have_arrived
        self._put_back(batch, ready_at)

    def _put_back(self, batch: Batch, ready_at: float = -math.inf) -> None:
        self.counts.put_back += len(batch.entries)
        if batch.is_probe:
            self._queue.suspect([batch.entries], ready_at)
        else:
            self._queue.put_back(batch.entries, ready_at)

    def _isolate(self, batch: Batch, refused: BatchRefused) -> None:
        """Find the signal that Okta refuses without losing its companions."""
        entries = batch.entries
        if len(entries) == 1:
            reason, code, request_id = map(self._clean, (refused.reason, refused.code, refused.request_id))
            rejected = Rejected(reason or "", code, refused.status, request_id)
            self._queue.land(entries, lambda _: rejected)
            text = refusal_text(code, reason)
            logger.debug("%s", text, extra=log_fields("signal_refused", code=code, reason=reason))
            self.event_log.emit(logging.WARNING, "refused", text, code=code, reason=reason, status=refused.status)
            return
        # Causes that keep naming somebody while the batch keeps being refused are not believed any more.
        believed = max(entry.attempts for entry in entries) <= _BELIEVED
        named = batch.named(refused.named) if believed else []
        if named and len(named) < len(entries):
            suspects = set(named)
            self._queue.suspect([[entry] for entry in named])
            self._queue.put_back([entry for entry in entries if entry not in suspects])
        else:
            self._queue.suspect(split(entries))

    # -- trouble

    def _slow_down(
        self, reason: str, departed_at: float, now: float, *, denied: bool = False, most: float | None = None
    ) -> float:
        """Note a failure and return when to try again; failures of requests that left together count as one."""
        reason = self._clean(reason) or ""
        old = self.trouble
        if old is not None and departed_at < old.known_at and denied == old.denied:
            return max(old.until, now)
        failures = old.failures + 1 if old is not None else 1
        most = self._most_backoff if most is None else most
        if self._draining:  # a long wait would outlast the time that is left
            most = min(most, 2 * self._first_backoff)
        until = now + backoff(failures, self._first_backoff, most, random.random())
        self.trouble = Trouble(reason, denied, failures, until, now, now if old is None else old.began_at)
        if old is None or old.denied != denied or (denied and old.reason != reason):
            event = "paused" if denied else "slowed"
            state = "paused until the server accepts again" if denied else "slowed down"
            text = f"sending is {state}: {reason}"
            self.event_log.emit(logging.WARNING, event, text, reason=reason, waiting=self._queue.waiting)
        return until

    def _recovered(self) -> None:
        now = self._loop.time()
        if self.trouble is not None:
            reason, after = self.trouble.reason, now - self.trouble.began_at
            text = f"sending again, after {after:.0f} s of: {reason}"
            self.event_log.emit(logging.WARNING, "resumed", text, reason=reason, after=after)
            self.trouble = self._throttled_at = None
        elif self._throttled_at is not None and now >= self._limiter.held_until:
            after = now - self._throttled_at
            text = f"sending again, {after:.0f} s after the requests of a window were used up"
            self.event_log.emit(logging.INFO, "resumed", text, reason=None, after=after)
            self._throttled_at = None
