"""How long to wait after failures in a row."""


def backoff(failures: int, first: float, most: float, jitter: float) -> float:
    """
    Return the seconds to wait after the *failures*-th failure in a row: a span that doubles, times *jitter*.

    Args:
        failures: From 1.
        first: The span after the first failure, in seconds.
        most: The longest span, in seconds.
        jitter: Drawn evenly, from 0 or a minimum to 1, so that many clients do not come back at once.
    """
    return float(min(most, first * 2.0 ** min(failures - 1, 60)) * jitter)
