"""What damages a store's file, or takes it away: the rest is delivered, and nothing of it stands in a log."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from with_store import PYTHON, Accepting, Holding, in_file, ip, signals, soon

import riskbatch as rb
from riskbatch import cli
from riskbatch.stores.sqlite import admin, writer

SECRET = "203.0.113.99"


def client(path: Path, transport=None, **options) -> rb.Client:
    options = {"limit": rb.RateLimit(1000, 1.0), "linger": 0.0, "reserve": 0, "close_timeout": 5.0} | options
    store = options.pop("store", None) or rb.SqliteStore(path)
    return rb.Client("https://acme.okta.com", rb.ApiToken("t" * 20), store=store, transport=transport, **options)


async def fill(path: Path, left: list[rb.RiskSignal]) -> None:
    async with client(path, Holding(), close_timeout=0.0) as c:
        await c.enqueue_many(left)


async def drained(path: Path) -> list[str]:
    """Send what the file has, and return the addresses in their order."""
    accepting = Accepting()
    async with client(path, accepting) as c:
        assert await asyncio.wait_for(c.flush(20), 25) == 0
    return accepting.carried


def change(path: Path, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(sql, values)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "signals.db"


# -- damaged rows

DAMAGE = {
    "message no UTF-8": ("message", "message = CAST(x'41ff42' AS TEXT)"),
    "message with a bad character": ("message", f"message = 'a\nfrom {SECRET}'"),
    "ip a blob": ("ip", "ip = CAST(ip AS BLOB)"),
    "ip of nowhere": ("ip", "ip = '203.0.113.999'"),
    "timestamp infinite": ("timestamp", "timestamp = 9e999"),
    "timestamp text": ("timestamp", "timestamp = 'soon'"),
    "timestamp beyond all years": ("timestamp", "timestamp = 4611686018427387904"),
    "expires_at infinite": ("expires_at", "expires_at = -9e999"),
    "expires_at text": ("expires_at", f"expires_at = '{SECRET}'"),
    "expires_at a blob": ("expires_at", "expires_at = x'00'"),
    "enqueued_at infinite": ("enqueued_at", "enqueued_at = 9e999"),
    "attempts text": ("attempts", "attempts = 'three'"),
    "attempts infinite": ("attempts", "attempts = 9e999"),
    "may_have_arrived text": ("may_have_arrived", f"may_have_arrived = '{SECRET}'"),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_damaged_row_stops_no_other(path, caplog, capsys, damage):
    """One damaged row of 600 is reported by its number and field; the rest is delivered, at this start and the next."""
    field, sql = DAMAGE[damage]
    await fill(path, signals(600, message="seen", expires_at=soon(3600)))
    change(path, f"UPDATE signals SET {sql} WHERE ip = ?", ip(7))
    caplog.clear()
    rest = [ip(number) for number in range(600) if number != 7]
    assert [stored.signal.ip for stored in admin.ls(path)] == rest
    assert await asyncio.to_thread(cli.main, ["queue", "export", str(path)]) == 0
    assert capsys.readouterr().out.count("\n") == 599
    assert admin.stats(path).waiting[rb.RiskLevel.LOW] == 600
    assert await drained(path) == rest
    assert f"row 8 ({field})" in caplog.text
    for text in (SECRET, "203.0.113.999", ip(7), "three", "seen"):
        assert text not in caplog.text
    await fill(path, signals(10, start=2000))
    assert await drained(path) == [ip(2000 + number) for number in range(10)]
    assert len(in_file(path)) == 1


@pytest.mark.parametrize("key", ["id + (3 << 60)", "id - (4 << 60)", "-5", "0"])
async def test_a_damaged_key_stops_no_other(path, caplog, key):
    """A row whose number is of no level counts for nothing, even if it seems to expire or to be superseded."""
    await fill(path, signals(600, message="seen", expires_at=soon(3600)))
    change(path, f"UPDATE signals SET id = {key}, expires_at = 1 WHERE ip = ?", ip(300))
    caplog.clear()
    accepting = Accepting()
    async with client(path, accepting, coalesce=True) as c:
        await c.enqueue(signals(1, start=300)[0])
        assert await asyncio.wait_for(c.flush(20), 25) == 0
        assert (c.statistics().accepted, c.statistics().waiting) == (600, 0)
    assert sorted(accepting.carried) == sorted(ip(number) for number in range(600))
    assert in_file(path) == [ip(300)]
    assert ip(300) not in caplog.text


async def test_damaged_rows_are_passed_over_wherever_they_stand(path):
    """A thousand damaged rows in front of the good ones do not hide them, nor those that expire."""
    await fill(path, [*signals(1500, expires_at=soon(3600)), *signals(5, start=5000, expires_at=soon(3600))])
    change(path, "UPDATE signals SET timestamp = 'x' WHERE id IN (SELECT id FROM signals ORDER BY id LIMIT 1500)")
    change(path, "UPDATE signals SET expires_at = 1")
    settled = []
    async with client(path, Holding(), close_timeout=0.0, on_settled=settled.append) as c:
        for _ in range(300):
            await asyncio.sleep(0.01)
            if c.statistics().expired == 5:
                break
    assert [receipt.outcome for receipt in settled] == [rb.Expired()] * 5


async def test_without_its_state_a_file_is_sent_once(path):
    """A file that has lost the row of its state is sent, once, and what it held may have arrived."""
    for loss in ("DELETE FROM state", "UPDATE state SET suspect_until = 'x'", "INSERT INTO state VALUES ('y', 9e999)"):
        await fill(path, signals(30))
        change(path, loss)
        settled = []
        async with client(path, Holding(), close_timeout=0.0, on_settled=settled.append):
            pass
        assert len(settled) == 30
        if not loss.startswith("INSERT"):
            assert all(receipt.outcome.may_have_arrived for receipt in settled)
        assert await drained(path) == [ip(number) for number in range(30)]
        assert await drained(path) == []


def index_pages(path: Path, name: str) -> list[int]:
    with closing(sqlite3.connect(path)) as db:
        (root,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).fetchone()
    return [root]


async def test_a_damaged_index_is_made_anew(path, caplog):
    """If a page of an index is garbage, the file opens, its index is made anew, and each signal is sent once."""
    await fill(path, signals(3000, expires_at=soon(3600)))
    content = bytearray(path.read_bytes())
    for page in index_pages(path, "signals_by_expiry"):
        content[(page - 1) * 4096 : page * 4096] = b"\xa5" * 4096
    path.write_bytes(content)
    assert await drained(path) == [ip(number) for number in range(3000)]
    assert "indexes have been made anew" in caplog.text
    assert await drained(path) == []


async def test_an_index_that_misses_rows_is_made_anew(path):
    """If an index does not fit its table, what is settled leaves the file all the same, and is not sent again."""
    await fill(path, signals(30, expires_at=soon(3600)))
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        whole = db.execute("SELECT sql FROM sqlite_schema WHERE name = 'signals_by_expiry'").fetchone()[0]
        db.execute("PRAGMA writable_schema=ON")
        sql = "UPDATE sqlite_schema SET sql = ? WHERE name = 'signals_by_expiry'"
        db.execute(sql, (whole.replace("IS NOT NULL", "IS NULL"),))
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE signals SET expires_at = expires_at + 1 WHERE id & 1")
        db.execute("PRAGMA writable_schema=ON")
        db.execute(sql, (whole,))
    assert await drained(path) == [ip(number) for number in range(30)]
    assert await drained(path) == []
    assert in_file(path) == []


# -- the one owner


def copy_all(folder: Path, to: Path) -> None:
    shutil.copytree(folder, to)


def read_all(folder: Path, _: Path) -> None:
    for file in folder.iterdir():
        file.read_bytes()


def remove_the_lock(folder: Path, _: Path) -> None:
    (folder / "signals.db-lock").unlink()


OPEN = """
import asyncio, sys
import riskbatch as rb

async def main():
    await rb.SqliteStore(sys.argv[1]).open()

try:
    asyncio.run(main())
except rb.StoreError as error:
    print(error)
"""


async def other_process(path: Path) -> str:
    """Open the file in another process; return why that failed."""
    command = [sys.executable, "-c", OPEN, str(path)]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, env=PYTHON)
    out, _ = await process.communicate()
    return out.decode()


@pytest.mark.parametrize("how", [copy_all, read_all, remove_the_lock])
async def test_the_lock_withstands_backups_and_cleaners(tmp_path, how):
    """A backup or a read in the same process, or a cleaner, does not let a second owner in."""
    folder = tmp_path / "spool"
    folder.mkdir()
    path = folder / "signals.db"
    async with client(path, Holding(), close_timeout=0.0) as c:
        await c.enqueue(signals(1)[0])
        how(folder, tmp_path / "copy")
        for _ in range(2):
            with pytest.raises(rb.StoreError, match="in use"):
                await rb.SqliteStore(path).open()
        assert "signals.db is in use" in await other_process(path)
        await c.enqueue(signals(1)[0])
        assert f"in use by process {os.getpid()}" in await other_process(path)
    assert await other_process(path) == ""


async def test_a_removed_lock_file_is_made_again(path, monkeypatch):
    """A lock file that was removed is there again a moment later, though nothing is enqueued."""
    monkeypatch.setattr(writer, "_TIDY", 0.02)
    async with client(path, Holding(), close_timeout=0.0):
        lock = path.with_name("signals.db-lock")
        lock.unlink()
        for _ in range(200):
            await asyncio.sleep(0.01)
            if lock.exists():
                break
        assert f"in use by process {os.getpid()}" in await other_process(path)


async def test_a_forked_child_does_not_keep_the_lock(path):
    """The lock ends with the process that took it, though a child which that has forked lives on."""
    code = """
import asyncio, os, sys, time
import riskbatch as rb

async def main():
    await rb.SqliteStore(sys.argv[1]).open()
    if os.fork() == 0:
        time.sleep(60)
    os.write(1, b"open\\n")
    time.sleep(60)

asyncio.run(main())
"""
    process = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-W", "ignore", "-c", code, str(path)],
        stdout=subprocess.PIPE,
        env=PYTHON,
        start_new_session=True,
    )
    try:
        assert process.stdout.readline() == b"open\n"
        assert "in use" in await other_process(path)
        process.kill()
        process.wait()
        assert await other_process(path) == ""
    finally:
        os.killpg(process.pid, 9)
        process.stdout.close()


# -- the file is taken away


def removed(path: Path) -> None:
    path.unlink()


def moved(path: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))


def replaced(path: Path) -> None:
    shutil.copyfile(path, path.with_name("new.db"))
    path.with_name("new.db").rename(path)


def without_its_log(path: Path) -> None:
    path.with_name(f"{path.name}-wal").unlink()


@pytest.mark.parametrize("how", [removed, moved, replaced, without_its_log])
async def test_a_file_that_is_gone_acknowledges_nothing(path, how):
    """If the file is removed or replaced under the client, `enqueue` raises StoreError and admits nothing."""
    async with client(path, Holding(), close_timeout=0.0) as c:
        await c.enqueue(signals(1)[0])
        how(path)
        for one in signals(10, start=10):
            with pytest.raises(rb.StoreError, match="was removed or replaced"):
                await c.enqueue(one)
        with pytest.raises(rb.StoreError, match="was removed or replaced"):
            await c.enqueue_many(signals(10, start=50))
        assert c.statistics().admitted == 1


async def test_a_moved_file_has_one_owner_still(path):
    """Whoever opens the file under the name to which it was moved is refused; moved back, it goes on."""
    async with client(path, Holding(), close_timeout=0.0) as c:
        await c.enqueue(signals(1)[0])
        moved(path)
        assert "elsewhere.db is in use" in await other_process(path.with_name("elsewhere.db"))
        path.with_name("elsewhere.db").rename(path)
        await c.enqueue(signals(1, start=5)[0])
        assert in_file(path) == [ip(0), ip(5)]


# -- without locks


async def test_a_system_without_posix_locks_is_told_so(path):
    """Where there is no `fcntl`, the package imports, and a SqliteStore says plainly what it needs."""
    code = """
import asyncio, sys
sys.modules["fcntl"] = None
import riskbatch as rb

async def main():
    await rb.SqliteStore(sys.argv[1]).open()

try:
    asyncio.run(main())
except rb.StoreError as error:
    print(error)
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(path), stdout=subprocess.PIPE, env=PYTHON
    )
    out, _ = await process.communicate()
    assert out.decode().strip() == "a SqliteStore needs the file locks of a POSIX system"
    assert not path.exists()
