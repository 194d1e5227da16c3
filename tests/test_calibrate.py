"""Counts, chances and cut-offs follow from labelled particles and unlabelled peaks."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tomopicker.calibrate import (
    LabelledScores,
    count_at_most,
    count_in_all,
    judge,
    learn_calibration,
    match_labelled,
    most_candidates,
)


def _tomogram(rng, particles, *, others=3000, factor=1.0, shift=0.0, apart=4.0):
    """The 600 best peaks, scores falling, and which of them are particles."""
    scores = np.concatenate([rng.normal(apart, 1, particles), rng.normal(0, 1, others)])
    order = np.argsort(-scores)[:600]
    return factor * scores[order] + shift, order < particles


def _calibration(rng, *, particles=150, labelled=40, apart=4.0):
    scores, true = _tomogram(rng, particles, apart=apart)
    some = LabelledScores(scores=rng.choice(scores[true], labelled, replace=False), total=labelled)
    return learn_calibration([(scores, some)], known=labelled, held_out=True)


def _f1(true, length, particles):
    return 2 * true[:length].sum() / (length + particles)


def test_the_particles_of_the_labelled_tomogram_are_counted():
    for seed in range(5):
        calibration = _calibration(np.random.default_rng(seed))
        assert calibration.particles == pytest.approx(150, rel=0.15)
        assert (calibration.peaks, calibration.labelled) == (600, 40)


def test_many_peaks_that_score_as_the_last_one_are_not_all_particles():
    """As where shapes are compared: then the peaks pile up at the lowest score."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        particles = np.maximum(rng.normal(10, 3.5, 180), 0)
        others = np.concatenate([rng.exponential(1.8, 97), rng.uniform(0, 0.02, 15)])
        scores = np.sort(np.concatenate([particles, others]))[::-1]
        some = LabelledScores(scores=particles[:98], total=100)
        calibration = learn_calibration([(scores, some)], known=100, held_out=False)
        assert calibration.particles == pytest.approx(180, rel=0.15)
        assert judge(scores, calibration).best_length < 220


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 0.0), (0.6, -2.0), (1.5, 3.0)])
@pytest.mark.parametrize("particles", [60, 150, 250])
def test_the_list_ends_well_where_all_scores_are_lower_or_higher(factor, shift, particles):
    """As those of a noisier or a clearer tomogram are, with fewer or more particles."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        calibration = _calibration(rng)
        scores, true = _tomogram(rng, particles, factor=factor, shift=shift)
        judged = judge(scores, calibration)
        best = max(_f1(true, length, particles) for length in range(1, 601))
        assert _f1(true, judged.best_length, particles) > best - 0.06
        assert judged.count.estimate == pytest.approx(particles, rel=0.4)
        assert judged.count.low < judged.count.estimate < judged.count.high


@pytest.mark.parametrize("seed", range(6))
def test_few_particles_that_stand_far_apart_are_not_taken_for_other_peaks(seed):
    """As in a sparse tomogram that is clearer than that of a few clicks."""
    rng = np.random.default_rng(seed)
    calibration = _calibration(rng, labelled=10)
    scores, true = _tomogram(rng, 40, apart=6.0)
    judged = judge(scores, calibration)
    assert _f1(true, judged.best_length, 40) > 0.9
    assert judged.count.estimate == pytest.approx(40, rel=0.25)


def test_the_bulk_of_a_sparse_tomogram_is_not_taken_for_its_particles():
    """Their scores alone would fit the tail of the others, and those of the others the particles.

    Without a cost for that, four of ten lists of 40 particles hold nearly all of the peaks.
    """
    found = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        calibration = _calibration(rng, labelled=10)
        scores, true = _tomogram(rng, 40, apart=7.0)
        found.append(_f1(true, judge(scores, calibration).best_length, 40))
    assert min(found) > 0.9


def test_the_interval_mostly_holds_the_number_of_particles():
    held = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        calibration = _calibration(rng)
        scores, _ = _tomogram(rng, 100, factor=0.8)
        count = judge(scores, calibration).count
        held += count.low <= 100 <= count.high
    assert held >= 16


def test_chances_are_close_to_the_share_of_particles():
    chances, true = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        calibration = _calibration(rng, apart=3.0)
        scores, is_particle = _tomogram(rng, 120, factor=0.7, shift=-1.0, apart=3.0)
        chances.append(judge(scores, calibration).chances)
        true.append(is_particle)
    stated, share = np.concatenate(chances), np.concatenate(true)
    for low, high in ((0, 0.1), (0.1, 0.4), (0.4, 0.8), (0.8, 1.01)):
        rows = (stated >= low) & (stated < high)
        assert rows.sum() > 100
        assert stated[rows].mean() == pytest.approx(share[rows].mean(), abs=0.15)


def test_a_rate_of_false_picks_is_about_kept():
    rates = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        calibration = _calibration(rng)
        scores, true = _tomogram(rng, 120, factor=0.7)
        length = judge(scores, calibration).length_at(0.1)
        assert true[:length].sum() > 60
        rates.append(1 - true[:length].mean())
    assert np.mean(rates) < 0.15


def test_scores_in_other_units_are_judged_alike():
    rng = np.random.default_rng(0)
    calibration = _calibration(rng)
    scores, _ = _tomogram(rng, 100)
    judged, other = judge(scores, calibration), judge(40 * scores - 7, calibration)
    np.testing.assert_allclose(judged.chances, other.chances, atol=1e-3)


@settings(deadline=None, max_examples=25)
@given(
    scores=st.lists(st.integers(-10, 10) | st.floats(-10, 10), max_size=60),
    found=st.lists(st.integers(-10, 10) | st.floats(-10, 10), max_size=20),
    missed=st.integers(0, 5),
)
def test_whatever_the_peaks_chances_never_rise_and_lists_are_consistent(scores, found, missed):
    ranked = np.sort(np.array(scores, dtype=np.float64))[::-1]
    labelled = LabelledScores(scores=np.array(found, dtype=np.float64), total=len(found) + missed)
    calibration = learn_calibration([(ranked, labelled)], known=len(found), held_out=False)
    judged = judge(ranked, calibration)
    chances = judged.chances
    assert chances.shape == ranked.shape
    assert ((chances >= 0) & (chances <= 1)).all()
    assert (np.diff(chances) <= 1e-12).all()
    assert (chances[:-1][np.diff(ranked) == 0] == chances[1:][np.diff(ranked) == 0]).all()
    assert 0 <= judged.count.low <= judged.count.estimate <= judged.count.high
    lengths = [judged.length_at(rate) for rate in (0.0, 0.05, 0.2, 1.0)]
    assert lengths == sorted(lengths)
    assert 0 <= judged.best_length <= len(ranked)


def test_other_chances_are_made_to_fall_and_keep_their_sum():
    rng = np.random.default_rng(0)
    scores, true = _tomogram(rng, 150)
    judged = judge(scores, _calibration(rng))
    # What something else tells, which is right but for its scatter.
    chances = np.clip(true * 0.6 + rng.uniform(0, 0.4, len(true)), 0, 1)
    told = judged.with_contrasts(scores, chances, missed=1.1, deviation=0.2)
    assert (np.diff(told.chances) <= 1e-12).all()
    assert told.chances.sum() == pytest.approx(chances.sum())
    assert told.count.estimate == pytest.approx(1.1 * chances.sum())
    assert told.count.high / told.count.estimate == pytest.approx(np.exp(1.96 * 0.2))
    assert told.histogram is not None
    assert judged.histogram is not None
    both = told.histogram.particles + told.histogram.others
    np.testing.assert_allclose(both, judged.histogram.particles + judged.histogram.others)
    # In the picture, too, those are particles that the chances say.
    assert told.histogram.particles.sum() == pytest.approx(told.chances.sum(), rel=0.1)
    assert told.histogram.counts.tolist() == judged.histogram.counts.tolist()


def test_without_a_labelled_peak_nothing_is_claimed():
    scores = np.arange(10.0, 0, -1)
    none_found = LabelledScores(scores=np.empty(0), total=5)
    judged = judge(scores, learn_calibration([(scores, none_found)], known=5, held_out=True))
    assert (judged.count.estimate, judged.count.high) == (0, 10)
    assert judged.best_length == 0
    assert not judged.chances.any()
    calibration = _calibration(np.random.default_rng(0))
    assert judge(np.empty(0), calibration).best_length == 0


def test_the_bound_of_a_perfect_list_is_its_length():
    """Every tenth of 100 peaks is labelled: at the last n = 100 and R = (10 - 1/2) / 10."""
    scores = np.arange(100.0, 0, -1)
    labelled = LabelledScores(scores=scores[9::10], total=10)
    assert count_at_most(scores, labelled) == pytest.approx(100 / 0.95)
    assert count_at_most(scores, LabelledScores(scores=np.empty(0), total=3)) == 100


def test_peaks_that_were_rejected_lower_the_bound_by_their_number():
    """Of 100 peaks 40 are known to be false: at the last n = 60, and R = (10 - 1/2) / 10."""
    scores = np.arange(100.0, 0, -1)
    wrong = np.concatenate([scores[0::10], scores[1::10], scores[2::10], scores[3::10]])
    labelled = LabelledScores(scores=scores[9::10], total=10, rejected=wrong)
    assert count_at_most(scores, labelled) == pytest.approx(60 / 0.95)


def test_peaks_of_several_tomograms_count_together():
    """The second tomogram has no labelled particle, and is like the first one."""
    scores = np.arange(100.0, 0, -1)
    first = LabelledScores(scores=scores[9::10], total=10)
    none = LabelledScores(scores=np.empty(0), total=0)
    # Twice as bright, too: its peaks count in its own units.
    together = count_in_all([(scores, first), (2 * scores + 5, none)])
    assert together == pytest.approx(200 / 0.95)
    assert count_in_all([(scores, first)]) == pytest.approx(100 / 0.95)


def _reviewed(seed):
    """Scores of a tomogram, what is known there without and with a review, and three tomograms.

    Twenty particles at random are labelled. Then a person judges the sixty peaks of which a
    calibration by those labels is the least certain.
    """
    rng = np.random.default_rng(seed)
    tomograms = [_tomogram(rng, 120, apart=3.0) for _ in range(3)]
    scores, true = tomograms[0]
    clicked = rng.choice(np.flatnonzero(true), 20, replace=False)
    before = LabelledScores(scores=scores[clicked], total=20)
    first = learn_calibration([(scores, before)], known=20, held_out=True)
    order = np.argsort(np.abs(judge(scores, first).chances - 0.5), kind="stable")
    asked = order[~np.isin(order, clicked)][:60]
    after = replace(
        before, accepted=scores[asked[true[asked]]], rejected=scores[asked[~true[asked]]]
    )
    return scores, before, after, tomograms


def _errors(calibration, tomograms):
    """Mean error of the number of 120 particles, as a logarithm, and F1 lost at the cut-off."""
    counts, lost = [], []
    for scores, true in tomograms:
        judged = judge(scores, calibration)
        counts.append(abs(np.log(judged.count.estimate / 120)))
        best = max(_f1(true, length, 120) for length in range(1, 601))
        lost.append(best - _f1(true, judged.best_length, 120))
    return np.mean(counts), np.mean(lost)


def test_verdicts_on_what_is_uncertain_make_count_and_cut_off_better():
    """Although what was accepted is no fair sample: taken for one, it spoils both."""
    errors = []
    for seed in range(4):
        scores, before, after, tomograms = _reviewed(seed)
        known = 20 + len(after.accepted)
        mixed = LabelledScores(
            scores=np.concatenate([after.scores, after.accepted]),
            total=known,
            rejected=after.rejected,
        )
        fits = [
            learn_calibration([(scores, labelled)], known=number, held_out=True)
            for labelled, number in ((before, 20), (after, known), (mixed, known))
        ]
        errors.append([_errors(fit, tomograms) for fit in fits])
    (count, lost), (count_after, lost_after), (count_mixed, lost_mixed) = np.mean(errors, axis=0)
    assert count_after < 0.7 * count
    assert lost_after < lost
    assert count_mixed > 1.5 * count
    assert lost_mixed > 1.5 * lost


def test_what_was_rejected_alone_tells_of_no_chance():
    """Nobody says how many were looked at for it; the bound alone goes down."""
    rng = np.random.default_rng(0)
    scores, true = _tomogram(rng, 150)
    labelled = rng.choice(scores[true], 40, replace=False)
    fits = [
        learn_calibration(
            [(scores, LabelledScores(scores=labelled, total=40, rejected=wrong))],
            known=40,
            held_out=True,
        )
        for wrong in (np.empty(0), scores[~true][:20])
    ]
    assert fits[1].particles == pytest.approx(fits[0].particles, rel=0.1)


def test_labelled_particles_that_were_missed_raise_the_bound():
    scores = np.arange(50.0, 0, -1)
    all_found = count_at_most(scores, LabelledScores(scores=scores[::5], total=10))
    half_found = count_at_most(scores, LabelledScores(scores=scores[::5], total=20))
    assert half_found == pytest.approx(2 * all_found, rel=0.1)


def test_candidates_fill_half_of_the_volume():
    assert most_candidates(1000 * 2 * 33, 2) == 1000  # a ball of radius 2 has 33 voxels
    assert most_candidates(5, 7) == 1


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
    places = np.zeros((3, 3))
    none = match_labelled(
        np.empty((0, 3)), np.empty(0), places, accepted=places, rejected=places, tolerance=2
    )
    assert (none.scores.size, none.accepted.size, none.rejected.size, none.total) == (0, 0, 0, 3)


def test_the_nearest_peak_to_a_rejected_place_is_no_particle_unless_a_label_is_there():
    peaks = np.array([[0.0, 0, 0], [0, 0, 3], [0, 0, 20]])
    found = match_labelled(
        peaks,
        np.array([1.0, 2.0, 3.0]),
        np.array([[0.0, 0, 19.5]]),
        rejected=np.array([[0.0, 0, 2], [0, 0, 21], [0, 0, 60]]),
        tolerance=2,
    )
    assert (found.scores.tolist(), found.rejected.tolist()) == ([3.0], [2.0])
    found = match_labelled(
        peaks,
        np.array([1.0, 2.0, 3.0]),
        np.array([[0.0, 0, 19.5]]),
        accepted=np.array([[0.0, 0, 2], [0, 0, 20]]),
        rejected=np.array([[0.0, 0, 3]]),
        tolerance=2,
    )
    # One that is labelled and accepted is labelled; what was accepted is not rejected.
    assert (found.scores.tolist(), found.accepted.tolist()) == ([3.0], [2.0])
    assert found.rejected.size == 0
