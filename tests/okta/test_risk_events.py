"""Signals to bytes, against Okta's published schema."""

import json
import re
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from answers import profile
from hypothesis import given
from hypothesis import strategies as st

from riskbatch.okta import http, risk_events
from riskbatch.okta.risk_events import encode
from riskbatch.signals import RiskLevel, RiskSignal


def check_risk_events(body):
    """Okta Management OpenAPI 2025.08.0, sendRiskEvents, and the limits of the old reference page; written anew."""
    events = json.loads(body.decode("utf-8"))
    assert isinstance(events, list)
    assert 1 <= len(events) <= 20
    for event in events:
        assert {"subjects", "timestamp"} <= event.keys() <= {"subjects", "timestamp", "expiresAt"}
        for name in event.keys() - {"subjects"}:
            assert re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z", event[name])
        assert 1 <= len(event["subjects"]) <= 50
        for subject in event["subjects"]:
            assert {"ip", "riskLevel"} <= subject.keys() <= {"ip", "riskLevel", "message"}
            ip_address(subject["ip"])
            assert subject["riskLevel"] in ("HIGH", "MEDIUM", "LOW")
            assert re.fullmatch(r"[a-zA-Z0-9 .\-_]{0,512}", subject.get("message", ""))


signals = st.builds(
    RiskSignal,
    st.ip_addresses(),
    st.sampled_from(RiskLevel),
    message=st.none() | st.text("aZ0 .-_", max_size=512),
    timestamp=st.datetimes(timezones=st.just(UTC)),
    expires_at=st.none() | st.datetimes(timezones=st.just(UTC)),
)


@given(st.lists(st.lists(signals, min_size=1, max_size=3), min_size=1, max_size=20))
@profile
def test_every_payload_is_valid_for_the_published_schema(events):
    """What is sent keeps every rule that Okta ever published, and nothing of the signals is lost."""
    events = [[attrs_with_times_of(event[0], signal) for signal in event] for event in events]
    body = encode(events)
    check_risk_events(body)
    assert [
        [RiskSignal.from_json({**event, **subject}).to_json() for subject in subjects]
        for event in json.loads(body)
        for subjects in [event.pop("subjects")]
    ] == [[signal.to_json() for signal in event] for event in events]


def attrs_with_times_of(first, signal):
    return RiskSignal(
        signal.ip, signal.risk_level, message=signal.message, timestamp=first.timestamp, expires_at=first.expires_at
    )


def test_the_payload_is_a_bare_array_in_oktas_words():
    """The very bytes of a small payload; absent fields are left out."""
    time = datetime(2021, 1, 20, 0, 0, 0, 1000, UTC)
    events = [
        [
            RiskSignal("6.7.6.7", "MEDIUM", timestamp=time),
            RiskSignal("1.1.1.1", "HIGH", message="Detected Attack tools", timestamp=time),
        ],
        [RiskSignal("::1", "LOW", message="", timestamp=time, expires_at=time + timedelta(hours=1))],
    ]
    assert encode(events) == (
        b'[{"timestamp":"2021-01-20T00:00:00.001Z","subjects":[{"ip":"6.7.6.7","riskLevel":"MEDIUM"},'
        b'{"ip":"1.1.1.1","riskLevel":"HIGH","message":"Detected Attack tools"}]},'
        b'{"timestamp":"2021-01-20T00:00:00.001Z","subjects":[{"ip":"::1","riskLevel":"LOW","message":""}],'
        b'"expiresAt":"2021-01-20T01:00:00.001Z"}]'
    )


def test_the_constants_are_oktas():
    """Path and limits as the vendor gives them."""
    assert risk_events.PATH == "/api/v1/risk/events/ip"
    assert risk_events.MAX_EVENTS == 20
    assert risk_events.MAX_SUBJECTS == 50
    assert http.MAX_ANSWER == 64 * 1024
