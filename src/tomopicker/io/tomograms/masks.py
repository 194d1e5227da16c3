"""Masks of tomograms, which say where particles may be: which is whose, and whether it fits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tomopicker.errors import InputError, UnknownVoxelSizeError
from tomopicker.io.names import SUFFIXES, match_names, tomogram_name
from tomopicker.io.tomograms.formats import read_tomogram

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tomopicker.types import Tomogram, Volume


def find_masks(place: Path, names: Sequence[str]) -> dict[str, Path]:
    """Find the mask of each tomogram.

    Parameters
    ----------
    place
        A file, for one tomogram, or a folder with a mask for each, named as it is, perhaps with
        `mask_` before or `_mask` behind.
    names
        Of the tomograms.

    Raises
    ------
    InputError
        When a tomogram has no mask, or it is not clear which.
    """
    if not place.is_dir() or place.suffix.lower() in SUFFIXES:
        if len(names) > 1:
            raise InputError(
                f"{place}: one mask for {len(names)} tomograms; give a folder with a mask for each"
            )
        return dict.fromkeys(names, place)
    files: dict[str, Path] = {}
    for file in sorted(place.iterdir()):
        if file.suffix.lower() in SUFFIXES and not file.name.startswith("."):
            name = tomogram_name(file).removeprefix("mask_").removesuffix("_mask")
            if name in files:
                raise InputError(f"{place}: {files[name].name} and {file.name} are of one name")
            files[name] = file
    try:
        matched = match_names(names, list(files))
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    for name in names:
        if name not in matched:
            raise InputError(
                f"{place}: has no mask for {name}; add one, named {name}.mrc or {name}_mask.mrc"
            )
    return {name: files[match] for name, match in matched.items()}


def read_mask(path: Path | str, tomogram: Tomogram) -> Volume:
    """Open the mask of a tomogram.

    Parameters
    ----------
    path
        A volume in any format that is read; not zero where particles may be.
    tomogram
        Of the same shape, or of the same extent at another voxel size.

    Returns
    -------
    Volume
        ``z y x``, its voxels on disk as far as the format permits.

    Raises
    ------
    InputError
        When it cannot be read, has another extent than the tomogram, or is zero everywhere.
    """
    try:
        mask = read_tomogram(path)
        size: float | None = mask.voxel_size
    except UnknownVoxelSizeError:
        mask, size = read_tomogram(path, voxel_size=1.0), None
    if mask.shape != tomogram.shape and not _has_extent(mask, size, tomogram):
        ours, theirs = (
            " × ".join(str(side) for side in volume.shape[::-1]) for volume in (tomogram, mask)
        )
        of_size = "an unknown size" if size is None else f"{size:g} Å"
        raise InputError(
            f"{path}: this mask has {theirs} voxels of {of_size}, but {tomogram.name} has {ours} "
            f"of {tomogram.voxel_size:g} Å; give a mask of the same extent"
        )
    data = mask.loaded().data
    if not any(plane.any() for plane in data):
        raise InputError(f"{path}: this mask is zero everywhere and leaves nothing to pick")
    return data


def _has_extent(mask: Tomogram, size: float | None, tomogram: Tomogram) -> bool:
    """Whether a mask of other voxels is as large as the tomogram, to within one of its voxels."""
    sides = np.array(tomogram.shape, dtype=np.float64)
    ratio = float(np.mean(sides / mask.shape)) if size is None else size / tomogram.voxel_size
    # Binning may cut off a part of a voxel, or add one.
    return bool((np.abs(np.array(mask.shape) * ratio - sides) < max(ratio, 1)).all())
