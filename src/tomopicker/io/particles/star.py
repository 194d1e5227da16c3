"""RELION's STAR tables: the columns that its three tomography conventions share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd
import starfile

from tomopicker.errors import InputError
from tomopicker.io.names import series_name
from tomopicker.io.particles.rows import read_text
from tomopicker.io.whole import whole_file
from tomopicker.types import Floats, Particles

if TYPE_CHECKING:
    from collections.abc import Sequence

Blocks: TypeAlias = dict[str, pd.DataFrame]

SCORE = "rlnAutopickFigureOfMerit"
SCORES = (SCORE, "rlnLCCmax", "rlnMaxValueProbDistribution")
"""Where a score may be, the first that is there counts; we write the first."""

NAMES = ("rlnTomoName", "rlnMicrographName")


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
    except (ValueError, TypeError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path}: is not a STAR file that can be read ({reason}); write it again"
        ) from error
    return {
        name: block if isinstance(block, pd.DataFrame) else pd.DataFrame([block])
        for name, block in blocks.items()
    }


def write_blocks(path: Path, blocks: Blocks, *, overwrite: bool) -> None:
    """Write tables as a STAR file, whole or not at all.

    Raises
    ------
    InputError
        When the file exists and may not be replaced, or cannot be written.
    """
    with whole_file(path, overwrite=overwrite) as temporary:
        starfile.write(blocks, temporary, float_format="%.9g")


def particle_table(path: Path, blocks: Blocks, columns: Sequence[str]) -> pd.DataFrame:
    """Find the table that has the coordinate columns.

    Raises
    ------
    InputError
        When no table has them (naming the columns that were found), or it has no rows.
    """
    for block in blocks.values():
        if set(columns) <= set(block.columns):
            if block.empty:
                raise InputError(f"{path}: has no picks; give at least one")
            return block
    found = ", ".join(dict.fromkeys(str(c) for block in blocks.values() for c in block.columns))
    raise InputError(
        f"{path}: has no columns {', '.join(columns)}, only {found or 'nothing'}; "
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
            f"{path}: row {wrong[0] + 1} has {column} = {table[column].iloc[wrong[0]]}, which is "
            "not a number; correct or remove that row"
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
    if "rlnOpticsGroup" not in optics or "rlnOpticsGroup" not in table:
        raise InputError(f"{path}: has several {column} but no rlnOpticsGroup; add that column")
    of_group = dict(zip(optics["rlnOpticsGroup"], values, strict=True))
    missing = set(table["rlnOpticsGroup"]) - set(of_group)
    if missing:
        raise InputError(f"{path}: has no optics group {min(missing)}; add it to data_optics")
    mapped: Floats = table["rlnOpticsGroup"].map(of_group).to_numpy(dtype=np.float64)
    return mapped


def coordinates(path: Path, table: pd.DataFrame, columns: Sequence[str]) -> Floats:
    """Read three columns as an (n, 3) array ``x y z``, in the file's unit."""
    return np.stack([numbers(path, table, column) for column in columns], axis=1)


def origins(path: Path, table: pd.DataFrame, pixel: Floats | None = None) -> Floats:
    """Read how far refinement moved the boxes, (n, 3) ``x y z`` in ångström.

    A particle is at its coordinate minus this. Shifts in pixels (RELION 3.0) need their size.
    """
    angstrom = [f"rlnOrigin{axis}Angst" for axis in "XYZ"]
    pixels = [f"rlnOrigin{axis}" for axis in "XYZ"]
    if set(angstrom) <= set(table.columns):
        return coordinates(path, table, angstrom)
    if pixel is not None and set(pixels) <= set(table.columns):
        return coordinates(path, table, pixels) * pixel[:, None]
    return np.zeros((len(table), 3))


def particles_from(
    path: Path, table: pd.DataFrame, positions: Floats, voxel_size: float
) -> Particles:
    """Complete (n, 3) positions ``x y z`` in ångström with the table's scores and names."""
    score = next((column for column in SCORES if column in table), None)
    name = next((column for column in NAMES if column in table), None)
    return Particles(
        positions=positions,
        voxel_size=voxel_size,
        scores=None if score is None else numbers(path, table, score),
        tomograms=() if name is None else tuple(str(cell) for cell in table[name]),
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
    """Make the table to write: names, (n, 3) values under their columns, score.

    Particles without names get the file's: a list written as `TS_01.star` is TS_01's.
    """
    names = particles.tomograms or (path.stem,) * len(particles)
    table = pd.DataFrame({name_column: [f"{series_name(name)}{suffix}" for name in names]})
    for column, column_values in zip(columns, values.T, strict=True):
        table[column] = column_values
    if particles.scores is not None:
        table[SCORE] = particles.scores
    return table
