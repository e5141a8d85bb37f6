"""Why sending is slowed down or stopped, and when to try again. Pure: instants are arguments, in seconds."""

from attrs import frozen


@frozen
class Trouble:
    """
    Why sending is slowed down or stopped.

    Attributes:
        reason: In the server's words where it had any.
        denied: Everything stops but one probe at a time, because a person must fix something. Otherwise a HIGH that
            is ready still goes.
        failures: In a row.
        until: When the next try is due, on the loop clock.
        known_at: When the last failure came; an answer to an older request says nothing new.
        began_at: When the first of them came.
    """

    reason: str
    denied: bool
    failures: int
    until: float
    known_at: float
    began_at: float


def backoff(failures: int, first: float, most: float, jitter: float) -> float:
    """
    Return the seconds to wait after the *failures*-th failure in a row: full jitter over a doubling span.

    Args:
        failures: From 1.
        first: The span after the first failure, in seconds.
        most: The longest span, in seconds.
        jitter: From 0 to 1, evenly drawn, so that many clients do not come back at once.
    """
    return float(min(most, first * 2.0 ** min(failures - 1, 60)) * jitter)
