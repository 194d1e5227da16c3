"""Calibration: the chance that each peak is a particle, how many there are, and where to cut.

Unlabelled is not negative, so no peak can be called false. What can be known is how the labelled
particles score, and how many peaks there are at every score. The best peaks of a tomogram are
taken for a Poisson process over their score z, particles and others together:

    rate(z) = N normal(z; mean, deviation) + exp(level - slope z - curvature z²)

In a tomogram with labelled particles, mean and deviation are theirs and the rest is fitted. Scores
of a noisier or thicker tomogram are lower, those of its particles and of everything else alike.
So z counts in units of each tomogram's own peaks, and in another tomogram the particles'
scores are fitted too, not far from where the labelled ones are.

Candidates that a person was shown are no fair sample of the particles: a review asks for those
about the cut-off. So accepted ones count neither for the mean nor for the recall.
But whichever score was asked for, the answer is a fair draw of the chance there, and the fit has to
give what was accepted and rejected a likely one.

Where a template's contrasts tell particles from others, they have the last word (`contrasts`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.optimize import isotonic_regression
from scipy.spatial import KDTree

from tomopicker.labels import ball_voxels
from tomopicker.posterior import deviation_of, most_likely
from tomopicker.verdicts import SLIPS, expected_f1

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tomopicker.types import Floats

MATCH_RADII = 0.75
"""A peak within this many particle radii of a label is that particle."""

FEWEST_TO_CALIBRATE = 10
"""Held-out particles below which their mean says too little."""

_UNIT_SHARE = 6
"""One unit of z is the score of the best sixth of the peaks above that of the last one."""

_FARTHEST = 1000.0
_BINS = 200

_LEAST_RECALL = 0.4
"""Of a cut-off at which particles are counted."""

# Of the logarithm of the number of particles below its bound, which false peaks raise.
_BOUND_IS_HIGH = 0.2
_BOUND_SPREAD = 0.3

# How far another tomogram may be from the one with labels: standard deviations of the prior.
_STRETCH = 0.1
_SHIFT = 0.1
_SLOPE = 0.4
_CURVATURE = 0.5
_DENSITY = 0.7

_OVERTAKEN = 3.0
"""What a particle costs, in log likelihood, that a peak lacks for having a smaller chance than a
lower one. Where the particles of a sparse tomogram stand far above the rest, the tail of the others
fits them as well, and the bulk of the others passes for particles."""

Finite = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]


class Calibration(BaseModel):
    """How peaks score in tomograms whose particles are labelled, or some of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    labelled_scores: tuple[Finite, ...]
    """Of the labelled particles that were found, in units of z."""
    raw_scores: tuple[Finite, ...] = ()
    """The same as the network gave them; empty in checkpoints that are older than this."""
    labelled: Annotated[int, Field(ge=1, le=10**12)]
    """Labelled particles in all, found or not."""
    held_out: bool
    """Whether enough were kept out of training to tell how unseen particles score."""
    peaks: Annotated[int, Field(ge=0, le=10**12)]
    """Peaks that were looked at."""
    particles: Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
    """Estimated number of particles among them."""
    level: Finite
    """Of the other peaks, as `slope` and `curvature`: exp(level - slope z - curvature z²)."""
    slope: Annotated[float, Field(gt=0, le=1e3)]
    curvature: Annotated[float, Field(gt=0, le=1e3)]

    @property
    def missed(self) -> float:
        """Particles for each one that is among the peaks; some of the labelled ones have to be."""
        return self.labelled / len(self.labelled_scores)

    @property
    def missed_deviation(self) -> float:
        """Standard deviation of the logarithm of that: the labelled ones are a sample.

        >>> found = Calibration(
        ...     labelled_scores=(1.0,) * 20, labelled=25, held_out=True, peaks=99, particles=30,
        ...     level=1, slope=1, curvature=1,
        ... )
        >>> found.missed, round(found.missed_deviation, 3)  # √(0.2 / (0.8 × 25))
        (1.25, 0.1)
        """
        found = len(self.labelled_scores)
        return math.sqrt((self.labelled - found) / (found * self.labelled))


@dataclass(frozen=True, kw_only=True)
class Count:
    """An estimated number of particles with its interval (about 95 %)."""

    estimate: float
    low: float
    high: float

    @classmethod
    def of(cls, estimate: float, deviation: float) -> Count:
        """Of the standard deviation of the number's logarithm.

        >>> Count.of(10, math.log(2) / 1.96)
        Count(estimate=10, low=5.0, high=20.0)
        """
        spread = math.exp(1.96 * deviation)
        return cls(estimate=estimate, low=estimate / spread, high=estimate * spread)


@dataclass(frozen=True, kw_only=True)
class LabelledScores:
    """Scores that labelled particles have among the peaks of their tomogram."""

    scores: Floats
    """(k,) of those that were found, any order; a fair sample of all particles."""
    total: int
    """Labelled particles, found or not."""
    accepted: Floats = field(default_factory=lambda: np.empty(0))
    """(n,) of peaks that a person was shown and took for particles, any order."""
    rejected: Floats = field(default_factory=lambda: np.empty(0))
    """(m,) of peaks that are known to be no particles, any order."""


@dataclass(frozen=True, kw_only=True)
class ScoreHistogram:
    """How many peaks there are at every score, and how many the fit has there."""

    edges: Floats
    """(k + 1,) scores between the bins, rising."""
    counts: NDArray[np.int64]
    """(k,) peaks."""
    particles: Floats
    """(k,) particles that the fit expects among them."""
    others: Floats
    """(k,) other peaks that it expects."""
    training: Floats
    """(k,) peaks of both kinds, were they distributed as in the labelled tomograms."""

    @property
    def unlike_training(self) -> float:
        """Least share of the peaks that would have to score differently to be as in training.

        It is the greatest difference of the two cumulative shares, on which bins have no say.

        >>> one, two = np.array([1, 0]), np.array([1.0, 1.0])
        >>> ScoreHistogram(
        ...     edges=np.arange(3.0), counts=one, particles=two, others=two, training=two
        ... ).unlike_training
        0.5
        """
        shares = self.counts / self.counts.sum() - self.training / self.training.sum()
        return float(np.abs(np.cumsum(shares)).max())


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What is known of a tomogram's peaks."""

    chances: Floats
    """(n,) probability that each peak is a particle, best first, never rising."""
    count: Count
    """Particles in the tomogram."""
    histogram: ScoreHistogram | None = None
    """What it was judged by; None where there was nothing to judge by."""
    by_contrasts: bool = False
    """Whether a template's contrasts told them, and not the scores alone."""

    @property
    def best_length(self) -> int:
        """Length of the list with the best expected F1.

        >>> count = Count(estimate=2, low=1, high=3)
        >>> Judged(chances=np.array([0.9, 0.8, 0.2, 0.1]), count=count).best_length
        2
        """
        if not self.chances.any():
            return 0
        return int(np.argmax(expected_f1(self.chances, self.count.estimate))) + 1

    def with_contrasts(
        self, scores: Floats, chances: Floats, *, missed: float, deviation: float
    ) -> Judged:
        """Judge by chances that contrasts have told, which need not fall.

        They are made to, by the least squares (isotonic regression).

        Parameters
        ----------
        scores
            (n,) of the peaks, best first.
        chances
            (n,) that each is a particle.
        missed
            Particles for each one that is among the peaks.
        deviation
            Standard deviation of the logarithm of their number.
        """
        falling = isotonic_regression(chances, increasing=False).x
        histogram = self.histogram
        if histogram is not None:
            middles = (histogram.edges[:-1] + histogram.edges[1:]) / 2
            share = np.interp(middles, scores[::-1], falling[::-1])
            every = histogram.particles + histogram.others
            histogram = replace(histogram, particles=share * every, others=(1 - share) * every)
        return Judged(
            chances=falling,
            count=Count.of(float(falling.sum()) * missed, deviation),
            histogram=histogram,
            by_contrasts=True,
        )

    def length_at(self, rate: float) -> int:
        """Length of the longest list whose expected share of false picks is at most `rate`.

        >>> count = Count(estimate=2, low=1, high=3)
        >>> Judged(chances=np.array([0.9, 0.7, 0.2]), count=count).length_at(0.2)
        2
        """
        length = np.arange(1, len(self.chances) + 1)
        # Chances never rise down the list, so neither does the share of hits.
        return int(np.count_nonzero(1 - np.cumsum(self.chances) / length <= rate + 1e-12))


def most_candidates(voxels: int, spacing: float) -> int:
    """Peaks to look at in a volume: as many as fill half of it with balls of their spacing.

    >>> most_candidates(14190, 7)  # a ball of radius 7 has 1419 voxels
    5
    """
    return max(voxels // (2 * ball_voxels(spacing)), 1)


def matched_rows(
    peaks: KDTree, scores: Floats, places: NDArray[np.float64], *, tolerance: float
) -> list[int]:
    """Row of the best peak within the tolerance of each place that has one there."""
    near = peaks.query_ball_point(places, tolerance)
    return [rows[scores[rows].argmax()] for rows in near if rows]


def match_labelled(
    peaks: NDArray[np.float64],
    scores: Floats,
    labelled: NDArray[np.float64],
    *,
    accepted: NDArray[np.float64] | None = None,
    rejected: NDArray[np.float64] | None = None,
    tolerance: float,
) -> LabelledScores:
    """Find the labelled particles, and what was accepted and rejected, among the peaks.

    Parameters
    ----------
    peaks, scores
        (n, 3) places of the peaks and (n,) their scores.
    labelled
        (m, 3) places of the labelled particles.
    accepted
        (l, 3) places of particles that a person was shown, in a list that a picker had made.
    rejected
        (k, 3) places that are known to be something else.
    tolerance
        Greatest distance of a peak from its particle; the best peak within it counts.
    """
    tree = KDTree(peaks)
    found = matched_rows(tree, scores, labelled, tolerance=tolerance)
    right = set()
    if accepted is not None:
        right = set(matched_rows(tree, scores, accepted, tolerance=tolerance)) - set(found)
    wrong: set[int] = set()
    if rejected is not None and len(rejected):
        # The nearest, and no particle's: two of them may be within the tolerance.
        apart, nearest = tree.query(rejected)
        wrong = set(nearest[apart <= tolerance].tolist()) - set(found) - right
    return LabelledScores(
        scores=np.asarray(scores[found], dtype=np.float64),
        total=len(labelled),
        accepted=np.asarray(scores[sorted(right)], dtype=np.float64),
        rejected=np.asarray(scores[sorted(wrong)], dtype=np.float64),
    )


def count_at_most(scores: Floats, labelled: LabelledScores) -> float:
    """Bound the number of particles among peaks from above, whatever the other peaks are like.

    If every peak above some cut-off t were a particle, there would be n(t) / R(t) of them, with
    n(t) peaks, but for those that were rejected, and the share R(t) of the labelled particles above
    it. False peaks only raise that ratio, so its least value is the bound (as in best bin
    estimation of a class prior, Garg et al. 2021). Cut-offs that fewer than 40 % of the labelled
    particles reach are not tried, the particle that defines the cut-off counts half, since it
    stands on it, and the ratios are compared by their upper confidence limits: else two or three
    lucky particles would decide.

    Parameters
    ----------
    scores
        (n,) in descending order.
    """
    if not len(labelled.scores):
        return float(len(scores))
    thresholds = np.unique(labelled.scores)
    above = len(labelled.scores) - np.searchsorted(np.sort(labelled.scores), thresholds)
    recall = above / labelled.total
    tried = np.count_nonzero(recall >= _LEAST_RECALL) or 1
    recall = recall[:tried] - 0.5 / labelled.total
    peaks = len(scores) - np.searchsorted(scores[::-1], thresholds[:tried])
    rejected = np.sort(labelled.rejected)
    peaks -= len(rejected) - np.searchsorted(rejected, thresholds[:tried])
    error = np.sqrt((1 - recall + 1 / labelled.total) / (recall * labelled.total))
    best = int(np.argmin(peaks / recall * (1 + 1.96 * error)))
    return float(peaks[best] / recall[best])


def count_in_all(tomograms: Sequence[tuple[Floats, LabelledScores]]) -> float:
    """Bound the number of particles in several tomograms from above, by `count_at_most`.

    Their peaks count together, in units of each one's own, as few or none of the labelled
    particles may be in some of them.

    Parameters
    ----------
    tomograms
        For each the scores of its peaks, in descending order, and those of its labelled particles.
    """
    return count_at_most(*_together(tomograms))


def learn_calibration(
    tomograms: Sequence[tuple[Floats, LabelledScores]], *, known: int, held_out: bool
) -> Calibration:
    """Learn how labelled particles and other peaks score.

    Parameters
    ----------
    tomograms
        For each the scores of its candidate peaks, in descending order (see `most_candidates`), and
        those of its labelled particles.
    known
        Particles that are known to be in these tomograms, at least.
    held_out
        Whether enough of them were kept out of training, and the others' scores lowered to theirs.
    """
    z, together = _together(tomograms)
    scores = together.scores
    total = sum(labelled.total for _, labelled in tomograms)
    counts, centres, width = _histogram(z)
    mean, deviation = _location(scores)
    least = math.log(max(known, 1))
    bound = max(count_at_most(z, together), 1.0)
    likely = max(math.log(bound) - _BOUND_IS_HIGH, least)

    def rates(z: Floats, values: Floats) -> tuple[Floats, Floats]:
        return _others(z, *values[:3]), math.exp(values[3]) * _normal(z, mean, deviation)

    def surprise(values: Floats) -> float:
        """Minus the logarithm of the chance that the verdicts are what they are."""
        if not len(together.accepted):
            # What was rejected alone, and nobody says out of how many, tells of no chance.
            return 0.0
        chances = []
        for places, is_particle in ((together.accepted, True), (together.rejected, False)):
            others, particles = rates(places, values)
            both = (others, particles) if is_particle else (particles, others)
            chances.append(_chances(*both))
        chance = SLIPS + (1 - 2 * SLIPS) * np.concatenate(chances)
        return -float(np.log(chance).sum())

    def cost(values: Floats) -> float:
        others, particles = rates(centres, values)
        # Wide where there is much to fit. Where labelled particles score like the rest, the
        # peaks alone cannot tell how many there are, and the bound has to.
        prior = 0.5 * ((values[1] - 0.5) / 3) ** 2 + 0.5 * ((values[2] + 2) / 2) ** 2
        prior += 0.5 * ((values[3] - likely) / _BOUND_SPREAD) ** 2
        return _misfit(counts, (others + particles) * width) + float(prior) + surprise(values)

    def start(log_slope: float, log_particles: float) -> tuple[float, float, float, float]:
        """What is no particle is another peak: far off, the search ends where all are particles."""
        others = max(len(z) - math.exp(log_particles), 1.0)
        level = math.log(others / (_others(centres, 0.0, log_slope, -2.0).sum() * width))
        return level, log_slope, -2.0, log_particles

    bounds = [(-20.0, 25.0), (-6.0, 3.0), (-8.0, 3.0), (least, likely + 2)]
    starts = [start(slope, likely + step) for slope in (0.5, 1.5) for step in (-0.5, 0.0, 0.5)]
    best = most_likely(cost, starts, bounds)
    raw = np.concatenate([*(labelled.scores for _, labelled in tomograms), np.empty(0)])
    return Calibration(
        labelled_scores=tuple(np.sort(scores).tolist()),
        raw_scores=tuple(np.sort(raw).tolist()),
        labelled=max(total, 1),
        held_out=held_out,
        peaks=len(z),
        particles=math.exp(best[3]),
        level=best[0],
        slope=math.exp(best[1]),
        curvature=math.exp(best[2]),
    )


def judge(scores: Floats, calibration: Calibration) -> Judged:
    """Tell the chance of each peak, and the number of particles, in any tomogram.

    The most likely rates are taken, given the scores and what the labelled tomograms were like:
    normal priors on the particles' mean and deviation (one factor for both and a shift), on the
    shape of the other peaks, and on the logarithm of the particles' density.
    The interval of the number is that of the quadratic approximation at the maximum.

    Parameters
    ----------
    scores
        (n,) scores of the candidate peaks in descending order (see `most_candidates`).
    """
    if not len(scores) or not calibration.labelled_scores:
        # Nothing to judge by: another particle's model, or no peak at all.
        nothing = Count(estimate=0.0, low=0.0, high=float(len(scores)))
        return Judged(chances=np.zeros(len(scores)), count=nothing)
    z = _standard(scores, scores)
    counts, centres, width = _histogram(z)
    labelled = np.array(calibration.labelled_scores)
    mean, deviation = _location(labelled)
    size = math.log(len(scores) / max(calibration.peaks, 1))
    expected = np.array(
        [
            calibration.level + size,
            math.log(calibration.slope),
            math.log(calibration.curvature),
            math.log(max(calibration.particles, 1e-3)) + size,
            0.0,
            0.0,
        ]
    )
    shift = math.hypot(_SHIFT, deviation / math.sqrt(len(labelled)))

    def rates(z: Floats, values: Floats) -> tuple[Floats, Floats]:
        stretch = math.exp(values[4])
        shape = _normal(z, mean * stretch + values[5], deviation * stretch)
        return _others(z, *values[:3]), math.exp(values[3]) * shape

    def cost(values: Floats) -> float:
        away = (values - expected) / np.array([1.0, _SLOPE, _CURVATURE, _DENSITY, _STRETCH, shift])
        prior = 0.5 * (away[1:] ** 2).sum()
        others, particles = rates(centres, values)
        misfit = _misfit(counts, (others + particles) * width)
        return misfit + float(prior) + _OVERTAKEN * _overtaken(counts, others, particles)

    bounds = [(-20.0, 25.0), (-7.0, 7.0), (-9.0, 7.0), (-2.0, math.log(len(scores) + 1.0))]
    bounds += [(-1.0, 1.0), (-3.0, 3.0)]
    # From the expected values alone the search may end where the particles of a sparse tomogram,
    # whose z are far higher, are taken for other peaks, and the other peaks for particles.
    starts = [
        expected + np.array([0, 0, 0, step, *moved])
        for step in (-1.0, 0.0, 1.0)
        for moved in ((0.0, 0.0), (0.4, 0.3), (-0.4, -0.3))
    ]
    best = most_likely(cost, starts, bounds)
    others, particles = rates(z, best)
    chances = _chances(others, particles)
    # A better peak has no smaller chance, though a normal's tail may fall faster than the others'.
    chances = np.minimum.accumulate(np.maximum.accumulate(chances[::-1])[::-1])
    spread = deviation_of(lambda values: float(values[3]), cost, best)
    others, particles = rates(centres, best)
    others_there, particles_there = rates(centres, expected)
    floor, unit = _units(scores)
    edges = floor + unit * width * np.arange(len(counts) + 1, dtype=np.float64)
    return Judged(
        chances=chances,
        count=Count.of(float(chances.sum()) * calibration.missed, spread),
        histogram=ScoreHistogram(
            edges=edges,
            counts=counts,
            particles=particles * width,
            others=others * width,
            training=(others_there + particles_there) * width,
        ),
    )


def _together(
    tomograms: Sequence[tuple[Floats, LabelledScores]],
) -> tuple[Floats, LabelledScores]:
    """Join the z of several tomograms' peaks, in descending order, and of what is labelled there.

    Tomograms without a peak, which have no unit either, are left out.
    """
    some = [(scores, labelled) for scores, labelled in tomograms if len(scores)]
    nothing = np.empty(0)

    def joined(parts: list[Floats]) -> Floats:
        return np.concatenate([*parts, nothing])

    z = joined([_standard(scores, scores) for scores, _ in some])
    return np.sort(z)[::-1], LabelledScores(
        scores=joined([_standard(labelled.scores, scores) for scores, labelled in some]),
        total=sum(labelled.total for _, labelled in some),
        accepted=joined([_standard(labelled.accepted, scores) for scores, labelled in some]),
        rejected=joined([_standard(labelled.rejected, scores) for scores, labelled in some]),
    )


def _standard(scores: Floats, candidates: Floats) -> Floats:
    """z of scores, in units of the candidates' scores, which are in descending order."""
    floor, unit = _units(candidates)
    # Where most are nearly alike, one that is not would be at infinity.
    z: Floats = np.clip((scores - floor) / unit, 0.0, _FARTHEST)
    return z


def _units(candidates: Floats) -> tuple[float, float]:
    """Score at which z is 0, and the difference of scores by which it grows by 1."""
    floor = float(candidates[-1])
    unit = float(candidates[len(candidates) // _UNIT_SHARE]) - floor
    if not unit > 0:  # all alike
        unit = max(float(candidates[0]) - floor, 1.0)
    return floor, unit


def _location(labelled: Floats) -> tuple[float, float]:
    """Mean and standard deviation of the labelled particles' z."""
    if len(labelled) < 2:
        return float(labelled.mean()) if len(labelled) else 1.0, 0.5
    return float(labelled.mean()), max(float(labelled.std(ddof=1)), 0.1)


def _normal(z: Floats, mean: float, deviation: float) -> Floats:
    """Density of a normal distribution; scipy's takes a third of a second to import.

    >>> _normal(np.array([2.0]), 2.0, 0.5).round(4)  # 1 / (0.5 √(2π))
    array([0.7979])
    """
    away: Floats = (z - mean) / deviation
    density: Floats = np.exp(-(away**2) / 2) / (math.sqrt(2 * math.pi) * deviation)
    return density


def _others(z: Floats, level: float, log_slope: float, log_curvature: float) -> Floats:
    exponent = level - math.exp(log_slope) * z - math.exp(log_curvature) * z**2
    rate: Floats = np.exp(np.clip(exponent, -60, 60))
    return rate


def _histogram(z: Floats) -> tuple[NDArray[np.int64], Floats, float]:
    """Numbers of peaks in narrow bins, the bins' centres and their width."""
    counts, edges = np.histogram(z, bins=_BINS, range=(0.0, float(z.max(initial=0.0)) + 1e-6))
    return counts, (edges[:-1] + edges[1:]) / 2, float(edges[1] - edges[0])


def _misfit(counts: NDArray[np.int64], expected: Floats) -> float:
    """Minus the logarithm of the Poisson likelihood, but for a constant."""
    return float((expected - counts * np.log(expected + 1e-12)).sum())


def _chances(others: Floats, particles: Floats) -> Floats:
    """Share of the second rate in both, where neither may be more than nothing."""
    chances: Floats = particles / (particles + others + 1e-300)
    return chances


def _overtaken(counts: NDArray[np.int64], others: Floats, particles: Floats) -> float:
    """Expected number of particles that peaks lack for having a smaller chance than lower ones.

    >>> _overtaken(np.array([5, 2]), np.array([1.0, 3.0]), np.array([1.0, 1.0]))
    0.5
    """
    chances = _chances(others, particles)
    return float(counts @ (np.maximum.accumulate(chances) - chances))
