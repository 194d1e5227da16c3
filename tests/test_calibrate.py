"""Counts and cut-offs follow from labelled particles and unlabelled peaks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tomopicker.calibrate import (
    Labelled,
    automatic_length,
    estimate_count,
    false_discovery_rate,
    match_labelled,
    probabilities,
)


def test_the_count_of_a_perfect_list_is_its_length():
    """Every tenth of 100 peaks is labelled: at the last n = 100 and R = (10 - 1/2) / 10."""
    scores = np.arange(100.0, 0, -1)
    labelled = Labelled(scores=scores[9::10], total=10)
    assert estimate_count(scores, labelled).estimate == pytest.approx(100 / 0.95)
    assert automatic_length(scores, labelled) == 100


def test_false_peaks_below_the_particles_are_cut_off():
    particles = np.linspace(10, 5, 200)
    false = np.linspace(4, 0, 1000)
    labelled = Labelled(scores=particles[::10], total=20)
    scores = np.concatenate([particles, false])
    count = estimate_count(scores, labelled)
    assert count.low <= 200 <= count.high
    assert count.estimate == pytest.approx(200, rel=0.1)
    assert 180 <= automatic_length(scores, labelled) <= 210


def test_overlapping_scores_are_counted_from_many_labels():
    rng = np.random.default_rng(0)
    particles, false = rng.normal(3, 1, 1000), rng.normal(0, 1, 4000)
    labelled = Labelled(scores=particles[:200], total=200)
    scores = np.sort(np.concatenate([particles, false]))[::-1]
    count = estimate_count(scores, labelled)
    assert count.estimate == pytest.approx(1000, rel=0.15)
    assert count.low < 1000 < count.high
    # No more false picks than asked for, and most of the particles that could be kept.
    kept = scores[false_discovery_rate(scores, labelled) <= 0.1]
    assert np.isin(kept, false).mean() <= 0.1
    assert np.isin(kept, particles).sum() >= 600


def test_labelled_particles_that_were_missed_raise_the_count():
    scores = np.arange(50.0, 0, -1)
    all_found = estimate_count(scores, Labelled(scores=scores[::5], total=10)).estimate
    half_found = estimate_count(scores, Labelled(scores=scores[::5], total=20)).estimate
    assert half_found == pytest.approx(2 * all_found, rel=0.1)


def test_without_a_labelled_peak_nothing_is_claimed():
    labelled = Labelled(scores=np.empty(0), total=5)
    scores = np.arange(10.0, 0, -1)
    count = estimate_count(scores, labelled)
    assert (count.estimate, count.high) == (0, 10)
    assert automatic_length(scores, labelled) == 0
    assert (false_discovery_rate(scores, labelled) == 1).all()


def test_peaks_all_below_the_labelled_ones_leave_the_count_open():
    labelled = Labelled(scores=np.array([7.0, 8.0, 9.0]), total=3)
    count = estimate_count(np.arange(6.0, 0, -1), labelled)
    assert (count.estimate, count.low, count.high) == (0, 0, 6)


@settings(deadline=None)
@given(
    scores=st.lists(st.floats(-10, 10), min_size=1, max_size=60),
    labelled=st.lists(st.floats(-10, 10), min_size=1, max_size=20),
)
def test_the_false_discovery_rate_never_falls_down_the_list(scores, labelled):
    ranked = np.sort(np.array(scores))[::-1]
    rate = false_discovery_rate(ranked, Labelled(scores=np.array(labelled), total=len(labelled)))
    assert (np.diff(rate) >= 0).all()
    assert ((rate >= 0) & (rate <= 1)).all()


@settings(deadline=None)
@given(
    scores=st.lists(st.integers(-10, 10) | st.floats(-10, 10), max_size=60),
    found=st.lists(st.integers(-10, 10) | st.floats(-10, 10), max_size=20),
    missed=st.integers(0, 5),
)
def test_probabilities_never_rise_and_add_up_to_the_expected_hits(scores, found, missed):
    ranked = np.sort(np.array(scores, dtype=np.float64))[::-1]
    labelled = Labelled(scores=np.array(found, dtype=np.float64), total=len(found) + missed)
    chances = probabilities(ranked, labelled)
    assert chances.shape == ranked.shape
    assert ((chances >= 0) & (chances <= 1)).all()
    assert (np.diff(chances) <= 1e-12).all()
    assert (chances[:-1][np.diff(ranked) == 0] == chances[1:][np.diff(ranked) == 0]).all()
    possible = np.count_nonzero(ranked >= min(found, default=np.inf))
    hits = estimate_count(ranked, labelled).estimate * len(found) / max(labelled.total, 1)
    assert chances.sum() == pytest.approx(min(hits, possible))
    assert not chances[possible:].any()


def test_particles_apart_from_the_rest_are_certain_and_the_rest_is_not_theirs():
    particles, false = np.linspace(10, 5, 200), np.linspace(4, 0, 1000)
    labelled = Labelled(scores=particles[9::10], total=20)
    chances = probabilities(np.concatenate([particles, false]), labelled)
    assert (chances[:200] == 1).all()
    assert (chances[200:] == 0).all()


def test_probabilities_are_close_to_the_share_of_particles():
    """Over twenty tomograms without labels; the scores are three standard deviations apart."""
    rng = np.random.default_rng(0)
    chances, true = [], []
    for _ in range(20):
        scores = np.concatenate([rng.normal(3, 1, 400), rng.normal(0, 1, 2000)])
        order = np.argsort(-scores)
        labelled = Labelled(scores=rng.normal(3, 1, 100), total=100)
        chances.append(probabilities(scores[order], labelled))
        true.append(order < 400)
    stated, share = np.concatenate(chances), np.concatenate(true)
    for low, high in ((0, 0.1), (0.1, 0.3), (0.3, 0.7), (0.7, 1.01)):
        rows = (stated >= low) & (stated < high)
        assert rows.sum() > 300
        # Peaks above the deciding cut-off all count as particles, so those below come out low.
        assert stated[rows].mean() == pytest.approx(share[rows].mean(), abs=0.15)
    assert stated.sum() == pytest.approx(share.sum(), rel=0.1)


def test_without_a_count_no_peak_has_a_probability():
    scores = np.arange(6.0, 0, -1)
    none_found = Labelled(scores=np.empty(0), total=3)
    all_better = Labelled(scores=np.array([7.0, 8.0, 9.0]), total=3)
    assert not probabilities(scores, none_found).any()
    assert not probabilities(scores, all_better).any()
    assert probabilities(np.empty(0), all_better).shape == (0,)


def test_the_best_peak_near_a_label_is_that_particle():
    peaks = np.array([[0.0, 0, 0], [0, 0, 3], [0, 0, 20]])
    found = match_labelled(
        peaks,
        np.array([1.0, 2.0, 3.0]),
        np.array([[0.0, 0, 1], [0, 0, 40]]),
        tolerance=2,
    )
    assert found.scores.tolist() == [2.0]
    assert found.total == 2
    none = match_labelled(np.empty((0, 3)), np.empty(0), np.zeros((3, 3)), tolerance=2)
    assert (len(none.scores), none.total) == (0, 3)
