"""tomopicker benchmark: repeat the paper's experiments (paper section 4)."""

from __future__ import annotations

import enum
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tomopicker.cli.options import Device
from tomopicker.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from torch import nn

    from tomopicker.checkpoint import Checkpoint
    from tomopicker.protocol import CutName, Dataset, MethodName, Result, Series, Table

app = typer.Typer(
    help="Repeat the paper's experiments and compare with its tables.", no_args_is_help=True
)


class DatasetChoice(enum.StrEnum):
    """Names of the two halves of EMPIAR-10988."""

    vpp = "vpp"
    defocus = "defocus"


class MethodChoice(enum.StrEnum):
    """Names of the methods: the paper's three, and our best."""

    pn = "pn"
    pu = "pu"
    kl = "kl"
    default = "default"


@app.callback()
def benchmark() -> None:
    """Repeat the paper's experiments and compare with its tables."""


@app.command("empiar-10988")
def empiar_10988(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="EMPIAR-10988 as downloaded: holds VPP or DEF or both, each with tomograms and "
            "particle_lists.",
            show_default=False,
        ),
    ],
    dataset: Annotated[
        DatasetChoice | None,
        typer.Option(help="Only this half; else every one that is there.", show_default=False),
    ] = None,
    method: Annotated[
        list[MethodChoice] | None,
        typer.Option(
            help="Only this method (repeatable): the paper's pn, pu, kl, or our default.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the results; the same one again continues.")
    ] = Path("empiar-10988-results"),
    picks: Annotated[
        int,
        typer.Option(
            help="Particles to learn from, and as many to validate on, drawn at random.", min=1
        ),
    ] = 100,
    radius: Annotated[str, typer.Option(help="Particle radius, as 12vx or 160A.")] = "12vx",
    seed: Annotated[int, typer.Option(help="Seed of all randomness.", min=0)] = 0,
    seeds: Annotated[
        int, typer.Option(help="Repeat with this many seeds, from --seed on.", min=1)
    ] = 1,
    tomograms: Annotated[
        str | None,
        typer.Option(
            metavar="GLOB",
            help="Where the tomograms are, as 'VPP/*/TS_*.rec' (in quotes), if not found.",
            show_default=False,
        ),
    ] = None,
    particles: Annotated[
        str | None,
        typer.Option(
            metavar="GLOB",
            help="Where the particle lists are, as 'lists/*.csv' (in quotes), if not found.",
            show_default=False,
        ),
    ] = None,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out tomograms that are not there.")
    ] = False,
    voxel_size: Annotated[
        float, typer.Option(help="Ångström, where a header does not tell.")
    ] = 13.48,
    epochs: Annotated[
        int | None, typer.Option(help="Another number than the presets'.", show_default=False)
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other setting of training, as training.batch=4."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Repeat the paper's Tables 1 and 2 on EMPIAR-10988, with its methods and ours.

    Each method learns from random particles of one tomogram, validates
    on those of another and picks in all. The full data take hours on a
    GPU; stop whenever you like, the same command goes on.
    """
    from tomopicker.cli.run import choose_device, console, write_text
    from tomopicker.protocol import DATASETS, METHODS, compare, find_datasets, to_markdown

    device = choose_device(device)
    found = find_datasets(
        folder,
        names=[dataset.value] if dataset else [],
        tomograms=tomograms,
        particles=particles,
        skip_missing=skip_missing,
    )
    study = Study(
        out=out,
        picks=picks,
        radius=radius,
        voxel_size=voxel_size,
        epochs=epochs,
        settings=tuple(settings or []),
        device=device,
    )
    study.open()
    methods: list[MethodName] = [choice.value for choice in method or ()] or list(METHODS)
    for name, series in found.items():
        console.print(f"{DATASETS[name].title}: {len(series)} tomograms", soft_wrap=True)
        for one in series:
            console.print(f"  {one.label}: {one.tomogram}, {one.particles}", soft_wrap=True)
    try:
        for name, series in found.items():
            for number in range(seed, seed + seeds):
                for each in methods:
                    Arm(
                        study=study,
                        dataset=DATASETS[name],
                        series=series,
                        method=each,
                        seed=number,
                    ).run()
    except KeyboardInterrupt:
        console.print(f"Stopped; the same command goes on from what is in {out}", soft_wrap=True)
        raise
    tables = [compare(DATASETS[name], study.results()) for name in found]
    write_text(out / "tables.md", "\n".join(to_markdown(table) for table in tables))
    _print(tables)
    console.print(f"Everything is in {out}: tables.md, results.csv, runs and picks", soft_wrap=True)


@dataclass(frozen=True, kw_only=True)
class Study:
    """The folder of a benchmark, and what is the same for all its runs."""

    out: Path
    picks: int
    radius: str
    voxel_size: float
    epochs: int | None
    settings: tuple[str, ...]
    device: str

    def open(self) -> None:
        """Make the folder, or check that it holds results of the same settings.

        Raises
        ------
        InputError
            When it holds something else.
        """
        from tomopicker.cli.run import write_text

        asked = {
            "picks": self.picks,
            "radius": self.radius,
            "voxel-size": self.voxel_size,
            "epochs": self.epochs,
            "set": list(self.settings),
        }
        file = self.out / "settings.json"
        if file.is_file():
            known = json.loads(file.read_text(encoding="utf-8"))
            for name, value in asked.items():
                if known.get(name) != value:
                    raise InputError(
                        f"{self.out}: holds results with --{name} {known.get(name)}, now it is "
                        f"{value}: give the same to continue, or another --out"
                    )
            return
        if self.out.is_file() or (self.out.is_dir() and any(self.out.iterdir())):
            raise InputError(f"{self.out}: is no folder of results; give another --out")
        write_text(file, json.dumps(asked, indent=2) + "\n")

    def results(self) -> list[Result]:
        """Read the rows so far."""
        from tomopicker.protocol import read_results

        file = self.out / "results.csv"
        return read_results(file) if file.is_file() else []

    def add(self, rows: Sequence[Result]) -> None:
        """Add rows to the results, each in the place of an older one of the same."""
        from tomopicker.protocol import write_results

        by_key = {row.key: row for row in [*self.results(), *rows]}
        write_results(self.out / "results.csv", by_key.values())


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One method with one seed on one data set."""

    study: Study
    dataset: Dataset
    series: Sequence[Series]
    method: MethodName
    seed: int

    @property
    def folder(self) -> Path:
        """Of its run and picks."""
        return self.study.out / self.dataset.name / self.method / f"seed-{self.seed}"

    @property
    def cuts(self) -> tuple[CutName, ...]:
        """Where its lists of picks end; only `default` has a cut-off of its own."""
        return ("true count", "automatic") if self.method == "default" else ("true count",)

    def picks_of(self, one: Series, cut: CutName) -> Path:
        """File of a tomogram's picks."""
        folder = "picks" if cut == "true count" else "picks-automatic"
        return self.folder / folder / f"{one.label}.csv"

    def run(self) -> None:
        """Train, pick and evaluate what is not done yet."""
        from tomopicker.checkpoint import read_checkpoint
        from tomopicker.cli.run import console
        from tomopicker.inference import network_of

        title = f"{self.dataset.title}, {self.method}, seed {self.seed}"
        done = {row.key for row in self.study.results()}
        todo = [one for one in self.series if not self._is_done(one, done)]
        if not todo:
            console.print(f"{title}: done before")
            return
        console.rule(title, align="left")
        seconds = self._train()
        checkpoint = read_checkpoint(self.folder / "run")
        network = network_of(checkpoint)
        for one in todo:
            rows = self._pick(one, checkpoint, network, seconds)
            self.study.add(rows)
            for row in rows:
                console.print(
                    f"{one.label}, {row.cut}: {row.picks} picks, F1 {row.paper_f1:.3f} as the "
                    f"paper counts, {row.f1:.3f} one-to-one",
                    soft_wrap=True,
                )

    def _is_done(self, one: Series, done: Collection[tuple[str, str, int, str, str]]) -> bool:
        return all(
            (self.dataset.name, self.method, self.seed, one.label, cut) in done
            and self.picks_of(one, cut).is_file()
            for cut in self.cuts
        )

    def _train(self) -> float:
        """Train, or train on, unless it is done; returns the CPU seconds of it all."""
        from tomopicker.cli.run import write_text
        from tomopicker.cli.train import ObjectiveChoice, Preset, train
        from tomopicker.protocol import read_series

        state_file = self.folder / "training.json"
        state = {"done": False, "cpu_seconds": 0.0}
        if state_file.is_file():
            state = json.loads(state_file.read_text(encoding="utf-8"))
        if state["done"]:
            return float(state["cpu_seconds"])
        learned, validated = (
            next(one for one in self.series if one.number == number)
            for number in (self.dataset.training, self.dataset.validation)
        )
        tomogram, truth = read_series(learned, voxel_size=self.study.voxel_size)
        is_paper = self.method != "default"
        run = self.folder / "run"
        started = time.process_time()
        try:
            train(
                tomograms=[learned.tomogram],
                picks=self._clicks(learned),
                out=run,
                radius=self.study.radius,
                expected=len(truth) if is_paper else None,
                val_tomogram=validated.tomogram,
                val_picks=self._clicks(validated),
                preset=Preset.paper if is_paper else Preset.default,
                objective=ObjectiveChoice(self.method) if is_paper else None,
                voxel_size=tomogram.voxel_size,
                seed=self.seed,
                epochs=self.study.epochs,
                settings=list(self.study.settings),
                resume=(run / "config.json").is_file(),
                device=self.study.device,
            )
            state["done"] = True
        finally:
            state["cpu_seconds"] += time.process_time() - started
            write_text(state_file, json.dumps(state) + "\n")
        return float(state["cpu_seconds"])

    def _clicks(self, one: Series) -> Path:
        """Write the random picks of a tomogram, the same ones for every method."""
        import numpy as np

        from tomopicker.io.particles import write_particles
        from tomopicker.protocol import read_series, sample_clicks

        _, truth = read_series(one, voxel_size=self.study.voxel_size)
        clicks = sample_clicks(
            truth,
            self.study.picks,
            rng=np.random.default_rng([self.seed, one.number]),
            source=one.particles,
        )
        folder = self.study.out / self.dataset.name / f"clicks-seed-{self.seed}"
        path = folder / f"{one.label}.csv"
        write_particles(path, clicks, overwrite=True)
        return path

    def _pick(
        self, one: Series, checkpoint: Checkpoint, network: nn.Module, training_seconds: float
    ) -> list[Result]:
        """Pick a tomogram and evaluate the picks, once for each cut."""
        from tomopicker import inference
        from tomopicker.cli.run import progress_bar
        from tomopicker.evaluate import PAPER_TOLERANCE, evaluate
        from tomopicker.io.particles import write_particles
        from tomopicker.picks import Cut, pick
        from tomopicker.protocol import read_series, result_of

        tomogram, truth = read_series(one, voxel_size=self.study.voxel_size)
        config = checkpoint.description.config
        started = time.process_time()
        with progress_bar(one.label) as bar:
            features = inference.features_of(checkpoint, tomogram)
            scores = inference.score(
                features, network, config, device=self.study.device, progress=bar.show
            )
        scoring_seconds = time.process_time() - started
        rows = []
        for cut in self.cuts:
            started = time.process_time()
            end = Cut(count=len(truth) if cut == "true count" else None)
            picked = pick(
                scores, tomogram, checkpoint, end, features=features, device=self.study.device
            ).particles
            picking_seconds = scoring_seconds + time.process_time() - started
            evaluation = evaluate(
                picked.voxels, truth.voxels, tolerance=PAPER_TOLERANCE, scores=picked.scores
            )
            write_particles(self.picks_of(one, cut), replace(picked, tomograms=()), overwrite=True)
            rows.append(
                result_of(
                    evaluation,
                    dataset=self.dataset.name,
                    method=self.method,
                    seed=self.seed,
                    tomogram=one.label,
                    cut=cut,
                    training_cpu_seconds=training_seconds,
                    picking_cpu_seconds=picking_seconds,
                )
            )
        return rows


def _print(tables: Sequence[Table]) -> None:
    """Print tables to standard output, wide enough for their columns."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    # A file has no width, and a narrow terminal would break every number in two.
    console = Console(highlight=False)
    console.width = max(console.width, _WIDTH)
    for table in tables:
        rich_table = RichTable(title=table.title, box=box.SIMPLE_HEAD, pad_edge=False)
        for number, column in enumerate(table.columns):
            rich_table.add_column(column, justify="left" if number < 2 else "right", no_wrap=True)
        for row in table.rows:
            rich_table.add_row(*row)
        console.print(rich_table)
        for note in table.notes:
            console.print(f"  {note}", soft_wrap=True)
        console.print()


_WIDTH = 140
