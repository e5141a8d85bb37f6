"""What may be shown of texts from outside: one bounded line, without secrets."""

import re
from collections.abc import Iterable

_MAX_TEXT = 300  # characters kept of what a server says, so that it cannot flood a log
_JWT = re.compile(r"(?<![\w-])eyJ[\w-]*(\.[\w-]*)*", re.ASCII)  # not in the middle of a request's id
_USER_INFO = re.compile(r"://\S{0,1000}@")  # up to the last @, since a password may have one; bounded, to be fast
_PIECE = 12  # characters of a secret that are too many to show
REDACTED = "[redacted]"


def plain(text: str, most: int = _MAX_TEXT) -> str:
    """Return *text* as one printable line of at most *most* characters: it must not forge or flood a log."""
    line = "".join(c if c.isprintable() else " " for c in text[: most + 1])
    return line if len(line) <= most else f"{line[:most]}…"


def hide_user_info(text: str) -> str:
    """Return *text* with each URL in it without its user and password."""
    return _USER_INFO.sub("://", text)


def redact(text: str, secrets: Iterable[str]) -> str:
    """
    Return *text* without *secrets*, whole or in pieces of 12 characters or more, without user info and JWTs.

    Pieces, because what a server echoes may be cut short by it or by us, or be broken into lines.
    """
    text, secrets = hide_user_info(text), list(filter(None, secrets))
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    all_secrets = "\0".join(secrets)
    shown, hidden_to = [], 0
    for i, character in enumerate(text):
        piece = text[i : i + _PIECE]
        if len(piece) == _PIECE and "\0" not in piece and piece in all_secrets:
            if i >= hidden_to:
                shown.append(REDACTED)
            hidden_to = i + _PIECE
        if i >= hidden_to:
            shown.append(character)
    return _JWT.sub(REDACTED, "".join(shown))
