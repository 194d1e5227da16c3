"""Windows cover a volume, and what is cut can be stitched again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tomopicker.types import Window
from tomopicker.windows import around, cut, grid, inside, place, tiles

SHAPES = st.tuples(*(st.integers(1, 23) for _ in range(3)))


@given(shape=SHAPES, side=st.integers(1, 9), data=st.data())
def test_a_sliding_window_covers_every_voxel(shape, side, data):
    stride = data.draw(st.integers(1, side))
    seen = np.zeros(shape, dtype=int)
    for window in grid(shape, side=side, stride=stride):
        seen[window.slices] += 1
    assert seen.min() >= 1
    if stride == side:
        assert seen.max() == 1


def test_windows_of_the_paper_do_not_overlap_and_reach_past_the_far_face():
    windows = grid((32, 32, 40), side=32, stride=32)
    assert [window.corner for window in windows] == [(0, 0, 0), (0, 0, 32)]


def test_a_stride_that_would_lose_voxels_is_refused():
    with pytest.raises(ValueError, match="voxels would be lost"):
        grid((8, 8, 8), side=4, stride=5)


@given(
    shape=SHAPES,
    side=st.integers(1, 30),
    halo=st.integers(0, 6),
    multiple=st.sampled_from([1, 2, 4]),
)
def test_tiles_cover_every_voxel_once_and_read_a_whole_halo(shape, side, halo, multiple):
    seen = np.zeros(shape, dtype=int)
    for tile in tiles(shape, side=side, halo=halo, multiple=multiple):
        seen[tile.core.slices] += 1
        assert all(start % multiple == 0 for start in tile.read.corner)
        block = np.zeros(tile.read.shape, dtype=bool)
        block[tile.core_in_read] = True
        assert block.sum() == np.prod(tile.core.shape)
        for axis in range(3):
            before = tile.core.corner[axis] - tile.read.corner[axis]
            core_end = tile.core.corner[axis] + tile.core.shape[axis]
            read_end = tile.read.corner[axis] + tile.read.shape[axis]
            assert before >= halo or tile.read.corner[axis] == 0
            assert read_end - core_end >= halo or read_end == shape[axis]
    assert (seen == 1).all()


@given(
    shape=SHAPES,
    corner=st.tuples(*(st.integers(-10, 30) for _ in range(3))),
    size=st.tuples(*(st.integers(1, 12) for _ in range(3))),
)
def test_a_cut_is_the_volume_inside_and_the_fill_outside(shape, corner, size):
    volume = np.arange(np.prod(shape), dtype=np.int64).reshape(shape)
    window = Window(corner=corner, shape=size)
    block = cut(volume, window, fill=-1)
    assert block.shape == size
    for index in np.ndindex(*size):
        where = tuple(np.add(corner, index))
        within = all(0 <= a < b for a, b in zip(where, shape, strict=True))
        assert block[index] == (volume[where] if within else -1)


def test_a_cut_is_a_copy():
    volume = np.zeros((4, 4, 4))
    cut(volume, Window(corner=(0, 0, 0), shape=(4, 4, 4)))[:] = 1
    assert not volume.any()


def test_a_block_is_placed_where_it_was_read():
    window = Window(corner=(-1, 0, 2), shape=(3, 2, 2))
    at = inside(window, (5, 5, 3))
    assert at == Window(corner=(0, 0, 2), shape=(2, 2, 1))
    placed = place(np.ones(at.shape), at, window, fill=9)
    assert placed.sum() == 4 * 1 + 8 * 9


@given(shape=SHAPES, data=st.data())
def test_around_a_window_lies_the_rest_of_the_other_once(shape, data):
    corner = tuple(data.draw(st.integers(0, length - 1)) for length in shape)
    sides = tuple(
        data.draw(st.integers(1, length - start))
        for start, length in zip(corner, shape, strict=True)
    )
    inner = Window(corner=corner, shape=sides)
    seen = np.zeros(shape, dtype=int)
    for window in [inner, *around(Window(corner=(0, 0, 0), shape=shape), inner)]:
        seen[window.slices] += 1
    assert (seen == 1).all()
