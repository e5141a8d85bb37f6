"""
Where signals wait so that they outlive the process: a file, or a fleet.

A client without a store keeps its signals in memory. With one, `await enqueue` returns when the store has the signal,
and what a former process left there is sent first. Internal: stores of other people are not supported before 1.0.
"""

from datetime import datetime

from attrs import frozen

from ..signals import RiskSignal


@frozen
class StoredSignal:
    """
    One signal as a store has it.

    Attributes:
        row: Its number in the store: positive, unique, and larger than that of every signal added before. Within a
            level, rows ascend in the order of sending.
        signal: Equal to the one that was added, timestamps to the microsecond.
        enqueued_at: When it was added.
        attempts: As last noted: how many requests are known to have carried it.
        may_have_arrived: As last noted; true of all that an owner left behind which did not close the store.
    """

    row: int
    signal: RiskSignal
    enqueued_at: datetime
    attempts: int
    may_have_arrived: bool
