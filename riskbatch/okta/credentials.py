"""
What one client holds at one org to prove who sends, and how it gets it. No I/O and no clock here.

A flow for new credentials is a generator: it yields a request, is sent the answer and the time, and yields another,
until it holds a token or raises `Unauthenticated`.
"""

from collections.abc import Generator
from datetime import datetime
from typing import Protocol, TypeAlias

from attrs import define, frozen

from .http import Request, Response

RISK_EVENTS_SCOPE = "okta.riskEvents.manage"  # what sending takes; okta-management-openapi-spec 2025.08.0


@frozen
class Now:
    """
    One instant on both clocks.

    Attributes:
        loop: Seconds on the loop's clock, which never jumps: what expires is measured on it.
        wall: Aware UTC, for what others read: the stamps in assertions and proofs.
    """

    loop: float
    wall: datetime


@define
class Unauthenticated(Exception):  # noqa: N818 - it is not an error of the program
    """
    There are no credentials to be had at the moment.

    Attributes:
        reason: One line, in the server's words where it had any.
        denied: A person must mend something; otherwise it should pass.
        retry_after: Seconds that the server said to wait, if it did.
    """

    reason: str
    denied: bool
    retry_after: float | None = None


TokenFlow: TypeAlias = Generator[Request, tuple[Response, Now], None]


class Credentials(Protocol):
    """What one client holds at one org."""

    def usable(self, now: float) -> bool:
        """Return whether requests can be signed at *now* on the loop's clock."""

    def renew_at(self) -> float:
        """Return when `renew` should run, on the loop's clock; infinity if never."""

    def renew(self, now: Now) -> TokenFlow:
        """
        Yield the requests that lead to usable credentials.

        Raises:
            Unauthenticated: There are none to be had; what is held already stays as it was.
        """

    def sign(self, request: Request, now: Now) -> Request:
        """Return *request* with credentials, good for one attempt."""

    def learn(self, request: Request, response: Response, now: Now) -> bool:
        """Take what the *response* to a signed *request* says; return whether a newly signed attempt may succeed."""

    def redact(self, text: str) -> str:
        """Return *text* without secrets, in case a server echoes them."""
