"""How much the tests do: enough to find a mistake in two minutes, or all of it with `RISKBATCH_THOROUGH=1`."""

import os
from typing import TypeVar

T = TypeVar("T")

THOROUGH = os.environ.get("RISKBATCH_THOROUGH", "") not in ("", "0")


def budget(quick: T, thorough: T) -> T:
    """Return what this run can afford."""
    return thorough if THOROUGH else quick
