"""Posterior: the most likely values of a model of few parameters, and how sure they are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tomopicker.types import Floats

_STEP = 1e-2
_MOST = 2.0
"""Standard deviation of a logarithm of which nothing is known: a factor of 50 either way."""


def most_likely(
    cost: Callable[[Floats], float],
    starts: Sequence[Sequence[float] | Floats],
    bounds: Sequence[tuple[float, float]],
) -> Floats:
    """Where the cost is least, searched from several starts.

    >>> most_likely(lambda at: float(((at - 2) ** 2).sum()), [[0.0]], [(-5.0, 5.0)]).round(3)
    array([2.])
    """
    low, high = np.array(bounds).T
    found = [
        minimize(cost, np.clip(start, low, high), method="L-BFGS-B", bounds=bounds)
        for start in starts
    ]
    best: Floats = min(found, key=lambda one: float(one.fun)).x
    return best


def deviation_of(
    of: Callable[[Floats], float], cost: Callable[[Floats], float], at: Floats
) -> float:
    """Standard deviation of a logarithm that depends on the values, 2 at most.

    The cost, minus the logarithm of their probability, is taken for quadratic about its least
    value, and what is asked for linear.

    >>> cost = lambda at: float(at[0] ** 2) / 2 / 0.1**2
    >>> round(deviation_of(lambda at: at[0], cost, np.zeros(1)), 3)
    0.1
    """
    size = len(at)
    moves = _STEP * np.eye(size)
    hessian = np.empty((size, size))
    for i in range(size):
        for j in range(i + 1):
            corners = [
                a * b * cost(at + a * moves[i] + b * moves[j]) for a in (1, -1) for b in (1, -1)
            ]
            hessian[i, j] = hessian[j, i] = sum(corners) / (4 * _STEP**2)
    slope = np.array([of(at + move) - of(at - move) for move in moves]) / (2 * _STEP)
    variance = float(slope @ np.linalg.pinv(hessian, rcond=1e-9) @ slope)
    # Without curvature nothing is known.
    return min(math.sqrt(variance), _MOST) if variance > 0 else _MOST
