"""Picks as bare numbers, one particle a line: ``.coords`` of crYOLO, TomoTwin and DeepETPicker."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tomopicker.errors import InputError
from tomopicker.io.particles.frame import Frame
from tomopicker.io.particles.rows import number, read_rows
from tomopicker.io.whole import whole_file
from tomopicker.types import Floats, Particles


def read_coords(path: Path, frame: Frame) -> Particles:
    """Read ``x y z`` or ``class x y z`` in voxels, 0-based, integers or floats.

    Raises
    ------
    InputError
        When the file is missing, empty or not text, a line is neither, or the file holds several
        classes (a particle picker is trained on one kind).
    """
    rows = read_rows(path)
    width = len(rows[0][1])
    if width not in (3, 4):
        raise InputError(
            f"{path}: line {rows[0][0]} has {width} columns; expected x y z or class x y z"
        )
    labels = ("class", "x", "y", "z")[-width:]
    table = []
    for line, cells in rows:
        if len(cells) != width:
            raise InputError(
                f"{path}: line {line} has {len(cells)} columns where {width} were expected; "
                "correct or remove that line"
            )
        table.append([number(path, line, *cell) for cell in zip(labels, cells, strict=True)])
    values = np.array(table)
    if width == 4:
        _check_one_class(path, values[:, 0])
    return Particles.from_voxels(values[:, :-4:-1], voxel_size=frame.voxel_size)


def write_coords(
    path: Path, particles: Particles, frame: Frame, *, overwrite: bool = False
) -> None:
    """Write ``x y z`` in the frame's voxels; the format holds neither scores nor names.

    Raises
    ------
    InputError
        When the file exists and may not be replaced, or cannot be written.
    """
    with whole_file(path, overwrite=overwrite) as temporary:
        lines = (f"{x:.4f} {y:.4f} {z:.4f}\n" for x, y, z in particles.positions / frame.voxel_size)
        temporary.write_text("".join(lines), encoding="utf-8")


def _check_one_class(path: Path, classes: Floats) -> None:
    if (classes != classes.round()).any():
        raise InputError(
            f"{path}: has 4 columns but the first is not a class number; expected class x y z"
        )
    kinds = np.unique(classes.astype(int))
    if len(kinds) > 1:
        raise InputError(
            f"{path}: holds the classes {', '.join(map(str, kinds))}; keep the lines of one"
        )
