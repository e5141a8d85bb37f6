"""
Keeping credentials good: the one place where a flow for new ones meets the network.

Requests for tokens are not risk requests: they take no permit, and when they fail they are tried again after waits of
their own.
"""

import asyncio
import logging
import math
import random
import traceback
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

from attrs import evolve, frozen

from ..backoff import backoff
from ..log import EventLog, log_fields
from .credentials import Credentials, Now, TokenFlow, Unauthenticated
from .http import HEADERS, Request, Response, Transport, Unanswered

logger = logging.getLogger("riskbatch")

_FIRST_BACKOFF = 1.0  # seconds after the first failure, doubled by each further one
_MAX_BACKOFF = 60.0  # seconds between two tries: an app that was fixed sends again within a minute
# Seconds in which at most two flows succeed, however short the lives that a server grants: the second is for a token
# that the API refuses although it is new. Okta's tokens live an hour.
_TWO_FLOWS_IN = 5.0
_MAX_ATTEMPTS = 4  # of one call: a token, and a nonce that changed twice


def now_on(loop: asyncio.AbstractEventLoop) -> Now:
    """Read both clocks."""
    return Now(loop.time(), datetime.now(UTC))


async def run_flow(flow: TokenFlow, transport: Transport) -> None:
    """
    Carry *flow* to its end.

    Raises:
        Unauthenticated: It ended without credentials, or an answer never came.
    """
    loop = asyncio.get_running_loop()
    try:
        request = next(flow)
        while True:
            response = await transport(evolve(request, headers={**HEADERS, **request.headers}))
            request = flow.send((response, now_on(loop)))
    except StopIteration:
        return
    except Unanswered as lost:
        reason, denied = f"no access token: {lost.reason}", lost.denied
    finally:
        flow.close()
    raise Unauthenticated(reason, denied)


async def call(request: Request, credentials: Credentials, transport: Transport) -> Response:
    """
    Return the answer to one request outside the queue, signed, and signed again where the answer asks for that.

    Raises:
        Unauthenticated: There are no credentials to be had.
        Unanswered: No answer came.
    """
    loop = asyncio.get_running_loop()
    for attempt in range(1, _MAX_ATTEMPTS + 1):
        if not credentials.usable(loop.time()):
            await run_flow(credentials.renew(now_on(loop)), transport)
        signed = credentials.sign(evolve(request, headers={**HEADERS, **request.headers}), now_on(loop))
        response = await transport(signed)
        if not credentials.learn(signed, response, now_on(loop)) or attempt == _MAX_ATTEMPTS:
            break
    return response


@frozen
class Failure:
    """
    Why there is no new token.

    Attributes:
        reason: In the server's words where it had any.
        denied: A person must mend something.
        failures: In a row.
        until: When the next try is due, on the loop clock.
        told: The server itself said to wait until then.
    """

    reason: str
    denied: bool
    failures: int
    until: float
    told: bool


class Renewal:
    """
    Renews one client's credentials in the background: before they end, at most one flow at a time.

    Args:
        credentials: What to renew.
        transport: One request out, one answer in.
        done: Called when a flow has ended, whatever came of it.
        event_log: Says what changes.
    """

    def __init__(
        self, credentials: Credentials, transport: Transport, done: Callable[[], object], event_log: EventLog
    ) -> None:
        self._credentials = credentials
        self._transport = transport
        self._done = done
        self._event_log = event_log
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._succeeded_at: deque[float] = deque([-math.inf] * 2, maxlen=2)
        self.failure: Failure | None = None

    @property
    def under_way(self) -> bool:
        """Whether a flow is going on."""
        return self._task is not None and not self._task.done()

    def next_at(self) -> float:
        """Return when the next flow is due, on the loop clock; infinity if never."""
        at = max(self._credentials.renew_at(), self._succeeded_at[0] + _TWO_FLOWS_IN)
        return at if self.failure is None else max(at, self.failure.until)

    def maybe_start(self, tasks: asyncio.TaskGroup, now: float) -> None:
        """Start a flow among *tasks* if one is due and none is under way."""
        if not self.under_way and self.next_at() <= now:
            self._task = tasks.create_task(self._renew(), name="riskbatch renews its credentials")

    def retry_now(self) -> None:
        """Try again at once, for the last time, unless the server said when."""
        if self.failure is not None and not self.failure.told:
            self.failure = evolve(self.failure, until=self._loop.time())

    def cancel(self) -> None:
        """Give up the flow that is under way."""
        if self._task is not None:
            self._task.cancel()

    async def _renew(self) -> None:
        try:
            await run_flow(self._credentials.renew(now_on(self._loop)), self._transport)
            if self._credentials.usable(self._loop.time()):
                self._succeeded()
            else:
                self._failed(Unauthenticated("no access token: it had ended before it came", denied=False))
        except Unauthenticated as failure:
            self._failed(failure)
        except Exception:  # a defect of ours or of a custom transport must not take the sender down
            shown = self._credentials.redact(traceback.format_exc())  # which may show what a request holds
            logger.error("a token request failed in an unexpected way\n%s", shown, extra=log_fields("defect"))
            self._failed(Unauthenticated("no access token: an unexpected error, see the log", denied=False))
        finally:
            self._done()

    def _succeeded(self) -> None:
        self._succeeded_at.append(self._loop.time())
        if self.failure is not None:
            text, reason = f"there is a new access token, after: {self.failure.reason}", self.failure.reason
            self._event_log.emit(logging.WARNING, "token_renewed", text, reason=reason)
            self.failure = None

    def _failed(self, why: Unauthenticated) -> None:
        old = self.failure
        failures = old.failures + 1 if old is not None else 1
        wait = why.retry_after
        if wait is None:
            # Half of it is jitter, so that many clients do not return together; the other half keeps a minimum.
            wait = backoff(failures, _FIRST_BACKOFF, _MAX_BACKOFF, random.uniform(0.5, 1.0))
        reason = self._credentials.redact(why.reason)
        told = why.retry_after is not None
        self.failure = Failure(reason, why.denied, failures, self._loop.time() + wait, told)
        if old is None or old.denied != why.denied or old.reason != reason:
            text = f"{reason} ({'somebody must mend this' if why.denied else 'this should pass'})"
            self._event_log.emit(logging.WARNING, "token_refused", text, reason=reason, denied=why.denied)
