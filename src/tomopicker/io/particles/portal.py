"""Annotations of the CryoET Data Portal: a JSON object a line, in voxels of their tomogram."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tomopicker.errors import InputError
from tomopicker.io.particles.angles import are_rotations
from tomopicker.io.particles.frame import Frame
from tomopicker.io.particles.head import Head
from tomopicker.io.particles.json import a_list, a_number, an_object, parse_object
from tomopicker.io.particles.rows import read_text, write_lines
from tomopicker.types import Floats, Particles

MATRIX = "xyz_rotation_matrix"


def is_portal(head: Head) -> bool:
    """Recognise by the location in the first line."""
    return head.text.lstrip().startswith("{") and '"location"' in head.text.lstrip().split("\n")[0]


def read_portal(path: Path, frame: Frame) -> Particles:
    """Read points, oriented points and points of instances.

    Raises
    ------
    InputError
        When a line is no such point, or only some have an orientation.
    """
    lines = [line for line in read_text(path).split("\n") if line.strip()]
    points = [parse_object(path, line, f"line {n}") for n, line in enumerate(lines, start=1)]
    voxels = np.zeros((len(points), 3))
    matrices: list[list[Any]] = []
    for row, point in enumerate(points):
        where = f"line {row + 1}"
        location = an_object(path, f"{where}'s location", point.get("location"))
        voxels[row] = [a_number(path, f"{where}'s {axis}", location.get(axis)) for axis in "zyx"]
        if MATRIX in point:
            matrices.append(a_list(path, f"{where}'s {MATRIX}", point[MATRIX]))
    if len(matrices) not in (0, len(points)):
        raise InputError(f"{path}: only some points have {MATRIX}; split the file in two")
    return Particles.from_voxels(
        voxels,
        voxel_size=frame.voxel_size,
        orientations=_rotations(path, matrices) if matrices else None,
    )


def write_portal(
    path: Path, particles: Particles, frame: Frame, *, overwrite: bool = False
) -> None:
    """Write points, oriented where the particles are; the format holds no scores.

    Raises
    ------
    InputError
        When the file exists and may not be replaced, or cannot be written.
    """
    turned = particles.orientations
    points: list[dict[str, Any]] = [
        {
            "type": "point" if turned is None else "orientedPoint",
            "location": dict(zip("xyz", position.tolist(), strict=True)),
        }
        for position in np.round(particles.positions / frame.voxel_size, 6)
    ]
    if turned is not None:
        for point, matrix in zip(points, turned, strict=True):
            point[MATRIX] = matrix.tolist()
    write_lines(path, map(json.dumps, points), overwrite=overwrite)


def _rotations(path: Path, matrices: list[list[Any]]) -> Floats:
    rows = [a_list(path, MATRIX, row) for matrix in matrices for row in matrix]
    cells = [a_number(path, MATRIX, cell) for row in rows for cell in row]
    shapely = all(len(matrix) == 3 for matrix in matrices) and all(len(row) == 3 for row in rows)
    rotations = np.array(cells).reshape(-1, 3, 3) if shapely else np.full((1, 3, 3), np.nan)
    if not are_rotations(rotations):
        raise InputError(f"{path}: has a {MATRIX} that is no rotation; correct or remove it")
    return rotations
