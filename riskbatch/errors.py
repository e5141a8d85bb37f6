"""
The exceptions, by whose fault each one is.

    RiskbatchError
    ├── ConfigurationError   the caller's: an argument of the client (also a ValueError)
    ├── InvalidSignal        the caller's: a signal that Okta's schema would refuse (also a ValueError)
    ├── QueueFull            nobody's: more signals than room
    ├── ClientClosed         the caller's: the client is not open (yet, or any more)
    ├── WrongLoop            the caller's: another event loop, thread or forked process (also a RuntimeError)
    ├── AuthError            the caller's: credentials that cannot be used as they are
    ├── StoreError           the disk's, or another process's: the durable store cannot be used as asked
    └── RequestFailed        the server's: a call outside of the queue was refused or not answered

What the server thinks of a signal is never an exception; it is an outcome (see receipts.py). Anything else that
escapes this package is a defect of ours.
"""


class RiskbatchError(Exception):
    """Root of everything this package raises on purpose."""


class ConfigurationError(RiskbatchError, ValueError):
    """An argument or environment variable cannot work; the message names it and says what would."""


def shown(value: object) -> str:
    """Return *value* as one printable line of bounded length, whatever it is: most come from strangers."""
    try:
        text = repr(value)
    except Exception:  # nested too deep, an integer too long, or its own __repr__
        return f"<{type(value).__name__}>"
    return text if len(text) <= 100 else f"{text[:100]}… ({len(text)} characters)"


class InvalidSignal(RiskbatchError, ValueError):  # noqa: N818 - the name is part of the fixed contract
    """
    A signal that Okta's published schema would refuse. Nothing was enqueued.

    Attributes:
        field: The field at fault, as the caller wrote it (`ip`, `riskLevel`, `subjects[2].message`).
        value: What the caller gave.
        limit: What would have been valid.
    """

    def __init__(self, field: str, value: object, limit: str) -> None:
        super().__init__(field, value, limit)
        self.field = field
        self.value = value
        self.limit = limit

    def __str__(self) -> str:
        name = self.field if self.field.isprintable() and len(self.field) <= 100 else shown(self.field)
        return f"{name} is {shown(self.value)}; it must be {self.limit}"


class QueueFull(RiskbatchError):  # noqa: N818 - the name is part of the fixed contract
    """As many signals as `capacity` allows are unsettled, and no room came in time. The signal was not admitted."""


class ClientClosed(RiskbatchError):  # noqa: N818 - the name is part of the fixed contract
    """The client is not open: not entered yet, draining, closed, or its sender died. The signal was not admitted."""


class WrongLoop(RiskbatchError, RuntimeError):  # noqa: N818 - reads as the others do
    """The client was used from another event loop, thread or forked process than the one that opened it."""


class AuthError(RiskbatchError):
    """Credentials that cannot be used as they are: malformed, unreadable, or of a kind Okta does not take."""


class StoreError(RiskbatchError):
    """The durable store cannot be opened, read or written; the message names the file. Nothing was admitted."""


class RequestFailed(RiskbatchError):  # noqa: N818 - reads as the others do
    """
    A call outside of the queue, as those of risk providers are, was refused or not answered.

    Attributes:
        reason: In the server's words where it had any.
        status: The HTTP status, `None` if there was no answer.
        code: Okta's error code, if there was one.
        request_id: Okta's `X-Okta-Request-Id`.
    """

    def __init__(
        self, reason: str, status: int | None = None, code: str | None = None, request_id: str | None = None
    ) -> None:
        super().__init__(reason, status, code, request_id)
        self.reason = reason
        self.status = status
        self.code = code
        self.request_id = request_id

    def __str__(self) -> str:
        return self.reason
