"""Picks as bare numbers, one particle a line: ``.coords`` of crYOLO, TomoTwin and DeepETPicker."""

from __future__ import annotations

from pathlib import Path

from tomopicker.io.particles.frame import Frame
from tomopicker.io.particles.head import Head
from tomopicker.io.particles.rows import one_class, read_numbers, write_lines
from tomopicker.types import Particles

LABELS = {3: ("x", "y", "z"), 4: ("class", "x", "y", "z")}


def is_coords(head: Head) -> bool:
    """Recognise by the name: the content could be any program's."""
    return head.suffix == ".coords"


def read_coords(path: Path, frame: Frame) -> Particles:
    """Read ``x y z`` or ``class x y z`` in voxels, 0-based, integers or floats.

    Raises
    ------
    InputError
        When the file is missing, empty or not text, a line is neither, or the file holds several
        classes (a particle picker is trained on one kind).
    """
    values, names = read_numbers(path, LABELS)
    if "class" in names:
        one_class(path, values[:, 0])
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
    xyz = particles.positions / frame.voxel_size
    write_lines(path, (f"{x:.4f} {y:.4f} {z:.4f}" for x, y, z in xyz), overwrite=overwrite)
