"""RELION-3 picks, as Warp and M read and write them: pixels, in a block without a name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from tomopicker.io.particles import star
from tomopicker.io.particles.frame import Frame
from tomopicker.io.particles.head import Head
from tomopicker.types import Floats, Particles


def is_relion3(head: Head) -> bool:
    """Recognise whatever STAR file is none of the others."""
    return head.star_columns is not None


def read_relion3(path: Path, frame: Frame) -> Particles:
    """Read a particle list of RELION 3, Warp or M; refined shifts are taken off.

    A pixel size that the file states is what its coordinates count (Warp exports particles at
    another size than it reconstructs tomograms); otherwise they count the tomogram's voxels, or are
    fractions of its size, as in the lists of Warp's template matching.

    Raises
    ------
    InputError
        When the file is no such list, or holds fractions and the frame has no shape.
    """
    blocks = star.read_blocks(path)
    table = star.particle_table(path, blocks, star.XYZ)
    counted = star.coordinates(path, table, star.XYZ)
    pixel = _pixel_size(path, blocks, table)
    if pixel is None and _are_fractions(counted):
        positions = counted * _extent(path, frame)
    else:
        pixel = np.full(len(table), frame.voxel_size) if pixel is None else pixel
        positions = counted * pixel[:, None]
    positions -= star.origins(path, table, pixel)
    return star.particles_from(path, blocks, table, positions, frame.voxel_size)


def write_relion3(
    path: Path, particles: Particles, frame: Frame, *, overwrite: bool = False
) -> None:
    """Write a particle list for Warp or M, in the frame's voxels.

    Raises
    ------
    InputError
        When the file exists and may not be replaced, or cannot be written.
    """
    table = star.table_for(
        path,
        particles,
        name_column="rlnMicrographName",
        # Warp leaves out, silently, what is not named as its tilt series are.
        suffix=".tomostar",
        columns=star.XYZ,
        values=particles.positions / frame.voxel_size,
    )
    table["rlnPixelSize"] = frame.voxel_size
    # RELION 3.1's two blocks, where there is something to say; Warp and M read both.
    blocks = star.blocks_with_optics(table, particles.optics) if particles.optics else {"": table}
    star.write_blocks(path, blocks, overwrite=overwrite)


def _are_fractions(counted: Floats) -> bool:
    # No list of voxels is all in the first one, and a fraction is never whole.
    return bool(len(counted) and ((counted >= 0) & (counted <= 1)).all() and (counted % 1).any())


def _extent(path: Path, frame: Frame) -> Floats:
    if frame.extent is not None:
        return np.array(frame.extent)
    reason = "its coordinates are fractions of the tomogram's size, as Warp's template matching has"
    return frame.size(path, f"{reason} them") * frame.voxel_size


def _pixel_size(path: Path, blocks: star.Blocks, table: pd.DataFrame) -> Floats | None:
    """Find the pixel size (n,) in ångström, None where the file states none."""
    pixel = star.optional_numbers(path, blocks, table, "rlnPixelSize")
    if pixel is not None:
        return pixel
    detector = star.optional_numbers(path, blocks, table, "rlnDetectorPixelSize")
    if detector is None:
        return star.optional_numbers(path, blocks, table, "rlnImagePixelSize")
    # A detector's pixel is in micrometres; a magnification of 10,000 makes it the image's in Å.
    magnification = star.optional_numbers(path, blocks, table, "rlnMagnification")
    return detector if magnification is None else detector * 10_000 / magnification
