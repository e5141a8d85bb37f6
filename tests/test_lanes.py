"""A line of signals: its order whatever comes and goes, and what a long one is packed to."""

import gc
import math
import random
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riskbatch import lanes
from riskbatch.lanes import Entry, Lane
from riskbatch.receipts import Accepted, Expired
from riskbatch.signals import RiskLevel, RiskSignal

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LOW = RiskLevel.LOW

numbers = count(1)


def log_fields(entry):
    return (
        entry.signal,
        entry.number,
        entry.place,
        entry.admitted_at,
        entry.deadline,
        entry.row,
        entry.attempts,
        entry.may_have_arrived,
        entry.outcome,
    )


def entry(**changed):
    made = Entry(RiskSignal("192.0.2.1", LOW, timestamp=NOON), next(numbers), 0.0)
    for name, value in changed.items():
        setattr(made, name, value)
    return made


def stand(lane, signal, number, admitted_at, row=None):
    """Put a bare signal at the end of the line, as the queue does; or one that has a row."""
    lane.tail.places.append(number)
    lane.tail.times.append(admitted_at)
    lane.tail.cells.append(signal if row is None else (signal, row))
    lane.turn()


def pack(lane):
    while lane.packable:
        lane.pack(3)


def standing(lane):
    return [lane.get(place) for place in list(lane.places())]


@pytest.mark.parametrize("seed", range(8))
def test_a_lane_is_in_order_whatever_comes_and_goes_in_its_middle(seed, monkeypatch):
    """Runs are filled, packed, split and dropped; what is read is always what waits, in the order of the places."""
    monkeypatch.setattr(lanes, "_RUN", 4)
    rng = random.Random(seed)
    lane, model, out = Lane(LOW), [], []
    for _ in range(2000):
        what = rng.choice(["append", "stand", "stand", "merge", "pop", "pop", "first", "absent", "pack"])
        new = entry(deadline=rng.choice([None, 5.0]), admitted_at=float(rng.random()))
        if what == "append":
            lane.append(new)
            model.append(log_fields(new))
        elif what == "stand":
            new = Entry(new.signal, new.number, new.admitted_at, row=rng.choice([None, 7]))
            stand(lane, new.signal, new.number, new.admitted_at, new.row)
            model.append(log_fields(new))
        elif what == "merge":
            for back in [out.pop(rng.randrange(len(out))) for _ in range(min(len(out), rng.randint(0, 12)))]:
                back.attempts += 1
                lane.merge(back)
                model.append(log_fields(back))
            model.sort(key=lambda each: each[2])
        elif what == "absent" and out:
            gone = rng.choice(out).place
            assert lane.get(gone) is lane.pop(gone) is None
        elif what == "pop" and model:
            gone = model.pop(rng.randrange(len(model)))
            out.append(lane.pop(gone[2]))
            assert log_fields(out[-1]) == gone
        elif what == "first" and model:
            assert log_fields(lane.first) == model[0]
            out.append(lane.pop(model.pop(0)[2]))
        elif what == "pack":
            lane.pack(rng.randint(1, 3))
        assert list(lane.places()) == [each[2] for each in model]
        assert list(lane.signals()) == [each[0] for each in model]
        assert lane.size == len(model)
        assert lane.since == (model[0][3] if model else math.inf)
        assert all(run.places for run in lane._runs)
        if rng.random() < 0.1:
            assert [log_fields(each) for each in standing(lane)] == model


times = st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
signals = st.builds(
    RiskSignal,
    st.ip_addresses(),
    st.just(LOW),
    message=st.none() | st.just("Credential stuffing"),
    timestamp=times,
    expires_at=st.none() | times,
)
seconds = st.floats(0.0, 1e9)


@given(
    st.lists(
        st.tuples(
            signals,
            seconds,
            st.none() | seconds,
            st.none() | st.integers(1),
            st.integers(0, 99),
            st.booleans(),
            st.booleans(),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_packing_forgets_nothing(described):
    """What was packed is unpacked with the same signal, times, row and history; a signal alone stays one."""
    lane, kept = Lane(LOW), []
    for number, (signal, admitted_at, deadline, row, attempts, arrived, bare) in enumerate(described):
        made = Entry(signal, 2 * number, admitted_at)
        if bare and signal.expires_at is None:
            made.row = row
            stand(lane, signal, made.number, admitted_at, row)
        else:
            made.deadline, made.row, made.attempts, made.may_have_arrived = deadline, row, attempts, arrived
            made.place -= 1  # inherited
            lane.append(made)
        kept.append(log_fields(made))
    lane.tail.pack()
    assert not any(isinstance(fact, (Entry, RiskSignal)) for column in lane.tail.cells for fact in column)
    assert list(lane.signals()) == [signal for signal, *_ in described]
    lane.tail.unpack()
    assert [log_fields(each) for each in standing(lane)] == kept


def test_the_collector_overlooks_a_long_line():
    """What waits in a long line adds next to nothing to what the garbage collector walks through."""
    lane = Lane(LOW)
    gc.collect()
    before = len(gc.get_objects())
    for number in range(20_000):
        signal = RiskSignal(f"10.0.{number >> 8}.{number & 255}", LOW, timestamp=NOON + timedelta(seconds=number))
        if number % 2:
            stand(lane, signal, number, 0.0)
        else:
            lane.append(Entry(signal, number, 0.0, 60.0))
    del signal
    pack(lane)
    for _ in range(3):  # it lets go of a tuple once it has let go of all that is in it
        gc.collect()
    assert len(gc.get_objects()) - before < 20_000 / 10


def test_what_is_taken_out_of_a_packed_line_may_be_changed_there():
    """An entry that is looked at is the one that stands there, so that what is noted on it is not lost."""
    lane = Lane(LOW)
    for number in range(3 * lanes._RUN):
        stand(lane, RiskSignal("192.0.2.1", LOW), number, 0.0)
    pack(lane)
    lane.get(lanes._RUN + 1).row = 7
    pack(lane)
    assert lane.get(lanes._RUN + 1).row == 7
    assert lane.pop(lanes._RUN + 1).row == 7


def test_the_signals_of_a_subclass_are_kept_as_they_are():
    """A signal that may hold more than we know of is not packed."""

    class Sighting(RiskSignal):
        pass

    lane = Lane(LOW)
    mine = Sighting("192.0.2.1", LOW)
    stand(lane, mine, 1, 0.0)
    lane.append(Entry(mine, 2, 0.0, 5.0))
    lane.tail.pack()
    lane.tail.unpack()
    assert [each.signal is mine for each in standing(lane)] == [True, True]


def test_an_entry_is_settled_once():
    """A second outcome is a defect, and is refused; the first stays."""
    made = entry()
    made.settle(Accepted("first"))
    with pytest.raises(RuntimeError, match="already settled"):
        made.settle(Expired())
    assert made.outcome == Accepted("first")
    assert repr(made).endswith("LOW 192.0.2.1: Accepted(request_id='first')>")
