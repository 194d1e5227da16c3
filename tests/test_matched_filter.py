"""The radial matched filter finds what it was shown, whatever the tiles."""

import numpy as np
import pytest

from tomopicker import matched_filter
from tomopicker.errors import InputError
from tomopicker.matched_filter import RadialFilter, correlate, learn_filter
from tomopicker.types import Window


def _reader(volume):
    def read(window: Window):
        return volume[window.slices].astype(np.float32)

    return read


def _planted(rng, centres, shape=(40, 48, 56), radius=5.0):
    z, y, x = np.indices(shape)
    volume = rng.normal(0, 0.3, shape)
    for centre in centres:
        distance = np.sqrt(sum((a - c) ** 2 for a, c in zip((z, y, x), centre, strict=True)))
        volume -= 1 / (1 + np.exp(2 * (distance - radius)))
    return volume


CENTRES = np.array([[10.3, 12.0, 14.6], [20.0, 35.5, 20.0], [28.7, 20.2, 44.0], [12.0, 36.0, 44.0]])


def test_the_profile_is_the_density_at_each_radius():
    """A cone 10 - d sampled around its tip gives 10, 9, 8 ... at radius 0, 1, 2 ...

    To within the curvature that sharing each voxel between two radii leaves at the tip, and the
    outermost radius, which has voxels on its inner side only.
    """
    z, y, x = np.indices((21, 21, 21)) - 10.0
    cone = 10 - np.sqrt(z**2 + y**2 + x**2)
    read = _reader(cone)
    radial = learn_filter([(read, cone.shape, np.array([[10.0, 10.0, 10.0]]))], radius=4)
    assert radial.reach == 5
    np.testing.assert_allclose(radial.profile, [10, 9, 8, 7, 6, 5], atol=0.35)


def test_the_template_has_mean_zero_and_norm_one_within_its_mask():
    template = RadialFilter(profile=np.array([3.0, 2.0, 1.0])).template()
    assert template.shape == (5, 5, 5)
    assert template[0, 0, 0] == 0
    assert template.sum() == pytest.approx(0, abs=1e-6)
    assert (template**2).sum() == pytest.approx(1, abs=1e-6)


def test_the_correlation_is_the_coefficient_worked_out_directly():
    rng = np.random.default_rng(0)
    volume = rng.normal(size=(12, 13, 14)).astype(np.float32)
    radial = RadialFilter(profile=np.array([-2.0, -1.0, 0.5, 0.0]))
    scores = correlate(_reader(volume), volume.shape, radial)
    axis = np.arange(-3, 4)
    distance = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    mask = distance <= 3
    shown = np.interp(distance, np.arange(4), radial.profile)[mask]
    for z, y, x in [(5, 6, 7), (3, 3, 3), (8, 9, 10)]:
        block = volume[z - 3 : z + 4, y - 3 : y + 4, x - 3 : x + 4][mask]
        assert scores[z, y, x] == pytest.approx(np.corrcoef(shown, block)[0, 1], abs=1e-4)


def test_planted_particles_are_the_highest_peaks_from_two_clicks():
    volume = _planted(np.random.default_rng(1), CENTRES)
    read = _reader(volume)
    radial = learn_filter([(read, volume.shape, CENTRES[:2])], radius=5)
    scores = correlate(read, volume.shape, radial)
    for centre in CENTRES:
        z, y, x = np.rint(centre).astype(int)
        assert scores[z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2].max() > 0.7
    assert (scores > 0.7).sum() < 200


def test_the_correlation_does_not_depend_on_the_tiles(monkeypatch):
    volume = _planted(np.random.default_rng(2), CENTRES)
    radial = RadialFilter(profile=np.array([-1.0, -1.0, -0.8, -0.2, 0.2, 0.0]))
    whole = correlate(_reader(volume), volume.shape, radial)
    monkeypatch.setattr(matched_filter, "_TILE", 17)
    np.testing.assert_allclose(correlate(_reader(volume), volume.shape, radial), whole, atol=1e-3)


def test_a_particle_at_the_face_is_learned_from_the_part_inside():
    volume = _planted(np.random.default_rng(3), [(1.0, 20.0, 20.0)])
    radial = learn_filter(
        [(_reader(volume), volume.shape, np.array([[1.0, 20.0, 20.0]]))], radius=5
    )
    assert radial.profile[0] < radial.profile[-1] - 0.5


def test_tiles_at_once_have_the_correlation_of_one_after_the_other(monkeypatch):
    volume = _planted(np.random.default_rng(2), CENTRES)
    radial = RadialFilter(profile=np.array([-1.0, -1.0, -0.8, -0.2, 0.2, 0.0]))
    monkeypatch.setattr("tomopicker.matched_filter._TILE", 16)
    expected = correlate(_reader(volume), volume.shape, radial)
    monkeypatch.setattr("torch.backends.mkl.is_available", lambda: False)
    np.testing.assert_array_equal(correlate(_reader(volume), volume.shape, radial), expected)


def test_a_flat_place_correlates_with_nothing():
    radial = RadialFilter(profile=np.array([-1.0, 0.0, 1.0]))
    assert not correlate(_reader(np.zeros((9, 9, 9))), (9, 9, 9), radial).any()


def test_clicks_without_contrast_are_refused():
    with pytest.raises(InputError, match="no contrast"):
        learn_filter(
            [(_reader(np.zeros((30, 30, 30))), (30, 30, 30), np.array([[15.0] * 3]))], radius=5
        )
