"""Draw one slice of a tomogram with a box around each particle near it; paper figures 2 to 4."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from scipy.ndimage import gaussian_filter

from tomopicker.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from tomopicker.types import Floats, Shape, Volume

SliceAxis: TypeAlias = Literal["z", "y", "x"]
"""The axis that a slice is perpendicular to."""

TRUTH_COLOUR = "#2f80ff"
"""Blue, as in the paper's figures."""

PICK_COLOURS = ("#00d65b", "#ff5533", "#ffd92f", "#f080ff", "#30e0ff")
"""Green, red and yellow as in the paper, then pink and cyan; their lightness differs as well."""

_AXES = "zyx"
_LONG_SIDE = 6.3  # inches: the page width that journals give to a figure, less the labels
_FONT = 8  # points


@dataclass(frozen=True, kw_only=True)
class PickList:
    """Particles to draw in one colour."""

    name: str
    """As the legend says it."""
    voxels: Floats
    """(n, 3) centres, ``z y x``, voxels."""
    colour: str | None = None
    """Any matplotlib colour; None takes the next of `PICK_COLOURS`."""

    def near(self, slice_index: int, *, radius: float, axis: SliceAxis = "z") -> Floats:
        """Centres (m, 3) at most `radius` voxels from a slice.

        >>> picks = PickList(name="picks", voxels=np.array([[1.0, 5, 5], [4.0, 5, 5]]))
        >>> picks.near(3, radius=1.5)
        array([[4., 5., 5.]])
        """
        distance = np.abs(self.voxels[:, _AXES.index(axis)] - slice_index)
        near: Floats = self.voxels[distance <= radius]
        return near


def slice_figure(
    tomogram_data: Volume,
    lists: Sequence[PickList],
    *,
    radius: float,
    voxel_size: float,
    slice_index: int | None = None,
    axis: SliceAxis = "z",
    thickness: int = 1,
    smoothing: float = 0.0,
    title: str | None = None,
) -> Figure:
    """Draw a slice with a box of side ``2 radius`` around each particle within ``radius`` of it.

    The lists are drawn in their order, each with a thinner line than the one before, so that
    boxes at the same place are all seen.

    Parameters
    ----------
    tomogram_data
        (z, y, x), possibly memory-mapped: only the slice is read.
    lists
        What to draw; the first one lies lowest.
    radius
        Of a particle, voxels.
    voxel_size
        Ångström, for the scale bar.
    slice_index
        From 0, along `axis`; None takes the slice with most particles.
    axis
        The slice is perpendicular to it; the picture's vertical axis is the earlier of the other
        two in ``z y x`` and points up.
    thickness
        Neighbouring slices to average, centred on the slice and cut at the volume's faces.
    smoothing
        Sigma in voxels of a Gaussian over the picture; 0 shows the slice as it is.
    title
        Above the picture, before the slice's number and what was averaged.

    Raises
    ------
    InputError
        When the slice lies outside the volume, `radius`, `voxel_size` or `thickness` is not
        positive, or there are more lists without a colour than colours.
    """
    for name, value in (("radius", radius), ("voxel size", voxel_size), ("thickness", thickness)):
        if not 0 < value < math.inf:
            raise InputError(f"the {name} must be positive, got {value}")
    colours = _colours(lists)
    shape: Shape = tomogram_data.shape
    if slice_index is None:
        slice_index = densest_slice(shape, lists, radius=radius, axis=axis)
    picture = slice_mean(
        tomogram_data, slice_index, axis=axis, thickness=thickness, smoothing=smoothing
    )
    rows, columns = picture.shape

    inches = min(_LONG_SIDE / columns, _LONG_SIDE / rows)  # of one voxel
    figure = Figure(figsize=(columns * inches + 0.8, rows * inches + 1.2), layout="constrained")
    axes = figure.add_subplot()
    low, high = contrast_limits(picture)
    axes.imshow(picture, cmap="gray", vmin=low, vmax=high, origin="lower")

    # A line of a sixteenth of the box neither hides the particle nor is lost on a large slice.
    base = float(np.clip(2 * radius * inches * 72 / 16, 0.5, 1.0))
    vertical, horizontal = (index for index in range(3) if _AXES[index] != axis)
    handles = []
    for order, (picks, colour) in enumerate(zip(lists, colours, strict=True)):
        width = base * (1 + 0.7 * (len(lists) - 1 - order))
        near = picks.near(slice_index, radius=radius, axis=axis)
        for centre in near:
            corner = (centre[horizontal] - radius, centre[vertical] - radius)
            axes.add_patch(
                Rectangle(corner, 2 * radius, 2 * radius, fill=False, ec=colour, lw=width)
            )
        label = f"{picks.name} ({len(near)} in this slice)"
        handles.append(Line2D([], [], ls="", marker="s", ms=8, mfc="none", mec=colour, label=label))
        handles[-1].set_markeredgewidth(min(width + 0.3, 2))
    _scale_bar(axes, picture.shape, voxel_size=voxel_size)
    _label(axes, axis, picture.shape)
    axes.set_title(
        ", ".join(_caption(title, axis, slice_index, thickness=thickness, smoothing=smoothing)),
        fontsize=_FONT,
    )
    if handles:
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=_legend_columns(handles, figure.get_figwidth()),
            frameon=False,
            fontsize=_FONT,
        )
    return figure


def densest_slice(
    shape: Shape, lists: Sequence[PickList], *, radius: float, axis: SliceAxis = "z"
) -> int:
    """Find the slice with most particles of all lists within `radius` voxels.

    Of equals the one nearest to the centres of its particles, and of such the one nearest the
    middle of the volume, which is the answer also when there are no particles.

    >>> picks = PickList(name="picks", voxels=np.array([[3.0, 5, 5]]))
    >>> densest_slice((20, 8, 8), [picks], radius=2)
    3
    """
    size = shape[_AXES.index(axis)]
    centres = np.concatenate([np.empty(0), *(one.voxels[:, _AXES.index(axis)] for one in lists)])

    def rank(index: int) -> tuple[int, float, float]:
        distances = np.abs(centres - index)
        near = distances[distances <= radius]
        return -len(near), float(near.sum()), abs(index - size // 2)

    return min(range(size), key=rank)


def slice_mean(
    tomogram_data: Volume,
    slice_index: int,
    *,
    axis: SliceAxis = "z",
    thickness: int = 1,
    smoothing: float = 0.0,
) -> NDArray[np.float32]:
    """Average neighbouring slices of a (z, y, x) volume into a picture.

    Returns
    -------
    (rows, columns) float32, the two axes other than `axis` in their order.

    Raises
    ------
    InputError
        When the slice lies outside the volume.
    """
    along = _AXES.index(axis)
    size = tomogram_data.shape[along]
    if not 0 <= slice_index < size:
        raise InputError(
            f"slice {slice_index} lies outside the tomogram; {axis} runs from 0 to {size - 1}"
        )
    first = slice_index - thickness // 2
    window = [slice(None)] * 3
    window[along] = slice(max(first, 0), first + thickness)
    picture = np.mean(tomogram_data[tuple(window)], axis=along, dtype=np.float32)
    known = np.isfinite(picture)
    if smoothing and not known.all():
        # Or the filter would spread each of them over its whole width.
        picture = np.where(known, picture, picture.mean(where=known) if known.any() else 0)
    if smoothing:
        picture = gaussian_filter(picture, smoothing)
    return np.asarray(picture, dtype=np.float32)


def contrast_limits(picture: NDArray[np.floating]) -> tuple[float, float]:
    """Grey values for black and white that a few extreme voxels, such as gold, cannot move."""
    finite = picture[np.isfinite(picture)]
    if not finite.size:
        return 0.0, 1.0
    low, high = np.percentile(finite, (0.3, 99.7))
    return float(low), float(high)


def bar_length(width: float) -> float:
    """Longest of 1, 2, 5, 10, 20, 50, ... that fits a quarter of `width`.

    >>> bar_length(652.0), bar_length(4000.0)
    (100.0, 1000.0)
    """
    power = 10.0 ** math.floor(math.log10(width / 4))
    return max(step * power for step in (1, 2, 5) if step * power <= width / 4)


def _colours(lists: Sequence[PickList]) -> list[str]:
    free = [colour for colour in PICK_COLOURS if colour not in {picks.colour for picks in lists}]
    wanted = sum(picks.colour is None for picks in lists)
    if wanted > len(free):
        raise InputError(f"{wanted} lists to draw, but only {len(free)} colours; draw fewer lists")
    following = iter(free)
    return [next(following) if picks.colour is None else picks.colour for picks in lists]


def _legend_columns(handles: Sequence[Line2D], inches: float) -> int:
    letters = 5 + max(len(str(handle.get_label())) for handle in handles)  # 5 for the square
    fit = int(inches * 72 / (letters * _FONT * 0.55))  # a letter is 0.55 of its height wide
    return max(1, min(fit, len(handles)))


def _caption(
    title: str | None, axis: SliceAxis, slice_index: int, *, thickness: int, smoothing: float
) -> list[str]:
    parts = [title] if title else []
    parts.append(f"{axis} = {slice_index}")
    if thickness > 1:
        parts.append(f"mean of {thickness} slices")
    if smoothing:
        parts.append(f"smoothed with sigma {smoothing:.2g} voxels")
    return parts


def _label(axes: Axes, axis: SliceAxis, shape: tuple[int, ...]) -> None:
    vertical, horizontal = (name for name in _AXES if name != axis)
    axes.set_xlabel(f"{horizontal} (voxels)", fontsize=_FONT)
    axes.set_ylabel(f"{vertical} (voxels)", fontsize=_FONT)
    axes.tick_params(labelsize=_FONT - 1, direction="out", length=3)
    # A box at the rim must not widen the picture.
    axes.set_xlim(-0.5, shape[1] - 0.5)
    axes.set_ylim(-0.5, shape[0] - 0.5)


def _scale_bar(axes: Axes, shape: tuple[int, ...], *, voxel_size: float) -> None:
    """Draw a white bar with a dark rim, readable on any grey, in the lower right corner."""
    rows, columns = shape
    nanometres = bar_length(columns * voxel_size / 10)
    right = columns * 0.97
    left = right - nanometres * 10 / voxel_size
    height = rows * 0.04
    axes.plot(
        [left, right],
        [height, height],
        color="white",
        lw=2.5,
        solid_capstyle="butt",
        path_effects=[withStroke(linewidth=4, foreground="black")],
        zorder=5,
    )
    axes.annotate(
        f"{nanometres:g} nm",
        ((left + right) / 2, height),
        xytext=(0, 4),
        textcoords="offset points",
        ha="center",
        va="bottom",
        color="white",
        fontsize=_FONT,
        fontweight="bold",
        path_effects=[withStroke(linewidth=2, foreground="black")],
        zorder=5,
    )
