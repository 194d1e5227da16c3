"""Whether picks sit on density, or would if their coordinates were read in another way."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import permutations, product
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from tomopicker.errors import InputError
from tomopicker.rescale import block_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tomopicker.types import Floats, Particles, Shape, Tomogram, Volume


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One way to read the three columns of a list of picks."""

    order: str = "xyz"
    """What the file's first, second and third column are."""
    mirrored: str = ""
    """Axes that are counted from the far face."""
    factor: float = 1.0
    """By which the numbers have to be multiplied."""
    from_centre: bool = False
    """Whether they count from the tomogram's centre and not from its corner."""

    def places(self, voxels: Floats, shape: Shape) -> Floats:
        """Places (n, 3) ``z y x`` of coordinates that were read, in the usual way, as `voxels`."""
        columns = dict(zip(self.order, voxels.T[::-1] * self.factor, strict=True))
        places = np.stack([columns[axis] for axis in "zyx"], axis=1)
        if self.from_centre:
            places = places + np.array(shape) / 2
        for axis in self.mirrored:
            column = "zyx".index(axis)
            places[:, column] = shape[column] - 1 - places[:, column]
        return places

    def __str__(self) -> str:
        """Say what is done to the coordinates.

        >>> print(Reading(order="zyx", mirrored="z"))
        x and z swapped, z mirrored
        >>> print(Reading(order="yzx", factor=2))
        columns read as y,z,x, numbers doubled
        """
        parts = []
        moved = [axis for axis, column in zip("xyz", self.order, strict=True) if axis != column]
        if len(moved) == 2:
            parts.append(f"{moved[0]} and {moved[1]} swapped")
        elif moved:
            parts.append(f"columns read as {','.join(self.order)}")
        if self.factor != 1:
            words = {2: "doubled", 0.5: "halved"}
            parts.append(f"numbers {words.get(self.factor, f'multiplied by {self.factor:.3g}')}")
        if self.from_centre:
            parts.append("counted from the centre")
        if self.mirrored:
            parts.append(f"{' and '.join(self.mirrored)} mirrored")
        return ", ".join(parts) or "as they are"


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How the density at the picks differs from the density beside them."""

    z: float
    """In standard errors; positive where particles are bright, negative where they are dark."""
    inside: float
    """Share of the picks that are inside the tomogram."""
    readings: dict[Reading, float]
    """The same of every other way to read the coordinates in which they are inside."""
    shift: Floats
    """(3,) voxels ``z y x``, from the picks to where the density differs most."""
    shift_z: float
    """In standard errors, there."""
    radius: float
    """Of the particle, voxels."""

    @property
    def better(self) -> Reading | None:
        """The reading that fits far better than the file's own, if one does."""
        if not self.readings:
            return None
        best = max(self.readings, key=lambda reading: abs(self.readings[reading]))
        return best if abs(self.readings[best]) >= self.convincing else None

    @property
    def better_shift(self) -> Floats | None:
        """A shift of half a radius or more that fits far better than none, if one does."""
        is_far = float(np.linalg.norm(self.shift)) >= self.radius / 2
        return self.shift if is_far and abs(self.shift_z) >= self.convincing else None

    @property
    def convincing(self) -> float:
        """Standard errors, of either sign, from which another reading counts as better."""
        # Of all readings, and of all shifts, of picks at random the best is at 3 to 6. And where
        # particles are crowded in a thin layer, a list that is mirrored still fits half as well.
        return max(7.0, 1.5 * abs(self.z), abs(self.z) + 5)


def fit_of_picks(
    tomogram: Tomogram,
    particles: Particles,
    radius_voxels: float,
    *,
    rng: np.random.Generator,
    most: int = 500,
) -> Fit:
    """Compare the contrast at the picks with that of places two to five radii beside them.

    The contrast of a place is the mean of about the particle's volume there less that of its
    surroundings, in robust standard deviations of the whole tomogram and at most 3: gold does not
    decide. Picks in another frame of coordinates, or of another tomogram, have none.

    Parameters
    ----------
    tomogram
        Memory-mapped is enough: it is read once, slab by slab.
    particles
        Need not be inside.
    radius_voxels
        Of the particle.
    rng
        Chooses the picks, when there are more than `most`, and the places beside them.
    most
        Picks to look at.

    Raises
    ------
    InputError
        When the radius is not positive or there are no picks.
    """
    if not len(particles) or not 0 < radius_voxels < math.inf:
        raise InputError(f"{len(particles)} picks of radius {radius_voxels:g} cannot be measured")
    if len(particles) > most:
        particles = particles.select(rng.choice(len(particles), most, replace=False))
    contrast, block = _contrast(tomogram.data, radius_voxels)
    radius = radius_voxels / block

    def blocks(reading: Reading) -> Floats:
        """Places of those picks that are inside, in blocks."""
        places = reading.places(particles.voxels, tomogram.shape)
        limits = np.array(tomogram.shape) - 0.5
        inside = ((places >= -0.5) & (places <= limits)).all(axis=1)
        return (places[inside] + 0.5) / block - 0.5

    own = blocks(Reading())
    # Few readings but the right one put all picks inside; a rounded size may lose some.
    enough = max(1, math.ceil(0.9 * len(particles)))
    readings = {}
    for reading in _readings(tomogram.voxel_size):
        places = blocks(reading)
        # A small factor puts all picks into a corner of the tomogram, whatever is there.
        if len(places) >= enough and _distinct(places, radius) >= len(places) / 4:
            readings[reading] = _z_score(contrast, places, radius, rng)
    shift, shift_z = _best_shift(contrast, own, radius, rng)
    return Fit(
        z=_z_score(contrast, own, radius, rng),
        inside=len(own) / len(particles),
        readings=readings,
        shift=shift * block,
        shift_z=shift_z,
        radius=radius_voxels,
    )


def mean_subvolume(volume: Volume, places: Floats, reach: int) -> NDArray[np.float32]:
    """Average the volume around places.

    Parameters
    ----------
    volume
        ``z y x``, possibly memory-mapped.
    places
        (n, 3) voxels ``z y x``, rounded; those whose box is not wholly inside are left out.
    reach
        Voxels on each side of the middle one.

    Returns
    -------
    NDArray[np.float32]
        ``(2 reach + 1,) * 3``; zeros when no box is inside.
    """
    total = np.zeros((2 * reach + 1,) * 3)
    count = 0
    for place in np.rint(places).astype(int):
        low, high = place - reach, place + reach + 1
        if (low >= 0).all() and (high <= volume.shape).all():
            box = np.asarray(volume[tuple(map(slice, low, high))], dtype=np.float64)
            if np.isfinite(box).all():
                total += box
                count += 1
    return (total / max(count, 1)).astype(np.float32)


_BESIDE = 20
"""Places beside each pick that its contrast is compared with."""

_BLOCK_RADIUS = 4
"""Blocks in a particle's radius, at least: finer ones tell no more."""

_MOST_DEVIATIONS = 3.0


def _readings(voxel_size: float) -> Iterator[Reading]:
    """Ways in which lists of picks are misread, but the right one."""
    orders = ["".join(order) for order in permutations("xyz")]
    mirrors = ["".join(axes) for axes in ("", *"zyx", "yz", "xz", "xy", "xyz")]
    usual = Reading()
    for order, mirrored in product(orders, mirrors):
        reading = Reading(order=order, mirrored=mirrored)
        if reading != usual:
            yield reading
    # Another binning, ångström taken for voxels, and the reverse.
    factors = dict.fromkeys((1.0, 2.0, 0.5, 4.0, 0.25, 1 / voxel_size, voxel_size))
    for order, factor, from_centre in product(orders, factors, (False, True)):
        if factor != 1 or from_centre:
            yield Reading(order=order, factor=factor, from_centre=from_centre)


def _contrast(volume: Volume, radius: float) -> tuple[NDArray[np.float32], int]:
    """Contrast at the particle's scale of blocks ``z y x``, and a block's side in voxels."""
    block = max(1, min(int(radius / _BLOCK_RADIUS), *volume.shape))
    means = block_mean(volume, block)
    known = np.isfinite(means)
    means = np.where(known, means, means.mean(where=known) if known.any() else 0)
    sigma = radius / block
    contrast = ndimage.gaussian_filter(means, sigma / 2)
    contrast -= ndimage.gaussian_filter(means, 1.2 * sigma)
    contrast -= np.median(contrast)
    deviation = 1.4826 * float(np.median(np.abs(contrast)))
    if deviation > 0:
        contrast /= deviation
    return np.clip(contrast, -_MOST_DEVIATIONS, _MOST_DEVIATIONS), block


def _beside(
    contrast: NDArray[np.float32], places: Floats, radius: float, rng: np.random.Generator
) -> Floats:
    """Contrast of places two to five radii beside (n, 3) places, all in blocks: (m,)."""
    directions = rng.normal(size=(_BESIDE, len(places), 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    distances = rng.uniform(2, 5, size=(_BESIDE, len(places), 1)) * radius
    beside = (places + directions * distances).reshape(-1, 3)
    # Reflected at the faces, so that picks near them are compared with places inside.
    last = np.array(contrast.shape) - 1
    beside = np.clip(last - np.abs(last - np.abs(beside)), 0, last)
    return _at(contrast, beside)


def _distinct(places: Floats, radius: float) -> int:
    """Number of places that are not about the same one: those that count as independent."""
    return len(np.unique(np.floor(places / radius), axis=0))


def _at(contrast: NDArray[np.float32], places: Floats) -> Floats:
    values: Floats = ndimage.map_coordinates(
        contrast, places.T, order=1, mode="nearest", output=np.float64
    )
    return values


def _z_score(
    contrast: NDArray[np.float32], places: Floats, radius: float, rng: np.random.Generator
) -> float:
    """Mean contrast at (n, 3) places less that beside them, in standard errors; 0 without any."""
    if not len(places):
        return 0.0
    around = _beside(contrast, places, radius, rng)
    error = float(around.std()) / math.sqrt(_distinct(places, radius))
    return float(_at(contrast, places).mean() - around.mean()) / error if error > 0 else 0.0


def _best_shift(
    contrast: NDArray[np.float32], places: Floats, radius: float, rng: np.random.Generator
) -> tuple[Floats, float]:
    """Where, within three radii of (n, 3) places, the contrast is strongest: (3,) and its score."""
    reach = math.ceil(3 * radius)
    if not len(places):
        return np.zeros(3), 0.0
    around = _beside(contrast, places, radius, rng)
    error = float(around.std()) / math.sqrt(_distinct(places, radius))
    if error == 0:
        return np.zeros(3), 0.0
    mean = mean_subvolume(np.pad(contrast, reach), np.rint(places) + reach, reach)
    scores = (mean - float(around.mean())) / error
    best = float(scores.flat[np.argmax(np.abs(scores))])
    # The middle of the places that are about as good: strong contrast is cut off, and so flat.
    near_best = np.argwhere(scores / best >= 0.9)
    return near_best.mean(axis=0) - reach, best
