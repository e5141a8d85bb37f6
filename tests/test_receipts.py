"""The promise that one signal will be settled, and who may wait for it how."""

import asyncio
import copy
import pickle
import threading
from typing import get_args

import pytest

from riskbatch import WrongLoop
from riskbatch.receipts import Abandoned, Accepted, Expired, Outcome, Receipt, Rejected, Shed, Superseded
from riskbatch.signals import RiskSignal

SIGNAL = RiskSignal("192.0.2.1", "HIGH", message="Credential stuffing")
OUTCOMES = [
    Accepted("id"),
    Rejected("bad ip", "E0000001", 400, "id"),
    Expired(),
    Shed(),
    Superseded(SIGNAL),
    Abandoned("closed", may_have_arrived=True),
]


def receipt(loop=None):
    return Receipt(SIGNAL, 1, 0.0, loop or asyncio.get_running_loop())


def settle(promise, outcome):
    promise.settle(outcome)


async def turns(times=5):
    for _ in range(times):
        await asyncio.sleep(0)


@pytest.mark.parametrize("outcome", OUTCOMES)
async def test_awaiting_gives_the_outcome(outcome):
    """`await receipt` returns how the signal ended, whichever way that was; it does not raise."""
    promise = receipt()
    assert not promise.done()
    assert promise.outcome is None
    asyncio.get_running_loop().call_later(3600, settle, promise, outcome)
    assert await promise is outcome
    assert promise.done()


def test_outcomes_are_a_closed_set_of_values():
    """The six outcomes are frozen values that compare, hash, copy and pickle."""
    assert {type(outcome) for outcome in OUTCOMES} == set(get_args(Outcome))
    for outcome in OUTCOMES:
        assert copy.copy(outcome) == outcome == pickle.loads(pickle.dumps(outcome))
        assert hash(outcome) == hash(copy.deepcopy(outcome))
        with pytest.raises(AttributeError):
            outcome.other = 1
        field = outcome.__attrs_attrs__[0].name
        with pytest.raises(AttributeError):
            setattr(outcome, field, None)
    assert len(set(OUTCOMES)) == len(OUTCOMES)


async def test_many_may_wait_for_one_receipt():
    """Any number of tasks may wait, and all get the same outcome."""
    promise = receipt()
    waits = [asyncio.ensure_future(promise) for _ in range(100)]
    await turns()
    settle(promise, Accepted("id"))
    assert await asyncio.gather(*waits) == [Accepted("id")] * 100


async def test_a_settled_receipt_can_be_awaited_again():
    """Waiting after the fact returns at once, as often as one likes."""
    promise = receipt()
    settle(promise, Shed())
    assert [await promise, await promise] == [Shed(), Shed()]


async def test_cancelling_a_wait_recalls_nothing_and_wakes_nobody_else():
    """A cancelled wait leaves the receipt, the other waits and no trace of itself."""
    promise = receipt()
    stays, leaves = asyncio.ensure_future(promise), asyncio.ensure_future(promise)
    await turns()
    leaves.cancel()
    await turns()
    assert leaves.cancelled()
    assert not stays.done()
    assert not promise.done()
    assert len(promise._waiters) == 1
    lonely = receipt()
    wait = asyncio.ensure_future(lonely)
    await turns()
    wait.cancel()
    await turns()
    assert not lonely._waiters
    settle(promise, Accepted())
    assert await stays == Accepted()


async def test_a_wait_cancelled_in_the_very_turn_of_settling_is_cancelled():
    """Settling and cancelling at once loses neither the outcome nor the cancellation."""
    promise = receipt()
    wait = asyncio.ensure_future(promise)
    await turns()
    settle(promise, Accepted())
    wait.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wait
    other = receipt()
    wait = asyncio.ensure_future(other)
    await turns()
    wait.cancel()
    settle(other, Accepted())  # before the cancelled wait has run
    with pytest.raises(asyncio.CancelledError):
        await wait
    assert await promise == await other == Accepted()


async def test_nobody_who_waited_leaves_a_trace():
    """A settled or cancelled wait is forgotten, so that receipts held for long weigh what they did at first."""
    promise = receipt()
    waits = [asyncio.ensure_future(promise) for _ in range(3)]
    await turns()
    waits[0].cancel()
    await turns()
    settle(promise, Shed())
    await turns()
    assert not promise._waiters
    assert [wait.cancelled() or wait.result() for wait in waits] == [True, Shed(), Shed()]


async def test_whoever_comes_to_wait_when_it_is_settled_does_not_wait():
    """A thread that saw it unsettled may arrive on the loop when it is."""
    promise, waiter = receipt(), asyncio.get_running_loop().create_future()
    settle(promise, Shed())
    promise._add_waiter(waiter)
    assert waiter.done()


async def test_a_receipt_is_settled_once():
    """A second outcome would be a defect, and changes nothing."""
    promise = receipt()
    settle(promise, Accepted("first"))
    with pytest.raises(RuntimeError, match="already settled"):
        settle(promise, Shed())
    assert promise.outcome == Accepted("first")


async def test_the_tools_of_asyncio_take_a_receipt():
    """A receipt is an awaitable: wait_for, gather, shield and ensure_future work with it."""
    promise, other = receipt(), receipt()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(promise, 5)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(promise), 5)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await promise
    assert not promise.done()
    loop = asyncio.get_running_loop()
    loop.call_later(1, settle, promise, Accepted("1"))
    loop.call_later(2, settle, other, Accepted("2"))
    assert await asyncio.gather(promise, other, promise) == [Accepted("1"), Accepted("2"), Accepted("1")]
    assert await asyncio.wait_for(asyncio.shield(promise), 5) == Accepted("1")


async def test_create_task_asks_for_a_coroutine():
    """`create_task` takes coroutines only; `ensure_future` is the way to a task that waits for a receipt."""
    with pytest.raises(TypeError, match="coroutine"):
        await asyncio.create_task(receipt())


def test_another_loop_is_told_so():
    """Waiting on a loop that nothing would ever wake raises instead of hanging."""
    home = asyncio.new_event_loop()
    promise = receipt(home)

    async def wait():
        return await promise

    elsewhere = asyncio.new_event_loop()
    try:
        with pytest.raises(WrongLoop, match="event loop"):
            elsewhere.run_until_complete(wait())
        settle(promise, Accepted())
        assert elsewhere.run_until_complete(wait()) == Accepted(), "what is settled may be read anywhere"
    finally:
        home.close()
        elsewhere.close()


async def test_another_thread_is_told_so():
    """Waiting in a thread without a loop raises `WrongLoop`, which is a RuntimeError."""
    promise = receipt()
    caught = []

    def wait():
        try:
            promise.__await__().send(None)
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join()
    assert [type(error) for error in caught] == [WrongLoop]


async def test_a_receipt_shows_its_signal_and_its_state_but_no_message():
    """The repr is one short line for logs; the message, which says why, stays out of it."""
    promise = receipt()
    assert repr(promise) == "<Receipt HIGH 192.0.2.1: unsettled>"
    settle(promise, Accepted("id"))
    assert repr(promise) == "<Receipt HIGH 192.0.2.1: Accepted(request_id='id')>"


async def test_a_receipt_takes_no_other_attributes():
    """A hundred thousand receipts wait at once, so they have slots."""
    with pytest.raises(AttributeError):
        receipt().other = 1
