"""Draw how training went, how far the scores can be trusted and what a pick looks like."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.ticker import MaxNLocator
from scipy.ndimage import gaussian_filter

from tomopicker.errors import InputError
from tomopicker.report.slices import contrast_limits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure
    from numpy.typing import NDArray

    from tomopicker.types import Floats, Volume

_FONT = 8
_RATES = ("learning_rate", "lr")
_NOT_CURVES = ("epoch", "steps", "seconds", *_RATES)
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444")
_PICTURES_PER_ROW = 4
_GAP = 2  # voxels between the three sections of a pick


def training_figure(
    rows: Sequence[Mapping[str, object]], *, kept_epoch: int | None = None
) -> Figure:
    """Draw the losses, the validation measures and the learning rate of each epoch.

    Parameters
    ----------
    rows
        One mapping per epoch, as `csv.DictReader` gives them (numbers may be text). ``epoch`` and
        ``loss`` are needed. Names that contain "loss" or "risk" share the first panel,
        ``learning_rate`` or ``lr`` has its own, ``steps`` and ``seconds`` are not drawn, and
        every other column that holds a number is a validation measure. Empty cells are gaps.
    kept_epoch
        Marked as the epoch whose weights were kept.

    Raises
    ------
    InputError
        When there are no rows, or no ``epoch`` or ``loss``.
    """
    if not rows:
        raise InputError("the metrics hold no epoch; train for at least one")
    names = list(dict.fromkeys(name for row in rows for name in row))
    for needed in ("epoch", "loss"):
        if needed not in names:
            raise InputError(f"the metrics have no column '{needed}', only {', '.join(names)}")
    columns = {name: np.array([_number(row.get(name)) for row in rows]) for name in names}
    drawn = {name: values for name, values in columns.items() if np.isfinite(values).any()}
    curves = [name for name in drawn if name not in _NOT_CURVES]
    losses = [name for name in curves if "loss" in name or "risk" in name]
    measures = [name for name in curves if name not in losses]
    rates = [name for name in drawn if name in _RATES]

    panels = [("loss", losses), ("validation", measures), ("learning rate", rates)]
    panels = [(label, members) for label, members in panels if members]
    figure = Figure(figsize=(4.5, 1.8 * len(panels) + 0.4), layout="constrained")
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (label, members) in zip(grid, panels, strict=True):
        for name, colour in zip(members, _cycle(len(members)), strict=True):
            axes.plot(
                columns["epoch"],
                columns[name],
                color=colour,
                lw=1.3,
                marker="o",
                ms=2.5,
                label=name.replace("_", " "),
            )
        if kept_epoch is not None:
            axes.axvline(kept_epoch, color="0.4", lw=0.8, ls="--", label="kept")
        if label == "learning rate":
            axes.set_yscale("log")
        else:
            axes.legend(
                fontsize=_FONT - 1, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5)
            )
        axes.set_ylabel(label, fontsize=_FONT)
        _plain(axes)
    grid[-1].set_xlabel("epoch", fontsize=_FONT)
    grid[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def precision_recall_figure(
    precision: Floats, recall: Floats, *, average_precision: float, label: str = "picks"
) -> Figure:
    """Draw precision over recall, with the point of best F1 and lines of equal F1.

    Parameters
    ----------
    precision, recall
        (n,) from 0 to 1 after each pick, the highest score first, so that recall never falls.
        The step between two points has the later one's precision, which makes the area under
        the curve the average precision.
    average_precision
        For the legend.
    label
        What was picked.

    Raises
    ------
    InputError
        When the two differ in length or are empty.
    """
    if len(precision) != len(recall) or not len(precision):
        raise InputError(f"{len(precision)} values of precision for {len(recall)} of recall")
    figure = Figure(figsize=(3.6, 3.9), layout="constrained")
    axes = figure.add_subplot()
    for f1 in (0.2, 0.4, 0.6, 0.8):
        along = np.linspace(f1 / (2 - f1), 1, 100)
        across = f1 * along / (2 * along - f1)
        axes.plot(along, across, color="0.85", lw=0.8, zorder=1)
        axes.text(
            0.97,
            f1 * 0.97 / (2 * 0.97 - f1),
            f"F1 {f1:g}",
            color="0.5",
            fontsize=6,
            ha="right",
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
    axes.plot(
        np.concatenate([[0], recall]),
        np.concatenate([precision[:1], precision]),
        drawstyle="steps-pre",
        color=_COLOURS[0],
        lw=1.5,
        label=f"{label}, AP {average_precision:.3f}",
    )
    both = precision + recall
    f1s = np.divide(2 * precision * recall, both, out=np.zeros(len(both)), where=both > 0)
    best = int(np.argmax(f1s))
    axes.plot(
        recall[best],
        precision[best],
        "o",
        color=_COLOURS[1],
        ms=5,
        label=f"best F1 {f1s[best]:.3f} at {best + 1} picks",
    )
    axes.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal")
    axes.set_xlabel("recall", fontsize=_FONT)
    axes.set_ylabel("precision", fontsize=_FONT)
    figure.legend(loc="outside lower center", fontsize=_FONT, frameon=False, ncols=2)
    _plain(axes)
    return figure


def score_figure(scores: Floats, *, threshold: float | None = None) -> Figure:
    """Draw the histogram of the picks' scores and the cut-off.

    Parameters
    ----------
    scores
        (n,), higher is more certain.
    threshold
        Picks at or above it are kept; None draws no cut-off.

    Raises
    ------
    InputError
        When there are no scores.
    """
    if not len(scores):
        raise InputError("there are no scores to draw")
    figure = Figure(figsize=(4.5, 2.8), layout="constrained")
    axes = figure.add_subplot()
    count = int(np.clip(math.sqrt(len(scores)), 10, 80))
    edges = np.histogram_bin_edges(scores, bins=count).tolist()
    if threshold is None:
        axes.hist(scores, bins=edges, color=_COLOURS[0], label=f"{len(scores)} picks")
    else:
        kept = scores >= threshold
        # The bin that holds the cut-off shows both parts, one on the other.
        axes.hist(
            [scores[kept], scores[~kept]],
            bins=edges,
            stacked=True,
            color=[_COLOURS[0], "0.75"],
            label=[f"{kept.sum()} kept", f"{(~kept).sum()} below the cut-off"],
        )
        axes.axvline(threshold, color=_COLOURS[1], lw=1.2, label=f"cut-off {threshold:.3g}")
    axes.set_xlabel("score", fontsize=_FONT)
    axes.set_ylabel("picks", fontsize=_FONT)
    figure.legend(loc="outside lower center", ncols=3, fontsize=_FONT, frameon=False)
    _plain(axes)
    return figure


def contact_sheet(data: Volume, voxels: Floats, *, radius: float, rows: int = 6) -> Figure:
    """Draw the mean of all picks and, beside it, the first picks one by one.

    Each is shown as three sections through its centre: xy, xz and yz. The single picks are
    smoothed, for the eye; the mean is not. Nothing is rotated, so the mean of particles in all
    orientations is round but for the missing wedge, and fills the circle drawn.

    Parameters
    ----------
    data
        (z, y, x), possibly memory-mapped.
    voxels
        (n, 3) centres, ``z y x``, the best first; rounded here. What lies outside the volume
        is left blank, and out of the mean.
    radius
        Of a particle, voxels.
    rows
        Rows of four picks.

    Raises
    ------
    InputError
        When there are no picks.
    """
    if not len(voxels):
        raise InputError("there are no picks to draw")
    half = math.ceil(1.6 * radius)
    centres = np.rint(voxels).astype(np.int64)
    shown = centres[: rows * _PICTURES_PER_ROW]
    rows = math.ceil(len(shown) / _PICTURES_PER_ROW)

    figure = Figure(figsize=(8.4, max(0.68 * rows + 0.3, 4.2)), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 4.6), squeeze=False)[0]
    _draw_mean(left, _mean_cube(data, centres, half), radius=radius, count=len(centres))
    smooth = [_smooth(_cube(data, centre, half), radius / 6) for centre in shown]
    strips = _strips([_sections(cube) for cube in smooth])
    grid = right.subplots(rows, _PICTURES_PER_ROW, squeeze=False)
    for number, axes in enumerate(grid.flat):
        axes.set_axis_off()
        if number < len(strips):
            axes.imshow(strips[number], cmap="gray", vmin=0, vmax=1, origin="lower")
            axes.set_title(f"{number + 1}", fontsize=_FONT - 2, pad=1.5, loc="left")
    right.suptitle(f"the first {len(strips)} picks, smoothed: xy, xz, yz", fontsize=_FONT)
    return figure


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return math.nan  # an empty cell, or text


def _cycle(count: int) -> list[str]:
    return [_COLOURS[index % len(_COLOURS)] for index in range(count)]


def _plain(axes: Axes) -> None:
    axes.tick_params(which="both", labelsize=_FONT - 1)
    axes.tick_params(length=3)
    axes.spines[["top", "right"]].set_visible(False)


def _cube(data: Volume, centre: NDArray[np.int64], half: int) -> NDArray[np.float32]:
    """Cut a cube of side ``2 half + 1``, NaN outside the volume."""
    side = 2 * half + 1
    cube = np.full((side,) * 3, np.nan, dtype=np.float32)
    first = centre - half
    low = np.clip(first, 0, data.shape)
    high = np.clip(first + side, 0, data.shape)
    inside = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    place = tuple(slice(a, b) for a, b in zip(low - first, high - first, strict=True))
    cube[place] = data[inside]
    return cube


def _mean_cube(data: Volume, centres: NDArray[np.int64], half: int) -> Floats:
    total = np.zeros((2 * half + 1,) * 3)
    count = np.zeros(total.shape)
    for centre in centres:
        cube = _cube(data, centre, half)
        known = np.isfinite(cube)
        total[known] += cube[known]
        count += known
    mean: Floats = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return mean


def _smooth(cube: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Gaussian mean of the known voxels; the unknown stay so."""
    known = np.isfinite(cube)
    total = gaussian_filter(np.where(known, cube, 0), sigma)
    weight = gaussian_filter(known.astype(np.float32), sigma)
    mean: NDArray[np.float32] = np.divide(
        total, weight, out=np.full_like(cube, np.nan), where=known
    )
    return mean


def _sections(cube: NDArray[np.floating]) -> list[NDArray[np.floating]]:
    """Cut through the centre: xy, xz, yz."""
    half = len(cube) // 2
    return [cube[half], cube[:, half], cube[:, :, half]]


def _strips(picks: list[list[NDArray[np.floating]]]) -> list[NDArray[np.floating]]:
    """Lay the sections of each pick side by side, from 0 (black) to 1 (white)."""
    scaled = []
    # The wedge takes contrast from xz and yz: each plane has limits of its own, for all picks.
    for plane in zip(*picks, strict=True):
        low, high = contrast_limits(np.stack(plane))
        scaled.append([(section - low) / max(high - low, 1e-12) for section in plane])
    gap = np.full((len(picks[0][0]), _GAP), np.nan)
    return [np.hstack([xy, gap, xz, gap, yz]) for xy, xz, yz in zip(*scaled, strict=True)]


def _draw_mean(figure: SubFigure, cube: Floats, *, radius: float, count: int) -> None:
    sections = _sections(cube)
    low, high = contrast_limits(np.stack(sections))
    grid = figure.subplots(3, 1)
    for axes, section, plane in zip(grid, sections, ("xy", "xz", "yz"), strict=True):
        axes.imshow(section, cmap="gray", vmin=low, vmax=high, origin="lower")
        half = len(section) // 2
        axes.add_patch(Circle((half, half), radius, fill=False, ec=_COLOURS[5], lw=0.8, ls="--"))
        axes.set_ylabel(plane, fontsize=_FONT)
        axes.set(xticks=[], yticks=[])
    figure.suptitle(f"mean of {count} picks", fontsize=_FONT)
