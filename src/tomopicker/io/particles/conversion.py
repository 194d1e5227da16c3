"""Particle lists from one convention to another, tomogram by tomogram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path

import numpy as np

from tomopicker.errors import InputError, UnknownVoxelSizeError
from tomopicker.io.names import match_names, tomogram_name
from tomopicker.io.particles.formats import (
    FORMATS,
    check_format,
    names_in,
    place_of,
    read_in,
    recognise,
)
from tomopicker.io.particles.formats import write_in as write_list
from tomopicker.io.particles.frame import UNKNOWN, Frame
from tomopicker.io.particles.relion5 import centre
from tomopicker.io.particles.rows import listed
from tomopicker.io.particles.star import GROUP_NAME, PIXEL
from tomopicker.io.tomograms import Source, find_tomograms
from tomopicker.io.tomograms.relion import Row, list_at, read_rows
from tomopicker.types import Particles


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the user tells of the tomograms that lists belong to."""

    frames: Mapping[str, Frame] = field(default_factory=dict)
    """By the names of the tomograms."""
    one_for_all: bool = False
    """Whether the one tomogram stands for whatever tomogram a list names."""
    voxel_size: float | None = None
    """Ångström, of all of them."""
    pixel_size: float | None = None
    """Ångström, of the unbinned tilt series of all of them."""
    radius: float | None = None
    """Ångström, of the particle."""

    def of(self, name: str, path: Path) -> tuple[str, Frame]:
        """Find what a tomogram is called here, whatever a list calls it, and its frame.

        Where nothing is known of any, the frame's voxel size is `UNKNOWN`.

        Raises
        ------
        InputError
            When others are known, but not this one.
        """
        if not self.frames:
            frame = Frame(voxel_size=self.voxel_size or UNKNOWN, pixel_size=self.pixel_size)
            return name, replace(frame, radius=self.radius)
        if self.one_for_all:
            return name, next(iter(self.frames.values()))
        found = match_names([name], list(self.frames))
        if not found:
            raise InputError(
                f"{path}: has particles in {name}, but --like has {listed(sorted(self.frames))}; "
                "add that tomogram, or give it alone with --like"
            )
        return found[name], self.frames[found[name]]


@dataclass(frozen=True, kw_only=True)
class Part:
    """The particles of one tomogram in a list."""

    name: str
    particles: Particles
    frame: Frame
    source: Path


def read_known(
    likes: Sequence[Path],
    *,
    voxel_size: float | None = None,
    pixel_size: float | None = None,
    radius: float | None = None,
) -> Known:
    """Read shapes and voxel sizes of tomograms.

    Parameters
    ----------
    likes
        Whatever `find_tomograms` finds tomograms by: files, folders, projects. RELION's
        `tomograms.star` tells sizes itself, so that its tomograms need not be there; that of
        RELION-4 does not tell the binning, without which a voxel size must be given.
    voxel_size, pixel_size, radius
        Ångström, where given; they count before what the files say.

    Raises
    ------
    InputError
        When a file cannot be read, or a size is not above 0.
    """
    sizes = {"--voxel-size": voxel_size, "--pixel-size": pixel_size, "--radius": radius}
    for option, size in sizes.items():
        if size is not None and not 0 < size < np.inf:
            raise InputError(f"{option} must be a number of ångström above 0, got {size:g}")
    frames: dict[str, Frame] = {}
    only: list[Source] = []
    for like in likes:
        listed_in = list_at(like)
        if listed_in is not None:
            # Of the tomograms themselves nobody learns an odd unbinned size.
            rows = read_rows(listed_in)
            frames |= {row.name: _frame_of_row(row, listed_in, voxel_size) for row in rows}
        else:
            sources = find_tomograms([like])
            frames |= {source.name: _frame_of(source, voxel_size) for source in sources}
            only += sources
    frames = {
        name: replace(
            frame,
            voxel_size=voxel_size or frame.voxel_size,
            pixel_size=pixel_size or frame.pixel_size,
            radius=radius,
        )
        for name, frame in frames.items()
    }
    return Known(
        frames=frames,
        one_for_all=len(frames) == len(only) == 1 and only[0].listed is None,
        voxel_size=voxel_size,
        pixel_size=pixel_size,
        radius=radius,
    )


def read_parts(
    path: Path, known: Known, *, target: str, format: str | None = None, name: str | None = None
) -> list[Part]:
    """Read a list, and take it apart by tomogram.

    Parameters
    ----------
    path
        The list.
    known
        The tomograms.
    target
        Key of `FORMATS` that it is read for: between lists of voxels, their size does not matter.
    format
        Key of `FORMATS`, where the content could be of several.
    name
        Of the tomogram where the list tells none; what the file is called, when left out.

    Returns
    -------
    list
        A part per tomogram, in the order in which they come.

    Raises
    ------
    InputError
        When the list cannot be read, or lacks what its or the target's convention needs.
    """
    format = recognise(path) if format is None else format
    names = [_plain(tomogram) for tomogram in names_in(path, format=format)]
    if name is None:
        name = next(iter(known.frames)) if known.one_for_all else path.stem
    order = list(dict.fromkeys(names)) or [name]
    number = {tomogram: index for index, tomogram in enumerate(order)}
    # A list without names is all of the one tomogram.
    owners = np.array([number[tomogram] for tomogram in names], dtype=np.int64)
    tables: dict[Frame, Particles] = {}
    parts = []
    for tomogram in order:
        called, frame = known.of(tomogram, path)
        if frame.voxel_size == UNKNOWN:
            frame = replace(frame, voxel_size=_voxel_size(path, format, target))
        if frame not in tables:
            tables[frame] = read_in(path, frame, format=format)
        table = tables[frame]
        if len(order) > 1:
            table = table.select(np.flatnonzero(owners == number[tomogram]))
        table = replace(table, tomograms=(called,) * len(table))
        parts.append(Part(name=called, particles=table, frame=frame, source=path))
    return parts


def at_voxel_size(parts: Sequence[Part], voxel_size: float | None) -> list[Part]:
    """Count parts in voxels of another size, of tomograms that were binned otherwise.

    Nothing moves in ångström: the first voxel's centre stays 0, as programs have it that bin.

    Raises
    ------
    InputError
        When the size is not above 0, or nobody knows the present one.
    """
    if voxel_size is None:
        return list(parts)
    if not 0 < voxel_size < np.inf:
        raise InputError(f"--to-voxel-size must be a number of ångström above 0, got {voxel_size}")
    rescaled = []
    for part in parts:
        shape = part.frame.shape
        if shape is not None:
            z, y, x = (max(round(n * part.frame.voxel_size / voxel_size), 1) for n in shape)
            shape = (z, y, x)
        frame = replace(part.frame, voxel_size=voxel_size, shape=shape)
        particles = replace(part.particles, voxel_size=voxel_size)
        rescaled.append(replace(part, frame=frame, particles=particles))
    return rescaled


def write_joined(path: Path, parts: Sequence[Part], *, format: str, overwrite: bool) -> None:
    """Write all parts into one list.

    Raises
    ------
    InputError
        When the format holds only one tomogram, or the parts count in different sizes.
    """
    first = parts[0].frame
    units = {
        "voxel size": {part.frame.voxel_size for part in parts} if _counts_voxels(format) else {1},
        "pixel size": {part.frame.pixel_size for part in parts if FORMATS[format].writes_pixels},
    }
    for unit, sizes in units.items():
        if len(sizes) > 1:
            raise InputError(
                f"{path}: the tomograms differ in {unit}, which one {format} list cannot; give a "
                "folder, for a file each"
            )
    tables = [part.particles for part in parts]
    if format == "relion5":
        # Each is counted from its own centre, all are written as from the first's.
        where = centre(path, first)
        tables = [
            replace(table, positions=table.positions - centre(path, part.frame) + where)
            for table, part in zip(tables, parts, strict=True)
        ]
    write_list(path, _joined(tables), first, format=format, overwrite=overwrite)


def write_apart(folder: Path, parts: Sequence[Part], *, format: str, overwrite: bool) -> list[Path]:
    """Write a list per tomogram, where the format's program looks for it.

    Returns
    -------
    list
        The files, in the order of the parts.

    Raises
    ------
    InputError
        When two parts are of one tomogram, or a file exists and may not be replaced; nothing is
        written then.
    """
    check_format(format, pixel_size=parts[0].frame.pixel_size)
    paths = [folder / place_of(format, part.name) for part in parts]
    for path, part in zip(paths, parts, strict=True):
        if paths.count(path) > 1:
            raise InputError(f"{part.source}: two lists are of {part.name}; convert one of them")
        if path.exists() and not overwrite:
            raise InputError(f"{path}: is already there; give another folder, or --force")
    for path, part in zip(paths, parts, strict=True):
        write_list(path, part.particles, part.frame, format=format, overwrite=overwrite)
    return paths


def left_out(parts: Sequence[Part], format: str) -> list[str]:
    """Name what parts have and a format cannot hold."""
    tables = [part.particles for part in parts]
    has = {
        "scores": any(table.scores is not None for table in tables),
        "orientations": any(table.orientations is not None for table in tables),
        "columns": any(table.extra for table in tables),
        "optics": any(table.optics.keys() - {GROUP_NAME, PIXEL} for table in tables),
    }
    missing = [name for name, there in has.items() if there and name not in FORMATS[format].holds]
    words = {"columns": "further columns", "optics": "optics groups"}
    return [words.get(name, name) for name in missing]


def _counts_voxels(format: str) -> bool:
    return FORMATS[format].in_voxels or format == "relion3"


def _frame_of(source: Source, voxel_size: float | None) -> Frame:
    try:
        tomogram = source.open(voxel_size=voxel_size)
    except UnknownVoxelSizeError:
        tomogram = source.open(voxel_size=UNKNOWN)
    return Frame(
        voxel_size=tomogram.voxel_size,
        shape=tomogram.shape,
        pixel_size=tomogram.pixel_size,
        extent=tomogram.extent,
    )


def _frame_of_row(row: Row, listed: Path, voxel_size: float | None) -> Frame:
    if row.extent is None:
        raise InputError(
            f"{listed}: does not tell the size of {row.name} (rlnTomoSizeX, Y, Z and "
            "rlnTomoTiltSeriesPixelSize, above 0); give the tomograms themselves with --like"
        )
    size = voxel_size or row.voxel_size
    if size is None:
        return Frame(voxel_size=UNKNOWN, pixel_size=row.pixel_size, extent=row.extent)
    x, y, z = (max(round(side / size), 1) for side in row.extent)
    return Frame(voxel_size=size, shape=(z, y, x), pixel_size=row.pixel_size, extent=row.extent)


def _voxel_size(path: Path, format: str, target: str) -> float:
    """Find the voxel size in ångström that a list is counted in, or that does not matter."""
    tell = FORMATS[format].voxel_size
    stated = None if tell is None else tell(path)
    if stated is not None and 0 < stated < np.inf:
        return stated
    if FORMATS[format].in_voxels and FORMATS[target].in_voxels:
        return UNKNOWN
    raise UnknownVoxelSizeError(
        f"{path}: from {format} to {target} needs the tomogram's voxel size; give --like TOMOGRAM, "
        "or --voxel-size with its ångström per voxel"
    )


def _plain(name: str) -> str:
    """Name a tomogram as its file is, whatever folder and suffix a list gives it."""
    return tomogram_name(name.replace("\\", "/").rstrip("/")).removesuffix(".tomostar") or name


def _joined(tables: Sequence[Particles]) -> Particles:
    """Put tables under each other; a column that not all have is left out."""
    scores = [table.scores for table in tables if table.scores is not None]
    turns = [table.orientations for table in tables if table.orientations is not None]
    extra, optics = (
        {
            name: tuple(cell for table in tables for cell in of(table)[name])
            for name in of(tables[0])
            if all(name in of(table) for table in tables)
        }
        for of in (attrgetter("extra"), attrgetter("optics"))
    )
    return Particles(
        positions=np.concatenate([table.positions for table in tables]),
        voxel_size=tables[0].voxel_size,
        scores=np.concatenate(scores) if len(scores) == len(tables) else None,
        tomograms=tuple(name for table in tables for name in table.tomograms),
        orientations=np.concatenate(turns) if len(turns) == len(tables) else None,
        extra=extra,
        optics=optics,
    )
