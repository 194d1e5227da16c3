"""Points layers of napari: a table whose axes count as the array's do, ``z y x``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tomopicker.errors import InputError
from tomopicker.io.particles.frame import Frame
from tomopicker.io.particles.head import Head
from tomopicker.io.particles.rows import check_width, listed, number, read_rows, write_lines
from tomopicker.types import Particles

AXES = ("axis-0", "axis-1", "axis-2")


def is_napari(head: Head) -> bool:
    """Recognise by the header."""
    return AXES[0] in head.header


def read_napari(path: Path, frame: Frame) -> Particles:
    """Read points in voxels, as napari saves them whatever the layer's scale.

    Raises
    ------
    InputError
        When the points are not of a volume, or a line is no point.
    """
    (_, header), *rows = read_rows(path)
    header = [cell.lower() for cell in header]
    if not set(AXES) <= set(header) or "axis-3" in header:
        raise InputError(
            f"{path}: its axes are {listed([cell for cell in header if 'axis' in cell])}; "
            "expected axis-0, axis-1, axis-2 (z, y, x)"
        )
    for line, cells in rows:
        check_width(path, line, cells, len(header))
    zyx = [
        [number(path, line, axis, cells[header.index(axis)]) for axis in AXES]
        for line, cells in rows
    ]
    return Particles.from_voxels(np.array(zyx).reshape(-1, 3), voxel_size=frame.voxel_size)


def write_napari(
    path: Path, particles: Particles, frame: Frame, *, overwrite: bool = False
) -> None:
    """Write points in the frame's voxels; napari drops all else when it opens the table.

    Raises
    ------
    InputError
        When the file exists and may not be replaced, or cannot be written.
    """
    zyx = particles.positions[:, ::-1] / frame.voxel_size
    lines = [f"{row},{z:.4f},{y:.4f},{x:.4f}" for row, (z, y, x) in enumerate(zyx)]
    write_lines(path, [",".join(("index", *AXES)), *lines], overwrite=overwrite)
