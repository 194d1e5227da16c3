"""Draw how training went, and how precise the picks are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tomopicker.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from tomopicker.types import Floats

_FONT = 8
_RATES = ("learning_rate", "lr")
_NOT_CURVES = ("epoch", "steps", "seconds", *_RATES)
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444")


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
