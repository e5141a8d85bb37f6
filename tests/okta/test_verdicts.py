"""Answers to what they mean."""

import json
import time
from email.utils import format_datetime

import pytest
from answers import NOW, answer, okta_error, rate
from budget import budget
from hypothesis import given, settings
from hypothesis import strategies as st

from riskbatch.okta.http import Request
from riskbatch.okta.rate_limits import budgets
from riskbatch.okta.verdicts import (
    AccessDenied,
    BatchAccepted,
    BatchRefused,
    RateLimited,
    TooConcurrent,
    Unavailable,
    classify,
)


def test_requests_and_responses_show_no_headers_and_no_body():
    """Headers hold credentials, and bodies hold addresses: neither is in a repr."""
    assert repr(Request("POST", "https://x", {"Authorization": "secret"}, b"secret")) == (
        "Request(method='POST', url='https://x')"
    )
    assert repr(answer(202, b"secret", {"Set-Cookie": "secret"})) == "Response(status=202)"


CHALLENGE = {"WWW-Authenticate": 'Bearer realm="http://acme", error="invalid_token", error_description="It expired."'}
HTML = {"Content-Type": "text/html"}
PAGE = b"<html><body><h1>Bad Gateway</h1></body></html>"


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        # accepted
        (answer(202), BatchAccepted(None)),
        (answer(202, b"anything", {"x-okta-request-id": "Xyz"}), BatchAccepted("Xyz")),
        (answer(202, okta_error("E0000001")), BatchAccepted(None)),
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
    assert isinstance(verdict, BatchRefused)
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
    assert isinstance(verdict, AccessDenied)
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
    assert classify(answer(401, okta_error("E0000011", "Invalid token provided"))) == AccessDenied(
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


@pytest.mark.parametrize("status", [404, 410])
@pytest.mark.parametrize("body", [okta_error("E0000008", "Not found: " + "x" * 400), PAGE, b"", b"x" * 60_000])
def test_an_endpoint_that_is_gone_is_told_as_such(status, body):
    """In Okta's shape or not: the reason says that the API is deprecated, and which commands help."""
    verdict = classify(answer(status, body, HTML | {"Content-Type": "x" * 900}))
    assert isinstance(verdict, AccessDenied)
    for words in (f"HTTP {status}", "deprecated it in April 2025", "`riskbatch doctor`", "`riskbatch queue export`"):
        assert words in verdict.reason
    assert len(verdict.reason) <= 301


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"errorCode":"E0000001","errorSummary":"Api valid', "E0000001"),
        (b' {\n "errorCode" : "E0000003", ', "E0000003"),
        (b'{"errorCode":"E00000', None),
        (b'{"errorSummary":"x","errorCode":"E0000001",', None),
        (b'<p>{"errorCode":"E0000001"', None),
    ],
)
def test_a_cut_error_counts_by_its_code(body, code):
    """What is whole counts, and the code if it stands first, as in Okta's errors."""
    verdict = classify(answer(400, body))
    assert getattr(verdict, "code", None) == code
    assert isinstance(verdict, BatchRefused if code else Unavailable)


def test_of_an_error_a_bounded_number_of_causes_is_read():
    """An answer full of causes holds up nobody."""
    causes = [f"[{number % 20}].ip: bad" for number in range(2000)]
    body = json.dumps(okta_error("E0000001", causes=causes)).encode()
    began = time.thread_time()
    verdict = classify(answer(400, body))
    assert time.thread_time() - began < 0.05
    assert len(verdict.named) == 100


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
@settings(max_examples=budget(80, 400), deadline=None, derandomize=True)
def test_no_answer_is_too_odd_to_be_classified(status, headers, body):
    """Whatever a server or something in between says is a verdict, with a bounded printable reason."""
    response = answer(status, body, headers)
    verdict = classify(response)
    assert isinstance(verdict, BatchAccepted) == (status == 202)
    assert isinstance(verdict, RateLimited | TooConcurrent) == (status == 429)
    reason = getattr(verdict, "reason", "x")
    assert reason.isprintable()
    assert 0 < len(reason) <= 301
    for said in budgets(response.headers):
        assert said.limit >= 0
        assert said.remaining >= 0
        assert said.resets_after is None or said.resets_after >= 0
