"""Picks in and out: the table of formats, and how a file's format is recognised."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from tomopicker.errors import InputError
from tomopicker.io.names import check_name, series_name
from tomopicker.io.particles.cbox import is_cbox, read_cbox, write_cbox
from tomopicker.io.particles.chimerax import is_chimerax, write_chimerax
from tomopicker.io.particles.coords import is_coords, read_coords, write_coords
from tomopicker.io.particles.copick import copick_voxel_size, is_copick, read_copick, write_copick
from tomopicker.io.particles.csv import is_csv, read_csv, write_csv
from tomopicker.io.particles.deepfinder import is_deepfinder, read_deepfinder
from tomopicker.io.particles.dynamo import dynamo_voxel_size, is_dynamo, read_dynamo, write_dynamo
from tomopicker.io.particles.eman2 import is_eman2, read_eman2, write_eman2
from tomopicker.io.particles.frame import UNKNOWN, Frame
from tomopicker.io.particles.head import Head, read_head
from tomopicker.io.particles.imod import (
    imod_voxel_size,
    is_imod,
    is_imod_text,
    read_imod,
    read_imod_text,
    write_imod,
    write_imod_text,
)
from tomopicker.io.particles.napari import is_napari, read_napari, write_napari
from tomopicker.io.particles.portal import is_portal, read_portal, write_portal
from tomopicker.io.particles.relion3 import (
    is_relion3,
    read_relion3,
    write_relion3,
)
from tomopicker.io.particles.relion4 import is_relion4, read_relion4, write_relion4
from tomopicker.io.particles.relion5 import is_relion5, read_relion5, write_relion5
from tomopicker.io.particles.rows import listed
from tomopicker.io.particles.tom import is_tom, read_tom, write_tom
from tomopicker.io.particles.topaz import is_topaz, read_topaz, write_topaz
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

    place: str
    """Where the list of a tomogram is, as its program looks for it."""
    holds: AbstractSet[str]
    """What a file can hold beside coordinates: names of several tomograms, scores and so on."""
    recognises: Callable[[Head], bool]
    read: Callable[[Path, Frame], Particles] | None = None
    write: Write | None = None
    in_voxels: bool = True
    """Whether the file's numbers mean the tomogram's voxels, whatever their size."""
    reads_shape: bool = False
    """Whether reading needs the tomogram's shape."""
    writes_shape: bool = False
    """Whether writing needs the tomogram's shape."""
    writes_pixels: bool = False
    """Whether writing needs the pixel size of the tilt series."""
    voxel_size: Callable[[Path], float | None] | None = None
    """Reads what a file says of the tomogram's voxel size, where the format can tell."""


FORMATS: dict[str, Format] = {
    # A file is of the first format that recognises it, of csv when none does.
    "csv": Format(
        place="{name}.csv",
        holds={"names", "scores", "columns"},
        recognises=is_csv,
        read=read_csv,
        write=write_csv,
    ),
    "relion5": Format(
        place="{name}.star",
        holds={"names", "scores", "orientations", "columns", "optics"},
        recognises=is_relion5,
        read=read_relion5,
        write=write_relion5,
        in_voxels=False,
        reads_shape=True,
        writes_shape=True,
    ),
    "relion4": Format(
        place="{name}.star",
        holds={"names", "scores", "orientations", "columns", "optics"},
        recognises=is_relion4,
        read=read_relion4,
        write=write_relion4,
        in_voxels=False,
        writes_pixels=True,
    ),
    "cbox": Format(
        place="{name}.cbox",
        holds={"scores"},
        recognises=is_cbox,
        read=read_cbox,
        write=write_cbox,
    ),
    "relion3": Format(
        place="{name}.star",
        holds={"names", "scores", "orientations", "columns", "optics"},
        recognises=is_relion3,
        read=read_relion3,
        write=write_relion3,
        in_voxels=False,
    ),
    "copick": Format(
        place="ExperimentRuns/{name}/Picks/tomopicker_1_particle.json",
        holds={"scores", "orientations"},
        recognises=is_copick,
        read=read_copick,
        write=write_copick,
        in_voxels=False,
        voxel_size=copick_voxel_size,
    ),
    "portal": Format(
        place="{name}.ndjson",
        holds={"orientations"},
        recognises=is_portal,
        read=read_portal,
        write=write_portal,
    ),
    "eman2": Format(
        place="info/{name}_info.json",
        holds={"scores"},
        recognises=is_eman2,
        read=read_eman2,
        write=write_eman2,
        in_voxels=False,
        reads_shape=True,
        writes_shape=True,
        writes_pixels=True,
    ),
    "dynamo": Format(
        place="{name}.tbl",
        holds={"names", "scores", "orientations"},
        recognises=is_dynamo,
        read=read_dynamo,
        write=write_dynamo,
        voxel_size=dynamo_voxel_size,
    ),
    "imod": Format(
        place="{name}.mod",
        holds=frozenset(),
        recognises=is_imod,
        read=read_imod,
        write=write_imod,
        writes_shape=True,
        voxel_size=imod_voxel_size,
    ),
    "imod-text": Format(
        place="{name}.txt",
        holds=frozenset(),
        recognises=is_imod_text,
        read=read_imod_text,
        write=write_imod_text,
    ),
    "tom": Format(
        place="{name}.em",
        holds={"names", "scores", "orientations"},
        recognises=is_tom,
        read=read_tom,
        write=write_tom,
    ),
    "coords": Format(
        place="{name}.coords",
        holds=frozenset(),
        recognises=is_coords,
        read=read_coords,
        write=write_coords,
    ),
    "napari": Format(
        place="{name}.csv",
        holds=frozenset(),
        recognises=is_napari,
        read=read_napari,
        write=write_napari,
    ),
    "topaz": Format(
        place="{name}.txt",
        holds={"names", "scores"},
        recognises=is_topaz,
        read=read_topaz,
        write=write_topaz,
    ),
    "deepfinder": Format(
        place="{name}.xml",
        holds={"names", "scores"},
        recognises=is_deepfinder,
        read=read_deepfinder,
    ),
    "chimerax": Format(
        place="{name}.cmm",
        holds=frozenset(),
        recognises=is_chimerax,
        write=write_chimerax,
        in_voxels=False,
    ),
}

SUFFIXES = (
    *(".csv", ".tsv", ".txt", ".star", ".coords", ".cbox", ".tbl", ".mod", ".ndjson", ".json"),
    *(".em", ".xml"),
)
"""How the names of particle files end, those that count most first."""


def read_particles(
    path: Path | str,
    *,
    voxel_size: float,
    shape: Shape | None = None,
    pixel_size: float | None = None,
    extent: tuple[float, float, float] | None = None,
    format: str | None = None,
) -> Particles:
    """Read picks in whichever known format the file is.

    Parameters
    ----------
    path
        A file of any format in `FORMATS` that is read.
    voxel_size
        Ångström, of the tomogram the picks belong to.
    shape
        Its voxels ``z y x``; the lists of RELION-5 and EMAN2 need it.
    pixel_size
        Ångström, of the unbinned tilt series, for RELION-4's lists that do not tell it.
    extent
        Of the tomogram, see `Tomogram.extent`; RELION-5's lists count from half of it.
    format
        A key of `FORMATS`, where the content could be of several.

    Raises
    ------
    InputError
        One line that names the file, what is wrong and the remedy.
    """
    frame = Frame(voxel_size=voxel_size, shape=shape, pixel_size=pixel_size, extent=extent)
    return read_in(Path(path), frame, format=format)


def read_in(path: Path, frame: Frame, *, format: str | None = None) -> Particles:
    """Read picks as `read_particles`, in a frame.

    Raises
    ------
    InputError
        One line that names the file, what is wrong and the remedy.
    """
    read_head(path)
    name = recognise(path) if format is None else format
    read = _format(name).read
    if read is None:
        raise InputError(f"{path}: {name} is only written; give a list of another format")
    try:
        # Numbers too large to multiply become infinite, and are told as such.
        with np.errstate(over="ignore", invalid="ignore"):
            return read(path, frame)
    except InputError as error:
        if str(error).startswith(f"{path}: "):
            raise
        raise InputError(f"{path}: {error}") from error


def names_in(path: Path, *, format: str | None = None) -> tuple[str, ...]:
    """Read what a list calls the tomogram of each of its picks; nothing where it does not.

    Raises
    ------
    InputError
        As `read_particles`.
    """
    # A voxel, somewhere, is enough to learn the names.
    somewhere = Frame(voxel_size=UNKNOWN, shape=(1, 1, 1), pixel_size=UNKNOWN)
    return read_in(path, somewhere, format=format).tomograms


def write_particles(
    path: Path | str,
    particles: Particles,
    *,
    format: str = "csv",
    shape: Shape | None = None,
    pixel_size: float | None = None,
    extent: tuple[float, float, float] | None = None,
    radius: float | None = None,
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
        A key of `FORMATS` that is written.
    shape
        The tomogram's voxels ``z y x``; relion5, eman2 and imod need it.
    pixel_size
        Ångström, of the unbinned tilt series; relion4 and eman2 need it.
    extent
        Of the tomogram, see `Tomogram.extent`; relion5 counts from half of it.
    radius
        Ångström, of the particle, for the formats that draw it.
    overwrite
        Whether a file that is already there may be replaced.

    Raises
    ------
    InputError
        When the format is unknown or lacks what it needs, or the file cannot be written.
    """
    frame = Frame(
        voxel_size=particles.voxel_size,
        shape=shape,
        pixel_size=pixel_size,
        extent=extent,
        radius=radius,
    )
    write_in(Path(path), particles, frame, format=format, overwrite=overwrite)


def write_in(
    path: Path, particles: Particles, frame: Frame, *, format: str, overwrite: bool = False
) -> None:
    """Write picks as `write_particles`, in a frame.

    Raises
    ------
    InputError
        When the format is unknown or lacks what it needs, or the file cannot be written.
    """
    check_format(format, pixel_size=frame.pixel_size)
    names = list(dict.fromkeys(particles.tomograms))
    if len(names) > 1 and "names" not in FORMATS[format].holds:
        raise InputError(
            f"{path}: {format} holds the particles of one tomogram, these are of {len(names)} "
            f"({listed(names)}); give a folder, for a file each"
        )
    write = FORMATS[format].write
    if write is not None:
        write(path, particles, frame, overwrite=overwrite)


def check_format(name: str, *, pixel_size: float | None = None) -> None:
    """Refuse a format that is unknown or cannot be written, before there is anything to write.

    Raises
    ------
    InputError
        Listing the known formats, or naming what the format needs.
    """
    if _format(name).write is None:
        raise InputError(f"{name} is only read; known for writing are {', '.join(writable())}")
    if pixel_size is not None and not 0 < pixel_size < np.inf:
        raise InputError(f"--pixel-size must be a number of ångström above 0, got {pixel_size:g}")
    if FORMATS[name].writes_pixels and pixel_size is None:
        remedy = ", or use relion5, which needs none" if name == "relion4" else ""
        raise InputError(
            f"{name} counts in pixels of the unbinned tilt series, whose size is not known here; "
            f"give it with --pixel-size{remedy}"
        )


def writable() -> list[str]:
    """Name the formats that are written, in the order of `FORMATS`."""
    return [name for name, format in FORMATS.items() if format.write is not None]


def place_of(format: str, tomogram: str) -> Path:
    """Tell where a format's list of a tomogram is, as its program looks for it.

    >>> place_of("eman2", "rec_TS_01").as_posix()
    'info/TS_01_info.json'

    Raises
    ------
    InputError
        Listing the known formats when it is none of them, or when no file can be called so.
    """
    place = _format(format).place
    check_name(tomogram, "the list")
    # What lies in a project's folders is named as its tilt series are.
    return Path(place.format(name=series_name(tomogram) if "/" in place else tomogram))


def formats_of_name(path: Path) -> list[str]:
    """Name the written formats whose files end as this one does, the likeliest first.

    >>> formats_of_name(Path("picks.star"))
    ['relion5', 'relion4', 'relion3']
    """
    name = path.name.lower()
    if name.endswith("_info.json"):
        return ["eman2"]
    if name.endswith(".tsv"):
        return ["csv"]
    return [format for format in writable() if name.endswith(Path(FORMATS[format].place).suffix)]


def recognise(path: Path) -> str:
    """Tell a file's format, a key of `FORMATS`, by its content, or else its suffix.

    Raises
    ------
    InputError
        When the file is missing or empty, cannot be read, or is JSON or XML of an unknown kind.
    """
    head = read_head(path)
    found = next((name for name, format in FORMATS.items() if format.recognises(head)), None)
    if found is None and head.text.lstrip()[:1] in ("{", "[", "<"):
        kind = "XML" if head.text.lstrip().startswith("<") else "JSON"
        raise InputError(
            f"{path}: is {kind}, but no list of particles that is known; known are "
            f"{', '.join(FORMATS)}"
        )
    return found or "csv"


def is_list(path: Path) -> bool:
    """Tell whether a file is a list of particles by its content; bare numbers are one.

    Raises
    ------
    InputError
        When the file is missing or empty, or cannot be read.
    """
    head = read_head(path)
    if head.star_columns is not None:
        # Whatever STAR file is none of the others is RELION-3's, if it has coordinates.
        return any("CoordinateX" in column for column in head.star_columns) or is_cbox(head)
    return head.is_bare or any(format.recognises(head) for format in FORMATS.values())


def doubt_about(path: Path) -> str | None:
    """Say what bare numbers were taken for, which nothing in the file tells; None where it does.

    Raises
    ------
    InputError
        As `recognise`.
    """
    name = recognise(path)
    head = read_head(path)
    if name not in ("csv", "coords") or not head.is_bare:
        return None
    columns = len(head.cells)
    meaning = "x y z" if columns == 3 else "x y z score" if name == "csv" else "class x y z"
    return (
        f"{path}: bare numbers, taken for {name} ({meaning}, voxels from 0 at the centre of the "
        "first); say otherwise with --from, as --from imod-text for what model2point wrote"
    )


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise InputError(f"unknown format {name!r}; known are {', '.join(FORMATS)}")
    return FORMATS[name]
