"""Zarr volumes (versions 2 and 3): OME-Zarr with its levels, and bare arrays."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tomopicker.errors import InputError, UnknownVoxelSizeError
from tomopicker.io.names import tomogram_name
from tomopicker.io.tomograms.chunked import ChunkedVolume
from tomopicker.types import Level, Tomogram, Volume

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MARKS = ("zarr.json", ".zarray", ".zgroup")

_ANGSTROM = {"angstrom": 1.0, "nanometer": 10.0, "micrometer": 1e4, "picometer": 0.01}
"""How OME-Zarr writes units of length that a tomogram may have."""


def is_zarr(path: Path) -> bool:
    """Tell whether a folder is a zarr array or group."""
    return path.is_dir() and any((path / mark).is_file() for mark in _MARKS)


def read_zarr(path: Path, voxel_size: float | None = None) -> Tomogram:
    """Open a zarr volume; its chunks are read when they are needed.

    Parameters
    ----------
    path
        The folder of an OME-Zarr image, or of an array, be it one of its levels.
    voxel_size
        Ångström, of the finest level; overrides what the file says.

    Returns
    -------
    Tomogram
        The finest level, whose voxels coordinates count, with the coarser ones beside it.

    Raises
    ------
    UnknownVoxelSizeError
        When neither OME's metadata nor `voxel_size` tell the voxel size.
    InputError
        When zarr is not installed, or this is not one real-valued volume.
    """
    try:
        import zarr
    except ImportError as error:
        raise InputError(
            f"{path}: zarr volumes need another package: pip install 'tomopicker[zarr]'"
        ) from error
    if not is_zarr(path):
        what = "no such folder" if not path.exists() else "is not a zarr volume (no zarr.json)"
        raise InputError(f"{path}: {what}; check its name and folder")
    try:
        node = zarr.open(str(path), mode="r")
        image = node.attrs.asdict() if isinstance(node, zarr.Group) else _image_of(path)
        levels = _levels(path, node, image)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(
            f"{path}: cannot be read as zarr ({type(error).__name__}: {error}); copy or convert "
            "it again"
        ) from error
    (finest, sizes, _), *others = levels
    stated = _cube(sizes)
    if voxel_size is None and stated is None:
        written = " × ".join(f"{size:.4g}" for size in sizes) if sizes else "no scale in ångström"
        raise UnknownVoxelSizeError(
            f"{path}: its metadata give {written}; give the voxel size, for example --voxel-size 10"
        )
    coarser = []
    for array, sizes_here, origin in others:
        size = _cube(sizes_here)
        # A level that is binned in x and y alone has no cubes for voxels.
        if size is not None and stated is not None and size > 1.01 * stated:
            factor = 1.0 if voxel_size is None else voxel_size / stated
            first = np.array(origin) - levels[0][2]
            coarser.append(
                Level(data=_volume(path, array), voxel_size=size * factor, origin=first * factor)
            )
    return Tomogram(
        name=tomogram_name(path),
        data=_volume(path, finest),
        voxel_size=cast("float", stated) if voxel_size is None else voxel_size,
        path=path,
        coarser=tuple(coarser),
    )


_Level = tuple[Any, "tuple[float, ...] | None", "np.ndarray[Any, Any]"]
"""An array, its voxels' sides ``z y x`` and its first voxel's centre, in ångström."""


def _levels(path: Path, node: Any, image: Mapping[str, Any]) -> list[_Level]:
    """List the levels of an image, the finest first; of an array that one."""
    import zarr

    scales = image.get("ome", image).get("multiscales")
    if isinstance(node, zarr.Array):
        if scales:
            of_this = [one for one in scales[0]["datasets"] if Path(one["path"]).name == path.name]
            if of_this:
                return [(node, *_placed(path, scales[0], of_this[0]))]
        return [(node, None, np.zeros(3))]
    if not scales:
        arrays = sorted(name for name, _ in node.arrays())
        if len(arrays) == 1:
            return [(node[arrays[0]], None, np.zeros(3))]
        raise InputError(
            f"{path}: is a zarr group without OME metadata that holds {len(arrays)} arrays "
            f"({', '.join(arrays[:5])}); give one of them, as {path}/NAME"
        )
    placed = [(node[one["path"]], *_placed(path, scales[0], one)) for one in scales[0]["datasets"]]
    # The standard wants the finest first, but not every writer keeps to it.
    return sorted(placed, key=lambda level: -math.prod(level[0].shape))


def _image_of(path: Path) -> Mapping[str, Any]:
    """Attributes of the group that an array is in, if it is in one."""
    import zarr

    if not is_zarr(path.absolute().parent):
        return {}
    attributes: Mapping[str, Any] = zarr.open(str(path.absolute().parent), mode="r").attrs.asdict()
    return attributes


def _placed(
    path: Path, scale: Mapping[str, Any], dataset: Mapping[str, Any]
) -> tuple[tuple[float, ...] | None, np.ndarray[Any, Any]]:
    """Voxel sides and place ``z y x`` of a level in ångström; None where no unit is told."""
    axes = scale.get("axes") or ["z", "y", "x"]
    names = [axis["name"] if isinstance(axis, dict) else str(axis) for axis in axes]
    if names[-3:] != ["z", "y", "x"]:
        raise InputError(
            f"{path}: has its axes in the order {', '.join(names)}; write it as z, y, x"
        )
    units = [axis.get("unit", "") if isinstance(axis, dict) else "" for axis in axes[-3:]]
    sides, place = np.ones(3), np.zeros(3)
    found = False
    for transformations in (
        dataset.get("coordinateTransformations") or (),
        scale.get("coordinateTransformations") or (),
    ):
        for one in transformations:
            if one["type"] == "scale":
                sides = sides * one["scale"][-3:]
                place = place * one["scale"][-3:]
                found = True
            elif one["type"] == "translation":
                place = place + np.array(one["translation"][-3:])
    if not found or any(unit not in _ANGSTROM for unit in units):
        return None, np.zeros(3)
    factors = np.array([_ANGSTROM[unit] for unit in units])
    return tuple(sides * factors), place * factors


def _cube(sides: Sequence[float] | None) -> float | None:
    """Edge of a voxel, if it is known and the same along all axes to 0.1 %."""
    if sides is None or min(sides) <= 0 or max(sides) > 1.001 * min(sides):
        return None
    return float(f"{sorted(sides)[1]:.6g}")


def _volume(path: Path, array: Any) -> Volume:
    """Check that an array is one volume of real numbers."""
    size = " × ".join(str(side) for side in array.shape[::-1])
    if array.ndim < 3 or min(array.shape[-3:]) < 2:
        raise InputError(f"{path}: is not a volume ({size}); give a reconstructed tomogram")
    if any(side != 1 for side in array.shape[:-3]):
        raise InputError(f"{path}: is a stack of volumes ({size}); give one volume per file")
    if np.dtype(array.dtype).kind not in "iuf":
        raise InputError(f"{path}: holds {array.dtype}, not real numbers; convert it")
    return cast("Volume", ChunkedVolume(array, depth=array.chunks[-3], path=path))
