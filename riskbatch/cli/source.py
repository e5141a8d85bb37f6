"""The bytes of a file or of standard input."""

import asyncio
import hashlib
import os
import stat
import threading
from contextlib import suppress

import riskbatch as rb

READ = 64 * 1024  # bytes a read; rows without a time share one timestamp in it, so that they fill events


class Source:
    """
    Opens *name*, which is standard input if it is `-`.

    Attributes:
        name: For people.
        size: In bytes; `None` if it is not known, as with a pipe.
        taken: Bytes read so far.
        hash: Of these.

    Raises:
        OSError: It cannot be read.
    """

    def __init__(self, name: str) -> None:
        self.name: str = "standard input" if name == "-" else name
        self._fd = 0 if name == "-" else os.open(name, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            state = os.fstat(self._fd)
        except OSError as error:  # closed by `<&-`
            raise OSError(error.errno, error.strerror, self.name) from None
        if stat.S_ISDIR(state.st_mode):
            self.close()
            raise IsADirectoryError(21, "Is a directory", self.name)
        self.size: int | None = state.st_size if stat.S_ISREG(state.st_mode) else None
        self.taken: int = 0
        self.hash = hashlib.sha256()
        self._state = state

    def close(self) -> None:
        """Close it, unless it is standard input."""
        if self._fd:
            os.close(self._fd)

    def rewind(self) -> None:
        """Read a file from its beginning again."""
        os.lseek(self._fd, 0, os.SEEK_SET)
        self.taken = 0
        self.hash = hashlib.sha256()

    def is_terminal(self) -> bool:
        """Tell whether somebody types it."""
        return os.isatty(self._fd)

    def refuse_to_be(self, option: str, name: str) -> None:
        """Raise ConfigurationError if *name*, given for *option*, is this very file, which would be overwritten."""
        with suppress(FileNotFoundError):
            if os.path.samestat(self._state, os.stat(name)) and self.size is not None:
                raise rb.ConfigurationError(f"{option} {name} is the file that is sent; name another one")

    def read_now(self) -> bytes:
        """Return the next bytes, none at the end; waits for them as long as it takes."""
        try:
            chunk = os.read(self._fd, READ)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.name) from None
        self.taken += len(chunk)
        self.hash.update(chunk)
        return chunk

    async def read(self) -> bytes:
        """
        Return the next bytes as soon as there are any; none at the end.

        A daemon thread waits for them, since neither the event loop nor the end of the process may: a pipe can be
        silent for hours.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes | OSError] = loop.create_future()

        def settle(result: bytes | OSError) -> None:
            if not answer.done():
                answer.set_result(result)

        def read() -> None:
            result: bytes | OSError
            try:
                result = self.read_now()
            except OSError as error:
                result = error
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, result)

        threading.Thread(target=read, name=f"reads {self.name}", daemon=True).start()
        result = await answer
        if isinstance(result, OSError):
            raise result
        return result
