"""Augmentation varies a batch as tomograms vary, and keeps labels in place."""

import numpy as np
import pytest
import torch

from tomopicker.augment import FLIPS, augment


def _batch(channels, rng):
    """Noise with a bright voxel where the label is."""
    labels = torch.zeros(3, 8, 8, 8, dtype=torch.uint8)
    volumes = torch.from_numpy(rng.normal(0, 0.01, (3, channels, 8, 8, 8)).astype(np.float32))
    for number, (z, y, x) in enumerate([(1, 2, 3), (6, 5, 0), (0, 7, 4)]):
        labels[number, z, y, x] = 1
        volumes[number, :, z, y, x] = 50
    return volumes, labels


def test_there_are_eight_flips_and_all_keep_the_missing_wedge():
    """A wedge about y in the x-z plane is symmetric under each reversal of an axis."""
    k = np.fft.fftfreq(8)
    wedge = np.abs(k[None, None, :]) < np.abs(k[:, None, None]) * np.tan(np.radians(30))
    wedge = np.broadcast_to(wedge, (8, 8, 8))
    assert len(set(FLIPS)) == 8
    for axes in FLIPS:
        flipped = np.roll(np.flip(wedge, axes), [1] * len(axes), axes)
        np.testing.assert_array_equal(flipped[:4, :4, :4], wedge[:4, :4, :4])


def test_labels_follow_the_density_and_the_correlation():
    rng = np.random.default_rng(0)
    for channels in (1, 2):
        volumes, labels = _batch(channels, rng)
        for _ in range(5):
            new_volumes, new_labels = augment(volumes, labels, rng=rng)
            assert new_volumes.shape == volumes.shape
            for channel in range(channels):
                brightest = new_volumes[:, channel].flatten(1).argmax(1)
                assert torch.equal(brightest, new_labels.flatten(1).argmax(1))


def test_every_window_is_varied_and_the_input_is_left_alone():
    rng = np.random.default_rng(1)
    volumes, labels = _batch(2, rng)
    before = volumes.clone()
    varied, _ = augment(volumes, labels, rng=rng)
    assert torch.equal(volumes, before)
    assert not torch.allclose(varied, volumes)


def test_the_same_generator_gives_the_same_batch():
    volumes, labels = _batch(2, np.random.default_rng(2))
    first, _ = augment(volumes, labels, rng=np.random.default_rng(3))
    second, _ = augment(volumes, labels, rng=np.random.default_rng(3))
    assert torch.equal(first, second)


@pytest.mark.parametrize("channels", [1, 2])
def test_parts_of_a_batch_are_varied_as_the_whole_batch_is(channels):
    volumes, labels = _batch(channels, np.random.default_rng(4))
    whole = augment(volumes, labels, rng=np.random.default_rng(5))
    for first, stop in ((0, 2), (2, 3), (3, 3)):
        part, part_labels = augment(
            volumes[first:stop],
            labels[first:stop],
            rng=np.random.default_rng(5),
            first=first,
            total=3,
        )
        # Several threads may transform one window and several in another order of sums.
        torch.testing.assert_close(part, whole[0][first:stop], rtol=1e-5, atol=1e-5)
        assert torch.equal(part_labels, whole[1][first:stop])
