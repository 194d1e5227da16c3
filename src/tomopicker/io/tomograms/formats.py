"""Volumes in whichever known format a file is."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from tomopicker.errors import InputError
from tomopicker.io.tomograms.em import read_em
from tomopicker.io.tomograms.hdf5 import read_hdf5
from tomopicker.io.tomograms.mrc import read_mrc
from tomopicker.io.tomograms.tiff import read_tiff
from tomopicker.io.tomograms.zarr import is_zarr, read_zarr
from tomopicker.types import Shape, Tomogram

if TYPE_CHECKING:
    from collections.abc import Callable

READERS: dict[str, Callable[[Path, float | None], Tomogram]] = {
    ".zarr": read_zarr,
    ".em": read_em,
    ".hdf": read_hdf5,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".tif": read_tiff,
    ".tiff": read_tiff,
}
"""How a file is read, by its suffix; every other one as MRC."""

_MOST_VOXELS = 10**12
"""Of a file that compresses, or leaves out what is empty, a small one can say that it has more."""


def read_tomogram(
    path: Path | str, *, voxel_size: float | None = None, name: str | None = None
) -> Tomogram:
    """Open a volume; its voxels stay on disk as far as its format permits.

    Parameters
    ----------
    path
        An MRC file (see `read_mrc`), or one whose suffix is among `READERS`.
    voxel_size
        Ångström; overrides what the file says.
    name
        What to call the tomogram; the file's name without its suffix when left out.

    Raises
    ------
    UnknownVoxelSizeError
        When the file does not tell its voxel size and `voxel_size` is not given.
    InputError
        When the file cannot be read, or is not one real-valued volume.
    """
    path = Path(path)
    if voxel_size is not None and not (math.isfinite(voxel_size) and voxel_size > 0):
        raise InputError(f"--voxel-size must be a positive number of ångström, got {voxel_size:g}")
    read = read_zarr if is_zarr(path) else READERS.get(path.suffix.lower(), read_mrc)
    tomogram = read(path, voxel_size)
    if tomogram.data.size > _MOST_VOXELS:
        raise InputError(
            f"{path}: says that it has {' × '.join(map(str, tomogram.shape[::-1]))} voxels, more "
            "than any tomogram; copy or convert it again"
        )
    return tomogram if name is None else replace(tomogram, name=name)


def thickness_axis(shape: Shape) -> Literal["z", "y", "x"]:
    """Name the axis along which a volume is thinnest, z when several are.

    A tomogram is thin along z; one that is thin along y was probably not rotated after its
    reconstruction (IMOD: `trimvol -rx`).

    >>> thickness_axis((500, 1000, 1000)), thickness_axis((1000, 300, 1000))
    ('z', 'y')
    """
    axes: tuple[Literal["z"], Literal["y"], Literal["x"]] = ("z", "y", "x")
    return axes[int(np.argmin(shape))]
