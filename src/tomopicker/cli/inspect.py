"""Say what a tomogram is, and whether picks sit on it: ``tomopicker inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tomopicker.errors import InputError, UnknownVoxelSizeError

if TYPE_CHECKING:
    from rich.console import Console

    from tomopicker.inspect import Densities
    from tomopicker.types import Particles, Tomogram

_RADIUS_ANGSTROM = 100.0
_RADIUS_VOXELS = 8.0
"""Of the balls whose density is compared; about a ribosome's, known voxel size or not."""


def inspect(
    file: Annotated[Path, typer.Argument(help="The tomogram (MRC: .mrc, .rec, .map, .st).")],
    picks: Annotated[
        Path | None,
        typer.Option(help="Picks in it (CSV, RELION STAR, .coords): are they on density?"),
    ] = None,
    voxel_size: Annotated[
        float | None, typer.Option(help="Ångström, where the header does not tell it.")
    ] = None,
) -> None:
    """Say what a tomogram is: its shape, voxel size, thickness and values; and how picks fit it."""
    from rich.console import Console

    from tomopicker.inspect import densities
    from tomopicker.io.tomograms import read_tomogram

    console = Console(highlight=False, soft_wrap=True, markup=False)
    unknown = None
    try:
        tomogram = read_tomogram(file, voxel_size=voxel_size)
    except UnknownVoxelSizeError as error:
        # Everything but lengths can still be told in voxels.
        unknown = error
        tomogram = read_tomogram(file, voxel_size=1.0)
    _print_volume(console, tomogram, unknown)
    try:
        found = densities(tomogram.data)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    _print_densities(console, found)
    if picks is not None:
        _print_picks(console, tomogram, _read_picks(picks, tomogram, unknown), picks, unknown)


def _read_picks(path: Path, tomogram: Tomogram, unknown: UnknownVoxelSizeError | None) -> Particles:
    from tomopicker.io.particles import FORMATS, check_inside, read_picks_for, recognise

    if unknown is not None and not FORMATS[recognise(path)].in_voxels:
        raise unknown
    (particles,) = read_picks_for(path, [tomogram], skip_unmatched=True)
    check_inside(particles, tomogram.shape, path)
    return particles


def _print_volume(
    console: Console, tomogram: Tomogram, unknown: UnknownVoxelSizeError | None
) -> None:
    from tomopicker.io.tomograms import thickness_axis

    z, y, x = tomogram.shape
    thin = thickness_axis(tomogram.shape)
    console.print(f"{tomogram.path}")
    console.print(f"  shape       {x} × {y} × {z} voxels (x × y × z), {tomogram.data.dtype}")
    if unknown is not None:
        console.print(f"  voxel size  unknown: {unknown}")
    else:
        sides = " × ".join(f"{side * tomogram.voxel_size / 10:.0f}" for side in (x, y, z))
        console.print(f"  voxel size  {tomogram.voxel_size:g} Å, so {sides} nm")
    console.print(f"  thinnest    along {thin}")
    if thin != "z":
        console.print(
            f"  Warning: a tomogram is thin along z, this one along {thin}: it was probably not "
            "rotated after reconstruction (IMOD: trimvol -rx)."
        )


def _print_densities(console: Console, found: Densities) -> None:
    bars = "▁▂▃▄▅▆▇█"
    top = max(int(found.counts.max()), 1)
    picture = "".join(bars[int(count) * (len(bars) - 1) // top] for count in found.counts)
    console.print(f"  values      mean {found.mean:.4g}, sigma {found.sigma:.4g}")
    levels = ", ".join(f"{p:g} %: {value:.4g}" for p, value in found.percentiles.items())
    console.print(f"  percentiles {levels}")
    console.print(f"  histogram   {picture}  from {found.edges[0]:.4g} to {found.edges[-1]:.4g}")
    if found.sigma == 0:
        console.print("  Warning: every value is the same; there is nothing to pick.")
    if found.finite < 1:
        console.print(f"  Warning: {100 * (1 - found.finite):.2g} % of the voxels are not numbers.")


def _print_picks(
    console: Console,
    tomogram: Tomogram,
    particles: Particles,
    path: Path,
    unknown: UnknownVoxelSizeError | None,
) -> None:
    import numpy as np

    from tomopicker.inspect import fit_of_picks

    radius = _RADIUS_VOXELS if unknown is not None else _RADIUS_ANGSTROM / tomogram.voxel_size
    fit = fit_of_picks(tomogram, particles, radius, rng=np.random.default_rng(0))
    console.print(f"{path}")
    console.print(f"  picks       {len(particles)}, all inside")
    for axis, values in zip("xyz", particles.voxels.T[::-1], strict=True):
        console.print(f"  {axis}           {values.min():.1f} to {values.max():.1f}")
    kind = "bright" if fit.z > 0 else "dark"
    if abs(fit.z) >= 5:
        verdict = f"the picks are on {kind} density"
    elif abs(fit.z) >= 3:
        verdict = f"the picks are on slightly {kind} density"
    else:
        verdict = "no denser than beside them: is this the tomogram that they were picked in?"
    console.print(f"  density     {fit.z:+.1f} standard errors: {verdict}")
    if fit.better_order is not None:
        console.print(
            f"  Warning: read as {','.join(fit.better_order)} the picks fit the density far better "
            f"({fit.orders[fit.better_order]:+.1f}): swap the columns."
        )
