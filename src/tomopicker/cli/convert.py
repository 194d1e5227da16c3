"""Write a particle list for another program: ``tomopicker convert``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tomopicker.errors import InputError

if TYPE_CHECKING:
    from tomopicker.io.particles.conversion import Known, Part


def convert(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="A list of particles, or a folder of them.")
    ],
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="A file, or a folder (one without a suffix) for a list per tomogram.",
        ),
    ],
    source_format: Annotated[
        str | None,
        typer.Option("--from", help="What IN is, where its content could be several formats."),
    ] = None,
    target_format: Annotated[
        str | None, typer.Option("--to", help="The format of OUT, where its suffix does not tell.")
    ] = None,
    like: Annotated[
        list[Path] | None,
        typer.Option(
            help="The tomogram, for shape and voxel size; or a folder, a tomograms.star, a project "
            "(repeatable)."
        ),
    ] = None,
    voxel_size: Annotated[
        float | None, typer.Option(help="Ångström, of the tomogram that IN belongs to.")
    ] = None,
    pixel_size: Annotated[
        float | None, typer.Option(help="Ångström, of the unbinned tilt series.")
    ] = None,
    to_voxel_size: Annotated[
        float | None,
        typer.Option(help="Ångström, of the tomogram that OUT belongs to, if binned otherwise."),
    ] = None,
    radius: Annotated[
        str | None,
        typer.Option(help="Of the particle, as 150A, for formats that draw it."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace lists that are already there.")
    ] = False,
) -> None:
    """Write particle lists for another program, each particle in the same place."""
    from tomopicker.cli.units import parse_length
    from tomopicker.io.particles.conversion import at_voxel_size, read_known

    split = out.is_dir() or not out.suffix
    target = _target(out, target_format, split=split)
    known = read_known(
        like or [],
        voxel_size=voxel_size,
        pixel_size=pixel_size,
        radius=None if radius is None else parse_length(radius).angstrom(voxel_size),
    )
    parts = _read(source, known, source_format, target)
    _check_voxel_sizes(parts, target, to_voxel_size)
    _warn(parts, known)
    parts = at_voxel_size(parts, to_voxel_size)
    _write(out, parts, target, split=split, likes=like or [], force=force)
    _summarise(source, out, parts, target)


def _target(out: Path, told: str | None, *, split: bool) -> str:
    """Choose the format to write."""
    from tomopicker.io.particles import check_format, formats_of_name, writable

    if told is not None:
        # What it needs is asked for when the tomograms are known.
        check_format(told, pixel_size=1.0)
        return told
    if split:
        raise InputError(
            f"{out}: is a folder, which does not tell the format; add --to, one of "
            f"{', '.join(writable())}"
        )
    found = formats_of_name(out)
    if not found:
        raise InputError(
            f"{out}: no format of lists ends in {out.suffix}; add --to, one of "
            f"{', '.join(writable())}"
        )
    if len(found) > 1 and found[0] != "csv":
        _say(f"{out}: written as {found[0]}; for another say --to {' or '.join(found[1:])}")
    return found[0]


def _read(source: Path, known: Known, told: str | None, target: str) -> list[Part]:
    from tomopicker.io.particles import doubt_about, list_files
    from tomopicker.io.particles.conversion import read_parts

    files = list_files(source) if source.is_dir() else {None: source}
    parts = []
    for name, file in files.items():
        doubt = doubt_about(file) if told is None else None
        if doubt is not None:
            _say(doubt)
        parts += read_parts(file, known, target=target, format=told, name=name)
    return parts


def _check_voxel_sizes(parts: Sequence[Part], target: str, to_voxel_size: float | None) -> None:
    """Refuse what would count in voxels of a size that nobody knows."""
    from tomopicker.errors import UnknownVoxelSizeError
    from tomopicker.io.particles import FORMATS
    from tomopicker.io.particles.frame import UNKNOWN

    if to_voxel_size is not None and not FORMATS[target].in_voxels and target != "relion3":
        raise InputError(f"--to-voxel-size: {target} does not count in voxels; leave it out")
    for part in parts:
        unknown = part.frame.voxel_size == UNKNOWN
        if unknown and (to_voxel_size is not None or not FORMATS[target].in_voxels):
            raise UnknownVoxelSizeError(
                f"{part.source}: the voxel size of {part.name} is not known; give it with "
                "--voxel-size"
            )


def _warn(parts: Sequence[Part], known: Known) -> None:
    """Say what may be wrong: particles that are outside were counted in other units, mostly."""
    from tomopicker.io.particles import check_inside

    if len(parts) > 1 and known.one_for_all:
        _say(f"All {len(parts)} tomograms are taken to be as large as {next(iter(known.frames))}")
    for part in parts:
        if part.frame.shape is None:
            continue
        try:
            check_inside(part.particles, part.frame.shape, part.source)
        except InputError as error:
            _say(f"Warning: {error}")


def _write(
    out: Path,
    parts: Sequence[Part],
    target: str,
    *,
    split: bool,
    likes: Sequence[Path],
    force: bool,
) -> None:
    from tomopicker.io.particles.conversion import write_apart, write_joined
    from tomopicker.io.particles.relion_project import (
        OPTIMISATION_SET,
        write_import_list,
        write_optimisation_set,
    )
    from tomopicker.io.tomograms.relion import list_at

    if split:
        write_apart(out, parts, format=target, overwrite=force)
        if target == "relion5":
            write_import_list(out)
        return
    tomograms = list_at(likes[0]) if target == "relion5" and len(likes) == 1 else None
    written = [out] if tomograms is None else [out, out.with_name(OPTIMISATION_SET)]
    for path in written:
        if path.exists() and not force:
            raise InputError(f"{path}: is already there; give another name, or --force")
    write_joined(out, parts, format=target, overwrite=force)
    if tomograms is not None:
        write_optimisation_set(written[1], particles=out, tomograms=tomograms, overwrite=force)


def _summarise(source: Path, out: Path, parts: Sequence[Part], target: str) -> None:
    from tomopicker.io.particles import FORMATS
    from tomopicker.io.particles.conversion import left_out
    from tomopicker.io.particles.frame import UNKNOWN

    count = sum(len(part.particles) for part in parts)
    where = parts[0].name if len(parts) == 1 else f"{len(parts)} tomograms"
    text = f"{source} → {out} ({target}): {count} particles of {where}"
    sizes = sorted({part.frame.voxel_size for part in parts} - {UNKNOWN})
    if FORMATS[target].in_voxels and sizes:
        text += f", in voxels of {' and '.join(f'{size:g}' for size in sizes[:3])} Å"
    missing = left_out(parts, target)
    if missing:
        text += f"; without {' and '.join(missing)}, which {target} does not hold"
    _say(text)


def _say(text: str) -> None:
    from tomopicker.cli.run import console

    console.print(text, soft_wrap=True)
