"""
CSV: rows below a header.

A row may go on over several lines inside quotes, and is one record then, so that no part of it passes for another.
Where a quote is not closed, the line with it is refused alone and those behind it are read anew. Each line is looked at
twice at the most: how it ends if it begins outside of quotes, and how if it begins inside.
"""

import csv
import re
from collections.abc import Callable, Iterator
from enum import Enum

from .lines import COMMENTS, Lines
from .record import BOM, NotUtf8, Record, Unreadable, text_of, too_long, unread

MAX_ROW = 16 * 1024  # bytes of a row over several lines: a quote that is never closed must not swallow the file
_SPARE = 2_000  # delimiters inside of quotes, or behind the last column, that a row may have
DELIMITERS = (",", ";", "\t", "|")


class _State(Enum):
    OUTSIDE = "outside of quotes"
    INSIDE = "inside of quotes"
    BAD = "behind what no row may have"


class _Dialect:
    """How a line of one *delimiter* ends. All patterns are possessive, so that none looks at a byte twice."""

    def __init__(self, delimiter: str) -> None:
        end = rb"(?:%s|$)" % re.escape(delimiter.encode())
        rest = rb'[^"]*+(?:""[^"]*+)*+'  # of a quoted cell, up to the quote that closes it
        self.delimiter = delimiter
        self._closes = re.compile(rest + rb'" *+' + end)
        self._cells = re.compile(
            rb'(?: *+"%s" *+%s|(?! *+")[^%s]*+%s)*+' % (rest, end, re.escape(delimiter.encode()), end)
        )
        self._opens = re.compile(rb' *+"%s$' % rest)
        self._stays = re.compile(rest + rb"$")

    def state_after(self, line: bytes, *, inside: bool = False) -> _State:
        """Return where *line* ends, if it begins outside or *inside* of quotes."""
        if b'"' not in line:
            return _State.INSIDE if inside else _State.OUTSIDE
        start = 0
        if inside:
            if self._stays.fullmatch(line):
                return _State.INSIDE
            closed = self._closes.match(line)
            if closed is None:
                return _State.BAD
            start = closed.end()
        cells = self._cells.match(line, start)
        end = start if cells is None else cells.end()
        if end == len(line):
            return _State.OUTSIDE
        return _State.INSIDE if self._opens.match(line, end) else _State.BAD


class _Line:
    """
    A line that waits until it is known which row it belongs to.

    Attributes:
        number: From 1.
        data: Without its end.
        complete: Whether it was short enough to be kept.
        begins: How many bytes are before it.
        if_outside: Where it ends if it begins a row.
    """

    def __init__(self, number: int, data: bytes, complete: bool, begins: int, dialect: _Dialect) -> None:
        self.number = number
        self.data = data
        self.complete = complete
        self.begins = begins
        self.if_outside = dialect.state_after(data) if complete else _State.BAD
        self._dialect = dialect
        self._if_inside: _State | None = None

    def if_inside(self) -> _State:
        """Return where it ends if it begins inside of quotes."""
        if self._if_inside is None:
            self._if_inside = self._dialect.state_after(self.data, inside=True) if self.complete else _State.BAD
        return self._if_inside


class CsvRows:
    """
    Reads one stream.

    Args:
        fault: Returns what is wrong with the names of a header, "" if nothing is.
        end: What ends a line.
    """

    def __init__(self, fault: Callable[[list[str]], str], end: bytes = b"\n") -> None:
        self._fault = fault
        self._lines = Lines(end)
        self._dialect: _Dialect | None = None
        self._separator = ""  # what a line `sep=;` of Excel says
        self._header: list[str] = []
        self._waiting: dict[int, _Line] = {}  # by number; a row that is not finished, and what stands behind it
        self._first = 0  # number of the first of them
        self._closing = 0  # number of the line behind it, of which alone it is not known that it stays inside of quotes
        self._size = 0  # bytes of all lines so far

    @property
    def kept(self) -> int:
        """Bytes that wait for the rest of their row."""
        waiting = self._waiting.get(self._first)
        return self._lines.kept + (self._size - waiting.begins if waiting else 0)

    def push(self, chunk: bytes) -> Iterator[Record | None]:
        """Yield the rows that *chunk* completes, and None for each line that is none: it took time as well."""
        for number, line, complete in self._lines.push(chunk):
            yield from self._line(number, line.removeprefix(BOM), complete)

    def end(self) -> Iterator[Record | None]:
        """Yield the last row, and what an unclosed quote had swallowed, line by line."""
        for number, line, complete in self._lines.end():
            yield from self._line(number, line.removeprefix(BOM), complete)
        yield from self._rows(ended=True)

    def _line(self, number: int, data: bytes, complete: bool) -> Iterator[Record | None]:
        if self._dialect is None:
            self._read_header(data, complete)
            return
        self._waiting[number] = _Line(number, data, complete, self._size, self._dialect)
        self._size += len(data) + 1
        if len(self._waiting) == 1:
            self._first = number
        yield from self._rows()

    # -- rows

    def _rows(self, *, ended: bool = False) -> Iterator[Record | None]:
        """Yield all rows of which it is known where they end."""
        while first := self._waiting.get(self._first):
            last = first
            if self._is_comment(first.data) or first.if_outside is _State.OUTSIDE:
                pass
            elif first.if_outside is _State.INSIDE:
                found = self._closing_line(first)
                if found is None and not ended:
                    return
                last = found or first
            yield from self._row(first, last)
            yield None

    def _closing_line(self, first: _Line) -> _Line | None:
        """Return the line that closes the quotes that *first* opens: *first* if none does; None if not known."""
        self._closing = max(self._closing, first.number + 1)
        while line := self._waiting.get(self._closing):
            if line.begins + len(line.data) - first.begins > MAX_ROW or line.if_inside() is _State.BAD:
                return first
            if line.if_inside() is _State.OUTSIDE:
                return line
            self._closing += 1
        return None if self._size - first.begins <= MAX_ROW else first

    def _row(self, first: _Line, last: _Line) -> Iterator[Record]:
        """Take the lines from *first* to *last* and yield their row, or why they are none."""
        lines = [self._waiting.pop(number) for number in range(first.number, last.number + 1)]
        self._first = last.number + 1
        data = b"\n".join(line.data for line in lines)
        if not first.complete:
            yield too_long(first.number, data)
        elif self._is_comment(data):
            return
        elif first is last and first.if_outside is _State.INSIDE:
            yield unread(first.number, data, "not CSV: a quoted field is not closed")
        elif first.if_outside is _State.BAD:
            yield unread(first.number, data, "not CSV: a quoted field has more text behind its closing quote")
        else:
            yield from self._cells(first.number, data)

    def _cells(self, line: int, data: bytes) -> Iterator[Record]:
        assert self._dialect is not None  # noqa: S101 - the header was read
        if (count := data.count(self._dialect.delimiter.encode())) > len(self._header) + _SPARE:
            yield unread(
                line, data, f"has up to {count + 1} fields; the header has {len(self._header)}", "too many fields"
            )
            return
        try:
            cells = _split(text_of(data), self._dialect.delimiter)
        except NotUtf8 as error:
            yield unread(line, data, str(error), "not UTF-8 (iconv -f CP1252 -t UTF-8 FILE, if it is Windows text)")
            return
        except csv.Error as error:
            yield unread(line, data, f"not CSV: {error}")
            return
        if any(cells[len(self._header) :]):
            yield unread(line, data, f"has {len(cells)} fields; the header has {len(self._header)}")
        elif any(cells):
            names = (name or f"column {place}" for place, name in enumerate(self._header, 1))
            yield Record(line, {name: cell for name, cell in zip(names, cells, strict=False) if cell})

    def _is_comment(self, data: bytes) -> bool:
        """Tell whether nothing of a row begins with *data*; with `;` between cells, it may be an empty first cell."""
        is_delimiter = self._dialect is not None and self._dialect.delimiter == ";"
        return not data.strip() or data.startswith(COMMENTS[:1] if is_delimiter else COMMENTS)

    # -- the header

    def _read_header(self, data: bytes, complete: bool) -> None:
        """Take *data* as the header, if it is no comment, with the delimiter by which it is valid."""
        if self._is_comment(data):
            return
        if separator := re.fullmatch(rb'"?sep=([,;\t|])"?', data.strip(b" "), re.IGNORECASE):
            self._separator = separator[1].decode()
            return
        if not complete:
            raise Unreadable(f"{_READ_AS_CSV} cannot be the header: it is too long")
        faults = []
        for delimiter in sorted(DELIMITERS, key=lambda each: each != self._separator):
            count = data.count(delimiter.encode())
            try:
                names = _split(text_of(data), delimiter)
                if _Dialect(delimiter).state_after(data) is not _State.OUTSIDE:
                    raise csv.Error("a quoted field is not closed")
            except (csv.Error, NotUtf8) as error:
                faults.append((count, f"cannot be the header: {error}"))
                continue
            fault = self._fault(names)
            if not fault:
                self._dialect, self._header = _Dialect(delimiter), names
                return
            faults.append((count, f"must name the columns, each once; {fault}"))
        raise Unreadable(f"{_READ_AS_CSV} {max(faults, key=lambda each: each[0])[1]}")


_READ_AS_CSV = "the input was read as CSV, and its first row"


def _split(text: str, delimiter: str) -> list[str]:
    """Return the cells of one row, trimmed."""
    lines = (f"{line}\n" for line in text.split("\n"))
    rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    return [cell.strip() for cell in next(rows, [])]
