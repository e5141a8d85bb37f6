"""Signals to bytes, against Okta's published schema; and answers to what they mean."""

import json
import re
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from riskbatch.okta import wire
from riskbatch.okta.wire import (
    Budget,
    Denied,
    RateLimited,
    Refused,
    Request,
    Response,
    Taken,
    TooConcurrent,
    Unavailable,
    budgets,
    classify,
    encode,
    plain,
)
from riskbatch.signals import RiskLevel, RiskSignal

profile = settings(max_examples=150, deadline=None, derandomize=True)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NOW = format_datetime(NOON, usegmt=True)
RESET = str(int(NOON.timestamp()) + 42)


def answer(status, body=b"", headers=()):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return Response(status, CIMultiDict(headers), body)


def okta_error(code, summary="Api validation failed: riskEvents", causes=()):
    return {
        "errorCode": code,
        "errorSummary": summary,
        "errorLink": code,
        "errorId": "oaeHfmOAx1iRLa0H10DeMz5fQ",
        "errorCauses": [{"errorSummary": cause} for cause in causes],
    }


def rate(limit, remaining, reset=RESET):
    return [("X-Rate-Limit-Limit", limit), ("X-Rate-Limit-Remaining", remaining), ("X-Rate-Limit-Reset", reset)]


# -- signals to bytes


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
    assert wire.PATH == "/api/v1/risk/events/ip"
    assert wire.MAX_EVENTS == 20
    assert wire.MAX_SUBJECTS == 50
    assert wire.MAX_ANSWER == 64 * 1024


def test_requests_and_responses_show_no_headers_and_no_body():
    """Headers hold credentials, and bodies hold addresses: neither is in a repr."""
    assert repr(Request("POST", "https://x", {"Authorization": "secret"}, b"secret")) == (
        "Request(method='POST', url='https://x')"
    )
    assert repr(answer(202, b"secret", {"Set-Cookie": "secret"})) == "Response(status=202)"


# -- answers


CHALLENGE = {"WWW-Authenticate": 'Bearer realm="http://acme", error="invalid_token", error_description="It expired."'}
HTML = {"Content-Type": "text/html"}
PAGE = b"<html><body><h1>Bad Gateway</h1></body></html>"


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        # accepted
        (answer(202), Taken(None)),
        (answer(202, b"anything", {"x-okta-request-id": "Xyz"}), Taken("Xyz")),
        (answer(202, okta_error("E0000001")), Taken(None)),
        # 429
        (answer(429, okta_error("E0000047"), rate("30", "0")), RateLimited()),
        (answer(429), RateLimited()),
        (answer(429, PAGE, HTML), RateLimited()),
        (answer(429, okta_error("E0000047"), rate("0", "0")), TooConcurrent()),
        (answer(429, okta_error("E0000047"), rate("0", "0", "soon")), TooConcurrent()),
        (answer(429, okta_error("E0000047"), rate("0", "0")[:2]), TooConcurrent()),
        (answer(429, okta_error("E0000047"), rate("30", "12") + rate("0", "0")), TooConcurrent()),
        (answer(429, okta_error("E0000047"), rate("0", "3")), RateLimited()),
    ],
)
def test_answers_that_need_no_words(response, verdict):
    """202 is taken; 429 is for the rate, or for concurrency if limit and remainder are both 0."""
    assert classify(response) == verdict


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, okta_error("E0000001")),
        (400, okta_error("E0000003")),
        (400, okta_error("E9999999")),
        (422, okta_error("E0000001")),
        (413, okta_error("E0000001")),
        (413, PAGE),
        (413, b""),
        (400, {"errorCode": "E0000001"}),
        (400, {"errorCode": "E0000001", "errorSummary": None, "errorCauses": None}),
        (400, {"errorCode": "E0000001", "errorSummary": 5, "errorCauses": "none"}),
        (400, {"errorCode": "E0000001", "errorCauses": {"errorSummary": "x"}}),
        (400, {"errorCode": "E0000001", "errorCauses": [5, None, [], {"errorSummary": 5, "location": []}]}),
    ],
)
def test_a_refusal_of_the_batch_is_taken_apart(status, body):
    """An error of Okta's about the body, or a body too large, lies in the batch, however odd the rest of it."""
    verdict = classify(answer(status, body, {"X-Okta-Request-Id": "Xyz"}))
    assert isinstance(verdict, Refused)
    assert verdict.status == status
    assert verdict.request_id == "Xyz"
    assert verdict.reason
    assert verdict.code == (body["errorCode"] if isinstance(body, dict) else None)


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (400, okta_error("E0000019"), {}),  # Accept
        (400, okta_error("E0000021"), {}),  # Content-Type
        (400, b"", {"WWW-Authenticate": 'DPoP error="use_dpop_nonce"'}),
        (400, b"", CHALLENGE),
        (400, okta_error("E0000001"), CHALLENGE),
        (401, okta_error("E0000011"), {}),
        (401, okta_error("E0000015"), {}),
        (401, b"", CHALLENGE),
        (403, okta_error("E0000005"), {}),
        (403, okta_error("E0000006"), {}),
        (403, b"", CHALLENGE),
        (403, PAGE, HTML),
        (404, okta_error("E0000007"), {}),
        (404, okta_error("E0000008"), {}),
        (404, okta_error("E0000012"), {}),
        (404, okta_error("E0000026"), {}),
        (405, okta_error("E0000022"), {}),
        (407, b"", {}),
        (410, b"", {}),
        (411, b"", {}),
        (422, b"", {}),
        (300, b"", {}),
        (301, b"", {"Location": "https://evil.example"}),
        (307, b"", {"Location": "https://evil.example"}),
        (499, b"", {}),
    ],
)
def test_what_a_person_must_mend_pauses_everything(status, body, headers):
    """Credentials, grants, the URL, the feature, a redirect: no signal is blamed, and the reason says what came."""
    verdict = classify(answer(status, body, headers))
    assert isinstance(verdict, Denied)
    assert str(status) in verdict.reason


@pytest.mark.parametrize(
    ("status", "body", "headers", "may_have_arrived"),
    [
        (400, b"", {}, False),  # not Okta's shape: something in between
        (400, PAGE, HTML, False),
        (400, b"[" * 30_000, {}, False),
        (400, b"5", {}, False),
        (400, b"null", {}, False),
        (400, b"\xff\xfe{}", {}, False),
        (400, {"errorCode": 5}, {}, False),
        (400, {"errorCode": ""}, {}, False),
        (408, b"", {}, False),
        (500, okta_error("E0000009"), {}, True),
        (500, b"", {}, True),
        (502, PAGE, HTML, True),
        (503, okta_error("E0000010"), {}, False),
        (503, okta_error("E0000181"), {}, False),
        (503, PAGE, HTML, True),
        (503, b"", {}, True),
        (504, PAGE, HTML, True),
        (599, b"", {}, True),
        (200, b"", {}, True),
        (200, PAGE, HTML, True),
        (204, b"", {}, True),
        (100, b"", {}, True),
        (600, b"", {}, True),
        (0, b"", {}, True),
    ],
)
def test_what_should_pass_is_tried_again(status, body, headers, may_have_arrived):
    """A failure on the way or in the server puts the signals back, and tells whether they may have arrived."""
    verdict = classify(answer(status, body, headers))
    assert isinstance(verdict, Unavailable)
    assert verdict.may_have_arrived is may_have_arrived
    assert str(status) in verdict.reason


def test_a_reason_has_what_the_person_on_call_looks_up():
    """Status, code and the server's own words, or what kind of answer it was if it has none."""
    assert classify(answer(401, okta_error("E0000011", "Invalid token provided"))) == Denied(
        "HTTP 401 E0000011: Invalid token provided"
    )
    assert classify(answer(503, okta_error("E0000010", ""))).reason == "HTTP 503 E0000010: no reason given"
    assert classify(answer(401, b"", CHALLENGE)).reason == "HTTP 401 invalid_token It expired."
    assert classify(answer(401, b"", {"WWW-Authenticate": "Basic"})).reason == "HTTP 401"
    assert classify(answer(502, PAGE, HTML)).reason == "HTTP 502 (text/html, 46 bytes), not an answer of Okta's"
    assert classify(answer(500)).reason == "HTTP 500 (no content type, 0 bytes), not an answer of Okta's"
    refused = classify(answer(400, okta_error("E0000001", "Api validation failed", ["ip: bad", "", "message: long"])))
    assert refused.reason == "Api validation failed: ip: bad; message: long"
    assert classify(answer(400, okta_error("E0000001", "", ["ip: bad"]))).reason == "ip: bad"


def test_a_server_cannot_flood_or_forge_a_log():
    """All that is kept of an answer is one printable line of bounded length."""
    evil = "a\r\nERROR forged \x1b[31m\u202e\ud800" + "x" * 50_000
    headers = {"X-Okta-Request-Id": evil, "Content-Type": evil, "WWW-Authenticate": f'Bearer error="{evil}"'}
    for status in (202, 200, 400, 401, 413, 500):
        for body in (b"", okta_error(evil, evil, [evil] * 5), evil.encode("utf-8", "ignore")):
            for kept in (headers, {"X-Okta-Request-Id": evil}, {"Content-Type": evil}):
                shown = repr(classify(answer(status, body, kept)))
                assert len(shown) < 1200
                assert all(c.isprintable() for c in shown)
                verdict = classify(answer(status, body, kept))
                for name in ("reason", "code", "request_id"):
                    text = getattr(verdict, name, None) or ""
                    assert text.isprintable()
                    assert len(text) <= 301


# -- named indices


@pytest.mark.parametrize(
    ("cause", "named"),
    [
        ("[3].subjects[0].ip: is not valid", (3, 0)),
        ("riskEvents[19].subjects[49].message: too long", (19, 49)),
        ("[0]subjects[7]", (0, 7)),
        ("[12]: invalid timestamp", (12, None)),
        ("events[5].timestamp", (5, None)),
        ("[1000].ip", None),
        ("[-1].ip", None),
        ("[].ip", None),
        ("ip: is not valid", None),
    ],
)
def test_causes_that_name_an_index_are_hints(cause, named):
    """An index in a cause, in its text or its location, tells which event to probe first."""
    expected = (named,) if named else ()
    assert classify(answer(400, okta_error("E0000001", causes=[cause]))).named == expected
    body = {"errorCode": "E0000001", "errorCauses": [{"errorSummary": "bad", "location": cause}]}
    assert classify(answer(400, body)).named == expected


def test_each_cause_names_one():
    """Several causes name several, in their order."""
    causes = ["[3].ip", "nothing", "[1].subjects[2].message"]
    assert classify(answer(400, okta_error("E0000001", causes=causes))).named == ((3, None), (1, 2))
    assert classify(answer(413, okta_error("E0000001", causes=causes))).named == ((3, None), (1, 2))


# -- budgets


def test_a_budget_counts_from_the_answers_own_date():
    """Both times are the server's, so that a wrong clock on either side does not matter."""
    assert budgets(CIMultiDict([*rate("30", "29"), ("Date", NOW)])) == [Budget(30, 29, 42.0)]
    lower = [(name.lower(), value) for name, value in rate("30", "29")]
    assert budgets(CIMultiDict([*lower, ("date", NOW)])) == [Budget(30, 29, 42.0)]
    skewed = format_datetime(NOON + timedelta(hours=3), usegmt=True)
    reset = str(int(RESET) + 3 * 3600)
    assert budgets(CIMultiDict([*rate("30", "29", reset), ("Date", skewed)])) == [Budget(30, 29, 42.0)]


def test_a_reset_that_has_passed_is_now():
    """Seconds until the reset are never negative."""
    past = str(int(NOON.timestamp()) - 5)
    assert budgets(CIMultiDict([*rate("30", "29", past), ("Date", NOW)])) == [Budget(30, 29, 0.0)]
    assert budgets(CIMultiDict([*rate("30", "29", "0"), ("Date", NOW)])) == [Budget(30, 29, 0.0)]


@pytest.mark.parametrize("date", [None, "", "yesterday", "Thu, 99 Jan 2026 12:00:00 GMT", "\ud800", " ", ","])
def test_without_a_readable_date_the_reset_is_unknown(date):
    """Our own clock is not asked instead: it may be wrong by hours."""
    headers = CIMultiDict(rate("30", "29"))
    if date is not None:
        headers["Date"] = date
    assert budgets(headers) == [Budget(30, 29, None)]


@pytest.mark.parametrize("reset", ["", "soon", "-1", "1.5", "٣", "1" * 13])
def test_an_unreadable_reset_is_unknown(reset):
    """Limit and remainder still count."""
    assert budgets(CIMultiDict([*rate("30", "29", reset), ("Date", NOW)])) == [Budget(30, 29, None)]
    assert budgets(CIMultiDict([*rate("30", "29")[:2], ("Date", NOW)])) == [Budget(30, 29, None)]


def test_a_date_without_a_zone_is_gmt(monkeypatch):
    """HTTP knows no other zone; the host's own is not assumed."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        for date in (NOW.replace("GMT", "-0000"), NOW.replace(" GMT", "")):
            assert budgets(CIMultiDict([*rate("30", "29"), ("Date", date)])) == [Budget(30, 29, 42.0)]
    finally:
        monkeypatch.undo()
        time.tzset()


def test_two_sets_in_one_answer_are_both_read():
    """Okta has been seen to send the headers twice; proxies join such headers with commas."""
    twice = CIMultiDict([*rate("30", "29"), *rate("15", "3"), ("Date", NOW)])
    joined = CIMultiDict([*rate("30, 15", "29,3", f"{RESET} , {RESET}"), ("Date", NOW)])
    assert budgets(twice) == budgets(joined) == [Budget(30, 29, 42.0), Budget(15, 3, 42.0)]


@pytest.mark.parametrize("bad", ["", "x", "-1", "1.0", "1e3", " ", "٣", "1" * 10, "unlimited"])
def test_a_set_that_is_no_count_is_passed_over(bad):
    """What cannot be read changes nothing, and does not hide a set that can."""
    assert budgets(CIMultiDict([*rate(bad, "1"), *rate("5", bad), *rate("30", "29"), ("Date", NOW)])) == [
        Budget(30, 29, 42.0)
    ]
    assert budgets(CIMultiDict()) == []


def test_limit_and_remainder_0_is_the_concurrency_limit():
    """And nothing else is."""
    assert Budget(0, 0, 100.0).is_concurrency()
    assert not Budget(0, 1, None).is_concurrency()
    assert not Budget(30, 0, None).is_concurrency()


# -- anything


names = st.sampled_from(
    ["X-Rate-Limit-Limit", "x-rate-limit-remaining", "X-Rate-Limit-Reset", "Date", "WWW-Authenticate", "Content-Type",
     "X-Okta-Request-Id"]
)  # fmt: skip
values = st.text(max_size=30) | st.integers().map(str) | st.datetimes().map(format_datetime) | st.just(NOW)
bodies = st.binary(max_size=60) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["errorCode", "errorSummary", "errorCauses", "location"]) | st.text(max_size=3), inner
        )
    ),
    max_leaves=8,
).map(lambda obj: json.dumps(obj).encode())


@given(st.integers(0, 700) | st.sampled_from([202, 400, 413, 429, 503]), st.lists(st.tuples(names, values)), bodies)
@settings(max_examples=400, deadline=None, derandomize=True)
def test_no_answer_is_too_odd_to_be_classified(status, headers, body):
    """Whatever a server or something in between says is a verdict, with a bounded printable reason."""
    response = answer(status, body, headers)
    verdict = classify(response)
    assert isinstance(verdict, Taken) == (status == 202)
    assert isinstance(verdict, RateLimited | TooConcurrent) == (status == 429)
    reason = getattr(verdict, "reason", "x")
    assert reason.isprintable()
    assert 0 < len(reason) <= 301
    for budget in budgets(response.headers):
        assert budget.limit >= 0
        assert budget.remaining >= 0
        assert budget.resets_after is None or budget.resets_after >= 0


@given(st.text(max_size=700))
@profile
def test_plain_text_is_one_printable_line_of_bounded_length(text):
    """Control characters become spaces, and what is too long is cut and marked."""
    line = plain(text)
    assert line.isprintable()
    assert len(line) == min(len(text), 301)
    assert line.endswith("…") or len(text) <= 300
    for kept, original in zip(line[:300], text, strict=False):
        assert kept == (original if original.isprintable() else " ")


@pytest.mark.parametrize(("length", "shown"), [(300, 300), (301, 301), (302, 301), (10_000, 301)])
def test_the_longest_plain_text_has_300_characters_and_a_mark(length, shown):
    """300 characters stay as they are; one more is cut."""
    assert len(plain("x" * length)) == shown
    assert plain("x" * length).endswith("…") == (length > 300)
