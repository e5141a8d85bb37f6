"""
Send IP risk signals to Okta: HIGH first, 20 a request, never more than 30 requests a minute.

The modules for users are this one, `riskbatch.testing`, `riskbatch.emulator` and `riskbatch.otel`. What all others
hold may change at any time.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .client import Client
    from .errors import (
        AuthError,
        ClientClosed,
        ConfigurationError,
        InvalidSignal,
        QueueFull,
        RequestFailed,
        RiskbatchError,
        StoreError,
        WrongLoop,
    )
    from .limiter import Limiter, RateLimit
    from .okta.auth import ApiToken, ServiceApp
    from .receipts import Abandoned, Accepted, Expired, Outcome, Receipt, Rejected, Shed, Superseded
    from .signals import RiskLevel, RiskSignal, clean_message, parse_signals
    from .statistics import Statistics
    from .stores.sqlite.store import SqliteStore
    from .stores.valkey.engine import FleetStatistics, ValkeyStore

from .version import __version__ as __version__

__all__ = [
    "Abandoned",
    "Accepted",
    "ApiToken",
    "AuthError",
    "Client",
    "ClientClosed",
    "ConfigurationError",
    "Expired",
    "FleetStatistics",
    "InvalidSignal",
    "Limiter",
    "Outcome",
    "QueueFull",
    "RateLimit",
    "Receipt",
    "Rejected",
    "RequestFailed",
    "RiskLevel",
    "RiskSignal",
    "RiskbatchError",
    "ServiceApp",
    "Shed",
    "SqliteStore",
    "Statistics",
    "StoreError",
    "Superseded",
    "ValkeyStore",
    "WrongLoop",
    "clean_message",
    "parse_signals",
]

# The modules that have these names, in the order in which they are searched. Only the last one imports aiohttp, which
# takes 0.4 s: half of the time that `riskbatch --help` would take.
_MODULES = (
    "errors",
    "signals",
    "receipts",
    "limiter",
    "okta.auth",
    "stores.sqlite.store",
    "stores.valkey.engine",
    "statistics",
    "client",
)


def __dir__() -> list[str]:
    return __all__


if not TYPE_CHECKING:  # type checkers read the imports above; because of this function they would accept any name

    def __getattr__(name: str) -> object:
        """Import the module that has *name* when the name is first used (PEP 562)."""
        if name in __all__:
            for module in (import_module(f".{module}", __name__) for module in _MODULES):
                if hasattr(module, name):
                    return globals().setdefault(name, getattr(module, name))
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
