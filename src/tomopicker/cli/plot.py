"""Draw a slice of a tomogram with its picks: ``tomopicker plot``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tomopicker.cli.units import parse_length
from tomopicker.errors import InputError

if TYPE_CHECKING:
    from tomopicker.types import Floats, Tomogram


def plot(
    tomogram: Annotated[Path, typer.Argument(help="The tomogram to draw.")],
    picks: Annotated[
        list[Path], typer.Option(help="A file of picks; repeat for more, one colour each.")
    ],
    radius: Annotated[str, typer.Option(help="Of the particle, such as 160A or 12vx.")],
    out: Annotated[Path, typer.Option(help="The picture: .png, .pdf or .svg.")],
    name: Annotated[
        list[str] | None,
        typer.Option(help="What the legend calls a file of picks; repeat, in the same order."),
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="A file of known particles, drawn in blue below the picks.")
    ] = None,
    slice_index: Annotated[
        int | None,
        typer.Option("--slice", help="From 0; the slice with most particles when not given."),
    ] = None,
    axis: Annotated[
        Literal["z", "y", "x"], typer.Option(help="The slice is perpendicular to it.")
    ] = "z",
    thickness: Annotated[int, typer.Option(min=1, help="Neighbouring slices to average.")] = 5,
    smoothing: Annotated[
        float, typer.Option(min=0, help="Sigma of a Gaussian over the picture, voxels; 0 is none.")
    ] = 1.5,
    voxel_size: Annotated[
        float | None, typer.Option(help="Ångström, where the tomogram's header does not tell it.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the picture.")] = False,
) -> None:
    """Draw a slice with a box around each particle whose centre is within a radius of it."""
    from tomopicker.io.tomograms import read_tomogram
    from tomopicker.report import (
        TRUTH_COLOUR,
        PickList,
        check_writable,
        densest_slice,
        save_figure,
        slice_figure,
    )

    check_writable(out, force=force)
    length = parse_length(radius)
    names = [path.stem for path in picks] if name is None else name
    if len(names) != len(picks):
        raise InputError(
            f"{len(names)} --name for {len(picks)} --picks; give one for each, or none"
        )

    volume = read_tomogram(tomogram, voxel_size=voxel_size)
    lists = [
        PickList(name=label, voxels=_read_voxels(path, volume))
        for label, path in zip(names, picks, strict=True)
    ]
    if truth is not None:
        known = PickList(
            name="ground truth", voxels=_read_voxels(truth, volume), colour=TRUTH_COLOUR
        )
        lists.insert(0, known)
    voxels = length.voxels(volume.voxel_size)
    if slice_index is None:
        slice_index = densest_slice(volume.shape, lists, radius=voxels, axis=axis)
    figure = slice_figure(
        volume.data,
        lists,
        radius=voxels,
        voxel_size=volume.voxel_size,
        slice_index=slice_index,
        axis=axis,
        thickness=thickness,
        smoothing=smoothing,
        title=volume.name,
    )
    save_figure(figure, out, force=force)
    counts = ", ".join(
        f"{len(one.near(slice_index, radius=voxels, axis=axis))} of {len(one.voxels)} {one.name}"
        for one in lists
    )
    typer.echo(f"{out}: {axis} = {slice_index}, {counts}")


def _read_voxels(path: Path, volume: Tomogram) -> Floats:
    """Read the (n, 3) ``z y x`` particles of this tomogram, in its voxels."""
    from tomopicker.io.particles import check_inside, read_picks_for

    (particles,) = read_picks_for(path, [volume], skip_unmatched=True)
    check_inside(particles, volume.shape, path)
    return particles.voxels
