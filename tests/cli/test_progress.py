"""The progress line: what waits, how long it takes, and when the next request may go."""

import riskbatch as rb
from riskbatch.cli.progress import Progress


def statistics(waiting: int = 0, **others: object) -> rb.Statistics:
    levels = {rb.RiskLevel.HIGH: 0, rb.RiskLevel.MEDIUM: 0, rb.RiskLevel.LOW: waiting}
    return rb.Statistics(waiting=waiting, waiting_by_level=levels, **{"limit": 30, "permits": 30, **others})


def line(progress: Progress, found: rb.Statistics, unread: float = 0.0, *, is_read: bool = True) -> str:
    return " | ".join(progress.parts(found, 0, unread, is_read=is_read, is_size_known=True, short=True))


def test_with_nothing_to_send_no_time_is_left():
    """A feed whose records are all refused has hours of bytes, and nothing that waits."""
    progress = Progress(rb.RateLimit())
    progress.look(0.0, statistics())

    assert "left" not in line(progress, statistics(), unread=0.0, is_read=False)


def test_the_time_left_is_that_of_what_waits():
    """1,800 signals are 90 requests: 30 now, 30 in a minute, 30 in two."""
    progress = Progress(rb.RateLimit())
    progress.look(0.0, statistics(1800))

    assert "2 min left" in line(progress, statistics(1800)) or "120 s left" in line(progress, statistics(1800))


def test_the_next_request_is_announced_when_no_permit_is_left():
    """It may go a period after the answer to the oldest request of the window."""
    progress = Progress(rb.RateLimit(2, 60.0))
    progress.look(0.0, statistics(100, requests=0))
    progress.look(10.0, statistics(60, requests=1, permits=1))
    progress.look(20.0, statistics(60, requests=2, permits=0))
    progress.look(63.0, statistics(60, requests=2, permits=0))

    assert "next request in 7 s" in line(progress, statistics(60, requests=2, permits=0))
    assert "next request" not in line(progress, statistics(60, requests=2, permits=1))
    assert "next request" not in line(progress, statistics(0, requests=2, permits=0))


def test_the_next_request_is_announced_while_the_server_says_to_wait():
    progress = Progress(rb.RateLimit())
    progress.look(0.0, statistics(10))

    assert "next request in 42 s" in line(progress, statistics(10, resumes_after=42.0))
