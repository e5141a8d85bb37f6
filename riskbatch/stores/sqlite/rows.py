"""
Rows of the file to signals and back.

The key of a row is its level and its number, so that the file reads in the order of sending. Each function moves many
rows in one statement, because every step of sqlite3 gives up the interpreter and must get it back from a busy event
loop, which can take 5 ms.
"""

import json
import logging
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from attrs import frozen

from ...errors import InvalidSignal
from ...log import log_fields
from ...signals import RiskLevel, RiskSignal
from .. import StoredSignal

logger = logging.getLogger("riskbatch")

SHIFT = 60
NUMBER = (1 << SHIFT) - 1
LEVELS = tuple(RiskLevel)
BASE = {level: rank << SHIFT for rank, level in enumerate(LEVELS)}
COLUMNS = ("ip", "message", "timestamp", "expires_at", "enqueued_at", "attempts")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MANY = 500  # rows a statement
_BREATH = 50  # rows made into signals between two chances for the event loop to run: half a millisecond
_PAUSE = 0.0002  # seconds, in which a thread that waits for the interpreter wakes up


def to_int(time: datetime) -> int:
    """Return *time* as the file has it: microseconds since 1970."""
    return (time - _EPOCH) // _MICROSECOND


def to_time(microseconds: int) -> datetime:
    """Return a time of the file; `OverflowError` if there is no such year."""
    return _EPOCH + timedelta(microseconds=microseconds)


TIMES = to_int(datetime.min.replace(tzinfo=UTC)), to_int(datetime.max.replace(tzinfo=UTC))


def value_of(cursor: sqlite3.Cursor) -> Any:
    """Return the one value that a statement yields."""
    return cursor.fetchone()[0]


def key_of(level: RiskLevel, row: int) -> int:
    """Return the key of a *row* of *level*."""
    return BASE[level] + row


def span(level: RiskLevel) -> tuple[int, int]:
    """Return the keys between which all of *level* are."""
    return BASE[level], BASE[level] + NUMBER


# -- writing


_INSERT = """
INSERT INTO signals (id, ip, message, timestamp, expires_at, enqueued_at)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
    json_extract(value, '$[3]'), json_extract(value, '$[4]'), ?1
FROM json_each(?2)
"""
_NOTE = """
UPDATE signals SET attempts = json_extract(note.value, '$[1]'), may_have_arrived = json_extract(note.value, '$[2]')
FROM json_each(?) AS note WHERE signals.id = json_extract(note.value, '$[0]')
"""
_KEEP = """
INSERT INTO settled
SELECT ?1, json_extract(ended.value, '$[1]'), json_extract(ended.value, '$[2]'), signals.id,
    ip, message, timestamp, expires_at, enqueued_at, attempts
FROM json_each(?2) AS ended JOIN signals ON signals.id = json_extract(ended.value, '$[0]')
"""
_FORGET = "DELETE FROM signals WHERE id IN (SELECT value FROM json_each(?))"


def insert(db: sqlite3.Connection, added: Sequence[tuple[int, RiskSignal]]) -> None:
    """Add signals, each with the number that it shall have."""
    now = to_int(datetime.now(UTC))
    for start in range(0, len(added), _MANY):
        values = [_values(number, signal) for number, signal in added[start : start + _MANY]]
        db.execute(_INSERT, (now, json.dumps(values)))


def _values(number: int, signal: RiskSignal) -> tuple[object, ...]:
    expires_at = None if signal.expires_at is None else to_int(signal.expires_at)
    key = BASE[signal.risk_level] + number
    return key, signal.ip, signal.message, to_int(signal.timestamp), expires_at


def forget(db: sqlite3.Connection, keys: Sequence[int]) -> None:
    """Remove the rows with these *keys*."""
    db.execute(_FORGET, (json.dumps(keys),))


def keep(db: sqlite3.Connection, ended: Sequence[tuple[int, str, str]]) -> None:
    """Move rows, each with its key, outcome and detail, to those that are settled."""
    db.execute(_KEEP, (to_int(datetime.now(UTC)), json.dumps(ended)))
    forget(db, [key for key, _, _ in ended])


def note(db: sqlite3.Connection, tried: Sequence[tuple[int, int, bool]]) -> None:
    """Write for keys how many attempts there were, and whether one may have arrived."""
    newest = {key: (key, attempts, arrived) for key, attempts, arrived in tried}
    db.execute(_NOTE, (json.dumps(list(newest.values())),))


def rename(db: sqlite3.Connection, renamed: Sequence[tuple[int, int]]) -> None:
    """Give each key, whose row is gone, to the row of another key; one after the other."""
    db.executemany("UPDATE signals SET id = ? WHERE id = ?", renamed)


# -- reading


def count(db: sqlite3.Connection) -> dict[RiskLevel, int]:
    """Count the rows of each level."""
    sql = "SELECT count(*) FROM signals WHERE id > ? AND id < ?"
    return {level: value_of(db.execute(sql, span(level))) for level in RiskLevel}


def newest(db: sqlite3.Connection) -> int:
    """Return the largest number in use; 0 if there is none."""
    sql = "SELECT max(id) FROM signals WHERE id > ? AND id < ?"  # of each level, since an index finds that at once
    return max((value_of(db.execute(sql, span(level))) or 0) & NUMBER for level in RiskLevel)


@frozen
class Rows:
    """
    Rows that were read; false if there are none.

    Attributes:
        signals: Those that are signals.
        damaged: Of the others, their numbers, and the field that cannot be read.
        last: The key of the last; 0 if there is none.
    """

    signals: list[StoredSignal]
    damaged: dict[int, str]
    last: int

    def __len__(self) -> int:
        return len(self.signals) + len(self.damaged)


# What a damaged file has in a column may be of any type: text that is no UTF-8, an infinity. So text comes as hex, and
# what is of a wrong type as a value that is refused below.
_TEXT = "CASE typeof({0}) WHEN 'text' THEN hex({0}) WHEN 'null' THEN NULL ELSE 0 END".format
_NUMBER = "CASE typeof({0}) WHEN 'integer' THEN {0} WHEN 'null' THEN NULL ELSE '' END".format


def columns(names: Iterable[str]) -> str:
    """Return the SQL that reads the columns *names* safely, whatever is in them."""
    text = ("ip", "message", "outcome", "detail")
    return ", ".join(_TEXT(name) if name in text else _NUMBER(name) for name in names)


_FIELDS = (*COLUMNS, "may_have_arrived")
_READ = f"""
    SELECT json_group_array(json_array(id, {columns(_FIELDS)})),
        (SELECT max(suspect_until) FROM state WHERE typeof(suspect_until) = 'integer')
    FROM (SELECT * FROM signals WHERE {{}})
"""  # noqa: S608 - constants


def read(db: sqlite3.Connection, where: str, values: tuple[object, ...]) -> Rows:
    """Read the rows *where*, in one step."""
    text, suspect_until = db.execute(_READ.format(where), values).fetchone()
    found, damaged, last = [], {}, 0
    for index, (key, *fields) in enumerate(json.loads(text)):
        if index % _BREATH == 0:
            time.sleep(_PAUSE)
        last = key
        try:
            found.append(_stored(key, dict(zip(_FIELDS, fields, strict=True)), suspect_until))
        except InvalidSignal as error:
            damaged[key & NUMBER] = error.field
    return Rows(found, damaged, last)


def _stored(key: int, fields: Mapping[str, object], suspect_until: int | None) -> StoredSignal:
    row = key & NUMBER
    signal = to_signal(key, fields)
    arrived = bool(number("may_have_arrived", fields)) or suspect_until is None or row <= suspect_until
    return StoredSignal(row, signal, moment("enqueued_at", fields), number("attempts", fields), arrived)


def report(path: str, damaged: Mapping[int, str]) -> None:
    """Log the numbers of rows that cannot be read, and the fields at fault; never what is in them."""
    if damaged:
        names = [f"row {row} ({name})" for row, name in list(damaged.items())[:20]]
        more = f" and {len(damaged) - 20} more" if len(damaged) > 20 else ""
        found = log_fields("store_failed", reason="unreadable", count=len(damaged))
        logger.error("%s: %s%s cannot be read; they stay in the file", path, ", ".join(names), more, extra=found)


def to_signal(key: int, fields: Mapping[str, object]) -> RiskSignal:
    """
    Return the signal of a row.

    Raises:
        InvalidSignal: It cannot be read; the error names the field, and has no value.
    """
    if not 0 <= key >> SHIFT < len(LEVELS):
        raise InvalidSignal("id", None, "readable")
    ip, message = text("ip", fields), None if fields["message"] is None else text("message", fields)
    seen = moment("timestamp", fields)
    expires_at = None if fields["expires_at"] is None else moment("expires_at", fields)
    return RiskSignal(ip, LEVELS[key >> SHIFT], message=message, timestamp=seen, expires_at=expires_at)


def text(name: str, fields: Mapping[str, object]) -> str:
    """Return the text that `columns` has read."""
    try:
        return bytes.fromhex(fields[name]).decode()  # type: ignore[arg-type]  # then it is refused
    except (TypeError, ValueError):
        raise InvalidSignal(name, None, "readable") from None


def number(name: str, fields: Mapping[str, object]) -> int:
    """Return the number that `columns` has read, zero or more."""
    value = fields[name]
    if not isinstance(value, int) or value < 0:
        raise InvalidSignal(name, None, "readable")
    return value


def moment(name: str, fields: Mapping[str, object]) -> datetime:
    """Return the time that `columns` has read."""
    try:
        return to_time(fields[name])  # type: ignore[arg-type]  # then it is refused
    except (TypeError, OverflowError):
        raise InvalidSignal(name, None, "readable") from None
