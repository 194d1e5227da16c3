"""Protocol: the paper's experiment on EMPIAR-10988, and its tables (paper section 4)."""

from __future__ import annotations

import csv
import glob
import io
import json
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tomopicker.errors import InputError, UnknownVoxelSizeError
from tomopicker.io.particles import check_inside, read_particles
from tomopicker.io.tomograms import read_tomogram
from tomopicker.io.whole import whole_file

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from tomopicker.evaluate import Evaluation
    from tomopicker.types import Particles, Tomogram

DatasetName: TypeAlias = Literal["vpp", "defocus"]
MethodName: TypeAlias = Literal["pn", "pu", "kl", "default"]
CutName: TypeAlias = Literal["true count", "automatic"]
"""Picks as many as the list has particles, or as many as the method itself finds right."""

VOXEL_SIZE = 13.48
"""Ångström, of all the tomograms (paper 4.1)."""

OVERALL = "Overall"
UNSEEN = "Unseen"
"""Overall without the tomograms of training and validation, which the paper includes."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One of the two halves of EMPIAR-10988."""

    name: DatasetName
    title: str
    folder: str
    """As EMPIAR calls it."""
    table: int
    """Of the paper."""
    training: int
    validation: int
    numbers: tuple[int, ...]
    """Of the tilt series that are picked, in the order of the table."""
    digits: int

    def label(self, number: int) -> str:
        """Name a tilt series as the paper does.

        >>> DATASETS["defocus"].label(29)
        'TS_029'
        """
        return f"TS_{number:0{self.digits}d}"


DATASETS: dict[DatasetName, Dataset] = {
    "vpp": Dataset(
        name="vpp",
        title="Volta phase plate",
        folder="VPP",
        table=1,
        training=1,
        validation=2,
        numbers=tuple(range(1, 11)),
        digits=4,
    ),
    # TS_026 is left out: "very different organization" (paper 4.5).
    "defocus": Dataset(
        name="defocus",
        title="Defocus",
        folder="DEF",
        table=2,
        training=29,
        validation=30,
        numbers=(27, 28, 29, 30, 34, 37, 41, 43, 45),
        digits=3,
    ),
}

METHODS: dict[MethodName, str] = {
    "pn": "TomoPicker (PN)",
    "pu": "TomoPicker (PU)",
    "kl": "TomoPicker (KL)",
    "default": "default",
}
"""Our methods, and what the paper's tables call them."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """A tilt series: its tomogram and the list of its particles."""

    number: int
    label: str
    tomogram: Path
    particles: Path


class Printed(BaseModel):
    """A row of the paper's tables; None where nothing is printed, or it cannot be read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: DatasetName
    tomogram: str
    """As ``TS_0001``, or `OVERALL`."""
    method: str
    tp: int | None
    fp: int | None
    fn: int | None
    precision: float | None
    recall: float | None
    f1: float | None
    misprint: str = ""
    """What contradicts the row's other figures; empty in a sound row."""
    illegible: str = ""
    """What could not be read in the copy at hand."""


Ratio = Annotated[float, Field(ge=0, le=1)]
Natural = Annotated[int, Field(ge=0)]


class Result(BaseModel):
    """How well a method picked one tomogram: a row of the results.

    Counts and ratios are the paper's (section 4.2) where they say `paper`, else one-to-one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: DatasetName
    method: MethodName
    seed: Natural
    tomogram: str
    cut: CutName
    particles: Natural
    picks: Natural
    paper_tp: Natural
    paper_fp: Natural
    paper_fn: Natural
    paper_precision: Ratio
    paper_recall: Ratio
    paper_f1: Ratio
    tp: Natural
    fp: Natural
    fn: Natural
    precision: Ratio
    recall: Ratio
    f1: Ratio
    average_precision: Ratio
    localisation_error_voxels: float | None
    training_cpu_seconds: float
    """Of the training that the picks come from."""
    picking_cpu_seconds: float

    @property
    def key(self) -> tuple[str, str, int, str, str]:
        """What a row is of; no two rows share it."""
        return self.dataset, self.method, self.seed, self.tomogram, self.cut


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text, to be printed or written."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def find_datasets(
    folder: Path,
    *,
    names: Sequence[DatasetName] = (),
    tomograms: str | None = None,
    particles: str | None = None,
    skip_missing: bool = False,
) -> dict[DatasetName, list[Series]]:
    """Find the tomograms and particle lists of EMPIAR-10988.

    They are looked for where EMPIAR has them (``VPP/tomograms/TS_0001.rec`` and
    ``VPP/particle_lists/TS_0001_cyto_ribosomes.csv``, ``DEF`` likewise), then anywhere below
    ``VPP`` or ``DEF``; names are compared by the number behind TS.

    Parameters
    ----------
    folder
        That holds ``VPP`` or ``DEF``, perhaps within ``data``, or is one of them.
    names
        Of the data sets that must be there; without names, every one that is there.
    tomograms, particles
        Globs relative to `folder` that say where the files are instead.
    skip_missing
        Whether tilt series without a tomogram or a list are left out, those of training and
        validation excepted.

    Raises
    ------
    InputError
        When no data set is there, a tomogram or list is missing, or several could be it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the one that holds VPP or DEF")
    globs = {_TOMOGRAMS.option: tomograms, _LISTS.option: particles}
    found = {
        dataset.name: _find_series(folder, dataset, globs, skip_missing)
        for dataset in DATASETS.values()
        if dataset.name in names or (not names and _is_there(folder, dataset, globs))
    }
    if not found:
        raise InputError(
            f"{folder}: holds neither VPP nor DEF; give the folder that does, or say where the "
            "files are with --tomograms GLOB and --particles GLOB"
        )
    return found


def read_series(series: Series, *, voxel_size: float = VOXEL_SIZE) -> tuple[Tomogram, Particles]:
    """Open a tilt series' tomogram and read its particles.

    Parameters
    ----------
    voxel_size
        Ångström, where the tomogram's header does not tell.

    Raises
    ------
    InputError
        When a file cannot be read, or a particle is outside the tomogram.
    """
    try:
        tomogram = read_tomogram(series.tomogram)
    except UnknownVoxelSizeError:
        tomogram = read_tomogram(series.tomogram, voxel_size=voxel_size)
    particles = read_particles(
        series.particles, voxel_size=tomogram.voxel_size, shape=tomogram.shape
    )
    check_inside(particles, tomogram.shape, series.particles)
    return tomogram, particles


def sample_clicks(
    particles: Particles, count: int, *, rng: np.random.Generator, source: Path
) -> Particles:
    """Draw the particles that are "clicked", at random and without repetition (paper 4.4).

    Raises
    ------
    InputError
        When the list, `source`, does not hold more than that.
    """
    if count >= len(particles):
        raise InputError(
            f"{source}: {len(particles)} particles, of which {count} cannot be a part; "
            "give fewer --picks"
        )
    return particles.select(np.sort(rng.permutation(len(particles))[:count]))


def result_of(
    evaluation: Evaluation,
    *,
    dataset: DatasetName,
    method: MethodName,
    seed: int,
    tomogram: str,
    cut: CutName,
    training_cpu_seconds: float,
    picking_cpu_seconds: float,
) -> Result:
    """Make a row of the results from an evaluation in voxels."""
    paper, pairs = evaluation.paper, evaluation.one_to_one
    return Result(
        dataset=dataset,
        method=method,
        seed=seed,
        tomogram=tomogram,
        cut=cut,
        particles=pairs.true_positives + pairs.false_negatives,
        picks=pairs.true_positives + pairs.false_positives,
        paper_tp=paper.true_positives,
        paper_fp=paper.false_positives,
        paper_fn=paper.false_negatives,
        paper_precision=paper.precision,
        paper_recall=paper.recall,
        paper_f1=paper.f1,
        tp=pairs.true_positives,
        fp=pairs.false_positives,
        fn=pairs.false_negatives,
        precision=pairs.precision,
        recall=pairs.recall,
        f1=pairs.f1,
        average_precision=evaluation.average_precision,
        localisation_error_voxels=evaluation.localisation_error,
        training_cpu_seconds=training_cpu_seconds,
        picking_cpu_seconds=picking_cpu_seconds,
    )


def write_results(path: Path, results: Iterable[Result]) -> None:
    """Write the results as CSV, over older ones, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Result.model_fields), lineterminator="\n")
    writer.writeheader()
    for result in results:
        writer.writerow(
            {
                name: f"{value:.6g}" if isinstance(value, float) else value
                for name, value in result.model_dump().items()
            }
        )
    with whole_file(path, overwrite=True) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def read_results(path: Path) -> list[Result]:
    """Read the results of an earlier run.

    Raises
    ------
    InputError
        Naming the line that is none of ours.
    """
    results = []
    with path.open(newline="", encoding="utf-8") as file:
        for line, cells in enumerate(csv.DictReader(file), start=2):
            try:
                results.append(Result.model_validate({k: v or None for k, v in cells.items()}))
            except ValidationError as error:
                raise InputError(
                    f"{path}: line {line} is not a row of results "
                    f"({error.errors()[0]['msg']}); remove the file, or give another --out"
                ) from error
    return results


def paper_rows(dataset: DatasetName) -> list[Printed]:
    """Give the rows of the paper's Table 1 or 2, as printed.

    >>> paper_rows("vpp")[0].tp
    1306
    """
    rows = [Printed.model_validate(row) for row in _paper()["rows"]]
    return [row for row in rows if row.dataset == dataset]


def paper_particles(dataset: DatasetName) -> dict[str, int]:
    """Number of particles in each tomogram (paper 4.4 and 4.5).

    >>> paper_particles("vpp")["TS_0001"]
    2450
    """
    return {str(name): int(count) for name, count in _paper()["particles"][dataset].items()}


def compare(dataset: Dataset, results: Sequence[Result]) -> Table:
    """Set our results beside the paper's printed figures, tomogram by tomogram and overall.

    Counts, precision, recall and F1 are counted the paper's way, and are means over the seeds.
    `OVERALL` is the mean over the tomograms that were picked, as the paper's is over all.
    """
    mine = [result for result in results if result.dataset == dataset.name]
    printed = {(row.tomogram, row.method): row for row in paper_rows(dataset.name)}
    labels = [dataset.label(number) for number in dataset.numbers]
    picked = [label for label in labels if any(row.tomogram == label for row in mine)]
    unseen = [
        label
        for label in picked
        if label not in (dataset.label(dataset.training), dataset.label(dataset.validation))
    ]
    methods = [*dict.fromkeys(method for _, method in printed), METHODS["default"]]
    rows = []
    for place, members in [(label, [label]) for label in picked] + [
        (OVERALL, picked),
        (UNSEEN, unseen),
    ]:
        first = place
        for method in methods:
            of_paper = _of_paper(printed, place, method, unseen)
            groups = _groups(mine, method, members)
            for cut, group in groups or [("", [])]:
                name = f"{method}, {cut}" if method == METHODS["default"] else method
                if group or any(cell != _NOTHING for cell in of_paper):
                    rows.append((first, name, *_ours(group), *of_paper))
                    first = ""
    return Table(
        title=f"Table {dataset.table}: {dataset.title}, training on "
        f"{dataset.label(dataset.training)}, validation on {dataset.label(dataset.validation)}",
        columns=_COLUMNS,
        rows=tuple(rows),
        notes=_notes(dataset, mine, picked, printed),
    )


def to_markdown(table: Table) -> str:
    """Write a table as Markdown, its notes as a list below."""
    lines = [
        f"## {table.title}",
        "",
        *(_line(row) for row in (table.columns, ("---",) * 2 + ("---:",) * (len(_COLUMNS) - 2))),
        *(_line([cell.replace("*", r"\*") for cell in row]) for row in table.rows),
        "",
        *(f"- {note}".replace("*", r"\*") for note in table.notes),
    ]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """One of the two kinds of files, and how it is found."""

    what: str
    option: str
    folder: str
    """Where EMPIAR has them, below the data set's folder."""
    suffixes: tuple[str, ...]
    names: str
    """What the names that are surely meant look like."""
    not_names: str
    """What the paths of other things look like, where nothing is surely meant."""


_TOMOGRAMS = _Kind(
    what="tomogram",
    option="--tomograms",
    folder="tomograms",
    suffixes=(".rec", ".mrc", ".map"),
    names=r"ts[_-]?\d+\.\w+",
    not_names=r"labels",
)
_LISTS = _Kind(
    what="particle list",
    option="--particles",
    folder="particle_lists",
    suffixes=(".csv", ".txt", ".coords", ".star"),
    names=r".*ribosom.*|ts[_-]?\d+\.\w+",
    # EMPIAR lists the fatty acid synthases beside the ribosomes.
    not_names=r"fas\b",
)

_COLUMNS = (
    "Tomogram",
    "Method",
    "Picks",
    "TP",
    "FP",
    "FN",
    "Prec.",
    "Rec.",
    "F1",
    "F1 1:1",
    "AP",
    "Paper prec.",
    "rec.",
    "F1 ",
)

_NOTHING = "–"


def _number(name: str) -> int | None:
    """Number behind TS in a file's name.

    >>> _number("TS_029_cyto_ribosomes.csv"), _number("rec_ts1.mrc"), _number("log_3.txt")
    (29, 1, None)
    """
    match = re.search(r"(?<![a-z])ts[_-]?(\d+)", name.lower())
    return int(match.group(1)) if match else None


def _root(folder: Path, dataset: Dataset) -> Path | None:
    """Folder of a data set, if it is there."""
    if folder.resolve().name.upper() == dataset.folder:
        return folder
    for place in (folder, folder / "data"):
        for child in sorted(place.iterdir()) if place.is_dir() else ():
            if child.name.upper() == dataset.folder and child.is_dir():
                return child
    return None


def _matching(folder: Path, pattern: str) -> list[Path]:
    # Path.glob would refuse an absolute pattern.
    names = sorted(glob.glob(pattern, root_dir=folder, recursive=True))  # noqa: PTH207
    return [folder / name for name in names if (folder / name).is_file()]


def _is_there(folder: Path, dataset: Dataset, globs: Mapping[str, str | None]) -> bool:
    tomograms = globs[_TOMOGRAMS.option]
    if tomograms is None:
        return _root(folder, dataset) is not None
    return any(_number(path.name) in dataset.numbers for path in _matching(folder, tomograms))


def _find_series(
    folder: Path, dataset: Dataset, globs: Mapping[str, str | None], skip_missing: bool
) -> list[Series]:
    tomograms, lists = (
        _find(folder, dataset, kind, globs[kind.option]) for kind in (_TOMOGRAMS, _LISTS)
    )
    series = []
    for number in dataset.numbers:
        needed = number in (dataset.training, dataset.validation)
        if skip_missing and not needed and not (number in tomograms and number in lists):
            continue
        for kind, known in ((_TOMOGRAMS, tomograms), (_LISTS, lists)):
            if number not in known:
                raise InputError(_missing(folder, dataset, kind, number, globs[kind.option]))
        series.append(
            Series(
                number=number,
                label=dataset.label(number),
                tomogram=tomograms[number],
                particles=lists[number],
            )
        )
    return series


def _find(folder: Path, dataset: Dataset, kind: _Kind, pattern: str | None) -> dict[int, Path]:
    """Files of a kind by the number of their tilt series, from the likeliest place that has it."""
    if pattern is not None:
        places = [_matching(folder, pattern)]
    else:
        root = _root(folder, dataset)
        below = sorted(path for path in root.rglob("[!.]*") if path.is_file()) if root else []
        below = [path for path in below if path.suffix.lower() in kind.suffixes]
        meant = [path for path in below if re.fullmatch(kind.names, path.name.lower())]
        places = [
            [path for path in meant if root and path.parent == root / kind.folder],
            meant,
            [
                path
                for path in below
                if root and not re.search(kind.not_names, str(path.relative_to(root)).lower())
            ],
        ]
    found: dict[int, Path] = {}
    for number in dataset.numbers:
        of_number = ([p for p in place if _number(p.name) == number] for place in places)
        hits = next(filter(None, of_number), [])
        if len(hits) > 1:
            raise InputError(
                f"{dataset.label(number)}: several files could be its {kind.what} "
                f"({', '.join(map(str, hits[:4]))}); say which with {kind.option} GLOB"
            )
        if hits:
            found[number] = hits[0]
    return found


def _missing(folder: Path, dataset: Dataset, kind: _Kind, number: int, pattern: str | None) -> str:
    if pattern is None:
        looked = (
            f"below {_root(folder, dataset) or folder / dataset.folder} for a file "
            f"({' '.join(kind.suffixes)}) with {dataset.label(number)} in its name"
        )
    else:
        looked = f"in {folder} for {pattern} with {dataset.label(number)} in its name"
    remedy = f"download it, or say where it is with {kind.option} GLOB"
    if number not in (dataset.training, dataset.validation):
        remedy += ", or leave it out with --skip-missing"
    return f"{dataset.label(number)}: its {kind.what} is missing; looked {looked}: {remedy}"


def _paper() -> Any:
    text = files("tomopicker").joinpath("data", "paper_tables.json").read_text(encoding="utf-8")
    return json.loads(text)


def _groups(
    results: Sequence[Result], method: str, members: Collection[str]
) -> list[tuple[str, list[Result]]]:
    """Results of a method in some tomograms, by cut."""
    of_method = [
        row for row in results if METHODS[row.method] == method and row.tomogram in members
    ]
    cuts = dict.fromkeys(row.cut for row in of_method)
    return [(cut, [row for row in of_method if row.cut == cut]) for cut in sorted(cuts)[::-1]]


def _ours(group: Sequence[Result]) -> tuple[str, ...]:
    """Nine cells of means over the tomograms of each seed, and over the seeds."""
    if not group:
        return (_NOTHING,) * 9

    def mean(value: Callable[[Result], float]) -> float:
        return float(np.mean([value(row) for row in group]))

    several = len({row.tomogram for row in group}) > 1
    counts = (lambda r: r.picks, lambda r: r.paper_tp, lambda r: r.paper_fp, lambda r: r.paper_fn)
    ratios = (
        lambda r: r.paper_precision,
        lambda r: r.paper_recall,
        lambda r: r.paper_f1,
        lambda r: r.f1,
        lambda r: r.average_precision,
    )
    return (
        *(_NOTHING if several else f"{mean(count):.0f}" for count in counts),
        *(f"{mean(ratio):.2f}" for ratio in ratios[:2]),
        *(f"{mean(ratio):.2f}{_spread(group, ratio)}" for ratio in ratios[2:4]),
        f"{mean(ratios[4]):.2f}",
    )


def _spread(group: Sequence[Result], value: Callable[[Result], float]) -> str:
    """Standard deviation between the seeds, each the mean over its tomograms."""
    seeds = sorted({row.seed for row in group})
    if len(seeds) < 2:
        return ""
    means = [np.mean([value(row) for row in group if row.seed == seed]) for seed in seeds]
    return f" ±{np.std(means, ddof=1):.2f}"


def _of_paper(
    printed: Mapping[tuple[str, str], Printed], place: str, method: str, unseen: Sequence[str]
) -> tuple[str, str, str]:
    """Three cells of what the paper prints; for `UNSEEN` the means of what it prints there."""
    if place != UNSEEN:
        row = printed.get((place, method))
        if row is None:
            return (_NOTHING,) * 3
        mark = "*" if row.misprint else ""
        precision, recall, f1 = (
            _NOTHING if value is None else f"{value:.2f}{mark}"
            for value in (row.precision, row.recall, row.f1)
        )
        return precision, recall, f1
    rows = [printed[label, method] for label in unseen if (label, method) in printed]
    if not rows:
        return (_NOTHING,) * 3
    mark = "*" if any(row.misprint for row in rows) else ""
    precision, recall, f1 = (
        f"{np.mean(ratios):.2f}{mark}"
        for ratios in zip(*(_legible(row) for row in rows), strict=True)
    )
    return precision, recall, f1


def _legible(row: Printed) -> tuple[float, float, float]:
    """Precision, recall and F1 as printed, or from the counts where they cannot be read."""
    tp, fp, fn = row.tp or 0, row.fp or 0, row.fn or 0
    return (
        tp / max(tp + fp, 1) if row.precision is None else row.precision,
        tp / max(tp + fn, 1) if row.recall is None else row.recall,
        2 * tp / max(2 * tp + fp + fn, 1) if row.f1 is None else row.f1,
    )


def _notes(
    dataset: Dataset,
    results: Sequence[Result],
    picked: Sequence[str],
    printed: Mapping[tuple[str, str], Printed],
) -> tuple[str, ...]:
    seeds = len({row.seed for row in results})
    notes = [
        "TP, FP, FN, precision, recall and F1 are counted as the paper does (section 4.2: within "
        "10 voxels, a pick may find several particles); F1 1:1 and AP, the average precision, "
        "match one pick with one particle at most.",
        "As many picks as the tomogram's list has particles, which the user of a new tomogram "
        "cannot know (the paper asked for numbers near it too); only `default, automatic` "
        "chooses their number itself.",
        f"{OVERALL}: mean over {len(picked)} of {len(dataset.numbers)} tomograms, training and "
        f"validation included, as in the paper. {UNSEEN}: without these two; the paper's figures "
        "there are means of its printed rows.",
    ]
    if seeds > 1:
        notes.append(f"Means over {seeds} seeds, ± their standard deviation.")
    paper_counts = paper_particles(dataset.name)
    for label in picked:
        count = next(row.particles for row in results if row.tomogram == label)
        if count != paper_counts[label]:
            notes.append(
                f"{label}: its list holds {count} particles, the paper's {paper_counts[label]}."
            )
    shown = {*picked, OVERALL}
    for row in printed.values():
        if row.tomogram in shown and row.misprint:
            notes.append(f"* misprint, {row.tomogram} {row.method}: {row.misprint}.")
        if row.tomogram in shown and row.illegible:
            notes.append(f"{row.tomogram} {row.method}: {row.illegible}.")
    return tuple(notes)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.strip() for cell in cells) + " |"
