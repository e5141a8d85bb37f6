"""
One request with what became of it (`Exchange`), and what can be made to go wrong with it (`Fault`).

The two name each other, so they share a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import attrs

from .messages import EmulatedRequest, Headers, ReceivedSignal, size

CROWDED_RESET = 114.0  # seconds; a live org was seen to suggest this while a slot was free (okta-sdk-python #270)


@attrs.define(eq=False)
class Exchange:
    """One request and what became of it."""

    number: int
    """1 for the first that arrives at the risk endpoint; 0 for a request to another endpoint."""
    arrived_at: float
    """Seconds on the caller's clock at which its head arrived."""
    request: EmulatedRequest
    fault: Fault | None = None
    status: int | None = None
    """Status of the answer; `None` when none was given."""
    error_code: str | None = None
    request_id: str | None = None
    """The `X-Okta-Request-Id` of the answer."""
    signals: tuple[ReceivedSignal, ...] = attrs.field(default=(), repr=size)
    """Ingested from this request, also if the answer was lost."""
    holds_slot: bool = attrs.field(default=False, repr=False)


@attrs.frozen(kw_only=True)
class Fault:
    """
    One thing that goes wrong with one request; use the constructors, and `attrs.evolve` to combine them.

    Without *ingest* the org never sees the request: no signal is recorded and no quota is used. With it, the org judges
    the request as always (signals are recorded if they are valid), and only the answer changes.
    """

    ending: Literal["answer", "drop", "truncate", "hang"] = "answer"
    ingest: bool = False
    status: int | None = None
    """Status to answer with; `None` keeps the org's own answer."""
    code: str | None = None
    """Okta error code: makes the body Okta's five keys instead of *body*."""
    headers: Headers = ()
    body: bytes = attrs.field(default=b"", repr=size)
    rate: tuple[int, int, float] | None = None
    """Limit, Remaining, and in how many seconds Reset is."""
    from_okta: bool = True
    """False for an answer of something in between, which has no `X-Okta-Request-Id`."""
    delay: float = 0.0
    """Seconds before the answer, the drop or the cut; a slot is held meanwhile."""
    when: Callable[[Exchange], bool] | None = None
    """Only exchanges for which this is true meet the fault."""

    def only_if(self, predicate: Callable[[Exchange], bool]) -> Fault:
        """Limit this fault to exchanges for which *predicate* is true; the fault waits in the list until one comes."""
        return attrs.evolve(self, when=predicate)

    @classmethod
    def answer(cls, status: int, headers: Iterable[tuple[str, str]] = (), body: bytes = b"") -> Fault:
        """Any answer at all. Not ingested. A header given here replaces the emulator's own of that name."""
        return cls(status=status, headers=tuple(headers), body=body)

    @classmethod
    def error(cls, status: int = 500, code: str = "E0000009") -> Fault:
        """An error in Okta's shape, without rate headers. Not ingested."""
        return cls(status=status, code=code)

    @classmethod
    def unavailable(cls, code: str = "E0000181") -> Fault:
        """503 without rate headers; `E0000010` is the read-only mode. Not ingested."""
        return cls.error(503, code)

    @classmethod
    def proxy_error(cls, status: int = 502) -> Fault:
        """An HTML page from a proxy before Okta (502, 504), without Okta's headers. Not ingested."""
        page = f"<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>\r\n".encode()
        return cls(status=status, headers=(("Content-Type", "text/html"),), body=page, from_okta=False)

    @classmethod
    def rate_limited(cls, *, limit: int = 30, remaining: int = 0, reset_in: float = 60.0) -> Fault:
        """429 with these rate headers, Reset *reset_in* seconds ahead. Not ingested."""
        return cls(status=429, code="E0000047", rate=(limit, remaining, reset_in))

    @classmethod
    def crowded(cls, *, reset_in: float = CROWDED_RESET) -> Fault:
        """The concurrency 429: Limit 0, Remaining 0, a Reset that means nothing. Not ingested."""
        return cls(status=429, code="E0000047", rate=(0, 0, reset_in))

    @classmethod
    def redirect(cls, location: str, status: int = 302) -> Fault:
        """A redirect, which a client must not follow with its token. Not ingested."""
        return cls(status=status, headers=(("Location", location),))

    @classmethod
    def drop(cls) -> Fault:
        """The connection is closed without an answer. Not ingested."""
        return cls(ending="drop")

    @classmethod
    def lost_answer(cls) -> Fault:
        """The connection is closed without an answer, but the signals ARE ingested."""
        return cls(ending="drop", ingest=True)

    @classmethod
    def truncated(cls) -> Fault:
        """The connection is closed in the middle of the org's own answer. Ingested."""
        return cls(ending="truncate", ingest=True)

    @classmethod
    def hang(cls, *, ingest: bool = False) -> Fault:
        """No answer until the client gives up or the emulator closes. Ingested only if *ingest*."""
        return cls(ending="hang", ingest=ingest)

    @classmethod
    def slow(cls, seconds: float) -> Fault:
        """The org's own answer, *seconds* late, with the `Date` of the arrival. Ingested, at arrival."""
        return cls(ingest=True, delay=seconds)

    @classmethod
    def oversized(cls, size: int = 8 * 1024 * 1024, status: int = 202) -> Fault:
        """An answer with a body of *size* bytes. Ingested if *status* is a success."""
        return cls(status=status, ingest=200 <= status < 300, body=b"x" * size)


def take_fault(faults: list[Fault], exchange: Exchange) -> Fault | None:
    """Remove the first of *faults* that *exchange* meets, and return it."""
    for i, fault in enumerate(faults):
        if fault.when is None or fault.when(exchange):
            return faults.pop(i)
    return None
