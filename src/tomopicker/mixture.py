"""Mixture: how much a template's contrast counts beside a peak's score, where few are labelled.

Ten labelled particles say too little: half or twice as much would fit them as well. But the peaks
are many, and those that fit the template stand apart from the others in their contrasts. So the
peaks are taken for a mixture of particles and others. The log odds of a particle rise linearly with
its score, and the contrasts of either kind are normal, of one variance v about two means, whatever
the score. Then the log odds by both are linear as well:

    slope score + (m₁ - m₀) / v contrast + constant,

and the contrast counts (m₁ - m₀) / (v slope) times as much as the score. The values are found by
expectation maximisation from the chances that the scores alone give (McLachlan and Peel 2000).

In several tomograms the odds rise alike from another constant each, as their scores differ.

What is in the average fits it better, as its noise is in there, too: by one gain for all of those,
which is a value to be found like the others. It is told by particles that are not in the average:
where there are none it stays 0.

Within either kind score and contrast are taken for independent. A contrast that says nothing but
what the score says gets a weight nonetheless, though less than one that tells something.
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

_ROUNDS, _WITH_FIRST_ODDS = 40, 6
"""Of expectation maximisation, and in how many of them the odds by the score stay what they were.
All have settled within a sixth by then."""

_LABELLED = 3.0
"""Log odds of a labelled peak: one in twenty may be some other one, a particle's neighbour."""

_RIDGE = 1e-3
"""Of the regression on the score, which else has no end where all chances are 0 or 1."""
_LEAST_SLOPE = 0.2
"""Of the odds by the score, of what it was at first: below it, what the contrasts tell apart has
nothing to do with particles. In simulations of ribosomes and TRiC it was 0.4 to 2.4."""
_GREATEST_SLOPE = 1.25
"""As that; else the odds may rise without end, as a regression on its own results allows."""
_LEAST_SHARE = 0.05
"""Of the greatest weight: below it is none."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """What contrasts tell beside scores."""

    weight: float
    """Of a contrast in a score, 0 where it tells nothing."""
    gain: float
    """Contrast that what is in the average has more for being there."""
    chances: Floats
    """(n,) of being a particle, by score and contrast, though the weight may have been cut; by the
    score alone without a weight."""


def fit_mixture(
    scores: Floats,
    contrasts: Floats,
    chances: Floats,
    *,
    is_labelled: NDArray[np.bool_],
    is_unseen: bool = False,
    is_aligned: NDArray[np.bool_],
    tomograms: NDArray[np.intp],
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
        (n,) whether it is a labelled particle.
    is_unseen
        Whether all of these were held out, so that what they score tells of particles. Else it says
        nothing, as the network has learned from them.
    is_aligned
        (n,) whether it is in the average.
    tomograms
        (n,) number of the tomogram that it is in.
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
    # The score, and a constant for each tomogram.
    terms = np.column_stack([units, tomograms[:, None] == np.unique(tomograms)])
    told = np.ones(len(scores), dtype=bool) if is_unseen else ~is_labelled
    odds = np.where(is_labelled, _LABELLED, logit(np.clip(chances, 1e-4, 1 - 1e-4)))
    share = expit(odds)
    gain = (known_gain or 0.0) / deviation
    line = first = _line(terms[told], expit(odds[told]))
    steepest = _GREATEST_SLOPE * max(first[0], _RIDGE)
    own = fits - gain * is_aligned
    for number in range(_ROUNDS):
        particle, other = (float(of @ own / max(of.sum(), 1e-9)) for of in (share, 1 - share))
        if known_gain is None and is_aligned.any():
            means = share * particle + (1 - share) * other
            gain = max(float((fits - means)[is_aligned].mean()), 0.0)
            own = fits - gain * is_aligned
        away = share @ (own - particle) ** 2 + (1 - share) @ (own - other) ** 2
        variance = max(float(away) / len(own), 1e-6)
        slope = (particle - other) / variance
        share = expit(odds + slope * (own - (particle + other) / 2))
        if number >= _WITH_FIRST_ODDS:
            line = _line(terms[told], share[told], line, steepest=steepest)
            odds = np.where(is_labelled, _LABELLED, terms @ line)
    if line[0] <= _LEAST_SLOPE * max(first[0], 0.0):
        return nothing
    weight = float(slope / line[0] * spread / deviation)
    if weight <= _LEAST_SHARE * most:
        return nothing
    return Mixture(weight=min(weight, most), gain=gain * deviation, chances=share)


def _line(
    terms: Floats, shares: Floats, start: Floats | None = None, *, steepest: float | None = None
) -> Floats:
    """(k,) slope and constants of the log odds, by logistic regression of (n,) shares on (n, k)."""
    ridge = np.zeros(terms.shape[1])
    ridge[0] = _RIDGE

    def loss(line: Floats) -> tuple[float, Floats]:
        odds = terms @ line
        value = np.logaddexp(0, odds) - shares * odds
        slopes = terms.T @ (expit(odds) - shares) + ridge * line
        return float(value.sum() + ridge @ line**2 / 2), slopes

    start = np.zeros(len(ridge)) if start is None else start
    bounds = [(None, steepest), *[(None, None)] * (len(ridge) - 1)]
    found: Floats = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return found
