"""What the options of several commands share: the types of their values, and the form of a help text."""

import argparse
import re
import textwrap
from collections.abc import Callable
from contextlib import suppress

from ..errors import ConfigurationError
from ..limiter import RateLimit
from ..signals import RiskLevel

_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}  # seconds


def explain(parser: argparse.ArgumentParser, about: str, *examples: str) -> None:
    """Give *parser* a description, wrapped to 79 columns by paragraphs, and the examples at the end, as they are."""
    paragraphs = about.split("\n\n")
    parser.description = "\n\n".join(textwrap.fill(" ".join(each.split()), 79) for each in paragraphs)
    parser.epilog = "\n".join(["examples:", *(f"  {example}".rstrip() for example in examples)])


def rate_limit(text: str) -> RateLimit:
    """Read requests per seconds: `30/60s`."""
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9}(?:\.\d{1,9})?)s?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not REQUESTS/SECONDS, such as 30/60s")
    try:
        return RateLimit(int(match[1]), float(match[2]))
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def per_second(text: str) -> float:
    """Read a rate, `5/s`, `90/m` or `100/h`, as a number per second."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)/(s|m|min|h)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate such as 5/s, 90/m or 100/h")
    return float(match[1]) / _UNITS[match[2]]


def seconds(text: str) -> float:
    """Read a duration, `30s`, `90m` or `1h`, in seconds."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)(s|m|min|h|d|)", text)
    if match is None or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 30s, 90m or 1h")
    return float(match[1]) * _UNITS[match[2]]


def burst(text: str) -> tuple[int, RiskLevel, float]:
    """Read `300xHIGH/300s`: how many, of which level, every how many seconds."""
    match = re.fullmatch(r"(\d{1,6})x(HIGH|MEDIUM|LOW)/(\w+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not COUNTxLEVEL/TIME, such as 300xHIGH/300s")
    return int(match[1]), RiskLevel[match[2]], seconds(match[3])


def port(text: str) -> int:
    """Read the number of a TCP port; 0 means any free one."""
    if re.fullmatch(r"\d{1,5}", text) and int(text) < 2**16:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 65535")


def number(most: float) -> Callable[[str], float]:
    """Return a function that reads a number from 0 to *most*."""

    def parse(text: str) -> float:
        with suppress(ValueError):
            if 0 <= float(text) <= most:
                return float(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {most:g}")

    return parse
