"""Windows: tile a volume, cut windows and stitch them again (paper 3.1 and 3.4)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from tomopicker.types import Shape, Volume, Window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


def grid(shape: Shape, *, side: int, stride: int) -> list[Window]:
    """Windows of a sliding window that together cover every voxel of a volume.

    The last window of an axis may reach past the far face; what lies there is padding.

    >>> [window.corner for window in grid((4, 4, 6), side=4, stride=4)]
    [(0, 0, 0), (0, 0, 4)]
    """
    if stride > side:
        raise ValueError(f"stride {stride} is larger than the window {side}: voxels would be lost")
    starts = [range(0, max(length - side + stride, 1), stride) for length in shape]
    return [Window(corner=(z, y, x), shape=(side, side, side)) for z, y, x in product(*starts)]


def inside(window: Window, shape: Shape) -> Window:
    """Return the part of a window that lies in a volume of the given shape (perhaps empty)."""
    starts = [max(start, 0) for start in window.corner]
    stops = [
        max(min(start + size, length), low)
        for start, size, length, low in zip(window.corner, window.shape, shape, starts, strict=True)
    ]
    return _box(starts, stops)


def place(block: NDArray[Any], at: Window, window: Window, *, fill: float = 0) -> NDArray[Any]:
    """Lay a block that was read at one window into a larger window; the rest is `fill`."""
    if at == window:
        return block
    padded = np.full(window.shape, fill, dtype=block.dtype)
    offset = [a - b for a, b in zip(at.corner, window.corner, strict=True)]
    if block.size:
        padded[tuple(slice(o, o + n) for o, n in zip(offset, block.shape, strict=True))] = block
    return padded


def cut(volume: Volume, window: Window, *, fill: float = 0) -> NDArray[Any]:
    """Copy a window out of a volume; what lies outside of the volume is `fill`.

    >>> cut(np.ones((2, 2, 2)), Window(corner=(1, 0, 0), shape=(2, 2, 2)), fill=7)[:, 0, 0].tolist()
    [1.0, 7.0]
    """
    z, y, x = volume.shape
    at = inside(window, (z, y, x))
    return place(np.array(volume[at.slices]), at, window, fill=fill)


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A part of a volume to compute (`core`) and what must be read to do so (`read`)."""

    core: Window
    read: Window

    @property
    def core_in_read(self) -> tuple[slice, slice, slice]:
        """The core as an index of the block that was read."""
        z, y, x = (
            slice(core - read, core - read + size)
            for core, read, size in zip(
                self.core.corner, self.read.corner, self.core.shape, strict=True
            )
        )
        return z, y, x


def tiles(shape: Shape, *, side: int | Shape, halo: int, multiple: int = 1) -> Iterator[Tile]:
    """Split a volume into tiles of about `side` voxels whose cores cover every voxel once.

    One side is that of all axes, or give one for each.

    Each tile reads `halo` more voxels on every face that is not a face of the volume, so a
    computation that looks no further than `halo` gives the same result for any `side`. Corners
    are multiples of `multiple` (and so is `halo`, rounded up), which keeps the pooling lattice of
    a network in place. Along each axis the tiles are of nearly equal length.

    >>> [tile.core.corner[2] for tile in tiles((8, 8, 20), side=8, halo=2, multiple=2)]
    [0, 10]
    """
    halo = -(-halo // multiple) * multiple
    sides = (side,) * 3 if isinstance(side, int) else side
    axes = [_parts(length, one, multiple) for length, one in zip(shape, sides, strict=True)]
    for parts in product(*axes):
        core = _box([start for start, _ in parts], [stop for _, stop in parts])
        yield tile_of(core, shape, halo=halo)


def tile_of(core: Window, shape: Shape, *, halo: int) -> Tile:
    """Add to a core the halo that must be read for it, as far as there is volume."""
    starts = [max(start - halo, 0) for start in core.corner]
    stops = [
        min(start + size + halo, length)
        for start, size, length in zip(core.corner, core.shape, shape, strict=True)
    ]
    return Tile(core=core, read=_box(starts, stops))


def shifted(window: Window, by: Shape) -> Window:
    """Return a window moved by so many voxels.

    >>> shifted(Window(corner=(0, 0, 8), shape=(4, 4, 4)), (1, 0, 2)).corner
    (1, 0, 10)
    """
    z, y, x = (start + one for start, one in zip(window.corner, by, strict=True))
    return Window(corner=(z, y, x), shape=window.shape)


def around(outer: Window, inner: Window) -> list[Window]:
    """Split what a window has beside a smaller one in it into windows.

    >>> outer = Window(corner=(0, 0, 0), shape=(1, 1, 6))
    >>> around(outer, Window(corner=(0, 0, 1), shape=(1, 1, 2)))
    [Window(corner=(0, 0, 0), shape=(1, 1, 1)), Window(corner=(0, 0, 3), shape=(1, 1, 3))]
    """
    starts = list(outer.corner)
    stops = [start + size for start, size in zip(outer.corner, outer.shape, strict=True)]
    windows = []
    for axis, (start, size) in enumerate(zip(inner.corner, inner.shape, strict=True)):
        for low, high in ((starts[axis], start), (start + size, stops[axis])):
            if low < high:
                windows.append(
                    _box(
                        [*starts[:axis], low, *starts[axis + 1 :]],
                        [*stops[:axis], high, *stops[axis + 1 :]],
                    )
                )
        starts[axis], stops[axis] = start, start + size
    return windows


def _parts(length: int, side: int, multiple: int) -> list[tuple[int, int]]:
    count = max(1, round(length / side))
    step = -(-length // (count * multiple)) * multiple
    return [(start, min(start + step, length)) for start in range(0, length, step)]


def _box(starts: list[int], stops: list[int]) -> Window:
    (z, y, x), (end_z, end_y, end_x) = starts, stops
    return Window(corner=(z, y, x), shape=(end_z - z, end_y - y, end_x - x))
