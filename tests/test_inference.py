"""Whole-volume scores do not depend on the tiles, and picking ends where it was told."""

import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from tomopicker import inference
from tomopicker.calibrate import LabelledScores, learn_calibration
from tomopicker.checkpoint import Checkpoint, Description, Priors
from tomopicker.config import preset
from tomopicker.errors import InputError
from tomopicker.features import compute_features
from tomopicker.inference import (
    Cut,
    add_shape,
    compare_peaks,
    features_of,
    find_candidates,
    find_particles,
    network_of,
    pick,
    score,
    score_tiles,
)
from tomopicker.labels import ball_voxels
from tomopicker.matched_filter import RadialFilter
from tomopicker.network import build, receptive_radius
from tomopicker.preprocess import Normalisation
from tomopicker.template import Compared, Template
from tomopicker.types import Tomogram

_RUN = inference._run
PROFILE = (-1.0, -0.8, -0.2, 0.3, 0.0)


def _checkpoint(name="default", *, calibration=None, **overrides):
    config = preset(
        name,
        radius_angstrom=30,
        voxel_size=10.0,
        expected=7,
        overrides={"network.channels": [2, 3], "sampling.side": 16, "sampling.stride": 16}
        | {key.replace("__", "."): value for key, value in overrides.items()},
    )
    torch.manual_seed(0)
    network = build(config.network)
    # Running statistics as after training, so that normalisation does something.
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    description = Description(
        config=config,
        voxel_size=10.0,
        radius_voxels=3,
        priors=Priors(observed=0.01, expected=0.05, unlabelled=0.04),
        filter_profile=PROFILE if config.network.filter_channel else None,
        calibration=calibration,
        training_tomograms=("one",),
        picks_sha256="0" * 64,
        epoch=1,
    )
    return Checkpoint(description=description, weights=network.state_dict())


def _tomogram(shape=(21, 40, 35), dtype=np.float32):
    rng = np.random.default_rng(0)
    data = (rng.normal(size=shape) * 20).astype(dtype)
    return Tomogram(name="two", data=data, voxel_size=10.0)


def _score(checkpoint, tomogram, **inference):
    config = checkpoint.description.config
    config = config.model_copy(update={"inference": config.inference.model_copy(update=inference)})
    return score(features_of(checkpoint, tomogram), network_of(checkpoint), config)


@pytest.mark.parametrize(
    "network",
    [
        {},
        {"network__architecture": "unet", "network__block": "residual"},
        {"network__architecture": "unet", "network__block": "multires"},
        {"network__filter_channel": False},
    ],
)
def test_the_scores_are_the_same_for_any_tile(network):
    _check_tiles(_checkpoint(**network), flips=False)


def test_the_scores_averaged_over_flips_are_the_same_for_any_tile():
    _check_tiles(_checkpoint(), flips=True)


def _check_tiles(checkpoint, *, flips):
    tomogram = _tomogram()
    whole = _score(checkpoint, tomogram, tile=1000, flips=flips)
    spread = whole.std()
    assert spread > 1e-4
    for tile in (8, 24):
        tiled = _score(checkpoint, tomogram, tile=tile, flips=flips)
        np.testing.assert_allclose(tiled, whole, atol=1e-3 * spread)


def test_the_scores_are_the_same_however_little_memory_there_is():
    checkpoint, tomogram = _checkpoint(), _tomogram(shape=(13, 60, 50))
    whole = _score(checkpoint, tomogram)
    seen = _tiles(checkpoint, tomogram, memory=2e-6)
    assert len(seen) > 1
    little = _score(checkpoint, tomogram, memory=2e-6)
    np.testing.assert_allclose(little, whole, atol=1e-3 * whole.std())
    assert len(_tiles(checkpoint, tomogram, memory=1)) == 1


def test_memory_too_little_for_any_tile_takes_one_that_holds_least_not_the_smallest():
    """Where the halo is as long as the tomogram, small tiles read all of it, again and again."""
    checkpoint = _checkpoint(network__architecture="unet", network__channels=[1, 1, 1, 1])
    assert len(_tiles(checkpoint, _tomogram(shape=(8, 40, 64)), memory=1e-9)) == 1


def test_tiles_that_would_mostly_be_halo_are_made_larger_unasked(monkeypatch):
    checkpoint, tomogram = _checkpoint(), _tomogram(shape=(8, 240, 240))
    counts = []
    for enough, most in ((1e6, 1e6), (1e6, 1e9), (1e9, 1e9)):
        monkeypatch.setattr(inference, "automatic_bytes", lambda _, both=(enough, most): both)
        counts.append(len(_tiles(checkpoint, tomogram)))
    # No larger than it takes.
    assert counts[0] > counts[1] > counts[2] == 1


def _tiles(checkpoint, tomogram, **inference):
    """Corners of the tiles that a tomogram is scored in."""
    config = checkpoint.description.config
    config = config.model_copy(update={"inference": config.inference.model_copy(update=inference)})
    parts = score_tiles(features_of(checkpoint, tomogram), network_of(checkpoint), config)
    return {window.corner[1:] for window, _, _ in parts}


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_a_tile_that_does_not_fit_the_memory_is_halved_until_it_does(monkeypatch, error):
    checkpoint, tomogram = _checkpoint(), _tomogram(shape=(13, 80, 35))
    whole = _score(checkpoint, tomogram)
    sizes = []

    def run(network, blocks, *others):
        for number, slab in enumerate(_RUN(network, blocks, *others)):
            # The first slabs still fit, as later ones meet what the layers keep.
            if number and slab.shape[1] * slab.shape[2] > 62 * 36:
                sizes.append(slab.shape[1:])
                raise error
            yield slab

    monkeypatch.setattr(inference, "_run", run)
    np.testing.assert_allclose(_score(checkpoint, tomogram), whole, atol=1e-3 * whole.std())
    assert sizes
    shares = [share for _, _, share in score_tiles(
        features_of(checkpoint, tomogram), network_of(checkpoint), checkpoint.description.config
    )]  # fmt: skip
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_a_correlation_for_one_use_is_let_go_as_the_tiles_are_done_and_changes_no_score(
    monkeypatch,
):
    monkeypatch.setattr("tomopicker.types._BAND", 16)
    checkpoint = _checkpoint(inference__tile=64)
    features = features_of(checkpoint, _tomogram(shape=(8, 448, 128)))
    network, config = network_of(checkpoint), checkpoint.description.config
    whole = score(features, network, config)
    once = features.for_one_use()
    scores, held = np.empty(once.shape, np.float32), []
    for window, logits, _ in score_tiles(once, network, config):
        scores[window.slices] = logits
        # Rows above a tile, but for its halo and what no whole band is.
        needed = window.corner[1] - receptive_radius(config.network) - 16
        assert once.correlation.nbytes <= features.correlation.nbytes * (1 - needed / 448)
        held.append(once.correlation.nbytes)
    assert held[0] == features.correlation.nbytes
    assert held[-1] < held[0] / 4
    np.testing.assert_array_equal(scores, whole)
    with pytest.raises(ValueError, match="let go"):
        score(once, network, config)


def test_scores_lie_along_y_in_memory_as_the_tiles_are_done():
    scores = _score(_checkpoint(), _tomogram(shape=(16, 24, 32)), tile=8)
    assert scores.transpose(1, 0, 2).flags.c_contiguous


def test_rows_that_half_a_tile_is_done_with_are_kept_for_the_tile_beside_it(monkeypatch):
    monkeypatch.setattr("tomopicker.types._BAND", 8)
    checkpoint, tomogram = _checkpoint(inference__tile=128), _tomogram(shape=(8, 128, 256))
    features = features_of(checkpoint, tomogram)
    network, config = network_of(checkpoint), checkpoint.description.config
    whole = score(features, network, config)

    def run(network, blocks, *others):
        for slab in _RUN(network, blocks, *others):
            if slab.shape[1] > 100:
                raise MemoryError
            yield slab

    monkeypatch.setattr(inference, "_run", run)
    halved = score(features.for_one_use(), network, config)
    np.testing.assert_allclose(halved, whole, atol=1e-3 * whole.std())


@pytest.mark.parametrize("flips", [False, True])
def test_where_half_precision_overflows_the_scores_are_those_of_single_precision(
    monkeypatch, flips
):
    checkpoint, tomogram = _checkpoint(), _tomogram()
    settings = {"tile": 16, "flips": flips}
    single = _score(checkpoint, tomogram, **settings)
    precisions = []

    def run(network, blocks, device, axes):
        dtype = next(network.parameters()).dtype
        precisions.append(dtype)
        if dtype == torch.float16:
            yield from (np.full(block.shape[1:], np.nan, np.float32) for block in blocks)
        else:
            yield from _RUN(network, blocks, device, axes)

    monkeypatch.setattr(inference, "_run", run)
    monkeypatch.setattr(inference, "_precision", lambda _: torch.float16)
    assert _score(checkpoint, tomogram, **settings) == pytest.approx(single, abs=1e-5)
    halves = precisions.count(torch.float16)
    assert halves == (8 if flips else 1)  # never again after the first tile


def test_where_not_even_the_smallest_tile_fits_the_error_says_so(monkeypatch):
    def run(*_):
        raise MemoryError
        yield

    monkeypatch.setattr(inference, "_run", run)
    with pytest.raises(InputError, match=r"memory of cpu is too small.*--device"):
        _score(_checkpoint(), _tomogram())


def test_another_error_of_the_network_is_not_taken_for_a_lack_of_memory(monkeypatch):
    def run(*_):
        raise RuntimeError("sizes do not match")
        yield

    monkeypatch.setattr(inference, "_run", run)
    with pytest.raises(RuntimeError, match="sizes do not match"):
        _score(_checkpoint(), _tomogram())


def test_scoring_that_is_left_early_leaves_no_thread():
    checkpoint = _checkpoint()
    before = threading.active_count()
    parts = score_tiles(
        features_of(checkpoint, _tomogram()), network_of(checkpoint), checkpoint.description.config
    )
    next(parts)
    parts.close()
    assert threading.active_count() == before


def test_whole_volume_scores_are_the_network_run_on_the_volume():
    checkpoint = _checkpoint()
    tomogram = _tomogram(shape=(16, 24, 32))
    features = features_of(checkpoint, tomogram)
    volume = np.stack([Normalisation.of(tomogram.data, source="").apply(tomogram.data),
                       features.correlation])  # fmt: skip
    with torch.inference_mode():
        direct = network_of(checkpoint)(torch.from_numpy(volume)[None])[0].numpy()
    np.testing.assert_allclose(_score(checkpoint, tomogram, filter_weight=0.0), direct, atol=1e-5)


def test_the_papers_windows_are_scored_one_by_one_and_laid_side_by_side():
    checkpoint = _checkpoint("paper")
    tomogram = _tomogram(shape=(16, 16, 40))
    scores = _score(checkpoint, tomogram)
    volume = Normalisation.of(tomogram.data, source="").apply(tomogram.data)
    network = network_of(checkpoint)
    padded = np.pad(volume, ((0, 0), (0, 0), (0, 8)))
    for start in (0, 16, 32):
        window = torch.from_numpy(padded[None, None, :, :, start : start + 16].copy())
        with torch.inference_mode():
            direct = network(window)[0].numpy()
        stop = min(start + 16, 40)
        np.testing.assert_allclose(
            scores[:, :, start:stop], direct[:, :, : stop - start], atol=1e-5
        )


@pytest.mark.parametrize("method", ["whole", "windows"])
def test_only_what_a_mask_keeps_something_of_is_computed_and_scores_as_without_it(
    monkeypatch, method
):
    checkpoint, tomogram = _checkpoint(), _tomogram((16, 48, 48))
    settings = {"method": method, "tile": 16, "flips": False}
    whole = _score(checkpoint, tomogram, **settings)
    mask = np.zeros((8, 24, 24), bool)  # of twice the voxel size
    mask[5, 9:18, 20] = True  # in two of the nine windows of 16 voxels
    forwards = []
    for name in ("_stream_tile", "_forward"):
        monkeypatch.setattr(inference, name, _counted(getattr(inference, name), forwards))
    masked = _score(checkpoint, replace(tomogram, mask=mask), **settings)
    assert len(forwards) == 1  # a tile about both, or a batch of the two windows
    kept = np.zeros(tomogram.shape, bool)
    kept[10:12, 18:36, 40:42] = True
    assert np.isneginf(masked[~kept]).all()
    assert np.abs(masked[kept] - whole[kept]).max() < 1e-4


@pytest.mark.parametrize("flips", [False, True])
def test_what_is_read_of_a_masked_tomogram_is_its_boxes_and_what_the_network_sees_about_them(
    monkeypatch, flips
):
    checkpoint, tomogram = _checkpoint(), _tomogram((61, 90, 94))
    whole = _score(checkpoint, tomogram, flips=flips)
    halo = receptive_radius(checkpoint.description.config.network)
    mask = np.zeros(tomogram.shape, bool)
    mask[30:33, 5, 10:20] = mask[26, 83, 52] = True
    read = []
    stream_tile = inference._stream_tile

    def reading(features, network, tile, *others):
        read.append(tile.read)
        return stream_tile(features, network, tile, *others)

    monkeypatch.setattr(inference, "_stream_tile", reading)
    masked = _score(checkpoint, replace(tomogram, mask=mask), flips=flips, tile=48)
    assert np.isneginf(masked[~mask]).all()
    np.testing.assert_allclose(masked[mask], whole[mask], atol=1e-3 * whole.std())
    # On the network's grid of 4 voxels, and no further than the faces.
    boxes = [((28, 4, 8), (36, 8, 20)), ((24, 80, 52), (28, 84, 56))]
    expected = {
        (
            tuple(max(low - halo, 0) for low in lows),
            tuple(min(high + halo, most) for high, most in zip(highs, (64, 92, 96), strict=True)),
        )
        for lows, highs in boxes
    }
    seen = {(one.corner, tuple(np.add(one.corner, one.shape).tolist())) for one in read}
    assert seen == expected
    assert len(read) == 2 * (8 if flips else 1)


def _counted(function, calls):
    def counted(*arguments, **named):
        calls.append(function)
        return function(*arguments, **named)

    return counted


@pytest.mark.parametrize("method", ["whole", "windows"])
def test_the_filter_counts_in_the_scores_by_its_weight(method):
    checkpoint = _checkpoint(inference__method=method)
    assert checkpoint.description.config.inference.filter_weight == 1.0  # as `default` has it
    tomogram = replace(_tomogram(), mask=np.ones((21, 40, 35), dtype=np.uint8))
    tomogram.mask[:, :, :9] = 0
    plain, weighted = (
        _score(checkpoint, tomogram, filter_weight=weight, method=method) for weight in (0.0, 2.5)
    )
    correlation = features_of(checkpoint, tomogram).correlation
    assert correlation is not None
    assert (plain[:, :, :9] == -np.inf).all()
    assert (weighted[:, :, :9] == -np.inf).all()
    added = weighted[:, :, 9:] - plain[:, :, 9:]
    np.testing.assert_allclose(added, 2.5 * correlation[:, :, 9:].astype(np.float32), atol=1e-4)
    # Without the channel there is nothing to add.
    without = _checkpoint(network__filter_channel=False)
    np.testing.assert_array_equal(
        _score(without, tomogram, filter_weight=2.5), _score(without, tomogram, filter_weight=0.0)
    )


def test_where_a_mask_keeps_nothing_all_is_left_out():
    for method in ("whole", "windows"):
        tomogram = replace(_tomogram(), mask=np.zeros((2, 2, 2), bool))
        assert np.isneginf(_score(_checkpoint(), tomogram, method=method)).all()


def test_every_voxel_is_scored_once_and_the_progress_ends_at_one():
    checkpoint = _checkpoint()
    tomogram = _tomogram()
    seen = np.zeros(tomogram.shape, dtype=int)
    config = checkpoint.description.config
    shares = []
    for window, logits, done in score_tiles(
        features_of(checkpoint, tomogram), network_of(checkpoint), config
    ):
        assert logits.shape == window.shape
        seen[window.slices] += 1
        shares.append(done)
    assert (seen == 1).all()
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_integer_tomograms_score_as_their_float_copies():
    checkpoint = _checkpoint()
    whole = _tomogram(dtype=np.int16)
    floats = replace(whole, data=whole.data.astype(np.float32))
    np.testing.assert_allclose(_score(checkpoint, whole), _score(checkpoint, floats), atol=1e-5)


def test_without_rescaling_another_voxel_size_is_refused_and_a_rounded_one_is_not():
    checkpoint = _checkpoint(preprocessing__working_radius=None)
    with pytest.raises(InputError, match=r"trained at 10 Å: rescale"):
        features_of(checkpoint, replace(_tomogram(), voxel_size=13.0))
    features_of(checkpoint, replace(_tomogram(), voxel_size=10.01))


def test_the_correlation_channel_has_mean_zero_and_deviation_one():
    tomogram = _tomogram()
    normalisation = Normalisation.of(tomogram.data, source="")
    features = compute_features(tomogram, normalisation, RadialFilter(profile=np.array(PROFILE)))
    assert features.correlation.mean() == pytest.approx(0, abs=1e-4)
    assert features.correlation.std() == pytest.approx(1, abs=1e-4)


def _compared(contrasts, moves=None):
    return Compared(
        contrasts=contrasts, moves=np.zeros((len(contrasts), 3)) if moves is None else moves
    )


def test_a_template_ranks_the_peaks_by_their_shape_too(monkeypatch):
    scores, tomogram = _volume_of_peaks()
    plain = _checkpoint(calibration=_calibration())
    before = pick(scores, tomogram, plain, Cut(count=12)).particles
    looked_at = []

    def compare(features, centres, template, *, radius, progress):
        looked_at.append((features.shape, centres, radius, str(torch.get_default_device())))
        # The second peak has the shape, the first not at all.
        return _compared(np.array([0.0, 0.8, *[0.4] * 1000])[: len(centres)])

    monkeypatch.setattr("tomopicker.inference.compare", compare)
    checkpoint = replace(
        plain,
        template=Template(volume=np.zeros((3, 3, 3), dtype=np.float32)),
        description=plain.description.model_copy(update={"template_weight": 10.0}),
    )
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


def test_candidates_with_shape_added_are_those_that_picking_finds(monkeypatch):
    scores, tomogram = _volume_of_peaks(60)
    plain = _checkpoint(calibration=_calibration(), peaks__margin=0)
    rng = np.random.default_rng(0)
    near = rng.normal(0, 2, 10_000)
    moves = rng.uniform(-2, 2, (10_000, 3))
    monkeypatch.setattr(
        "tomopicker.inference.compare",
        lambda _, centres, *__, **___: _compared(near[: len(centres)], moves[: len(centres)]),
    )
    checkpoint = replace(
        plain,
        template=Template(volume=np.zeros((3, 3, 3), dtype=np.float32)),
        description=plain.description.model_copy(update={"template_weight": 10.0}),
    )
    config, radius = plain.description.config, plain.description.radius_voxels
    centres, found = find_candidates(scores, config, radius=radius)
    features = features_of(checkpoint, tomogram)
    some = compare_peaks(checkpoint, features, centres)
    assert 0 < len(some.contrasts) < len(centres)
    candidates = add_shape(checkpoint, scores.shape, centres, found, some)
    picked = pick(scores, tomogram, checkpoint, Cut(count=5), features=features).particles
    np.testing.assert_allclose(candidates[1][:5], picked.scores, rtol=1e-6)
    np.testing.assert_allclose(candidates[0][:5], picked.voxels, atol=1e-4)


def _moving(monkeypatch, moves, **settings):
    """A checkpoint whose template has peaks move, the best first."""
    monkeypatch.setattr(
        "tomopicker.inference.compare",
        lambda _, centres, *__, **___: _compared(np.full(len(centres), 0.4), moves[: len(centres)]),
    )
    plain = _checkpoint(calibration=_calibration(), **settings)
    description = plain.description.model_copy(update={"template_weight": 10.0})
    template = Template(volume=np.zeros((3, 3, 3), dtype=np.float32))
    return plain, replace(plain, template=template, description=description)


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
def test_the_share_of_peaks_that_are_compared_is_that_of_any_volume(length):
    checkpoint = _checkpoint(calibration=_calibration())
    volume = np.zeros((60, 60, length), dtype=np.float32)
    features = SimpleNamespace(shape=volume.shape, data=volume, mask=None)
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "tomopicker.inference.compare",
            lambda _, centres, *__, **___: (
                asked.append(len(centres)) or _compared(np.zeros(len(centres)))
            ),
        )
        template = Template(volume=np.zeros((3, 3, 3), dtype=np.float32))
        compare_peaks(replace(checkpoint, template=template), features, np.zeros((100_000, 3)))
    description = checkpoint.description
    spacing = description.config.peaks.exclusion * description.radius_voxels
    share = asked[0] / (60 * 60 * length / (2 * ball_voxels(spacing)))
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
    checkpoint = _checkpoint("paper")
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
    checkpoint = _checkpoint(peaks__smoothing=0, peaks__margin=0)
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
    checkpoint = _checkpoint(calibration=_calibration(), peaks__smoothing=0, peaks__subvoxel=False)
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
    checkpoint = _checkpoint(calibration=_calibration(), peaks__smoothing=0, peaks__subvoxel=False)
    everything = pick(scores, tomogram, checkpoint, Cut(count=12))
    chances = everything.particles.probabilities
    assert chances.max() > 0
    for cut in (Cut(), Cut(count=3), Cut(threshold=9.5), Cut(threshold=6.5)):
        picked = pick(scores, tomogram, checkpoint, cut)
        length = len(picked.particles)
        assert picked.particles.probabilities.tolist() == chances[:length].tolist()
        assert picked.estimated == everything.estimated
        assert picked.lengths == everything.lengths
    paper = pick(scores, tomogram, _checkpoint("paper"), Cut(count=3))
    assert (paper.particles.probabilities, paper.estimated, paper.lengths) == (None, None, {})


@pytest.mark.parametrize("threads", [1, 3])
def test_the_scores_may_be_smoothed_where_they_are(threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    rng = np.random.default_rng(5)
    scores = rng.normal(size=(70, 20, 30)).astype(np.float32)
    scores[30:34, 5:9, :7] = -np.inf
    tomogram = Tomogram(name="two", data=scores, voxel_size=10.0)
    checkpoint = _checkpoint(calibration=_calibration(), peaks__smoothing=0.5)
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
    checkpoint = _checkpoint(calibration=_calibration(), peaks__smoothing=0, peaks__subvoxel=False)
    monkeypatch.setattr(inference, "most_candidates", lambda *_: 4)
    assert len(pick(scores, tomogram, checkpoint, Cut(count=9)).particles) == 9
    assert len(pick(scores, tomogram, checkpoint, Cut(threshold=5.5)).particles) == 7
    assert len(pick(scores, tomogram, checkpoint, Cut(threshold=9.5)).particles) == 3


def test_a_false_discovery_rate_needs_a_calibrated_model():
    scores, tomogram = _volume_of_peaks()
    with pytest.raises(InputError, match="give --count or --threshold"):
        pick(scores, tomogram, _checkpoint("paper"), Cut(fdr=0.05))


def test_a_list_that_ends_by_itself_never_fills_more_than_half_of_the_volume():
    """Peaks stand 0.8 of a radius of 3 apart; a ball of radius 2.4 has 57 voxels."""
    tomogram = _tomogram(shape=(29, 29, 58))
    scores = tomogram.data.astype(np.float32)
    picked = pick(scores, tomogram, _checkpoint(calibration=_calibration()), Cut())
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
