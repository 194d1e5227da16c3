"""Draw whether picks sit on density: where they are, what is there on average, other readings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from tomopicker.fit import Reading, mean_subvolume
from tomopicker.report.slices import (
    PICK_COLOURS,
    PickList,
    contrast_limits,
    densest_slice,
    slice_mean,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure
    from numpy.typing import NDArray

    from tomopicker.fit import Fit
    from tomopicker.types import Floats, Particles, Tomogram

_FONT = 8
_MOST_BARS = 8


def fit_figure(tomogram: Tomogram, particles: Particles, fit: Fit) -> Figure:
    """Draw the picks as their file has them and, where it fits far better, in another way.

    For each: the slice with most picks, and the mean of the volume around all of them in three
    sections, where a particle is a spot in the middle. Below, how well the best readings fit.

    Parameters
    ----------
    tomogram
        Only boxes and a few slices of it are read.
    particles
        Of it, inside or not.
    fit
        What `fit_of_picks` found.
    """
    rows = [("as the file has them", fit.z, particles.voxels)]
    if fit.better is not None:
        places = fit.better.places(particles.voxels, tomogram.shape)
        rows.append((str(fit.better), fit.readings[fit.better], places))
    elif fit.better_shift is not None:
        shift = ", ".join(f"{value:+.0f}" for value in fit.better_shift[::-1])
        rows.append(
            (f"shifted by {shift} (x, y, z)", fit.shift_z, particles.voxels + fit.better_shift)
        )
    # The slice is 3.4 inches wide; its sections, 1.6 inches square, must fit as well.
    height = 1.1 + float(np.clip(3.4 * tomogram.shape[1] / tomogram.shape[2], 1.6, 4.0))
    heights = [height] * len(rows) + [2.4]
    figure = Figure(figsize=(9, sum(heights)), layout="constrained")
    grid = figure.subfigures(len(rows) + 1, 1, height_ratios=heights, squeeze=False)
    parts = list(grid[:, 0])
    colours = (PICK_COLOURS[1 if len(rows) > 1 else 0], PICK_COLOURS[0])
    for part, (title, z, places), colour in zip(parts, rows, colours, strict=False):
        part.suptitle(
            f"{tomogram.name}, picks {title}: {z:+.1f} standard errors", fontsize=_FONT + 1
        )
        _draw_picks(part, tomogram, places, fit.radius, colour)
    _draw_bars(parts[-1].subplots(), fit)
    return figure


def _draw_picks(
    part: SubFigure, tomogram: Tomogram, places: Floats, radius: float, colour: str
) -> None:
    slice_axes, *section_axes = part.subplots(1, 4, width_ratios=[2.2, 1, 1, 1])
    inside = ((places >= -0.5) & (places <= np.array(tomogram.shape) - 0.5)).all(axis=1)
    picks = PickList(name="picks", voxels=places[inside])
    index = densest_slice(tomogram.shape, [picks], radius=radius)
    picture = slice_mean(
        tomogram.data, index, thickness=max(round(0.7 * radius), 1), smoothing=radius / 7
    )
    low, high = contrast_limits(picture)
    slice_axes.imshow(picture, cmap="gray", vmin=low, vmax=high, origin="lower")
    near = picks.near(index, radius=radius)
    for _, y, x in near:
        slice_axes.add_patch(Circle((x, y), radius, fill=False, ec=colour, lw=0.8))
    _label(slice_axes, "x", "y", f"z = {index}: {len(near)} of {len(places)} picks")
    reach = max(2, round(2 * radius))
    mean = mean_subvolume(tomogram.data, picks.voxels, reach)
    for axes, name in zip(section_axes, ("z", "y", "x"), strict=True):
        thick = range(reach - round(radius / 6), reach + round(radius / 6) + 1)
        section = np.take(mean, thick, axis="zyx".index(name)).mean(axis="zyx".index(name))
        vertical, horizontal = (axis for axis in "zyx" if axis != name)
        _draw_section(axes, section, reach)
        axes.add_patch(Circle((0, 0), radius, fill=False, ec=colour, lw=0.8, ls="--"))
        _label(axes, horizontal, vertical, f"mean of the picks, {horizontal}{vertical}")


def _draw_section(axes: Axes, section: NDArray[np.float32], reach: int) -> None:
    edge = reach + 0.5
    low, high = contrast_limits(section)
    axes.imshow(
        section, cmap="gray", vmin=low, vmax=high, origin="lower", extent=(-edge, edge, -edge, edge)
    )


def _draw_bars(axes: Axes, fit: Fit) -> None:
    """Show the best readings beside the file's own; the dashed line is where one would count."""
    best = sorted(fit.readings, key=lambda reading: -abs(fit.readings[reading]))[:_MOST_BARS]
    scores = {str(Reading()): fit.z} | {str(reading): fit.readings[reading] for reading in best}
    if fit.better_shift is not None:
        scores["shifted"] = fit.shift_z
    names = list(scores)
    colours = [PICK_COLOURS[0]] + ["0.6"] * (len(names) - 1)
    axes.barh(names, [abs(score) for score in scores.values()], color=colours)
    axes.invert_yaxis()
    axes.axvline(fit.convincing, color="0.3", ls="--", lw=0.8)
    axes.set_xlabel("standard errors; beyond the dashed line it fits better", fontsize=_FONT)
    axes.set_title("Contrast at the picks, read in other ways", fontsize=_FONT, loc="left")
    axes.tick_params(labelsize=_FONT - 1)
    axes.spines[["top", "right"]].set_visible(False)


def _label(axes: Axes, horizontal: str, vertical: str, title: str) -> None:
    axes.set_title(title, fontsize=_FONT)
    axes.set_xlabel(f"{horizontal} (voxels)", fontsize=_FONT)
    axes.set_ylabel(f"{vertical} (voxels)", fontsize=_FONT)
    axes.tick_params(labelsize=_FONT - 1, length=3)
