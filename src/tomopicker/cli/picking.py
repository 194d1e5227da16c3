"""Pick tomograms one after the other, and write what is wanted of each."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tomopicker.errors import InputError, OutputError, is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence
    from pathlib import Path

    from torch import nn

    from tomopicker.calibrate import Count
    from tomopicker.checkpoint import Checkpoint
    from tomopicker.cli.log import Ended
    from tomopicker.cli.plan import Job
    from tomopicker.io.record import Failure, Origin, Record
    from tomopicker.io.tomograms import Source
    from tomopicker.picks import Cut, Picked
    from tomopicker.types import Tomogram

_TOO_LARGE = (
    "out of memory: give --memory, as 1GB, or --device cpu, or use a machine with more; the same "
    "command picks it then"
)


@dataclass(frozen=True, kw_only=True)
class Model:
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
class Opening:
    """How tomograms are opened."""

    voxel_size: float | None
    mask: Path | None
    masks: dict[str, Path] | None


def read_model(run: Path, cut: Cut, *, device: str, memory: float | None) -> Model:
    """Read a checkpoint and choose what it runs on.

    Raises
    ------
    InputError
        When there is none, or its weights are not its network's.
    """
    from tomopicker.checkpoint import checkpoint_file, read_checkpoint
    from tomopicker.cli.run import choose_device
    from tomopicker.inference import network_of
    from tomopicker.io.record import sha256_of

    checkpoint = read_checkpoint(run)
    try:
        network = network_of(checkpoint)
    except InputError as error:
        raise InputError(f"{run}: {error}") from error
    return Model(
        checkpoint=checkpoint,
        sha256=sha256_of(checkpoint_file(run)),
        network=network,
        cut=cut,
        device=choose_device(device),
        memory=memory,
    )


def tell_of_a_stopped_run(model: Model) -> None:
    """Say that a run has no cut-off of its own, where one is needed."""
    from tomopicker.cli.run import console
    from tomopicker.picks import Cut

    description = model.checkpoint.description
    is_default = description.config.preset == "default"
    if model.cut == Cut() and is_default and not description.calibration:
        console.print(
            "This run was stopped before its end: the list is as long as training expected; give "
            "--count or --threshold, or finish the run with --resume",
            soft_wrap=True,
        )


def pick_all(
    jobs: Iterable[Job],
    model: Model,
    opening: Opening,
    *,
    of: int,
    alone: bool = False,
    tells: bool = True,
) -> Generator[Ended]:
    """Pick tomograms one after the other; a broken one must not cost the others.

    Parameters
    ----------
    of
        How many there are, of all processes that pick them.
    alone
        Whether there is but one: what is wrong with it is raised then.
    tells
        Whether to say that the disk may be too small for all of them.

    Raises
    ------
    OutputError
        When something cannot be written.
    """
    from tomopicker.cli.log import Ended
    from tomopicker.cli.run import console
    from tomopicker.io.record import Failure, now

    has_space = False
    for number, job in enumerate(jobs):
        # Where parts overlap, another process may have done it by now.
        record = job.done()
        if record is not None:
            yield Ended(what=record, out=job.outputs.out, already=True)
            continue
        started = time.monotonic()
        try:
            tomogram = _open(job, model, opening)
            if job.outputs.with_scores or not has_space:
                _check_space(job, tomogram, model, of - number, warn=tells and not has_space)
                has_space = True
            what: Record | Failure = _pick_one(job, tomogram, model)
        except OutputError:
            raise
        except (InputError, MemoryError, RuntimeError) as error:
            # One that is too large must not keep the same command from ever going on, either.
            if alone or not (isinstance(error, InputError) or is_out_of_memory(error)):
                raise
            reason = str(error)
            if not isinstance(error, InputError):
                reason = f"{job.source.name}: {_TOO_LARGE}"
            console.print(f"Left out: {reason}", soft_wrap=True)
            what = Failure(
                tomogram=job.source.name,
                path=" and ".join(str(path) for path in job.source.paths),
                finished=now(),
                seconds=round(time.monotonic() - started, 1),
                reason=reason,
            )
            job.outputs.write_failure(what)
        yield Ended(what=what, out=job.outputs.out)


def reportable(jobs: Sequence[Job], opening: Opening) -> list[Source]:
    """Find the tomograms that are done, as far as they are still there."""
    from tomopicker.cli.run import console

    sources = []
    for job in jobs:
        if job.outputs.recorded() is None:
            continue
        try:
            job.source.open(voxel_size=opening.voxel_size)
            sources.append(job.source)
        except InputError as error:
            console.print(f"Not in the report: {error}", soft_wrap=True)
    return sources


def _open(job: Job, model: Model, opening: Opening) -> Tomogram:
    """Open a tomogram with its mask, and say at which voxel size it will be worked at."""
    from tomopicker.cli.run import console, masked, rescaling

    description = model.checkpoint.description
    tomogram = job.source.open(voxel_size=opening.voxel_size)
    note = rescaling(tomogram, description.config, description.voxel_size)
    if note is not None:
        console.print(note, soft_wrap=True)
    return masked(tomogram, opening.mask, opening.masks, radius_angstrom=model.radius_angstrom)


def _check_space(job: Job, tomogram: Tomogram, model: Model, left: int, *, warn: bool) -> None:
    from tomopicker.cli.outputs import check_space
    from tomopicker.cli.run import console
    from tomopicker.inference import scored_voxel_size

    size = job.outputs.size(tomogram, scored_voxel_size(model.checkpoint, tomogram))
    warning = check_space(job.outputs.out, size, left)
    if warn and warning is not None:
        console.print(warning, soft_wrap=True)


def _pick_one(job: Job, tomogram: Tomogram, model: Model) -> Record:
    """Score a tomogram, take its particles, and write all that is wanted of it."""
    from tomopicker import inference
    from tomopicker.cli.run import console, progress_bar
    from tomopicker.picks import pick

    config = model.checkpoint.description.config
    if model.memory is not None:
        settings = config.inference.model_copy(update={"memory": model.memory, "tile": None})
        config = config.model_copy(update={"inference": settings})
    # Before the file is read: a change of it that is noticed is one after this.
    origin, started = job.origin(), time.monotonic()
    with progress_bar(tomogram.name) as bar:
        bar.show(0.0, "reading")
        features = inference.features_of(model.checkpoint, tomogram).for_one_use()
        volume = inference.score(
            features, model.network, config, device=model.device, progress=bar.show
        )
        # Free what is left of the correlation, and the volume, up to half as large as the scores.
        is_compared = bool(model.checkpoint.description.template_weight)
        kept = replace(features, correlation=None) if is_compared else None
        del features
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
        picked = pick(
            volume,
            tomogram,
            model.checkpoint,
            model.cut,
            features=kept,
            device=model.device,
            overwrite=True,
            progress=lambda done: bar.show(done, "comparing shapes"),
        )
    seconds = time.monotonic() - started
    record = _record(tomogram, picked, model, origin, seconds)
    job.outputs.write(tomogram, picked, record, radius_angstrom=model.radius_angstrom)
    console.print(_told(tomogram, picked), soft_wrap=True)
    if picked.estimated is not None:
        console.print(_sensitivity(picked.lengths, picked.estimated), soft_wrap=True)
    return record


def _record(
    tomogram: Tomogram, picked: Picked, model: Model, origin: Origin, seconds: float
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
        radius_angstrom=model.radius_angstrom,
        extent=tomogram.extent,
        origin=origin,
        picks=len(picked.particles),
        threshold=picked.threshold,
        estimated=None
        if count is None
        else RecordedCount(estimate=count.estimate, low=count.low, high=count.high),
        lengths={f"{rate:g}": length for rate, length in picked.lengths.items()},
        histogram=None if picked.histogram is None else RecordedHistogram.of(picked.histogram),
        by_contrasts=picked.by_contrasts,
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
