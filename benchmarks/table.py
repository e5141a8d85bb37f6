"""One row for one comparison, peers in turns with ours, and the table of all rows."""

import gc
import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from statistics import median
from typing import TypeVar

from attrs import frozen

logging.getLogger("riskbatch").setLevel(logging.ERROR)  # what waits at the end is abandoned; that is no news

ROUNDS = 5
T = TypeVar("T")


@frozen
class Row:
    """
    What `python -m benchmarks` prints of one comparison.

    Attributes:
        what: What was measured, with the unit.
        ours: Our number, as a text.
        peer: The peer and its number; why it is missing, if it is.
        ratio: How many times better ours is; `None` if there is nothing to compare with.
        target: What was aimed at.
    """

    what: str
    ours: str
    peer: str = ""
    ratio: float | None = None
    target: str = ""


def in_turns(subjects: Mapping[str, Callable[[], float]], rounds: int = ROUNDS) -> dict[str, float]:
    """Measure each of *subjects* once a round, in turns because a machine has moods; return the medians."""
    found: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, measure in subjects.items():
            gc.collect()  # what one left behind is not the next one's cost
            found[name].append(measure())
    return {name: median(values) for name, values in found.items()}


def apart(measure: Callable[..., T], *arguments: object) -> T:
    """Return what *measure* finds in a process of its own, where no memory was used before."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(measure, *arguments).result()


def rows_of(module: str) -> list[Row]:
    """Return the rows that a *module* of this package has, if it has any."""
    try:
        rows = getattr(import_module(f"benchmarks.{module}"), "rows", tuple)
    except ImportError as error:
        return [missing(module, "what it imports", error)]
    return list(rows())


def missing(what: str, peer: str, error: ImportError, target: str = "") -> Row:
    """Return the row of a comparison whose *peer* is not installed."""
    return Row(what, "-", f"{peer}: not installed ({error})", None, target)


def show(rows: Iterable[Row]) -> None:
    """Print each row as it comes."""
    print(f"{'what':58} {'ours':>12}  {'peer':40} {'ratio':>6}  target", flush=True)
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        print(f"{row.what:58} {row.ours:>12}  {row.peer:40} {ratio:>6}  {row.target}", flush=True)
