"""RELION-4 picks: pixels of the unbinned tilt series, with the tomogram in `rlnTomoName`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from tomopicker.errors import InputError
from tomopicker.io.particles import star
from tomopicker.io.particles.frame import Frame
from tomopicker.io.particles.head import Head
from tomopicker.io.particles.star import PIXEL
from tomopicker.types import Floats, Particles


def is_relion4(head: Head) -> bool:
    """Recognise by the name of the tomogram."""
    return "rlnTomoName" in (head.star_columns or ())


def read_relion4(path: Path, frame: Frame) -> Particles:
    """Read a RELION-4 particle list; refined shifts (`rlnOriginXAngst`) are taken off.

    Raises
    ------
    InputError
        When neither the file nor the frame tells the pixel size, or the file is no such list.
    """
    blocks = star.read_blocks(path)
    table = star.particle_table(path, blocks, star.XYZ)
    pixel = _pixel_size(path, blocks, table, frame)
    positions = star.coordinates(path, table, star.XYZ) * pixel[:, None]
    positions -= star.origins(path, table, pixel)
    return star.particles_from(path, blocks, table, positions, frame.voxel_size)


def write_relion4(
    path: Path, particles: Particles, frame: Frame, *, overwrite: bool = False
) -> None:
    """Write a RELION-4 particle list with tilt-series names and `rlnAutopickFigureOfMerit`.

    Raises
    ------
    InputError
        When the frame has no pixel size, or the file exists and may not be replaced.
    """
    if frame.pixel_size is None:
        raise InputError(
            f"{path}: RELION-4 counts in pixels of the unbinned tilt series; give their size "
            "(--pixel-size)"
        )
    table = star.table_for(
        path,
        particles,
        name_column="rlnTomoName",
        columns=star.XYZ,
        values=particles.positions / frame.pixel_size,
    )
    pixel = (f"{frame.pixel_size:.9g}",) * len(particles)
    blocks = star.blocks_with_optics(table, {**particles.optics, PIXEL: pixel})
    star.write_blocks(path, blocks, overwrite=overwrite)


def _pixel_size(path: Path, blocks: star.Blocks, table: pd.DataFrame, frame: Frame) -> Floats:
    """Find the pixel size (n,) in ångström that the coordinates are counted in."""
    names = table["rlnTomoName"].astype(str) if "rlnTomoName" in table else pd.Series([""])
    if names.str.endswith(".tomostar").all():
        # Warp writes RELION-4 columns in pixels of the particles it exported, and a
        # tomograms.star to match; the tilt series' own pixel size in the optics is another.
        exported = star.optional_numbers(path, blocks, table, "rlnImagePixelSize")
        if exported is not None:
            return exported
    stated = star.optional_numbers(path, blocks, table, PIXEL)
    if stated is not None:
        return stated
    if frame.pixel_size is not None:
        return np.full(len(table), frame.pixel_size)
    stated = star.optional_numbers(path, blocks, table, "rlnPixelSize")
    if stated is None:
        raise InputError(
            f"{path}: does not tell the pixel size of its tilt series; name the tomograms by their "
            f"tomograms.star, which does, or add {PIXEL} to data_optics, or convert it with "
            "--pixel-size"
        )
    return stated
