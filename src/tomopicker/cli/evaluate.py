"""Compare picks with known particles: ``tomopicker evaluate``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tomopicker.cli.units import Length, parse_length
from tomopicker.errors import InputError

if TYPE_CHECKING:
    from tomopicker.evaluate import Evaluation
    from tomopicker.types import Particles, Shape


def evaluate(
    picks: Annotated[Path, typer.Argument(help="A file of picks, or a folder of them.")],
    truth: Annotated[
        Path,
        typer.Argument(help="The known particles: a file, or a folder with files of equal names."),
    ],
    tolerance: Annotated[
        str,
        typer.Option(help="Distance up to which a pick finds a particle, such as 10vx or 135A."),
    ] = "10vx",
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of a table.")
    ] = False,
    voxel_size: Annotated[
        float | None,
        typer.Option(help="Ångström; needed by a tolerance in ångström and by STAR files."),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(help="A tomogram to take voxel size and shape from; for RELION-5."),
    ] = None,
    curve: Annotated[
        Path | None, typer.Option(help="Write the precision-recall curve to this CSV file.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the curve's file.")] = False,
) -> None:
    """Compare picks with known particles: precision, recall, F1 and average precision.

    Pairs are counted one to one, and as the paper counts them. Distances are in voxels.
    """
    from tomopicker.evaluate import as_json, combine

    length = parse_length(tolerance)
    if curve is not None and curve.exists() and not force:
        raise InputError(f"{curve}: exists already; choose another name, or use --force")
    voxel_size, shape = _frame(voxel_size, like)
    evaluations = _evaluate_each(
        _tables(picks, voxel_size, shape),
        _tables(truth, voxel_size, shape),
        tolerance=length.voxels(voxel_size),
        sources=(picks, truth),
    )
    result = combine(evaluations.values())
    several = evaluations if picks.is_dir() or len(evaluations) > 1 else None
    if curve is not None:
        _write_curve(curve, result, force=force)
    if json:
        from json import dumps

        typer.echo(dumps(as_json(result, several), indent=2, allow_nan=False))
    else:
        _show(result, several, length)


def _frame(voxel_size: float | None, like: Path | None) -> tuple[float | None, Shape | None]:
    """Voxel size and shape that the lists are read with, None where nobody tells."""
    if voxel_size is not None and not 0 < voxel_size < float("inf"):
        raise InputError(f"--voxel-size must be a number of ångström above 0, got {voxel_size}")
    if like is None:
        return voxel_size, None
    from tomopicker.io.tomograms import read_tomogram

    tomogram = read_tomogram(like, voxel_size=voxel_size)
    return tomogram.voxel_size, tomogram.shape


def _tables(path: Path, voxel_size: float | None, shape: Shape | None) -> dict[str, Particles]:
    """Particles of each tomogram: of a folder by file, of a file by the names in it, if several."""
    import numpy as np

    from tomopicker.io.particles import FORMATS, list_files, read_particles, recognise

    def read(file: Path) -> Particles:
        if voxel_size is None and not FORMATS[recognise(file)].in_voxels:
            raise InputError(
                f"{file}: is not counted in the tomogram's voxels; add --like TOMOGRAM, "
                "or --voxel-size with its ångström per voxel"
            )
        # Voxels stay voxels, whatever their size, when both lists are read alike.
        return read_particles(file, voxel_size=voxel_size or 1.0, shape=shape)

    if path.is_dir():
        files = list_files(path)
        tables = {name: read(file) for name, file in sorted(files.items())}
        for name, table in tables.items():
            if len(set(table.tomograms)) > 1:
                raise InputError(
                    f"{files[name]}: has particles of several tomograms; give that file "
                    "instead of its folder"
                )
        return tables
    table = read(path)
    names = np.array(table.tomograms)
    if len(set(table.tomograms)) < 2:
        return {path.stem: table}
    return {name: table.select(names == name) for name in sorted(set(table.tomograms))}


def _evaluate_each(
    picks: Mapping[str, Particles],
    truth: Mapping[str, Particles],
    *,
    tolerance: float,
    sources: tuple[Path, Path],
) -> dict[str, Evaluation]:
    """Evaluate tomogram by tomogram; two lists of one tomogram each need not share its name."""
    from tomopicker.evaluate import evaluate
    from tomopicker.io.tomograms import match_names

    if not any(source.is_dir() for source in sources) and len(picks) == len(truth) == 1:
        matched = dict(zip(picks, truth, strict=True))
    else:
        matched = match_names(list(picks), list(truth))
    for name in picks:
        if name not in matched:
            raise InputError(
                f"{sources[1]}: has no known particles for the picks of {name}; "
                f"add them, or remove {name} from {sources[0]}"
            )
    for name in truth:
        owners = [pick for pick, known in matched.items() if known == name]
        if len(owners) != 1:
            found = "no picks" if not owners else f"several lists of picks ({', '.join(owners)})"
            raise InputError(
                f"{sources[0]}: has {found} for the known particles of {name}; "
                f"keep one list, or remove {name} from {sources[1]}"
            )
    return {
        name: evaluate(
            picks[name].voxels,
            truth[known].voxels,
            tolerance=tolerance,
            scores=picks[name].scores,
        )
        for name, known in matched.items()
    }


def _write_curve(path: Path, result: Evaluation, *, force: bool) -> None:
    from tomopicker.io.whole import whole_file

    points = result.curve
    rows = zip(points.thresholds, points.precision, points.recall, strict=True)
    lines = ["threshold,precision,recall", *(f"{t:.9g},{p:.6f},{r:.6f}" for t, p, r in rows)]
    with whole_file(path, overwrite=force) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def _show(result: Evaluation, several: Mapping[str, Evaluation] | None, tolerance: Length) -> None:
    from rich.console import Console
    from rich.table import Table

    from tomopicker.evaluate import macro_f1

    table = Table(title=f"Picks within {tolerance} of a known particle")
    table.add_column("")
    for heading in ("TP", "FP", "FN", "precision", "recall", "F1"):
        table.add_column(heading, justify="right")
    rows = [(name, each.one_to_one) for name, each in (several or {}).items()]
    rows += [("one to one", result.one_to_one), ("as the paper counts", result.paper)]
    for row, (name, counts) in enumerate(rows, start=1):
        table.add_row(
            name,
            str(counts.true_positives),
            str(counts.false_positives),
            str(counts.false_negatives),
            *(f"{ratio:.3f}" for ratio in (counts.precision, counts.recall, counts.f1)),
            end_section=row == len(rows) - 2,
        )
    console = Console(highlight=False, markup=False)
    console.print(table)
    average = f"Average precision {result.average_precision:.3f}"
    if result.scores is None:
        average += " (precision × recall, as picks have no scores)"
    console.print(average)
    if result.localisation_error is not None:
        console.print(f"Mean distance of the pairs {result.localisation_error:.2f} voxels")
    if several is not None:
        console.print(f"Mean F1 of the tomograms {macro_f1(several.values()):.3f}")
