"""Say what tomograms are, and whether picks sit on them: ``tomopicker inspect``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tomopicker.cli.units import parse_length
from tomopicker.errors import InputError, UnknownVoxelSizeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from tomopicker.fit import Fit
    from tomopicker.inspect import Densities, Wedge
    from tomopicker.io.tomograms import Source
    from tomopicker.types import Particles, Tomogram

_RADIUS_ANGSTROM = 100.0
_RADIUS_VOXELS = 8.0
"""Of the particle where none is given; about a ribosome's, known voxel size or not."""


def inspect(
    tomograms: Annotated[
        list[Path],
        typer.Argument(
            help="Tomograms: files, a folder, a tomograms.star, a project.", show_default=False
        ),
    ],
    picks: Annotated[
        Path | None,
        typer.Option(help="Picks in them, a file or a folder: are they on density?"),
    ] = None,
    radius: Annotated[
        str | None,
        typer.Option(help="Of the particle, as 160A or 12vx; 100A when left out."),
    ] = None,
    voxel_size: Annotated[
        float | None, typer.Option(help="Ångström, where the header does not tell it.")
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(help="Draw the picks and their mean to this file; of several, a folder."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the picture.")] = False,
) -> None:
    """Say what tomograms are, and whether picks sit on density or would if read differently.

    Ends with exit code 2 when something would keep training from working, or lead it astray.
    """
    from rich.console import Console

    from tomopicker.cli.run import named_tomograms

    length = None if radius is None else parse_length(radius)
    if picture is not None and picks is None:
        raise InputError("--picture shows picks: give them with --picks")
    sources = named_tomograms(tomograms)
    pictures = _pictures(picture, sources, force=force)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    if len(sources) == 1:
        found = [_open(source, voxel_size, only=True) for source in sources]
    else:
        found = [_open(source, voxel_size, only=False) for source in sources]
    problems = [] if picks is None else _match(found, picks, sources)
    for one in found:
        # A length in ångström says nothing where the voxel size is unknown.
        is_known = one.voxel_size is not None or (length is not None and length.unit == "vx")
        _examine(one, length.voxels(one.voxel_size) if length is not None and is_known else None)
        if len(found) == 1:
            _print_all(console, one, picks)
        if one.name in pictures and one.fit is not None:
            _draw(one, pictures[one.name], force=force)
    if len(found) > 1:
        _print_table(console, found, with_picks=picks is not None)
    problems += [f"{one.name}: {problem}" for one in found for problem in one.problems]
    if problems:
        more = f" ({len(problems)} problems in all, see above)" if len(problems) > 1 else ""
        raise InputError(f"{problems[0]}{more}")


@dataclass(kw_only=True)
class _Found:
    """What is known of one tomogram."""

    name: str
    tomogram: Tomogram | None = None
    unknown: UnknownVoxelSizeError | None = None
    densities: Densities | None = None
    wedge: Wedge | None = None
    particles: Particles | None = None
    fit: Fit | None = None
    problems: list[str] = field(default_factory=list)
    """What keeps training from working."""
    warnings: list[str] = field(default_factory=list)

    @property
    def voxel_size(self) -> float | None:
        """Ångström; None where nobody tells it."""
        if self.tomogram is None or self.unknown is not None:
            return None
        return self.tomogram.voxel_size


def _pictures(picture: Path | None, sources: Sequence[Source], *, force: bool) -> dict[str, Path]:
    """Files of the pictures by the name of the tomogram, checked to be free."""
    from tomopicker.report import check_writable

    if picture is None:
        return {}
    if len(sources) == 1:
        files = {sources[0].name: picture}
    else:
        if picture.suffix:
            raise InputError(
                f"{picture}: {len(sources)} tomograms need a folder for their pictures"
            )
        picture.mkdir(parents=True, exist_ok=True)
        files = {source.name: picture / f"{source.name}.png" for source in sources}
    for file in files.values():
        check_writable(file, force=force)
    return files


def _open(source: Source, voxel_size: float | None, *, only: bool) -> _Found:
    """Open a tomogram; of several, one that cannot be read must not cost the others."""
    try:
        return _Found(name=source.name, tomogram=source.open(voxel_size=voxel_size))
    except UnknownVoxelSizeError as error:
        # Everything but lengths can still be told in voxels.
        return _Found(
            name=source.name,
            tomogram=source.open(voxel_size=1.0),
            unknown=error,
            problems=["the voxel size is unknown; give it, as --voxel-size 13.48"],
        )
    except InputError as error:
        if only:
            raise
        return _Found(name=source.name, problems=[str(error)])


def _match(found: Sequence[_Found], path: Path, sources: Sequence[Source]) -> list[str]:
    """Give each tomogram its picks; returns what is wrong with their names."""
    from tomopicker.io.particles import FORMATS, read_picks_for, recognise

    opened = [one for one in found if one.tomogram is not None]
    for one in opened:
        if one.unknown is not None and path.is_file() and not FORMATS[recognise(path)].in_voxels:
            raise one.unknown
    volumes = [one.tomogram for one in opened if one.tomogram is not None]
    problems = []
    are_listed = len(sources) > 1
    try:
        tables = read_picks_for(path, volumes, skip_unmatched=not are_listed, allow_none=are_listed)
    except InputError as error:
        if not are_listed:
            raise
        problems.append(str(error))
        try:
            tables = read_picks_for(path, volumes, skip_unmatched=True, allow_none=True)
        except InputError:
            return problems
    for one, table in zip(opened, tables, strict=True):
        one.particles = table if len(table) else None
    return problems


def _examine(one: _Found, radius: float | None) -> None:
    """Fill in what the volume is like and how the picks fit, and what is wrong."""
    import numpy as np

    from tomopicker.fit import fit_of_picks
    from tomopicker.inspect import densities, missing_wedge
    from tomopicker.io.tomograms import thickness_axis

    if one.tomogram is None:
        return
    try:
        one.densities = densities(one.tomogram.data)
    except InputError as error:
        one.problems.append(str(error))
        return
    if one.densities.sigma == 0:
        one.problems.append("every value is the same; there is nothing to pick")
    if one.densities.finite < 1:
        share = 100 * (1 - one.densities.finite)
        one.warnings.append(f"{share:.2g} % of the voxels are not numbers")
    one.wedge = missing_wedge(one.tomogram.data)
    thin = thickness_axis(one.tomogram.shape)
    if one.wedge is not None and one.wedge.beam != "z":
        one.problems.append(
            f"its missing wedge lies along {one.wedge.beam}, not along z: rotate it (IMOD: "
            "trimvol -rx), and its picks with it"
        )
    elif thin != "z":
        one.warnings.append(
            f"a tomogram is thin along z, this one along {thin}: it was probably not rotated after "
            "reconstruction (IMOD: trimvol -rx)"
        )
    if one.particles is None:
        return
    if radius is None:
        size = one.voxel_size
        radius = _RADIUS_VOXELS if size is None else _RADIUS_ANGSTROM / size
    one.fit = fit_of_picks(one.tomogram, one.particles, radius, rng=np.random.default_rng(0))
    _judge(one, one.particles, one.tomogram, one.fit)


def _judge(one: _Found, particles: Particles, tomogram: Tomogram, fit: Fit) -> None:
    """Say what is wrong with the picks."""
    from tomopicker.io.particles import check_inside

    if fit.better is not None:
        one.problems.append(
            f"the picks fit the volume better with {fit.better}: "
            f"{fit.readings[fit.better]:+.1f} standard errors instead of {fit.z:+.1f}; correct them"
        )
    elif fit.better_shift is not None:
        shift = ", ".join(f"{value:+.0f}" for value in fit.better_shift[::-1])
        one.problems.append(
            f"the picks fit the volume better shifted by {shift} voxels (x, y, z): "
            f"{fit.shift_z:+.1f} standard errors instead of {fit.z:+.1f}; they may be corners of "
            "boxes"
        )
    if fit.inside < 1 and fit.better is None:
        try:
            check_inside(particles, tomogram.shape, "the list")
        except InputError as error:
            one.problems.append(str(error))
    elif not one.problems and abs(fit.z) < 3:
        one.warnings.append(
            "the picks are no denser than beside them: is this the tomogram that they were picked "
            "in, and --radius the particle's?"
        )


def _print_all(console: Console, one: _Found, picks: Path | None) -> None:
    """Print everything about one tomogram."""
    if one.tomogram is None:
        return
    _print_volume(console, one.tomogram, one.unknown)
    if one.densities is not None:
        _print_densities(console, one.densities)
    if one.wedge is not None:
        console.print(
            f"  wedge       missing along {one.wedge.beam}: tilted about {one.wedge.tilt_axis}"
        )
    if one.particles is not None and one.fit is not None:
        console.print(f"{picks}")
        _print_picks(console, one.particles, one.fit)
    for warning in one.warnings:
        console.print(f"  Warning: {warning}")
    for problem in one.problems:
        console.print(f"  Problem: {problem}")


def _print_volume(
    console: Console, tomogram: Tomogram, unknown: UnknownVoxelSizeError | None
) -> None:
    from tomopicker.io.tomograms import thickness_axis

    z, y, x = tomogram.shape
    console.print(f"{tomogram.path}")
    console.print(f"  shape       {x} × {y} × {z} voxels (x × y × z), {tomogram.data.dtype}")
    if unknown is not None:
        console.print(f"  voxel size  unknown: {unknown}")
    else:
        sides = " × ".join(f"{side * tomogram.voxel_size / 10:.0f}" for side in (x, y, z))
        console.print(f"  voxel size  {tomogram.voxel_size:g} Å, so {sides} nm")
    console.print(f"  thinnest    along {thickness_axis(tomogram.shape)}")


def _print_densities(console: Console, found: Densities) -> None:
    bars = "▁▂▃▄▅▆▇█"
    top = max(int(found.counts.max()), 1)
    picture = "".join(bars[int(count) * (len(bars) - 1) // top] for count in found.counts)
    console.print(f"  values      mean {found.mean:.4g}, sigma {found.sigma:.4g}")
    levels = ", ".join(f"{p:g} %: {value:.4g}" for p, value in found.percentiles.items())
    console.print(f"  percentiles {levels}")
    console.print(f"  histogram   {picture}  from {found.edges[0]:.4g} to {found.edges[-1]:.4g}")


def _print_picks(console: Console, particles: Particles, fit: Fit) -> None:
    inside = "all inside" if fit.inside == 1 else f"{100 * fit.inside:.0f} % inside"
    console.print(f"  picks       {len(particles)}, {inside}")
    for axis, values in zip("xyz", particles.voxels.T[::-1], strict=True):
        console.print(f"  {axis}           {values.min():.1f} to {values.max():.1f}")
    console.print(f"  density     {fit.z:+.1f} standard errors: {_verdict(fit)}")


def _verdict(fit: Fit) -> str:
    kind = "bright" if fit.z > 0 else "dark"
    if fit.better is not None or fit.better_shift is not None:
        return "not where the density is"
    if abs(fit.z) >= 5:
        return f"the picks are on {kind} density"
    if abs(fit.z) >= 3:
        return f"the picks are on slightly {kind} density"
    return "no denser than beside them"


def _print_table(console: Console, found: Sequence[_Found], *, with_picks: bool) -> None:
    """Print a line for each tomogram, and below what is wrong."""
    header = ["tomogram", "x × y × z", "Å", "mean", "sigma", "wedge"]
    if with_picks:
        header += ["picks", "inside", "density"]
    rows = [header]
    for one in found:
        row = [one.name] + ["-"] * (len(header) - 1)
        if one.tomogram is not None:
            z, y, x = one.tomogram.shape
            row[1] = f"{x} × {y} × {z}"
            row[2] = "?" if one.voxel_size is None else f"{one.voxel_size:g}"
        if one.densities is not None:
            row[3:5] = [f"{one.densities.mean:.3g}", f"{one.densities.sigma:.3g}"]
        if one.wedge is not None:
            row[5] = f"along {one.wedge.beam}"
        if one.fit is not None and one.particles is not None:
            row[6:] = [
                str(len(one.particles)),
                f"{100 * one.fit.inside:.0f} %",
                f"{one.fit.z:+.1f}",
            ]
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        console.print("  ".join(cells).rstrip())
    sizes = {f"{one.voxel_size:.3g}" for one in found if one.voxel_size is not None}
    if len(sizes) > 1:
        console.print(f"Note: {len(sizes)} different voxel sizes; preset default rescales them.")
    for one in found:
        for warning in one.warnings:
            console.print(f"Warning: {one.name}: {warning}")
        for problem in one.problems:
            console.print(f"Problem: {one.name}: {problem}")


def _draw(one: _Found, file: Path, *, force: bool) -> None:
    from tomopicker.report import fit_figure, save_figure

    if one.tomogram is None or one.particles is None or one.fit is None:
        return
    save_figure(fit_figure(one.tomogram, one.particles, one.fit), file, force=force, dpi=150)
