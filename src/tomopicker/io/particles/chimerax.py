"""Marker sets of ChimeraX, to look at picks on their tomogram."""

from __future__ import annotations

from pathlib import Path

from tomopicker.io.particles.frame import Frame
from tomopicker.io.particles.head import Head
from tomopicker.io.particles.rows import write_lines
from tomopicker.types import Particles


def is_chimerax(head: Head) -> bool:
    """Recognise by the marker set."""
    return "<marker_set" in head.text


def write_chimerax(
    path: Path, particles: Particles, frame: Frame, *, overwrite: bool = False
) -> None:
    """Write markers in ångström from the first voxel, where ChimeraX puts a volume of no origin.

    Raises
    ------
    InputError
        When the file exists and may not be replaced, or cannot be written.
    """
    look = f'r="0" g="1" b="0" radius="{frame.drawn_radius:.6g}"'
    markers = [
        f'<marker id="{n}" x="{x:.4f}" y="{y:.4f}" z="{z:.4f}" {look}/>'
        for n, (x, y, z) in enumerate(particles.positions, start=1)
    ]
    lines = ['<marker_set name="particles">', *markers, "</marker_set>"]
    write_lines(path, lines, overwrite=overwrite)
