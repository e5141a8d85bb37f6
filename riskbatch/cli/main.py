"""
The command line: which commands there are, and how a command is found, run and ended.

Each command is a module with `HELP` (its line in the list of commands), `add_options` and `run`. A module is imported
when its command is asked for, so that `riskbatch --help` and `--version` start fast.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

import riskbatch as rb

from ..errors import RiskbatchError
from .exits import INTERRUPTED, PIPE_BROKEN, USAGE, table

# As the modules' HELP, which a test compares: to read it from the modules would import them all.
COMMANDS = {
    "send": "send a file or a stream of signals",
    "demo": "watch the real client at the real pace, against a local Okta",
    "emulate": "run a strict local Okta to send to",
    "simulate": "is the budget enough for my traffic? an hour in seconds",
    "providers": "list, create or change who may send, and what Okta does with it",
    "doctor": "is everything in order for sending? if not, what must be fixed",
    "queue": "count, list, export, import or drop what waits in a store",
    "completion": "print a completion script for bash or zsh",
}

_EXAMPLES = """\
examples:
  riskbatch demo                                see it work without an Okta org
  riskbatch send feed.csv --rejected bad.jsonl  send a file
  tail -F alerts.jsonl | riskbatch send -       send signals as they come
  riskbatch COMMAND --help                      options and examples
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv* (`sys.argv` if not given) and return the exit status; an error is one line."""
    logger = logging.getLogger("riskbatch")
    silent = logging.NullHandler()  # each command reports in its own way what the log would
    logger.addHandler(silent)
    try:
        status = _run(argv)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of our stdout has left, as `| head` does
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's last flush complains
        return PIPE_BROKEN
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        logger.removeHandler(silent)
    return status


def _run(argv: Sequence[str] | None) -> int:
    parser = command_line()
    try:
        options = parser.parse_args(argv)
    except SystemExit as done:  # --help, --version, or a usage error that argparse has written
        return done.code if isinstance(done.code, int) else USAGE
    if options.run is None:
        parser.print_help(sys.stderr)
        return USAGE
    try:
        return int(options.run(options))
    except BrokenPipeError:
        raise
    except (RiskbatchError, OSError) as error:
        _tell(error)
    return USAGE


def _tell(error: RiskbatchError | OSError) -> None:
    from .terminal import Screen, because, printable  # noqa: PLC0415 - imports asyncio, which --version does not need

    reason = because(error) if isinstance(error, OSError) else str(error)
    Screen(sys.stderr).say(f"riskbatch: error: {printable(reason, 1000)}")


def command_line() -> argparse.ArgumentParser:
    """Return the parser of all commands; the options of a command are added when it is asked for."""
    parser = Parser(prog="riskbatch", epilog=f"{_EXAMPLES}\n{table()}")
    parser.description = (
        "Send IP risk signals to Okta: HIGH first, 20 a request, never more than 30\nrequests a minute."
    )
    parser.add_argument("--version", action="version", version=f"riskbatch {rb.__version__}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, line in COMMANDS.items():
        commands.add_parser(name, help=line, module=name)
    return parser


class Parser(argparse.ArgumentParser):
    """
    A parser as all commands have it: an unknown option is reported with the usage of its own command.

    Args:
        module: Which of this package adds the options and runs the command, once they are needed.
        given: As for argparse.
    """

    def __init__(self, *, module: str | None = None, **given: Any) -> None:
        # An abbreviation that works today is ambiguous with the next option.
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **given)
        self._module = module

    def load(self) -> None:
        """Import the command's module and add its options, once."""
        if self._module is not None:
            module, self._module = import_module(f".{self._module}", __package__), None
            module.add_options(self)
            self.set_defaults(run=module.run)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse *args*; what is left over is an error here, and not in the parser that called this one."""
        self.load()
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> Any:
        """Print usage and *message* and leave; what the user typed must not control the terminal."""
        from .terminal import printable  # noqa: PLC0415 - imports asyncio, which --version does not need

        super().error(printable(message, 1000))
