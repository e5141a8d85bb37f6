"""What operators do with a file: list, count, export, import and drop."""

import asyncio
import os
from datetime import timedelta

import pytest
from with_store import Accepting, Holding, client, in_file, ip, leave, signals, soon

import riskbatch as rb
from riskbatch import cli
from riskbatch.emulator import OktaEmulator
from riskbatch.stores.sqlite import admin


@pytest.fixture
async def okta():
    async with OktaEmulator(limit=30, period=1.0) as okta:
        yield okta


@pytest.fixture
def path(tmp_path):
    return tmp_path / "signals.db"


async def test_operators_read_while_a_client_runs(okta, path):
    """A running client's file can be listed, counted and exported; changing it is refused."""
    until = soon(3600)
    sent = [*signals(3), *signals(2, "HIGH", 100, expires_at=until, message="m")]
    async with client(okta, rb.SqliteStore(path), transport=Holding(), close_timeout=0) as c:
        await c.enqueue_many(sent)
        listed = list(admin.ls(path))
        assert [waiting.signal for waiting in listed] == [*sent[3:], *sent[:3]]
        assert [w.signal for w in admin.ls(path, rb.RiskLevel.HIGH)] == sent[3:]
        numbers = admin.stats(path)
        assert numbers.waiting == {rb.RiskLevel.HIGH: 2, rb.RiskLevel.MEDIUM: 0, rb.RiskLevel.LOW: 3}
        assert set(numbers.oldest) == {rb.RiskLevel.HIGH, rb.RiskLevel.LOW}
        assert (numbers.expired, numbers.settled, numbers.owner) == (0, {}, os.getpid())
        assert numbers.size > 0
        assert list(admin.export_signals(path)) == [waiting.signal.to_json() for waiting in listed]
        for change in (lambda: admin.drop(path), lambda: admin.import_signals(path, sent)):
            with pytest.raises(rb.StoreError, match="in use"):
                change()
    assert admin.stats(path).owner is None
    assert len(in_file(path)) == 5


async def test_operators_import_and_drop(okta, path):
    """What is imported is sent by the next client, behind what waited; what is dropped is not."""
    await leave(okta, path, signals(5))
    assert admin.import_signals(path, signals(2500, start=10)) == 2500
    listed = [waiting.row for waiting in admin.ls(path)]
    assert len(listed) == 2505
    assert admin.drop(path, row=listed[0]) == 1
    assert admin.drop(path, level=rb.RiskLevel.HIGH) == 0
    assert admin.drop(path, level=rb.RiskLevel.LOW, before=soon(-3600)) == 0
    accepting = Accepting()
    async with client(okta, rb.SqliteStore(path), transport=accepting, limit=rb.RateLimit(1000, 1.0)) as c:
        assert await c.flush(20) == 0
    assert accepting.carried == [ip(i) for i in [1, 2, 3, 4, *range(10, 2510)]]
    assert admin.import_signals(path, signals(3)) == 3
    assert admin.drop(path) == 3
    with pytest.raises(rb.InvalidSignal):
        admin.import_signals(path, ["no signal"])
    empty = path.stat().st_size
    admin.import_signals(path, signals(5000, message="m" * 200))
    admin.drop(path)
    assert path.stat().st_size <= empty, "what is dropped gives its room back"


async def test_operators_see_outcomes(okta, path, capsys):
    """With `keep_settled`, operators see how signals ended, so that "was it sent?" has an answer."""
    async with client(okta, rb.SqliteStore(path, keep_settled=timedelta(days=1))) as c:
        receipt = await c.enqueue(signals(1, "MEDIUM")[0])
        outcome = await receipt
    (ended,) = admin.settled(path)
    assert (ended.signal, ended.outcome, ended.detail) == (
        receipt.signal,
        "Accepted",
        {"request_id": outcome.request_id},
    )
    assert admin.stats(path).settled == {"Accepted": 1}
    assert await asyncio.to_thread(cli.main, ["queue", "ls", str(path), "--settled"]) == 0
    assert f"Accepted   MEDIUM {ip(0)}" in capsys.readouterr().out


def test_operators_are_told_what_is_no_store(tmp_path):
    """A file that is not there, or is no store, is a StoreError that names it, and none is made."""
    (tmp_path / "notes.txt").write_text("notes")
    for name in ("nothing.db", "notes.txt"):
        with pytest.raises(rb.StoreError, match=name):
            list(admin.ls(tmp_path / name))
    assert not (tmp_path / "nothing.db").exists()
