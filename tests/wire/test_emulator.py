"""What the emulated org checks: bodies, HTTP and credentials; what no document of Okta's allows is refused."""

import asyncio
import gzip
import json
import time
from email.utils import parsedate_to_datetime

import attrs
import pytest
from emulator_calls import WALL, calling, event, rate, rated, request, subject
from multidict import CIMultiDict

from riskbatch.emulator import (
    DEFAULT_TOKEN,
    MAX_BODY,
    RISK_EVENTS_PATH,
    AccessToken,
    Org,
    ReceivedSignal,
)

# ------------------------------------------------------------------------------------------------ every answer


async def test_every_answer_has_a_date_and_a_unique_request_id_and_never_retry_after():
    """Date, X-Okta-Request-Id and no Retry-After, on successes, errors and rate limits alike."""
    async with calling(limit=2) as caller:
        answers = [await caller.send(), await caller.send([]), await caller.send(), await caller.send(path="/nowhere")]
        assert [answer.status for answer in answers] == [202, 400, 429, 404]
        assert len({answer.headers["X-Okta-Request-Id"] for answer in answers}) == 4
        for answer in answers:
            assert answer.headers["Date"].endswith(" GMT")
            assert abs(parsedate_to_datetime(answer.headers["Date"]).timestamp() - time.time()) < 2
            assert "Retry-After" not in answer.headers


async def test_an_error_has_oktas_five_keys_and_a_fresh_id():
    """Errors are JSON of exactly five keys; errorLink repeats the code; errorId is never reused."""
    async with calling() as caller:
        first, second = (await caller.send(b"{"), await caller.send(b"{"))
        assert first.headers["Content-Type"] == "application/json"
        assert list(first.error) == ["errorCode", "errorSummary", "errorLink", "errorId", "errorCauses"]
        assert first.error["errorLink"] == first.error["errorCode"] == "E0000003"
        assert first.error["errorCauses"] == []
        assert first.error["errorId"].startswith("oae")
        assert first.error["errorId"] != second.error["errorId"]


# ------------------------------------------------------------------------------------------------ bodies


async def test_valid_events_are_accepted_and_recorded():
    """202, nothing in the body, rate headers; and every subject is recorded as it was sent."""
    full = event(
        subject("203.0.113.7", "HIGH", message="Credential stuffing_1.0-x"),
        subject("2001:db8::1", "LOW", message=""),
        timestamp="2021-01-20T00:00:00.001Z",
        expiresAt="2024-02-29T23:59:59.999Z",
    )
    async with calling() as caller:
        answer = await caller.send([full, event(subject("::ffff:192.0.2.1", "MEDIUM"))])
        assert (answer.status, answer.body, answer.headers["Content-Length"]) == (202, b"", "0")
        assert "Content-Type" not in answer.headers
        assert rate(answer)[:2] == (30, 29)
        [exchange] = caller.okta.requests
        assert (exchange.number, exchange.status, exchange.fault) == (1, 202, None)
        assert exchange.request_id == answer.headers["X-Okta-Request-Id"]
        assert caller.okta.signals == list(exchange.signals)
        times = {"timestamp": "2021-01-20T00:00:00.001Z", "expires_at": "2024-02-29T23:59:59.999Z"}
        arrival = {"request": 1, "arrived_at": exchange.arrived_at}
        assert caller.okta.signals == [
            ReceivedSignal(
                ip="203.0.113.7", risk_level="HIGH", message="Credential stuffing_1.0-x", **times, **arrival
            ),
            ReceivedSignal(ip="2001:db8::1", risk_level="LOW", message="", **times, **arrival),
            ReceivedSignal(
                ip="::ffff:192.0.2.1", risk_level="MEDIUM", message=None, timestamp=None, expires_at=None, **arrival
            ),
        ]


async def test_twenty_events_of_fifty_subjects_are_the_most():
    """20 events of 50 subjects with messages of 512 characters pass."""
    async with calling() as caller:
        biggest = [event(*[subject(message="m" * 512)] * 50)] * 20
        assert (await caller.send(biggest)).status == 202
        assert len(caller.okta.signals) == 1000


INVALID = {
    "no events": ([], "[]: "),
    "21 events": ([event()] * 21, "[]: has 21 events"),
    "no subjects": ([event(), {}], "[1].subjects: is required"),
    "empty subjects": ([{"subjects": []}], "[0].subjects: has 0"),
    "51 subjects": ([event(*[subject()] * 51)], "[0].subjects: has 51"),
    "subjects no array": ([{"subjects": subject()}], "[0].subjects: "),
    "event no object": (["203.0.113.7"], "[0]: "),
    "subject no object": ([event("203.0.113.7")], "[0].subjects[0]: "),
    "no ip": ([event({"riskLevel": "LOW"})], "[0].subjects[0].ip: is required"),
    "no level": ([event({"ip": "192.0.2.1"})], "[0].subjects[0].riskLevel: is required"),
    "level in lower case": ([event(subject(level="high"))], "[0].subjects[0].riskLevel: "),
    "level NONE": ([event(subject(level="NONE"))], "[0].subjects[0].riskLevel: "),
    "host name": ([event(), event(subject(), subject("localhost"))], "[1].subjects[1].ip: "),
    "network": ([event(subject("192.0.2.0/24"))], "[0].subjects[0].ip: "),
    "leading zeros": ([event(subject("192.0.2.01"))], "[0].subjects[0].ip: "),
    "zone id": ([event(subject("fe80::1%eth0"))], "[0].subjects[0].ip: "),
    "spaces": ([event(subject(" 192.0.2.1"))], "[0].subjects[0].ip: "),
    "ip as number": ([event(subject(3221225985))], "[0].subjects[0].ip: "),
    "message of 513": ([event(subject(message="m" * 513))], "[0].subjects[0].message: has 513"),
    "message with comma": ([event(subject(message="a,b"))], "[0].subjects[0].message: "),
    "message with newline": ([event(subject(message="a\n"))], "[0].subjects[0].message: "),
    "message not ASCII": ([event(subject(message="é"))], "[0].subjects[0].message: "),
    "message with digits of another script": ([event(subject(message="٣"))], "[0].subjects[0].message: "),
    "message null": ([event(subject(message=None))], "[0].subjects[0].message: "),
    "no milliseconds": ([event(timestamp="2021-01-20T00:00:00Z")], "[0].timestamp: "),
    "microseconds": ([event(timestamp="2021-01-20T00:00:00.001000Z")], "[0].timestamp: "),
    "offset": ([event(timestamp="2021-01-20T00:00:00.001+00:00")], "[0].timestamp: "),
    "lower case z": ([event(timestamp="2021-01-20t00:00:00.001z")], "[0].timestamp: "),
    "trailing newline": ([event(timestamp="2021-01-20T00:00:00.001Z\n")], "[0].timestamp: "),
    "30 February": ([event(expiresAt="2021-02-30T00:00:00.001Z")], "[0].expiresAt: is not a date"),
    "24 o'clock": ([event(expiresAt="2021-02-03T24:00:00.001Z")], "[0].expiresAt: is not a date"),
    "epoch": ([event(expiresAt=1611100800)], "[0].expiresAt: "),
    "unknown property": ([event(source="edge")], "[0].source: "),
    "unknown in subject": ([event(subject(risk_level="HIGH"))], "[0].subjects[0].risk_level: "),
}


@pytest.mark.parametrize(("body", "cause"), INVALID.values(), ids=INVALID)
async def test_what_the_schema_forbids_is_refused_whole(body: list, cause: str):
    """400 E0000001 with the place of the one mistake, rate headers, and nothing ingested."""
    async with calling() as caller:
        answer = await caller.send(body)
        assert (answer.status, answer.error["errorCode"]) == (400, "E0000001")
        assert answer.error["errorSummary"].startswith("Api validation failed: ")
        assert len(answer.causes) == 1
        assert answer.causes[0].startswith(cause)
        assert rated(answer)
        assert caller.okta.signals == []
        assert caller.okta.requests[0].signals == ()


async def test_causes_name_every_mistake_unless_switched_off():
    """Two mistakes are two causes; with name_causes=False there are none and no hint remains."""
    bad = [event(), event(subject("nowhere")), event(subject(), subject(level="low"))]
    async with calling() as caller:
        answer = await caller.send(bad)
        assert [cause.partition(": ")[0] for cause in answer.causes] == [
            "[1].subjects[0].ip",
            "[2].subjects[1].riskLevel",
        ]
        caller.okta.org.name_causes = False
        answer = await caller.send(bad)
        assert answer.error["errorCode"] == "E0000001"
        assert answer.causes == []
        assert b"[1]" not in answer.body


async def test_the_unverified_limits_can_be_switched_off():
    """Max_subjects=None and allow_unknown=True let pass what only prose or nobody forbids."""
    async with calling(max_subjects=None, allow_unknown=True) as caller:
        assert (await caller.send([event(*[subject(note=1)] * 51, source="edge")])).status == 202


async def test_poison_looks_valid_and_is_refused():
    """A signal picked by `poison` is refused with its companions; without it they pass."""
    async with calling(poison=lambda signal: signal.ip == "192.0.2.66") as caller:
        good, bad = event(), event(subject(), subject("192.0.2.66"))
        answer = await caller.send([good, bad])
        assert (answer.status, answer.error["errorCode"]) == (400, "E0000001")
        assert answer.causes == ["[1].subjects[1]: was refused"]
        assert rated(answer)
        assert caller.okta.signals == []
        assert caller.okta.requests[0].signals == ()
        assert (await caller.send([good])).status == 202


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"subjects": []}', b"null", b"[NaN]", b"\xff[]", b"[" * 100_000, "[]".encode("utf-16")],
    ids=["empty", "cut", "object", "null", "NaN", "not UTF-8", "deep", "UTF-16"],
)
async def test_a_body_that_is_no_json_array_is_not_well_formed(body: bytes):
    """400 E0000003."""
    async with calling() as caller:
        answer = await caller.send(body)
        assert (answer.status, answer.error["errorCode"]) == (400, "E0000003")
        assert not rated(answer)


async def test_a_compressed_body_is_not_decoded():
    """No document says that Okta takes gzip, so it is bytes that are no JSON."""
    async with calling() as caller:
        answer = await caller.send(gzip.compress(json.dumps([event()]).encode()), Content_Encoding="gzip")
        assert (answer.status, answer.error["errorCode"]) == (400, "E0000003")


# ------------------------------------------------------------------------------------------------ HTTP


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Content_Type": None}, "E0000021"),
        ({"Content_Type": "text/plain"}, "E0000021"),
        ({"Content_Type": "application/json; charset=utf-8"}, None),
        ({"Accept": "text/html"}, "E0000019"),
        ({"Accept": "application/json;q=0, */*"}, "E0000019"),
        ({"Accept": "text/html, application/*;q=0.1"}, None),
        ({"Accept": None}, None),
    ],
)
async def test_media_types_must_be_json(headers: dict, code: str | None):
    """Another Content-Type is E0000021, an Accept without JSON E0000019, both 400."""
    async with calling() as caller:
        answer = await caller.send(**headers)
        assert answer.status == (202 if code is None else 400)
        if code is not None:
            assert answer.error["errorCode"] == code


async def test_a_post_without_length_and_body_is_411():
    """Neither a body nor Content-Length is 411; Content-Length 0 is merely no JSON."""
    async with calling() as caller:
        address = caller.okta.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(*address)
        head = f"POST {RISK_EVENTS_PATH} HTTP/1.1\r\nHost: okta\r\nAuthorization: SSWS {DEFAULT_TOKEN}\r\n\r\n"
        writer.write(head.encode())
        assert await reader.readline() == b"HTTP/1.1 411 Length Required\r\n"
        writer.close()
        await writer.wait_closed()
        assert (await caller.send(b"")).status == 400


async def test_a_chunked_body_needs_no_length():
    """A body without Content-Length is read all the same."""

    async def chunks():
        yield json.dumps([event()]).encode()

    async with calling() as caller:
        headers = {"Authorization": f"SSWS {DEFAULT_TOKEN}", "Content-Type": "application/json"}
        async with caller.session.post(caller.okta.url + RISK_EVENTS_PATH, data=chunks(), headers=headers) as response:
            assert response.status == 202


async def test_other_methods_and_paths_are_refused():
    """405 E0000022 for a method, 404 E0000008 for a path, a doubled slash included; a query is ignored."""
    async with calling() as caller:
        for method in ("GET", "PUT", "DELETE"):
            answer = await caller.send(method=method)
            assert (answer.status, answer.error["errorCode"]) == (405, "E0000022")
        for path in ("/", "/api/v1/risk/events", "/" + RISK_EVENTS_PATH, RISK_EVENTS_PATH + "/"):
            answer = await caller.send(path=path)
            assert (answer.status, answer.error["errorCode"]) == (404, "E0000008")
        assert (await caller.send(path=RISK_EVENTS_PATH + "?x=1")).status == 202
        assert [exchange.request.method for exchange in caller.okta.requests] == ["GET", "PUT", "DELETE", "POST"]


async def test_a_body_is_bounded():
    """A body beyond MAX_BODY is refused and not kept whole."""
    async with calling() as caller:
        assert (await caller.send(b" " * (MAX_BODY + 1))).status == 413
        assert (await caller.send(b" " * (MAX_BODY * 2))).status == 413
        assert all(len(exchange.request.body or b"") < MAX_BODY * 1.5 for exchange in caller.okta.requests)


# ------------------------------------------------------------------------------------------------ credentials


@pytest.mark.parametrize("auth", [None, "Basic YTpi", "00abc", "ssws " + DEFAULT_TOKEN, ""])
async def test_no_known_scheme_is_an_invalid_session(auth: str | None):
    """Without Authorization or with an unknown scheme the answer is 403 E0000005."""
    async with calling() as caller:
        answer = await caller.send(auth=auth)
        assert (answer.status, answer.error["errorCode"], rated(answer)) == (403, "E0000005", False)


async def test_a_bad_api_token_is_refused():
    """401 E0000011 for a wrong token, and for SSWS followed by no space or two."""
    async with calling() as caller:
        for auth in (
            "SSWS 00other",
            "SSWS",
            f"SSWS{DEFAULT_TOKEN}",
            f"SSWS  {DEFAULT_TOKEN}",
            f"SSWS\t{DEFAULT_TOKEN}",
        ):
            answer = await caller.send(auth=auth)
            assert (answer.status, answer.error["errorCode"]) == (401, "E0000011"), auth
        caller.okta.org.strict_token = False
        assert (await caller.send(auth=f"SSWS{DEFAULT_TOKEN}")).status == 202
        assert (await caller.send(auth="SSWS00other")).status == 401


async def test_an_api_token_can_be_revoked_and_restored():
    """With token_valid = False the same token is refused, until it is set back."""
    async with calling(token="00mine") as caller:
        statuses = []
        for valid in (True, False, True):
            caller.okta.org.token_valid = valid
            statuses.append((await caller.send(auth=f"SSWS {caller.okta.token}")).status)
        assert statuses == [202, 401, 202]
        assert (await caller.send()).status == 401


async def test_two_credentials_are_none():
    """A request with two Authorization headers is nobody's."""
    twice = CIMultiDict([("Authorization", f"SSWS {DEFAULT_TOKEN}")] * 2)
    assert Org().answer(attrs.evolve(request(), headers=twice), 0.0, WALL).status == 403


async def test_a_bad_access_token_gets_an_empty_401():
    """Unknown, expired or revoked: 401, nothing in the body, error="invalid_token"."""
    async with calling(access_tokens={"good": AccessToken(), "old": AccessToken(expires_at=1.0)}) as caller:
        assert (await caller.send(auth="Bearer good")).status == 202
        del caller.okta.org.access_tokens["good"]
        for auth in ("Bearer good", "Bearer old", "Bearer ", "DPoP other"):
            answer = await caller.send(auth=auth)
            assert (answer.status, answer.body, answer.headers["Content-Length"]) == (401, b"", "0")
            challenge = answer.headers["WWW-Authenticate"]
            assert challenge.startswith(auth.split()[0] + " ")
            assert 'error="invalid_token"' in challenge
            assert ("algs=" in challenge) == auth.startswith("DPoP")


async def test_an_access_token_without_the_scope_gets_an_empty_403():
    """403, nothing in the body, error="insufficient_scope" and the scope that is missing."""
    async with calling(access_tokens={"t": AccessToken(scopes=frozenset({"okta.users.read"}))}) as caller:
        answer = await caller.send(auth="Bearer t")
        assert (answer.status, answer.body) == (403, b"")
        assert 'error="insufficient_scope"' in answer.headers["WWW-Authenticate"]
        assert 'scope="okta.riskEvents.manage"' in answer.headers["WWW-Authenticate"]


@pytest.mark.parametrize(
    ("option", "status", "code"),
    [
        ({"provider_registered": False}, 403, "E0000006"),
        ({"feature_enabled": False}, 401, "E0000015"),
        ({"removed": "E0000026"}, 404, "E0000026"),
        ({"removed": "E0000008"}, 404, "E0000008"),
        ({"removed": "E0000215"}, 410, "E0000215"),
    ],
)
async def test_an_endpoint_that_is_not_open_to_the_caller(option: dict, status: int, code: str):
    """Rows 10 and 11: no provider, feature off, endpoint removed; each has its code and ingests nothing."""
    async with calling(**option) as caller:
        answer = await caller.send()
        assert (answer.status, answer.error["errorCode"]) == (status, code)
        assert caller.okta.signals == []
