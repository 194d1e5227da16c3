"""A run folder: settings, log, checkpoints, metrics and their plot; and what commands share."""

from __future__ import annotations

import csv
import math
import os
import re
import shlex
import signal
import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from tomopicker.errors import InputError
from tomopicker.io.whole import whole_file
from tomopicker.signals import handling

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from tomopicker.checkpoint import Checkpoint
    from tomopicker.config import Config
    from tomopicker.io.tomograms import Source
    from tomopicker.training import Epoch
    from tomopicker.types import Particles, Tomogram, Volume

AUTOMATIC = "auto"
"""What stands in place of a file or folder of masks."""

console = Console(stderr=True, highlight=False, markup=False)
"""Messages and progress; standard output is for results."""

_GLANCE = 0.1
"""Seconds between moves of a bar that cost something."""

AVERAGE = "average.mrc"
"""File in a run folder with the average of the aligned particles."""

CLICKS = "clicks"
"""Folder in a run folder with the clicked particles of each training tomogram."""


@dataclass(kw_only=True)
class Bar:
    """A progress bar with a share done, a running note and the time left."""

    progress: Progress
    task: TaskID
    notes: str = ""
    shown: float = -math.inf
    """Monotonic time of the last move."""

    def is_due(self) -> bool:
        """Whether somebody looks, and has seen the last move for a while."""
        return not self.progress.disable and time.monotonic() - self.shown > _GLANCE

    def show(self, share: float, message: str = "") -> None:
        """Move the bar to a share of the work."""
        self.shown = time.monotonic()
        text = "  ".join(part for part in (message, self.notes) if part)
        self.progress.update(self.task, completed=share, message=text)

    def note(self, text: str) -> None:
        """Keep a note beside the following messages."""
        self.notes = text


@contextmanager
def progress_bar(title: str) -> Iterator[Bar]:
    """Show a bar on a terminal; elsewhere a line now and then is left to the log."""
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[message]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        yield Bar(progress=progress, task=progress.add_task(title, total=1.0, message=""))


@dataclass(kw_only=True)
class Run:
    """The folder of a training run. A context: inside it a scheduler's signals stop like Ctrl-C."""

    folder: Path
    log: TextIO = field(init=False)
    _open: ExitStack = field(init=False, default_factory=ExitStack)

    @staticmethod
    def check_out(folder: Path, *, resume: bool) -> None:
        """Refuse a folder that holds something, or one that a resumed run cannot be in."""
        from tomopicker.cluster import FOLDER

        check_folder(folder)
        if resume:
            if not (folder / "config.json").is_file():
                raise InputError(f"{folder}: holds no run to resume; leave out --resume")
        # Before a job that trains in it there are its logs.
        elif folder.is_dir() and any(path.name != FOLDER for path in folder.iterdir()):
            raise InputError(
                f"{folder}: is not empty; give another --out, or continue the run with --resume"
            )

    @classmethod
    def create(cls, folder: Path, config: Config) -> Self:
        """Make the folder and write the resolved settings."""
        folder.mkdir(parents=True, exist_ok=True)
        run = cls(folder=folder)
        run._write_config(config)
        return run

    @classmethod
    def resume(cls, folder: Path) -> Self:
        """Open the folder of an earlier run."""
        return cls(folder=folder)

    @property
    def best(self) -> Path:
        """Checkpoint of the epoch that picking uses."""
        return self.folder / "best.safetensors"

    @property
    def last(self) -> Path:
        """Checkpoint of the last epoch, with what is needed to train on."""
        return self.folder / "last.safetensors"

    def __enter__(self) -> Self:
        self.log = (self.folder / "log.txt").open("a", encoding="utf-8")
        self._open.enter_context(handling(signal.default_int_handler))
        self._write_log(f"$ {shlex.join(['tomopicker', *sys.argv[1:]])}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()
        # Where the disk is full the log cannot be written either: the first error is the one to
        # show.
        with suppress(OSError):
            if kind is KeyboardInterrupt and self.last.is_file():
                self.say(
                    f"Stopped. {self.last} is the last whole epoch; the same command with --resume "
                    "continues it"
                )
            elif kind is KeyboardInterrupt:
                self.say(
                    "Stopped before the first epoch was done; the same command with --resume "
                    "starts again"
                )
            elif error is not None:
                self._write_log(f"failed: {error}")
        with suppress(OSError):
            self.log.close()

    def say(self, message: str) -> None:
        """Tell the user, and the log."""
        console.print(message, soft_wrap=True)
        self._write_log(message)

    @contextmanager
    def progress(self, title: str) -> Iterator[Bar]:
        """Show a progress bar, and say when the work is done."""
        started = time.monotonic()
        self._write_log(f"{title} ...")
        with progress_bar(title) as bar:
            yield bar
        self.say(f"{title} took {time.monotonic() - started:.0f} s")

    def save_clicks(self, labelled: Sequence[tuple[Tomogram, Particles]]) -> None:
        """Keep the clicked particles of each training tomogram, for the report."""
        from tomopicker.io.particles import write_particles

        for tomogram, clicks in labelled:
            path = self.folder / CLICKS / f"{tomogram.name}.csv"
            write_particles(path, replace(clicks, tomograms=()), overwrite=True)

    def show_average(self, checkpoint: Checkpoint) -> None:
        """Write the average of the aligned particles as a volume, where one was wanted."""
        from tomopicker.io.tomograms import write_volume
        from tomopicker.template import FEWEST_TO_ALIGN, LARGEST_RADIUS

        description = checkpoint.description
        if checkpoint.template is not None:
            path = self.folder / AVERAGE
            write_volume(
                path,
                checkpoint.template.volume,
                voxel_size=description.voxel_size,
                overwrite=True,
            )
            aligned = description.aligned
            self.say(f"Aligned {aligned} clicked and likely particles: their average is {path}")
            weight, most = description.template_weight, description.config.inference.template_weight
            self.say(
                f"Shape counts in the scores, by {weight / most:.0%} of what it may at most"
                if weight
                else "Shape does not count in the scores: it adds too little to them"
            )
            if weight:
                self.say(
                    "Shape also tells how many particles a tomogram has"
                    if description.contrasts is not None
                    else "Shape is too alike in particles and others to tell how many there are: "
                    "scores do"
                )
            return
        (self.folder / AVERAGE).unlink(missing_ok=True)
        if not description.config.inference.template_weight:
            return
        if description.radius_voxels > LARGEST_RADIUS:
            self.say(
                f"No particles were aligned: their radius has more than {LARGEST_RADIUS} voxels; "
                "leave preprocessing.working_radius as it is"
            )
        else:
            self.say(
                f"No particles were aligned: it takes {FEWEST_TO_ALIGN} to learn from, beside "
                "those that are held out; give 10 clicks or more"
            )

    def save_epoch(self, epoch: Epoch) -> None:
        """Save the checkpoints and the metrics of an epoch."""
        from tomopicker.checkpoint import Checkpoint, write_checkpoint

        if epoch.is_kept:
            lean = Checkpoint(
                description=epoch.checkpoint.description, weights=epoch.checkpoint.weights
            )
            write_checkpoint(self.best, lean)
        # The best before the last: a run cut off in between repeats this epoch, and saves both.
        write_checkpoint(self.last, epoch.checkpoint)
        description = epoch.checkpoint.description
        # Again, because a resumed run may have more epochs than it was planned with.
        self._write_config(description.config)
        history = description.history
        write_rows(self.folder / "metrics.csv", history)
        row = ", ".join(
            f"{name} {value:.4g}" for name, value in epoch.measures.items() if value is not None
        )
        self._write_log(row)
        if not console.is_terminal:
            console.print(row, soft_wrap=True)

    def draw(self) -> None:
        """Draw the training curves."""
        from tomopicker.report import save_figure, training_figure

        with (self.folder / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        save_figure(training_figure(rows), self.folder / "training.png", force=True)

    def _write_config(self, config: Config) -> None:
        write_text(self.folder / "config.json", config.model_dump_json(indent=2) + "\n")

    def _write_log(self, message: str) -> None:
        self.log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}\n")
        self.log.flush()


def read_labelled(
    places: Sequence[Path],
    picks: Sequence[Path],
    *,
    voxel_size: float | None,
    skip_unmatched: bool,
    negatives: Sequence[Path] = (),
) -> tuple[list[tuple[Tomogram, Particles]], list[Particles] | None]:
    """Read tomograms with the picks and the rejected places of each, checked to lie inside.

    Of a list, a folder or a project, only tomograms that have picks, or rejected places in
    `negatives`, are kept; every one that was named by itself must have some.

    Returns
    -------
    tuple
        The tomograms with their picks, and the rejected places of each; None without `negatives`.
    """
    from tomopicker.io.names import in_words
    from tomopicker.io.particles import check_inside, read_picks_for

    sources = named_tomograms(places)
    are_listed = all(source.listed is not None for source in sources)
    tomograms: list[Tomogram] = []
    broken: list[str] = []
    for source in sources:
        try:
            tomograms.append(source.open(voxel_size=voxel_size))
        except InputError as error:
            # Few of a project's tomograms have picks: another that is missing does not matter.
            if not are_listed:
                raise
            broken.append(str(error))
    if not tomograms:
        raise InputError(broken[0])
    try:
        tables = read_picks_for(
            picks,
            tomograms,
            skip_unmatched=skip_unmatched,
            allow_none=are_listed or bool(negatives),
        )
    except InputError as error:
        if broken:
            raise InputError(
                f"{error} ({len(broken)} of {len(sources)} tomograms could not be opened; the "
                f"first: {broken[0]})"
            ) from error
        raise
    if broken:
        # Its picks, if it has some, are not learned from.
        console.print(
            f"Warning: {len(broken)} of {len(sources)} tomograms could not be opened and are left "
            f"out; the first: {broken[0]}",
            soft_wrap=True,
        )
    rejected = read_places(negatives, tomograms) if negatives else None
    labelled, kept = [], []
    for number, (tomogram, table) in enumerate(zip(tomograms, tables, strict=True)):
        check_inside(table, tomogram.shape, in_words(picks))
        if len(table) or (rejected is not None and len(rejected[number])):
            labelled.append((tomogram, table))
            kept.append(number)
        elif not are_listed:
            raise InputError(
                f"{tomogram.name}: has neither picks in {in_words(picks)} nor rejected places in "
                f"{in_words(negatives)}; leave it out"
            )
    if len(labelled) < len(sources):
        names = ", ".join(tomogram.name for tomogram, _ in labelled[:5])
        more = f" and {len(labelled) - 5} more" if len(labelled) > 5 else ""
        what = "picks or rejected places" if negatives else "picks"
        console.print(
            f"{len(labelled)} of {len(sources)} tomograms have {what}: {names}{more}",
            soft_wrap=True,
        )
    return labelled, None if rejected is None else [rejected[number] for number in kept]


def read_places(places: Sequence[Path], tomograms: Sequence[Tomogram]) -> list[Particles]:
    """Read what was rejected, or accepted, in the tomograms to learn from, all lists together."""
    import numpy as np

    from tomopicker.io.particles import check_inside, read_picks_for
    from tomopicker.types import Particles

    found = []
    for place in places:
        # Not in every tomogram something was rejected, and not in every one something was clicked.
        tables = read_picks_for(
            place, tomograms, skip_unmatched=True, allow_none=len(tomograms) > 1
        )
        for tomogram, table in zip(tomograms, tables, strict=True):
            check_inside(table, tomogram.shape, place)
        found.append(tables)
    return [
        Particles(
            positions=np.concatenate([table.positions for table in of_one]),
            voxel_size=of_one[0].voxel_size,
        )
        for of_one in zip(*found, strict=True)
    ]


def masks_of(place: Path | None, names: Sequence[str]) -> dict[str, Path] | None:
    """Find the masks that `--mask` names; None for an automatic one, or none at all."""
    from tomopicker.io.tomograms import find_masks

    return None if place is None or str(place) == AUTOMATIC else find_masks(place, names)


def masked(
    tomogram: Tomogram,
    place: Path | None,
    masks: dict[str, Path] | None,
    *,
    radius_angstrom: float,
    particles: Particles | None = None,
) -> Tomogram:
    """Give a tomogram its mask, and say how much of it that leaves."""
    import numpy as np

    from tomopicker.io.tomograms import read_mask
    from tomopicker.mask import automatic_mask, kept_share, within
    from tomopicker.rescale import level_for

    if place is None:
        return tomogram
    if masks is None:
        # Of a file with several levels one that is not much finer than what it looks at.
        level = level_for(tomogram, radius_angstrom / 3)
        mask: Volume = automatic_mask(level.data, radius_angstrom / level.voxel_size)
    else:
        mask = read_mask(masks[tomogram.name], tomogram)
    text = f"{tomogram.name}: the mask leaves {100 * kept_share(mask):.0f} % of the volume"
    if particles is not None:
        voxels = np.rint(particles.voxels).astype(int).clip(0, np.array(tomogram.shape) - 1)
        outside = int((~within(mask, tomogram.shape)[tuple(voxels.T)]).sum())
        if outside:
            text += (
                f"; {outside} of {len(particles)} picks are outside, and learned from all the same"
            )
    console.print(text, soft_wrap=True)
    return replace(tomogram, mask=mask)


def named_tomograms(places: Sequence[Path]) -> list[Source]:
    """Find the tomograms that are meant, and say what is taken where a list leaves a choice."""
    from tomopicker.io.tomograms import find_tomograms

    sources = find_tomograms(places)
    counts = Counter((source.listed, source.kind) for source in sources if source.kind)
    for (listed, kind), count in counts.items():
        console.print(f"{listed}: {count} tomograms, {kind}", soft_wrap=True)
    return sources


def rescaling(tomogram: Tomogram, config: Config, voxel_size: float) -> str | None:
    """Say that a tomogram is brought to the working voxel size; None where it is not.

    Raises
    ------
    InputError
        When it cannot be.
    """
    from tomopicker.rescale import level_for, rescaled_voxel_size

    if config.preprocessing.working_radius is None:
        return None
    if rescaled_voxel_size(tomogram, voxel_size) == tomogram.voxel_size:
        return None
    level = level_for(tomogram, voxel_size).voxel_size
    read = "" if level == tomogram.voxel_size else f" (from the file's level of {level:g} Å)"
    return (
        f"{tomogram.name}: {tomogram.voxel_size:g} Å voxels brought to {voxel_size:.3g} Å{read}, "
        f"at which the particle's radius is {config.radius_angstrom / voxel_size:.2g} voxels"
    )


def check_folder(folder: Path) -> None:
    """Refuse a folder for results that cannot be made or written, before hours of work for it."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; give a folder with --out")
    ancestor = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not ancestor.is_dir():
        raise InputError(f"{folder}: {ancestor} is a file; give another --out")
    if not os.access(ancestor, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: {ancestor} cannot be written to; give another --out")


def choose_device(name: str) -> str:
    """Resolve "auto", and refuse a device that is not there."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise InputError(f"--device {name}: no such device; known: cpu, cuda, cuda:0, mps, auto")
    if name == "mps" and not torch.backends.mps.is_available():
        raise InputError("--device mps: there is no Apple GPU here; leave --device out")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"--device {name}: there is no CUDA device here; leave --device out")
    if ":" in name and int(name.split(":")[1]) >= torch.cuda.device_count():
        raise InputError(
            f"--device {name}: there are {torch.cuda.device_count()} CUDA devices here, counted "
            "from 0; give another number, or leave --device out"
        )
    return name


def write_text(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all, over an older one."""
    with whole_file(path, overwrite=True) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_rows(path: Path, rows: Sequence[dict[str, float | None]]) -> None:
    """Write a table as CSV, whole or not at all."""
    lines = [",".join(rows[0])] if rows else []
    lines += [
        ",".join("" if value is None else f"{value:.6g}" for value in row.values()) for row in rows
    ]
    write_text(path, "\n".join(lines) + "\n")
