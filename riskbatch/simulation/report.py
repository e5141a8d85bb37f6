"""The results of a simulation as a text of at most 80 columns, and as one object for JSON."""

import math
import textwrap
from collections.abc import Mapping

from ..signals import RiskLevel
from .result import ENDS, Result

_QUANTILES = {"median": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
_COLUMNS = 79  # a terminal of 80 wraps a line that fills it


def report(results: list[Result], setting: Mapping[str, str]) -> str:
    """
    Return the table of *results* for one traffic, and what they mean in a sentence.

    Args:
        results: One for each client.
        setting: What was simulated, by the name of each line: traffic, budget, seed and the like.
    """
    lines = [line for name, text in setting.items() for line in _wrapped(f"{name:8} ", text)]
    for result in results:
        lines += ["", *_table(result)]
    return "\n".join([*lines, "", *_wrapped("", verdict(results[0]))])


def _wrapped(begin: str, text: str) -> list[str]:
    return textwrap.wrap(text, _COLUMNS, initial_indent=begin, subsequent_indent=" " * len(begin)) or [begin.rstrip()]


def _table(result: Result) -> list[str]:
    heads = "".join(f"{head:>9}" for head in ("mean", *_QUANTILES))
    lines = [f"{result.name:<30}  seconds from enqueue to sending", f"  {'':6}{'arrived':>11}{'sent':>11}{heads}"]
    for level in result.levels():
        waits = [result.mean_wait(level), *(result.waited(level, share) for share in _QUANTILES.values())]
        shown = "".join(f"{'-' if math.isnan(wait) else f'{wait:,.1f}':>9}" for wait in waits)
        lines.append(f"  {level.value:6}{result.arrived[level]:>11,}{len(result.waits[level]):>11,}{shown}")
    budget = result.budget
    return [
        *lines,
        *_wrapped("  ", _ends(result)),
        f"  {result.requests_a_minute():.1f} requests a minute, {_percent(result.fill())} full, "
        f"{_percent(result.budget_used())} of the budget",
        f"  at most {result.most_in_window} requests in any {budget.period:g} s (budget {budget.requests}); "
        f"{result.refusals:,} answered 429",
    ]


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.0%}"


def _ends(result: Result) -> str:
    counts = {end: result.ended.get(end, 0) for end in ENDS} | {"still waiting": result.ended["waiting"]}
    rare = ("rejected", "superseded")
    return ", ".join(f"{count:,} {end}" for end, count in counts.items() if count or end not in rare)


def verdict(result: Result) -> str:
    """Answer in one or two sentences whether the budget is enough, and which levels wait if it is not."""
    load = (
        f"{result.arriving():.1f} signals arrive a second, and the budget carries {result.capacity():.1f} in full "
        f"payloads"
    )
    if result.is_enough():
        return f"The budget is enough: {load}."
    late = [level.value for level in result.levels() if len(result.waits[level]) < 0.99 * result.arrived[level]]
    return f"The budget is NOT enough: {load}. What stays behind is {' and '.join(late) or 'nothing yet'}."


def to_json(results: list[Result], setting: Mapping[str, object]) -> dict[str, object]:
    """
    Return one object for JSON: *setting*, `is_enough`, `verdict`, and `clients`, a list with one object a client.

    Waits are in seconds; a number that does not exist, such as the wait of no signal, is `None`.
    """
    clients = [_client_to_json(result) for result in results]
    return {**setting, "is_enough": results[0].is_enough(), "verdict": verdict(results[0]), "clients": clients}


def _client_to_json(result: Result) -> dict[str, object]:
    return {
        "name": result.name,
        "levels": {level.value: _level_to_json(result, level) for level in result.levels()},
        "ended": dict(result.ended),
        "requests": len(result.requests),
        "requests_a_minute": round(result.requests_a_minute(), 3),
        "fill": _number(result.fill()),
        "budget_used": _number(result.budget_used()),
        "most_in_window": result.most_in_window,
        "refusals": result.refusals,
    }


def _level_to_json(result: Result, level: RiskLevel) -> dict[str, object]:
    waits = {name: _number(result.waited(level, share)) for name, share in _QUANTILES.items()}
    return {
        "arrived": result.arrived[level],
        "sent": len(result.waits[level]),
        "mean": _number(result.mean_wait(level)),
        **waits,
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 3)
