"""What may be shown of a text from outside."""

import random

import pytest
from budget import budget
from hypothesis import given, settings
from hypothesis import strategies as st

from riskbatch.okta import redaction


@given(st.text(max_size=80), st.text(max_size=80), st.integers(0, 60), st.integers(12, 90))
def test_no_piece_of_a_secret_is_shown(before, after, start, size):
    """Whatever surrounds it, no twelve characters of a secret are left."""
    secret = "".join(random.Random(7).choices("abcdefghijklmnopqrstuvwxyz0123456789+/-_", k=120))
    piece = secret[start : start + size]
    masked = redaction.redact(f"{before}{piece}{after}", [secret])
    assert all(secret[i : i + 12] not in masked for i in range(len(secret) - 11))


@given(st.text())
def test_what_is_no_secret_is_left_alone(text):
    """Text without secrets and JWTs is returned as it is."""
    assert redaction.redact(text.replace("eyJ", ""), ["a-secret-of-somebody"]) == text.replace("eyJ", "")


def test_whatever_looks_like_a_jwt_is_masked():
    """Also one that is not known to be a secret, and one that is cut short."""
    assert redaction.redact("see eyJhbGciOi.eyJzdWIi.c2ln-_x, (eyJhbGci)", []) == "see [redacted], ([redacted])"


@given(st.text(max_size=700))
@settings(max_examples=budget(30, 150), deadline=None, derandomize=True)
def test_plain_text_is_one_printable_line_of_bounded_length(text):
    """Control characters become spaces, and what is too long is cut and marked."""
    line = redaction.plain(text)
    assert line.isprintable()
    assert len(line) == min(len(text), 301)
    assert line.endswith("…") or len(text) <= 300
    for kept, original in zip(line[:300], text, strict=False):
        assert kept == (original if original.isprintable() else " ")


@pytest.mark.parametrize(("length", "shown"), [(300, 300), (301, 301), (302, 301), (10_000, 301)])
def test_the_longest_plain_text_has_300_characters_and_a_mark(length, shown):
    """300 characters stay as they are; one more is cut."""
    assert len(redaction.plain("x" * length)) == shown
    assert redaction.plain("x" * length).endswith("…") == (length > 300)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("url='http://who:pass@proxy:3128'", "url='http://proxy:3128'"),
        ("http://who:p@ss@proxy and https://a@b/c?d", "http://proxy and https://b/c?d"),
        ("http://who:p'a/s?s#@proxy", "http://proxy"),
        ("socks5://who:pass@[::1]:80", "socks5://[::1]:80"),
        ("see https://help.okta.com, or mail who@okta.com", "see https://help.okta.com, or mail who@okta.com"),
        ("https://acme.okta.com", "https://acme.okta.com"),
    ],
)
def test_no_url_shows_its_user_info(text, shown):
    """Wherever in a text it stands, and whatever characters a password has."""
    assert redaction.hide_user_info(text) == shown
    assert redaction.redact(text, []) == shown
