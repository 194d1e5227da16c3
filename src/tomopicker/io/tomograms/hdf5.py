"""HDF5 volumes: EMAN2's (`.hdf`), and files with one volume in them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tomopicker.errors import InputError, UnknownVoxelSizeError
from tomopicker.io.names import tomogram_name
from tomopicker.io.tomograms.chunked import ChunkedVolume
from tomopicker.types import Tomogram, Volume

if TYPE_CHECKING:
    from pathlib import Path


def read_hdf5(path: Path, voxel_size: float | None = None) -> Tomogram:
    """Open an HDF5 volume; its chunks are read when they are needed.

    Of EMAN2's files it is `MDF/images/0/image`, with the voxel size that EMAN2 states; of others
    the one dataset with three axes. EMAN2's bit-compressed volumes are read as they are stored:
    linear in the density, which is all that matters here.

    Parameters
    ----------
    path
        The file.
    voxel_size
        Ångström; overrides the file.

    Raises
    ------
    UnknownVoxelSizeError
        When neither the file nor `voxel_size` tell the voxel size, or it is 1.
    InputError
        When h5py is not installed, the file cannot be read, or holds no volume or several.
    """
    try:
        import h5py
    except ImportError as error:
        raise InputError(
            f"{path}: HDF5 volumes need another package: pip install 'tomopicker[hdf5]'"
        ) from error
    if not path.is_file():
        raise InputError(f"{path}: no such file; check its name and folder")
    try:
        file = h5py.File(path, mode="r")
    except OSError as error:
        raise InputError(f"{path}: is not an HDF5 file that can be read ({error})") from error
    try:
        dataset = _volume_in(path, file)
        if voxel_size is None:
            voxel_size = _voxel_size(path, dataset)
    except InputError:
        file.close()
        raise
    depth = dataset.chunks[-3] if dataset.chunks else 1
    data = cast("Volume", ChunkedVolume(dataset, depth=depth, path=path))
    return Tomogram(name=tomogram_name(path), data=data, voxel_size=voxel_size, path=path)


def _volume_in(path: Path, file: Any) -> Any:
    import h5py

    found: list[Any] = []

    def note(_: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim >= 3 and min(item.shape[-3:]) > 1:
            found.append(item)

    file.visititems(note)
    if not found:
        raise InputError(f"{path}: holds no volume (a dataset z, y, x); give a tomogram")
    if len(found) > 1 or math.prod(found[0].shape[:-3]) > 1:
        names = ", ".join(item.name for item in found[:4])
        raise InputError(
            f"{path}: holds several volumes ({names}); write the tomogram into a file of its own"
        )
    if np.dtype(found[0].dtype).kind not in "iuf":
        raise InputError(f"{path}: holds {found[0].dtype}, not real numbers; convert it")
    return found[0]


def _voxel_size(path: Path, dataset: Any) -> float:
    """Read what EMAN2 states of an image."""
    attributes = dataset.parent.attrs
    sizes = [
        float(np.ravel(attributes[name])[0])
        for name in ("EMAN.apix_x", "EMAN.apix_y", "EMAN.apix_z")
        if name in attributes
    ]
    is_known = len(sizes) == 3 and min(sizes) > 0 and max(sizes) <= 1.001 * min(sizes)
    if not is_known or math.isclose(sizes[0], 1):
        raise UnknownVoxelSizeError(
            f"{path}: does not tell its voxel size; give it, for example --voxel-size 13.48"
        )
    return float(f"{sizes[0]:.6g}")
