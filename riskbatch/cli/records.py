"""
Records out of a stream of bytes: JSON Lines, JSON (an array, or objects in a row), CSV, or a list of addresses.

Pure: chunks are pushed in and records come out, wherever the chunks were cut. What cannot be read becomes a record
with an error and the rest goes on; no more than `MAX_RECORD` bytes are ever kept. The content decides what it is.
"""

import json
import os
from collections.abc import Iterator
from typing import Protocol

from .fields import Fields
from .formats.json_stream import JsonStream
from .formats.lines import COMMENTS, LineRecords, address_line, begins_with_address, json_line
from .formats.record import BOM, MAX_RECORD, SHOWN, Record, Unreadable, parsed
from .formats.table import MAX_ROW, CsvRows

__all__ = [
    "CHUNK",
    "FORMATS",
    "MAX_RECORD",
    "MAX_ROW",
    "Feed",
    "Record",
    "Unreadable",
    "from_rejected_line",
    "refusal",
]

FORMATS = ("jsonl", "json", "csv", "list")
CHUNK = 2 * 1024  # bytes read in a step: some 2 ms of parsing at the worst, between two turns of the event loop
_SUFFIXES = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_READ_ALL = Fields()

# How files begin that are no text, what they are, and what turns them into text.
_OTHERS = (
    (b"\x1f\x8b", "compressed with gzip", "zcat FILE | riskbatch send -"),
    (b"BZh", "compressed with bzip2", "bzcat FILE | riskbatch send -"),
    (b"\xfd7zXZ\x00", "compressed with xz", "xzcat FILE | riskbatch send -"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "zstdcat FILE | riskbatch send -"),
    (b"\x04\x22\x4d\x18", "compressed with lz4", "lz4 -dc FILE | riskbatch send -"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "7z x -so FILE | riskbatch send -"),
    (b"PK\x03\x04", "a ZIP archive or a workbook", "unzip -p FILE | riskbatch send -, or save the workbook as CSV"),
    (b"\xd0\xcf\x11\xe0", "a workbook of Excel", "save it as CSV"),
    (b"%PDF", "a PDF", "export its table as CSV"),
    (b"PAR1", "a Parquet file", "export it as CSV or JSON Lines"),
    (b"SQLite format 3\x00", "an SQLite database", "sqlite3 -csv -header FILE 'SELECT ...' | riskbatch send -"),
    (b"\xff\xfe", "UTF-16", "iconv -f UTF-16 -t UTF-8 FILE | riskbatch send -"),
    (b"\xfe\xff", "UTF-16", "iconv -f UTF-16 -t UTF-8 FILE | riskbatch send -"),
)


class _Reader(Protocol):
    def push(self, chunk: bytes) -> Iterator[Record | None]: ...
    def end(self) -> Iterator[Record | None]: ...
    @property
    def kept(self) -> int: ...


class Feed:
    """
    Turns one stream into records. Exhaust what a method returns before calling another.

    Args:
        form: One of `FORMATS`; `None` decides by how the content begins and, if that does not tell, by *name*.
        name: The file's name, if it has one.
        fields: What is read of a record: it decides which header is valid.

    Attributes:
        form: The format, once it is known.
    """

    def __init__(self, form: str | None = None, name: str = "", fields: Fields = _READ_ALL) -> None:
        self.form = form
        self._suffix = os.path.splitext(name)[1].lower()
        self._fields = fields
        self._head = b""
        self._told = 0  # bytes of the head that hold nothing but comments and blank lines
        self._reader: _Reader | None = None

    def push(self, chunk: bytes) -> Iterator[Record | None]:
        """
        Yield the records that *chunk* completes, and `None` where time has passed without a record.

        Raises:
            Unreadable: It is no text in UTF-8, the first row of a CSV is no header, or a list has no level.
        """
        for start in range(0, len(chunk), CHUNK):
            piece = chunk[start : start + CHUNK]
            if self._reader is not None:
                yield from self._reader.push(piece)
            else:
                self._head += piece
                if self._is_known(ended=False):
                    yield from self.push(self._open())
            yield None

    def end(self) -> Iterator[Record | None]:
        """
        Yield what is left at the end of the stream, and `None` as `push` does.

        Raises:
            Unreadable: As `push`.
        """
        if self._reader is None:
            self._is_known(ended=True)
            yield from self.push(self._open())
        assert self._reader is not None  # noqa: S101 - _open() has made it
        yield from self._reader.end()

    @property
    def kept(self) -> int:
        """Bytes that wait for the rest of their record."""
        return len(self._head) + (self._reader.kept if self._reader else 0)

    # -- what it is

    def _is_known(self, *, ended: bool) -> bool:
        """Decide what the head begins, and tell whether it is decided."""
        _refuse_other_files(self._head, ended=ended)
        if self.form is None:
            self.form = self._detected(ended=ended)
        # With few bytes, it cannot be seen that they are no text; with one line, what ends it is known.
        return self.form is not None and (ended or b"\n" in self._head or len(self._head) >= MAX_ROW)

    def _detected(self, *, ended: bool) -> str | None:
        """Return the format of the first line that says something; `None` if only more of it can tell."""
        line, is_whole = self._first_line()
        text = line.removeprefix(BOM).strip()
        if text.startswith(b"["):
            return "json"
        if not (is_whole or ended or len(self._head) - self._told > MAX_ROW or len(self._head) > MAX_RECORD):
            return None
        if text.startswith(b"{"):
            # An object of more than one line opens something, or goes on, where its first line ends.
            return "json" if text.endswith((b"{", b"[", b",")) else "jsonl"
        if begins_with_address(text, is_table=self._fields.level is None):
            return "list"
        return _SUFFIXES.get(self._suffix) or ("csv" if text or self._told else "jsonl")

    def _first_line(self) -> tuple[bytes, bool]:
        """Return the first line of the head that is neither blank nor a comment, and whether it is whole."""
        end = _line_end(self._head)
        while (stop := self._head.find(end, self._told)) >= 0:
            line = self._head[self._told : stop]
            text = line.removeprefix(BOM).strip()
            if text and not text.startswith(COMMENTS):
                return line, True
            self._told = stop + 1
        return self._head[self._told :], False

    def _open(self) -> bytes:
        """Make the reader, and return the head for it."""
        head, self._head = self._head, b""
        end = _line_end(head)
        if self.form == "csv":
            _refuse_prefixed_json(head[self._told :].split(end, 1)[0])
            self._reader = CsvRows(self._fields.fault_of_header, end)
        elif self.form == "list":
            if self._fields.level is None:
                raise Unreadable("the input is a list of addresses: send --level HIGH, MEDIUM or LOW says their risk")
            self._reader = LineRecords(address_line, end)
        else:
            self._reader = JsonStream() if self.form == "json" else LineRecords(json_line, end)
        return head


def _line_end(head: bytes) -> bytes:
    """Return what ends a line: a carriage return, as old Macs wrote it, if there is no newline in a whole head."""
    return b"\r" if b"\r" in head[:-1] and b"\n" not in head else b"\n"


def _refuse_other_files(head: bytes, *, ended: bool) -> None:
    for begins, kind, remedy in _OTHERS:
        if head.startswith(begins):
            raise Unreadable(f"the input is {kind}: {remedy}")
    sample = head[:64]
    for first, name in ((1, "UTF-16LE"), (0, "UTF-16BE")):
        zeros = sample[first::2]
        if (ended or len(sample) == 64) and len(zeros) > 1 and zeros.count(0) > len(zeros) * 0.8:
            raise Unreadable(f"the input is UTF-16: iconv -f {name} -t UTF-8 FILE | riskbatch send -")


def _refuse_prefixed_json(line: bytes) -> None:
    if b'{"' in line and not line.startswith(b"{") and line.rstrip().endswith(b"}"):
        text = "the input has text before each JSON object; its first row cannot be the header of a CSV"
        raise Unreadable(f"{text}: sed 's/^[^{{]*//' FILE | riskbatch send -")


# -- records that were refused


def refusal(record: Record, number: int, outcome: str, reason: str, original: object, **more: object) -> str:
    """
    Return one line of a file of refused records, which `from_rejected_line` can read again.

    A place of 0 is not known.
    """
    line = {"line": record.line or None, "record": number or None, "outcome": outcome, "reason": reason, **more}
    try:
        return json.dumps({**line, "original": original}, allow_nan=False)
    except (ValueError, RecursionError):  # 1e999 was read as infinity, which JSON cannot write
        return json.dumps({**line, "original": repr(original)[:SHOWN]})


def from_rejected_line(record: Record) -> Record:
    """Return the original in a line of `refusal`, so that such a file can be sent as it is; others unchanged."""
    value = record.value
    if not isinstance(value, dict) or not {"record", "reason", "original"} <= value.keys():
        return record
    original = value["original"]
    if isinstance(original, str):
        return parsed(record.line, original.encode(errors="replace"))
    return Record(record.line, original)
