"""Labels are balls of the published size, in their places, cut at the faces."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tomopicker.labels import POSITIVE, UNLABELLED, ball, ball_voxels, stamp, voxel_radius


@pytest.mark.parametrize(
    # By hand: a point; with 6 faces; with 12 edges; with 8 corners; and 6 of d² = 4.
    ("radius", "voxels"),
    [(0, 1), (1, 7), (1.42, 19), (1.74, 27), (2, 33), (7, 1419), (12, 7153)],
)
def test_a_ball_has_every_voxel_within_its_radius(radius, voxels):
    assert ball_voxels(radius) == voxels


def test_a_ball_is_the_same_from_every_side():
    drawn = ball(4.3)
    assert drawn.shape == (9, 9, 9)
    assert np.array_equal(drawn, drawn[::-1])
    assert np.array_equal(drawn, drawn.transpose(2, 0, 1))


def test_a_product_that_should_be_whole_loses_no_voxel():
    assert ball_voxels(0.29 * 100) == ball_voxels(29)  # 28.999999999999996
    assert ball_voxels(7 - 1e-12) == 1419


@pytest.mark.parametrize("radius", [-1, np.nan, np.inf])
def test_a_radius_that_is_none_is_refused(radius):
    with pytest.raises(ValueError, match="radius must be"):
        ball(radius)


@given(
    shape=st.tuples(*3 * [st.integers(1, 9)]),
    centres=st.lists(st.tuples(*3 * [st.integers(-4, 12)]), max_size=4),
    radius=st.floats(0, 5),
)
def test_stamping_equals_measuring_every_distance(shape, centres, radius):
    voxels = np.stack(np.indices(shape), axis=-1)  # (z y x 3)
    expected = np.zeros(shape, dtype=bool)
    for centre in centres:
        expected |= ((voxels - centre) ** 2).sum(axis=-1) <= radius**2 + 1e-6
    labels = stamp(shape, np.array(centres, dtype=float).reshape(-1, 3), radius=radius)
    assert labels.dtype == np.uint8
    assert np.array_equal(labels == POSITIVE, expected)
    assert np.array_equal(labels == UNLABELLED, ~expected)


@given(st.tuples(*3 * [st.floats(5, 14)]))
def test_every_particle_has_the_same_number_of_voxels_wherever_its_centre_is(centre):
    labels = stamp((20, 20, 20), np.array([centre]), radius=4)
    assert labels.sum() == ball_voxels(4)
    # The ball's own centre is the nearest voxel.
    middle = np.argwhere(labels).mean(axis=0)
    assert np.abs(middle - centre).max() <= 0.5 + 1e-9


def test_columns_of_a_centre_are_z_y_x():
    labels = stamp((3, 5, 7), np.array([[1, 2, 6]]), radius=0)
    assert np.argwhere(labels).tolist() == [[1, 2, 6]]


def test_overlapping_balls_count_their_shared_voxels_once():
    # Two neighbours: 7 + 7 voxels, each centre lies in both balls.
    labels = stamp((9, 9, 9), np.array([[4, 4, 4], [4, 4, 5]]), radius=1)
    assert labels.sum() == 12


def test_no_centres_leave_everything_unlabelled():
    assert not stamp((2, 3, 4), np.empty((0, 3)), radius=3).any()


def test_the_papers_ribosome_is_twelve_voxels_in_radius():
    assert voxel_radius(150, 13.48) == 12
    assert voxel_radius(1, 13.48) == 1
    assert [voxel_radius(count * 13.48, 13.48) for count in range(1, 50)] == list(range(1, 50))
