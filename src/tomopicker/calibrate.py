"""Calibration: how many particles a tomogram holds, and where to cut the list of peaks.

Unlabelled is not negative, so no peak can be called false. What can be known is the share of the
labelled particles that stand above a cut-off, R(t), and the number of peaks above it, n(t). If
every peak above some cut-off were a particle, the tomogram would hold n(t) / R(t) of them; false
peaks only raise that ratio, so its least value estimates the number of particles N (the bound
behind best bin estimation of a class prior, Garg et al. 2021). Then N R(t) of the n(t) peaks are
particles.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.spatial import KDTree

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tomopicker.types import Floats

MATCH_RADII = 0.75
"""A peak within this many particle radii of a label is that particle."""

MOST_PEAKS = 20_000
"""Peaks that are looked at in a tomogram: several times what the most crowded cell holds."""

FEWEST_TO_CALIBRATE = 10
"""Held-out particles below which a recall says too little."""

_LEAST_RECALL = 0.4


@dataclass(frozen=True, kw_only=True)
class Count:
    """An estimated number of particles with its interval (about 95 %)."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Scores that labelled particles have among the peaks of their tomogram."""

    scores: Floats
    """(k,) of those that were found, any order."""
    total: int
    """Labelled particles, found or not."""

    def recall(self, thresholds: Floats) -> Floats:
        """Share of the labelled particles whose score is at least each threshold."""
        ranked = np.sort(self.scores)
        return (len(ranked) - np.searchsorted(ranked, thresholds, side="left")) / self.total


def match_labelled(
    peaks: NDArray[np.float64], scores: Floats, labelled: NDArray[np.float64], *, tolerance: float
) -> Labelled:
    """Find the labelled particles among the peaks.

    Parameters
    ----------
    peaks, scores
        (n, 3) places of the peaks and (n,) their scores.
    labelled
        (m, 3) places of the labelled particles.
    tolerance
        Greatest distance of a peak from its particle; the best peak within it counts.
    """
    if not len(peaks):
        return Labelled(scores=np.empty(0), total=len(labelled))
    near = KDTree(peaks).query_ball_point(labelled, tolerance)
    found = [scores[rows].max() for rows in near if rows]
    return Labelled(scores=np.array(found, dtype=np.float64), total=len(labelled))


def estimate_count(scores: Floats, labelled: Labelled) -> Count:
    """Estimate the number of particles among peaks with the given scores.

    Each labelled particle's score that at least 40 % of them reach is tried as the cut-off t; the
    one with the least upper bound of n(t) / R(t) decides. The bound widens with the standard error
    of R(t), and the particle that defines the cut-off counts half, since it stands on it: without
    the three, a ratio from two or three labelled particles would often be the least by chance.
    """
    if not len(labelled.scores):
        return Count(estimate=0.0, low=0.0, high=float(len(scores)))
    thresholds = np.unique(labelled.scores)
    thresholds = thresholds[: np.count_nonzero(labelled.recall(thresholds) >= _LEAST_RECALL) or 1]
    recall = labelled.recall(thresholds) - 0.5 / labelled.total
    peaks = _above(scores, thresholds)
    error = np.sqrt((1 - recall + 1 / labelled.total) / (recall * labelled.total))
    best = int(np.argmin(peaks / recall * (1 + 1.96 * error)))
    if not peaks[best]:
        # No peak is as good as the labelled ones: another tomogram's scores, or no particle at all.
        return Count(estimate=0.0, low=0.0, high=float(len(scores)))
    estimate = float(peaks[best] / recall[best])
    spread = 1.96 * sqrt(error[best] ** 2 + 1 / peaks[best])
    return Count(
        estimate=estimate,
        low=max(estimate * (1 - spread), 0.0),
        high=min(estimate * (1 + spread), max(float(len(scores)), estimate)),
    )


def false_discovery_rate(scores: Floats, labelled: Labelled) -> Floats:
    """Expected share of false picks if the list is cut after each peak.

    Parameters
    ----------
    scores
        (n,) peak scores in descending order.

    Returns
    -------
    numpy.ndarray
        (n,), never decreasing down the list: 1 - N R(t) / n(t), where a later, purer cut-off
        would also have this peak (a q-value, Storey 2002).
    """
    count = estimate_count(scores, labelled)
    found = count.estimate * labelled.recall(scores)
    rate = np.clip(1 - found / np.arange(1, len(scores) + 1), 0, 1)
    return np.minimum.accumulate(rate[::-1])[::-1]


def probabilities(scores: Floats, labelled: Labelled) -> Floats:
    """Chance that each peak is a particle.

    N R(t) of the n(t) peaks above a cut-off t are particles, so the chance is how fast that number
    grows with n. Both are known where a labelled particle scores, and a better peak has no smaller
    chance: the chances are the slopes of the least concave majorant of (0, 0) and the points
    (n(t), min(N R(t), n(t))), t a labelled score. That is the Grenander (1956) estimator of a
    falling density, here of the particles over the ranks of the peaks, and the weighted isotonic
    regression of the precision between one labelled score and the next.

    Parameters
    ----------
    scores
        (n,) scores in descending order of all peaks as good as the worst labelled particle;
        further ones may follow.

    Returns
    -------
    numpy.ndarray
        (n,) from 0 to 1, never rising down the list, the same for equal scores. Their sum is the
        expected number of particles in the list. Peaks below the worst labelled particle have 0.

    Examples
    --------
    The best two peaks reach the second of three labelled particles, which counts half: 1.5 / 3 of
    all. So there are 2 / 0.5 = 4 particles, and three peaks share the other two.

    >>> labelled = Labelled(scores=np.array([9.0, 8.0, 1.0]), total=3)
    >>> probabilities(np.array([9.0, 8.0, 3.0, 2.0, 1.0, 0.0]), labelled).round(2).tolist()
    [1.0, 1.0, 0.67, 0.67, 0.67, 0.0]
    """
    chances = np.zeros(len(scores))
    thresholds = np.unique(labelled.scores)
    # Of several labelled scores between two peaks the lowest counts: it comes first.
    lengths, first = np.unique(_above(scores, thresholds), return_index=True)
    lengths, thresholds = lengths[lengths > 0], thresholds[first[lengths > 0]]
    if len(lengths):
        count = estimate_count(scores, labelled).estimate
        hits = np.minimum(count * labelled.recall(thresholds), lengths)
        peaks = np.diff(lengths, prepend=0)
        precision = np.diff(hits, prepend=0) / peaks
        slopes = isotonic_regression(precision, weights=peaks, increasing=False).x
        # Rounding must not make a chance of more than one.
        chances[: lengths[-1]] = np.repeat(np.clip(slopes, 0, 1), peaks)
    return chances


def automatic_length(scores: Floats, labelled: Labelled) -> int:
    """Length of the list with the best expected F1, 2 N R(t) / (n(t) + N).

    Parameters
    ----------
    scores
        (n,) peak scores in descending order.
    """
    count = estimate_count(scores, labelled)
    if not len(scores) or not count.estimate:
        return 0
    length = np.arange(1, len(scores) + 1)
    hits = np.minimum(count.estimate * labelled.recall(scores), length)
    return int(np.argmax(2 * hits / (length + count.estimate))) + 1


def _above(scores: Floats, thresholds: Floats) -> NDArray[np.int64]:
    ranked = np.sort(scores)
    return len(ranked) - np.searchsorted(ranked, thresholds, side="left")
