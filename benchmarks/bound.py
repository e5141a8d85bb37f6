"""
The least mean wait of HIGH that any schedule could reach, knowing all arrivals beforehand and sending nothing else.

Choosing the departures is hard because of the window: none may hold more than 30. So the window is priced instead of
enforced (a Lagrangian relaxation): each window has a price per request beyond nothing, a request pays for every window
it lies in, and the prices times 30 are given back. For any prices the cheapest schedule, which dynamic programming
finds, costs no more than the best true schedule; raising the prices of overfull windows (subgradient steps) makes the
bound tight. Time is cut into cells, and who leaves in one counts as having left at its beginning, so that the bound
only becomes lower. It is a bound for every policy, with or without foresight, and whatever it does with LOW.
"""

from collections.abc import Sequence

import numpy as np

from riskbatch.okta.risk_events import MAX_EVENTS

ITERATIONS = 150


def least_mean_wait(arrivals: Sequence[float], *, limit: int, period: float, cell: float, reached: float) -> float:
    """
    Return a lower bound in seconds on the mean wait of HIGH *arrivals* (instants in seconds, ascending).

    Args:
        arrivals: When the HIGH arrive.
        limit: Requests in a window.
        period: Length of the window in seconds, a multiple of *cell*.
        cell: Seconds in which nothing is told apart; the shorter, the tighter and the slower.
        reached: A mean wait that some policy has reached; it sets the length of the steps, not the result.
    """
    times = np.array(arrivals) / cell  # from here on, a cell is the unit of time
    arrived_in = times.astype(int)
    cells = np.arange(arrived_in[-1] + round(1200 / cell))  # a clairvoyant may send a little after the last arrival
    width = round(period / cell)
    prices = np.zeros(len(cells))
    best, pull = 0.0, 0.8
    for _ in range(ITERATIONS):
        total = np.concatenate([[0], np.cumsum(prices)])
        toll = total[cells + 1] - total[np.maximum(cells - width + 1, 0)]
        cost, departures = _cheapest(times, arrived_in, cells, toll)
        value = cost - limit * prices.sum()
        pull = pull if value > best else max(0.97 * pull, 0.05)
        best = max(best, value)
        seen = np.concatenate([[0], np.cumsum(departures)])
        excess = seen[np.minimum(cells + width, len(cells))] - seen[cells] - limit
        excess = np.where((prices <= 0) & (excess < 0), 0, excess)
        if not excess.any():
            break
        prices = np.maximum(0, prices + pull * (reached / cell * len(times) - value) / (excess**2).sum() * excess)
    return float(best / len(times) * cell)


def _cheapest(
    times: np.ndarray, arrived_in: np.ndarray, cells: np.ndarray, toll: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return the cost of the cheapest schedule at *toll* a request, and its departures in each cell."""
    sizes = np.arange(1, MAX_EVENTS + 1)[:, None]
    # A batch of k leaves at once, or at the beginning of a later cell that is cheaper.
    start = sizes * cells + toll
    later = np.minimum.accumulate(start[:, ::-1], axis=1)[:, ::-1][:, arrived_in + 1]
    now = sizes * times + toll[arrived_in]
    leave = np.minimum(now, later)[::-1]
    sums = np.concatenate([[0], np.cumsum(times)])
    cost = np.zeros(len(times) + 1)
    begin = np.zeros(len(times) + 1, dtype=int)
    for end in range(1, len(times) + 1):
        first = max(0, end - MAX_EVENTS)
        options = cost[first:end] + leave[MAX_EVENTS - (end - first) :, end - 1] + sums[first:end]
        choice = int(options.argmin())
        cost[end] = options[choice] - sums[end]
        begin[end] = first + choice
    departures = np.zeros(len(cells))
    end = len(times)
    while end > 0:
        size, at = end - begin[end], arrived_in[end - 1]
        if now[size - 1, end - 1] > later[size - 1, end - 1]:
            at += 1 + int(start[size - 1, at + 1 :].argmin())
        departures[at] += 1
        end = begin[end]
    return float(cost[-1]), departures
