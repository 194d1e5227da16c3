"""tomopicker pick: find the particle in one or many tomograms."""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tomopicker.cli.report import REPORT, write_report
from tomopicker.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from tomopicker.calibrate import Count
    from tomopicker.checkpoint import Checkpoint
    from tomopicker.inference import Cut, Picked
    from tomopicker.io.record import Record
    from tomopicker.types import Tomogram


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
        bool, typer.Option("--force", help="Replace picks that are already there.")
    ] = False,
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
    default), or after the expected number of particles (preset paper).
    """
    from tomopicker.checkpoint import read_checkpoint
    from tomopicker.cli.run import (
        check_folder,
        choose_device,
        console,
        masked,
        masks_of,
        named_tomograms,
        rescaling,
    )
    from tomopicker.cli.units import parse_memory
    from tomopicker.inference import Cut, network_of
    from tomopicker.io.particles import check_format, write_import_list

    cut = _cut(count, threshold, fdr)
    gigabytes = None if memory is None else parse_memory(memory)
    wanted = ["relion5"] if formats is None else formats
    for name in wanted:
        check_format(name, pixel_size=pixel_size)
    check_folder(out)
    checkpoint = read_checkpoint(run)
    try:
        network = network_of(checkpoint)
    except InputError as error:
        raise InputError(f"{run}: {error}") from error
    device = choose_device(device)
    sources = named_tomograms(tomograms)
    _check_names([source.name for source in sources])
    masks = masks_of(mask, [source.name for source in sources])
    # A mask that was found is written, so that it can be looked at.
    with_mask = mask is not None and masks is None
    outputs = [
        _Outputs(out=out, name=source.name, formats=wanted, with_mask=with_mask)
        for source in sources
    ]
    if not force:
        pages = [out / REPORT] if report else []
        _check_absent([path for one in outputs for path in one.paths(scores=scores)] + pages)
    description = checkpoint.description
    if cut == Cut() and description.config.preset == "default" and not description.calibration:
        console.print(
            "This run was stopped before its end: the list is as long as training expected; give "
            "--count or --threshold, or finish the run with --resume",
            soft_wrap=True,
        )
    failures = []
    done = []
    for source, files in zip(sources, outputs, strict=True):
        try:
            tomogram = source.open(voxel_size=voxel_size)
            note = rescaling(tomogram, description.config, description.voxel_size)
            if note is not None:
                console.print(note, soft_wrap=True)
            angstrom = description.config.radius_angstrom
            tomogram = masked(tomogram, mask, masks, radius_angstrom=angstrom)
            started = time.monotonic()
            picked = _pick_one(
                tomogram,
                checkpoint,
                network,
                cut,
                device=device,
                memory=gigabytes,
                scores=files.scores if scores else None,
            )
            record = _record(tomogram, picked, checkpoint, cut, time.monotonic() - started, device)
        except InputError as error:
            if len(sources) == 1:
                raise
            # One broken file must not cost the others.
            failures.append(str(error))
            console.print(f"Left out: {error}", soft_wrap=True)
            continue
        _write(files, tomogram, picked, record, checkpoint, pixel_size)
        if report:
            done.append(source)
        console.print(_summary(tomogram, picked), soft_wrap=True)
        if picked.estimated is not None:
            console.print(_sensitivity(picked.lengths, picked.estimated), soft_wrap=True)
    if (out / "relion5").is_dir():
        write_import_list(out / "relion5")
    if done:
        write_report(out / REPORT, run, out, done, voxel_size=voxel_size)
        console.print(f"To judge the picks open {out / REPORT}", soft_wrap=True)
    if failures:
        raise InputError(f"{failures[0]} ({len(failures)} of {len(sources)} tomograms left out)")


@dataclass(frozen=True, kw_only=True)
class _Outputs:
    """The files of one tomogram."""

    out: Path
    name: str
    formats: Sequence[str]
    with_mask: bool

    @property
    def csv(self) -> Path:
        return self.out / f"{self.name}.csv"

    @property
    def candidates(self) -> Path:
        from tomopicker.io.candidates import candidates_path

        return candidates_path(self.out, self.name)

    @property
    def record(self) -> Path:
        from tomopicker.io.record import record_path

        return record_path(self.out, self.name)

    @property
    def picture(self) -> Path:
        return self.out / f"{self.name}.png"

    @property
    def scores(self) -> Path:
        return self.out / f"{self.name}_scores.mrc"

    @property
    def mask(self) -> Path | None:
        return self.out / f"{self.name}_mask.mrc" if self.with_mask else None

    @property
    def others(self) -> dict[str, Path]:
        """Picks in other formats than CSV, each in a folder of its own."""
        from tomopicker.io.particles import place_of

        return {
            name: self.out / name / place_of(name, self.name)
            for name in self.formats
            if name != "csv"
        }

    def paths(self, *, scores: bool) -> list[Path]:
        """All of them."""
        some = [self.csv, self.candidates, self.record, self.picture, *self.others.values()]
        some += [self.scores] if scores else []
        return some + ([self.mask] if self.mask is not None else [])


def _cut(count: int | None, threshold: float | None, fdr: float | None) -> Cut:
    from tomopicker.inference import Cut

    if sum(value is not None for value in (count, threshold, fdr)) > 1:
        raise InputError("give one of --count, --threshold and --fdr")
    if threshold is not None and math.isnan(threshold):
        raise InputError("--threshold nan: is not a score; give a number")
    if fdr is not None and not 0 <= fdr < 1:
        raise InputError(f"--fdr {fdr}: is a share of false picks, from 0 to below 1, as 0.05")
    return Cut(count=count, threshold=threshold, fdr=fdr)


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                f"two tomograms are called {name}, and their picks would overwrite each other: "
                "pick them into two folders"
            )


def _check_absent(paths: Sequence[Path]) -> None:
    for path in paths:
        if path.exists():
            raise InputError(f"{path}: is already there; give another --out, or --force")


def _pick_one(
    tomogram: Tomogram,
    checkpoint: Checkpoint,
    network: nn.Module,
    cut: Cut,
    *,
    device: str,
    memory: float | None,
    scores: Path | None,
) -> Picked:
    """Score a tomogram, write the scores where that is wanted, and take its particles."""
    from tomopicker import inference
    from tomopicker.cli.run import progress_bar

    config = checkpoint.description.config
    if memory is not None:
        settings = config.inference.model_copy(update={"memory": memory, "tile": None})
        config = config.model_copy(update={"inference": settings})
    with progress_bar(tomogram.name) as bar:
        bar.show(0.0, "reading")
        # The features are not kept: their correlation takes half the memory of the scores.
        volume = inference.score(
            inference.features_of(checkpoint, tomogram),
            network,
            config,
            device=device,
            progress=bar.show,
        )
        if scores is not None:
            bar.show(1.0, "writing the scores")
            _write_scores(scores, volume, inference.scored_voxel_size(checkpoint, tomogram))
        bar.show(1.0, "taking the peaks")
        return inference.pick(volume, tomogram, checkpoint, cut, overwrite=True)


def _write_scores(path: Path, scores: NDArray[np.float32], voxel_size: float) -> None:
    import numpy as np

    from tomopicker.io.tomograms import write_volume

    # Viewers take the grey range from the header, which an infinite voxel would spoil.
    known = np.isfinite(scores)
    if not known.all():
        scores = np.where(known, scores, scores.min(where=known, initial=0))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(path, scores, voxel_size=voxel_size, overwrite=True)


def _record(
    tomogram: Tomogram,
    picked: Picked,
    checkpoint: Checkpoint,
    cut: Cut,
    seconds: float,
    device: str,
) -> Record:
    """Note how the picks of a tomogram were made."""
    from tomopicker.inference import scored_voxel_size
    from tomopicker.io.record import Record, RecordedCount, RecordedCut, RecordedHistogram

    count = picked.estimated
    return Record(
        command=shlex.join(["tomopicker", *sys.argv[1:]]),
        finished=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        seconds=round(seconds, 1),
        device=device,
        tomogram=tomogram.name,
        path=str(tomogram.path or ""),
        shape=tomogram.shape,
        voxel_size=tomogram.voxel_size,
        scored_voxel_size=scored_voxel_size(checkpoint, tomogram),
        cut=RecordedCut(count=cut.count, threshold=cut.threshold, fdr=cut.fdr),
        picks=len(picked.particles),
        threshold=picked.threshold,
        estimated=None
        if count is None
        else RecordedCount(estimate=count.estimate, low=count.low, high=count.high),
        lengths={f"{rate:g}": length for rate, length in picked.lengths.items()},
        histogram=None if picked.histogram is None else RecordedHistogram.of(picked.histogram),
    )


def _write(
    files: _Outputs,
    tomogram: Tomogram,
    picked: Picked,
    record: Record,
    checkpoint: Checkpoint,
    pixel_size: float | None,
) -> None:
    """Write a tomogram's picks and their picture; the CSV last, so that it means all is there."""
    import numpy as np

    from tomopicker.io.candidates import Candidates, write_candidates
    from tomopicker.io.particles import write_particles
    from tomopicker.io.record import write_record
    from tomopicker.io.tomograms import write_volume
    from tomopicker.labels import voxel_radius
    from tomopicker.report import PickList, save_figure, slice_figure

    files.out.mkdir(parents=True, exist_ok=True)
    for name, path in files.others.items():
        write_particles(
            path,
            picked.particles,
            format=name,
            shape=tomogram.shape,
            pixel_size=pixel_size,
            radius=checkpoint.description.config.radius_angstrom,
            overwrite=True,
        )
    if files.mask is not None and tomogram.mask is not None:
        voxel_size = tomogram.voxel_size * tomogram.shape[0] / tomogram.mask.shape[0]
        write_volume(files.mask, tomogram.mask, voxel_size=voxel_size, overwrite=True)
    # The picture shows the tomogram as it is, not as it was scored.
    radius = voxel_radius(checkpoint.description.config.radius_angstrom, tomogram.voxel_size)
    figure = slice_figure(
        tomogram.data,
        [PickList(name="picks", voxels=picked.particles.voxels)],
        slice_index=None,
        radius=radius,
        voxel_size=tomogram.voxel_size,
        # Averaged and smoothed until a particle shows at the noise of a raw reconstruction.
        thickness=max(round(0.7 * radius), 1),
        smoothing=radius / 7,
        title=tomogram.name,
    )
    save_figure(figure, files.picture, force=True)
    among = np.arange(len(picked.candidates)) < len(picked.particles)
    write_candidates(
        files.candidates, Candidates(particles=picked.candidates, picked=among), overwrite=True
    )
    write_record(files.record, record, overwrite=True)
    write_particles(
        files.csv,
        replace(picked.particles, tomograms=()),
        format="csv",
        overwrite=True,
    )


def _summary(tomogram: Tomogram, picked: Picked) -> str:
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
