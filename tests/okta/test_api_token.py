"""Credentials on requests, and nowhere else."""

import traceback
from datetime import UTC, datetime

import pytest

from riskbatch import ApiToken, AuthError, RiskbatchError
from riskbatch.okta.credentials import Now
from riskbatch.okta.http import Request
from riskbatch.okta.redaction import plain

TOKEN = "00aBcDeFgHiJkLmNoPqRsTuVwXyZ0123456789-_x"
NOW = Now(0.0, datetime(2026, 1, 1, tzinfo=UTC))
REQUEST = Request("POST", "https://acme.okta.com/api/v1/risk/events/ip", {"Accept": "application/json"}, b"[]")


def test_the_token_follows_its_scheme_after_one_space():
    """Okta reads `Authorization: SSWS <token>`, with exactly one space."""
    signed = ApiToken(TOKEN).sign(REQUEST, NOW)
    assert signed.headers == {"Accept": "application/json", "Authorization": f"SSWS {TOKEN}"}


def test_signing_changes_the_header_only_and_not_the_original():
    """A signed request is a copy, so that no credentials stay on what may be sent or shown again."""
    signed = ApiToken(TOKEN).sign(REQUEST, NOW)
    assert (signed.method, signed.url, signed.body) == (REQUEST.method, REQUEST.url, REQUEST.body)
    assert REQUEST.headers == {"Accept": "application/json"}
    assert signed.headers is not REQUEST.headers


def test_the_token_is_in_no_text_of_these_objects():
    """No token in a repr or str of the token, the signed request, or what holds them."""
    auth = ApiToken(TOKEN)
    signed = auth.sign(REQUEST, NOW)
    for text in (repr(auth), str(auth), f"{auth}", repr([auth]), repr(signed), str(signed), f"{signed}"):
        assert TOKEN not in text
        assert TOKEN[:8] not in text
    with pytest.raises(TypeError):
        vars(auth)


def test_a_token_cannot_be_changed():
    """Credentials are frozen: a client cannot be turned to another org's by accident."""
    with pytest.raises(AttributeError):
        ApiToken(TOKEN)._token = "other"
    assert ApiToken(TOKEN) == ApiToken(TOKEN)
    assert ApiToken(TOKEN) != ApiToken(TOKEN + "x")


@pytest.mark.parametrize(
    "token",
    [
        "",
        " ",
        f"{TOKEN} ",
        f" {TOKEN}",
        f"{TOKEN}\n",
        f"{TOKEN}\r\nX-Evil: 1",
        f"{TOKEN}\x00",
        f"{TOKEN}\x7f",
        f"{TOKEN}é",
        f"{TOKEN}\u2028",
        f"SSWS {TOKEN}",
        "{apiToken}",
        f"{TOKEN}{{",
        TOKEN.encode(),
        None,
        17,
        [TOKEN],
    ],
)
def test_a_token_that_no_header_can_carry_is_refused_without_showing_it(token):
    """A mistyped token is still a secret: the error and its traceback say what is wrong, and not with what."""
    with pytest.raises(AuthError) as caught:
        ApiToken(token)
    assert isinstance(caught.value, RiskbatchError)
    shown = "".join(traceback.format_exception_only(caught.value)) + repr(caught.value)
    assert TOKEN not in shown
    assert "{apiToken}" not in shown
    assert "token" in str(caught.value)


def test_a_server_that_echoes_the_token_is_redacted():
    """What a server says is shown without the token, however often it has it."""
    auth = ApiToken(TOKEN)
    assert auth.redact(f"no {TOKEN}, not {TOKEN}!") == "no [redacted], not [redacted]!"
    assert auth.redact("nothing to hide") == "nothing to hide"


@pytest.mark.parametrize("room", range(len(TOKEN) + 2))
def test_a_token_at_the_end_of_a_cut_text_is_redacted_too(room):
    """Where a server's words were cut to length within the token, its beginning is not shown either."""
    for text in (plain("x" * (300 - room) + TOKEN + "x" * 9), ("x" * (200 - room) + TOKEN)[:200]):
        shown = ApiToken(TOKEN).redact(text)
        assert TOKEN[:4] not in shown
        assert shown.startswith("x" * (200 - room))
