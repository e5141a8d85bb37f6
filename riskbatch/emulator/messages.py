"""
What goes into the emulated org and what comes out: requests, answers, and the signals inside.

No socket is needed to make these, so a simulation can ask `Org` directly.
"""

import json
import re
from collections.abc import Sized

import attrs
from multidict import MultiMapping

Headers = tuple[tuple[str, str], ...]
"""Names and values in order; a name may come twice."""

_NO_QUALITY = re.compile(r"q=0(\.0{0,3})?")


def size(value: Sized) -> str:
    """Return `<3>` for three elements: what a repr shows in place of contents."""
    return f"<{len(value)}>"


@attrs.frozen
class EmulatedRequest:
    """One HTTP request. Its repr shows neither headers nor body, because they hold the token and the signals."""

    method: str
    path: str
    """As sent, with its query."""
    headers: MultiMapping[str] = attrs.field(repr=False)
    body: bytes | None = attrs.field(default=None, repr=False)
    has_length: bool = True
    """Whether a Content-Length was sent; a POST or PUT without one must at least have a body."""

    @property
    def endpoint(self) -> str:
        """The path without its query."""
        return self.path.partition("?")[0]

    def org_url(self, base_url: str) -> str:
        """Return *base_url*; if it is empty, what the Host header names, over plain http."""
        return base_url or f"http://{self.headers.get('Host', 'emulator')}"


@attrs.frozen
class EmulatedResponse:
    """One HTTP answer. *headers* may name a header twice."""

    status: int
    headers: Headers
    body: bytes = attrs.field(default=b"", repr=False)


@attrs.frozen(kw_only=True)
class ReceivedSignal:
    """One signal as Okta got it: one subject of one event, each text exactly as sent."""

    ip: str
    risk_level: str
    message: str | None
    timestamp: str | None
    expires_at: str | None
    request: int
    """Number of the request that carried it, see `Exchange.number`."""
    arrived_at: float
    """Seconds on the clock of the caller (for `OktaEmulator`, the event loop's)."""


def json_response(status: int, body: object, headers: Headers = ()) -> EmulatedResponse:
    """Return an answer whose body is *body* as JSON."""
    return EmulatedResponse(status, (("Content-Type", "application/json"), *headers), json.dumps(body).encode())


def is_media_type(request: EmulatedRequest, wanted: str) -> bool:
    """Say whether the body of *request* is declared as *wanted*; parameters such as charset do not matter."""
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower() == wanted


def accepts_json(request: EmulatedRequest) -> bool:
    """Say whether the Accept headers allow JSON; the most specific range decides (RFC 9110 section 12.5.1)."""
    ranks = {"application/json": 2, "application/*": 1, "*/*": 0}
    best, accepted = -1, False
    for part in ",".join(request.headers.getall("Accept", ["*/*"])).lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        if ranks.get(name, -1) > best:
            best, accepted = ranks[name], not any(_NO_QUALITY.fullmatch(parameter) for parameter in parameters)
    return accepted
