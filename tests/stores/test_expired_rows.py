"""What of a file is on disk only, beside a file that answers as the test says."""

import asyncio
from datetime import UTC, datetime, timedelta

import riskbatch as rb
from riskbatch.stores import StoredSignal
from riskbatch.stores.sqlite.backlog import Backlog

LATER = datetime.now(UTC) + timedelta(hours=1)


class File:
    """Has one row, which comes in while the file is read for what has expired."""

    def __init__(self):
        self.signal = rb.RiskSignal("192.0.2.1", "LOW", expires_at=LATER)
        self.meanwhile = None

    async def add(self, signals):
        return range(1, 1 + len(signals))

    async def due(self, until, limit):
        self.meanwhile()
        return [StoredSignal(1, self.signal, datetime.now(UTC), 0, False)], None


async def test_what_comes_in_while_the_file_is_read_for_expired_rows_is_not_settled_for_them_too():
    """It may have been settled as expired when it came in; if it waits on disk, it is looked for again at once."""
    file = File()
    backlog = Backlog(file)
    rows = await backlog.add([file.signal])
    file.meanwhile = lambda: backlog.come_in(rows)
    assert await backlog.due() == []
    assert sum(backlog.on_disk.values()) == 0
    assert backlog.expires_at <= asyncio.get_running_loop().time() + 1
    file.meanwhile = lambda: None
    backlog.on_disk[rb.RiskLevel.LOW] += 1  # as if it had stayed on disk
    assert [receipt.signal for receipt in await backlog.due()] == [file.signal]
    assert sum(backlog.on_disk.values()) == 0
