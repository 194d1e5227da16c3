"""Picks as a table of voxels, with or without a header: ``x,y,z,score``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tomopicker.errors import InputError
from tomopicker.io.particles.frame import Frame
from tomopicker.io.particles.head import Head
from tomopicker.io.particles.rows import (
    Row,
    check_width,
    is_number,
    listed,
    number,
    read_rows,
    write_lines,
)
from tomopicker.types import Particles

COORDINATES = {"x": ("x", "x_coord"), "y": ("y", "y_coord"), "z": ("z", "z_coord")}
"""What headers call the coordinates; the second are the TomoPicker authors' names."""

SCORES = ("score",)
NAMES = ("tomogram", "tomogram_name", "image_name", "rlntomoname")
"""What headers call the tomogram; compared in lower case."""


_CANDIDATES = {"score", "probability", "picked"}
"""Columns of what `tomopicker pick` writes beside a list: its picks and all that follows them."""


def is_csv(head: Head) -> bool:
    """Recognise by the header; a table without one could be any program's."""
    names = head.header
    return {"x", "y", "z"} <= names or (
        {"x_coord", "y_coord"} <= names and "image_name" not in names
    )


def read_csv(path: Path, frame: Frame) -> Particles:
    """Read picks in voxels of their tomogram, 0-based, floats.

    Columns are found by name in any order, further ones are kept as text; a file without a header
    (EMPIAR-10988's) holds x, y, z and perhaps a score; one with nothing but a header holds no
    picks, as when a picker found none. Cells are separated by commas, semicolons, tabs or blanks.
    Tomogram names stay text, so that 001 is not 1.

    Raises
    ------
    InputError
        When the file is missing, empty or not text, lacks a coordinate column, holds something
        else than a finite number where one must be, or is of candidates.
    """
    rows = read_rows(path)
    if any(is_number(cell) for cell in rows[0][1]):
        rows = [(0, _header_for(path, rows[0])), *rows]
    header = [cell.lower() for cell in rows[0][1]]
    columns = {axis: _find(header, names) for axis, names in COORDINATES.items()}
    score, name = _find(header, SCORES), _find(header, NAMES)
    if set(header) >= _CANDIDATES:
        raise InputError(
            f"{path}: holds candidates, most of which are no picks; give the list that lies beside "
            "it, without _candidates, or remove the column picked to take them all"
        )
    missing = [axis for axis, column in columns.items() if column is None]
    if missing:
        raise InputError(
            f"{path}: has no column {', '.join(missing)}, only {listed(rows[0][1], 12)}; "
            "name the columns x,y,z,score in its first line"
        )
    for line, cells in rows[1:]:
        check_width(path, line, cells, len(header))

    def values(label: str, column: int) -> list[float]:
        return [number(path, line, label, cells[column]) for line, cells in rows[1:]]

    zyx = [values(axis, column) for axis in "zyx" if (column := columns[axis]) is not None]
    known = {score, name, *columns.values()}
    others = [column for column in range(len(header)) if column not in known]
    return Particles.from_voxels(
        np.array(zyx, dtype=np.float64).T,
        voxel_size=frame.voxel_size,
        scores=None if score is None else np.array(values("score", score)),
        tomograms=() if name is None else [cells[name] for _, cells in rows[1:]],
        extra={
            rows[0][1][column]: tuple(cells[column] for _, cells in rows[1:]) for column in others
        },
    )


def write_csv(path: Path, particles: Particles, frame: Frame, *, overwrite: bool = False) -> None:
    """Write ``x,y,z,score`` in the frame's voxels, without a score when the particles have none.

    A `.tsv` is written with tabs.

    A column `probability` follows when they have one, a column `tomogram` when they are of several
    tomograms, and what other columns the source had.

    Raises
    ------
    InputError
        When the file exists and may not be replaced, or cannot be written.
    """
    columns: dict[str, Sequence[str]] = {
        axis: [f"{value:.4f}" for value in values]
        for axis, values in zip("xyz", particles.positions.T / frame.voxel_size, strict=True)
    }
    if particles.scores is not None:
        # Nine digits tell every float32 from the next, so the ranking survives.
        columns["score"] = [f"{score:.9g}" for score in particles.scores]
    if particles.probabilities is not None:
        columns["probability"] = [f"{chance:.4f}" for chance in particles.probabilities]
    if len(set(particles.tomograms)) > 1:
        columns["tomogram"] = [quoted(name) for name in particles.tomograms]
    for name, cells in particles.extra.items():
        if name.lower() not in (*columns, *SCORES, *NAMES, *sum(COORDINATES.values(), ())):
            columns[quoted(name)] = [quoted(cell) for cell in cells]
    mark = "\t" if path.suffix.lower() == ".tsv" else ","
    lines = [mark.join(columns), *map(mark.join, zip(*columns.values(), strict=True))]
    write_lines(path, lines, overwrite=overwrite)


def quoted(cell: str) -> str:
    """Write a cell so that the marks in it do not end it."""
    if any(mark in cell for mark in ',;"\t'):
        return '"' + cell.replace('"', '""') + '"'
    return cell


def _header_for(path: Path, first: Row) -> list[str]:
    """Name the columns of a file without a header."""
    line, cells = first
    if len(cells) not in (3, 4):
        raise InputError(
            f"{path}: line {line} has {len(cells)} columns and no header names them; expected "
            "x,y,z or x,y,z,score, or a first line that names the columns"
        )
    return ["x", "y", "z", "score"][: len(cells)]


def _find(header: list[str], names: Sequence[str]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)
