"""Is the budget enough for my traffic? The real client on a virtual clock, beside two that people make by hand."""

from .by_hand import fifo_by_hand, priority_by_hand
from .clock import run_virtually
from .report import report, to_json, verdict
from .result import Result, Sample
from .simulation import LocalOrg, SimulatedClient, Simulation, riskbatch, to_signal
from .traffic import Arrival, Traffic, replay

__all__ = [
    "Arrival",
    "LocalOrg",
    "Result",
    "Sample",
    "SimulatedClient",
    "Simulation",
    "Traffic",
    "fifo_by_hand",
    "priority_by_hand",
    "replay",
    "report",
    "riskbatch",
    "run_virtually",
    "to_json",
    "to_signal",
    "verdict",
]
