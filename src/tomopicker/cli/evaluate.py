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
    from tomopicker.io.particles.conversion import Known, Part
    from tomopicker.types import Particles


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
        list[Path] | None,
        typer.Option(
            help="The tomogram, for voxel size and shape, as RELION-5's lists need; or a folder, a "
            "tomograms.star, a project (repeatable)."
        ),
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
    from tomopicker.io.particles.conversion import read_known

    length = parse_length(tolerance)
    if curve is not None and curve.exists() and not force:
        raise InputError(f"{curve}: exists already; choose another name, or use --force")
    known = read_known(like or [], voxel_size=voxel_size)
    evaluations = _evaluate_each(
        _tables(picks, known), _tables(truth, known), tolerance=length, sources=(picks, truth)
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


def _tables(path: Path, known: Known) -> dict[str, Particles]:
    """Particles of each tomogram: of a folder by file, of a file by the names in it, if several."""
    from tomopicker.io.particles import list_files

    if path.is_dir():
        tables = {}
        for name, file in sorted(list_files(path).items()):
            parts = _parts(file, known, name)
            if len(parts) > 1:
                raise InputError(
                    f"{file}: has particles of several tomograms; give that file instead of its "
                    "folder"
                )
            tables[name] = parts[0].particles
        return tables
    parts = _parts(path, known, None)
    if len(parts) == 1:
        return {path.stem: parts[0].particles}
    return {part.name: part.particles for part in sorted(parts, key=lambda part: part.name)}


def _parts(file: Path, known: Known, name: str | None) -> list[Part]:
    from tomopicker.io.particles import FORMATS, recognise
    from tomopicker.io.particles.conversion import read_parts

    format = FORMATS[recognise(file)]
    is_known = known.frames or known.voxel_size is not None
    if not is_known and not format.in_voxels and format.voxel_size is None:
        raise InputError(
            f"{file}: is not counted in the tomogram's voxels; add --like TOMOGRAM, or "
            "--voxel-size with its ångström per voxel"
        )
    # Voxels stay voxels, whatever their size, when both lists are read alike.
    return read_parts(file, known, target="csv", name=name)


def _evaluate_each(
    picks: Mapping[str, Particles],
    truth: Mapping[str, Particles],
    *,
    tolerance: Length,
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
            found, remedy = "no picks", "pick it"
            if owners:
                found, remedy = f"several lists of picks ({', '.join(owners)})", "keep one list"
            raise InputError(
                f"{sources[0]}: has {found} for the known particles of {name}; "
                f"{remedy}, or remove {name} from {sources[1]}"
            )
    return {
        name: evaluate(
            picks[name].voxels,
            truth[known].voxels,
            tolerance=tolerance.voxels(_voxel_size(name, picks[name], truth[known])),
            scores=picks[name].scores,
        )
        for name, known in matched.items()
    }


def _voxel_size(name: str, *tables: Particles) -> float | None:
    """Ångström, of what two lists of a tomogram count; None where neither tells."""
    from tomopicker.io.particles.frame import UNKNOWN

    sizes = {table.voxel_size for table in tables} - {UNKNOWN}
    if len(sizes) > 1:
        raise InputError(
            f"{name}: the two lists count voxels of {' and '.join(f'{s:g}' for s in sorted(sizes))}"
            " Å; give the tomogram's with --voxel-size"
        )
    return next(iter(sizes), None)


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
