"""tomopicker train: learn to find a particle from a few clicked ones."""

from __future__ import annotations

import enum
import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tomopicker.cli.options import Detach, Device, Mask, Quiet, Slurm, VoxelSize
from tomopicker.cli.units import parse_length
from tomopicker.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tomopicker.checkpoint import Checkpoint
    from tomopicker.cli.run import Run
    from tomopicker.task import Task
    from tomopicker.types import Particles, Tomogram


class Preset(enum.StrEnum):
    """Names of the presets."""

    default = "default"
    paper = "paper"


class ObjectiveChoice(enum.StrEnum):
    """Names of the objectives."""

    pn = "pn"
    pu = "pu"
    kl = "kl"
    balanced_pu = "balanced-pu"


def train(
    tomograms: Annotated[
        list[Path],
        typer.Argument(
            help="Tomograms to learn from: files, a folder, a tomograms.star, a project; and the "
            "picks in them.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Run folder to make.", show_default=False)],
    picks: Annotated[
        Path | None,
        typer.Option(
            help="Clicked particles: a list in any format that is known (see docs/formats.md), "
            "a pattern, or a folder with one per tomogram. Left out, they are among TOMOGRAMS.",
            show_default=False,
        ),
    ] = None,
    negatives: Annotated[
        list[Path] | None,
        typer.Option(
            help="Places that are not the particle, as rejected picks, or clicks of another kind; "
            "in a file as --picks (repeatable).",
            show_default=False,
        ),
    ] = None,
    accepted: Annotated[
        Path | None,
        typer.Option(
            help="Those of the picks that were accepted from a picker's list: learned from, and "
            "not counted by, as they are no fair sample; in a file as --picks.",
            show_default=False,
        ),
    ] = None,
    radius: Annotated[
        str | None, typer.Option(help="Particle radius, as 160A or 12vx.", show_default=False)
    ] = None,
    diameter: Annotated[
        str | None, typer.Option(help="Instead of the radius.", show_default=False)
    ] = None,
    expected: Annotated[
        int | None,
        typer.Option(
            help="Particles per training tomogram, labelled or not; estimated when left out "
            "(needed by preset paper).",
            min=1,
            show_default=False,
        ),
    ] = None,
    val_tomogram: Annotated[
        Path | None,
        typer.Option(help="Tomogram to validate on; else some picks are held out."),
    ] = None,
    val_picks: Annotated[Path | None, typer.Option(help="Its clicked particles.")] = None,
    mask: Mask = None,
    preset: Annotated[Preset, typer.Option(help="Our best, or the paper.")] = Preset.default,
    objective: Annotated[
        ObjectiveChoice | None,
        typer.Option(help="Another objective than the preset's.", show_default=False),
    ] = None,
    voxel_size: VoxelSize = None,
    seed: Annotated[int, typer.Option(help="Seed of all randomness.", min=0)] = 0,
    epochs: Annotated[
        int | None, typer.Option(help="Another number than the preset's.", show_default=False)
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Any other setting, as training.batch=4 (see docs/settings.md)."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    skip_unmatched: Annotated[
        bool, typer.Option("--skip-unmatched", help="Leave out picks of other tomograms.")
    ] = False,
    slurm: Slurm = None,
    detach: Detach = False,
    quiet: Quiet = False,
    device: Device = "auto",
) -> None:
    """Learn to find a particle from a few clicked ones."""
    from tomopicker import parallel
    from tomopicker.cli.run import (
        Run,
        choose_device,
        console,
        masked,
        masks_of,
        read_labelled,
        read_places,
        rescaling,
    )
    from tomopicker.cli.slurm import at_work, read_cluster, train_with_a_job
    from tomopicker.config import preset as make_config
    from tomopicker.io.particles import count_elsewhere
    from tomopicker.io.places import picks_of_project, tomograms_and_picks
    from tomopicker.task import prepare

    parallel.join()
    is_first = parallel.number() == 0
    if not is_first:
        console.quiet = True
    with parallel.failing_together():
        profile = read_cluster(slurm, detach=detach)
        if profile is not None and parallel.processes() > 1:
            raise InputError("--slurm: submits one job; give it without torchrun")
        if is_first and (profile is None or at_work(out) is None):
            Run.check_out(out, resume=resume)
        if (val_tomogram is None) != (val_picks is None):
            raise InputError("--val-tomogram and --val-picks belong together: give both or neither")
        # Where a job trains, this machine need not have what it trains on.
        if profile is None:
            device = parallel.own_device(choose_device(device))
    with parallel.failing_together():
        tomograms, lists = tomograms_and_picks(tomograms, picks)
        lists = lists or picks_of_project(tomograms)
        labelled, rejected = read_labelled(
            tomograms,
            lists,
            voxel_size=voxel_size,
            skip_unmatched=skip_unmatched,
            negatives=negatives or (),
        )
        shown, elsewhere = None, 0
        if accepted is not None:
            shown = read_places([accepted], [tomogram for tomogram, _ in labelled])
            elsewhere = count_elsewhere(accepted, [tomogram.name for tomogram, _ in labelled])
        validation = None
        if val_tomogram is not None and val_picks is not None:
            found, _ = read_labelled(
                [val_tomogram],
                [val_picks],
                voxel_size=voxel_size,
                skip_unmatched=skip_unmatched,
            )
            if len(found) > 1:
                raise InputError(
                    f"--val-tomogram {val_tomogram}: {len(found)} tomograms there have picks; "
                    "name one"
                )
            (validation,) = found
        everyone = [tomogram.name for tomogram, _ in filter(None, (*labelled, validation))]
        masks = masks_of(mask, everyone)
        size = labelled[0][0].voxel_size
        overrides: dict[str, object] = {
            "training.seed": seed,
            **_parse_settings(settings or []),
        }
        if epochs is not None:
            overrides["training.epochs"] = epochs
        if objective is not None:
            overrides["objective.name"] = objective.value
        config = make_config(
            preset.value,
            radius_angstrom=_radius(radius, diameter, size),
            voxel_size=size,
            expected=expected,
            overrides=overrides,
        )
        if profile is not None:
            train_with_a_job(profile, out, detach=detach)
            return
        if parallel.processes() > config.training.batch:
            raise InputError(
                f"{parallel.processes()} processes cannot share batches of "
                f"{config.training.batch} windows: give torchrun --nproc-per-node "
                f"{config.training.batch} at most, or larger batches with --set "
                "training.batch=N"
            )

        def give_mask(tomogram: Tomogram, particles: Particles) -> tuple[Tomogram, Particles]:
            angstrom = config.radius_angstrom
            with_mask = masked(tomogram, mask, masks, radius_angstrom=angstrom, particles=particles)
            return with_mask, particles

        labelled = [give_mask(*pair) for pair in labelled]
        validation = validation and give_mask(*validation)
        task = prepare(config, labelled, validation, rejected, shown)
        run = Run.create(out, config) if is_first and not resume else Run.resume(out)
        start = _last_epoch(run) if resume else None
    if not is_first:
        _follow(task, start, device=device)
        return
    with run:
        run.save_clicks(labelled)
        for tomogram, _ in filter(None, (*labelled, validation)):
            note = rescaling(tomogram, config, task.voxel_size)
            if note is not None:
                run.say(note)
        _report_task(run, task)
        if elsewhere:
            run.say(f"{elsewhere} places of --accepted are in other tomograms and left out")
        if any(len(places) for places in shown or ()) and _counts_by_accepted(task):
            run.say(
                "Fewer than ten particles are labelled beside those of --accepted, so all "
                "count as clicks: the number of particles and the cut-off, which follow from "
                "them, may be far off; click ten or more by yourself"
            )
        checkpoint = _train(run, task, start, device=device)
        _finish(run, task, checkpoint, device=device)
        run.say(f"Done. Pick with: tomopicker pick {out} TOMOGRAM... --out picks")


def _radius(radius: str | None, diameter: str | None, voxel_size: float) -> float:
    """Radius in ångström."""
    if (radius is None) == (diameter is None):
        raise InputError("give the particle's size with either --radius or --diameter, as 160A")
    if radius is not None:
        return parse_length(radius).voxels(voxel_size) * voxel_size
    return parse_length(str(diameter)).voxels(voxel_size) * voxel_size / 2


def _parse_settings(texts: Sequence[str]) -> dict[str, object]:
    settings: dict[str, object] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set {text}: write it as name=value, such as training.batch=4")
        try:
            settings[name.strip()] = json.loads(value)
        except json.JSONDecodeError:
            settings[name.strip()] = value.strip()
    return settings


def _report_task(run: Run, task: Task) -> None:
    clicks = sum(len(part.centres) for part in task.training)
    held = sum(len(part.centres) for part in task.validation)
    where = task.validation_tomogram or "held out of the training picks"
    run.say(
        f"{clicks} particles to learn from in {len(task.training)} tomogram(s), {held} to validate "
        f"on ({where}); radius {task.radius} voxels of {task.voxel_size:.4g} Å"
    )
    shown = sum(int(part.is_shown.sum()) for part in task.training)
    if shown:
        run.say(
            f"{shown} of them were accepted from a list, and are no measure of how many there are"
        )
    rejected = sum(len(part.rejected) for part in task.training)
    if rejected:
        run.say(f"{rejected} rejected places to tell it from")
    run.say(
        f"Preset {task.config.preset}, objective {task.config.objective.name}, prior of the "
        f"unlabelled voxels {task.prior.unlabelled:.4f}"
    )


def _counts_by_accepted(task: Task) -> bool:
    """Whether accepted particles had to be taken for a fair sample, and none else measures."""
    from tomopicker.calibrate import FEWEST_TO_CALIBRATE

    if any(part.is_shown.any() for part in task.training):
        return False
    measured_by = sum(len(part.centres) for part in task.validation)
    return task.validation_tomogram is None or measured_by < FEWEST_TO_CALIBRATE


def _last_epoch(run: Run) -> Checkpoint | None:
    """The checkpoint to go on from; None where no epoch was done."""
    from tomopicker.checkpoint import read_checkpoint

    if not run.last.is_file():
        return None
    start = read_checkpoint(run.last)
    if not start.training:
        raise InputError(
            f"{run.last}: cannot be trained on, as it holds weights alone; train anew in another "
            "--out folder"
        )
    return start


def _follow(task: Task, start: Checkpoint | None, *, device: str) -> None:
    """Train beside process 0, which alone writes and speaks; what stops this stops that one too."""
    from tomopicker import parallel
    from tomopicker.training import fit

    with suppress(InputError, FloatingPointError), parallel.stopping_together() as stop_if_asked:
        for _ in fit(task, resume=start, device=device):
            stop_if_asked()
        parallel.leave()


def _train(run: Run, task: Task, start: Checkpoint | None, *, device: str) -> Checkpoint:
    """Train to the end, saving every epoch; returns the best checkpoint."""
    from tomopicker import parallel
    from tomopicker.checkpoint import read_checkpoint
    from tomopicker.training import Epoch, fit

    if parallel.processes() > 1:
        run.say(f"{parallel.processes()} processes train together")
    if start is not None:
        run.say(f"Continuing after epoch {start.description.epoch}")
    with run.progress("Training") as bar, parallel.stopping_together() as stop_if_asked:
        for event in fit(task, resume=start, device=device):
            if isinstance(event, Epoch):
                run.save_epoch(event)
                measure = event.measures["validation_ap"] or 0.0
                bar.note(f"AP {measure:.3f}")
            elif bar.is_due():
                # Not after every step: to read the loss is to wait for a GPU.
                done = event.epoch - 1 + event.step / event.steps
                bar.show(done / task.config.training.epochs, f"loss {event.loss:.3f}")
            stop_if_asked()
        parallel.leave()
    if not run.best.is_file():
        raise InputError(f"{run.folder}: no epoch was trained; check training.epochs")
    return read_checkpoint(run.best)


def _finish(run: Run, task: Task, checkpoint: Checkpoint, *, device: str) -> None:
    """Calibrate the best checkpoint where the preset does, and draw the curves."""
    from tomopicker.checkpoint import write_checkpoint
    from tomopicker.held_out import calibrate

    if task.config.preset == "default":
        with run.progress("Aligning and calibrating") as bar:
            checkpoint = calibrate(
                task, checkpoint, device=device, progress=lambda done: bar.show(done)
            )
        write_checkpoint(run.best, checkpoint)
        run.show_average(checkpoint)
    run.draw()
