"""Standardise a tomogram, clip it at 3 standard deviations, standardise it again (paper 3.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tomopicker.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from tomopicker.types import Floats, Volume

# Voxels that are in memory as float64 at a time, 32 MiB.
_SLAB = 1 << 22

# Rounding gives a constant volume a standard deviation near 1e-16 of its value; the smallest real
# one, a single step of float32, is near 1e-8 of it over the root of the number of voxels.
_CONSTANT = 1e-13


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """What standardising one tomogram takes, so that any block of it can be done by itself."""

    mean: float
    std: float
    clip_sigma: float
    """Bound of the values once standardised, on both sides."""
    clipped_mean: float
    """Of the standardised and clipped values."""
    clipped_std: float

    @classmethod
    def of(cls, data: Volume, *, clip_sigma: float = 3.0, source: str) -> Normalisation:
        """Measure a volume slab by slab, in double precision and without copying it whole.

        Parameters
        ----------
        data
            ``z y x``, any real type, possibly memory-mapped. Voxels that are not finite are left
            out.
        clip_sigma
            Standard deviations at which values are clipped.
        source
            Name of the tomogram, for the error.

        Raises
        ------
        InputError
            When no voxel is finite, or all have one value.
        """
        raw = moments(data)
        if raw.count == 0:
            raise InputError(
                f"{source}: expected numbers, got no finite voxel at all; reconstruct it again"
            )
        if not _CONSTANT * abs(raw.mean) < raw.std < math.inf:
            raise InputError(
                f"{source}: expected voxels that differ, got a standard deviation of {raw.std:.3g}"
                f" about {raw.mean:.6g}; check that this is the reconstruction and not a mask"
            )
        # Clip between the two passes: a gold bead would otherwise set the scale.
        clipped = moments(
            data,
            lambda values: np.clip((values - raw.mean) / raw.std, -clip_sigma, clip_sigma),
        )
        return cls(
            mean=raw.mean,
            std=raw.std,
            clip_sigma=clip_sigma,
            clipped_mean=clipped.mean,
            clipped_std=clipped.std,
        )

    def apply(self, block: NDArray[Any]) -> NDArray[np.float32]:
        """Standardise, clip and standardise a block of the tomogram.

        Parameters
        ----------
        block
            Any shape and real type; it is not changed.

        Returns
        -------
        NDArray[np.float32]
            Of the block's shape; 0, which is the mean, where the block is not finite.
        """
        result = np.empty(block.shape, dtype=np.float32)
        # A value beyond float32 becomes infinite here, and the bound two lines on.
        with np.errstate(over="ignore"):
            # In double precision, a few thousand voxels at a time: an offset that is large
            # beside the contrast would cost float32 its digits.
            np.subtract(block, self.mean, out=result, dtype=np.float64, casting="same_kind")
        result /= self.std
        np.clip(result, -self.clip_sigma, self.clip_sigma, out=result)
        result -= self.clipped_mean
        result /= self.clipped_std
        usable = finite(block)
        if usable is not None:
            result[~usable] = 0
        return result


def finite(block: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Tell which voxels have a finite value; None when all of them have.

    >>> finite(np.array([1.0, np.nan]))
    array([ True, False])
    >>> finite(np.array([1, 2])) is None
    True
    """
    if not np.issubdtype(block.dtype, np.inexact):
        return None
    usable: NDArray[np.bool_] = np.isfinite(block)
    return None if usable.all() else usable


def finite_values(data: Volume) -> Iterator[Floats]:
    """Yield the finite voxels of slabs along z, flat, where there are any."""
    planes = max(1, _SLAB // max(1, math.prod(data.shape[1:])))
    for start in range(0, len(data), planes):
        slab = data[start : start + planes]
        usable = finite(slab)
        values = slab.ravel() if usable is None else slab[usable]
        if values.size:
            yield values.astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Number, mean and sum of squared deviations of some values."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @property
    def std(self) -> float:
        """Standard deviation; 0 of no values."""
        return math.sqrt(self.squares / max(self.count, 1))

    def __add__(self, other: Moments) -> Moments:
        # Chan, Golub & LeVeque (1983): unlike a difference of sums, no digits cancel.
        count = self.count + other.count
        if count == 0:
            return self
        step = other.mean - self.mean
        return Moments(
            count=count,
            mean=self.mean + step * other.count / count,
            squares=self.squares + other.squares + step**2 * self.count * other.count / count,
        )


def moments(data: Volume, transform: Callable[[Floats], Floats] = lambda values: values) -> Moments:
    """Measure the finite voxels of a volume slab by slab, in double precision.

    Parameters
    ----------
    data
        ``z y x``, any real type.
    transform
        What is done to the values before.
    """
    total = Moments()
    for values in finite_values(data):
        changed = transform(values)
        mean = float(changed.mean())
        squares = float(np.square(changed - mean).sum())
        total += Moments(count=len(changed), mean=mean, squares=squares)
    return total
