"""One record as it was found, and text to values."""

import json
import re
import shlex
from collections.abc import Iterator
from typing import NoReturn

from attrs import frozen

from ...errors import RiskbatchError

MAX_RECORD = 128 * 1024  # bytes; 50 subjects with full messages are 30 kB, and to parse more blocks the event loop
SHOWN = 1000  # characters kept of a record that is too long
BOM = b"\xef\xbb\xbf"


class Unreadable(RiskbatchError):  # noqa: N818 - reads as the others do
    """The stream as a whole cannot be read as it is; nothing of it was."""


@frozen
class Record:
    """
    One record as it was found.

    Attributes:
        line: Where it begins, from 1.
        value: The JSON value, or a CSV row as an object; the text if there is an *error*.
        error: Why it cannot be read.
        kind: The *error* without what belongs to this record alone: records of one kind are counted together.
        cut: It was too long, and *value* is only its beginning.
    """

    line: int
    value: object
    error: str | None = None
    kind: str = ""
    cut: bool = False


def parsed(line: int, data: bytes) -> Record:
    """Return the JSON value in *data*, or why it is none."""
    try:
        return Record(line, json.loads(text_of(data), parse_constant=_no_constant))
    except json.JSONDecodeError as error:
        return unread(line, data, f"not JSON: {error.msg} at character {error.pos + 1}", f"not JSON: {error.msg}")
    except NotUtf8 as error:
        return unread(line, data, f"not JSON: {error}", "not UTF-8")
    except (ValueError, RecursionError) as error:
        return unread(line, data, f"not JSON: {error}", "not JSON")


class NotUtf8(ValueError):  # noqa: N818 - reads as the others do
    """Bytes that are no UTF-8; the message says which is the first."""


def text_of(data: bytes) -> str:
    """
    Return *data* as text, without a byte order mark.

    Raises:
        NotUtf8: It is in another encoding.
    """
    try:
        return data.decode("utf-8-sig")  # where files were put one behind the other, each may have its mark
    except UnicodeDecodeError as error:
        raise NotUtf8(f"not UTF-8: byte {error.start + 1} is 0x{data[error.start]:02x}") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def unread(line: int, data: bytes | bytearray, why: str, kind: str = "") -> Record:
    """Return a record that cannot be read."""
    return Record(line, data.decode(errors="replace"), why, kind or why)


def too_long(line: int, data: bytes | bytearray) -> Record:
    """Return a record of which only the beginning is kept."""
    text = data[: 4 * SHOWN].decode(errors="replace")[:SHOWN]
    why = f"longer than {MAX_RECORD} bytes"
    if place := place_of_records(data):
        why = f"{why}; {place}"
    return Record(line, text, why, why, cut=True)


_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*+)"|[{}\[\]:,]', re.DOTALL)
_DEEPEST = 8  # open brackets on the way to a list of records
_LOOKED_AT = 16 * 1024  # bytes of a record in which a list of records is looked for


def place_of_records(data: bytes | bytearray) -> str:
    """
    Return words that say where the records seem to be, if *data* begins an object with a list of objects; else "".

    Works on a record that was cut too: exports wrap thousands of records in one object.
    """
    paths = list(_lists_of_objects(data[:_LOOKED_AT].decode(errors="replace")))
    if not paths:
        return ""
    names = min(paths, key=len)
    path = "".join(f".{name}" if name.isidentifier() and name.isascii() else f"[{json.dumps(name)}]" for name in names)
    path = path if path.startswith(".") else f".{path}"
    return f"the records seem to be in {path}: jq -c {shlex.quote(f'{path}[]')} FILE | riskbatch send -"


def _lists_of_objects(text: str) -> Iterator[list[str]]:
    """Yield the names that lead to each list that begins with an object, as far as only objects are on the way."""
    names: list[str | None] = []  # of the open objects' present members; None for an open list
    last = name = ""
    for token in _TOKEN.finditer(text):
        mark = token[0] if token[1] is None else '"'
        if mark == '"':
            name = token[1]
        elif mark == ":" and names:
            names[-1] = name
        elif mark in "{[" and len(names) == _DEEPEST:
            return
        elif mark == "{":
            if last == "[" and len(names) > 1 and names.count(None) == 1:
                yield [each for each in names if each is not None]
            names.append("")
        elif mark == "[":
            names.append(None)
        elif mark in "}]" and names:
            names.pop()
        last = mark
