"""tomopicker pick: find the particle in one or many tomograms."""

from __future__ import annotations

import json
import math
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tomopicker.cli.report import REPORT, write_report
from tomopicker.errors import InputError, OutputError

if TYPE_CHECKING:
    from torch import nn

    from tomopicker.calibrate import Count
    from tomopicker.checkpoint import Checkpoint
    from tomopicker.cli.plan import Job
    from tomopicker.inference import Cut, Picked
    from tomopicker.io.record import Failure, Origin, Record
    from tomopicker.io.summary import Summary
    from tomopicker.types import Tomogram

TERMINATED = 143
"""Exit code after SIGTERM, as shells expect: 128 and the number of the signal."""


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
        typer.Option("--format", help="Also write this format (repeatable); csv always is."),
    ] = None,
    pixel_size: Annotated[
        float | None,
        typer.Option(
            help="Ångström, of the unbinned tilt series; for relion4 and eman2.", show_default=False
        ),
    ] = None,
    scores: Annotated[
        bool, typer.Option("--scores", help="Also write the score volumes (MRC).")
    ] = False,
    mask: Annotated[
        Path | None,
        typer.Option(
            help="Where particles may be: a volume, a folder with one per tomogram, or auto.",
            show_default=False,
        ),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Also write report.html: one page to judge the picks.")
    ] = False,
    voxel_size: Annotated[
        float | None, typer.Option(help="Ångström, where the header is wrong.", show_default=False)
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace picks that were made otherwise, or by who knows."),
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(help="Only this part of the tomograms, as 3/8.", show_default=False),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON for each tomogram.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
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
    from tomopicker.cli.outputs import Outputs
    from tomopicker.cli.plan import Job, check_names, check_place, part_of, undone
    from tomopicker.cli.run import check_folder, console, masks_of, named_tomograms
    from tomopicker.cli.units import parse_memory
    from tomopicker.io.particles import check_format, write_import_list
    from tomopicker.io.record import Origin, RecordedCut, RecordedFile
    from tomopicker.io.summary import SUMMARY, Summary
    from tomopicker.io.whole import remove_leftovers

    cut = _cut(count, threshold, fdr)
    gigabytes = None if memory is None else parse_memory(memory)
    wanted = ["relion5"] if formats is None else formats
    for name in wanted:
        check_format(name, pixel_size=pixel_size)
    if report and shard is not None:
        raise InputError(
            "--report: the page would be of one part of the tomograms only; leave it out, and "
            "give `tomopicker report` when all parts are done"
        )
    check_folder(out)
    with _quiet(quiet), _terminable():
        model = _read_model(run, cut, device=device, memory=gigabytes)
        sources = named_tomograms(tomograms)
        names = [source.name for source in sources]
        check_names(names)
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
                    pixel_size=pixel_size,
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
        opening = _Opening(voxel_size=voxel_size, mask=mask, masks=masks)
        log = _Log(summary=Summary(folder=out, names=names), of=len(mine), as_json=as_json)
        for record in records.values():
            log.add(record, out, already=True)
        if records:
            console.print(f"{len(records)} of {len(mine)} tomograms are done already")
        if left:
            _tell_of_a_stopped_run(model)
        with _ending(log):
            tomograms_done = _pick_all(left, model, opening, log, alone=len(jobs) == 1)
            if (out / "relion5").is_dir():
                write_import_list(out / "relion5")
        if report and log.done:
            # Those that were done before are opened again.
            tomograms_done |= _opened([job for job in mine if job.source.name in records], opening)
            in_order = [tomograms_done[name] for name in names if name in tomograms_done]
            write_report(out / REPORT, run, out, in_order)
            console.print(f"To judge the picks open {out / REPORT}", soft_wrap=True)
        if len(jobs) > 1:
            console.print(f"{log.total()}: see {out / SUMMARY}", soft_wrap=True)
        if log.failures:
            count_left_out = f"{len(log.failures)} of {len(mine)} tomograms left out"
            raise InputError(f"{log.failures[0]} ({count_left_out})")


@dataclass(frozen=True, kw_only=True)
class _Model:
    """What is picked with."""

    checkpoint: Checkpoint
    sha256: str
    network: nn.Module
    cut: Cut
    device: str
    memory: float | None

    @property
    def radius_angstrom(self) -> float:
        return self.checkpoint.description.config.radius_angstrom


@dataclass(frozen=True, kw_only=True)
class _Opening:
    """How tomograms are opened."""

    voxel_size: float | None
    mask: Path | None
    masks: dict[str, Path] | None


@dataclass(kw_only=True)
class _Log:
    """What became of the tomograms, told as it happens."""

    summary: Summary
    of: int
    """Tomograms of this command."""
    as_json: bool
    done: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, record: Record, out: Path, *, already: bool = False) -> None:
        """Note a tomogram that is done."""
        self.done += 1
        count = record.estimated
        self._tell(
            tomogram=record.tomogram,
            status="done",
            already=already,
            picks=record.picks,
            threshold=record.threshold,
            estimated=None if count is None else count.model_dump(),
            seconds=record.seconds,
            csv=str(out / f"{record.tomogram}.csv"),
        )

    def add_failure(self, failure: Failure) -> None:
        """Note a tomogram that was left out."""
        self.failures.append(failure.reason)
        self._tell(
            tomogram=failure.tomogram,
            status="failed",
            already=False,
            seconds=failure.seconds,
            reason=failure.reason,
        )

    def total(self) -> str:
        """Tell how far it got."""
        left = self.of - self.done - len(self.failures)
        parts = {"done": self.done, "failed": len(self.failures), "left": left}
        told = ", ".join(f"{number} {what}" for what, number in parts.items() if number)
        return f"{self.of} tomograms: {told or 'none in this part'}"

    def _tell(self, **line: object) -> None:
        if self.as_json:
            typer.echo(json.dumps(line))


def _cut(count: int | None, threshold: float | None, fdr: float | None) -> Cut:
    from tomopicker.inference import Cut

    if sum(value is not None for value in (count, threshold, fdr)) > 1:
        raise InputError("give one of --count, --threshold and --fdr")
    if threshold is not None and math.isnan(threshold):
        raise InputError("--threshold nan: is not a score; give a number")
    if fdr is not None and not 0 <= fdr < 1:
        raise InputError(f"--fdr {fdr}: is a share of false picks, from 0 to below 1, as 0.05")
    return Cut(count=count, threshold=threshold, fdr=fdr)


@contextmanager
def _ending(log: _Log) -> Iterator[None]:
    """However it ends, leave a true summary, and say how to go on."""
    from tomopicker.cli.run import console

    goes_on = "the same command goes on"
    try:
        yield
    except OutputError as error:
        raise OutputError(f"{error}; {log.total()}, and {goes_on}") from error
    except (KeyboardInterrupt, SystemExit):
        console.print(f"Stopped. {log.total()}; {goes_on}", soft_wrap=True)
        raise
    finally:
        # Where the disk is full it cannot be written either: the first error is the one to show.
        with suppress(OutputError):
            if log.summary.folder.is_dir():
                log.summary.write()


@contextmanager
def _terminable() -> Iterator[None]:
    """Have SIGTERM end the process as Ctrl-C does, with an exit code of its own."""

    def stop(number: int, frame: object) -> None:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _quiet(quiet: bool) -> Iterator[None]:
    from tomopicker.cli.run import console

    before, console.quiet = console.quiet, quiet
    try:
        yield
    finally:
        console.quiet = before


def _read_model(run: Path, cut: Cut, *, device: str, memory: float | None) -> _Model:
    from tomopicker.checkpoint import checkpoint_file, read_checkpoint
    from tomopicker.cli.run import choose_device
    from tomopicker.inference import network_of
    from tomopicker.io.record import sha256_of

    checkpoint = read_checkpoint(run)
    try:
        network = network_of(checkpoint)
    except InputError as error:
        raise InputError(f"{run}: {error}") from error
    return _Model(
        checkpoint=checkpoint,
        sha256=sha256_of(checkpoint_file(run)),
        network=network,
        cut=cut,
        device=choose_device(device),
        memory=memory,
    )


def _tell_of_a_stopped_run(model: _Model) -> None:
    from tomopicker.cli.run import console
    from tomopicker.inference import Cut

    description = model.checkpoint.description
    is_default = description.config.preset == "default"
    if model.cut == Cut() and is_default and not description.calibration:
        console.print(
            "This run was stopped before its end: the list is as long as training expected; give "
            "--count or --threshold, or finish the run with --resume",
            soft_wrap=True,
        )


def _pick_all(
    jobs: Sequence[Job], model: _Model, opening: _Opening, log: _Log, *, alone: bool
) -> dict[str, Tomogram]:
    """Pick tomograms one after the other; a broken one must not cost the others."""
    from tomopicker.cli.run import console
    from tomopicker.io.record import Failure, now

    picked = {}
    for number, job in enumerate(jobs):
        # Where parts overlap, another process may have done it by now.
        record = job.done()
        if record is not None:
            log.add(record, job.outputs.out, already=True)
            continue
        started = time.monotonic()
        try:
            tomogram = _open(job, model, opening)
            if number == 0 or job.outputs.with_scores:
                _check_space(job, tomogram, model, len(jobs) - number, warn=number == 0)
            record = _pick_one(job, tomogram, model)
        except OutputError:
            raise
        except InputError as error:
            if alone:
                raise
            console.print(f"Left out: {error}", soft_wrap=True)
            failure = Failure(
                tomogram=job.source.name,
                path=" and ".join(str(path) for path in job.source.paths),
                finished=now(),
                seconds=round(time.monotonic() - started, 1),
                reason=str(error),
            )
            job.outputs.write_failure(failure)
            log.add_failure(failure)
        else:
            picked[tomogram.name] = tomogram
            log.add(record, job.outputs.out)
        log.summary.write_if_due()
    return picked


def _opened(jobs: Sequence[Job], opening: _Opening) -> dict[str, Tomogram]:
    """Open the tomograms that are still there."""
    from tomopicker.cli.run import console

    opened = {}
    for job in jobs:
        try:
            opened[job.source.name] = job.source.open(voxel_size=opening.voxel_size)
        except InputError as error:
            console.print(f"Not in the report: {error}", soft_wrap=True)
    return opened


def _open(job: Job, model: _Model, opening: _Opening) -> Tomogram:
    """Open a tomogram with its mask, and say at which voxel size it will be worked at."""
    from tomopicker.cli.run import console, masked, rescaling

    description = model.checkpoint.description
    tomogram = job.source.open(voxel_size=opening.voxel_size)
    note = rescaling(tomogram, description.config, description.voxel_size)
    if note is not None:
        console.print(note, soft_wrap=True)
    return masked(tomogram, opening.mask, opening.masks, radius_angstrom=model.radius_angstrom)


def _check_space(job: Job, tomogram: Tomogram, model: _Model, left: int, *, warn: bool) -> None:
    from tomopicker.cli.outputs import check_space
    from tomopicker.cli.run import console
    from tomopicker.inference import scored_voxel_size

    size = job.outputs.size(tomogram, scored_voxel_size(model.checkpoint, tomogram))
    warning = check_space(job.outputs.out, size, left)
    if warn and warning is not None:
        console.print(warning, soft_wrap=True)


def _pick_one(job: Job, tomogram: Tomogram, model: _Model) -> Record:
    """Score a tomogram, take its particles, and write all that is wanted of it."""
    from tomopicker import inference
    from tomopicker.cli.run import console, progress_bar

    config = model.checkpoint.description.config
    if model.memory is not None:
        settings = config.inference.model_copy(update={"memory": model.memory, "tile": None})
        config = config.model_copy(update={"inference": settings})
    # Before the file is read: a change of it that is noticed is one after this.
    origin, started = job.origin(), time.monotonic()
    with progress_bar(tomogram.name) as bar:
        bar.show(0.0, "reading")
        # The features are not kept: their correlation takes half the memory of the scores.
        volume = inference.score(
            inference.features_of(model.checkpoint, tomogram),
            model.network,
            config,
            device=model.device,
            progress=bar.show,
        )
        changed = job.origin()
        if changed != origin and not any(file.is_missing for file in changed.tomogram):
            raise InputError(
                f"{tomogram.path or tomogram.name}: was changed while it was read; give the same "
                "command again when it is whole"
            )
        job.outputs.begin(origin)
        if job.outputs.with_scores:
            bar.show(1.0, "writing the scores")
            job.outputs.write_scores(
                volume, inference.scored_voxel_size(model.checkpoint, tomogram)
            )
        bar.show(1.0, "taking the peaks")
        picked = inference.pick(volume, tomogram, model.checkpoint, model.cut, overwrite=True)
    seconds = time.monotonic() - started
    record = _record(tomogram, picked, model, origin, seconds)
    job.outputs.write(tomogram, picked, record, radius_angstrom=model.radius_angstrom)
    console.print(_told(tomogram, picked), soft_wrap=True)
    if picked.estimated is not None:
        console.print(_sensitivity(picked.lengths, picked.estimated), soft_wrap=True)
    return record


def _record(
    tomogram: Tomogram, picked: Picked, model: _Model, origin: Origin, seconds: float
) -> Record:
    """Note how the picks of a tomogram were made."""
    from tomopicker.inference import scored_voxel_size
    from tomopicker.io.record import Record, RecordedCount, RecordedHistogram, now

    count = picked.estimated
    return Record(
        command=shlex.join(["tomopicker", *sys.argv[1:]]),
        finished=now(),
        seconds=round(seconds, 1),
        device=model.device,
        tomogram=tomogram.name,
        path=str(tomogram.path or ""),
        shape=tomogram.shape,
        voxel_size=tomogram.voxel_size,
        scored_voxel_size=scored_voxel_size(model.checkpoint, tomogram),
        origin=origin,
        picks=len(picked.particles),
        threshold=picked.threshold,
        estimated=None
        if count is None
        else RecordedCount(estimate=count.estimate, low=count.low, high=count.high),
        lengths={f"{rate:g}": length for rate, length in picked.lengths.items()},
        histogram=None if picked.histogram is None else RecordedHistogram.of(picked.histogram),
    )


def _told(tomogram: Tomogram, picked: Picked) -> str:
    text = f"{tomogram.name}: {len(picked.particles)} picks"
    if not len(picked.particles):
        text += " (none scores high enough; to see the best ones give --count)"
    if picked.threshold is not None:
        text += f", scores down to {picked.threshold:.2f}"
    return text


def _sensitivity(lengths: dict[float, int], count: Count) -> str:
    """Tell how much the list's length hangs on the share of false picks that is accepted.

    >>> from tomopicker.calibrate import Count
    >>> line = _sensitivity({0.05: 120, 0.1: 150}, Count(estimate=170.2, low=130.0, high=220.0))
    >>> for part in line.split("; "):
    ...     print(part.strip())
    at a false-discovery rate of 5 %: 120 picks, 10 %: 150
    about 170 particles are there (130 to 220)
    """
    (rate, picks), *others = lengths.items()
    text = f"  at a false-discovery rate of {100 * rate:.0f} %: {picks} picks"
    text += "".join(f", {100 * rate:.0f} %: {picks}" for rate, picks in others)
    between = f"({count.low:.0f} to {count.high:.0f})"
    return f"{text}; about {count.estimate:.0f} particles are there {between}"
