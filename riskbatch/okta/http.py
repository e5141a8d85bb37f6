"""One HTTP request and one answer, as the rest of the package sees them; and how one becomes the other. No I/O here."""

import ipaddress
import json
import platform
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeAlias

from attrs import define, field, frozen
from multidict import CIMultiDict, CIMultiDictProxy

from ..version import __version__

MAX_ANSWER = 64 * 1024  # bytes read of an answer; Okta's have a few hundred
_MAX_DATE = 64  # characters; the longest form of RFC 9110 has 33

# Okta asks for a User-Agent of one's own, and for both content headers (Core Okta API, read 2026-08-21). The answers
# are small, and an identity encoding cannot hide a bomb.
HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "Content-Type": "application/json",
    "User-Agent": f"riskbatch/{__version__} python/{platform.python_version()}",
}

Headers: TypeAlias = CIMultiDict[str] | CIMultiDictProxy[str]


@frozen
class Request:
    """
    One HTTP request; the headers may hold credentials and are not shown.

    Attributes:
        signals: How many it carries; 0 if it is for something else.
    """

    method: str
    url: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    signals: int = field(default=0, repr=False)


@frozen
class Response:
    """One HTTP answer; the body has at most `MAX_ANSWER` bytes."""

    status: int
    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)


@define
class Unanswered(Exception):  # noqa: N818 - it is not an error of the program
    """
    A request has no answer.

    Attributes:
        reason: One line, without anything that the request carried.
        may_have_arrived: False if nothing of the request's body left this process.
        denied: A person must mend something; otherwise it should pass.
    """

    reason: str
    may_have_arrived: bool
    denied: bool = False


Transport: TypeAlias = Callable[[Request], Awaitable[Response]]
Middleware: TypeAlias = Callable[[Request, Transport], Awaitable[Response]]


def json_of(response: Response) -> object:
    """Return what the body says, or `None` if it is not JSON."""
    try:
        body: object = json.loads(response.body)
    except (ValueError, RecursionError):
        return None
    return body


def date_of(headers: Headers) -> datetime | None:
    """Return the server's clock as its answer shows it, in UTC; `None` if that cannot be read."""
    text = headers.get("Date", "")
    try:
        date = parsedate_to_datetime(text if len(text) <= _MAX_DATE else "")
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)  # HTTP knows GMT only


def is_loopback(host: str) -> bool:
    """Tell whether *host*, a name or an address, is this machine without asking a resolver."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
