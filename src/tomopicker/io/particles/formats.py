"""Picks in and out: the table of formats, and how a file's format is recognised."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tomopicker.errors import InputError
from tomopicker.io.particles.coords import read_coords, write_coords
from tomopicker.io.particles.csv import read_csv, write_csv
from tomopicker.io.particles.frame import Frame
from tomopicker.io.particles.relion3 import read_relion3, write_relion3
from tomopicker.io.particles.relion4 import read_relion4, write_relion4
from tomopicker.io.particles.relion5 import read_relion5, write_relion5
from tomopicker.io.particles.rows import read_text
from tomopicker.types import Particles, Shape


class Write(Protocol):
    """How every format is written."""

    def __call__(
        self, path: Path, particles: Particles, frame: Frame, *, overwrite: bool = False
    ) -> None:
        """Write the particles of a frame."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """One way to write particles down."""

    suffix: str
    in_voxels: bool
    """Whether the file's numbers mean the tomogram's voxels, whatever their size."""
    read: Callable[[Path, Frame], Particles]
    write: Write


FORMATS: dict[str, Format] = {
    "csv": Format(suffix=".csv", in_voxels=True, read=read_csv, write=write_csv),
    "relion5": Format(suffix=".star", in_voxels=False, read=read_relion5, write=write_relion5),
    "relion4": Format(suffix=".star", in_voxels=False, read=read_relion4, write=write_relion4),
    "relion3": Format(suffix=".star", in_voxels=False, read=read_relion3, write=write_relion3),
    "coords": Format(suffix=".coords", in_voxels=True, read=read_coords, write=write_coords),
}

SUFFIXES = (".csv", ".tsv", ".txt", ".star", ".coords")
"""How the names of particle files end, those that count most first."""


def read_particles(
    path: Path | str,
    *,
    voxel_size: float,
    shape: Shape | None = None,
    pixel_size: float | None = None,
) -> Particles:
    """Read picks in whichever known format the file is.

    Parameters
    ----------
    path
        A CSV, STAR or `.coords` file.
    voxel_size
        Ångström, of the tomogram the picks belong to.
    shape
        Its voxels ``z y x``; RELION-5's lists need it.
    pixel_size
        Ångström, of the unbinned tilt series, for RELION-4's lists that do not tell it.

    Raises
    ------
    InputError
        One line that names the file, what is wrong and the remedy.
    """
    path = Path(path)
    frame = Frame(voxel_size=voxel_size, shape=shape, pixel_size=pixel_size)
    return FORMATS[recognise(path)].read(path, frame)


def write_particles(
    path: Path | str,
    particles: Particles,
    *,
    format: str = "csv",
    shape: Shape | None = None,
    pixel_size: float | None = None,
    overwrite: bool = False,
) -> None:
    """Write picks in a named format, whole or not at all.

    Parameters
    ----------
    path
        The file to write, its suffix included.
    particles
        Of one tomogram, or with names.
    format
        A key of `FORMATS`.
    shape
        The tomogram's voxels ``z y x``; relion5 needs it.
    pixel_size
        Ångström, of the unbinned tilt series; relion4 needs it.
    overwrite
        Whether a file that is already there may be replaced.

    Raises
    ------
    InputError
        When the format is unknown or lacks what it needs, or the file cannot be written.
    """
    check_format(format, pixel_size=pixel_size)
    frame = Frame(voxel_size=particles.voxel_size, shape=shape, pixel_size=pixel_size)
    FORMATS[format].write(Path(path), particles, frame, overwrite=overwrite)


def check_format(name: str, *, pixel_size: float | None = None) -> None:
    """Refuse a format that is unknown or cannot be written, before there is anything to write.

    Raises
    ------
    InputError
        Listing the known formats, or naming what relion4 needs.
    """
    _format(name)
    if name == "relion4" and pixel_size is None:
        raise InputError(
            "relion4 counts in pixels of the unbinned tilt series, whose size is not known here; "
            "give it, or use relion5, which needs none"
        )


def suffix_of(name: str) -> str:
    """Tell how the names of a format's files end.

    >>> suffix_of("relion5")
    '.star'

    Raises
    ------
    InputError
        Listing the known formats when it is none of them.
    """
    return _format(name).suffix


def recognise(path: Path) -> str:
    """Tell a file's format, a key of `FORMATS`, by its content, or else its suffix.

    Raises
    ------
    InputError
        When the file is missing, empty or not text.
    """
    text = read_text(path)
    if path.suffix.lower() == ".star" or re.search(r"^data_", text, flags=re.MULTILINE):
        columns = set(re.findall(r"^\s*_(rln\w+)", text, flags=re.MULTILINE))
        if "rlnCenteredCoordinateXAngst" in columns:
            return "relion5"
        return "relion4" if "rlnTomoName" in columns else "relion3"
    return "coords" if path.suffix.lower() == ".coords" else "csv"


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise InputError(f"unknown format {name!r}; known are {', '.join(FORMATS)}")
    return FORMATS[name]
