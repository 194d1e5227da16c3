"""Rescale: bring a tomogram to the voxel size that it is analysed at (ours, not the paper's)."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from scipy.sparse import csr_array

from tomopicker.errors import InputError
from tomopicker.preprocess import finite, moments
from tomopicker.types import HalfVolume, Level

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tomopicker.types import Floats, Tomogram, Volume

_SAME = 0.01
"""A particle 1 % larger or smaller is still the same particle to the network."""

_FINEST, _COARSEST = 4.0, 1.5
"""How many times finer or coarser than wanted a tomogram may be."""

_FARTHEST = 6e4
"""Standard deviations from the mean beyond which values are cut off: half precision ends there."""

# Lobes of the kernel on either side and its Kaiser window: structures of 4 or more of the new
# voxels keep their height to a thousandth, and what the new voxels cannot hold is kept out of them.
_LOBES, _BETA = 4, 6.0


def rescaled_voxel_size(tomogram: Tomogram, wanted: float) -> float:
    """Voxel size in ångström that `rescale` gives: its own when that is within 1 % of the wanted.

    Raises
    ------
    InputError
        When the tomogram is more than 1.5 times coarser than wanted, or more than 4 times finer.
    """
    own = tomogram.voxel_size
    if abs(own / wanted - 1) <= _SAME:
        return own
    own = level_for(tomogram, wanted).voxel_size
    source = tomogram.path or tomogram.name
    # Room for rounding: 20.25 Å is 1.5 times 13.5 Å.
    if own / wanted > _COARSEST + 1e-6:
        raise InputError(
            f"{source}: voxel size {own:g} Å is more than {_COARSEST:g} times the {wanted:g} Å at "
            "which the particle is looked for: reconstruct it at a finer one, or check --voxel-size"
        )
    if wanted / own > _FINEST + 1e-6:
        raise InputError(
            f"{source}: voxel size {own:g} Å is less than a quarter of the {wanted:g} Å at which "
            f"the particle is looked for: bin it, to {wanted / _FINEST:.3g} Å or more, or check "
            "--voxel-size and the radius"
        )
    return wanted


def level_for(tomogram: Tomogram, voxel_size: float) -> Level:
    """Choose what a tomogram is rescaled from: of its levels the coarsest that is fine enough.

    That is the one closest to the wanted voxel size, in ångström, that has no larger voxels; the
    tomogram itself where there is none.
    """
    own = Level(data=tomogram.data, voxel_size=tomogram.voxel_size, origin=np.zeros(3))
    fine = [level for level in tomogram.coarser if level.voxel_size <= voxel_size * (1 + _SAME)]
    return max([own, *fine], key=lambda level: level.voxel_size)


def rescale(tomogram: Tomogram, voxel_size: float) -> Tomogram:
    """Resample a tomogram at another voxel size, with the centre of voxel (0, 0, 0) in its place.

    Along each axis every new voxel is a weighted mean of the old ones around it, by a windowed
    sinc as wide as the larger of the two voxels, so that nothing is aliased. Beyond the faces the
    outermost voxels go on. Every old voxel's centre lies in a new voxel.

    Where the nearest old voxel is not finite the new one is NaN; to its neighbours it counts as
    the volume's mean.

    Parameters
    ----------
    voxel_size
        In ångström.

    Returns
    -------
    Tomogram
        Its data is a `HalfVolume`; the tomogram itself when its voxel size is within 1 %.

    Raises
    ------
    InputError
        When the two voxel sizes are too far apart, see `rescaled_voxel_size`.
    """
    if rescaled_voxel_size(tomogram, voxel_size) == tomogram.voxel_size:
        return tomogram
    level = level_for(tomogram, voxel_size)
    data = level.data if isinstance(level.data, np.ndarray) else np.asarray(level.data)
    # The last new voxel is the one that the last old voxel's centre lies in.
    counts = [
        int((length - 1) / (voxel_size / tomogram.voxel_size) + 0.5) + 1
        for length in tomogram.shape
    ]
    step = voxel_size / level.voxel_size
    places = [
        np.arange(count) * step - first / level.voxel_size
        for count, first in zip(counts, level.origin, strict=True)
    ]
    along_z, along_y, along_x = (
        _weights(length, one, step) for length, one in zip(data.shape, places, strict=True)
    )
    nearest = [
        np.clip(np.rint(one).astype(int), 0, length - 1)
        for length, one in zip(data.shape, places, strict=True)
    ]
    # The filter runs on the difference from the mean: it stands for values that are not finite,
    # and a constant stays one to the last digit.
    known = moments(data)
    mean, unit = known.mean, known.std or 1.0

    def flatten(z: int) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
        """Resample an old plane along y and x, and tell where the nearest voxel is not finite."""
        plane = np.empty(data.shape[1:], dtype=np.float32)
        with np.errstate(over="ignore"):
            np.subtract(data[z], mean, out=plane, dtype=np.float64, casting="same_kind")
        plane /= unit
        usable = finite(plane)
        if usable is not None:
            plane[~usable] = 0
            usable = usable[np.ix_(*nearest[1:])]
        return (along_x @ (along_y @ plane).T).T, None if usable is None else ~usable

    shape = (along_z.shape[0], along_y.shape[0], along_x.shape[0])
    result = np.empty(shape, dtype=np.float16)
    new = np.empty(shape[1:], dtype=np.float32)
    planes: dict[int, tuple[NDArray[np.float32], NDArray[np.bool_] | None]] = {}
    for number in range(len(result)):
        new[:] = 0
        row = slice(*along_z.indptr[number : number + 2])
        weights = dict(zip(along_z.indices[row].tolist(), along_z.data[row], strict=True))
        # Each old plane is read once, and kept until no new one needs it.
        planes = {z: planes[z] if z in planes else flatten(z) for z in weights}
        for z, weight in weights.items():
            new += weight * planes[z][0]
        np.clip(new, -_FARTHEST, _FARTHEST, out=new)
        unknown = planes[int(nearest[0][number])][1]
        if unknown is not None:
            new[unknown] = np.nan
        result[number] = new
    volume = cast("Volume", HalfVolume(result, mean=mean, unit=unit))
    return replace(tomogram, data=volume, voxel_size=voxel_size, coarser=())


def block_mean(data: Volume, factor: int) -> NDArray[np.float32]:
    """Average blocks of ``factor`` cubed voxels; what is left over at the far faces is cut off.

    Parameters
    ----------
    data
        ``z y x``, any real type; read slab by slab.
    factor
        At most the shortest side.

    Returns
    -------
    NDArray[np.float32]
        ``z y x``; the mean of a block's finite voxels, NaN where it has none.

    >>> block_mean(np.array([[[0, 2, 4]] * 2] * 2), 2)
    array([[[1.]]], dtype=float32)
    """
    z, y, x = (side // factor for side in data.shape)
    result = np.empty((z, y, x), dtype=np.float32)
    for plane in range(z):
        slab = np.asarray(data[plane * factor : (plane + 1) * factor])
        blocks = slab[:, : y * factor, : x * factor].reshape(factor, y, factor, x, factor)
        usable = finite(blocks)
        if usable is None:
            result[plane] = blocks.mean(axis=(0, 2, 4), dtype=np.float64)
            continue
        total = np.where(usable, blocks, 0).sum(axis=(0, 2, 4), dtype=np.float64)
        count = usable.sum(axis=(0, 2, 4))
        result[plane] = np.where(count, total / np.maximum(count, 1), np.nan)
    return result


def _weights(length: int, places: Floats, step: float) -> Any:
    """(new, old) sparse matrix, float32: a row is the mean about a place among the old voxels."""
    width = max(step, 1.0)
    reach = ceil(_LOBES * width)
    taps = np.floor(places).astype(int)[:, None] + np.arange(-reach, reach + 2)  # (new, taps)
    lobes = (taps - places[:, None]) / width
    window = np.i0(_BETA * np.sqrt(np.maximum(1 - (lobes / _LOBES) ** 2, 0)))
    values = np.where(np.abs(lobes) < _LOBES, np.sinc(lobes) * window, 0)
    values /= values.sum(axis=1, keepdims=True)
    rows = np.repeat(np.arange(len(places)), taps.shape[1])
    # What would be beyond a face is the outermost voxel's weight: equal places are summed.
    columns = np.clip(taps, 0, length - 1).ravel()
    matrix = csr_array((values.ravel(), (rows, columns)), shape=(len(places), length))
    matrix.eliminate_zeros()
    return matrix.astype(np.float32)
