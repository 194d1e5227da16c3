"""RELION-5's tomograms.star: the tomograms of a project, with their voxel sizes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tomopicker.errors import InputError
from tomopicker.io.particles.star import numbers, read_blocks, write_blocks
from tomopicker.io.tomograms.source import Source

if TYPE_CHECKING:
    from tomopicker.types import Floats

LISTED = "tomograms.star"
"""What RELION-5 calls the list in a job's folder."""

_WHOLE = "rlnTomoReconstructedTomogram"
_CHOICES = {
    # What a job added last is what the user gave its list for.
    "denoised": (f"{_WHOLE}Denoised",),
    "": (_WHOLE,),
    "mean of half maps": (f"{_WHOLE}Half1", f"{_WHOLE}Half2"),
}
_PIXEL_SIZE, _BINNING = "rlnTomoTiltSeriesPixelSize", "rlnTomoTomogramBinning"
_SIZES = ("rlnTomoSizeX", "rlnTomoSizeY", "rlnTomoSizeZ")  # unbinned pixels
_NOTHING = {"", "N/A", "None", "none", "nan", "<NA>"}


def read_tomogram_list(path: Path) -> list[Source]:
    """Read which tomograms a RELION-5 project has.

    Of each, the denoised tomogram is taken where the list has one, else the reconstruction, else
    the mean of its half maps. Rows without any of them are left out.

    Raises
    ------
    InputError
        When the file cannot be read or lists no reconstructed tomogram.
    """
    blocks = read_blocks(path)
    table = next((block for block in blocks.values() if _columns(block)), None)
    if table is None:
        raise InputError(f"{path}: {_complaint(list(blocks.values()))}")
    sizes = None
    if _PIXEL_SIZE in table and _BINNING in table:
        sizes = numbers(path, table, _PIXEL_SIZE) * numbers(path, table, _BINNING)
    extents = None
    if {_PIXEL_SIZE, *_SIZES} <= set(table.columns):
        pixels = numbers(path, table, _PIXEL_SIZE)
        extents = np.stack([numbers(path, table, column) * pixels for column in _SIZES], axis=1)
    sources = []
    for row, (_, cells) in enumerate(table.iterrows()):
        for kind, columns in _columns(table).items():
            files = [str(cells[column]).strip() for column in columns]
            if not _NOTHING.intersection(files):
                sources.append(
                    Source(
                        name=str(cells["rlnTomoName"]),
                        paths=tuple(Path(file) for file in files),
                        listed=path,
                        # RELION writes 0 or less where it does not know.
                        voxel_size=sizes[row] if sizes is not None and sizes[row] > 0 else None,
                        extent=None if extents is None else _extent(extents[row]),
                        kind=kind,
                    )
                )
                break
    if not sources:
        raise InputError(f"{path}: {_complaint([table])}")
    return sources


def write_half_maps(path: Path, source: Source) -> None:
    """Write a list of one tomogram, of which there are two half maps, over an older one.

    Raises
    ------
    InputError
        When a half map is nowhere, or the list cannot be written.
    """
    first, second = (str(file.absolute()) for file in source.files())
    row = {"rlnTomoName": source.name, f"{_WHOLE}Half1": first, f"{_WHOLE}Half2": second}
    table = pd.DataFrame([row])
    if source.voxel_size is not None:
        table[_PIXEL_SIZE], table[_BINNING] = source.voxel_size, 1.0
    if source.extent is not None and source.voxel_size is not None:
        for column, side in zip(_SIZES, source.extent, strict=True):
            table[column] = side / source.voxel_size
    write_blocks(path, {"global": table}, overwrite=True)


def _extent(sizes: Floats) -> tuple[float, float, float] | None:
    x, y, z = sizes.tolist()
    return (x, y, z) if min(x, y, z) > 0 else None


def _columns(table: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """Which of `_CHOICES` a table has, the preferred first; none without names."""
    if "rlnTomoName" not in table:
        return {}
    return {
        kind: columns for kind, columns in _CHOICES.items() if set(columns) <= set(table.columns)
    }


def _complaint(tables: list[pd.DataFrame]) -> str:
    columns = {str(column) for table in tables for column in table.columns}
    if any("Coordinate" in column for column in columns):
        return "is a list of particles, not of tomograms; give it with --picks"
    if "rlnTomoTiltSeriesStarFile" in columns:
        return (
            f"lists tilt series without tomograms (no {_WHOLE}); give the tomograms.star of the "
            "job that reconstructed them"
        )
    return f"lists no tomograms (no {_WHOLE}); give the tomograms.star of a RELION-5 project"
