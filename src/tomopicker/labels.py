"""Particle centres to balls of positive voxels; all other voxels are unlabelled (paper 3.1)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tomopicker.types import Shape

POSITIVE = 1
UNLABELLED = 0
NEGATIVE = 2
"""The value of voxels of what a person looked at and found to be something else."""
IGNORED = 255
"""The value of voxels that no objective counts: padding, and voxels without a finite value."""

# d² is an integer; a radius such as 0.29 x 100 must not lose its outermost voxels to rounding.
_TOLERANCE = 1e-6


def ball(radius: float) -> NDArray[np.bool_]:
    """Draw the voxels whose centres are within a radius, inclusive, of the middle voxel's centre.

    Parameters
    ----------
    radius
        In voxels, not negative.

    Returns
    -------
    NDArray[np.bool_]
        ``(k, k, k)`` with ``k = 2 floor(radius) + 1``.

    >>> int(ball(1).sum())  # the voxel and its six neighbours
    7
    """
    if not 0 <= radius < math.inf:
        raise ValueError(f"radius must be a finite number of voxels, at least 0, got {radius}")
    reach = math.floor(radius + _TOLERANCE)
    squares = np.arange(-reach, reach + 1) ** 2
    distances = squares[:, None, None] + squares[:, None] + squares  # (k k k), squared
    within: NDArray[np.bool_] = distances <= radius**2 + _TOLERANCE
    return within


def ball_voxels(radius: float) -> int:
    """Count the voxels of `ball`: Rn of paper 3.2.2.

    >>> ball_voxels(7), ball_voxels(12)
    (1419, 7153)
    """
    return int(ball(radius).sum())


def stamp(shape: Shape, centres: NDArray[Any], *, radius: float) -> NDArray[np.uint8]:
    """Label the voxels within a radius of the particles as positive.

    Parameters
    ----------
    shape
        Of the volume, ``z y x``.
    centres
        ``(n, 3)`` voxel coordinates ``z y x``. They are rounded to the nearest voxel: a ball
        about a centre between voxels would have more or fewer voxels than Rn, and the priors of
        equations 4 and 8 count Rn for every particle.
    radius
        In voxels, see `ball`.

    Returns
    -------
    NDArray[np.uint8]
        ``shape``, `POSITIVE` in the balls and else `UNLABELLED`. Balls are cut at the faces, and
        voxels of overlapping balls count once.

    >>> labels = stamp((4, 4, 4), np.array([[0, 0, 0.4]]), radius=1)
    >>> int(labels.sum())  # three of the seven voxels are outside the volume
    4
    """
    labels = np.full(shape, UNLABELLED, dtype=np.uint8)
    stamped = ball(radius)
    side = len(stamped)
    corners = np.floor(np.reshape(centres, (-1, 3)) + 0.5).astype(np.int64) - side // 2
    # Only each particle's own box is touched: the cost does not grow with the volume.
    for corner in corners.tolist():
        here, there = [], []
        for start, length in zip(corner, shape, strict=True):
            first = min(max(start, 0), length)
            last = max(min(start + side, length), first)
            here.append(slice(first, last))
            there.append(slice(first - start, last - start))
        labels[tuple(here)][stamped[tuple(there)]] = POSITIVE
    return labels


def voxel_radius(radius_angstrom: float, voxel_size: float) -> int:
    """Give a particle's radius in whole voxels, rounded up (paper 4.4).

    Parameters
    ----------
    radius_angstrom, voxel_size
        Both in ångström.

    >>> voxel_radius(150, 13.48)  # the paper's ribosome: 11.13 voxels
    12
    >>> voxel_radius(161.76, 13.48)  # 12 voxels, whatever the floating-point remainder
    12
    """
    return max(1, math.ceil(radius_angstrom / voxel_size - _TOLERANCE))
