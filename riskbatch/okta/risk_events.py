"""
Signals to the bytes of a risk events request, and the limits of that request. Pure.

Sources, read 2026-08-21: [SPEC] the Okta Management OpenAPI 2025.08.0, sendRiskEvents; [REF] Okta's hand-written Risk
Events reference, removed 2023-02-24.
"""

import json
from collections.abc import Iterable, Sequence

from ..signals import RiskSignal, format_time

PATH = "/api/v1/risk/events/ip"  # [SPEC]
MAX_EVENTS = 20  # a request; prose of [SPEC] and [REF], not in the schema
MAX_SUBJECTS = 50  # an event; [REF] only


def encode(events: Iterable[Sequence[RiskSignal]]) -> bytes:
    """Write the payload: a bare JSON array of RiskEvent; the signals of one event share timestamp and expiry."""
    return json.dumps([_risk_event(signals) for signals in events], separators=(",", ":")).encode()


def _risk_event(signals: Sequence[RiskSignal]) -> dict[str, object]:
    event: dict[str, object] = {
        "timestamp": format_time(signals[0].timestamp),
        "subjects": [_risk_event_subject(signal) for signal in signals],
    }
    if signals[0].expires_at is not None:
        event["expiresAt"] = format_time(signals[0].expires_at)
    return event


def _risk_event_subject(signal: RiskSignal) -> dict[str, str]:
    subject = {"ip": signal.ip, "riskLevel": signal.risk_level.value}
    if signal.message is not None:
        subject["message"] = signal.message
    return subject
