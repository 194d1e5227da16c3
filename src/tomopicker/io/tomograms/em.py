"""Volumes of the EM program and the TOM toolbox (`.em`), memory-mapped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tomopicker.errors import InputError, UnknownVoxelSizeError
from tomopicker.io.names import tomogram_name
from tomopicker.types import Tomogram

if TYPE_CHECKING:
    from pathlib import Path

_HEADER = 512
_TYPES = {1: "i1", 2: "i2", 4: "i4", 5: "f4", 9: "f8"}
_COMPLEX = (8, 10)
_BIG_ENDIAN = (3, 5)
"""Machines SGI and Mac; a PC is 6. Others have numbers of their own kind."""


def read_em(path: Path, voxel_size: float | None = None) -> Tomogram:
    """Open an EM volume, read-only and memory-mapped.

    Parameters
    ----------
    path
        The file.
    voxel_size
        Ångström; the header has none that programs agree on.

    Raises
    ------
    UnknownVoxelSizeError
        When `voxel_size` is not given.
    InputError
        When the file is missing, truncated, no EM file, or not one volume of real numbers.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER)
        size = path.stat().st_size
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check its name and folder") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    machine, kind = (head[0], head[3]) if len(head) == _HEADER else (0, 0)
    order = ">" if machine in _BIG_ENDIAN else "<"
    if machine not in (*_BIG_ENDIAN, 6) or kind not in (*_TYPES, *_COMPLEX):
        raise InputError(f"{path}: is not an EM volume; give one, or a file named as what it is")
    if kind in _COMPLEX:
        raise InputError(f"{path}: holds complex numbers; give the real-space volume")
    x, y, z = (int(side) for side in np.frombuffer(head, f"{order}i4", count=3, offset=4))
    if min(x, y, z) < 1:
        raise InputError(f"{path}: is not an EM volume (its header makes no sense); give one")
    dtype = np.dtype(f"{order}{_TYPES[kind]}")
    expected = _HEADER + x * y * z * dtype.itemsize
    if size < expected:
        raise InputError(f"{path}: is truncated, {size} bytes of {expected}; copy it again")
    if min(x, y, z) == 1:
        raise InputError(
            f"{path}: is not a volume ({x} × {y} × {z}), perhaps a list of particles; give a "
            "reconstructed tomogram"
        )
    if voxel_size is None:
        raise UnknownVoxelSizeError(
            f"{path}: an EM file does not tell its voxel size; give it, for example "
            "--voxel-size 13.48"
        )
    data = np.memmap(path, dtype=dtype, mode="r", offset=_HEADER, shape=(z, y, x))
    return Tomogram(name=tomogram_name(path), data=data, voxel_size=voxel_size, path=path)
