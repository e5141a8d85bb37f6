"""Send IP risk signals to Okta: HIGH first, 20 a request, never more than 30 requests a minute."""

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
from .signals import RiskLevel, RiskSignal, parse_signals
from .statistics import Statistics
from .stores import SqliteStore, Store
from .stores.valkey.engine import FleetStatistics, ValkeyStore

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
    "Store",
    "StoreError",
    "Superseded",
    "ValkeyStore",
    "WrongLoop",
    "parse_signals",
]
