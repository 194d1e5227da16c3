"""tomopicker report: one page with all that helps to judge the picks of a run."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tomopicker.cli.options import VoxelSize
from tomopicker.errors import InputError

if TYPE_CHECKING:
    from tomopicker.io.tomograms import Source
    from tomopicker.report.page import Reported, RunFacts
    from tomopicker.types import Tomogram

REPORT = "report.html"


def report(
    run: Annotated[Path, typer.Argument(help="Run folder or checkpoint file that picked.")],
    tomograms: Annotated[
        list[Path],
        typer.Argument(help="Tomograms that were picked, named as to `pick`.", show_default=False),
    ],
    picks: Annotated[
        Path, typer.Option(help="Folder that `tomopicker pick` wrote.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The page (.html); report.html among the picks when left out."),
    ] = None,
    voxel_size: VoxelSize = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the page.")] = False,
) -> None:
    """Write one HTML page that shows what was picked and what there is to doubt."""
    from tomopicker.cli.run import named_tomograms

    path = picks / REPORT if out is None else out
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{path}: the report is a page; give a name that ends in .html")
    if path.exists() and not force:
        raise InputError(f"{path}: is already there; give another --out, or --force")
    if not picks.is_dir():
        raise InputError(f"{picks}: is no folder; give the --out of `tomopicker pick`")
    write_report(path, run, picks, named_tomograms(tomograms), voxel_size=voxel_size)
    typer.echo(path)


def write_report(
    path: Path, run: Path, picks: Path, tomograms: Sequence[Source], *, voxel_size: float | None
) -> None:
    """Write the report on some tomograms, over an older one."""
    from tomopicker.checkpoint import read_checkpoint
    from tomopicker.cli.run import progress_bar, write_text
    from tomopicker.report.page import render_report

    description = read_checkpoint(run).description
    folder = run if run.is_dir() else run.parent
    reported = [
        _read(partial(source.open, voxel_size=voxel_size), picks, folder) for source in tomograms
    ]
    with progress_bar("Report") as bar:
        page = render_report(description, _run_facts(folder), reported, progress=bar.show)
    write_text(path, page)


def _read(open_tomogram: Callable[[], Tomogram], picks: Path, run: Path) -> Reported:
    """Gather what `pick` left of a tomogram, and the clicks in it if it was trained on."""
    from tomopicker.cli.run import CLICKS
    from tomopicker.io.candidates import candidates_path, read_candidates
    from tomopicker.io.particles import read_particles
    from tomopicker.io.record import read_record, record_path
    from tomopicker.report.page import Reported

    tomogram = open_tomogram()
    record = read_record(record_path(picks, tomogram.name))
    if record.shape != tomogram.shape:
        raise InputError(
            f"{tomogram.path}: has {_sides(tomogram.shape)} voxels, but the picks were made in "
            f"{_sides(record.shape)}: give the tomogram that was picked"
        )
    size = tomogram.voxel_size
    if abs(record.voxel_size / size - 1) > 1e-3:
        raise InputError(
            f"{tomogram.path}: voxel size {size:g} Å, but it was picked with "
            f"{record.voxel_size:g} Å: give --voxel-size {record.voxel_size:g}"
        )
    clicks = run / CLICKS / f"{tomogram.name}.csv"
    return Reported(
        open=open_tomogram,
        candidates=read_candidates(candidates_path(picks, tomogram.name), voxel_size=size),
        record=record,
        clicks=read_particles(clicks, voxel_size=size).voxels if clicks.is_file() else None,
        listed=len(read_particles(picks / f"{tomogram.name}.csv", voxel_size=size)),
    )


def _run_facts(folder: Path) -> RunFacts:
    """What the run folder tells; little where there is but a checkpoint."""
    from tomopicker.cli.run import CLICKS
    from tomopicker.io.particles import read_particles
    from tomopicker.report.page import RunFacts

    log = folder / "log.txt"
    commands: list[str] = []
    if log.is_file():
        text = log.read_text(encoding="utf-8", errors="replace")
        commands = re.findall(r"^\d{4}-\d\d-\d\d [\d:]+ \$ (.*)$", text, re.MULTILINE)
    files = sorted((folder / CLICKS).glob("*.csv"))
    clicks = sum(len(read_particles(file, voxel_size=1.0)) for file in files)
    return RunFacts(
        folder=folder.resolve().name, commands=commands, clicks=clicks if files else None
    )


def _sides(shape: Sequence[int]) -> str:
    return " × ".join(str(side) for side in shape[::-1])
