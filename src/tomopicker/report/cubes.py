"""Cut, average and smooth the cubes around picks, and measure how they stand out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tomopicker.types import Floats, Shape, Volume

HALF_RADII = 1.6
"""Half the side of the cube that shows a particle, in particle radii: it and a rim."""

_CORE_RADII = 0.7
_RIM_RADII = 1.25

# What is around a pick, the particle itself left out.
_NEAR_RADII, _FAR_RADII = 1.25, 3.0


@dataclass(frozen=True, kw_only=True)
class Mean:
    """The average of the cubes around many places."""

    cube: Floats
    """``z y x``; NaN where no cube has a value."""
    contrasts: Floats
    """(n,) mean density of each place's core less that of its rim; NaN where one is unknown."""


def cut_cube(data: Volume, centre: Floats, half: int) -> NDArray[np.float32]:
    """Cut a cube of side ``2 half + 1`` around a rounded centre, NaN outside the volume."""
    side = 2 * half + 1
    cube = np.full((side,) * 3, np.nan, dtype=np.float32)
    first = np.rint(centre).astype(np.int64) - half
    low = np.clip(first, 0, data.shape)
    high = np.clip(first + side, 0, data.shape)
    inside = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    place = tuple(slice(a, b) for a, b in zip(low - first, high - first, strict=True))
    cube[place] = data[inside]
    return cube


def mean_cube(data: Volume, centres: Floats, *, radius: float) -> Mean:
    """Average the cubes around (n, 3) centres ``z y x``, nothing rotated.

    Particles in all orientations average to something round but for the missing wedge.

    Parameters
    ----------
    radius
        Of a particle, voxels; the cube's half side is `HALF_RADII` of it.
    """
    half = math.ceil(HALF_RADII * radius)
    distance = _distances(half)
    core, rim = distance <= _CORE_RADII * radius, distance >= _RIM_RADII * radius
    rim &= distance <= half
    total = np.zeros((2 * half + 1,) * 3)
    count = np.zeros(total.shape)
    contrasts = np.full(len(centres), np.nan)
    for row, centre in enumerate(centres):
        cube = cut_cube(data, centre, half)
        known = np.isfinite(cube)
        total[known] += cube[known]
        count += known
        if known[core].any() and known[rim].any():
            contrasts[row] = np.nanmean(cube[core]) - np.nanmean(cube[rim])
    cube = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return Mean(cube=cube, contrasts=contrasts)


def textures(data: Volume, centres: Floats, *, radius: float) -> Floats:
    """Measure how much there is to see around each of (n, 3) places, the place itself left out.

    The standard deviation of the density averaged over blocks of a third of the radius: a cell's
    is larger than that of empty ice. NaN where nothing is known.
    """
    # Blocks instead of a filter: as much of the noise is averaged out, in a tenth of the time.
    block = max(round(radius / 3), 1)
    blocks = 2 * math.ceil(_FAR_RADII * radius / block) + 1
    half = blocks * block // 2
    distance = block * _distances(blocks // 2)
    shell = (distance >= _NEAR_RADII * radius) & (distance <= _FAR_RADII * radius)
    result = np.full(len(centres), np.nan)
    for row, centre in enumerate(centres):
        cube = cut_cube(data, centre, half)[: blocks * block, : blocks * block, : blocks * block]
        # An unknown voxel makes its block unknown.
        means = cube.reshape(blocks, block, blocks, block, blocks, block).mean(axis=(1, 3, 5))
        values = means[shell & np.isfinite(means)]
        if len(values):
            result[row] = values.std()
    return result


def random_places(shape: Shape, count: int, *, margin: float, rng: np.random.Generator) -> Floats:
    """Draw (count, 3) places ``z y x`` at least `margin` voxels from the faces, where there are."""
    size = np.array(shape, dtype=np.float64)
    margin_of = np.minimum(margin, (size - 1) / 2)
    places: Floats = rng.uniform(margin_of, size - 1 - margin_of, size=(count, 3))
    return places


def smooth(cube: NDArray[np.floating], sigma: float) -> NDArray[np.float32]:
    """Gaussian mean of the known voxels; the unknown stay so."""
    known = np.isfinite(cube)
    total = gaussian_filter(np.where(known, cube, 0).astype(np.float32), sigma)
    weight = gaussian_filter(known.astype(np.float32), sigma)
    mean: NDArray[np.float32] = np.divide(
        total, weight, out=np.full(cube.shape, np.nan, np.float32), where=known
    )
    return mean


def sections(cube: NDArray[np.floating]) -> list[NDArray[np.floating]]:
    """Cut a cube through its centre: xy, xz, yz."""
    half = len(cube) // 2
    return [cube[half], cube[:, half], cube[:, :, half]]


def _distances(half: int) -> Floats:
    axis = np.arange(-half, half + 1) ** 2
    distance: Floats = np.sqrt(axis[:, None, None] + axis[:, None] + axis)
    return distance
