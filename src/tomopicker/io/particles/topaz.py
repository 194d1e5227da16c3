"""Tables of Topaz and MiLoPYP: ``image_name x_coord y_coord z_coord score``, tab separated."""

from __future__ import annotations

from pathlib import Path

from tomopicker.io.particles.csv import read_csv
from tomopicker.io.particles.frame import Frame
from tomopicker.io.particles.head import Head
from tomopicker.io.particles.rows import check_names, write_lines
from tomopicker.types import Particles


def is_topaz(head: Head) -> bool:
    """Recognise by the header."""
    return "image_name" in head.header


def read_topaz(path: Path, frame: Frame) -> Particles:
    """Read picks in voxels, 0-based, by the names of their columns.

    Raises
    ------
    InputError
        As `read_csv`; a table of single images has no z.
    """
    return read_csv(path, frame)


def write_topaz(path: Path, particles: Particles, frame: Frame, *, overwrite: bool = False) -> None:
    """Write picks in the frame's voxels; names with blanks keep them, as the tabs separate.

    Raises
    ------
    InputError
        When the file exists and may not be replaced, or cannot be written.
    """
    names = particles.tomograms or (path.stem,) * len(particles)
    check_names(path, names)
    xyz = particles.positions / frame.voxel_size
    rows = [
        [name, *(f"{value:.4f}" for value in place)] for name, place in zip(names, xyz, strict=True)
    ]
    header = ["image_name", "x_coord", "y_coord", "z_coord"]
    if particles.scores is not None:
        header.append("score")
        for row, score in zip(rows, particles.scores, strict=True):
            row.append(f"{score:.9g}")
    write_lines(path, map("\t".join, [header, *rows]), overwrite=overwrite)
