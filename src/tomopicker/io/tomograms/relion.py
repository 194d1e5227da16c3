"""RELION's lists of tomograms (`tomograms.star`), and of those with particles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from tomopicker.errors import InputError
from tomopicker.io.names import check_name
from tomopicker.io.particles.star import PIXEL, numbers, read_blocks, write_blocks
from tomopicker.io.tomograms.source import Source, folders_for

if TYPE_CHECKING:
    from tomopicker.io.particles.star import Blocks

LISTED = "tomograms.star"
"""What RELION calls the list in a job's folder."""

_WHOLE = "rlnTomoReconstructedTomogram"
_CHOICES = {
    # What a job added last is what the user gave its list for.
    "denoised": (f"{_WHOLE}Denoised",),
    "": (_WHOLE,),
    "mean of half maps": (f"{_WHOLE}Half1", f"{_WHOLE}Half2"),
}
_NAME = "rlnTomoName"
_BINNING = "rlnTomoTomogramBinning"
_SIZES = ("rlnTomoSizeX", "rlnTomoSizeY", "rlnTomoSizeZ")
_NOTHING = {"", "N/A", "None", "none", "nan", "<NA>"}
_PARTICLES, _TOMOGRAMS = "rlnTomoParticlesFile", "rlnTomoTomogramsFile"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a list says of one tomogram; None where it says nothing, or RELION did not know."""

    name: str
    pixel_size: float | None
    """Of the unbinned tilt series, ångström."""
    binning: float | None
    """Of the reconstruction; RELION-4 has none."""
    size: tuple[float, float, float] | None
    """``x y z`` in unbinned pixels."""
    files: tuple[Path, ...]
    """The reconstruction, or its two halves; none where the list names none."""
    kind: str
    """Which reconstruction that is, see `Source.kind`."""

    @property
    def voxel_size(self) -> float | None:
        """Ångström, of the reconstruction."""
        if self.pixel_size is None or self.binning is None:
            return None
        return self.pixel_size * self.binning

    @property
    def extent(self) -> tuple[float, float, float] | None:
        """Size ``x y z`` in ångström."""
        if self.pixel_size is None or self.size is None:
            return None
        x, y, z = (side * self.pixel_size for side in self.size)
        return x, y, z


def read_rows(path: Path) -> list[Row]:
    """Read what a `tomograms.star` says of each tomogram, reconstructed or not.

    Raises
    ------
    InputError
        When the file cannot be read, or lists no tomograms.
    """
    blocks = read_blocks(path)
    table = next((block for block in blocks.values() if _is_list(block)), None)
    if table is None:
        raise InputError(f"{path}: {_complaint(blocks)}")
    pixels, binnings = (_above_0(path, table, column) for column in (PIXEL, _BINNING))
    sides = zip(*(_above_0(path, table, column) for column in _SIZES), strict=True)
    rows = []
    for (_, cells), pixel, binning, (x, y, z) in zip(
        table.iterrows(), pixels, binnings, sides, strict=True
    ):
        kind, files = _files(cells)
        rows.append(
            Row(
                name=check_name(str(cells[_NAME]), path),
                pixel_size=pixel,
                binning=binning,
                size=None if x is None or y is None or z is None else (x, y, z),
                files=files,
                kind=kind,
            )
        )
    return rows


def read_tomogram_list(path: Path) -> list[Source]:
    """Read which tomograms a RELION-5 project has.

    Of each, the denoised tomogram is taken where the list has one, else the reconstruction, else
    the mean of its half maps. Rows without any of them are left out.

    Parameters
    ----------
    path
        A `tomograms.star`, or an `optimisation_set.star` that names one.

    Raises
    ------
    InputError
        When a file cannot be read or lists no reconstructed tomogram.
    """
    path = list_at(path) or path
    sources = [
        Source(
            name=row.name,
            paths=row.files,
            listed=path,
            voxel_size=row.voxel_size,
            pixel_size=row.pixel_size,
            extent=row.extent,
            kind=row.kind,
        )
        for row in read_rows(path)
        if row.files
    ]
    if not sources:
        raise InputError(f"{path}: {_complaint(read_blocks(path))}")
    return sources


def list_at(place: Path) -> Path | None:
    """Find the list that a folder holds, or that a STAR file is or names; None elsewhere.

    Raises
    ------
    InputError
        As `read_optimisation_set`.
    """
    path = place / LISTED if (place / LISTED).is_file() else place
    if path.suffix.lower() != ".star":
        return None
    named = read_optimisation_set(path)
    return path if named is None else named[1]


def read_optimisation_set(path: Path) -> tuple[Path, Path] | None:
    """Read which particles and tomograms RELION's jobs take together; None where it is no such set.

    Raises
    ------
    InputError
        When the file cannot be read, or a list that it names is nowhere.
    """
    for block in read_blocks(path).values():
        if {_PARTICLES, _TOMOGRAMS} <= set(block.columns) and len(block):
            particles, tomograms = (
                _found(path, str(block[column].iloc[0])) for column in (_PARTICLES, _TOMOGRAMS)
            )
            return particles, tomograms
    return None


def write_half_maps(path: Path, source: Source) -> None:
    """Write a list of one tomogram, of which there are two half maps, over an older one.

    Raises
    ------
    InputError
        When a half map is nowhere, or the list cannot be written.
    """
    first, second = (str(file.absolute()) for file in source.files())
    row = {_NAME: source.name, f"{_WHOLE}Half1": first, f"{_WHOLE}Half2": second}
    table = pd.DataFrame([row])
    if source.voxel_size is not None:
        table[PIXEL], table[_BINNING] = source.voxel_size, 1.0
    if source.extent is not None and source.voxel_size is not None:
        for column, side in zip(_SIZES, source.extent, strict=True):
            table[column] = side / source.voxel_size
    write_blocks(path, {"global": table}, overwrite=True)


def _found(path: Path, named: str) -> Path:
    for folder in folders_for(path):
        if (folder / named).is_file():
            return folder / named
    raise InputError(
        f"{path}: names {named}, which is not there; run the command in the project's folder, or "
        "give the lists themselves"
    )


def _is_list(table: pd.DataFrame) -> bool:
    columns = set(map(str, table.columns))
    stated = {PIXEL, *_SIZES, *(column for choice in _CHOICES.values() for column in choice)}
    is_of_particles = any("Coordinate" in column for column in columns)
    return _NAME in columns and bool(columns & stated) and not is_of_particles


def _above_0(path: Path, table: pd.DataFrame, column: str) -> list[float | None]:
    """Read a column; RELION writes 0 or less where it does not know."""
    if column not in table:
        return [None] * len(table)
    return [value if value > 0 else None for value in numbers(path, table, column).tolist()]


def _files(cells: pd.Series) -> tuple[str, tuple[Path, ...]]:
    """Choose among the reconstructions of a tomogram; returns the kind and the files."""
    for kind, columns in _CHOICES.items():
        files = [str(cells[column]).strip() for column in columns if column in cells]
        if len(files) == len(columns) and not _NOTHING.intersection(files):
            return kind, tuple(Path(file) for file in files)
    return "", ()


def _complaint(blocks: Blocks) -> str:
    columns = {str(column) for table in blocks.values() for column in table.columns}
    if any("Coordinate" in column for column in columns):
        return "is a list of particles, not of tomograms; give it with --picks"
    if columns & {"rlnTomoTiltSeriesStarFile", "rlnTomoTiltSeriesName"}:
        return (
            f"lists tilt series without tomograms (no {_WHOLE}); give the tomograms.star of the "
            "job that reconstructed them, or the tomograms themselves"
        )
    return f"lists no tomograms (no {_WHOLE}); give the tomograms.star of a RELION-5 project"
