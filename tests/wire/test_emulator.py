"""The emulator keeps to the contract of Okta's Risk Events API; each test is one row of that contract."""

import asyncio
import gc
import gzip
import io
import json
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

import aiohttp
import attrs
import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from riskbatch.emulator import (
    DEFAULT_TOKEN,
    MAX_BODY,
    RISK_EVENTS_PATH,
    AccessToken,
    EmulatedRequest,
    EmulatedResponse,
    Exchange,
    Fault,
    OktaEmulator,
    Org,
    ReceivedSignal,
)

pytestmark = pytest.mark.asyncio

WALL = 1_700_000_000.0


# ------------------------------------------------------------------------------------------------ small fakes


class Answer(NamedTuple):
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def error(self) -> dict:
        return json.loads(self.body)

    @property
    def causes(self) -> list[str]:
        return [cause["errorSummary"] for cause in self.error["errorCauses"]]


class Caller(NamedTuple):
    okta: OktaEmulator
    session: aiohttp.ClientSession

    async def send(
        self, body=None, *, method="POST", path=RISK_EVENTS_PATH, auth: str | None = f"SSWS {DEFAULT_TOKEN}", **headers
    ) -> Answer:
        """Send *body*, JSON unless it is bytes already. A header given as `None` is left out."""
        chosen = {"Authorization": auth, "Content-Type": "application/json", "Accept": "application/json"}
        chosen |= {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if isinstance(body, bytes) else json.dumps([event()] if body is None else body).encode()
        async with self.session.request(
            method,
            self.okta.url + path,
            data=None if method == "GET" else io.BytesIO(data),  # raw bytes would warn when they are large
            headers={name: value for name, value in chosen.items() if value is not None},
            skip_auto_headers=["Content-Type", "Accept"],
            allow_redirects=False,
        ) as response:
            return Answer(response.status, response.headers, await response.read())


@asynccontextmanager
async def calling(**options) -> AsyncIterator[Caller]:
    async with OktaEmulator(**options) as okta, aiohttp.ClientSession() as session:
        yield Caller(okta, session)


def subject(ip="203.0.113.7", level="HIGH", **more) -> dict:
    return {"ip": ip, "riskLevel": level, **more}


def event(*subjects, **more) -> dict:
    return {"subjects": list(subjects) or [subject()], **more}


def request(body=None, *, token=DEFAULT_TOKEN) -> EmulatedRequest:
    headers = CIMultiDict({"Authorization": f"SSWS {token}", "Content-Type": "application/json"})
    return EmulatedRequest("POST", RISK_EVENTS_PATH, headers, json.dumps(body or [event()]).encode())


def rate(response: EmulatedResponse | Answer) -> tuple[int, int, int]:
    headers = CIMultiDict(response.headers)
    return tuple(int(headers[f"X-Rate-Limit-{name}"]) for name in ("Limit", "Remaining", "Reset"))


def rated(answer: Answer) -> bool:
    return any(name.lower().startswith("x-rate-limit") for name in answer.headers)


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


# ------------------------------------------------------------------------------------------------ rows 1 to 3: bodies


async def test_valid_events_are_accepted_and_recorded():
    """Row 1: 202, nothing in the body, rate headers; and every subject is recorded as it was sent."""
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
    """Row 1: 20 events of 50 subjects with messages of 512 characters pass."""
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
    """Row 2: 400 E0000001 with the place of the one mistake, rate headers, and nothing ingested."""
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
    """Row 2: two mistakes are two causes; with name_causes=False there are none and no hint remains."""
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
    """Row 2: max_subjects=None and allow_unknown=True let pass what only prose or nobody forbids."""
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
    """Row 3: 400 E0000003."""
    async with calling() as caller:
        answer = await caller.send(body)
        assert (answer.status, answer.error["errorCode"]) == (400, "E0000003")
        assert not rated(answer)


async def test_a_compressed_body_is_not_decoded():
    """Row 3: no document says that Okta takes gzip, so it is bytes that are no JSON."""
    async with calling() as caller:
        answer = await caller.send(gzip.compress(json.dumps([event()]).encode()), Content_Encoding="gzip")
        assert (answer.status, answer.error["errorCode"]) == (400, "E0000003")


# ------------------------------------------------------------------------------------------------ rows 4 to 6: HTTP


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
    """Row 4: another Content-Type is E0000021, an Accept without JSON E0000019, both 400."""
    async with calling() as caller:
        answer = await caller.send(**headers)
        assert answer.status == (202 if code is None else 400)
        if code is not None:
            assert answer.error["errorCode"] == code


async def test_a_post_without_length_and_body_is_411():
    """Row 5: neither a body nor Content-Length is 411; Content-Length 0 is merely no JSON."""
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
    """Row 5: a body without Content-Length is read all the same."""

    async def chunks():
        yield json.dumps([event()]).encode()

    async with calling() as caller:
        headers = {"Authorization": f"SSWS {DEFAULT_TOKEN}", "Content-Type": "application/json"}
        async with caller.session.post(caller.okta.url + RISK_EVENTS_PATH, data=chunks(), headers=headers) as response:
            assert response.status == 202


async def test_other_methods_and_paths_are_refused():
    """Row 6: 405 E0000022 for a method, 404 E0000008 for a path, a doubled slash included; a query is ignored."""
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


# ------------------------------------------------------------------------------------------- rows 7 to 11: who asks


@pytest.mark.parametrize("auth", [None, "Basic YTpi", "00abc", "ssws " + DEFAULT_TOKEN, ""])
async def test_no_known_scheme_is_an_invalid_session(auth: str | None):
    """Row 7: without Authorization or with an unknown scheme the answer is 403 E0000005."""
    async with calling() as caller:
        answer = await caller.send(auth=auth)
        assert (answer.status, answer.error["errorCode"], rated(answer)) == (403, "E0000005", False)


async def test_a_bad_api_token_is_refused():
    """Row 7: 401 E0000011 for a wrong token, and for SSWS followed by no space or two."""
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
    """Row 7: with token_valid = False the same token is refused, until it is set back."""
    async with calling(token="00mine") as caller:
        statuses = []
        for valid in (True, False, True):
            caller.okta.org.token_valid = valid
            statuses.append((await caller.send(auth=f"SSWS {caller.okta.token}")).status)
        assert statuses == [202, 401, 202]
        assert (await caller.send()).status == 401


async def test_two_credentials_are_none():
    """Row 7: a request with two Authorization headers is nobody's."""
    twice = CIMultiDict([("Authorization", f"SSWS {DEFAULT_TOKEN}")] * 2)
    assert Org().answer(attrs.evolve(request(), headers=twice), 0.0, WALL).status == 403


async def test_a_bad_access_token_gets_an_empty_401():
    """Row 8: unknown, expired or revoked: 401, nothing in the body, error="invalid_token"."""
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
    """Row 9: 403, nothing in the body, error="insufficient_scope" and the scope that is missing."""
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


# ------------------------------------------------------------------------------------------------ rows 15 and 16: rate


async def test_a_used_up_quota_is_429():
    """Row 15: the first *limit* calls pass; the next are 429 E0000047 with Remaining 0, and ingest nothing."""
    async with calling(limit=3) as caller:
        answers = [await caller.send() for _ in range(5)]
        assert [answer.status for answer in answers] == [202, 202, 202, 429, 429]
        assert [rate(answer)[1] for answer in answers] == [2, 1, 0, 0, 0]
        assert {rate(answer)[0] for answer in answers} == {3}
        assert len({rate(answer)[2] for answer in answers}) == 1
        assert answers[3].error["errorCode"] == "E0000047"
        assert 55 < rate(answers[0])[2] - time.time() < 61
        assert len(caller.okta.signals) == 3
        assert len(caller.okta.requests) == caller.okta.most_in_any_window() == 5


async def test_a_fixed_window_opens_at_first_use_and_hammering_does_not_move_it():
    """Row 15: 60 s from the first call the quota is whole again, however often a call was refused meanwhile."""
    org = Org(limit=2)
    answers = [org.answer(request(), 1000.0 + at, WALL + at) for at in (0.0, 30.0, 31.0, 45.0, 59.9, 60.0, 61.0)]
    assert [answer.status for answer in answers] == [202, 202, 429, 429, 429, 202, 202]
    assert [rate(answer)[2] - WALL for answer in answers] == [60, 60, 60, 60, 60, 120, 120]
    late = org.answer(request(), 1500.5, WALL + 500.5)
    assert rate(late)[1:] == (1, WALL + 560)


async def test_a_fixed_window_lets_two_quotas_pass_around_its_end():
    """Row 15: that is Okta's own window, and `most_in_any_window` shows it."""
    org = Org(limit=2, phase=0.0)
    for at in (58.0, 59.0, 60.0, 61.0):
        assert org.answer(request(), at, WALL + at).status == 202
    assert org.most_in_any_window(60.0) == 4


async def test_a_timed_window_keeps_its_phase():
    """Row 15: with *phase* the windows open on a timer, whenever the first call comes."""
    org = Org(limit=1, phase=7.0)
    resets = [rate(org.answer(request(), now, WALL + now))[2] - WALL for now in (5.0, 7.5, 66.9, 67.0, 1000.0)]
    assert resets == [7, 67, 67, 127, 1027]


async def test_the_reset_stands_still_within_a_window():
    """Row 15: jitter between the two clocks does not move Reset."""
    org = Org(limit=9)
    resets = {rate(org.answer(request(), at, WALL + at - jitter))[2] for at, jitter in ((0, 0), (1, 0.01), (2, -0.01))}
    assert len(resets) == 1


async def test_oktas_advice_is_just_enough():
    """Waiting Reset - Date + 1 s after a 429 is always enough, wherever in the second it came."""
    for fraction in (0.0, 0.3, 0.999):
        for window in ("fixed", "sliding"):
            org = Org(limit=1, window=window)
            org.answer(request(), 0.0, WALL + 0.7)
            refused = org.answer(request(), 20.0 + fraction, WALL + 20.7 + fraction)
            date = parsedate_to_datetime(dict(refused.headers)["Date"]).timestamp()
            wait = rate(refused)[2] - date + 1
            assert refused.status == 429
            again = 20.0 + fraction + wait
            assert org.answer(request(), again, WALL + 0.7 + again).status == 202


async def test_a_sliding_window_never_admits_more_in_any_period():
    """`window="sliding"`: at most *limit* are admitted in any 60 s; refused calls do not prolong it."""
    org = Org(limit=2, window="sliding")
    admitted = [at for at in range(0, 300, 7) if org.answer(request(), at, WALL + at).status == 202]
    assert all(later - earlier >= 60 for earlier, later in zip(admitted, admitted[2:], strict=False))
    assert len(admitted) == 10
    assert org.answer(request(), admitted[-2] + 59.9, WALL).status == 429
    refused = org.answer(request(), 301.0, WALL + 301)
    assert (refused.status, rate(refused)) == (429, (2, 0, WALL + admitted[-2] + 60))


async def test_other_tokens_use_the_same_bucket():
    """Row 15: calls of others lower Remaining and can use it up."""
    async with calling(limit=5) as caller:
        caller.okta.spend(3)
        assert rate(await caller.send())[:2] == (5, 1)
        caller.okta.spend(9)
        refused = await caller.send()
        assert (refused.status, rate(refused)[:2]) == (429, (5, 0))


async def test_a_principal_has_only_its_share():
    """Row 16: with half of 4 the third call is 429 though the org has room, which another principal can use."""
    org = Org(limit=4, principal_share=0.5, access_tokens={"app": AccessToken()})
    other = attrs.evolve(
        request(), headers=CIMultiDict({"Authorization": "Bearer app", "Content-Type": "application/json"})
    )
    answers = [org.answer(request(), 0.0, WALL) for _ in range(3)] + [org.answer(other, 1.0, WALL + 1)]
    assert [answer.status for answer in answers] == [202, 202, 429, 202]
    assert [rate(answer)[:2] for answer in answers] == [(2, 1), (2, 0), (2, 0), (2, 1)]


async def test_the_headers_can_show_the_orgs_ceiling():
    """Row 16: header_limit="org" shows the org's Limit, and Remaining 0 only when the share is used up."""
    org = Org(limit=4, principal_share=0.5, header_limit="org")
    answers = [org.answer(request(), 0.0, WALL) for _ in range(3)]
    assert [(answer.status, *rate(answer)[:2]) for answer in answers] == [(202, 4, 3), (202, 4, 2), (429, 4, 0)]


async def test_what_counts_against_the_quota():
    """Good credentials count whatever becomes of the call; bad ones and a refused method do not."""
    async with calling(limit=30) as caller:
        for body, auth in (
            (b"{", None),
            (b"{", "SSWS 00other"),
            (b"{", f"SSWS {DEFAULT_TOKEN}"),
            ([], "SSWS " + DEFAULT_TOKEN),
        ):
            await caller.send(body, auth=auth)
        await caller.send(method="GET")
        assert rate(await caller.send())[1] == 27


# ------------------------------------------------------------------------------------------------ rows 17, 18 and 20


async def test_too_many_in_flight_is_429_with_zeros_and_frees_at_once():
    """Row 17: Limit 0, Remaining 0, Reset far ahead; a slot that opens is usable at once, and no quota was used."""
    async with calling(concurrency=2, latency=0.1) as caller:
        answers = await asyncio.gather(*(caller.send() for _ in range(4)))
        crowded = [answer for answer in answers if answer.status == 429]
        assert len(crowded) == 2
        for answer in crowded:
            assert answer.error["errorCode"] == "E0000047"
            limit, remaining, reset = rate(answer)
            assert (limit, remaining) == (0, 0)
            assert 100 < reset - time.time() < 121
        caller.okta.latency = 0.0
        assert rate(await caller.send())[:2] == (30, 27)
        assert caller.okta.org.in_flight == 0


async def test_a_crowded_request_holds_no_slot():
    """Row 17: what was refused for want of a slot does not delay the next; departing twice frees nothing more."""
    org = Org(concurrency=1)
    first, second = (org.arrive(request(), 0.0) for _ in range(2))
    assert [org.respond(exchange, 0.0, WALL).status for exchange in (first, second)] == [202, 429]
    org.depart(first)
    org.depart(first)
    third = org.arrive(request(), 0.1)
    assert org.respond(third, 0.1, WALL).status == 202
    org.depart(second)
    assert org.in_flight == 1


async def test_sequential_calls_never_crowd_themselves():
    """Row 17: whoever has read an answer finds its slot free."""
    async with calling(concurrency=1, limit=200) as caller:
        assert {(await caller.send()).status for _ in range(100)} == {202}


async def test_rate_headers_can_come_twice():
    """Row 18: two sets in one answer, of which the second and smaller one counts."""
    async with calling(duplicate_headers=True, limit=1) as caller:
        for status in (202, 429):
            answer = await caller.send()
            assert answer.status == status
            assert answer.headers.getall("X-Rate-Limit-Limit") == ["600", "1"]
            assert answer.headers.getall("X-Rate-Limit-Remaining") == ["599", "0"]
            assert len(answer.headers.getall("X-Rate-Limit-Reset")) == 2


async def test_a_skewed_clock_moves_date_and_reset_alike():
    """Row 20: Date is off by clock_skew, and Reset - Date is what it would be without."""
    for skew in (0.0, 3600.0, -7200.0):
        async with calling(clock_skew=skew) as caller:
            answer = await caller.send()
            date = parsedate_to_datetime(answer.headers["Date"]).timestamp()
            assert abs(date - time.time() - skew) < 2
            assert 58 <= rate(answer)[2] - date <= 60


async def test_dates_are_of_the_wall_clock_given():
    """Date is RFC 1123, from `wall`, cut to the second."""
    headers = dict(Org().answer(request(), 0.0, WALL + 0.999).headers)
    assert headers["Date"] == "Tue, 14 Nov 2023 22:13:20 GMT"
    assert parsedate_to_datetime(headers["Date"]) == datetime.fromtimestamp(WALL, UTC)


# ------------------------------------------------------------------------------------------------ row 19: faults


@pytest.mark.parametrize(
    ("fault", "status", "code", "ingested"),
    [
        (Fault.error(), 500, "E0000009", 0),
        (Fault.error(403, "E0000006"), 403, "E0000006", 0),
        (Fault.unavailable(), 503, "E0000181", 0),
        (Fault.unavailable("E0000010"), 503, "E0000010", 0),
        (Fault.rate_limited(limit=15, remaining=0, reset_in=9.0), 429, "E0000047", 0),
        (Fault.crowded(), 429, "E0000047", 0),
        (Fault.proxy_error(), 502, None, 0),
        (Fault.proxy_error(504), 504, None, 0),
        (Fault.redirect("http://127.0.0.1:1/"), 302, None, 0),
        (Fault.oversized(200_000), 202, None, 1),
        (Fault.oversized(200_000, 500), 500, None, 0),
        (Fault.slow(0.05), 202, None, 1),
        (Fault.answer(418, [("X-Okta-Request-Id", "mine")], b"tea"), 418, None, 0),
    ],
)
async def test_a_fault_gives_its_answer_once(fault: Fault, status: int, code: str | None, ingested: int):
    """Row 19: the next request gets the fault, ingested only where it says so; the one after is served."""
    async with calling() as caller:
        caller.okta.faults.append(fault)
        answer = await caller.send()
        assert answer.status == status
        assert len(caller.okta.signals) == ingested
        [exchange] = caller.okta.requests
        assert (exchange.fault, exchange.status, exchange.error_code) == (fault, status, code)
        if code is not None:
            assert answer.error["errorCode"] == code
        assert (await caller.send()).status == 202
        assert len(caller.okta.signals) == ingested + 1


async def test_faults_have_the_headers_they_promise():
    """Row 19: 5xx without rate headers, HTML without Okta's, chosen and zero rate headers, a Location."""
    async with calling() as caller:
        caller.okta.faults += [
            Fault.unavailable(),
            Fault.proxy_error(),
            Fault.rate_limited(limit=15, remaining=2, reset_in=9.0),
            Fault.crowded(),
            Fault.redirect("http://127.0.0.1:1/"),
            Fault.answer(418, [("x-okta-request-id", "mine")], b"tea"),
            Fault.oversized(200_000),
        ]
        unavailable, proxy, limited, crowded, redirect, odd, oversized = [await caller.send() for _ in range(7)]
        assert not rated(unavailable)
        assert "X-Okta-Request-Id" in unavailable.headers
        assert not rated(proxy)
        assert proxy.headers["Content-Type"] == "text/html"
        assert "X-Okta-Request-Id" not in proxy.headers
        assert rate(limited)[:2] == (15, 2)
        assert 7 < rate(limited)[2] - time.time() <= 9
        assert rate(crowded)[:2] == (0, 0)
        assert 100 < rate(crowded)[2] - time.time() < 121
        assert redirect.headers["Location"] == "http://127.0.0.1:1/"
        assert (odd.headers.getall("X-Okta-Request-Id"), odd.body) == (["mine"], b"tea")
        assert len(oversized.body) == 200_000


@pytest.mark.parametrize(("fault", "ingested"), [(Fault.drop(), 0), (Fault.lost_answer(), 1)])
async def test_a_dropped_connection_answers_nothing(fault: Fault, ingested: int):
    """Row 19: the connection closes without an answer; only `lost_answer` has ingested the signals."""
    async with calling() as caller:
        caller.okta.faults.append(fault)
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await caller.send()
        assert len(caller.okta.signals) == ingested
        assert caller.okta.requests[0].status is None
        assert (await caller.send()).status == 202


async def test_a_lost_answer_is_still_judged():
    """Row 19: an invalid request is not ingested because its answer is lost."""
    async with calling() as caller:
        caller.okta.faults.append(Fault.lost_answer())
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await caller.send([event(subject("nowhere"))])
        assert caller.okta.signals == []
        caller.okta.faults.append(Fault.oversized(10))
        assert (await caller.send([event(subject("nowhere"))])).status == 202
        assert caller.okta.requests[-1].error_code is None
        assert caller.okta.signals == []


@pytest.mark.parametrize("fault", [Fault.truncated(), attrs.evolve(Fault.proxy_error(), ending="truncate")])
async def test_a_truncated_answer_breaks_off(fault: Fault):
    """Row 19: the status arrives, the body ends before its Content-Length."""
    async with calling() as caller:
        caller.okta.faults.append(fault)
        headers = {"Authorization": f"SSWS {DEFAULT_TOKEN}", "Content-Type": "application/json"}
        body = json.dumps([event()]).encode()
        async with caller.session.post(caller.okta.url + RISK_EVENTS_PATH, data=body, headers=headers) as response:
            assert response.status == (fault.status or 202)
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
        assert len(caller.okta.signals) == fault.ingest


@pytest.mark.parametrize("ingest", [False, True])
async def test_a_hang_lasts_until_the_client_gives_up(ingest: bool):
    """Row 19: no answer comes; the slot is held meanwhile and free once the client has gone."""
    async with calling() as caller:
        caller.okta.faults.append(Fault.hang(ingest=ingest))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await caller.send()
        await until(lambda: caller.okta.org.in_flight == 0)
        assert caller.okta.requests[0].status is None
        assert len(caller.okta.signals) == ingest


async def test_a_hang_holds_its_slot():
    """Row 19: a hung request counts as in flight."""
    async with calling(concurrency=1) as caller:
        caller.okta.faults.append(Fault.hang())
        hung = asyncio.create_task(caller.send())
        await until(lambda: len(caller.okta.requests) == 1)
        assert rate(await caller.send())[:2] == (0, 0)
        hung.cancel()
        await asyncio.wait([hung])


async def test_latency_and_slowness_delay_the_answer_not_the_ingestion():
    """The signals are in at once; the answer takes latency, which may be a function, plus the fault's delay."""
    async with calling(latency=lambda: 0.05) as caller:
        caller.okta.faults.append(Fault.slow(0.05))
        started = time.monotonic()
        pending = asyncio.create_task(caller.send())
        await until(lambda: len(caller.okta.signals) == 1)
        assert not pending.done()
        assert (await pending).status == 202
        assert time.monotonic() - started >= 0.1


async def test_faults_wait_for_the_request_they_are_meant_for():
    """A fault with a condition is passed over until it holds; the others keep their order; other paths use none."""
    async with calling() as caller:
        poisoned = Fault.error().only_if(lambda exchange: b"192.0.2.66" in (exchange.request.body or b""))
        caller.okta.faults += [poisoned, Fault.unavailable(), Fault.proxy_error()]
        statuses = [(await caller.send(path="/nowhere")).status]
        for ip in ("192.0.2.1", "192.0.2.66", "192.0.2.2", "192.0.2.66"):
            statuses.append((await caller.send([event(subject(ip))])).status)
        assert statuses == [404, 503, 500, 502, 202]
        assert caller.okta.faults == []


async def test_a_script_is_asked_for_every_request_without_a_fault():
    """`script` sees the exchange and may return a fault; `faults` go first."""
    asked = []

    def script(exchange: Exchange) -> Fault | None:
        asked.append(exchange.number)
        return Fault.unavailable() if exchange.number == 3 else None

    async with calling(script=script) as caller:
        caller.okta.faults.append(Fault.error())
        assert [(await caller.send()).status for _ in range(4)] == [500, 202, 503, 202]
        assert asked == [2, 3, 4]


async def test_an_observer_sees_every_request_once_it_is_judged():
    """`on_judged` is called before the answer leaves, for every endpoint, also where a fault replaces the answer."""
    seen = []
    async with calling(on_judged=lambda each: seen.append((each.request.endpoint, each.number, each.status))) as caller:
        caller.okta.faults.append(Fault.unavailable())
        await caller.send()
        await caller.send()
        await caller.send(method="GET", path="/api/v1/users")
    assert seen == [(RISK_EVENTS_PATH, 1, 503), (RISK_EVENTS_PATH, 2, 202), ("/api/v1/users", 0, 404)]


async def test_faults_that_ingest_nothing_use_no_quota():
    """A request that the org never saw does not lower Remaining."""
    async with calling(limit=5) as caller:
        caller.okta.faults += [Fault.error(), Fault.slow(0.0)]
        assert not rated(await caller.send())
        assert [rate(await caller.send())[1] for _ in range(2)] == [4, 3]


# ------------------------------------------------------------------------------------------------ proof and lifecycle


async def test_the_busiest_window_is_found_wherever_it_starts():
    """`most_in_any_window` looks at every window; two arrivals exactly a period apart share none."""
    org = Org(limit=1)
    for now in (0.0, 50.0, 55.0, 59.9, 60.0, 109.9, 110.0, 300.0):
        org.answer(request(), now, WALL + now)
    assert org.most_in_any_window(60.0) == 5
    assert org.most_in_any_window(5.0) == 2
    assert org.most_in_any_window(1000.0) == 8
    assert Org().most_in_any_window() == 0


async def test_it_listens_on_loopback_only():
    """A host that others could reach is refused."""
    for host in ("0.0.0.0", "::", "192.0.2.1", "okta.com", ""):
        with pytest.raises(ValueError, match="loopback"):
            OktaEmulator(host=host)
    async with OktaEmulator(host="localhost") as okta:
        assert okta.url.startswith("http://127.0.0.1:")


async def test_a_port_can_be_chosen_and_is_free_again_afterwards():
    """`port` is used as given, a second emulator on it fails, and leaving the block frees it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for _ in range(2):
        async with OktaEmulator(port=port) as okta:
            assert okta.url == f"http://127.0.0.1:{port}"
            with pytest.raises(OSError, match="in use"):
                await OktaEmulator(port=port).__aenter__()
    with pytest.raises(RuntimeError):
        assert okta.url


async def test_leaving_is_quick_whatever_is_under_way():
    """Hung, delayed and half-sent requests do not keep the block open, and no task is left."""
    before = asyncio.all_tasks()
    async with aiohttp.ClientSession() as session:
        async with OktaEmulator() as okta:
            caller = Caller(okta, session)
            okta.faults += [Fault.hang(), Fault.slow(60.0), Fault.hang(ingest=True)]
            pending = [asyncio.create_task(caller.send()) for _ in range(3)]
            _, writer = await asyncio.open_connection(*okta.url.removeprefix("http://").split(":"))
            writer.write(f"POST {RISK_EVENTS_PATH} HTTP/1.1\r\nHost: okta\r\nContent-Length: 9\r\n\r\n[".encode())
            await until(lambda: len(okta.requests) == 4)
            started = time.monotonic()
        assert asyncio.all_tasks() - set(pending) == before
        assert time.monotonic() - started < 10  # one of them would take a minute
        assert okta.org.in_flight == 0
        assert all(exchange.status is None for exchange in okta.requests)
        results = await asyncio.gather(*pending, return_exceptions=True)
        assert all(isinstance(result, aiohttp.ClientError) for result in results)
        writer.close()
        await asyncio.wait([asyncio.ensure_future(writer.wait_closed())])
    assert asyncio.all_tasks() == before
    gc.collect()


async def test_a_request_that_breaks_off_is_recorded_and_frees_its_slot():
    """A client that dies in the middle of its body leaves an exchange without an answer."""
    async with calling() as caller:
        _, writer = await asyncio.open_connection(*caller.okta.url.removeprefix("http://").split(":"))
        writer.write(f"POST {RISK_EVENTS_PATH} HTTP/1.1\r\nHost: okta\r\nContent-Length: 9\r\n\r\n[".encode())
        await until(lambda: len(caller.okta.requests) == 1)
        writer.close()
        await until(lambda: caller.okta.org.in_flight == 0)
        assert caller.okta.requests[0].status is None
        assert caller.okta.signals == []


async def test_no_token_in_any_repr_or_log(caplog: pytest.LogCaptureFixture):
    """Neither the objects nor the log show an API token or an access token."""
    caplog.set_level(logging.DEBUG)
    async with calling(token="00sesame", access_tokens={"sesame-too": AccessToken()}) as caller:
        await caller.send(auth="SSWS 00sesame")
        await caller.send(auth="Bearer sesame-too")
        await caller.send(auth="Bearer sesame-three")
        shown = f"{caller.okta!r} {caller.okta.org!r} {caller.okta.requests!r} {caller.okta.signals!r} {caplog.text}"
        assert "sesame" not in shown
        assert caller.okta.token == "00sesame"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(2):
        while not condition():  # noqa: ASYNC110 - a test may poll what has no event
            await asyncio.sleep(0.002)
