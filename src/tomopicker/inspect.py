"""Before the pipeline: what a volume's values are like, and whether picks sit on density."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tomopicker.errors import InputError
from tomopicker.io.particles import fitting_orders
from tomopicker.types import Floats, Particles, Tomogram, Volume

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
class Fit:
    """How the density at the picks differs from the density beside them."""

    z: float
    """In standard errors; positive where particles are bright, negative where they are dark."""
    orders: dict[str, float]
    """The same with the columns in another order, for each in which every pick is inside."""

    @property
    def better_order(self) -> str | None:
        """The order of the columns that fits far better than the file's own, if one does."""
        if not self.orders:
            return None
        best = max(self.orders, key=lambda order: abs(self.orders[order]))
        convincing = abs(self.orders[best]) > max(6.0, 2 * abs(self.z))
        return best if convincing else None


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


def fit_of_picks(
    tomogram: Tomogram,
    particles: Particles,
    radius_voxels: float,
    *,
    rng: np.random.Generator,
    most: int = 200,
) -> Fit:
    """Compare the mean density in balls at the picks with balls two to three radii beside them.

    Picks in the wrong order of columns, or of another tomogram, are no brighter or darker than
    their surroundings: the result is within about 3 of zero.

    Parameters
    ----------
    tomogram
        Memory-mapped is enough: only boxes around the places are read.
    particles
        Inside the tomogram (see `check_inside`).
    radius_voxels
        Of the balls.
    rng
        Chooses the picks, when there are more than `most`, and the places beside them.
    most
        Picks to look at.

    Raises
    ------
    InputError
        When the radius is not positive or there are no picks.
    """
    if not len(particles) or radius_voxels <= 0:
        raise InputError(f"{len(particles)} picks of radius {radius_voxels:g} cannot be measured")
    chosen = particles
    if len(particles) > most:
        chosen = particles.select(rng.choice(len(particles), most, replace=False))
    scores = {}
    for order in fitting_orders(particles, tomogram.shape):
        # A file's columns read as x, y, z; in another order they mean `order`.
        columns = dict(zip(order, chosen.voxels.T[::-1], strict=True))
        places = np.stack([columns[axis] for axis in "zyx"], axis=1)
        scores[order] = _z_score(tomogram.data, places, radius_voxels, rng)
    return Fit(z=scores.pop("xyz", 0.0), orders=scores)


_BESIDE = 6
"""Places beside each pick that its density is compared with."""


def _sample(volume: Volume, most: int) -> Floats:
    """Take evenly spaced planes and, of each, evenly spaced voxels: (n,) values, n <= most."""
    planes = np.unique(np.linspace(0, len(volume) - 1, min(len(volume), 64)).astype(int))
    per_plane = max(1, most // len(planes))
    step = int(np.ceil(np.sqrt(volume[0].size / per_plane)))
    # Rounding up on both sides of a narrow plane can exceed the limit by a little.
    sample = np.concatenate([np.asarray(volume[z, ::step, ::step]).ravel() for z in planes])
    return sample[:most].astype(np.float64)


def _z_score(volume: Volume, places: Floats, radius: float, rng: np.random.Generator) -> float:
    """Difference of means at (n, 3) places ``z y x`` and beside them, in standard errors."""
    directions = rng.normal(size=(_BESIDE, len(places), 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    distances = rng.uniform(2, 3, size=(_BESIDE, len(places), 1)) * radius
    beside = (places + directions * distances).reshape(-1, 3)
    # Reflected at the faces, so that picks near them are compared with places inside.
    last = np.array(volume.shape) - 1
    beside = np.clip(last - np.abs(last - np.abs(beside)), 0, last)
    at = _ball_means(volume, places, radius)
    around = _ball_means(volume, beside, radius)
    spread = float(np.nanstd(around)) / np.sqrt(np.isfinite(at).sum().clip(1))
    difference = float(np.nanmean(at) - np.nanmean(around))
    return difference / spread if spread > 0 else 0.0


def _ball_means(volume: Volume, places: Floats, radius: float) -> Floats:
    """Mean of the volume in a ball around each of (n, 3) places ``z y x``: (n,)."""
    reach = int(np.ceil(radius))
    grid = np.indices((2 * reach + 1,) * 3) - reach
    ball = (grid**2).sum(axis=0) <= radius**2
    means = np.empty(len(places))
    for row, centre in enumerate(np.rint(places).astype(int)):
        start = np.maximum(centre - reach, 0)
        stop = np.minimum(centre + reach + 1, volume.shape)
        inside = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        part = tuple(
            slice(a - c + reach, b - c + reach) for a, b, c in zip(start, stop, centre, strict=True)
        )
        values = np.asarray(volume[inside], dtype=np.float64)[ball[part]]
        means[row] = values[np.isfinite(values)].mean() if np.isfinite(values).any() else np.nan
    return means
