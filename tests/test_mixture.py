"""Particles and others among peaks, by score and contrast."""

import numpy as np
import pytest

from tomopicker.contrasts import Contrasts
from tomopicker.mixture import Mixture, fit_mixture
from tomopicker.types import Floats


class Peaks:
    """400 peaks, 120 of them particles, whose log odds rise by half of the score.

    Contrasts have a deviation of 0.02. By Bayes they count `apart` / 0.02 beside scores that count
    1.5 / 3, with `apart` deviations between particles and others. The chances are those of a
    calibration, whose odds rise too steeply.
    """

    def __init__(self, seed: int, *, apart: float, labelled: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.is_particle = np.arange(400) < 120
        self.scores = 3 * self.rng.normal(1.5 * self.is_particle, 1)
        self.contrasts = 0.02 * self.rng.normal(apart * self.is_particle, 1)
        odds = 0.5 * (self.scores - 2.25) + np.log(120 / 280)
        self.chances = 1 / (1 + np.exp(-1.5 * odds))
        self.is_labelled = np.arange(400) < labelled
        self.is_trained = self.is_labelled.copy()
        self.is_aligned = np.zeros(400, dtype=bool)
        self.tomograms = np.zeros(400, dtype=np.intp)

    def fit(
        self, most: float = 500.0, known_gain: float | None = None
    ) -> tuple[float, float, Floats]:
        fitted = self.fitted(most, known_gain)
        return fitted.weight, fitted.gain, fitted.chances

    def fitted(self, most: float = 500.0, known_gain: float | None = None) -> Mixture:
        return fit_mixture(
            self.scores,
            self.contrasts,
            self.chances,
            is_labelled=self.is_labelled,
            is_trained=self.is_trained,
            is_aligned=self.is_aligned,
            tomograms=self.tomograms,
            most=most,
            known_gain=known_gain,
        )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("labelled", [0, 10])
def test_contrast_counts_as_bayes_has_it(seed: int, labelled: int) -> None:
    peaks = Peaks(seed, apart=2.5, labelled=labelled)
    weight, gain, chances = peaks.fit()
    assert 0.6 * 250 < weight < 1.6 * 250
    assert gain == 0
    # Both together tell them better than the score alone.
    wrong = np.mean((chances > 0.5) != peaks.is_particle)
    assert wrong < 0.6 * np.mean((peaks.chances > 0.5) != peaks.is_particle)


def test_what_contrasts_are_like_is_found_with_it() -> None:
    learned = Peaks(0, apart=2.5).fitted().learned
    assert learned is not None
    assert learned.deviation == pytest.approx(0.02, rel=0.15)
    assert learned.apart == pytest.approx(0.05, rel=0.2)
    assert learned.slope == pytest.approx(0.5, rel=0.5)


def test_what_was_averaged_and_learned_from_does_not_change_what_contrasts_are_like() -> None:
    plain = Peaks(0, apart=2.5, labelled=60).fitted().learned
    assert plain is not None
    peaks = Peaks(0, apart=2.5, labelled=60)
    peaks.scores[:60] += 20  # as of what the network has learned by heart
    peaks.is_aligned[:90] = True
    peaks.contrasts[:90] += 0.03
    learned = peaks.fitted(known_gain=0.03).learned
    assert learned is not None
    assert learned.apart == pytest.approx(plain.apart, rel=0.03)
    assert learned.rise == pytest.approx(plain.rise, abs=0.002)
    assert learned.ratio == pytest.approx(plain.ratio, rel=0.05)


def test_first_chances_that_are_off_are_put_right() -> None:
    peaks = Peaks(0, apart=2.5)
    odds = np.log(peaks.chances / (1 - peaks.chances))
    for off in (1.5 * odds, odds - 1, 0.7 * odds + 1):
        peaks.chances = 1 / (1 + np.exp(-off))
        assert 0.6 * 250 < peaks.fit()[0] < 1.6 * 250


def test_contrast_that_tells_little_does_not_lose_its_weight_to_the_score() -> None:
    """Without a prior the odds by the score rise too fast, to a weight of 78 for one of these."""
    weights = [Peaks(seed, apart=1.5).fit()[0] for seed in range(10)]
    assert min(weights) > 100
    assert np.median(weights) == pytest.approx(150, rel=0.25)


@pytest.mark.parametrize("trained", [0, 96])
def test_held_out_particles_tell_the_weight_where_all_are_labelled(trained: int) -> None:
    """Among the others no particle is left; what those score that were held out tells of them."""
    found = []
    for seed in range(8):
        peaks = Peaks(seed, apart=2.0, labelled=120)
        peaks.is_trained[trained:] = False
        peaks.scores[:trained] += 20  # as of what the network has learned by heart
        peaks.is_aligned[:trained] = True
        peaks.contrasts[:trained] += 0.03
        weight, gain, _ = peaks.fit()
        assert gain == pytest.approx(0.03 * (trained > 0), abs=0.015)
        found.append(weight)
    assert 170 < np.median(found) < 230  # 200
    assert 120 < min(found) < max(found) < 330


def test_tomograms_may_differ_in_the_share_that_was_held_out() -> None:
    """In the first all particles were, in the second 20 of 120, in the third none."""
    found = []
    for seed in range(6):
        some = [
            Peaks(10 * seed + number, apart=2.0, labelled=n)
            for number, n in enumerate((120, 20, 0))
        ]
        peaks = some[0]
        for name in ("scores", "contrasts", "chances", "is_particle", "is_labelled", "is_aligned"):
            setattr(peaks, name, np.concatenate([getattr(one, name) for one in some]))
        peaks.is_trained = np.zeros(1200, dtype=bool)
        peaks.tomograms = np.repeat(np.arange(3), 400)
        weight, _, chances = peaks.fit()
        hidden = np.split(chances * ~peaks.is_labelled, 3)
        found.append((weight, *(some.sum() for some in hidden)))
    weight, *expected = np.median(found, axis=0)
    assert weight == pytest.approx(200, rel=0.2)
    assert expected[0] < 10
    assert expected[1] == pytest.approx(100, rel=0.2)
    assert expected[2] == pytest.approx(120, rel=0.2)


def test_contrast_that_tells_nothing_counts_nothing() -> None:
    for seed in range(10):
        peaks = Peaks(seed, apart=0.0, labelled=10)
        assert peaks.fit()[0] == 0
        # A gain of what is in the average is no sign of particles.
        peaks.is_aligned[:10] = True
        peaks.contrasts[:10] += 0.04
        assert peaks.fit()[0] == 0
    # Particles that fit worse than others are no reason to prefer what does not fit.
    peaks = Peaks(0, apart=-2.0, labelled=10)
    weight, gain, chances = peaks.fit()
    assert (weight, gain) == (0, 0)
    assert chances is peaks.chances


def test_what_is_in_the_average_fits_better_by_one_gain() -> None:
    peaks = Peaks(0, apart=2.5, labelled=20)
    # All that are labelled, and the forty others that are likeliest by their scores.
    likeliest = np.argsort(-np.where(peaks.is_labelled, 0, peaks.chances))[:40]
    peaks.is_aligned[:20] = True
    peaks.is_aligned[likeliest] = True
    _, without, _ = peaks.fit()
    peaks.contrasts[peaks.is_aligned] += 0.03
    weight, gain, chances = peaks.fit()
    assert without < 0.01
    assert gain - without == pytest.approx(0.03, abs=0.005)
    assert 0.6 * 250 < weight < 1.6 * 250
    found = peaks.is_particle[likeliest]
    assert chances[likeliest][~found].mean() < 0.5 < chances[likeliest][found].mean()
    # What was chosen by its contrasts has more of it anyway: the gain cannot be told, and is given.
    known = peaks.fit(known_gain=0.01)
    assert known[1] == pytest.approx(0.01)
    assert known[2][likeliest].mean() > chances[likeliest].mean()


def test_where_all_particles_are_in_the_average_contrast_counts_nothing() -> None:
    peaks = Peaks(0, apart=2.5)
    peaks.is_aligned = peaks.is_labelled = peaks.is_trained = peaks.is_particle
    peaks.contrasts[peaks.is_aligned] += 0.03
    assert peaks.fit()[0] == 0


def test_where_scores_say_nothing_contrast_counts_as_much_as_it_may() -> None:
    peaks = Peaks(0, apart=2.5, labelled=60)
    peaks.is_trained[:] = False
    peaks.scores = peaks.rng.normal(size=400)
    assert peaks.fit()[0] == 500
    # Nor does a slope that is hardly one keep contrasts from telling a number.
    peaks.scores *= 1e9
    learned = peaks.fitted().learned
    assert learned is not None
    assert Contrasts.model_validate(learned.model_dump()) == learned


def test_contrast_that_follows_the_score_counts_less_than_one_that_tells_something() -> None:
    shares = []
    for seed in range(6):
        peaks = Peaks(seed, apart=2.5)
        weight = peaks.fit()[0]
        peaks.contrasts = 0.02 * (peaks.scores / 3 + peaks.rng.normal(0, 1, 400))
        shares.append(peaks.fit()[0] / weight)
    assert np.median(shares) < 0.75


def test_how_labelled_ones_score_says_nothing() -> None:
    peaks = Peaks(1, apart=2.0, labelled=30)
    weight = peaks.fit()[0]
    peaks.chances[:30] = 0.01
    assert peaks.fit()[0] == weight
    peaks.scores[:30] += 20  # as of what the network has learned by heart
    assert peaks.fit()[0] == pytest.approx(weight, rel=0.01)


def test_scores_of_tomograms_are_in_units_of_their_own() -> None:
    peaks = Peaks(0, apart=2.5)
    weight = peaks.fit()[0]
    peaks.tomograms[::2] = 1
    assert peaks.fit()[0] == pytest.approx(weight, rel=0.1)
    peaks.scores[::2] += 30
    assert peaks.fit()[0] == pytest.approx(weight, rel=0.1)


def test_contrasts_of_two_kinds_that_are_not_the_particles_count_nothing() -> None:
    """Half of the peaks fit, whatever their score."""
    for seed in range(10):
        peaks = Peaks(seed, apart=0.0)
        peaks.contrasts += 0.1 * (peaks.rng.uniform(size=400) < 0.5)
        assert peaks.fit()[0] == 0


def test_the_weight_has_a_most_and_a_least() -> None:
    peaks = Peaks(0, apart=2.5)
    weight = peaks.fit()[0]
    assert peaks.fit(most=0.5 * weight)[0] == 0.5 * weight
    assert peaks.fit(most=30 * weight)[0] == 0


def test_nothing_is_learned_from_nothing() -> None:
    peaks = Peaks(0, apart=2.5)
    peaks.is_labelled[:] = peaks.is_trained[:] = True
    assert peaks.fit()[0] == 0
    for alike in ("scores", "contrasts"):
        peaks = Peaks(0, apart=2.5)
        setattr(peaks, alike, np.full(400, 0.3))
        assert peaks.fit()[0] == 0
    empty = np.empty(0)
    none = np.empty(0, dtype=bool)
    fitted = fit_mixture(
        *(empty, empty, empty),
        is_labelled=none,
        is_trained=none,
        is_aligned=none,
        tomograms=np.empty(0, dtype=np.intp),
        most=1.0,
    )
    assert fitted.weight == 0
