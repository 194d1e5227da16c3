"""Draw how the picks' scores, depths and distances are distributed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tomopicker.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from tomopicker.calibrate import Count
    from tomopicker.io.record import RecordedHistogram
    from tomopicker.types import Floats

_FONT = 10
_BLUE, _ORANGE, _GREEN, _GREY = "#0072b2", "#d55e00", "#007a5a", "#9aa0a6"
_SIZE = (5.0, 3.1)


def score_figure(
    scores: Floats, *, threshold: float | None, histogram: RecordedHistogram | None = None
) -> Figure:
    """Draw the histogram of scores around the cut-off, and the fit of particles and other peaks.

    Parameters
    ----------
    scores
        (n,) of the picks and the peaks that follow them.
    threshold
        Score of the last pick; None where there is none.
    histogram
        Of all peaks, with the fit; None draws the given scores alone.

    Raises
    ------
    InputError
        When there are no scores.
    """
    if not len(scores):
        raise InputError("there are no scores to draw")
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    if histogram is None:
        count = int(np.clip(math.sqrt(len(scores)), 10, 60))
        edges = np.histogram_bin_edges(scores, bins=count)
        counts = np.histogram(scores, edges)[0].astype(np.float64)
    else:
        edges, counts, particles, others = _rebinned(histogram, float(scores.min()))
    kept = np.zeros(len(counts), bool) if threshold is None else edges[1:] > threshold
    axes.bar(
        edges[:-1][~kept],
        counts[~kept],
        np.diff(edges)[~kept],
        align="edge",
        color="#d3d7db",
        label="peaks below the cut-off",
    )
    axes.bar(
        edges[:-1][kept],
        counts[kept],
        np.diff(edges)[kept],
        align="edge",
        color="#8fc1e3",
        label="picked",
    )
    if histogram is not None:
        centres = (edges[:-1] + edges[1:]) / 2
        axes.plot(centres, particles + others, color="black", lw=1, label="fit: all")
        axes.plot(centres, particles, color=_BLUE, lw=1.8, label="fit: particles")
        axes.plot(centres, others, color=_ORANGE, lw=1.8, ls="--", label="fit: other peaks")
        # What is far below the cut-off would flatten all the rest.
        axes.set_ylim(0, 1.15 * max(counts[len(counts) // 6 :].max(initial=0), 1))
    if threshold is not None:
        axes.axvline(threshold, color="black", lw=1, ls=":", label=f"cut-off {threshold:.2f}")
    axes.set_xlim(edges[0], edges[-1])
    _finish(axes, "score", "peaks", legend=True)
    return figure


def depth_figure(z: Floats, slices: int) -> Figure:
    """Draw how many picks there are at each height of a tomogram.

    Parameters
    ----------
    z
        (n,) voxels.
    slices
        Of the tomogram.

    Raises
    ------
    InputError
        When there are no picks.
    """
    if not len(z):
        raise InputError("there are no picks to draw")
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    bins = int(np.clip(slices // 5, 5, 40))
    axes.hist(z, bins=bins, range=(-0.5, slices - 0.5), color=_BLUE)
    axes.set_xlim(-0.5, slices - 0.5)
    _finish(axes, "z (slice)", "picks")
    return figure


def neighbour_figure(distances: Floats, *, exclusion: float, diameter: float) -> Figure:
    """Draw how far each pick is from its nearest neighbour.

    Parameters
    ----------
    distances
        (n,) ångström.
    exclusion
        Least distance that two picks may have, ångström.
    diameter
        Of the particle, ångström.

    Raises
    ------
    InputError
        When there are no distances.
    """
    if not len(distances):
        raise InputError("there are no distances to draw")
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    # A pick far from all others would flatten the rest.
    last = max(float(np.percentile(distances, 98)), 2 * diameter)
    bins = int(np.clip(2 * math.sqrt(len(distances)), 12, 50))
    axes.hist(np.minimum(distances, last), bins=bins, range=(0, last), color=_BLUE)
    axes.axvline(exclusion, color=_ORANGE, lw=1.5, ls="--", label="least distance of peaks")
    axes.axvline(diameter, color="black", lw=1.2, ls=":", label="diameter of the particle")
    axes.set_xlim(0, last)
    _finish(axes, "distance to the nearest pick (Å)", "picks", legend=True)
    return figure


def numbers_figure(picks: Sequence[int], estimated: Sequence[Count | None]) -> Figure:
    """Draw the number of picks of each tomogram, and the estimated number with its interval.

    Parameters
    ----------
    picks
        (n,) in the order of the table.
    estimated
        (n,); None where the model was not calibrated.

    Raises
    ------
    InputError
        When there is no tomogram.
    """
    if not picks:
        raise InputError("there are no tomograms to draw")
    figure = Figure(figsize=(7.2, 2.8), layout="constrained")
    axes = figure.add_subplot()
    place = np.arange(1, len(picks) + 1)
    axes.bar(place, picks, 0.8, color="#8fc1e3", label="picks")
    known = [(at, one) for at, one in zip(place, estimated, strict=True) if one is not None]
    if known:
        middle = np.array([one.estimate for _, one in known])
        below = middle - [one.low for _, one in known]
        above = [one.high for _, one in known] - middle
        axes.errorbar(
            [at for at, _ in known],
            middle,
            yerr=np.array([below, above]),
            fmt="o",
            ms=3,
            color="black",
            lw=1,
            label="estimated number, 95 % interval",
        )
        # An interval that knows nothing reaches 50 times as far.
        axes.set_ylim(0, 1.1 * max(*picks, float(np.max(middle)) * 2, 1))
    axes.set_xlim(0.4, len(picks) + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _finish(axes, "tomogram (number in the table)", "particles", legend=True)
    return figure


def _rebinned(histogram: RecordedHistogram, lowest: float) -> tuple[Floats, Floats, Floats, Floats]:
    """Edges, peaks, fitted particles and fitted others, in at most 50 bins from `lowest` on."""
    edges = np.array(histogram.edges)
    first = max(int(np.searchsorted(edges, lowest)) - 1, 0)
    step = max(math.ceil((len(edges) - 1 - first) / 50), 1)
    starts = np.arange(first, len(edges) - 1, step)
    columns = [
        np.add.reduceat(np.array(values, dtype=np.float64), starts)
        for values in (histogram.counts, histogram.particles, histogram.others)
    ]
    return np.append(edges[starts], edges[-1]), columns[0], columns[1], columns[2]


def _finish(axes: Axes, x: str, y: str, *, legend: bool = False) -> None:
    axes.set_xlabel(x, fontsize=_FONT)
    axes.set_ylabel(y, fontsize=_FONT)
    axes.tick_params(labelsize=_FONT - 1, length=3)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))  # of peaks and picks, whole ones
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(fontsize=_FONT - 1, frameon=False)
