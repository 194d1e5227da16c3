"""Rescale: bring a tomogram to the voxel size that it is analysed at (ours, not the paper's)."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array

from tomopicker.errors import InputError
from tomopicker.preprocess import finite, finite_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tomopicker.types import Tomogram, Volume

_SAME = 0.01
"""A particle 1 % larger or smaller is still the same particle to the network."""

_FINEST, _COARSEST = 4.0, 1.5
"""How many times finer or coarser than wanted a tomogram may be."""

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
        Its data is float32 in memory; the tomogram itself when its voxel size is within 1 %.

    Raises
    ------
    InputError
        When the two voxel sizes are too far apart, see `rescaled_voxel_size`.
    """
    if rescaled_voxel_size(tomogram, voxel_size) == tomogram.voxel_size:
        return tomogram
    tomogram = tomogram.loaded()
    step = voxel_size / tomogram.voxel_size
    along_z, along_y, along_x = (_weights(length, step) for length in tomogram.shape)
    nearest = [
        np.minimum(np.rint(np.arange(weights.shape[0]) * step).astype(int), weights.shape[1] - 1)
        for weights in (along_z, along_y, along_x)
    ]
    # The filter runs on the difference from the mean: it stands for values that are not finite,
    # and a constant stays one to the last digit.
    mean = _finite_mean(tomogram.data)

    def flatten(z: int) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
        """Resample an old plane along y and x, and tell where the nearest voxel is not finite."""
        plane = np.empty(tomogram.shape[1:], dtype=np.float32)
        with np.errstate(over="ignore"):
            np.subtract(tomogram.data[z], mean, out=plane, dtype=np.float64, casting="same_kind")
        usable = finite(plane)
        if usable is not None:
            plane[~usable] = 0
            usable = usable[np.ix_(*nearest[1:])]
        return (along_x @ (along_y @ plane).T).T, None if usable is None else ~usable

    shape = (along_z.shape[0], along_y.shape[0], along_x.shape[0])
    result = np.zeros(shape, dtype=np.float32)
    planes: dict[int, tuple[NDArray[np.float32], NDArray[np.bool_] | None]] = {}
    for number, new in enumerate(result):
        row = slice(*along_z.indptr[number : number + 2])
        weights = dict(zip(along_z.indices[row].tolist(), along_z.data[row], strict=True))
        # Each old plane is read once, and kept until no new one needs it.
        planes = {z: planes[z] if z in planes else flatten(z) for z in weights}
        for z, weight in weights.items():
            new += weight * planes[z][0]
        new += mean
        unknown = planes[int(nearest[0][number])][1]
        if unknown is not None:
            new[unknown] = np.nan
    return replace(tomogram, data=result, voxel_size=voxel_size)


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


def _weights(length: int, step: float) -> Any:
    """(new, old) sparse matrix, float32: row j is the mean about the old voxels' place j step."""
    width = max(step, 1.0)
    # The last new voxel is the one that the last old voxel's centre lies in.
    places = np.arange(int((length - 1) / step + 0.5) + 1) * step
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


def _finite_mean(data: Volume) -> float:
    """Mean of the finite values; 0 where there are none."""
    total, count = 0.0, 0
    for values in finite_values(data):
        total += float(values.sum())
        count += values.size
    return total / count if count else 0.0
