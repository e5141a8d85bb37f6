"""
What every store must do, as checks for one of your own:

    from riskbatch.stores import contract

    async def test_my_store(tmp_path):
        await contract.check(lambda place: MyStore(tmp_path / place))

They need nothing but a running event loop, and raise `AssertionError`. What they cannot tell is what only a crash
shows: that a signal is there once `add` has returned, and is `may_have_arrived` if the store was not closed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from ..errors import StoreError
from ..receipts import Receipt as Entry
from ..receipts import Accepted, Superseded
from ..signals import RiskLevel, RiskSignal
from . import Backlog, Store, Stored

Make: TypeAlias = Callable[[str], Store]
LONG_AGO = datetime(2001, 2, 3, 4, 5, 6, 789012, tzinfo=UTC)
HIGH, MEDIUM, LOW = RiskLevel


async def check(make: Make) -> None:
    """
    Check a store against every sentence of `Store`.

    Args:
        make: Returns a new store, not open, for a place; the same name is the same place, empty at first.

    Raises:
        AssertionError: It does otherwise; the message is the sentence that it breaks.
    """
    for each in (_keeps, _opens_for_one, _settles, _withdraws, _finds, _tells_what_is_due, _notes, _lets_succeed):
        try:
            await asyncio.wait_for(each(make, each.__name__.strip("_")), 60)
        except Exception as error:
            raise AssertionError(f"{each.__doc__} ({type(error).__name__}: {error})") from error


async def _keeps(make: Make, place: str) -> None:
    """What was added is there after the store was opened again, by level and oldest first, as it was."""
    store = make(place)
    _equal(_facts(await _open(store)), (0, {}, None))
    older = [_signal(1, HIGH, message="a message", expires_at=LONG_AGO + timedelta(days=9000)), _signal(2, LOW)]
    newer = [_signal(number, LOW, expires_at=LONG_AGO) for number in range(3, 9)]
    began = datetime.now(UTC)
    rows = [*await store.add(older), *await store.add(newer)]
    _equal(rows, sorted(set(rows)))
    _true(min(rows) > 0)
    await store.close()
    await store.close()
    _equal(_facts(await _open(store)), (rows[-1], {HIGH: 1, LOW: 7}, LONG_AGO))
    (high,) = await store.load(HIGH, 0, 10)
    _equal((high.signal, high.row, high.attempts, high.may_have_arrived), (older[0], rows[0], 0, False))
    _true(began - timedelta(seconds=1) <= high.enqueued_at <= datetime.now(UTC) + timedelta(seconds=1))
    lows = [older[1], *newer]
    _equal(_signals(await store.load(LOW, 0, 100)), lows)
    _equal(_signals(await store.load(LOW, 0, 3)), lows[:3])
    _equal(_signals(await store.load(LOW, rows[3], 3)), lows[3:6])
    _equal(_signals(await store.load(MEDIUM, 0, 10)), [])
    _equal(_signals(await store.load(HIGH, rows[0], 10)), [])
    _true(min(await store.add([_signal(9)])) > rows[-1])
    await store.close()


async def _opens_for_one(make: Make, place: str) -> None:
    """It has one owner at a time, and who does not own it gets a StoreError."""
    first, second = make(place), make(place)
    await _open(first)
    for refused in (second.open(by_address=False), first.open(by_address=False)):
        _true(await _raises(refused))
    await first.add([_signal(1)])
    await first.close()
    _true(await _raises(first.add([_signal(2)])))
    _equal((await _open(second)).waiting[HIGH], 1)
    second.abort()
    await second.close()


async def _settles(make: Make, place: str) -> None:
    """What is settled is gone."""
    await _open(store := make(place))
    entries = await _added(store, [_signal(number) for number in range(9)])
    for entry in entries[:5]:
        entry.settle(Accepted())
    store.settle(entries[:4])
    store.settle(entries[4:5])
    _equal(_signals(await store.load(HIGH, 0, 10)), [entry.signal for entry in entries[5:]])
    await store.close()
    _equal((await _open(store)).waiting[HIGH], 4)
    await store.close()


async def _withdraws(make: Make, place: str) -> None:
    """What is withdrawn is gone when the call returns, even if it is cancelled meanwhile."""
    await _open(store := make(place))
    signals = [_signal(number) for number in range(6)]
    rows = await store.add(signals)
    await store.withdraw(signals[:2], rows[:2])
    task = asyncio.ensure_future(store.withdraw(signals[2:4], rows[2:4]))
    await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    _equal(_signals(await store.load(HIGH, 0, 10)), signals[4:])
    await store.close()


async def _finds(make: Make, place: str) -> None:
    """Opened by address, it finds the signals for any of some addresses."""
    store = make(place)
    await store.open(by_address=True)
    signals = [_signal(1), _signal(2, LOW), _signal(2, HIGH), _signal(3)]
    await store.add(signals)
    found = await store.find([_signal(2).ip, _signal(3).ip, "192.0.2.1"])
    _equal(sorted(map(repr, _signals(found))), sorted(map(repr, signals[1:])))
    await store.close()


async def _tells_what_is_due(make: Make, place: str) -> None:
    """It tells what expires by a time, and when the first expires that does so later."""
    await _open(store := make(place))
    at = [LONG_AGO + timedelta(hours=hours) for hours in (5, 1, 3, 2)]
    signals = [_signal(number, expires_at=expires_at) for number, expires_at in enumerate(at)]
    await store.add([*signals, _signal(9)])
    due, later = await store.due(at[3], 10)
    _equal({stored.signal for stored in due}, {signals[1], signals[3]})
    _equal(later, at[2])
    _equal(len((await store.due(at[0], 3))[0]), 3)
    _equal((await store.due(at[0], 10))[1], None)
    await store.close()


async def _notes(make: Make, place: str) -> None:
    """What was tried, and whether it may have arrived, is remembered."""
    await _open(store := make(place))
    first, second = await _added(store, [_signal(1), _signal(2)])
    first.attempts, first.may_have_arrived = 3, True
    store.note([first])
    first.attempts = 4
    store.note([first, second])
    await store.close()
    await _open(store)
    noted = [(each.attempts, each.may_have_arrived) for each in await store.load(HIGH, 0, 10)]
    _equal(noted, [(4, True), (0, False)])
    await store.close()


async def _lets_succeed(make: Make, place: str) -> None:
    """Who succeeds another has its row, and so its place."""
    await _open(store := make(place))
    old, between, new, newest = await _added(store, [_signal(1), _signal(2), _signal(1), _signal(1)])
    for former, heir in ((old, new), (new, newest)):
        former.settle(Superseded(heir.signal))
        store.succeed(former, heir)
        heir.row = former.row
    newest.attempts = 7
    store.note([newest])
    await store.close()
    await _open(store)
    found = await store.load(HIGH, 0, 10)
    _equal([(each.row, each.attempts) for each in found], [(newest.row, 7), (between.row, 0)])
    newest.settle(Accepted())
    store.settle([newest])
    _equal([each.row for each in await store.load(HIGH, 0, 10)], [between.row])
    await store.close()


def _equal(found: object, expected: object) -> None:
    if found != expected:  # no `assert`, which `python -O` leaves out
        raise AssertionError(f"{found!r} is not {expected!r}")


def _true(found: bool) -> None:
    _equal(found, True)


def _signal(
    number: int, level: RiskLevel = HIGH, *, message: str | None = None, expires_at: datetime | None = None
) -> RiskSignal:
    return RiskSignal(f"10.0.0.{number}", level, message=message, timestamp=LONG_AGO, expires_at=expires_at)


async def _open(store: Store) -> Backlog:
    return await store.open(by_address=False)


async def _added(store: Store, signals: list[RiskSignal]) -> list[Entry]:
    rows = await store.add(signals)
    return [Entry(signal, row, 0.0, row=row) for signal, row in zip(signals, rows, strict=True)]


def _signals(found: Sequence[Stored]) -> list[RiskSignal]:
    return [stored.signal for stored in found]


def _facts(backlog: Backlog) -> tuple[int, dict[RiskLevel, int], datetime | None]:
    return backlog.newest, {level: n for level, n in backlog.waiting.items() if n}, backlog.next_expiry


async def _raises(refused: Awaitable[object]) -> bool:
    try:
        await refused
    except StoreError:
        return True
    return False
