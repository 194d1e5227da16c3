"""Whole-volume scores do not depend on the tiles, the memory or the mask."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from tomopicker import inference
from tomopicker.errors import InputError
from tomopicker.features import compute_features
from tomopicker.inference import features_of, network_of, score, score_tiles
from tomopicker.matched_filter import RadialFilter
from tomopicker.network import receptive_radius
from tomopicker.preprocess import Normalisation
from untrained import PROFILE, checkpoint_of, noise_of

_RUN = inference._run


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
    _check_tiles(checkpoint_of(**network), flips=False)


def test_the_scores_averaged_over_flips_are_the_same_for_any_tile():
    _check_tiles(checkpoint_of(), flips=True)


def _check_tiles(checkpoint, *, flips):
    tomogram = noise_of()
    whole = _score(checkpoint, tomogram, tile=1000, flips=flips)
    spread = whole.std()
    assert spread > 1e-4
    for tile in (8, 24):
        tiled = _score(checkpoint, tomogram, tile=tile, flips=flips)
        np.testing.assert_allclose(tiled, whole, atol=1e-3 * spread)


def test_the_scores_are_the_same_however_little_memory_there_is():
    checkpoint, tomogram = checkpoint_of(), noise_of(shape=(13, 60, 50))
    whole = _score(checkpoint, tomogram)
    seen = _tiles(checkpoint, tomogram, memory=2e-6)
    assert len(seen) > 1
    little = _score(checkpoint, tomogram, memory=2e-6)
    np.testing.assert_allclose(little, whole, atol=1e-3 * whole.std())
    assert len(_tiles(checkpoint, tomogram, memory=1)) == 1


def test_memory_too_little_for_any_tile_takes_one_that_holds_least_not_the_smallest():
    """Where the halo is as long as the tomogram, small tiles read all of it, again and again."""
    checkpoint = checkpoint_of(network__architecture="unet", network__channels=[1, 1, 1, 1])
    assert len(_tiles(checkpoint, noise_of(shape=(8, 40, 64)), memory=1e-9)) == 1


def test_tiles_that_would_mostly_be_halo_are_made_larger_unasked(monkeypatch):
    checkpoint, tomogram = checkpoint_of(), noise_of(shape=(8, 240, 240))
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
    checkpoint, tomogram = checkpoint_of(), noise_of(shape=(13, 80, 35))
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
    checkpoint = checkpoint_of(inference__tile=64)
    features = features_of(checkpoint, noise_of(shape=(8, 448, 128)))
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
    scores = _score(checkpoint_of(), noise_of(shape=(16, 24, 32)), tile=8)
    assert scores.transpose(1, 0, 2).flags.c_contiguous


def test_rows_that_half_a_tile_is_done_with_are_kept_for_the_tile_beside_it(monkeypatch):
    monkeypatch.setattr("tomopicker.types._BAND", 8)
    checkpoint, tomogram = checkpoint_of(inference__tile=128), noise_of(shape=(8, 128, 256))
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
    checkpoint, tomogram = checkpoint_of(), noise_of()
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
        _score(checkpoint_of(), noise_of())


def test_another_error_of_the_network_is_not_taken_for_a_lack_of_memory(monkeypatch):
    def run(*_):
        raise RuntimeError("sizes do not match")
        yield

    monkeypatch.setattr(inference, "_run", run)
    with pytest.raises(RuntimeError, match="sizes do not match"):
        _score(checkpoint_of(), noise_of())


def test_scoring_that_is_left_early_leaves_no_thread():
    checkpoint = checkpoint_of()
    before = threading.active_count()
    parts = score_tiles(
        features_of(checkpoint, noise_of()), network_of(checkpoint), checkpoint.description.config
    )
    next(parts)
    parts.close()
    assert threading.active_count() == before


def test_whole_volume_scores_are_the_network_run_on_the_volume():
    checkpoint = checkpoint_of()
    tomogram = noise_of(shape=(16, 24, 32))
    features = features_of(checkpoint, tomogram)
    volume = np.stack([Normalisation.of(tomogram.data, source="").apply(tomogram.data),
                       features.correlation])  # fmt: skip
    with torch.inference_mode():
        direct = network_of(checkpoint)(torch.from_numpy(volume)[None])[0].numpy()
    np.testing.assert_allclose(_score(checkpoint, tomogram, filter_weight=0.0), direct, atol=1e-5)


def test_the_papers_windows_are_scored_one_by_one_and_laid_side_by_side():
    checkpoint = checkpoint_of("paper")
    tomogram = noise_of(shape=(16, 16, 40))
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
    checkpoint, tomogram = checkpoint_of(), noise_of((16, 48, 48))
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
    checkpoint, tomogram = checkpoint_of(), noise_of((61, 90, 94))
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
    checkpoint = checkpoint_of(inference__method=method)
    assert checkpoint.description.config.inference.filter_weight == 1.0  # as `default` has it
    tomogram = replace(noise_of(), mask=np.ones((21, 40, 35), dtype=np.uint8))
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
    without = checkpoint_of(network__filter_channel=False)
    np.testing.assert_array_equal(
        _score(without, tomogram, filter_weight=2.5), _score(without, tomogram, filter_weight=0.0)
    )


def test_where_a_mask_keeps_nothing_all_is_left_out():
    for method in ("whole", "windows"):
        tomogram = replace(noise_of(), mask=np.zeros((2, 2, 2), bool))
        assert np.isneginf(_score(checkpoint_of(), tomogram, method=method)).all()


def test_every_voxel_is_scored_once_and_the_progress_ends_at_one():
    checkpoint = checkpoint_of()
    tomogram = noise_of()
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
    checkpoint = checkpoint_of()
    whole = noise_of(dtype=np.int16)
    floats = replace(whole, data=whole.data.astype(np.float32))
    np.testing.assert_allclose(_score(checkpoint, whole), _score(checkpoint, floats), atol=1e-5)


def test_without_rescaling_another_voxel_size_is_refused_and_a_rounded_one_is_not():
    checkpoint = checkpoint_of(preprocessing__working_radius=None)
    with pytest.raises(InputError, match=r"trained at 10 Å: rescale"):
        features_of(checkpoint, replace(noise_of(), voxel_size=13.0))
    features_of(checkpoint, replace(noise_of(), voxel_size=10.01))


def test_the_correlation_channel_has_mean_zero_and_deviation_one():
    tomogram = noise_of()
    normalisation = Normalisation.of(tomogram.data, source="")
    features = compute_features(tomogram, normalisation, RadialFilter(profile=np.array(PROFILE)))
    assert features.correlation.mean() == pytest.approx(0, abs=1e-4)
    assert features.correlation.std() == pytest.approx(1, abs=1e-4)
