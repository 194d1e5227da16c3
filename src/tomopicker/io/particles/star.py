"""RELION's STAR tables: the columns that its three tomography conventions share."""

from __future__ import annotations

import linecache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd
import starfile

from tomopicker.errors import InputError
from tomopicker.io.names import series_name
from tomopicker.io.particles.angles import from_relion, to_relion
from tomopicker.io.particles.rows import check_names, cut, is_plain, listed, read_text
from tomopicker.io.whole import whole_file
from tomopicker.types import Floats, Particles

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Blocks: TypeAlias = dict[str, pd.DataFrame]

SCORE = "rlnAutopickFigureOfMerit"
SCORES = (SCORE, "rlnLCCmax", "rlnMaxValueProbDistribution")
"""Where a score may be, the first that is there counts; we write the first."""

NAMES = ("rlnTomoName", "rlnMicrographName")

XYZ = ("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ")
CENTRED = tuple(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ")
ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
BOX_ANGLES = ("rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi")
"""How the box was turned when it was cut out; the other angles are then relative to it."""

GROUP, GROUP_NAME, PIXEL = "rlnOpticsGroup", "rlnOpticsGroupName", "rlnTomoTiltSeriesPixelSize"

_MEANT = {
    *(*SCORES[:1], *NAMES, *XYZ, *CENTRED, *ANGLES, *BOX_ANGLES),
    *(f"rlnOrigin{axis}{unit}" for axis in "XYZ" for unit in ("", "Angst")),
    *("rlnPixelSize", "rlnDetectorPixelSize", "rlnMagnification", "rlnImagePixelSize"),
    *(PIXEL, GROUP, GROUP_NAME),
}
"""Columns that say what the table holds anyway, in the units and groups of their file."""


def read_blocks(path: Path) -> Blocks:
    """Read all the tables of a STAR file; names stay text, so that 001 is not 1.

    Raises
    ------
    InputError
        When the file is missing, empty, not text or not a STAR file.
    """
    read_text(path)
    try:
        blocks = starfile.read(path, always_dict=True, parse_as_string=list(NAMES))
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        reason = cut(str(error), 200)
        raise InputError(
            f"{path}: is not a STAR file that can be read ({reason}); write it again"
        ) from error
    finally:
        # After an error, starfile would go on with these lines when the file is corrected.
        linecache.clearcache()
    return {
        name: block if isinstance(block, pd.DataFrame) else pd.DataFrame([block])
        for name, block in blocks.items()
    }


def write_blocks(
    path: Path, blocks: Mapping[str, pd.DataFrame | dict[str, str]], *, overwrite: bool
) -> None:
    """Write tables and lists of single values as a STAR file, whole or not at all.

    Raises
    ------
    InputError
        When the file exists and may not be replaced, or cannot be written.
    """
    with whole_file(path, overwrite=overwrite) as temporary:
        starfile.write(dict(blocks), temporary, float_format="%.9g")


def particle_table(path: Path, blocks: Blocks, columns: Sequence[str]) -> pd.DataFrame:
    """Find the table that has the coordinate columns.

    Raises
    ------
    InputError
        When no table has them, naming the columns that were found.
    """
    for block in blocks.values():
        if set(columns) <= set(block.columns):
            if not block.columns.is_unique:
                twice = block.columns[block.columns.duplicated()][0]
                raise InputError(f"{path}: has the column {cut(twice)} twice; remove one")
            return block
    found = list(dict.fromkeys(str(c) for block in blocks.values() for c in block.columns))
    raise InputError(
        f"{path}: has no columns {', '.join(columns)}, only {listed(found, 12) or 'nothing'}; "
        "give a RELION particle list"
    )


def numbers(path: Path, table: pd.DataFrame, column: str) -> Floats:
    """Read a column as finite numbers (n,).

    Raises
    ------
    InputError
        Naming the first row, from 1, that holds something else.
    """
    values: Floats = pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise InputError(
            f"{path}: row {wrong[0] + 1} has {column} = {cut(str(table[column].iloc[wrong[0]]))}, "
            "which is not a number; correct or remove that row"
        )
    return values


def optional_numbers(path: Path, blocks: Blocks, table: pd.DataFrame, column: str) -> Floats | None:
    """Read a column of the particles, or of the optics groups they belong to; None without it.

    Raises
    ------
    InputError
        When a value is not a number, or a particle's optics group has none.
    """
    if column in table:
        return numbers(path, table, column)
    optics = blocks.get("optics")
    if optics is None or column not in optics:
        return None
    values = numbers(path, optics, column)
    if len(np.unique(values)) == 1:
        return np.full(len(table), values[0])
    if GROUP not in optics or GROUP not in table:
        raise InputError(f"{path}: has several {column} but no {GROUP}; add that column")
    of_group = dict(zip(optics[GROUP], values, strict=True))
    missing = set(table[GROUP]) - set(of_group)
    if missing:
        raise InputError(f"{path}: has no optics group {min(missing)}; add it to data_optics")
    mapped: Floats = table[GROUP].map(of_group).to_numpy(dtype=np.float64)
    return mapped


def coordinates(path: Path, table: pd.DataFrame, columns: Sequence[str]) -> Floats:
    """Read three columns as an (n, 3) array ``x y z``, in the file's unit."""
    return np.stack([numbers(path, table, column) for column in columns], axis=1)


def origins(path: Path, table: pd.DataFrame, pixel: Floats | None = None) -> Floats:
    """Read how far refinement moved the particles, (n, 3) ``x y z`` in ångström.

    A particle is at its coordinate minus this. Shifts are along the axes of the box, which may
    have been turned when it was cut out; those in pixels (RELION 3.0) need the pixels' size.
    """
    angstrom = [f"rlnOrigin{axis}Angst" for axis in "XYZ"]
    pixels = [f"rlnOrigin{axis}" for axis in "XYZ"]
    if set(angstrom) <= set(table.columns):
        shifts = coordinates(path, table, angstrom)
    elif pixel is not None and set(pixels) <= set(table.columns):
        shifts = coordinates(path, table, pixels) * pixel[:, None]
    else:
        return np.zeros((len(table), 3))
    box = _orientations(path, table, BOX_ANGLES)
    return shifts if box is None else np.einsum("nij,nj->ni", box, shifts)


def particles_from(
    path: Path, blocks: Blocks, table: pd.DataFrame, positions: Floats, voxel_size: float
) -> Particles:
    """Complete (n, 3) positions ``x y z`` in ångström with all else that the table tells."""
    score = next((column for column in SCORES if column in table), None)
    name = next((column for column in NAMES if column in table), None)
    box, orientations = (_orientations(path, table, angles) for angles in (BOX_ANGLES, ANGLES))
    if box is not None:
        orientations = box if orientations is None else box @ orientations
    return Particles(
        positions=positions,
        voxel_size=voxel_size,
        scores=None if score is None else numbers(path, table, score),
        tomograms=() if name is None else tuple(str(cell) for cell in table[name]),
        orientations=orientations,
        extra={
            str(column): tuple(str(cell) for cell in table[column])
            for column in table.columns
            if column not in _MEANT and column != score
        },
        optics=_optics_of(blocks, table),
    )


def table_for(
    path: Path,
    particles: Particles,
    *,
    name_column: str,
    suffix: str = "",
    columns: Sequence[str],
    values: Floats,
) -> pd.DataFrame:
    """Make the table to write: names, (n, 3) values under their columns, angles, score.

    Particles without names get the file's: a list written as `TS_01.star` is TS_01's. Of the
    source's other columns those are kept that RELION could know.
    """
    names = particles.tomograms or (path.stem,) * len(particles)
    check_names(path, names)
    # Coordinates first: a line that began with a name as data_01 would begin another table.
    table = pd.DataFrame(dict(zip(columns, values.T, strict=True)))
    table[name_column] = [f"{series_name(name)}{suffix}" for name in names]
    if particles.orientations is not None:
        for column, angles in zip(ANGLES, to_relion(particles.orientations).T, strict=True):
            table[column] = angles
    if particles.scores is not None:
        table[SCORE] = particles.scores
    for column, cells in particles.extra.items():
        if column not in table and column not in _MEANT and _is_relions(column, cells):
            table[column] = list(cells)
    return table


def blocks_with_optics(
    table: pd.DataFrame, optics: Mapping[str, Sequence[str]]
) -> dict[str, pd.DataFrame]:
    """Number the optics groups of a table's rows; returns RELION's blocks of groups and particles.

    Parameters
    ----------
    table
        As `table_for` makes it; it gets the column of the groups.
    optics
        Columns (n,) by their names; rows that are alike in all of them are one group.
    """
    kept = {
        name: cells for name, cells in optics.items() if name != GROUP and _is_relions(name, cells)
    }
    rows = list(zip(*kept.values(), strict=True)) if kept else [()] * len(table)
    numbers_of = {row: number for number, row in enumerate(dict.fromkeys(rows), start=1)}
    groups = pd.DataFrame({GROUP: list(numbers_of.values())})
    for position, name in enumerate(kept):
        groups[name] = [row[position] for row in numbers_of]
    if GROUP_NAME not in groups:
        groups.insert(1, GROUP_NAME, [f"opticsGroup{number}" for number in groups[GROUP]])
    table[GROUP] = [numbers_of[row] for row in rows]
    return {"optics": groups, "particles": table}


def _optics_of(blocks: Blocks, table: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """Look up what the optics groups of particles say; nothing where they do not fit together."""
    optics = blocks.get("optics")
    if optics is None or not optics.columns.is_unique:
        return {}
    rows: list[int | None]
    if GROUP in optics and GROUP in table:
        row_of = {str(group): row for row, group in enumerate(optics[GROUP])}
        rows = [row_of.get(str(group)) for group in table[GROUP]]
    else:
        rows = [0 if len(optics) == 1 else None] * len(table)
    known = [row for row in rows if row is not None]
    if len(known) < len(rows):
        return {}
    found = {}
    for column in optics.columns:
        if column != GROUP:
            cells = [str(cell) for cell in optics[column]]
            found[str(column)] = tuple(cells[row] for row in known)
    return found


def _is_relions(column: str, cells: Sequence[str]) -> bool:
    """Tell whether a column is one that RELION could know and read."""
    return column.startswith("rln") and column.isidentifier() and all(map(is_plain, cells))


def _orientations(path: Path, table: pd.DataFrame, columns: Sequence[str]) -> Floats | None:
    """Read three angles as matrices (n, 3, 3); None without them."""
    if not set(columns) <= set(table.columns):
        return None
    return from_relion(coordinates(path, table, columns))
