"""
A log handler: what any thread of a program logs about an address becomes a risk signal.

    pip install .    # in a checkout of riskbatch
    export OKTA_CLIENT_ORGURL=https://acme.okta.com OKTA_CLIENT_TOKEN=...
    python log_handler.py
"""

import asyncio
import logging

import riskbatch as rb


class RiskHandler(logging.Handler):
    """
    Sends a signal for each record that has an `ip`: a CRITICAL or ERROR as HIGH, a WARNING as MEDIUM, others as LOW.

    `emit` runs in whatever thread logs, the client's own included, and never waits.
    """

    def __init__(self, client: rb.Client, level: int = logging.INFO) -> None:
        super().__init__(level)
        self.client = client

    def emit(self, record: logging.LogRecord) -> None:
        ip = getattr(record, "ip", None)
        if ip is None or record.name == "riskbatch":
            return
        risk = "HIGH" if record.levelno >= logging.ERROR else "MEDIUM" if record.levelno >= logging.WARNING else "LOW"
        message = rb.clean_message(record.getMessage())  # Okta refuses a colon, a comma, an accent
        try:
            self.client.enqueue_threadsafe(rb.RiskSignal(ip, risk, message=message))
        except rb.RiskbatchError:  # no address, no room, or closed: logging reports it as it does every failing handler
            self.handleError(record)


def work() -> None:
    """Stand for the synchronous part of a program, in its own thread."""
    logging.getLogger("login").error("5 failures in a minute", extra={"ip": "203.0.113.7"})


async def main() -> None:
    async with rb.Client.from_env() as client:
        handler = RiskHandler(client)
        logging.getLogger().addHandler(handler)
        try:
            await asyncio.to_thread(work)
            logging.getLogger("login").warning("a password was sprayed", extra={"ip": "203.0.113.8"})
        finally:
            logging.getLogger().removeHandler(handler)


if __name__ == "__main__":
    asyncio.run(main())
