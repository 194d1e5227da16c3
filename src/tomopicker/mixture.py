"""Mixture: how much a template's contrast counts beside a peak's score, where few are labelled.

Ten labelled particles say too little: half or twice as much would fit them as well. But the peaks
are many, and those that fit the template stand apart from the others in their contrasts. So the
peaks are taken for a mixture of particles and others. The log odds of a particle rise linearly with
its score, and the contrasts of either kind are normal, of one variance v about two means, whatever
the score. Then the log odds by both are linear as well:

    slope score + (m₁ - m₀) / v contrast + constant,

and the contrast counts (m₁ - m₀) / (v slope) times as much as the score. The values are found by
expectation maximisation from the chances that the scores alone give (McLachlan and Peel 2000).

What is in the average fits it better, as its noise is in there, too: by one gain for all of those,
which is a value to be found like the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tomopicker.types import Floats

_ROUNDS, _BY_SCORE_ALONE = 40, 6
"""Of expectation maximisation; in the first ones the chances by the score stay what they were."""

_LABELLED = 3.0
"""Log odds of a labelled peak: one in twenty may be some other one, a particle's neighbour."""

_RIDGE = 1e-3
_LEAST_SHARE = 0.05


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """What contrasts tell beside scores."""

    weight: float
    """Of a contrast in a score, 0 where it tells nothing."""
    gain: float
    """Contrast that what is in the average has more for being there."""
    chances: Floats
    """(n,) of being a particle, by score and contrast; by the score alone without a weight."""


def fit_mixture(
    scores: Floats,
    contrasts: Floats,
    chances: Floats,
    *,
    is_labelled: NDArray[np.bool_],
    is_aligned: NDArray[np.bool_],
    most: float,
    known_gain: float | None = None,
) -> Mixture:
    """Learn from peaks of which some are labelled how much a template's contrast counts.

    Parameters
    ----------
    scores, contrasts
        (n,) of the peaks.
    chances
        (n,) of being a particle, by the score alone; those of labelled ones are not looked at.
    is_labelled
        (n,) whether it is a labelled particle. How these score is not looked at.
    is_aligned
        (n,) whether it is in the average.
    most
        Greatest weight. Less than a twentieth of it is none, which picks faster.
    known_gain
        To be given where what is in the average was chosen by its contrasts, and fits well anyway.
    """
    nothing = Mixture(weight=0.0, gain=0.0, chances=chances)
    if is_labelled.all() or np.ptp(scores) == 0 or np.ptp(contrasts) == 0:
        return nothing
    spread, deviation = float(scores.std()), float(contrasts.std())
    units, fits = scores / spread, contrasts / deviation
    odds = np.where(is_labelled, _LABELLED, logit(np.clip(chances, 1e-4, 1 - 1e-4)))
    share = expit(odds)
    gain, line = (known_gain or 0.0) / deviation, np.array([1.0, 0.0])
    for number in range(_ROUNDS):
        own = fits - gain * is_aligned
        particle, other = (float(of @ own / max(of.sum(), 1e-9)) for of in (share, 1 - share))
        means = share * particle + (1 - share) * other
        if known_gain is None and is_aligned.any():
            gain = max(float((fits - means)[is_aligned].mean()), 0.0)
        own = fits - gain * is_aligned
        away = share @ (own - particle) ** 2 + (1 - share) @ (own - other) ** 2
        variance = max(float(away) / len(own), 1e-6)
        slope = (particle - other) / variance
        share = expit(odds + slope * (own - (particle + other) / 2))
        if number >= _BY_SCORE_ALONE:
            line = _line(units[~is_labelled], share[~is_labelled], line)
            odds = np.where(is_labelled, _LABELLED, line[0] * units + line[1])
    weight = max(slope, 0.0) / max(line[0], 1e-6) * spread / deviation
    if weight <= _LEAST_SHARE * most:
        return nothing
    return Mixture(weight=min(weight, most), gain=gain * deviation, chances=share)


def _line(units: Floats, shares: Floats, start: Floats) -> Floats:
    """Slope and constant of the log odds of being a particle, by logistic regression on shares."""

    def loss(line: Floats) -> tuple[float, Floats]:
        odds = line[0] * units + line[1]
        value = np.logaddexp(0, odds) - shares * odds
        wrong = expit(odds) - shares
        return (
            float(value.sum() + _RIDGE * line[0] ** 2 / 2),
            np.array([wrong @ units + _RIDGE * line[0], wrong.sum()]),
        )

    found: Floats = minimize(loss, start, jac=True).x
    return found
