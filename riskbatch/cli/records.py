"""
Records out of a stream of bytes: JSON Lines, JSON (an array, or objects one after another) or CSV.

Pure: chunks are pushed in and records come out, wherever the chunks were cut. What cannot be read becomes a record
with an error and the rest goes on; no more than `MAX_RECORD` bytes are ever kept.
"""

import csv
import hashlib
import json
import re
from collections.abc import Iterator
from typing import NoReturn, Protocol

from attrs import frozen

from ..errors import InvalidSignal, RiskbatchError
from ..signals import RiskSignal, parse_signals

FORMATS = ("jsonl", "json", "csv")
CHUNK = 16 * 1024  # bytes to push at a time: some 2 ms of parsing between two turns of the event loop
MAX_RECORD = 1024 * 1024  # bytes; 50 subjects with every character escaped come to 175 kB
MAX_ROW = 16 * 1024  # bytes of a CSV row over several lines: a quote that is never closed must not swallow the file
SHOWN = 1000  # characters kept of a record that is too long

_BOM = b"\xef\xbb\xbf"
_SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_COLUMNS = {name: name for name in ("ip", "riskLevel", "message", "timestamp", "expiresAt")}
_COLUMNS |= {"risk_level": "riskLevel", "expires_at": "expiresAt"}


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
        cut: It was too long, and *value* is only its beginning.
    """

    line: int
    value: object
    error: str | None = None
    cut: bool = False


class _Reader(Protocol):
    def push(self, chunk: bytes) -> Iterator[Record]: ...
    def end(self) -> Iterator[Record]: ...
    @property
    def kept(self) -> int: ...


class Feed:
    """
    Turns one stream into records. Exhaust what `push` returns before pushing more.

    Args:
        form: One of `FORMATS`; `None` decides by *name*'s suffix or, better, by how the content begins.
        name: The file's name, if it has one.

    Attributes:
        form: The format, once it is known.
    """

    def __init__(self, form: str | None = None, name: str = "") -> None:
        suffix = name[name.rfind(".") :].lower() if "." in name else ""
        self.form = form or _SUFFIXES.get(suffix)
        self._head = b""
        self._reader: _Reader | None = None

    def push(self, chunk: bytes) -> Iterator[Record]:
        """
        Yield the records that *chunk* completes.

        Raises:
            Unreadable: It is no text in UTF-8, or the first row of a CSV is no header.
        """
        if self._reader is None:
            self._head += chunk
            self.form = self.form or detect(self._head)
            if self.form is None:
                return
            chunk = self._open()
        assert self._reader is not None  # noqa: S101 - _open() has made it
        yield from self._reader.push(chunk)

    def end(self) -> Iterator[Record]:
        """
        Yield what is left at the end of the stream.

        Raises:
            Unreadable: As `push`.
        """
        if self._reader is None:
            self.form = self.form or detect(self._head, ended=True)
            chunk = self._open()
            assert self._reader is not None  # noqa: S101 - _open() has made it
            yield from self._reader.push(chunk)
        yield from self._reader.end()

    @property
    def kept(self) -> int:
        """Bytes that wait for the rest of their record."""
        return len(self._head) + (self._reader.kept if self._reader else 0)

    def _open(self) -> bytes:
        if self._head[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise Unreadable("the input is UTF-16; save it as UTF-8")
        self._reader = CsvRows() if self.form == "csv" else JsonStream() if self.form == "json" else JsonLines()
        head, self._head = self._head, b""
        return head


def detect(head: bytes, *, ended: bool = False) -> str | None:
    """Return the format that begins with *head*; `None` if only more of it can tell."""
    text = head.removeprefix(_BOM).lstrip()
    if text.startswith(b"["):
        return "json"
    line, newline, _ = text.partition(b"\n")
    if not (newline or ended or len(head) > MAX_ROW):
        return None
    if text.startswith(b"{"):
        return "json" if line.strip() == b"{" else "jsonl"  # a pretty-printed object opens on a line of its own
    return "csv" if text else "jsonl"


def signals(value: object) -> Iterator[tuple[RiskSignal | str, object]]:
    """
    Yield each signal of a record's *value*, or why there is none, with the part of the record it stands for.

    A bad subject of a RiskEvent does not take its companions down.
    """
    subjects = value.get("subjects") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(subjects, list) or not subjects:
        yield _signal(value, 0), value
        return
    for index, subject in enumerate(subjects):
        part = {**value, "subjects": [subject]}
        yield _signal(part, index), part


def _signal(value: object, index: int) -> RiskSignal | str:
    try:
        (signal,) = parse_signals(value)
        return signal
    except InvalidSignal as error:
        name = error.field.replace("subjects[0]", f"subjects[{index}]", 1)
        return str(InvalidSignal(name, error.value, error.limit))


def refusal(record: Record, number: int, outcome: str, reason: str, original: object, **facts: object) -> str:
    """Return one line of a file of refused records, which `mended` can read again. A place of 0 is not known."""
    line = {"line": record.line or None, "record": number or None, "outcome": outcome, "reason": reason, **facts}
    try:
        return json.dumps({**line, "original": original}, allow_nan=False)
    except (ValueError, RecursionError):  # 1e999 was read as infinity, which JSON cannot write
        return json.dumps({**line, "original": repr(original)[:SHOWN]})


def mended(record: Record) -> Record:
    """Return the original in a line of `refusal`, so that such a file can be sent as it is; others unchanged."""
    value = record.value
    if not isinstance(value, dict) or not {"record", "reason", "original"} <= value.keys():
        return record
    original = value["original"]
    if isinstance(original, str):
        return _parsed(record.line, original.encode(errors="replace"))
    return Record(record.line, original)


class Trail:
    """
    Counts the signals of a feed, record by record, and knows it again by a digest of the records so far.

    Attributes:
        count: Signals so far, those that are none included.
    """

    def __init__(self) -> None:
        self.count = 0
        self._hash = hashlib.sha256()

    def add(self, record: Record, count: int) -> None:
        """Go past a *record* with *count* signals."""
        self.count += count
        self._hash.update(repr((record.value, record.error)).encode(errors="surrogatepass") + b"\n")

    def digest(self) -> str:
        """Return what only a feed with the same records up to here has."""
        return self._hash.hexdigest()


# -- text to values


def _parsed(line: int, data: bytes) -> Record:
    """Return the JSON value in *data*."""
    try:
        return Record(line, json.loads(_text(data), parse_constant=_no_constant))
    except json.JSONDecodeError as error:
        return _unread(line, data, f"not JSON: {error.msg} at character {error.pos + 1}")
    except (ValueError, RecursionError) as error:
        return _unread(line, data, f"not JSON: {error}")


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")  # where files were put one behind the other, each may have its mark
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte {error.start + 1} is 0x{data[error.start]:02x}") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unread(line: int, data: bytes | bytearray, why: str) -> Record:
    return Record(line, data.decode(errors="replace"), why)


def _too_long(line: int, data: bytes | bytearray) -> Record:
    text = data[: 4 * SHOWN].decode(errors="replace")[:SHOWN]
    return Record(line, text, f"longer than {MAX_RECORD} bytes", cut=True)


# -- lines


class _Lines:
    """Splits a stream into `(number, line, complete)`; of a line that is too long, only the beginning is kept."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._complete = True
        self._number = 0

    @property
    def kept(self) -> int:
        return len(self._kept)

    def push(self, chunk: bytes) -> Iterator[tuple[int, bytes, bool]]:
        start = 0
        while (stop := chunk.find(b"\n", start)) >= 0:
            self._keep(chunk[start:stop])
            yield self._take()
            start = stop + 1
        self._keep(chunk[start:])

    def end(self) -> Iterator[tuple[int, bytes, bool]]:
        if self._kept:
            yield self._take()

    def _keep(self, piece: bytes) -> None:
        room = MAX_RECORD - len(self._kept)
        self._complete = self._complete and len(piece) <= room
        self._kept += piece[:room]

    def _take(self) -> tuple[int, bytes, bool]:
        self._number += 1
        line = self._number, bytes(self._kept.removesuffix(b"\r")), self._complete
        self._kept.clear()
        self._complete = True
        return line


class JsonLines:
    """One JSON value a line; blank lines are passed over."""

    def __init__(self) -> None:
        self._lines = _Lines()

    @property
    def kept(self) -> int:
        """Bytes that wait for the rest of their line."""
        return self._lines.kept

    def push(self, chunk: bytes) -> Iterator[Record]:
        """Yield the records that *chunk* completes."""
        return self._records(self._lines.push(chunk))

    def end(self) -> Iterator[Record]:
        """Yield the last line, if no newline ended it."""
        return self._records(self._lines.end())

    def _records(self, lines: Iterator[tuple[int, bytes, bool]]) -> Iterator[Record]:
        for number, line, complete in lines:
            if not complete:
                yield _too_long(number, line)
            elif line.removeprefix(_BOM).strip():
                yield _parsed(number, line)


# -- CSV


class _Unfinished(Exception):  # noqa: N818 - nothing is wrong yet
    """A quoted field goes on in the next line."""


class CsvRows:
    """Rows below a header of Okta's names; a row over several lines is one record, so that no part passes for one."""

    def __init__(self) -> None:
        self._lines = _Lines()
        self._open: list[tuple[int, bytes]] = []  # the lines of a row whose quoted field is not closed
        self._open_size = 0
        self._header: list[str] | None = None

    @property
    def kept(self) -> int:
        """Bytes that wait for the rest of their row."""
        return self._lines.kept + self._open_size

    def push(self, chunk: bytes) -> Iterator[Record]:
        """Yield the rows that *chunk* completes."""
        for number, line, complete in self._lines.push(chunk):
            yield from self._line(number, line, complete)

    def end(self) -> Iterator[Record]:
        """Yield the last row, and what an unclosed quote had swallowed, line by line."""
        for number, line, complete in self._lines.end():
            yield from self._line(number, line, complete)
        while self._open:
            yield from self._reopen()

    def _line(self, number: int, line: bytes, complete: bool = True) -> Iterator[Record]:
        if not complete:
            while self._open:
                yield from self._reopen()
            yield self._refused(_too_long(number, line))
            return
        cannot_close = bool(self._open) and b'"' not in line
        self._open.append((number, line))
        self._open_size += len(line) + 1
        if not cannot_close:
            yield from self._row()
        while self._open_size > MAX_ROW:
            yield from self._reopen()

    def _take(self) -> list[tuple[int, bytes]]:
        lines, self._open, self._open_size = self._open, [], 0
        return lines

    def _row(self) -> Iterator[Record]:
        """Yield the row that the open lines make, if it is finished."""
        number, data = self._open[0][0], b"\n".join(line for _, line in self._open)
        try:
            cells = next(csv.reader(_texts(data), strict=True, skipinitialspace=True))
        except _Unfinished:
            return
        except (csv.Error, ValueError) as error:
            yield from self._reopen(f"not CSV: {error}")
            return
        self._take()
        if any(cell.strip() for cell in cells):
            yield from self._cells(number, data, cells)

    def _reopen(self, why: str = "not CSV: a quoted field is not closed") -> Iterator[Record]:
        """Refuse the first of the open lines, and read those behind it anew."""
        (number, line), *others = self._take()
        yield self._refused(_unread(number, line, why))
        for other in others:
            yield from self._line(*other)

    def _cells(self, number: int, data: bytes, cells: list[str]) -> Iterator[Record]:
        if self._header is None:
            self._header = _header(cells)
        elif len(cells) != len(self._header):
            yield _unread(number, data, f"has {len(cells)} fields; the header has {len(self._header)}")
        else:
            yield Record(number, {name: cell for name, cell in zip(self._header, cells, strict=True) if cell})

    def _refused(self, record: Record) -> Record:
        if self._header is None:
            raise Unreadable(f"the input was read as CSV, and its first row cannot be the header: {record.error}")
        return record


def _texts(data: bytes) -> Iterator[str]:
    for line in _text(data).split("\n"):
        yield f"{line}\n"
    raise _Unfinished


def _header(cells: list[str]) -> list[str]:
    names = [_COLUMNS.get(cell.strip(), "") for cell in cells]
    if "" in names or len(set(names)) < len(names) or not {"ip", "riskLevel"} <= set(names):
        shown = ",".join(cells)[:80]
        raise Unreadable(
            f"the input was read as CSV, and its first row is {shown!r}; it must name the columns, each once: "
            f"ip,riskLevel and optionally message,timestamp,expiresAt (--format tells what else it is)"
        )
    return names


# -- JSON


_OUTSIDE = re.compile(rb"[^\s\xef\xbb\xbf]|\n")  # a byte order mark is no content
_STRUCTURE = re.compile(rb'["{}\[\],\n]')
_STRING = re.compile(rb'["\\\n]')
_LINE_END = re.compile(rb"\n")


class JsonStream:
    """
    The elements of an array, or objects one after another.

    They are told apart by their brackets alone and parsed one by one, so that an element that is no JSON, or too
    long to keep, does not stop the rest, and no byte is looked at twice however the chunks are cut.
    """

    def __init__(self) -> None:
        self._kept = bytearray()  # the present element, without the space before it
        self._complete = True
        self._depth = 0  # of open brackets, the array's included
        self._in_array = False
        self._in_string = False
        self._escaped = False  # the next byte follows a backslash
        self._is_junk = False  # what is kept stands outside of every array and object
        self._line = 1
        self._begins = 1  # the line on which the present element begins

    @property
    def kept(self) -> int:
        """Bytes that wait for the rest of their element."""
        return len(self._kept)

    def push(self, chunk: bytes) -> Iterator[Record]:
        """Yield the elements that *chunk* completes."""
        begin = at = 0  # of the present element; of what was not looked at
        while at < len(chunk):
            if self._escaped:
                self._escaped = False
                at += chunk[at : at + 1] != b"\n"  # a newline must be counted, though no string may have one
            found = self._pattern().search(chunk, at)
            if found is None:
                break
            token, start, at = found[0], found.start(), found.end()
            self._line += token == b"\n"
            if self._in_string:
                self._in_string, self._escaped = token != b'"', token == b"\\"
            elif self._is_outside():
                begin = at if self._opens(token) else start
            elif self._ends(token):
                is_last_byte = not (self._in_array or self._is_junk)
                self._keep(chunk[begin : at if is_last_byte else start])
                yield from self._take(token)
                begin = at
        if not self._is_outside():
            self._keep(chunk[begin:])

    def end(self) -> Iterator[Record]:
        """Yield the last element if it is whole, and say so if it or the array was not closed."""
        if self._is_junk:
            yield from self._take(b"")
        elif self._in_string or self._depth > self._in_array:
            why = "not JSON: the input ends before this does"
            yield _unread(self._begins, self._kept, why) if self._complete else _too_long(self._begins, self._kept)
        elif self._depth:
            yield from self._take(b"")
            yield Record(self._line, "", "not JSON: the input ends before the array does")

    def _pattern(self) -> re.Pattern[bytes]:
        if self._in_string:
            return _STRING
        if self._is_junk:
            return _LINE_END
        return _STRUCTURE if self._depth else _OUTSIDE

    def _is_outside(self) -> bool:
        return self._depth == 0 and not self._is_junk

    def _opens(self, token: bytes) -> bool:
        """Follow a *token* outside of everything, and tell whether it is itself no part of an element."""
        self._begins = self._line
        self._in_array = token == b"["
        self._depth = int(token in (b"[", b"{"))
        self._is_junk = token not in (b"[", b"{", b"\n")
        return token in (b"[", b"\n")

    def _ends(self, token: bytes) -> bool:
        """Follow *token*, and tell whether the present element ends with it."""
        if token == b'"':
            self._in_string = True
        elif token in (b"[", b"{"):
            self._depth += 1
        elif token in (b"]", b"}"):
            self._depth -= 1
            return self._depth == 0
        return self._is_junk or (token == b"," and self._in_array and self._depth == 1)

    def _keep(self, piece: bytes) -> None:
        if not self._kept:
            length = len(piece)
            text = piece.lstrip()
            self._begins += piece.count(b"\n", 0, length - len(text))
            piece = text
        room = MAX_RECORD - len(self._kept)
        self._complete = self._complete and len(piece) <= room
        self._kept += piece[:room]

    def _take(self, token: bytes) -> Iterator[Record]:
        text, line = bytes(self._kept).rstrip(), self._begins
        if not self._complete:
            yield _too_long(line, text)
        elif self._is_junk:
            yield _unread(line, text, "not JSON: this stands outside of the array")
        elif text:
            yield _parsed(line, text)
        elif token == b",":
            yield Record(line, "", "not JSON: there is nothing before the comma")
        self._kept.clear()
        self._complete, self._is_junk, self._begins = True, False, self._line
