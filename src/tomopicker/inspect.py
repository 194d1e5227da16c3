"""Before the pipeline: what a volume's values are like, and how it lies."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

from tomopicker.errors import InputError
from tomopicker.types import Floats, Shape, Volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

PERCENTILES = (0.1, 1.0, 25.0, 50.0, 75.0, 99.0, 99.9)


@dataclass(frozen=True, kw_only=True)
class Densities:
    """How the values of a volume are distributed, from a sample of its voxels."""

    sampled: int
    """Voxels looked at."""
    finite: float
    """Share of them that are finite numbers."""
    mean: float
    sigma: float
    percentiles: dict[float, float]
    """Value at each of `PERCENTILES`."""
    counts: NDArray[np.int64]
    """Histogram between the 0.1th and the 99.9th percentile."""
    edges: Floats
    """(len(counts) + 1,) values between the histogram's bins."""


@dataclass(frozen=True, kw_only=True)
class Wedge:
    """How a tomogram lies, as its missing wedge shows."""

    beam: str
    """The axis along which it was looked through: z where all is well."""
    tilt_axis: str


def densities(volume: Volume, *, most: int = 2_000_000, bins: int = 40) -> Densities:
    """Describe the values of a volume from at most `most` of its voxels.

    Parameters
    ----------
    volume
        ``z y x``, perhaps memory-mapped: whole planes are skipped, so little of it is read.
    most
        Voxels to look at.
    bins
        Of the histogram.

    Raises
    ------
    InputError
        When no sampled voxel is a finite number.

    Examples
    --------
    >>> densities(np.arange(27.0).reshape(3, 3, 3)).mean
    13.0
    """
    sample = _sample(volume, most)
    finite = sample[np.isfinite(sample)]
    if not len(finite):
        raise InputError("the volume holds no finite number; reconstruct it again")
    percentiles = np.percentile(finite, PERCENTILES)
    low, high = percentiles[0], percentiles[-1]
    counts, edges = np.histogram(finite, bins=bins, range=(low, max(high, low + 1e-6)))
    return Densities(
        sampled=len(sample),
        finite=len(finite) / len(sample),
        mean=float(finite.mean()),
        sigma=float(finite.std()),
        percentiles={p: float(value) for p, value in zip(PERCENTILES, percentiles, strict=True)},
        counts=counts,
        edges=edges,
    )


def missing_wedge(volume: Volume) -> Wedge | None:
    """Find out along which axis the beam was and about which one the specimen was tilted.

    No tilt series reaches 90 degrees, so the power spectrum of its reconstruction is empty along
    the beam: in the plane perpendicular to the tilt axis, within 22 degrees of it.

    Parameters
    ----------
    volume
        ``z y x``, perhaps memory-mapped: only a block of 128 voxels cubed is read.

    Returns
    -------
    Wedge or None
        None where no wedge is clearly emptier than what lies along the other axes: in a
        simulation without one, or where a program has filled it.
    """
    block = np.asarray(volume[_middle(volume.shape, _WEDGE_BLOCK)], dtype=np.float32)
    if min(block.shape) < _WEDGE_LEAST:
        return None
    known = np.isfinite(block)
    block = np.where(known, block, block.mean(where=known) if known.any() else 0)
    block = block - block.mean()
    for axis, side in enumerate(block.shape):
        # Without it the faces, which do not continue each other, fill the axes of the spectrum.
        window = np.hanning(side + 2)[1:-1]
        block *= np.expand_dims(window, [other for other in range(3) if other != axis])
    power = np.square(np.abs(np.fft.rfftn(block)))
    z, y, x = block.shape
    waves = np.meshgrid(np.fft.fftfreq(z), np.fft.fftfreq(y), np.fft.rfftfreq(x), indexing="ij")
    length = np.sqrt(sum(np.square(wave) for wave in waves))
    used = (length > 0.06) & (length < 0.3)
    # By shell: the spectrum falls by orders of magnitude.
    shells = np.rint(length * _WEDGE_BLOCK / 2).astype(int)
    means = np.bincount(shells[used], power[used]) / np.maximum(np.bincount(shells[used]), 1)
    relative = np.zeros_like(power)
    relative[used] = power[used] / np.maximum(means[shells[used]], np.finfo(np.float32).tiny)
    emptiness = {}
    for beam, across in permutations(range(3), 2):
        along, beside = np.abs(waves[beam]), np.abs(waves[across])
        cone = used & (beside < 0.4 * along) & (np.hypot(along, beside) > length / 2)
        tilt_axis = "zyx"[3 - beam - across]
        emptiness["zyx"[beam], tilt_axis] = float(relative[cone].mean())
    (best, power_in), (_, power_next) = sorted(emptiness.items(), key=lambda item: item[1])[:2]
    if power_next == 0 or power_in > min(0.1, power_next / 3):
        return None
    return Wedge(beam=best[0], tilt_axis=best[1])


_WEDGE_BLOCK, _WEDGE_LEAST = 128, 16


def _middle(shape: Shape, most: int) -> tuple[slice, ...]:
    """Cut at most that many voxels along each axis, in the middle."""
    starts = [max(0, (side - most) // 2) for side in shape]
    return tuple(slice(start, start + most) for start in starts)


def _sample(volume: Volume, most: int) -> Floats:
    """Take evenly spaced planes and, of each, evenly spaced voxels: (n,) values, n <= most."""
    planes = np.unique(np.linspace(0, len(volume) - 1, min(len(volume), 64)).astype(int))
    per_plane = max(1, most // len(planes))
    step = int(np.ceil(np.sqrt(volume[0].size / per_plane)))
    # Rounding up on both sides of a narrow plane can exceed the limit by a little.
    sample = np.concatenate([np.asarray(volume[z, ::step, ::step]).ravel() for z in planes])
    return sample[:most].astype(np.float64)
