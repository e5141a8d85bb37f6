"""Recorded feeds, as `queue import` and `simulate --replay` read them."""

import json
import tracemalloc

from riskbatch.cli.recorded import recorded

SIGNAL = {"ip": "10.0.0.1", "riskLevel": "LOW", "timestamp": "2026-01-01T00:00:00Z"}


def test_a_file_of_refused_records_is_read_by_their_originals(tmp_path, capsys):
    """What `send --rejected` writes is a feed for the other commands too."""
    path = tmp_path / "bad.jsonl"
    line = {"line": 1, "record": 1, "outcome": "unsent", "reason": "interrupted", "original": SIGNAL}
    path.write_text(f"{json.dumps(line)}\n{json.dumps({**line, 'original': 'oops'})}\n")

    assert [signal.ip for signal in recorded(str(path))] == ["10.0.0.1"]
    assert "1 record of" in capsys.readouterr().err


def test_a_recorded_feed_is_not_held_in_memory(tmp_path):
    path = tmp_path / "feed.jsonl"
    path.write_text(f"{json.dumps(SIGNAL)}{' ' * 10_000}\n" * 500)
    tracemalloc.start()
    try:
        count = sum(1 for _ in recorded(str(path)))
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert count == 500
    assert most < 1_000_000
