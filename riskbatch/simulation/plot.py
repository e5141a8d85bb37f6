"""A picture of a simulation: what waits, the waits of each level (HIGH above LOW), and the requests and the budget."""

import math
import os
import textwrap
from typing import Any

from ..errors import ConfigurationError
from ..signals import RiskLevel
from .result import Result

_COLOURS = {RiskLevel.HIGH: "#c1272d", RiskLevel.MEDIUM: "#d98200", RiskLevel.LOW: "#3b6fb6"}
_INK = "#444444"
_POINTS = 3_000  # a panel shows no more; a file with vectors would become too large for a viewer


def check_plot(path: str) -> None:
    """
    Raise ConfigurationError if a picture cannot be written to *path*. It is called before the simulation runs.

    matplotlib must be installed, the folder must exist, and the suffix must be one that matplotlib can write.
    """
    try:
        from matplotlib.backend_bases import FigureCanvasBase  # noqa: PLC0415 - heavy, and an extra
    except ModuleNotFoundError:
        raise ConfigurationError("--plot needs matplotlib: pip install matplotlib") from None
    suffixes = FigureCanvasBase.get_supported_filetypes()
    folder, suffix = os.path.dirname(path) or ".", os.path.splitext(path)[1][1:].lower()
    if suffix not in suffixes:
        raise ConfigurationError(f"--plot {path}: the name must end in one of .{', .'.join(sorted(suffixes))}")
    if not os.path.isdir(folder):
        raise ConfigurationError(f"--plot {path}: there is no folder {folder}")
    if os.path.isdir(path) or not os.access(path if os.path.exists(path) else folder, os.W_OK):
        raise ConfigurationError(f"--plot {path}: it cannot be written")


def plot(results: list[Result], path: str, title: str) -> None:
    """
    Draw the *results* side by side into the file *path*, under *title*.

    From top to bottom: the signals that wait; a panel for the waits of each level, with their 95th percentile; and
    the requests in the last window of the budget's length, with the budget as a line.

    Raises:
        ModuleNotFoundError: matplotlib is not installed; `check_plot` says so before the simulation runs.
        OSError: The file cannot be written.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - heavy, and an extra

    levels = [level for level in RiskLevel if any(result.arrived[level] for result in results)]
    rows = len(levels) + 2
    width = max(8.0, 5.0 * len(results))
    figure = Figure(figsize=(width, 1.0 + 1.9 * rows), layout="constrained", dpi=110)
    lines = [line for each in title.splitlines() for line in textwrap.wrap(each, int(width * 12))]
    figure.suptitle("\n".join(lines), fontsize=10)
    panels = figure.subplots(rows, len(results), squeeze=False, sharex=True, sharey="row")
    for column, result in enumerate(results):
        panels[0][column].set_title(result.name, loc="left", fontsize=11, fontweight="bold")
        _draw_waiting(panels[0][column], result, levels)
        for row, level in enumerate(levels, 1):
            _draw_waits(panels[row][column], result, level)
        _draw_requests(panels[-1][column], result)
        panels[-1][column].set_xlabel("minutes")
    _label(panels, levels, results[0])
    figure.savefig(path)


def _label(panels: Any, levels: list[RiskLevel], result: Result) -> None:
    panels[0][0].set_ylabel("signals\nwaiting")
    for row, level in enumerate(levels, 1):
        panels[row][0].set_ylabel(f"{level.value}\nwaits, s", color=_COLOURS[level])
    panels[-1][0].set_ylabel(f"requests in\n{result.budget.period:g} s")
    for row in panels[:-1]:  # from one signal to a million, and from a second to an hour, in one picture
        row[0].set_yscale("symlog", linthresh=1)
        row[0].yaxis.set_major_formatter("{x:,.0f}")
    longest = max(row[0].get_ylim()[1] for row in panels[1:-1])  # one scale for all levels
    for row in panels[1:-1]:
        row[0].set_ylim(top=2 * longest)
    panels[-1][0].set_ylim(top=max(panels[-1][0].get_ylim()[1], 1.25 * result.budget.requests))
    for panel in panels.flat:
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_xlim(0, result.seconds / 60)


def _draw_waiting(panel: Any, result: Result, levels: list[RiskLevel]) -> None:
    """Draw a line for each level, HIGH over the others."""
    minutes = [sample.at / 60 for sample in result.samples]
    for order, level in enumerate(levels):
        waiting = [sample.waiting[level] for sample in result.samples]
        panel.plot(minutes, waiting, color=_COLOURS[level], linewidth=1.3, zorder=9 - order, label=level.value)
    panel.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(levels), fontsize=8, frameon=False)


def _draw_waits(panel: Any, result: Result, level: RiskLevel) -> None:
    """Draw the wait of each signal at the time when it was sent, and the 95th percentile as a line."""
    points = result.waits[level]
    if not points:
        text = "none was sent" if result.arrived[level] else "none arrived"
        panel.text(0.5, 0.5, text, transform=panel.transAxes, ha="center", va="center", color=_INK)
        return
    shown = points[:: math.ceil(len(points) / _POINTS)]
    panel.scatter([at / 60 for at, _ in shown], [wait for _, wait in shown], s=3, color=_COLOURS[level], alpha=0.5)
    p95 = result.waited(level, 0.95)
    panel.axhline(p95, color=_INK, linestyle="--", linewidth=1)
    _note(panel, f"p95 {p95:,.1f} s", p95, 0.02)


def _draw_requests(panel: Any, result: Result) -> None:
    """Draw the requests of the last window over time, and the budget as a line."""
    minutes = [at / 60 for at in result.requests]
    counts = [result.requests_before(at) for at in result.requests]
    panel.step(minutes, counts, color=_INK, linewidth=1, where="post")
    budget = result.budget.requests
    panel.axhline(budget, color=_COLOURS[RiskLevel.HIGH], linewidth=1.5)
    refused = f"; {result.refusals:,} answered 429" if result.refusals else ""
    _note(panel, f"budget {budget}{refused}", budget, 0.98)


def _note(panel: Any, text: str, height: float, place: float) -> None:
    """Write *text* just above the line at *height*, at the left end (*place* below 0.5) or at the right end."""
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
    panel.annotate(
        text,
        (place, height),
        xycoords=("axes fraction", "data"),
        xytext=(0, 4),
        textcoords="offset points",
        ha="left" if place < 0.5 else "right",
        va="bottom",
        fontsize=8,
        color=_INK,
        bbox=box,
    )
