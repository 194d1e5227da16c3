"""RELION-5 picks: ångström from the tomogram's centre, in a block named `particles`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tomopicker.io.particles import star
from tomopicker.io.particles.frame import Frame
from tomopicker.io.particles.head import Head
from tomopicker.types import Floats, Particles

_OPTICS = {"rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", star.PIXEL}
"""What RELION-5 needs to know of an optics group."""


def is_relion5(head: Head) -> bool:
    """Recognise by the centred coordinates."""
    return star.CENTRED[0] in (head.star_columns or ())


def read_relion5(path: Path, frame: Frame) -> Particles:
    """Read a RELION-5 particle list; refined shifts (`rlnOriginXAngst`) are taken off.

    Raises
    ------
    InputError
        When the frame has no shape, or the file is no such list.
    """
    middle = centre(path, frame)
    blocks = star.read_blocks(path)
    table = star.particle_table(path, blocks, star.CENTRED)
    positions = star.coordinates(path, table, star.CENTRED) - star.origins(path, table) + middle
    return star.particles_from(path, blocks, table, positions, frame.voxel_size)


def write_relion5(
    path: Path, particles: Particles, frame: Frame, *, overwrite: bool = False
) -> None:
    """Write a RELION-5 particle list with tilt-series names and `rlnAutopickFigureOfMerit`.

    Raises
    ------
    InputError
        When the frame has no shape, or the file exists and may not be replaced.
    """
    table = star.table_for(
        path,
        particles,
        name_column="rlnTomoName",
        columns=star.CENTRED,
        values=particles.positions - centre(path, frame),
    )
    # RELION takes the groups from its tomograms where a list has none; half of one stops it.
    whole = particles.optics.keys() >= _OPTICS
    blocks = star.blocks_with_optics(table, particles.optics) if whole else {"particles": table}
    star.write_blocks(path, blocks, overwrite=overwrite)


def centre(path: Path, frame: Frame) -> Floats:
    """Give the point (3,) that RELION-5 counts from, ``x y z`` in ångström.

    Raises
    ------
    InputError
        When the frame has neither shape nor extent.
    """
    # RELION's extraction takes size / 2 as the centre; its own Python picker writes size / 2 - 1,
    # one unbinned pixel away. The program that uses the list counts.
    if frame.extent is not None:
        return np.array(frame.extent) / 2
    return frame.size(path, "RELION-5 counts from the tomogram's centre") * frame.voxel_size / 2
