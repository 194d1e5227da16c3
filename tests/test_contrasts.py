"""Contrasts tell how many of the peaks are particles, whatever the scores make of them."""

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from tomopicker.contrasts import FEWEST_TO_JUDGE, Contrasts, judge_contrasts, learn_contrasts
from tomopicker.types import Floats

TRUE = Contrasts(slope=1.0, mean=-0.004, rise=0.006, apart=0.05, deviation=0.02, ratio=1.3)


@dataclass
class Peaks:
    """Peaks whose log odds are 0.5 (score - 10), with contrasts of two kinds."""

    scores: Floats
    odds: Floats
    contrasts: Floats
    is_particle: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        rng: np.random.Generator,
        *,
        count: int = 400,
        even: float = 0.8,
        model: Contrasts = TRUE,
    ) -> "Peaks":
        """Peaks of which those are likely particles whose odds pass a quantile of all."""
        spread = rng.normal(0, 3, count)
        odds = spread - np.quantile(spread, even)
        is_particle = rng.random(count) < 1 / (1 + np.exp(-odds))
        mean = model.mean + model.rise * odds + is_particle * model.apart
        deviation = model.deviation * np.where(is_particle, model.ratio, 1.0)
        return cls(10 + 2 * odds, odds, rng.normal(mean, deviation), is_particle)


LEARNED = TRUE.model_copy(update={"slope": 0.5})


@pytest.mark.parametrize("seed", range(3))
def test_what_contrasts_are_like_is_learned_from_a_few_labels(seed):
    rng = np.random.default_rng(seed)
    peaks = Peaks.of(rng, count=1500)
    known = peaks.odds.copy()
    known[np.flatnonzero(peaks.is_particle)[:20]] = 3.0
    first = Contrasts(slope=0.5, mean=0.004, apart=0.065, deviation=0.026)
    learned = learn_contrasts(peaks.contrasts, peaks.odds, known, first=first)
    assert learned is not None
    assert learned.slope == 0.5
    # All nearer to the truth than where the search began.
    assert learned.mean == pytest.approx(TRUE.mean, abs=0.004)
    assert learned.rise == pytest.approx(TRUE.rise, abs=0.002)
    assert learned.apart == pytest.approx(TRUE.apart, rel=0.15)
    assert learned.deviation == pytest.approx(TRUE.deviation, rel=0.1)
    assert learned.ratio == pytest.approx(TRUE.ratio, abs=0.2)


def test_kinds_that_are_much_alike_tell_no_number():
    rng = np.random.default_rng(0)
    model = TRUE.model_copy(update={"apart": 0.006})
    peaks = Peaks.of(rng, count=1000, model=model)
    first = Contrasts(slope=0.5, mean=0.0, apart=0.01, deviation=0.02)
    assert learn_contrasts(peaks.contrasts, peaks.odds, peaks.odds, first=first) is None


@pytest.mark.parametrize("even", [0.6, 0.8, 0.9])
@pytest.mark.parametrize("expected", [0.4, 1.0, 2.5])
def test_the_number_is_told_though_the_scores_expect_another(even, expected):
    away = []
    for seed in range(6):
        peaks = Peaks.of(np.random.default_rng(seed), even=even)
        number = peaks.is_particle.sum()
        told = judge_contrasts(peaks.scores, peaks.contrasts, LEARNED, expected=expected * number)
        assert told is not None
        away.append(np.log(told.chances.sum() / number))
    # What was expected is off by 0.92.
    assert np.sqrt(np.mean(np.square(away))) < 0.2
    assert abs(np.mean(away)) < 0.15


def test_chances_are_the_shares_of_particles():
    chances, truth = [], []
    for seed in range(20):
        peaks = Peaks.of(np.random.default_rng(seed))
        expected = 1.5 * float(peaks.is_particle.sum())
        told = judge_contrasts(peaks.scores, peaks.contrasts, LEARNED, expected=expected)
        assert told is not None
        chances.append(told.chances)
        truth.append(peaks.is_particle)
    every, are = np.concatenate(chances), np.concatenate(truth)
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.0)):
        some = (every >= low) & (every <= high)
        assert are[some].mean() == pytest.approx(every[some].mean(), abs=0.1)


def test_contrasts_may_be_somewhat_different_and_the_interval_says_how_much_that_matters():
    away, known_better = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        by = {
            "mean": TRUE.mean + rng.normal(0, 0.15) * TRUE.deviation,
            "rise": TRUE.rise + rng.normal(0, 0.05) * TRUE.deviation,
            "apart": TRUE.apart * np.exp(rng.normal(0, 0.25)),
            "deviation": TRUE.deviation * np.exp(rng.normal(0, 0.2)),
            "ratio": TRUE.ratio * np.exp(rng.normal(0, 0.1)),
        }
        peaks = Peaks.of(rng, model=TRUE.model_copy(update=by))
        number = peaks.is_particle.sum()
        told = judge_contrasts(peaks.scores, peaks.contrasts, LEARNED, expected=2.0 * number)
        assert told is not None
        away.append(np.log(told.chances.sum() / number))
        known_better.append(told.deviation)
    # About 95 % within 1.96 deviations, which are no wider than they have to be.
    inside = np.mean(np.abs(away) < 1.96 * np.array(known_better))
    assert 0.85 <= inside <= 1.0
    assert np.sqrt(np.mean(np.square(np.divide(away, known_better)))) > 0.4
    # What was expected is off by 0.69; if contrasts had to be as learned it would be 0.14.
    assert np.sqrt(np.mean(np.square(away))) < 0.11


def test_however_many_the_peaks_the_number_is_not_surer_than_the_model():
    peaks = Peaks.of(np.random.default_rng(0), count=20_000)
    number = float(peaks.is_particle.sum())
    told = judge_contrasts(peaks.scores, peaks.contrasts, LEARNED, expected=number)
    assert told is not None
    assert told.deviation > 0.14


@pytest.mark.parametrize("ratio", [0.7, 1.0, 1.6])
def test_a_better_fit_makes_no_particle_less_likely(ratio):
    model = LEARNED.model_copy(update={"ratio": ratio, "apart": 0.02, "rise": 0.0})
    peaks = Peaks.of(np.random.default_rng(0), model=model)
    # A hundred of one score, with contrasts from the worst to the best.
    contrasts = np.append(peaks.contrasts, np.linspace(-0.1, 0.15, 100))
    scores = np.append(peaks.scores, np.full(100, 10.0))
    number = float(peaks.is_particle.sum())
    told = judge_contrasts(scores, contrasts, model, expected=number + 50)
    assert told is not None
    assert (np.diff(told.chances[-100:]) >= -1e-12).all()
    assert told.chances[-1] > told.chances[-100] + 0.1


def test_scores_that_are_lower_or_higher_change_nothing():
    peaks = Peaks.of(np.random.default_rng(0))
    expected = float(peaks.is_particle.sum())
    one = judge_contrasts(peaks.scores, peaks.contrasts, LEARNED, expected=expected)
    other = judge_contrasts(peaks.scores - 7, peaks.contrasts, LEARNED, expected=expected)
    assert one is not None
    assert other is not None
    np.testing.assert_allclose(one.chances, other.chances, atol=0.01)


def test_a_crowd_of_look_alikes_is_not_taken_for_particles():
    rng = np.random.default_rng(0)
    peaks = Peaks.of(rng, even=0.9)
    # They score as particles do, and fit as others do.
    alike = rng.normal(11, 1, 60)
    scores = np.append(peaks.scores, alike)
    contrasts = np.append(peaks.contrasts, rng.normal(TRUE.mean, TRUE.deviation, 60))
    number = peaks.is_particle.sum()
    told = judge_contrasts(scores, contrasts, LEARNED, expected=float(number + 60))
    assert told is not None
    assert told.chances.sum() < number + 20
    assert told.chances[-60:].mean() < 0.3


@pytest.mark.parametrize(("expected", "most"), [(40.0, 10), (200.0, 20)])
def test_where_nothing_is_a_particle_hardly_any_is_told(expected, most):
    rng = np.random.default_rng(0)
    model = LEARNED.model_copy(update={"rise": 0.0})
    scores, contrasts = rng.normal(5, 3, 400), rng.normal(TRUE.mean, TRUE.deviation, 400)
    told = judge_contrasts(scores, contrasts, model, expected=expected)
    assert told is not None
    assert told.chances.sum() < most


def test_too_few_peaks_tell_nothing():
    peaks = Peaks.of(np.random.default_rng(0), count=FEWEST_TO_JUDGE - 1)
    assert judge_contrasts(peaks.scores, peaks.contrasts, LEARNED, expected=5.0) is None


@pytest.mark.parametrize("expected", [0.0, 1e9])
def test_whatever_is_expected_chances_are_finite(expected):
    peaks = Peaks.of(np.random.default_rng(0))
    told = judge_contrasts(peaks.scores, peaks.contrasts, LEARNED, expected=expected)
    assert told is not None
    assert np.isfinite(told.chances).all()
    alike = np.zeros(50)
    told = judge_contrasts(alike, alike, LEARNED, expected=expected)
    assert told is not None
    assert np.isfinite(told.chances).all()
