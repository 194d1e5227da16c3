"""Contrasts: how many of a tomogram's peaks are particles, as a template's contrasts tell.

Scores of another tomogram are higher or lower than those of the one with labels, and its particles
more or fewer. Scores alone do not tell the two apart: a crowd of look-alikes passes for particles,
and faint particles for look-alikes. Contrasts do, where the template's shape tells a particle from
others: among the peaks of one score they are a mixture of the two kinds, whose shares show.

With the log odds t = slope (score - even) that a peak is a particle by its score, contrasts are

    others: normal(mean + rise t, deviation²)
    particles: normal(mean + rise t + apart, (ratio deviation)²)

All of these values are learned where particles are labelled (`learn_contrasts`). In another
tomogram the score of even odds is free, the other values stay near what was learned, and the number
of particles near what was expected, loosely (`judge_contrasts`). That is the estimation of a class
prior that has shifted (Saerens et al. 2002), by a mixture whose proportions depend on a covariate
(McLachlan and Peel 2000).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, hypot, log
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.special import expit

from tomopicker.calibrate import Finite
from tomopicker.posterior import deviation_of, most_likely

if TYPE_CHECKING:
    from tomopicker.types import Floats

FEWEST_TO_JUDGE = 20
"""Peaks below which their contrasts say too little."""

_LEAST_APART = 0.75
"""Of the two kinds, in deviations. Where they are nearer, any bend in how the others' contrasts
rise with the score passes for particles: for kinds that were 0.4 to 0.65 apart two to five times
too many were told."""

_WHERE_LABELLED = np.array([0.5, 0.2, 0.3, 0.3, 0.2])
_ELSEWHERE = np.array([0.15, 0.05, 0.25, 0.2, 0.1])
"""Standard deviations of the priors of mean and rise, in units of the others' deviation, and of the
logarithms of apart, deviation and ratio: about what the mixture has found, in which contrasts do
not rise and both deviations are one, and in other tomograms about what was learned."""
_NUMBER = 1.0
"""Of the logarithm of the number of particles, about what was expected."""
_FARTHEST = 4.0
"""Of those deviations that are searched."""
_BEYOND = 5.0
"""Log odds of the best and the worst score within which even odds are looked for."""
_MODEL = 0.15
"""Standard deviation of the logarithm of the number for all that the model does not know: with it
intervals were as wide as the errors on the benchmark's choice tomograms."""

Positive = Annotated[float, Field(ge=1e-6, le=1e6)]


class Contrasts(BaseModel):
    """What contrasts are like where particles are labelled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slope: Positive
    """Of the log odds that a peak is a particle, by its score."""
    mean: Finite
    """Of others, at even odds."""
    rise: Finite = 0.0
    """Of that mean, for a unit of the log odds."""
    apart: Positive
    """By how much the particles' mean is higher."""
    deviation: Positive
    """Of others."""
    ratio: Annotated[float, Field(ge=0.1, le=10)] = 1.0
    """The particles' deviation over the others'."""


@dataclass(frozen=True, kw_only=True)
class Shares:
    """What contrasts tell of one tomogram."""

    chances: Floats
    """(n,) of being a particle, by score and contrast."""
    deviation: float
    """Standard deviation of the logarithm of the number of particles."""


def learn_contrasts(
    contrasts: Floats, odds: Floats, known: Floats, *, first: Contrasts
) -> Contrasts | None:
    """Learn what contrasts of particles and of others are like; None where they are much alike.

    Parameters
    ----------
    contrasts
        (n,) of peaks, without the gain of those that are in the average.
    odds
        (n,) log odds of being a particle by the score alone.
    known
        (n,) the same by score and label: high for labelled ones, and for unlabelled ones lower by
        the share of particles that are labelled.
    first
        What the mixture has found, in which contrasts do not rise and have one deviation.
    """

    def cost(away: Floats) -> float:
        particles, others = _densities(contrasts, odds, _moved(first, _WHERE_LABELLED * away))
        return float((away**2).sum() / 2 - _likelihood(known, particles, others))

    size = len(_WHERE_LABELLED)
    best = most_likely(cost, [np.zeros(size)], [(-_FARTHEST, _FARTHEST)] * size)
    learned = _moved(first, _WHERE_LABELLED * best)
    return learned if learned.apart >= _LEAST_APART * learned.deviation else None


def judge_contrasts(
    scores: Floats, contrasts: Floats, learned: Contrasts, *, expected: float
) -> Shares | None:
    """Tell each peak's chance of being a particle in any tomogram; None where peaks are too few.

    The values of the greatest posterior are taken; the deviation is that of its quadratic
    approximation there. A better fit never makes a particle less likely.

    Parameters
    ----------
    scores, contrasts
        (n,) of the peaks; scores without the contrasts.
    learned
        Where particles are labelled.
    expected
        Number of particles among these peaks, within a factor of three or so.
    """
    if len(scores) < FEWEST_TO_JUDGE:
        return None
    expected = min(max(expected, 1.0), 0.9 * len(scores))

    # In units in which the even odds are as well known as the other values.
    steep = learned.slope * scores

    def odds_of(values: Floats) -> Floats:
        odds: Floats = steep - values[0]
        return odds

    def number(values: Floats) -> float:
        return log(float(expit(odds_of(values)).sum()) + 1e-9)

    def cost(values: Floats) -> float:
        odds, model = odds_of(values), _moved(learned, _ELSEWHERE * values[1:])
        away = np.append(values[1:], (number(values) - log(expected)) / _NUMBER)
        return float((away**2).sum() / 2 - _likelihood(odds, *_densities(contrasts, odds, model)))

    # As if the best ones were the particles.
    start = float(np.quantile(steep, 1 - expected / len(steep)))
    # Even odds may be beyond all scores: then none is a particle, or each.
    bounds = [(float(steep.min()) - _BEYOND, float(steep.max()) + _BEYOND)]
    bounds += [(-_FARTHEST, _FARTHEST)] * len(_ELSEWHERE)
    best = most_likely(cost, [[start, *np.zeros(len(_ELSEWHERE))]], bounds)
    odds, model = odds_of(best), _moved(learned, _ELSEWHERE * best[1:])
    particles, others = _densities(_within(contrasts, odds, model), odds, model)
    return Shares(
        chances=expit(odds + particles - others),
        deviation=hypot(deviation_of(number, cost, best), _MODEL),
    )


def _moved(given: Contrasts, by: Floats) -> Contrasts:
    """Other values: mean and rise moved in units of the deviation, the others by factors."""
    mean, rise, apart, deviation, ratio = by.tolist()
    return Contrasts.model_construct(
        slope=given.slope,
        mean=given.mean + given.deviation * mean,
        rise=given.rise + given.deviation * rise,
        apart=given.apart * exp(apart),
        deviation=given.deviation * exp(deviation),
        ratio=given.ratio * exp(ratio),
    )


def _densities(contrasts: Floats, odds: Floats, model: Contrasts) -> tuple[Floats, Floats]:
    """(n,) logarithms of the densities of a particle's contrast and of another's."""
    mean = model.mean + model.rise * odds
    return (
        _log_normal(contrasts - mean - model.apart, model.ratio * model.deviation),
        _log_normal(contrasts - mean, model.deviation),
    )


def _within(contrasts: Floats, odds: Floats, model: Contrasts) -> Floats:
    """Contrasts, cut where more of them would speak for the kind that scatters more, either way.

    The logarithm of the ratio of the two densities is a parabola; this is its vertex.
    """
    if model.ratio == 1:
        return contrasts
    # Above the others' mean, where the slopes of both logarithms are the same.
    vertex = model.mean + model.rise * odds + model.apart / (1 - model.ratio**2)
    bound = np.maximum if model.ratio > 1 else np.minimum
    cut: Floats = bound(contrasts, vertex)
    return cut


def _log_normal(away: Floats, deviation: float) -> Floats:
    """Logarithm of a normal density, but for a constant.

    >>> _log_normal(np.array([1.0, 2.0]), 1.0).tolist()
    [-0.5, -2.0]
    """
    density: Floats = -((away / deviation) ** 2) / 2 - log(deviation)
    return density


def _likelihood(known: Floats, particles: Floats, others: Floats) -> float:
    """Logarithm of that of the contrasts, by log odds that they have not told."""
    both = np.logaddexp(others, known + particles) - np.logaddexp(0, known)
    return float(both.sum())
