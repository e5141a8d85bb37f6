"""The texts of what runs in the engine: one file for each script, and the parts that all of them share."""

import hashlib
from functools import cache
from importlib.resources import files

_SHARED = ("begin", "signals", "ending", "waiting", "returning", "claims", "view", "rows", "newcomers")

# All keys of a fleet, in the order in which begin.lua names them.
KEYS = (
    *("state", "signals", "tried", "high", "medium", "low", "held", "suspects", "expiring", "by-ip"),
    *("claims", "permits", "replicas", "calls", "admitted", "notices"),
)


@cache
def script(name: str) -> str:
    """Return the text of the script with this *name*, such as "commit"."""
    folder = files(__package__) / "scripts"
    return "\n".join((folder / f"{part}.lua").read_text(encoding="utf-8") for part in (*_SHARED, name))


@cache
def digest(name: str) -> str:
    """Return by what EVALSHA knows the script."""
    return hashlib.sha1(script(name).encode(), usedforsecurity=False).hexdigest()
