"""The file itself: what is refused, who may read it, and its versions."""

import os
import sqlite3
import stat
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from with_store import Holding, client, ip, leave, signals

import riskbatch as rb
from riskbatch.emulator import OktaEmulator
from riskbatch.stores.sqlite import admin, rows
from riskbatch.stores.sqlite import file as sqlite_file


@pytest.fixture
async def okta():
    async with OktaEmulator(limit=30, period=1.0) as okta:
        yield okta


@pytest.fixture
def path(tmp_path):
    return tmp_path / "signals.db"


def other_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE t (a)")


def later_version(path: Path) -> None:
    sqlite_file.create(str(path))
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=99")


def torn(path: Path) -> None:
    sqlite_file.create(str(path))
    with closing(sqlite3.connect(path)) as db, db:
        rows.insert(db, list(enumerate(signals(200, message="m" * 500), 1)))
    content = bytearray(path.read_bytes())
    content[8192:20000] = b"\xa5" * (20000 - 8192)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: path.write_text("some notes\n" * 100), "not a store of riskbatch"),
        (other_database, "another SQLite database"),
        (later_version, "has version 99"),
        (torn, "is damaged"),
    ],
)
async def test_a_file_that_is_no_store_is_refused_and_untouched(path, make, why):
    """A foreign, damaged or later file is refused with its name, and not one byte of it changes."""
    make(path)
    before, threads = path.read_bytes(), threading.active_count()
    store = rb.SqliteStore(path)
    with pytest.raises(rb.StoreError, match=rf"signals\.db .*{why}"):
        await store.open()
    assert path.read_bytes() == before
    assert threading.active_count() <= threads


async def test_a_place_that_cannot_be_written_is_a_store_error(tmp_path):
    """A folder that is not there, or that is no place for files, raises StoreError with its name."""
    for place in (tmp_path / "nowhere" / "signals.db", Path("/proc/signals.db")):
        with pytest.raises(rb.StoreError, match=str(place)):
            await rb.SqliteStore(place).open()


async def test_a_file_with_two_names_is_refused(okta, path, tmp_path):
    """A file with a hard link is refused: by the other name, it could have two senders."""
    await leave(okta, path, signals(3))
    os.link(path, tmp_path / "other.db")
    for name in (path, tmp_path / "other.db"):
        with pytest.raises(rb.StoreError, match=rf"{name.name} has another name"):
            await rb.SqliteStore(name).open()
    for name in ("/dev/null", tmp_path):
        with pytest.raises(rb.StoreError, match="not a regular file"):
            await rb.SqliteStore(name).open()
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


async def test_operators_read_where_they_may_not_write(okta, path, monkeypatch):
    """A file in a folder that may only be read can be looked at all the same, without writing beside it."""
    await leave(okta, path, signals(3))
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    assert [waiting.signal.ip for waiting in admin.ls(path)] == [ip(0), ip(1), ip(2)]
    assert admin.stats(path).waiting[rb.RiskLevel.LOW] == 3
    assert sorted(file.name for file in path.parent.iterdir()) == ["signals.db", "signals.db-lock"]


async def test_a_read_only_file_is_a_store_error(path, monkeypatch):
    """A file that may only be read is refused when the client is opened, not when the first signal comes."""
    sqlite_file.create(str(path))
    real = sqlite3.connect

    def read_only(name, **options):
        return real(name if "uri" in options else f"file:{name}?mode=ro", **(options | {"uri": True}))

    monkeypatch.setattr(sqlite3, "connect", read_only)
    with pytest.raises(rb.StoreError, match="readonly"):
        await rb.SqliteStore(path).open()


DATA = Path(__file__).parents[1] / "data"


def schema(path: Path) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return sorted(db.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema").fetchall())


@pytest.mark.parametrize("version", range(1, sqlite_file.VERSION + 1))
async def test_a_file_of_each_version_is_brought_up(path, tmp_path, version):
    """A file of each version, as it was written then, opens with its signals, and is then like a new one."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript((DATA / f"store-v{version}.sql").read_text())
    assert [waiting.signal.ip for waiting in admin.ls(path)] == ["2001:db8::1", "10.0.0.1"]  # before it is brought up
    store = rb.SqliteStore(path)
    for _ in range(2):
        assert (await store.open()).waiting == {rb.RiskLevel.HIGH: 1, rb.RiskLevel.MEDIUM: 0, rb.RiskLevel.LOW: 1}
        (high,) = (await store.load(rb.RiskLevel.HIGH, 0, 100, 10)).signals
        seen = datetime(2026, 5, 17, 1, 2, 3, 456789, tzinfo=UTC)
        assert high.signal == rb.RiskSignal("2001:db8::1", "HIGH", message="a message", timestamp=seen)
        await store.close()
    sqlite_file.create(str(tmp_path / "new.db"))
    assert schema(path) == schema(tmp_path / "new.db")
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == sqlite_file.VERSION


async def test_a_migration_that_fails_changes_nothing(path, monkeypatch):
    """If a file cannot be brought up, it is refused, and stays as it was for the version that wrote it."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript((DATA / "store-v1.sql").read_text())
    before = schema(path)
    monkeypatch.setattr(sqlite_file, "MIGRATIONS", {1: "DROP TABLE settled; SELECT * FROM nowhere"})
    with pytest.raises(rb.StoreError, match="nowhere"):
        await rb.SqliteStore(path).open()
    assert schema(path) == before
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == 1


async def test_nobody_else_can_read_the_files(okta, path):
    """The file, its log and its index have mode 0600, and no credentials are in any of them."""
    old = os.umask(0)
    try:
        async with client(okta, rb.SqliteStore(path), transport=Holding(), close_timeout=0) as c:
            await c.enqueue_many(signals(10))
            files = list(path.parent.glob("signals.db*"))
            assert {file.name.removeprefix("signals.db") for file in files} == {"", "-wal", "-shm", "-lock"}
            for file in files:
                assert stat.S_IMODE(file.stat().st_mode) == 0o600
                assert okta.token.encode() not in file.read_bytes()
    finally:
        os.umask(old)


def test_arguments_that_cannot_work_are_refused(monkeypatch):
    """A store's arguments, what is no store, and an SQLite that is too old, are refused at once."""
    with pytest.raises(rb.ConfigurationError, match="synchronous"):
        rb.SqliteStore("x", synchronous="OFF")
    with pytest.raises(rb.ConfigurationError, match="keep_settled"):
        rb.SqliteStore("x", keep_settled=timedelta(0))
    with pytest.raises(rb.ConfigurationError, match="store"):
        rb.Client("https://acme.okta.com", rb.ApiToken("t" * 20), store="signals.db")
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 31, 1))
    with pytest.raises(rb.ConfigurationError, match=r"needs SQLite 3\.33\.0; this Python has"):
        rb.SqliteStore("x")
