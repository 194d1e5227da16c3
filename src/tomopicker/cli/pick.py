"""tomopicker pick: find the particle in one or many tomograms."""

from __future__ import annotations

import math
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tomopicker.cli.options import Detach, Device, Mask, Quiet, Slurm, VoxelSize
from tomopicker.cli.report import REPORT, write_report
from tomopicker.errors import InputError

if TYPE_CHECKING:
    from tomopicker.picks import Cut


def pick(
    run: Annotated[Path, typer.Argument(help="Run folder or checkpoint file.")],
    tomograms: Annotated[
        list[Path],
        typer.Argument(
            help="Tomograms to pick: files, a folder, a tomograms.star, a project.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the picks.", show_default=False)],
    count: Annotated[
        int | None, typer.Option(help="Picks per tomogram.", min=1, show_default=False)
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Picks score above this.", show_default=False)
    ] = None,
    fdr: Annotated[
        float | None,
        typer.Option(help="Greatest expected share of false picks, as 0.05.", show_default=False),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="Also write this format (repeatable; see docs/formats.md); relion5 when left out. "
            "csv always is.",
        ),
    ] = None,
    pixel_size: Annotated[
        float | None,
        typer.Option(
            help="Ångström, of the unbinned tilt series, where no project tells it; for relion4 "
            "and eman2.",
            show_default=False,
        ),
    ] = None,
    scores: Annotated[
        bool, typer.Option("--scores", help="Also write the score volumes (MRC).")
    ] = False,
    mask: Mask = None,
    report: Annotated[
        bool, typer.Option("--report", help="Also write report.html: one page to judge the picks.")
    ] = False,
    voxel_size: VoxelSize = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace picks that were made otherwise, or by who knows."),
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(help="Only this part of the tomograms, as 3/8.", show_default=False),
    ] = None,
    slurm: Slurm = None,
    detach: Detach = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON for each tomogram.")
    ] = False,
    quiet: Quiet = False,
    device: Device = "auto",
    workers: Annotated[
        int | None,
        typer.Option(
            help="Tomograms to pick at a time; as many as there are GPUs, or one.",
            min=1,
            show_default=False,
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            help="For the network, as 4GB; a part of what is free when left out.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Find the particle in one or many tomograms.

    Without --count, --threshold or --fdr, the list ends where the expected F1 is best (preset
    default), or after the expected number of particles (preset paper). The same command again
    picks what is missing.
    """
    from tomopicker.cli.log import Log, ending, terminable
    from tomopicker.cli.outputs import Outputs
    from tomopicker.cli.picking import (
        Opening,
        pick_all,
        read_model,
        reportable,
        tell_of_a_stopped_run,
    )
    from tomopicker.cli.plan import Job, check_names, check_place, part_of, undone
    from tomopicker.cli.run import check_folder, console, masks_of, named_tomograms
    from tomopicker.cli.slurm import pick_with_jobs, read_cluster
    from tomopicker.cli.units import parse_memory
    from tomopicker.cli.workers import devices_of, pick_by_workers
    from tomopicker.io.particles import FORMATS, check_format, write_import_list
    from tomopicker.io.record import Origin, RecordedCut, RecordedFile
    from tomopicker.io.summary import SUMMARY, Summary
    from tomopicker.io.whole import remove_leftovers

    cut = _cut(count, threshold, fdr)
    gigabytes = None if memory is None else parse_memory(memory)
    wanted = ["relion5"] if formats is None else formats
    for name in wanted:
        # What it needs is asked for when the tomograms are known: a project may tell it.
        check_format(name, pixel_size=1.0 if pixel_size is None else pixel_size)
    if report and (shard is not None or slurm is not None):
        raise InputError(
            "--report: the page is of all tomograms, and not for a part or a login node; leave it "
            "out, and give `tomopicker report` when all are done"
        )
    if shard is not None and slurm is not None:
        raise InputError("--shard: --slurm parts the tomograms by itself; leave one of them out")
    profile = read_cluster(slurm, detach=detach)
    check_folder(out)
    with terminable():
        # Where jobs pick, this machine need not have what they pick on.
        here = device if profile is None else "cpu"
        model = read_model(run, cut, device=here, memory=gigabytes)
        sources = named_tomograms(tomograms)
        names = [source.name for source in sources]
        check_names(names)
        pixel_sizes = {source.name: pixel_size or source.pixel_size for source in sources}
        for source, name in product(sources, wanted):
            check_format(name, pixel_size=pixel_sizes[source.name])
        counts_pixels = any(FORMATS[name].writes_pixels for name in wanted)
        masks = masks_of(mask, names)
        found: Literal["auto"] | None = None if mask is None else "auto"
        jobs = {
            source.name: Job(
                source=source,
                outputs=Outputs(
                    out=out,
                    name=source.name,
                    formats=wanted,
                    # A mask that was found is written, so that it can be looked at.
                    with_mask=mask is not None and masks is None,
                    with_scores=scores,
                ),
                wanted=Origin(
                    checkpoint=model.sha256,
                    tomogram=(),
                    voxel_size=voxel_size or source.voxel_size,
                    cut=RecordedCut(count=cut.count, threshold=cut.threshold, fdr=cut.fdr),
                    mask=RecordedFile.of(masks[source.name]) if masks else found,
                    formats=tuple(sorted({*wanted} - {"csv"})),
                    pixel_size=pixel_sizes[source.name] if counts_pixels else pixel_size,
                ),
            )
            for source in sources
        }
        mine = part_of(jobs, shard)
        for folder in {folder for job in mine for folder in job.outputs.folders()}:
            remove_leftovers(folder)
        left, records = undone(mine, force=force)
        if not force:
            check_place(out, report=report and not records)
        opening = Opening(voxel_size=voxel_size, mask=mask, masks=masks)
        log = Log(summary=Summary(folder=out, names=names), of=len(mine), as_json=as_json)
        for record in records.values():
            log.add(record, out, already=True)
        if records:
            console.print(f"{len(records)} of {len(mine)} tomograms are done already")
        if left:
            tell_of_a_stopped_run(model)
        with ending(log):
            if profile is None:
                devices = devices_of(model.device, workers, len(left))
                if len(devices) > 1:
                    picking = pick_by_workers(
                        left, devices, run, cut, memory=gigabytes, opening=opening, lost=log.lost
                    )
                else:
                    picking = pick_all(left, model, opening, of=len(left), alone=len(jobs) == 1)
                with closing(picking):
                    for ended in picking:
                        log.take(ended)
            elif left:
                pick_with_jobs(left, jobs, profile, log, detach=detach)
            if detach:
                return
            if (out / "relion5").is_dir():
                write_import_list(out / "relion5")
        if report and log.done:
            write_report(out / REPORT, run, out, reportable(mine, opening), voxel_size=voxel_size)
            console.print(f"To judge the picks open {out / REPORT}", soft_wrap=True)
        if len(jobs) > 1:
            console.print(f"{log.total()}: see {out / SUMMARY}", soft_wrap=True)
        problems = list(log.lost)
        if log.failures:
            count_left_out = f"{len(log.failures)} of {len(mine)} tomograms left out"
            problems.append(f"{log.failures[0]} ({count_left_out})")
        if problems:
            raise InputError("; ".join(problems))


def _cut(count: int | None, threshold: float | None, fdr: float | None) -> Cut:
    from tomopicker.picks import Cut

    if sum(value is not None for value in (count, threshold, fdr)) > 1:
        raise InputError("give one of --count, --threshold and --fdr")
    if threshold is not None and math.isnan(threshold):
        raise InputError("--threshold nan: is not a score; give a number")
    if fdr is not None and not 0 <= fdr < 1:
        raise InputError(f"--fdr {fdr}: is a share of false picks, from 0 to below 1, as 0.05")
    return Cut(count=count, threshold=threshold, fdr=fdr)
