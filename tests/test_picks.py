"""Picking ends where it was told, and a template ranks and moves the peaks."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from tomopicker import picks
from tomopicker.calibrate import LabelledScores, learn_calibration
from tomopicker.config import preset
from tomopicker.contrasts import Contrasts
from tomopicker.errors import InputError
from tomopicker.inference import features_of
from tomopicker.labels import ball_voxels
from tomopicker.picks import (
    Cut,
    add_shape,
    compare_peaks,
    find_candidates,
    find_particles,
    pick,
)
from tomopicker.template import Compared, Template
from tomopicker.types import Tomogram
from untrained import checkpoint_of, noise_of


def _compared(contrasts, moves=None):
    return Compared(
        contrasts=contrasts, moves=np.zeros((len(contrasts), 3)) if moves is None else moves
    )


def _shaped(monkeypatch, compare, **settings):
    """A checkpoint without a template, and one whose template finds what `compare` says."""
    monkeypatch.setattr(picks, "compare", compare)
    plain = checkpoint_of(calibration=_calibration(), **settings)
    description = plain.description.model_copy(update={"template_weight": 10.0})
    template = Template(volume=np.zeros((3, 3, 3), dtype=np.float32))
    return plain, replace(plain, template=template, description=description)


def _moving(monkeypatch, moves, contrasts=None, **settings):
    """The two of `_shaped`; peaks move, the best first, and fit alike if nothing else is said."""
    fits = np.full(len(moves), 0.4) if contrasts is None else contrasts
    return _shaped(
        monkeypatch,
        lambda _, centres, *__, **___: _compared(fits[: len(centres)], moves[: len(centres)]),
        **settings,
    )


def test_a_template_ranks_the_peaks_by_their_shape_too(monkeypatch):
    scores, tomogram = _volume_of_peaks()
    looked_at = []

    def compare(features, centres, template, *, radius, progress):
        looked_at.append((features.shape, centres, radius, str(torch.get_default_device())))
        # The second peak has the shape, the first not at all.
        return _compared(np.array([0.0, 0.8, *[0.4] * 1000])[: len(centres)])

    plain, checkpoint = _shaped(monkeypatch, compare)
    before = pick(scores, tomogram, plain, Cut(count=12)).particles
    picked = pick(scores, tomogram, checkpoint, Cut(count=5), device="cuda:0").particles
    # The first peak has fallen to the fifth place.
    expected = before.scores[[1, 2, 3, 4, 0]] + 10 * np.array([0.8, 0.4, 0.4, 0.4, 0.0])
    np.testing.assert_allclose(picked.scores, expected)
    assert picked.voxels[:, 2].tolist() == [15, 25, 35, 45, 5]
    ((shape, centres, radius, device),) = looked_at
    assert (shape, radius) == (scores.shape, plain.description.radius_voxels)
    assert device == "cuda:0"
    assert centres[:2].tolist() == [[5, 5, 5], [5, 5, 15]]
    # What is not looked at, further down, gets what the last ones have that are.
    last = pick(scores, tomogram, checkpoint, Cut(count=12)).particles
    np.testing.assert_allclose(last.scores[-1], before.scores[-1] + 4)
    some = pick(scores, tomogram, checkpoint, Cut(threshold=expected[2] - 0.01)).particles
    np.testing.assert_allclose(some.scores, expected[:3])
    # Without a weight nothing is looked at.
    looked_at.clear()
    worthless = replace(checkpoint, description=plain.description)
    assert pick(scores, tomogram, worthless, Cut(count=5)).particles.scores.tolist() == (
        before.scores[:5].tolist()
    )
    assert not looked_at


def test_peaks_that_score_as_particles_and_do_not_fit_end_no_list(monkeypatch):
    scores, tomogram = _volume_of_peaks(200)
    # Of 60 peaks that stand above the others 30 fit.
    scores[5, 5, 5::10] = np.concatenate([np.linspace(13, 9, 60), np.linspace(3, 1, 140)])
    fits = np.random.default_rng(0).normal(0, 0.02, 10_000)
    fits[:60:2] += 0.1
    _, shaped = _moving(monkeypatch, np.zeros((10_000, 3)), fits, peaks__margin=0)
    learned = Contrasts(slope=1.0, mean=0.0, apart=0.1, deviation=0.02)
    told = replace(shaped, description=shaped.description.model_copy(update={"contrasts": learned}))
    by_scores = pick(scores, tomogram, shaped, Cut())
    by_both = pick(scores, tomogram, told, Cut())
    assert by_scores.estimated is not None
    assert by_both.estimated is not None
    assert by_scores.estimated.estimate > 50
    assert 25 < by_both.estimated.estimate < 40
    assert len(by_both.particles) < len(by_scores.particles)
    # The list is as it was, but for its end and what is said of it.
    count = len(by_both.particles)
    np.testing.assert_array_equal(by_both.particles.voxels, by_scores.particles.voxels[:count])
    assert (np.diff(by_both.candidates.probabilities) <= 0).all()
    assert by_both.by_contrasts
    assert not by_scores.by_contrasts


def test_chances_by_contrasts_are_those_of_their_peaks_and_count_what_was_missed(monkeypatch):
    scores, tomogram = _volume_of_peaks(200)
    scores[5, 5, 5::10] = np.concatenate([np.linspace(13, 9, 60), np.linspace(3, 1, 140)])
    fits = np.random.default_rng(0).normal(0, 0.02, 10_000)
    fits[:60:2] += 0.1
    # The second peak meets the first, and goes; all behind it are where they were.
    moves = np.zeros((10_000, 3))
    moves[1] = [0, 0, -9]
    _, shaped = _moving(monkeypatch, moves, fits, peaks__margin=0)
    learned = Contrasts(slope=1.0, mean=0.0, apart=0.1, deviation=0.02)
    calibration = _calibration()
    estimates, wide = [], []
    for missed in (1.0, 1.5):
        update = {"labelled": round(missed * len(calibration.labelled_scores))}
        description = shaped.description.model_copy(
            update={
                "contrasts": learned,
                "template_weight": 100.0,
                "calibration": calibration.model_copy(update=update),
            }
        )
        found = pick(scores, tomogram, replace(shaped, description=description), Cut())
        assert found.estimated is not None
        estimates.append(found.estimated.estimate)
        wide.append(found.estimated.high / found.estimated.estimate)
        # Number 2, 4, ... 58 along the tomogram fit; those between them do not.
        number = np.rint((found.candidates.voxels[:, 2] - 5) / 10).astype(int)
        chances = found.candidates.probabilities
        assert 1 not in number
        assert chances[(number < 60) & (number % 2 == 0)].min() > 0.8
        assert chances[(number < 60) & (number % 2 == 1)].max() < 0.5
    assert estimates[1] == pytest.approx(1.5 * estimates[0], rel=0.1)
    # The labelled ones are a sample: of 15 there are 10, √(5 / (10 × 15)).
    deviations = np.log(wide) / 1.96
    assert deviations[1] == pytest.approx(np.hypot(deviations[0], 0.183), rel=0.02)


def test_a_calibration_without_a_labelled_peak_claims_nothing_by_contrasts_either(monkeypatch):
    scores, tomogram = _volume_of_peaks(200)
    fits = np.random.default_rng(0).normal(0, 0.02, 10_000)
    _, shaped = _moving(monkeypatch, np.zeros((10_000, 3)), fits, peaks__margin=0)
    description = shaped.description.model_copy(
        update={
            "contrasts": Contrasts(slope=1.0, mean=0.0, apart=0.1, deviation=0.02),
            "calibration": _calibration().model_copy(update={"labelled_scores": ()}),
        }
    )
    found = pick(scores, tomogram, replace(shaped, description=description), Cut())
    assert len(found.particles) == 0
    assert found.estimated is not None
    assert found.estimated.estimate == 0


def test_candidates_with_shape_added_are_those_that_picking_finds(monkeypatch):
    scores, tomogram = _volume_of_peaks(60)
    rng = np.random.default_rng(0)
    contrasts = rng.normal(0, 2, 10_000)
    moves = rng.uniform(-2, 2, (10_000, 3))
    plain, checkpoint = _moving(monkeypatch, moves, contrasts, peaks__margin=0)
    config, radius = plain.description.config, plain.description.radius_voxels
    centres, found = find_candidates(scores, config, radius=radius)
    features = features_of(checkpoint, tomogram)
    some = compare_peaks(checkpoint, features, centres)
    assert 0 < len(some.contrasts) < len(centres)
    candidates = add_shape(checkpoint, scores.shape, centres, found, some)
    picked = pick(scores, tomogram, checkpoint, Cut(count=5), features=features).particles
    np.testing.assert_allclose(candidates[1][:5], picked.scores, rtol=1e-6)
    np.testing.assert_allclose(candidates[0][:5], picked.voxels, atol=1e-4)


def test_a_peak_moves_to_where_the_template_fits_but_not_out_of_the_mask(monkeypatch):
    scores, tomogram = _volume_of_peaks()
    moves = np.zeros((1000, 3))
    moves[0], moves[2], moves[3] = (0, 2, 0), (0, -2, 0), (0, 0, -9)
    plain, shaped = _moving(monkeypatch, moves, peaks__margin=0)
    before = pick(scores, tomogram, plain, Cut(count=5)).particles
    mask = np.ones(tomogram.shape, dtype=bool)
    mask[:, :5] = False
    found = pick(scores, replace(tomogram, mask=mask), shaped, Cut(count=4)).particles
    # The third would have left the mask; the fourth has met it, and is the worse one.
    moves[2] = 0
    stay = [0, 1, 2, 4]
    np.testing.assert_allclose(found.voxels, (before.voxels + moves[:5])[stay])
    np.testing.assert_allclose(found.scores, before.scores[stay] + 4)


@pytest.mark.parametrize("margin", [0, 1])
def test_no_peak_moves_nearer_to_a_face_than_peaks_are_looked_for(monkeypatch, margin):
    scores, tomogram = _volume_of_peaks()
    outwards = np.tile([0, 0, -9.0], (1000, 1))
    plain, shaped = _moving(monkeypatch, outwards, peaks__margin=margin)
    least = plain.description.config.peaks.margin * plain.description.radius_voxels
    before = pick(scores, tomogram, plain, Cut(count=9)).particles.voxels
    found = pick(scores, tomogram, shaped, Cut(count=9)).particles.voxels
    # The first, on whose place the second would be, has no room to move.
    np.testing.assert_allclose(found[0], before[0])
    assert found[:, 2].min() >= least


def test_peaks_that_do_not_move_are_all_listed_however_long_the_list(monkeypatch):
    scores = gaussian_filter(np.random.default_rng(0).normal(size=(40, 40, 60)), 1.0)
    tomogram = Tomogram(name="noise", data=scores.astype(np.float32), voxel_size=10.0)
    plain, shaped = _moving(monkeypatch, np.zeros((10_000, 3)), peaks__margin=0)
    for count in (5, 150):
        cut = Cut(count=count)
        expected = pick(tomogram.data, tomogram, plain, cut).particles
        found = pick(tomogram.data, tomogram, shaped, cut).particles
        assert len(found) == len(expected) == count
        np.testing.assert_allclose(found.voxels, expected.voxels, atol=1e-4)
        np.testing.assert_allclose(found.scores, expected.scores + 4, rtol=1e-6)


@pytest.mark.parametrize("length", [60, 240])
def test_the_share_of_peaks_that_are_compared_is_that_of_any_volume(monkeypatch, length):
    moves = np.zeros((100_000, 3))
    _, checkpoint = _moving(monkeypatch, moves)
    volume = np.zeros((60, 60, length), dtype=np.float32)
    features = SimpleNamespace(shape=volume.shape, data=volume, mask=None)
    asked = len(compare_peaks(checkpoint, features, np.zeros_like(moves)).contrasts)
    description = checkpoint.description
    spacing = description.config.peaks.exclusion * description.radius_voxels
    share = asked / (60 * 60 * length / (2 * ball_voxels(spacing)))
    core = ball_voxels(description.config.labels.core_radius(description.radius_voxels))
    expected = 10 * description.priors.expected / core * 2 * ball_voxels(spacing)
    assert share == pytest.approx(min(expected, 0.5), rel=0.03)


def _volume_of_peaks(count=12):
    """Peaks of score count, count - 1, ... 1 in a volume of -5, ten voxels apart."""
    scores = np.full((10, 10, 10 * count), -5.0, dtype=np.float32)
    for number in range(count):
        scores[5, 5, 5 + 10 * number] = count - number
    tomogram = Tomogram(name="two", data=scores, voxel_size=10.0)
    return scores, tomogram


def test_the_list_ends_at_the_count_the_threshold_or_the_expected_number():
    scores, tomogram = _volume_of_peaks()
    checkpoint = checkpoint_of("paper")
    by_count = pick(scores, tomogram, checkpoint, Cut(count=3))
    assert by_count.particles.scores.tolist() == [12, 11, 10]
    assert by_count.particles.voxels.tolist() == [[5, 5, 5], [5, 5, 15], [5, 5, 25]]
    assert by_count.threshold == 10
    by_threshold = pick(scores, tomogram, checkpoint, Cut(threshold=9.5))
    assert by_threshold.particles.scores.tolist() == [12, 11, 10]
    expected = pick(scores, tomogram, checkpoint, Cut())
    assert len(expected.particles) == 7
    nothing = pick(scores, tomogram, checkpoint, Cut(threshold=100.0))
    assert len(nothing.particles) == 0
    assert nothing.threshold is None


def test_a_list_as_long_as_training_expected_counts_no_voxels_that_a_mask_leaves_out():
    scores, tomogram = _volume_of_peaks()
    checkpoint = checkpoint_of(peaks__smoothing=0, peaks__margin=0)
    description = checkpoint.description
    # Expected: a core in every 10 x 10 x 10 voxels, of which the volume holds 12 with its peaks.
    core = ball_voxels(description.config.labels.core_radius(description.radius_voxels))
    config = description.config.model_copy(update={"expected": None})
    priors = description.priors.model_copy(update={"expected": core / 1000})
    described = description.model_copy(update={"config": config, "priors": priors})
    checkpoint = replace(checkpoint, description=described)
    size = round(scores.size / 1000)
    assert len(pick(scores, tomogram, checkpoint, Cut()).particles) == min(size, 12)
    scores[:, scores.shape[1] // 2 :] = -np.inf
    half = pick(scores, tomogram, checkpoint, Cut())
    assert len(half.particles) == round(np.isfinite(scores).sum() / 1000)


def _calibration():
    """Of a model whose particles score well above other peaks."""
    scores = np.concatenate([np.linspace(13, 8, 20), np.linspace(3, 0, 100)])
    labelled = LabelledScores(scores=scores[:20:2], total=10)
    return learn_calibration([(scores, labelled)], known=15, held_out=True)


def test_a_calibrated_list_ends_by_itself_or_at_a_false_discovery_rate():
    scores, tomogram = _volume_of_peaks()
    checkpoint = checkpoint_of(
        calibration=_calibration(), peaks__smoothing=0, peaks__subvoxel=False
    )
    automatic = pick(scores, tomogram, checkpoint, Cut())
    ranked = np.arange(12, 0, -1)
    length = len(automatic.particles)
    assert 0 < length <= 12
    assert automatic.particles.scores.tolist() == ranked[:length].tolist()
    strict = pick(scores, tomogram, checkpoint, Cut(fdr=0.05))
    assert len(strict.particles) == automatic.lengths[0.05]
    loose = pick(scores, tomogram, checkpoint, Cut(fdr=0.2))
    assert len(loose.particles) == automatic.lengths[0.2] >= len(strict.particles)


def test_however_a_calibrated_list_ends_its_probabilities_are_those_of_the_tomogram():
    scores, tomogram = _volume_of_peaks()
    checkpoint = checkpoint_of(
        calibration=_calibration(), peaks__smoothing=0, peaks__subvoxel=False
    )
    everything = pick(scores, tomogram, checkpoint, Cut(count=12))
    chances = everything.particles.probabilities
    assert chances.max() > 0
    for cut in (Cut(), Cut(count=3), Cut(threshold=9.5), Cut(threshold=6.5)):
        picked = pick(scores, tomogram, checkpoint, cut)
        length = len(picked.particles)
        assert picked.particles.probabilities.tolist() == chances[:length].tolist()
        assert picked.estimated == everything.estimated
        assert picked.lengths == everything.lengths
    paper = pick(scores, tomogram, checkpoint_of("paper"), Cut(count=3))
    assert (paper.particles.probabilities, paper.estimated, paper.lengths) == (None, None, {})


@pytest.mark.parametrize("threads", [1, 3])
def test_the_scores_may_be_smoothed_where_they_are(threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    rng = np.random.default_rng(5)
    scores = rng.normal(size=(70, 20, 30)).astype(np.float32)
    scores[30:34, 5:9, :7] = -np.inf
    tomogram = Tomogram(name="two", data=scores, voxel_size=10.0)
    checkpoint = checkpoint_of(calibration=_calibration(), peaks__smoothing=0.5)
    kept = scores.copy()
    copied = pick(scores, tomogram, checkpoint, Cut(count=30))
    assert np.array_equal(scores, kept)
    in_place = pick(scores, tomogram, checkpoint, Cut(count=30), overwrite=True)
    assert np.array_equal(copied.particles.positions, in_place.particles.positions)
    assert np.array_equal(copied.particles.scores, in_place.particles.scores)
    known = np.isfinite(kept)
    smooth = gaussian_filter(np.where(known, kept, kept[known].min()), 1.5, mode="nearest",
                             truncate=3.0)  # fmt: skip
    assert np.array_equal(scores[known], smooth[known])
    assert np.isneginf(scores[~known]).all()


def test_a_list_longer_than_the_candidates_is_found_whole(monkeypatch):
    scores, tomogram = _volume_of_peaks()
    checkpoint = checkpoint_of(
        calibration=_calibration(), peaks__smoothing=0, peaks__subvoxel=False
    )
    monkeypatch.setattr(picks, "most_candidates", lambda *_: 4)
    assert len(pick(scores, tomogram, checkpoint, Cut(count=9)).particles) == 9
    assert len(pick(scores, tomogram, checkpoint, Cut(threshold=5.5)).particles) == 7
    assert len(pick(scores, tomogram, checkpoint, Cut(threshold=9.5)).particles) == 3


@pytest.mark.parametrize("calibration", [True, False])
def test_peaks_are_searched_once_and_only_those_that_are_listed_are_centred(
    monkeypatch, calibration
):
    tomogram = noise_of((40, 40, 60))
    checkpoint = checkpoint_of(calibration=_calibration() if calibration else None)
    find_peaks, refine, found, centred = picks.find_peaks, picks.refine, [], []

    def finding(*arguments, **settings):
        found.append(find_peaks(*arguments, **settings))
        return found[-1]

    def centring(scores, peaks, **settings):
        centred.append(len(peaks))
        return refine(scores, peaks, **settings)

    monkeypatch.setattr(picks, "find_peaks", finding)
    monkeypatch.setattr(picks, "refine", centring)
    listed = pick(tomogram.data, tomogram, checkpoint, Cut(count=5)).candidates
    assert len(found) == 1
    assert centred == [len(listed)] == [60]
    assert len(found[0]) >= 60


def test_a_false_discovery_rate_needs_a_calibrated_model():
    scores, tomogram = _volume_of_peaks()
    with pytest.raises(InputError, match="give --count or --threshold"):
        pick(scores, tomogram, checkpoint_of("paper"), Cut(fdr=0.05))


def test_a_list_that_ends_by_itself_never_fills_more_than_half_of_the_volume():
    """Peaks stand 0.8 of a radius of 3 apart; a ball of radius 2.4 has 57 voxels."""
    tomogram = noise_of(shape=(29, 29, 58))
    scores = tomogram.data.astype(np.float32)
    picked = pick(scores, tomogram, checkpoint_of(calibration=_calibration()), Cut())
    assert 0 < len(picked.particles) <= 29 * 29 * 58 // (2 * 57)


def test_no_peak_is_taken_within_the_margin_of_a_face_nor_hides_one_beyond_it():
    scores = np.full((24, 24, 24), -5.0, dtype=np.float32)
    scores[0, 12, 12], scores[3, 12, 12] = 9.0, 7.0  # the best one is on a face
    overrides = {"peaks.smoothing": 0.0, "peaks.subvoxel": False, "peaks.exclusion": 1.0}
    found = {}
    for margin in (0.0, 0.5):
        config = preset(
            "default",
            radius_angstrom=50,
            voxel_size=10.0,
            overrides=overrides | {"peaks.margin": margin},
        )
        centres, _ = find_particles(scores, config, radius=5, count=10, floor=0.0)
        found[margin] = centres.tolist()
    assert found == {0.0: [[0, 12, 12]], 0.5: [[3, 12, 12]]}
    assert scores[0, 12, 12] == 9.0  # the volume of scores is not changed
