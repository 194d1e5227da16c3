"""Mixture: how much a template's contrast counts beside a peak's score, where few are labelled.

Ten labelled particles say too little: half or twice as much would fit them as well. But the peaks
are many, and those that fit the template stand apart from the others in their contrasts. So the
peaks are taken for a mixture of particles and others. The log odds of a particle rise linearly with
its score, and the contrasts of either kind are normal, of one variance v about two means, whatever
the score. Then the log odds by both are linear as well:

    slope score + (m₁ - m₀) / v contrast + constant,

and the contrast counts (m₁ - m₀) / (v slope) times as much as the score. The values are those of
the greatest likelihood of the contrasts (a mixture whose proportions depend on a covariate,
McLachlan and Peel 2000) and of the labels of the particles that were held out, a part of all that
is found, too (positive-unlabelled data, Elkan and Noto 2008). How steeply the odds rise shows
little in them: for four hundred peaks two slopes that differ by a factor of two have log
likelihoods that differ by 1 to 4. So the slope has a prior, about a share of what the calibration
makes it, which is too steep where look-alikes score high.

In several tomograms the odds rise alike from another constant each, as their scores differ.

What is in the average fits it better, as its noise is in there, too: by one gain for all of those,
which is a value to be found like the others. It is told by particles that are not in the average:
where there are none nothing tells it from the difference of the means, and contrast counts nothing.

Contrasts may be of two kinds that are not particles and others. So scores and labels must tell the
two apart: without them the contrasts must be less likely.

From its values those are learned by which contrasts tell how many particles other tomograms have
(`contrasts`).

Within either kind score and contrast are taken for independent. A contrast that says nothing but
what the score says gets a weight nonetheless, though less than one that tells something.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from tomopicker.contrasts import Contrasts, learn_contrasts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tomopicker.types import Floats

_LABELLED = 3.0
"""Log odds of a labelled peak: one in twenty may be some other one, a particle's neighbour."""

_SLOPE, _SCATTER = 0.6, 0.2
"""Of the slope of the odds by the score, in units of what the calibration makes it: mean and
deviation of its normal prior. In simulations of ribosomes it was 0.4 to 0.9."""
_LEAST_EVIDENCE = 5.0
"""Log likelihood of the contrasts that scores and labels must add."""
_NOBODY = -40.0
"""Log odds that a particle was held out, in a tomogram where none was."""
_LEAST_VARIANCE = 1e-3
"""Of the contrasts of either kind, in units of the variance of all."""
_RIDGE = 1e-3
"""Of the first regression on the score, which else has no end where all chances are 0 or 1."""
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
    learned: Contrasts | None = None
    """What contrasts are like, for other tomograms; None where they do not tell a number."""


def fit_mixture(
    scores: Floats,
    contrasts: Floats,
    chances: Floats,
    *,
    is_labelled: NDArray[np.bool_],
    is_trained: NDArray[np.bool_],
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
    is_trained
        (n,) whether it is a labelled one that the network was trained on: its score says nothing.
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
    if is_trained.all() or np.ptp(scores) == 0 or np.ptp(contrasts) == 0:
        return nothing
    spread, deviation = float(scores.std()), float(contrasts.std())
    is_in = (tomograms[:, None] == np.unique(tomograms)).astype(np.float64)
    calibrated = np.where(is_labelled, _LABELLED, logit(np.clip(chances, 1e-4, 1 - 1e-4)))
    terms = np.column_stack([scores / spread, is_in])
    first = _line(terms[~is_trained], expit(calibrated[~is_trained]))
    if first[0] <= 0:
        return nothing
    peaks = _Peaks(
        odds=terms @ first,
        is_in=is_in,
        fits=contrasts / deviation,
        is_labelled=is_labelled,
        is_held_out=is_labelled & ~is_trained,
        is_aligned=is_aligned,
        gain=None if known_gain is None else known_gain / deviation,
    )
    found = _fitted(peaks)
    # The same contrasts, where neither score nor label says which of the two kinds a peak is.
    none = np.zeros_like(is_labelled)
    alike = _fitted(replace(peaks, is_labelled=none, is_held_out=none), is_level=True)
    if found.likelihood - alike.likelihood < _LEAST_EVIDENCE:
        return nothing
    # Where labels tell the contrasts apart and the scores say nothing, the weight is the greatest.
    slope = max(found.slope, 1e-6) * first[0] / spread
    weight = found.apart / found.variance / deviation / slope
    if weight <= _LEAST_SHARE * most:
        return nothing
    gain = found.gain * deviation
    # Where the network has learned, the odds by the score are too high.
    is_unseen = ~is_trained
    learned = learn_contrasts(
        (contrasts - gain * is_aligned)[is_unseen],
        found.odds[is_unseen],
        found.known[is_unseen],
        first=Contrasts(
            slope=max(slope, 1e-6),
            mean=found.other * deviation,
            apart=found.apart * deviation,
            deviation=found.variance**0.5 * deviation,
        ),
    )
    return Mixture(weight=min(weight, most), gain=gain, chances=found.chances, learned=learned)


@dataclass(frozen=True, kw_only=True)
class _Peaks:
    """What is known of n peaks of t tomograms."""

    odds: Floats
    """(n,) log odds by the score, as the calibration has them."""
    is_in: Floats
    """(n, t) 1 for the tomogram that it is in, 0 for others."""
    fits: Floats
    """(n,) contrast, in units of the deviation of all."""
    is_labelled: NDArray[np.bool_]
    is_held_out: NDArray[np.bool_]
    """(n,) whether it is a labelled one whose score tells of particles."""
    is_aligned: NDArray[np.bool_]
    gain: float | None
    """In units as `fits`; None where it is to be found."""


@dataclass(frozen=True, kw_only=True)
class _Fitted:
    """Values of a mixture."""

    slope: float
    """Of the odds by the score, in units of the calibration's."""
    other: float
    """Mean contrast of others, in units as `_Peaks.fits`."""
    apart: float
    """Mean contrast of particles less that."""
    variance: float
    gain: float
    odds: Floats
    """(n,) log odds by the score."""
    known: Floats
    """(n,) by score and label."""
    chances: Floats
    """(n,) of being a particle, by all."""
    likelihood: float
    """Logarithm of that of the contrasts."""


def _fitted(peaks: _Peaks, *, is_level: bool = False) -> _Fitted:
    """Find the values of the greatest posterior; level odds have no slope.

    With the chance p by the score, the densities f₁ and f₀ of a particle's and another's contrast,
    and the share a of its tomogram's particles that was held out, an unlabelled peak adds the
    logarithm of (1 - a) p f₁ + (1 - p) f₀, one that was held out that of a p (0.95 f₁ + 0.05 f₀),
    and one that was learned from that of 0.95 f₁ + 0.05 f₀.
    """
    is_unlabelled, held_out, is_in = ~peaks.is_labelled, peaks.is_held_out, peaks.is_in
    tomograms = is_in.shape[1]
    split = np.cumsum([1, tomograms, tomograms, 1, 1, 1])

    def read(values: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Log odds by the score, with the label, own fits less others' mean, odds by all three."""
        slope, constants, shares, other, apart, log_variance, gain = np.split(values, split)
        odds = slope * peaks.odds + is_in @ constants
        # Particles that were held out are not among the unlabelled.
        known = np.where(peaks.is_labelled, _LABELLED, odds - is_in @ np.logaddexp(0, shares))
        own = peaks.fits - gain * peaks.is_aligned - other
        return odds, known, own, known + apart * (own - apart / 2) / np.exp(log_variance)

    def likelihood(known: Floats, own: Floats, after: Floats, log_variance: float) -> float:
        """Logarithm of that of the contrasts."""
        near = -(own**2 / np.exp(log_variance) + log_variance) / 2
        return float((near + np.logaddexp(0, after) - np.logaddexp(0, known)).sum())

    def loss(values: Floats) -> tuple[float, Floats]:
        odds, known, own, after = read(values)
        (slope,), _, shares, _, (apart,), (log_variance,), _ = np.split(values, split)
        # The contrasts; and which particles were held out, and which were not.
        value = likelihood(known, own, after, log_variance)
        value += is_unlabelled @ (np.logaddexp(0, known) - np.logaddexp(0, odds))
        value -= held_out @ (np.logaddexp(0, -odds) + is_in @ np.logaddexp(0, -shares))
        chances = expit(after)
        rise = is_unlabelled * (chances - expit(odds)) + held_out * expit(-odds)
        by_slope = rise @ peaks.odds
        if not is_level:
            value -= (slope - _SLOPE) ** 2 / (2 * _SCATTER**2)
            by_slope -= (slope - _SLOPE) / _SCATTER**2
        variance = np.exp(log_variance)
        left = (own - chances * apart) / variance
        away = (own**2 - chances * apart * (2 * own - apart)) / variance
        slopes = [
            *(by_slope, *(rise @ is_in)),
            *(
                held_out @ is_in * expit(-shares)
                - (is_unlabelled * chances) @ is_in * expit(shares)
            ),
            *(left.sum(), chances @ (own - apart) / variance, (away - 1).sum() / 2),
            left @ peaks.is_aligned,
        ]
        return -float(value), -np.array(slopes)

    gain = 0.0 if not peaks.is_aligned.any() else peaks.gain
    shares = [None if number else _NOBODY for number in held_out @ is_in]
    found = minimize(
        loss,
        [
            *(0.0 if is_level else _SLOPE, *np.zeros(tomograms)),
            *(share or 0.0 for share in shares),
            *(float(peaks.fits.mean()), 1.0, 0.0, gain or 0.0),
        ],
        jac=True,
        method="L-BFGS-B",
        bounds=[
            (0.0, 0.0 if is_level else None),
            *[(None, None)] * tomograms,
            *((share, share) for share in shares),
            *((None, None), (0.0, None), (np.log(_LEAST_VARIANCE), None)),
            (0.0, None) if gain is None else (gain, gain),
        ],
        options={"maxiter": 1000},
    ).x
    (slope,), _, _, (other,), (apart,), (log_variance,), (gain,) = np.split(found, split)
    odds, known, own, after = read(found)
    return _Fitted(
        slope=float(slope),
        other=float(other),
        apart=float(apart),
        variance=float(np.exp(log_variance)),
        gain=float(gain),
        odds=odds,
        known=known,
        chances=expit(after),
        likelihood=likelihood(known, own, after, log_variance),
    )


def _line(terms: Floats, shares: Floats) -> Floats:
    """(k,) slope and constants of the log odds, by logistic regression of (n,) shares on (n, k)."""
    ridge = np.zeros(terms.shape[1])
    ridge[0] = _RIDGE

    def loss(line: Floats) -> tuple[float, Floats]:
        odds = terms @ line
        value = np.logaddexp(0, odds) - shares * odds
        slopes = terms.T @ (expit(odds) - shares) + ridge * line
        return float(value.sum() + ridge @ line**2 / 2), slopes

    found: Floats = minimize(loss, np.zeros(len(ridge)), jac=True, method="L-BFGS-B").x
    return found
