"""Which signals share a payload, and how a refused one is taken apart."""

from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from budget import budget
from hypothesis import given, settings
from hypothesis import strategies as st

from riskbatch.batcher import Batch, split
from riskbatch.receipts import Receipt
from riskbatch.signals import RiskLevel, RiskSignal

profile = settings(max_examples=budget(20, 100), deadline=None, derandomize=True)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
numbers = count(1)


def entry(level="LOW", *, microseconds=0, expires_in=None):
    expires_at = None if expires_in is None else NOON + timedelta(microseconds=expires_in)
    signal = RiskSignal(
        "192.0.2.1", level, timestamp=NOON + timedelta(microseconds=microseconds), expires_at=expires_at
    )
    return Receipt(signal, next(numbers), 0.0, None)


def filled(subjects_per_event, entries):
    batch = Batch(subjects_per_event)
    for each in entries:
        assert batch.add(each)
    return batch


entries = st.builds(
    entry,
    st.sampled_from(list(RiskLevel)),
    microseconds=st.sampled_from([0, 1, 999, 1000, 2000]),
    expires_in=st.sampled_from([None, None, 500, 10_000_000]),
)


@given(st.lists(entries, max_size=150), st.sampled_from([1, 2, 3, 50]))
@profile
def test_a_batch_keeps_every_limit_and_every_receipt(arriving, subjects_per_event):
    """At most 20 events, at most so many signals an event, all of one millisecond and expiry; order is kept."""
    batch = Batch(subjects_per_event)
    added = [each for each in arriving if batch.add(each)]
    assert batch.receipts == added
    assert len(batch.events) <= 20
    assert sorted(map(id, (signal for event in batch.events for signal in event))) == sorted(
        id(each.signal) for each in added
    )
    position = {id(each.signal): n for n, each in enumerate(added)}
    for event in batch.events:
        assert 1 <= len(event) <= subjects_per_event
        assert len({(s.to_json()["timestamp"], s.to_json().get("expiresAt")) for s in event}) == 1
        assert [position[id(s)] for s in event] == sorted(position[id(s)] for s in event)
    firsts = [position[id(event[0])] for event in batch.events]
    assert firsts == sorted(firsts)
    if len(added) < len(arriving):
        assert batch.slots.is_full()
    assert batch.slots.is_full() == (len(batch.events) == 20)


def test_a_payload_has_twenty_events_and_not_one_more():
    """The 21st signal does not fit, and refusing it changes nothing."""
    batch = filled(1, [entry() for _ in range(19)])
    assert not batch.slots.is_full()
    assert batch.add(entry())
    assert batch.slots.is_full()
    late = entry()
    assert not batch.add(late)
    assert late not in batch.receipts
    assert len(batch.events) == 20


def test_signals_share_no_event_unless_asked_to():
    """One signal an event is the default, and a batch is no probe by itself."""
    batch = Batch()
    assert batch.add(entry())
    assert batch.add(entry())
    assert [len(event) for event in batch.events] == [1, 1]
    assert not batch.is_probe


def test_signals_of_one_millisecond_and_expiry_share_an_event():
    """What Okta would see as equal times share an event, and what differs by a millisecond or in expiry does not."""
    same = [entry(microseconds=0), entry(microseconds=999)]
    other = [entry(microseconds=1000), entry(expires_in=1000), entry(expires_in=2000)]
    batch = filled(50, [*same, *other])
    assert [len(event) for event in batch.events] == [2, 1, 1, 1]


@pytest.mark.parametrize("subjects_per_event", [1, 7, 50])
def test_a_full_event_is_followed_by_another_of_the_same_times(subjects_per_event):
    """An event takes as many signals as allowed; the next one opens a new event."""
    batch = Batch(subjects_per_event)
    while batch.add(entry()):
        pass
    assert {len(event) for event in batch.events} == {subjects_per_event}
    assert len(batch.receipts) == 20 * subjects_per_event


def test_a_full_batch_still_takes_what_shares_an_event():
    """When all events are begun, a signal rides only where its own times already are."""
    batch = filled(2, [entry(microseconds=1000 * n) for n in range(20)])
    assert batch.slots.is_full()
    assert not batch.add(entry(microseconds=99_000))
    assert batch.add(entry(microseconds=5000))
    assert not batch.add(entry(microseconds=5000))


def test_indices_that_a_server_names_find_their_receipts():
    """`(event, subject)` is one entry, `(event, None)` all of its event; each once, in the order of naming."""
    first, second, alone = entry(), entry(), entry(microseconds=5000)
    batch = filled(2, [first, second, alone])
    assert batch.named([(1, None)]) == [alone]
    assert batch.named([(0, 1)]) == [second]
    assert batch.named([(0, None)]) == [first, second]
    assert batch.named([(1, 0), (0, 1), (0, None), (1, None)]) == [alone, second, first]
    assert batch.named([]) == []


@pytest.mark.parametrize("lie", [(2, None), (2, 0), (999, 999), (0, 2), (1, 1), (-1, None), (-1, 0), (0, -1), (0, -2)])
def test_indices_that_are_not_in_the_batch_are_passed_over(lie):
    """A server may name anything; what is not there is nobody."""
    batch = filled(2, [entry(), entry(), entry(microseconds=5000)])
    assert batch.named([lie]) == []


@given(st.lists(entries, min_size=2, max_size=80))
@profile
def test_splitting_makes_progress_and_loses_nobody(refused):
    """Every piece is smaller than the whole, has one level, and all are together what was split."""
    pieces = split(refused)
    assert len(pieces) >= 2
    assert all(0 < len(piece) < len(refused) for piece in pieces)
    assert all(len({each.signal.risk_level for each in piece}) == 1 for piece in pieces)
    assert sorted(each.sequence for piece in pieces for each in piece) == sorted(each.sequence for each in refused)
    for piece in pieces:
        assert piece == [each for each in refused if each in piece]


@given(st.lists(entries, min_size=1, max_size=60), st.sampled_from([1, 3, 50]))
@profile
def test_every_piece_of_a_batch_fits_a_payload(arriving, subjects_per_event):
    """A piece of what fitted fits, down to single signals, so that no suspect is left over."""
    batch = Batch(subjects_per_event)
    whole = [each for each in arriving if batch.add(each)]
    pieces = [whole]
    probes = 0
    while pieces:
        piece = pieces.pop()
        filled(subjects_per_event, piece)
        probes += 1
        if len(piece) > 1:
            pieces += split(piece)
    assert probes <= 2 * len(whole) + 2


def test_a_batch_of_one_level_is_split_in_the_middle():
    """Halving finds one bad signal among twenty in a few requests."""
    refused = [entry("HIGH") for _ in range(5)]
    assert split(refused) == [refused[:2], refused[2:]]


def test_a_batch_of_several_levels_is_split_where_the_level_changes():
    """A probe never carries a LOW while somebody's HIGH waits."""
    highs, low = [entry("HIGH"), entry("HIGH")], entry("LOW")
    assert split([*highs, low]) == [highs, [low]]
