"""
What callers enqueue: one IP address, its risk level, and when that was true.

Everything is checked at construction against Okta's published schema, so that an object which exists can be sent.
Source: Okta Management OpenAPI 2025.08.0, RiskEvent and RiskEventSubject (read 2026-08-21).
"""

import enum
import re
import socket
import unicodedata
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Self, TypeVar

from attrs import field, frozen

from .errors import InvalidSignal, shown

MAX_MESSAGE = 512  # characters; RiskEventSubject.message.maxLength
_is_message = re.compile(
    rf"[a-zA-Z0-9 .\-_]{{0,{MAX_MESSAGE}}}"
).fullmatch  # RiskEventSubject.message.pattern; `$` would allow "\n"
_MESSAGE_LIMIT = f"at most {MAX_MESSAGE} characters of a-z A-Z 0-9 space . - _"
_TIME_LIMIT = "an aware datetime between the years 1 and 9999 in UTC"
_JSON_TIME_LIMIT = "an ISO 8601 time with a zone, such as 2021-01-20T00:00:00.001Z"


class RiskLevel(enum.Enum):
    """How risky an address is; the order of definition is the order of sending. Okta has no others."""

    HIGH = "HIGH"
    MEDIUM = "MEDIUM"
    LOW = "LOW"

    if not TYPE_CHECKING:
        # Enum hashes its name in Python code at every lookup, of which a signal needs a dozen. Members are singletons.
        __hash__ = object.__hash__


_LEVELS: dict[RiskLevel | str, RiskLevel] = {name: level for level in RiskLevel for name in (level, level.name)}


def _canonical_ip(value: str | IPv4Address | IPv6Address) -> str:
    try:
        if isinstance(value, str):
            if ":" in value:
                text = socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, value))
                # IPv4-mapped (RFC 4291, 2.5.5.2): what a dual-stack socket calls the IPv4 address behind the prefix
                return text.removeprefix("::ffff:") if "." in text else text
            socket.inet_pton(socket.AF_INET, value)
            return value  # inet_pton takes one spelling of an IPv4 address only: four decimals without leading zeros
        if isinstance(value, IPv4Address | IPv6Address):
            return _canonical_ip(str(value))
    except (OSError, ValueError):
        pass
    raise InvalidSignal("ip", value, "an IPv4 or IPv6 address without prefix length or zone")


def _risk_level(value: RiskLevel | str) -> RiskLevel:
    try:
        return _LEVELS[value]
    except (KeyError, TypeError):
        raise InvalidSignal("risk_level", value, "HIGH, MEDIUM or LOW") from None


def _message(value: str | None) -> str | None:
    if value is None or (isinstance(value, str) and _is_message(value)):
        return value
    raise InvalidSignal("message", value, _MESSAGE_LIMIT)


def _utc(name: str, value: datetime) -> datetime:
    if type(value) is datetime and value.tzinfo is UTC:
        return value
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InvalidSignal(name, value, _TIME_LIMIT)
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise InvalidSignal(name, value, _TIME_LIMIT) from None


def _timestamp(value: datetime | None) -> datetime:
    return datetime.now(UTC) if value is None else _utc("timestamp", value)


def _expires_at(value: datetime | None) -> datetime | None:
    return None if value is None else _utc("expires_at", value)


@frozen(weakref_slot=False)
class RiskSignal:
    """
    One IP address and the risk seen there. What exists is valid for Okta.

    Args:
        ip: IPv4 or IPv6; kept in canonical text (`2001:DB8:0::1` becomes `2001:db8::1`, and `::ffff:203.0.113.7`
            becomes the IPv4 address `203.0.113.7`).
        risk_level: The enum or its name.
        message: At most 512 characters of `a-z A-Z 0-9 space . - _`; shown in Okta's System Log.
        timestamp: When the risk was seen; aware. Now, if not given. Sent in UTC with milliseconds.
        expires_at: When the signal is worthless; aware. It is settled as `Expired` if it could not be sent before.
            Without it, Okta keeps the signal for 24 hours after it was consumed.

    Raises:
        InvalidSignal: Names the field, the value and the limit.
    """

    ip: str = field(converter=_canonical_ip)
    risk_level: RiskLevel = field(converter=_risk_level)
    message: str | None = field(default=None, kw_only=True, converter=_message)
    timestamp: datetime = field(default=None, kw_only=True, converter=_timestamp)
    expires_at: datetime | None = field(default=None, kw_only=True, converter=_expires_at)

    @classmethod
    def from_json(cls, obj: object) -> Self:
        """
        Read one flat signal in Okta's camelCase: `ip`, `riskLevel`, and optionally `message`, `timestamp`, `expiresAt`.

        Raises:
            InvalidSignal: A field is missing, unknown or invalid; the error names it as it is spelt in *obj*.
        """
        fields = _known_fields(obj, _FLAT_FIELDS)
        times = _json_time("timestamp", fields), _json_time("expiresAt", fields)
        return _from_subject(cls, fields, *times)

    def to_json(self) -> dict[str, str]:
        """Return the flat camelCase form that `from_json` reads; absent fields are left out."""
        obj = {"ip": self.ip, "riskLevel": self.risk_level.value, "timestamp": format_time(self.timestamp)}
        if self.message is not None:
            obj["message"] = self.message
        if self.expires_at is not None:
            obj["expiresAt"] = format_time(self.expires_at)
        return obj


_MARKS = ("Mn", "Me")  # Unicode categories: accents that normalization has taken off their letters
_READ = 8 * MAX_MESSAGE  # characters of a text that clean_message looks at, so that a huge one costs no time
_is_separator = re.compile(r"[/\\:|=+~]").match  # what keeps words apart without a space, as in a URL or a path


def clean_message(text: str) -> str:
    """
    Return the most of *text* that Okta's rule for messages allows; the result is always a valid `message`.

    Accented letters lose their marks. `/ \\ : | = + ~` and dashes become a hyphen, and every other forbidden
    character a space. Several hyphens or spaces in a row become one, and none stand at either end. At most 512
    characters are kept. It may be empty.
    """
    letters = (c for c in unicodedata.normalize("NFKD", text[:_READ]) if unicodedata.category(c) not in _MARKS)
    allowed = "".join(c if _is_message(c) else "-" if _keeps_apart(c) else " " for c in letters)
    return re.sub(r"([ -])\1+", r"\1", allowed).strip(" -")[:MAX_MESSAGE].rstrip(" -")


def _keeps_apart(character: str) -> bool:
    return bool(_is_separator(character)) or unicodedata.category(character) == "Pd"


def format_time(time: datetime) -> str:
    """Write a UTC *time* as `yyyy-MM-ddTHH:mm:ss.SSSZ`, the one form of RiskEvent.timestamp that Okta documents."""
    text = time.isoformat()  # which takes twice as long when asked for milliseconds
    return f"{text[:23]}Z" if time.microsecond else f"{text[:19]}.000Z"


def parse_signals(obj: object) -> Iterator[RiskSignal]:
    """
    Yield the signals of *obj*, one JSON object: a flat signal, or a whole Okta RiskEvent with its `subjects`.

    Raises:
        InvalidSignal: Names the field with its place, such as `subjects[2].ip`. Signals before it were yielded.
    """
    if not isinstance(obj, Mapping) or "subjects" not in obj:
        yield RiskSignal.from_json(obj)
        return
    event = _known_fields(obj, _EVENT_FIELDS)
    # One timestamp for all, also if the event states none, so that they can share an event again.
    timestamp = _json_time("timestamp", event) or datetime.now(UTC)
    expires_at = _json_time("expiresAt", event)
    subjects = event["subjects"]
    if not isinstance(subjects, list) or not subjects:
        raise InvalidSignal("subjects", subjects, "a list of at least one subject")
    for index, subject in enumerate(subjects):
        place = f"subjects[{index}]"
        if not isinstance(subject, Mapping):
            raise InvalidSignal(place, subject, "a JSON object")
        try:
            signal = _from_subject(RiskSignal, _known_fields(subject, _SUBJECT_FIELDS), timestamp, expires_at)
        except InvalidSignal as error:
            raise InvalidSignal(f"{place}.{error.field}", error.value, error.limit) from None
        yield signal


_Signal = TypeVar("_Signal", bound=RiskSignal)
_SUBJECT_FIELDS = ("ip", "riskLevel", "message")
_FLAT_FIELDS = (*_SUBJECT_FIELDS, "timestamp", "expiresAt")
_EVENT_FIELDS = ("subjects", "timestamp", "expiresAt")


def _known_fields(obj: object, known: tuple[str, ...]) -> dict[str, object]:
    if not isinstance(obj, Mapping):
        raise InvalidSignal("signal", obj, "a JSON object")
    for name in obj:
        if name not in known:
            field_name = name if isinstance(name, str) else shown(name)
            raise InvalidSignal(field_name, obj[name], f"left out; known fields are {', '.join(known)}")
    return dict(obj)


def _from_subject(
    cls: type[_Signal], fields: dict[str, object], timestamp: datetime | None, expires_at: datetime | None
) -> _Signal:
    for required in ("ip", "riskLevel"):
        if required not in fields:
            raise InvalidSignal(required, None, "present")
    try:
        return cls(
            fields["ip"],  # type: ignore[arg-type]  # the converters refuse what is not valid
            fields["riskLevel"],  # type: ignore[arg-type]
            message=fields.get("message"),  # type: ignore[arg-type]
            timestamp=timestamp,
            expires_at=expires_at,
        )
    except InvalidSignal as error:
        name = "riskLevel" if error.field == "risk_level" else error.field
        raise InvalidSignal(name, error.value, error.limit) from None


def _json_time(name: str, fields: dict[str, object]) -> datetime | None:
    value = fields.get(name)
    if value is None:
        return None
    try:
        return _utc(name, datetime.fromisoformat(value))  # type: ignore[arg-type]  # what is not text is refused below
    except (TypeError, ValueError):
        raise InvalidSignal(name, value, _JSON_TIME_LIMIT) from None
