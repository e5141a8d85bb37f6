"""
Okta's schema: which bodies of risk events and risk providers it takes, and what it says about the others.

Sources, read 2026-08-21: okta-management-openapi-spec 2025.08.0, the last with this endpoint; where the old reference
page (removed 2023-02-24) says more, the constant names it.
"""

import ipaddress
import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import NotRequired, TypedDict

from .errors import Refused
from .faults import Exchange
from .messages import ReceivedSignal

MAX_EVENTS = 20  # prose of the operation in the spec; its schema has no maxItems
MAX_SUBJECTS = 50  # old reference page only, never in a spec
MAX_PROVIDER_NAME = 50  # spec, RiskProvider.name; the old page says fewer than 50
PROVIDER_ACTIONS = ("none", "log_only", "enforce_and_log")
MAX_MESSAGE = 512  # spec, RiskEventSubject.message

_MESSAGE = re.compile(r"[a-zA-Z0-9 .\-_]*")  # spec; fullmatch, because `$` lets a trailing newline pass
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)  # spec: yyyy-MM-dd'T'HH:mm:ss.SSS'Z'
_RISK_LEVELS = ("HIGH", "MEDIUM", "LOW")


class Subject(TypedDict):
    """One address with its level, in a body that the schema allows."""

    ip: str
    riskLevel: str
    message: NotRequired[str]


class Event(TypedDict):
    """One risk event in a body that the schema allows."""

    subjects: list[Subject]
    timestamp: NotRequired[str]
    expiresAt: NotRequired[str]


_Check = Callable[[object], str]
"""Says what is wrong with a value; empty when nothing is."""


def _check_array(value: object) -> str:
    return "" if isinstance(value, list) else "must be an array"


def _check_ip(value: object) -> str:
    if not isinstance(value, str):
        return "must be a string"
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return "must be an IPv4 or IPv6 address"
    return "must not have a zone id" if "%" in value else ""


def _check_level(value: object) -> str:
    return "" if value in _RISK_LEVELS else "must be one of HIGH, MEDIUM, LOW"


def _check_message(value: object) -> str:
    if not isinstance(value, str):
        return "must be a string"
    if len(value) > MAX_MESSAGE:
        return f"has {len(value)} characters (limit {MAX_MESSAGE})"
    return "" if _MESSAGE.fullmatch(value) else f"must match {_MESSAGE.pattern}"


def _check_instant(value: object) -> str:
    if not isinstance(value, str) or not _INSTANT.fullmatch(value):
        return "must be a UTC instant like 2021-01-20T00:00:00.001Z"
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return "is not a date"
    return ""


_Fields = Mapping[str, tuple[bool, _Check]]
"""For each property: whether it is required, and its check."""

_EVENT_FIELDS: _Fields = {
    "subjects": (True, _check_array),
    "timestamp": (False, _check_instant),
    "expiresAt": (False, _check_instant),
}
_SUBJECT_FIELDS: _Fields = {
    "ip": (True, _check_ip),
    "riskLevel": (True, _check_level),
    "message": (False, _check_message),
}


def read_json(body: bytes | None) -> object:
    """Return what *body* says; what is no JSON is `Refused`."""
    try:
        value: object = json.loads((body or b"").decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Refused(400, "E0000003") from None
    return value


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def read_events(body: bytes | None) -> list[object]:
    """Return the array in *body*. That a single object is E0000003 and not E0000001 is *unverified*."""
    events = read_json(body)
    if not isinstance(events, list):
        raise Refused(400, "E0000003")
    return events


def event_problems(events: list[object], max_subjects: int | None, allow_unknown: bool) -> Iterator[str]:
    """Yield what the schema forbids in *events*, each with its place, `[3].subjects[0].ip: ...`."""
    if not 1 <= len(events) <= MAX_EVENTS:
        yield f"[]: has {len(events)} events (1 to {MAX_EVENTS} allowed)"
        return
    for i, event in enumerate(events):
        yield from _field_problems(event, f"[{i}]", _EVENT_FIELDS, allow_unknown)
        subjects = event.get("subjects") if isinstance(event, dict) else None
        if not isinstance(subjects, list):
            continue
        if not subjects or (max_subjects is not None and len(subjects) > max_subjects):
            yield f"[{i}].subjects: has {len(subjects)} subjects (1 to {max_subjects or 'any number'} allowed)"
        for j, subject in enumerate(subjects):
            yield from _field_problems(subject, f"[{i}].subjects[{j}]", _SUBJECT_FIELDS, allow_unknown)


def _field_problems(value: object, where: str, fields: _Fields, allow_unknown: bool) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where}: must be an object"
        return
    for name, (required, check) in fields.items():
        if name not in value:
            if required:
                yield f"{where}.{name}: is required"
        elif problem := check(value[name]):
            yield f"{where}.{name}: {problem}"
    if not allow_unknown:
        yield from (f"{where}.{name}: is not a known property" for name in value if name not in fields)


def received_signals(events: list[Event], exchange: Exchange) -> Iterator[tuple[str, ReceivedSignal]]:
    """Yield every subject of valid *events* as a signal, each with its place."""
    for i, event in enumerate(events):
        for j, subject in enumerate(event["subjects"]):
            signal = ReceivedSignal(
                ip=subject["ip"],
                risk_level=subject["riskLevel"],
                message=subject.get("message"),
                timestamp=event.get("timestamp"),
                expires_at=event.get("expiresAt"),
                request=exchange.number,
                arrived_at=exchange.arrived_at,
            )
            yield f"[{i}].subjects[{j}]", signal


def provider_problems(value: object) -> Iterator[str]:
    """Yield what the schema of RiskProvider forbids in *value*; read-only members are ignored."""
    if not isinstance(value, dict):
        yield "must be an object"
        return
    name, client_id = value.get("name"), value.get("clientId")
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_PROVIDER_NAME:
        yield f"name: must have 1 to {MAX_PROVIDER_NAME} characters"
    if not isinstance(client_id, str) or not client_id:
        yield "clientId: is required"
    if value.get("action", "log_only") not in PROVIDER_ACTIONS:
        yield f"action: must be one of {', '.join(PROVIDER_ACTIONS)}"
