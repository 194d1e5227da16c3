"""The report of a run: one HTML page with all that helps to judge the picks of some tomograms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from tomopicker import __version__
from tomopicker.config import preset
from tomopicker.report.concerns import Findings, concerns, percent
from tomopicker.report.cubes import (
    HALF_RADII,
    cut_cube,
    mean_cube,
    random_places,
    smooth,
    textures,
)
from tomopicker.report.curves import training_figure
from tomopicker.report.distributions import (
    depth_figure,
    neighbour_figure,
    numbers_figure,
    score_figure,
)
from tomopicker.report.pictures import (
    Greys,
    Picture,
    drawing,
    photograph,
    strip,
    strip_middles,
)
from tomopicker.report.slices import bar_length, contrast_limits, slice_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tomopicker.calibrate import Count
    from tomopicker.checkpoint import Description
    from tomopicker.config import Config
    from tomopicker.io.candidates import Candidates
    from tomopicker.io.record import Record
    from tomopicker.types import Floats, Tomogram

MOST_SHOWN = 12
"""Tomograms with pictures; of more, those with most to look at."""

_SLICE_BYTES = 6_000_000
"""Of the slices of all tomograms, as text."""

_SLICES = 24
_LONGEST = 640
_SHEET_SIDE, _MEAN_SIDE = 72, 150
_PER_SHEET = 8
_SAMPLE = 200
_MOST_COMMANDS = 8

# Picks in a mean, and voxels of all their cubes: what a large particle in fine voxels can take.
_MOST_AVERAGED = 2000
_AVERAGED_VOXELS = 400_000_000


@dataclass(frozen=True, kw_only=True)
class Reported:
    """A tomogram with what was picked in it."""

    open: Callable[[], Tomogram]
    """Opens the tomogram, which is closed again when it has been looked at: there may be many."""
    candidates: Candidates
    record: Record
    clicks: Floats | None = None
    """(k, 3) ``z y x`` voxels of the clicked particles; None where they are not known."""
    listed: int | None = None
    """Picks in its list as it is now."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a run folder tells besides its checkpoint."""

    folder: str
    commands: Sequence[str] = ()
    """That trained it, the first and those that resumed it."""
    clicks: int | None = None
    """Clicked particles in all; None where they are not known."""


def render_report(
    description: Description,
    run: RunFacts,
    reported: Sequence[Reported],
    *,
    progress: Callable[[float], None] = lambda _: None,
) -> str:
    """Write the page; it needs no other file and no network.

    Every tomogram has its row in the table. At most `MOST_SHOWN` have pictures: those with most
    concerns, in the order given, so that the page is never larger than 15 MB.

    Parameters
    ----------
    description
        Of the checkpoint that picked.
    reported
        The tomograms, at least one; their volumes may be memory-mapped.
    progress
        Hears the share of the work that is done.
    """
    measured = []
    for number, one in enumerate(reported):
        measured.append(_measure(one, description))
        progress(0.4 * (number + 1) / len(reported))
    doubts = [concerns(findings) for findings in measured]
    # A stable sort: of equals those that were given first.
    order = sorted(range(len(reported)), key=lambda number: -len(doubts[number]))
    shown = sorted(order[:MOST_SHOWN])
    sections = []
    for done, number in enumerate(shown, start=1):
        sections.append(
            _section(number + 1, reported[number], measured[number], doubts[number], len(shown))
        )
        progress(0.4 + 0.6 * done / len(shown))
    commands = list(dict.fromkeys([*run.commands, *(one.record.command for one in reported)]))
    environment = Environment(
        loader=PackageLoader("tomopicker.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        version=__version__,
        run=run,
        total=sum(len(findings.voxels) for findings in measured),
        facts=_facts(description, run, reported),
        changed=_changed(description.config, description.voxel_size),
        calibration=description.calibration,
        commands=commands[:_MOST_COMMANDS],
        more_commands=max(len(commands) - _MOST_COMMANDS, 0),
        rows=[
            _row(number, findings, doubt, number - 1 in shown)
            for number, (findings, doubt) in enumerate(zip(measured, doubts, strict=True), start=1)
        ],
        rates=list(dict.fromkeys(rate for one in reported for rate in one.record.lengths)),
        sections=sections,
        numbers=_numbers(measured) if len(reported) > 1 else None,
        history=description.history,
        curves=_curves(description),
    )


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A line of the table of tomograms."""

    number: int
    name: str
    picks: int
    estimated: Count | None
    false_share: float | None
    lengths: dict[str, int]
    neighbour: float | None
    """Median distance to the nearest neighbour, ångström."""
    concerns: int
    shown: bool


@dataclass(frozen=True, kw_only=True)
class _Pick:
    """A pick in a contact sheet."""

    picture: Picture
    rank: int
    score: float
    probability: float | None
    x: float
    y: float
    z: float


@dataclass(frozen=True, kw_only=True)
class _Sheet:
    title: str
    about: str
    picks: list[_Pick]


@dataclass(frozen=True, kw_only=True)
class _Mean:
    title: str
    picture: Picture
    middles: tuple[float, ...]
    radius: float
    """Of the particle, pixels."""


@dataclass(frozen=True, kw_only=True)
class _Slice:
    picture: Picture
    z: int
    corners: list[tuple[float, float]]
    """Upper left corners of the boxes, pixels."""
    side: float
    """Of a box, pixels."""
    bar: float
    """Of the scale bar, pixels."""


@dataclass(frozen=True, kw_only=True)
class _Section:
    """What is shown of one tomogram."""

    number: int
    name: str
    facts: dict[str, str]
    concerns: list[str]
    scores: Picture | None
    depths: Picture | None
    neighbours: Picture | None
    means: list[_Mean]
    sheets: list[_Sheet]
    slices: list[_Slice]
    bar_nanometres: float
    thickness: int
    """Slices that each one shown is the mean of."""


def _measure(one: Reported, description: Description) -> Findings:
    """Measure the picks of a tomogram; reads little of it."""
    config, record, data = description.config, one.record, one.open().data
    radius = config.radius_angstrom / one.record.voxel_size
    # Of a whole number of the voxels that it was scored at.
    scored = description.radius_voxels * record.scored_voxel_size / one.record.voxel_size
    picks = one.candidates.picks
    some = picks.voxels[_evenly(len(picks), _SAMPLE)]
    margin = config.peaks.margin * scored
    places = random_places(one.record.shape, _SAMPLE, margin=margin, rng=np.random.default_rng(0))
    calibration, profile = description.calibration, description.filter_profile
    trained = None
    if profile is not None:
        core = max(round(0.7 * description.radius_voxels), 1)
        trained = float(np.mean(profile[:core]) - profile[-1])
    return Findings(
        record=record,
        voxels=picks.voxels,
        radius=radius,
        exclusion=config.peaks.spacing(scored),
        margin=margin,
        scores=np.empty(0) if picks.scores is None else picks.scores,
        probabilities=picks.probabilities,
        contrasts=mean_cube(data, some, radius=radius).contrasts,
        random_contrasts=mean_cube(data, places, radius=radius).contrasts,
        textures=textures(data, some, radius=radius),
        random_textures=textures(data, places, radius=radius),
        trained_scores=np.array(() if calibration is None else calibration.raw_scores),
        trained_contrast=trained,
        clicks=one.clicks,
        listed=one.listed,
    )


def _section(
    number: int, one: Reported, findings: Findings, doubts: list[str], shown: int
) -> _Section:
    """Draw one of `shown` tomograms."""
    return _Section(
        number=number,
        name=one.record.tomogram,
        facts=_facts_of(findings),
        concerns=doubts,
        scores=_score_picture(one),
        depths=_depth_picture(one, findings),
        neighbours=_neighbour_picture(one, findings),
        means=_means(one, findings),
        sheets=_sheets(one, findings),
        slices=_slices(one, findings, shown),
        bar_nanometres=_bar(one.record),
        thickness=_thickness(findings),
    )


def _depth_picture(one: Reported, findings: Findings) -> Picture | None:
    if not len(findings.voxels):
        return None
    z, depth = findings.voxels[:, 0], one.record.shape[0]
    low, middle, high = np.percentile(z, (10, 50, 90))
    return drawing(
        depth_figure(z, depth),
        f"Histogram of the picks' z in {one.record.tomogram}: the middle 80 % lie between slices "
        f"{low:.0f} and {high:.0f} of {depth}, half below {middle:.0f}.",
    )


def _neighbour_picture(one: Reported, findings: Findings) -> Picture | None:
    apart = findings.neighbours
    if not len(apart):
        return None
    least, diameter = (
        length * one.record.voxel_size for length in (findings.exclusion, 2 * findings.radius)
    )
    return drawing(
        neighbour_figure(apart, exclusion=least, diameter=diameter),
        f"Histogram of distances to the nearest pick in {one.record.tomogram}: median "
        f"{np.median(apart):.0f} Å, least {apart.min():.0f} Å; the least distance of peaks is "
        f"{least:.0f} Å.",
    )


def _score_picture(one: Reported) -> Picture | None:
    scores = one.candidates.particles.scores
    if scores is None or not len(scores):
        return None
    threshold = one.record.threshold
    text = f"Histogram of the scores of the best peaks in {one.record.tomogram}: "
    text += f"from {scores.min():.2f} to {scores.max():.2f}"
    if threshold is not None:
        text += f", with the cut-off at {threshold:.2f}"
    if one.record.histogram is not None:
        text += ", and the fitted numbers of particles and of other peaks at each score"
    figure = score_figure(scores, threshold=threshold, histogram=one.record.histogram)
    return drawing(figure, f"{text}.")


def _means(one: Reported, findings: Findings) -> list[_Mean]:
    """Average the picks, the clicks and random places, all in the greys of the picks' mean."""
    if not len(findings.voxels):
        return []
    most = min(_MOST_AVERAGED, int(_AVERAGED_VOXELS / (2 * HALF_RADII * findings.radius + 1) ** 3))
    chosen = findings.voxels[_evenly(len(findings.voxels), max(most, 1))]
    places = random_places(
        one.record.shape, len(chosen), margin=findings.margin, rng=np.random.default_rng(1)
    )
    picks = f"{len(chosen)} picks"
    if len(chosen) < len(findings.voxels):
        picks = f"{len(chosen)} of {len(findings.voxels)} picks"
    groups = [(picks, chosen)]
    if one.clicks is not None and len(one.clicks):
        groups.append((f"{len(one.clicks)} clicked particles", one.clicks))
    groups.append((f"{len(places)} random places", places))
    data = one.open().data
    cubes = [mean_cube(data, centres, radius=findings.radius).cube for _, centres in groups]
    greys = Greys.of(cubes[:1])
    means = []
    for (title, _), cube in zip(groups, cubes, strict=True):
        alt = f"Sections xy, xz and yz through the mean of {title} in {one.record.tomogram}."
        means.append(
            _Mean(
                title=f"Mean of {title}",
                picture=strip(cube, greys, side=_MEAN_SIDE, alt=alt),
                middles=strip_middles(_MEAN_SIDE),
                radius=findings.radius * _MEAN_SIDE / len(cube),
            )
        )
    return means


def _sheets(one: Reported, findings: Findings) -> list[_Sheet]:
    """Contact sheets of the best, the middle, the doubtful and the just rejected."""
    table, picked = one.candidates.particles, one.candidates.picked
    kept, rejected = np.flatnonzero(picked), np.flatnonzero(~picked)
    best = kept[:_PER_SHEET]
    doubtful = kept[len(best) :][-_PER_SHEET:]
    between = kept[len(best) : len(kept) - len(doubtful)]
    start = max((len(between) - _PER_SHEET) // 2, 0)
    groups = (
        ("The best", "The highest scores.", best),
        ("The middle", "From the middle of the list.", between[start : start + _PER_SHEET]),
        ("The doubtful", "The last of the list, just above the cut-off.", doubtful),
        (
            "Just rejected",
            "The first that are not in the list. If most look like the particle, the list is too "
            "short.",
            rejected[:_PER_SHEET],
        ),
    )
    half = math.ceil(HALF_RADII * findings.radius)
    data = one.open().data
    cubes = {
        int(row): smooth(cut_cube(data, table.voxels[row], half), findings.radius / 5)
        for _, _, rows in groups
        for row in rows
    }
    if not cubes:
        return []
    greys = Greys.of(list(cubes.values()))
    sheets = []
    for title, about, rows in groups:
        picks = []
        for row in rows.tolist():
            z, y, x = table.voxels[row].tolist()
            what = "Pick" if picked[row] else "Rejected peak"
            alt = f"{what} {row + 1} of {one.record.tomogram}: sections xy, xz and yz."
            picks.append(
                _Pick(
                    picture=strip(cubes[row], greys, side=_SHEET_SIDE, alt=alt),
                    rank=row + 1,
                    score=0.0 if table.scores is None else float(table.scores[row]),
                    probability=None
                    if table.probabilities is None
                    else float(table.probabilities[row]),
                    x=x,
                    y=y,
                    z=z,
                )
            )
        if picks:
            sheets.append(_Sheet(title=title, about=about, picks=picks))
    return sheets


def _slices(one: Reported, findings: Findings, shown: int) -> list[_Slice]:
    """Draw slices from the lowest pick to the highest, with a box around each pick near one."""
    depth, height, width = one.record.shape
    count = min(_SLICES, max(4 * MOST_SHOWN // shown, 3), depth)
    first, last = 0.0, depth - 1.0
    if len(findings.voxels):
        first, last = np.percentile(findings.voxels[:, 0], (1, 99)).tolist()
    numbers = np.unique(np.clip(np.rint(np.linspace(first, last, count)), 0, depth - 1))
    data = one.open().data
    pictures = [
        slice_mean(
            data,
            int(z),
            thickness=_thickness(findings),
            # Until a particle shows at the noise of a raw reconstruction.
            smoothing=findings.radius / 7,
        )
        for z in numbers
    ]
    limits = contrast_limits(np.stack([picture[::2, ::2] for picture in pictures]))
    slices = []
    bar = 10 * _bar(one.record) / one.record.voxel_size
    for z, picture in zip(numbers.astype(int).tolist(), pictures, strict=True):
        near = findings.voxels[np.abs(findings.voxels[:, 0] - z) <= findings.radius]
        photo = photograph(
            picture,
            limits,
            longest=_LONGEST,
            most_bytes=_SLICE_BYTES // (shown * count),
            alt=f"Slice z = {z} of {one.record.tomogram}; boxes around {len(near)} picks.",
        )
        scale = photo.width / width
        # Voxel 0 has its centre half a pixel from the rim, and y points up.
        corners = [
            (
                round(float((x + 0.5 - findings.radius) * scale), 1),
                round(float((height - y - 0.5 - findings.radius) * photo.height / height), 1),
            )
            for _, y, x in near
        ]
        slices.append(
            _Slice(
                picture=photo,
                z=z,
                corners=corners,
                side=round(2 * findings.radius * scale, 1),
                bar=bar * scale,
            )
        )
    return slices


def _bar(record: Record) -> float:
    """Length of the scale bar, nanometres."""
    return bar_length(record.shape[2] * record.voxel_size / 10)


def _thickness(findings: Findings) -> int:
    return max(round(0.7 * findings.radius), 1)


def _row(number: int, findings: Findings, doubts: list[str], shown: bool) -> _Row:
    apart = findings.neighbours
    return _Row(
        number=number,
        name=findings.record.tomogram,
        picks=len(findings.voxels),
        estimated=findings.estimated,
        false_share=findings.false_share,
        lengths=findings.record.lengths,
        neighbour=float(np.median(apart)) if len(apart) else None,
        concerns=len(doubts),
        shown=shown,
    )


def _facts(description: Description, run: RunFacts, reported: Sequence[Reported]) -> dict[str, str]:
    """What was asked and used, by its name."""
    config = description.config
    sizes = sorted({one.record.voxel_size for one in reported})
    versions = sorted({one.record.tomopicker for one in reported})
    seconds = sum(float(row.get("seconds") or 0) for row in description.history)
    return {
        "Run": run.folder,
        "Preset": config.preset,
        "Particle radius": f"{config.radius_angstrom:.4g} Å",
        "Training tomograms": ", ".join(description.training_tomograms),
        "Clicked particles": "not known" if run.clicks is None else str(run.clicks),
        "Validated on": description.validation_tomogram or "clicks held out of training",
        "Voxel size": f"{', '.join(f'{size:.4g}' for size in sizes)} Å; "
        f"analysed at {description.voxel_size:.4g} Å",
        "Training": f"{_counted(len(description.history), 'epoch')}, {_duration(seconds)}",
        "Picking": f"{_duration(sum(one.record.seconds for one in reported))} on "
        f"{', '.join(sorted({one.record.device for one in reported}))}, finished "
        f"{max(one.record.finished for one in reported)[:16].replace('T', ' ')}",
        "Cut-off": "; ".join(dict.fromkeys(_cut(one.record) for one in reported)),
        "Trained with": f"TomoPicker {description.tomopicker}, PyTorch {description.torch}",
        "Picked with": f"TomoPicker {', '.join(versions)}",
    }


def _facts_of(findings: Findings) -> dict[str, str]:
    """The numbers of one tomogram, by their names."""
    record = findings.record
    z, y, x = record.shape
    facts = {"Picks": str(len(findings.voxels)), "How the list ended": _cut(record)}
    if record.threshold is not None:
        facts["Score of the last pick"] = f"{record.threshold:.2f}"
    if findings.false_share is not None:
        facts["Picks expected to be false"] = f"{percent(findings.false_share)}"
    if record.estimated is not None:
        facts["Particles there, estimated"] = (
            f"{record.estimated.estimate:.0f} "
            f"({record.estimated.low:.0f} to {record.estimated.high:.0f}), "
            f"by scores{' and shape' if record.by_contrasts else ''}"
        )
    for rate, length in record.lengths.items():
        facts[f"Picks at {percent(float(rate))} false"] = str(length)
    if findings.clicks is not None and len(findings.clicks):
        facts["Clicked particles in the list"] = (
            f"{findings.clicks_found} of {len(findings.clicks)}"
        )
    facts["Volume"] = f"{x} × {y} × {z} voxels of {record.voxel_size:.4g} Å"
    facts["Time"] = f"{_duration(record.seconds)} on {record.device}"
    facts["File"] = record.path
    return facts


def _changed(config: Config, voxel_size: float) -> list[tuple[str, str, str]]:
    """Settings that are not their preset's: name, value, the preset's."""
    usual = preset(
        config.preset,
        radius_angstrom=config.radius_angstrom,
        voxel_size=voxel_size,
        expected=config.expected,
    )
    changed = []
    for stage, values in config.model_dump(mode="json").items():
        if not isinstance(values, dict):
            continue
        for name, value in values.items():
            other = usual.model_dump(mode="json")[stage][name]
            if value != other:
                changed.append((f"{stage}.{name}", str(value), str(other)))
    return changed


def _cut(record: Record) -> str:
    cut = record.origin.cut
    if cut.count is not None:
        return f"after {cut.count} picks, as asked"
    if cut.threshold is not None:
        return f"above score {cut.threshold:g}, as asked"
    if cut.fdr is not None:
        return f"at {percent(cut.fdr)} expected false picks, as asked"
    if record.histogram is None:
        return "after the number that training expected"
    return "by itself, where the expected F1 is best"


def _curves(description: Description) -> Picture | None:
    history = description.history
    if not history:
        return None
    text = f"Curves over {_counted(len(history), 'epoch')}"
    for name, noun in (("loss", "loss"), ("validation_ap", "validation average precision")):
        last = history[-1].get(name)
        if last is not None:
            text += f"; {noun} at the end {last:.3g}"
    return drawing(training_figure(history), f"{text}. The numbers are in the table below.")


def _numbers(measured: Sequence[Findings]) -> Picture:
    picks = [len(findings.voxels) for findings in measured]
    figure = numbers_figure(picks, [findings.estimated for findings in measured])
    return drawing(
        figure,
        f"Picks of each of {len(picks)} tomograms, from {min(picks)} to {max(picks)}, and the "
        "estimated numbers of particles. The numbers are in the table below.",
    )


def _evenly(count: int, most: int) -> NDArray[np.intp]:
    """Rows of at most `most` of `count`, evenly through them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.intp))


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _duration(seconds: float) -> str:
    """Tell a time for people.

    >>> _duration(42), _duration(200), _duration(9000)
    ('42 s', '3 min 20 s', '2 h 30 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
