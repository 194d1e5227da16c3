"""Masks: where in a tomogram particles may be, given or told from the density (ours)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from tomopicker.rescale import block_mean
from tomopicker.types import Window

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tomopicker.types import Shape, Volume

_BLOCK_RADIUS = 3
"""Blocks in a particle's radius, at least."""

_EMPTY = 0.4
"""Share of the variance in full parts of a tomogram below which a place may be empty."""

_MARGIN = 2.0
"""Radii around a place that is not empty that are kept too."""


def automatic_mask(volume: Volume, radius: float) -> NDArray[np.bool_]:
    """Tell where a tomogram holds anything of a particle's size: cells and not the ice about them.

    Where nothing is, the density varies less at the particle's scale. A place is kept when the
    variance about it, over a radius, exceeds `_EMPTY` of the 90th percentile of the tomogram's, and
    so is all within two radii of such a place, and gaps less than four radii wide. Nothing is left
    out of a tomogram that is full, or that is empty but for a tenth.

    Parameters
    ----------
    volume
        ``z y x``, perhaps memory-mapped; read once, slab by slab.
    radius
        Of the particle, voxels.

    Returns
    -------
    NDArray[np.bool_]
        ``z y x``, of the volume's extent in blocks of voxels; true where particles may be.
    """
    block = max(1, min(int(radius / _BLOCK_RADIUS), *volume.shape))
    means = block_mean(volume, block)
    known = np.isfinite(means)
    means = np.where(known, means, means.mean(where=known) if known.any() else 0)
    sigma = radius / block
    density = ndimage.gaussian_filter(means, 0.35 * sigma)
    density -= ndimage.gaussian_filter(means, 1.2 * sigma)
    density -= np.median(density)
    deviation = 1.4826 * float(np.median(np.abs(density)))
    if deviation > 0:
        # Gold would otherwise decide what full is.
        np.clip(density / deviation, -4, 4, out=density)
    variance = ndimage.gaussian_filter(np.square(density), sigma)
    full = variance > _EMPTY * np.percentile(variance, 90)
    if not full.any():
        return np.ones_like(full)
    kept = ndimage.distance_transform_edt(~full) <= _MARGIN * sigma
    # Small empty places are gaps in a cell: what is left out is made of balls that are larger.
    middles = ndimage.distance_transform_edt(~kept) > _MARGIN * sigma
    if not middles.any():
        return np.ones_like(kept)
    empty = ndimage.distance_transform_edt(~middles) <= _MARGIN * sigma
    filled: NDArray[np.bool_] = ~empty | kept
    return filled


def within(mask: Volume, shape: Shape, window: Window | None = None) -> NDArray[np.bool_]:
    """Say of each voxel of a volume, or of a window of it, whether a mask keeps it.

    Parameters
    ----------
    mask
        ``z y x``, of the same extent as the volume to within a voxel of its own, which may be of
        another size; it keeps where it is not zero.
    shape
        Of the volume.
    window
        Inside the volume; all of it when left out.

    Returns
    -------
    NDArray[np.bool_]
        ``z y x``, of the window's shape.

    >>> within(np.array([[[True, False]]]), (1, 1, 4)).tolist()
    [[[True, True, False, False]]]
    """
    if window is None:
        window = Window(corner=(0, 0, 0), shape=shape)
    kept: NDArray[np.bool_] = np.asarray(mask[np.ix_(*_places(mask, shape, window))]) != 0
    return kept


def keeps(mask: Volume, shape: Shape, voxels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Say of (n, 3) voxels ``z y x`` of a volume whether a mask keeps them, as `within` does.

    >>> keeps(np.array([[[True, False]]]), (1, 1, 4), np.array([[0, 0, 1], [0, 0, 2]])).tolist()
    [True, False]
    """
    at = ((voxels + 0.5) * np.array(mask.shape) / np.array(shape)).astype(np.intp)
    kept: NDArray[np.bool_] = np.asarray(mask[tuple(at.T)]) != 0
    return kept


def kept_box(mask: Volume, shape: Shape, window: Window) -> Window | None:
    """Find the smallest box in a window of a volume that has all of it that a mask keeps.

    Parameters
    ----------
    mask, shape, window
        As for `within`; the mask is read plane by plane.

    Returns
    -------
    Window or None
        None when the mask keeps nothing there.

    >>> whole = Window(corner=(0, 0, 0), shape=(1, 1, 6))
    >>> kept_box(np.array([[[False, True, False]]]), (1, 1, 6), whole)
    Window(corner=(0, 0, 2), shape=(1, 1, 2))
    """
    # A voxel of the mask, which may be one of many voxels of the volume, is looked at once.
    (z, of_z), (y, of_y), (x, of_x) = (
        np.unique(one, return_inverse=True) for one in _places(mask, shape, window)
    )
    layers, rows, columns = (np.zeros(len(one), dtype=bool) for one in (z, y, x))
    for number, place in enumerate(z.tolist()):
        kept = np.asarray(mask[place])[np.ix_(y, x)] != 0
        layers[number] = kept.any()
        rows |= kept.any(axis=1)
        columns |= kept.any(axis=0)
    if not layers.any():
        return None
    ranges = [np.flatnonzero(one) for one in (layers[of_z], rows[of_y], columns[of_x])]
    (z0, z1), (y0, y1), (x0, x1) = (
        (start + int(one[0]), int(one[-1] - one[0]) + 1)
        for start, one in zip(window.corner, ranges, strict=True)
    )
    return Window(corner=(z0, y0, x0), shape=(z1, y1, x1))


def kept_share(mask: Volume) -> float:
    """Share of a mask that is not zero, read plane by plane."""
    return float(np.mean([np.count_nonzero(plane) / plane.size for plane in mask]))


def _places(mask: Volume, shape: Shape, window: Window) -> list[NDArray[np.intp]]:
    """For each axis of a window the voxels of a mask that its voxels' centres lie in."""
    return [
        ((np.arange(start, start + length) + 0.5) * mine / side).astype(np.intp)
        for start, length, mine, side in zip(
            window.corner, window.shape, mask.shape, shape, strict=True
        )
    ]
