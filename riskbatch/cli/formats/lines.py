"""A stream in lines: JSON Lines, and lists with an address a line."""

import re
from collections.abc import Callable, Iterator
from ipaddress import ip_interface

from .record import BOM, MAX_RECORD, Record, parsed, too_long

COMMENTS = (b"#", b";")  # how a line begins that says something about the list instead of belonging to it


class Lines:
    """
    Splits a stream into `(number, line, complete)`; of a line that is too long, only the beginning is kept.

    Args:
        end: What ends a line; a carriage return before it belongs to it.
    """

    def __init__(self, end: bytes = b"\n") -> None:
        self._end = end
        self._kept = bytearray()
        self._complete = True
        self._number = 0

    @property
    def kept(self) -> int:
        """Bytes that wait for the rest of their line."""
        return len(self._kept)

    def push(self, chunk: bytes) -> Iterator[tuple[int, bytes, bool]]:
        """Yield the lines that *chunk* completes."""
        start = 0
        while (stop := chunk.find(self._end, start)) >= 0:
            self._keep(chunk[start:stop])
            yield self._take()
            start = stop + 1
        self._keep(chunk[start:])

    def end(self) -> Iterator[tuple[int, bytes, bool]]:
        """Yield the last line, if nothing ended it."""
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


class LineRecords:
    """
    One record a line.

    Args:
        read: Returns the record in the line of that number; `None` if the line holds none.
        end: What ends a line.
    """

    def __init__(self, read: Callable[[int, bytes], Record | None], end: bytes = b"\n") -> None:
        self._read = read
        self._lines = Lines(end)

    @property
    def kept(self) -> int:
        """Bytes that wait for the rest of their line."""
        return self._lines.kept

    def push(self, chunk: bytes) -> Iterator[Record]:
        """Yield the records that *chunk* completes."""
        return self._records(self._lines.push(chunk))

    def end(self) -> Iterator[Record]:
        """Yield the last line, if nothing ended it."""
        return self._records(self._lines.end())

    def _records(self, lines: Iterator[tuple[int, bytes, bool]]) -> Iterator[Record]:
        for number, line, complete in lines:
            record = self._read(number, line) if complete else too_long(number, line)
            if record is not None:
                yield record


def json_line(number: int, line: bytes) -> Record | None:
    """Return the JSON value in *line*; `None` if it is blank."""
    return parsed(number, line) if line.removeprefix(BOM).strip() else None


def address_line(number: int, line: bytes) -> Record | None:
    """Return the address that *line* begins with; `None` if it is blank or a comment."""
    text = line.removeprefix(BOM).strip()
    return Record(number, {"ip": first_word(text)}) if text and not text.startswith(COMMENTS) else None


def first_word(line: bytes) -> str:
    """Return what stands before the first space, `#`, `,`, `;`, `|` or end of *line*, without quotes around it."""
    words = re.split(rb"[\s#,;|]", line.removeprefix(BOM).strip(), maxsplit=1)
    return words[0].strip(b'"').decode(errors="replace")


def begins_with_address(line: bytes, *, is_table: bool) -> bool:
    """
    Tell whether *line* may be one of a list: an address or a network, and perhaps more behind it.

    If a *table* is possible, a `,` or the like behind the address makes it a row whose header is missing.
    """
    if is_table and re.match(rb"[^\s#]*[,;|]", line):
        return False
    try:
        ip_interface(first_word(line))
    except ValueError:
        return False
    return True
