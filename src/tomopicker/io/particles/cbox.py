"""crYOLO's boxes: a STAR file of its own, with the lower corner in x and y but the centre in z."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from tomopicker.io.particles import star
from tomopicker.io.particles.frame import Frame
from tomopicker.io.particles.head import Head
from tomopicker.types import Particles

COLUMNS = ("CoordinateX", "CoordinateY", "CoordinateZ")
_SIDES = ("Width", "Height")


def is_cbox(head: Head) -> bool:
    """Recognise by the version of the format, or the columns."""
    columns = head.star_columns or frozenset()
    return "cbox_format_version" in columns or {*COLUMNS, *_SIDES} <= columns


def read_cbox(path: Path, frame: Frame) -> Particles:
    """Read the centres of boxes in voxels, 0-based, and their confidence.

    Raises
    ------
    InputError
        When the file is no such list; one of single images has no z.
    """
    table = star.particle_table(path, star.read_blocks(path), (*COLUMNS, *_SIDES))
    xyz = star.coordinates(path, table, COLUMNS)
    xyz[:, :2] += star.coordinates(path, table, _SIDES) / 2
    scores = None
    # Boxes that were drawn by hand have the confidence <NA>, or 1 as ours without a score.
    if "Confidence" in table and pd.to_numeric(table["Confidence"], "coerce").notna().any():
        scores = star.numbers(path, table, "Confidence")
    return Particles(
        positions=xyz * frame.voxel_size,
        voxel_size=frame.voxel_size,
        scores=None if scores is None or (scores == 1).all() else scores,
    )


def write_cbox(path: Path, particles: Particles, frame: Frame, *, overwrite: bool = False) -> None:
    """Write boxes as wide as the particle; crYOLO wants a confidence, 1 where there is no score.

    Raises
    ------
    InputError
        When the file exists and may not be replaced, or cannot be written.
    """
    side = 2 * frame.drawn_radius / frame.voxel_size
    xyz = particles.positions / frame.voxel_size
    count = len(particles)
    table = pd.DataFrame(
        {
            "CoordinateX": xyz[:, 0] - side / 2,
            "CoordinateY": xyz[:, 1] - side / 2,
            "CoordinateZ": xyz[:, 2],
            **{name: np.full(count, side) for name in (*_SIDES, "Depth", "EstWidth", "EstHeight")},
            "Confidence": np.ones(count) if particles.scores is None else particles.scores,
            "NumBoxes": np.ones(count, dtype=int),
            "Angle": np.zeros(count),
        }
    )
    slices = pd.DataFrame({"slice_index": np.unique(xyz[:, 2].round()).astype(int)})
    blocks: dict[str, pd.DataFrame | dict[str, str]] = {
        "global": {"cbox_format_version": "1.0"},
        "cryolo": table,
        "cryolo_include": slices,
    }
    star.write_blocks(path, blocks, overwrite=overwrite)
