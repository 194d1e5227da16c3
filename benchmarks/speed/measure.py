"""Measure the speed: every stage beside the machine's limits, and ours beside other ways.

    python benchmarks/speed/measure.py [--quick] [--only stages,peaks] [--out FILE]

All rivals run side by side, repeated in turn, so that what else the machine does slows them alike;
the seconds of every repeat are in the file that is written. `table.py` makes the tables of it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import growth
import inputs
import numpy as np
import rivals
import scipy
import stages
import torch
from limits import use_threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from tomopicker.types import Shape

RESULTS = Path(__file__).parents[1] / "results" / "speed" / "speed.json"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured."""

    repeats: int = 3
    tomogram: float = 14.0
    """Million voxels of the tomogram whose stages are timed."""
    scored: Shape = (32, 64, 64)
    """Part of it that the paper's network scores."""
    tiled: Shape = (64, 384, 384)
    """Volume that is scored in tiles, beside MONAI."""
    tile: int = 192
    slow_repeats: int = 3
    """Of what takes longest."""
    peaks: tuple[tuple[Shape, int], ...] = (((128, 512, 512), 2000), ((500, 960, 960), 3000))
    megavoxels: tuple[float, ...] = (8.0, 32.0, 128.0, 512.0)
    unrescaled: Shape | None = (500, 960, 960)
    """Of a tomogram that is scored at its own voxels."""
    picks: tuple[int, ...] = (100, 1000, 10_000, 30_000)
    clicks: tuple[int, ...] = (25, 100, 400, 1600)
    clicked: float = 8.0
    """Million voxels of the tomogram with the clicks."""
    trained: tuple[Shape, ...] = ((56, 176, 176), (100, 400, 400))
    """Tomograms that training is measured on."""
    steps: int = 15
    paper_steps: int = 2
    to_the_end: bool = True


QUICK = Plan(
    tomogram=2.0,
    scored=(16, 32, 32),
    tiled=(64, 192, 192),
    tile=96,
    slow_repeats=1,
    peaks=(((128, 512, 512), 2000),),
    megavoxels=(2.0, 8.0),
    unrescaled=(32, 96, 96),
    picks=(100, 1000, 10_000),
    clicks=(25, 100, 400),
    clicked=2.0,
    trained=((56, 176, 176),),
    steps=4,
    paper_steps=1,
    to_the_end=False,
)


def main() -> None:
    """Run the sections and write the file after each, so that nothing measured is lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short run, on smaller volumes")
    parser.add_argument("--only", help="names of sections, separated by commas")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=Path("build/speed"), help="for the volumes")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    plan = QUICK if options.quick else Plan()
    threads = sorted({1, len(os.sched_getaffinity(0))})
    use_threads(threads[-1])
    model, file = options.work / "model.safetensors", options.work / "tomogram.mrc"
    print("making the model and the tomogram ...", flush=True)
    inputs.write_model(model, side=160 if options.quick else 256)
    inputs.write_tomogram(file, inputs.shape_of(plan.tomogram), seed=0)
    sections = _sections(plan, model, file, options.work, threads)
    wanted = options.only.split(",") if options.only else list(sections)
    results: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/speed/measure.py", *sys.argv[1:]]),
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
        "quick": options.quick,
        "machine": _machine(threads),
        "seconds": {},
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        if name not in sections:
            parser.error(f"no section {name}; there are {', '.join(sections)}")
        print(f"{time.strftime('%H:%M:%S')} {name} ...", flush=True)
        use_threads(threads[-1])
        began = time.perf_counter()
        results[name] = sections[name]()
        results["seconds"][name] = round(time.perf_counter() - began, 1)
        options.out.write_text(json.dumps(_rounded(results), indent=1) + "\n")
    print(f"{options.out}: done in {sum(results['seconds'].values()):.0f} s")


def _sections(
    plan: Plan, model: Path, file: Path, work: Path, threads: list[int]
) -> dict[str, Callable[[], Any]]:
    repeats = plan.repeats
    return {
        "startup": lambda: _startup(repeats),
        "stages": lambda: [
            stages.measure_stages(model, file, work, threads=count, repeats=repeats)
            for count in threads
        ],
        "paper": lambda: rivals.beside_the_paper(model, file, scored=plan.scored, repeats=repeats),
        "monai": lambda: rivals.beside_monai(
            model, shape=plan.tiled, tile=plan.tile, repeats=plan.slow_repeats
        ),
        "peaks": lambda: [
            rivals.peaks_beside_the_loop(shape, count=count, repeats=repeats)
            for shape, count in plan.peaks
        ],
        "voxels": lambda: growth.with_voxels(
            model,
            work,
            plan.megavoxels,
            plan.unrescaled,
            threads=threads[-1],
            repeats=plan.slow_repeats,
        ),
        "picks": lambda: growth.with_picks(plan.peaks[0][0], plan.picks, repeats=repeats),
        "clicks": lambda: growth.with_clicks(work, plan.clicked, plan.clicks, repeats=repeats),
        "training": lambda: [
            growth.of_training(
                shape,
                steps=plan.steps,
                paper_steps=plan.paper_steps,
                to_the_end=plan.to_the_end,
            )
            for shape in plan.trained
        ],
        "cuda": lambda: _cuda(plan, model, file, work, threads[-1]),
    }


def _startup(repeats: int) -> dict[str, Any]:
    """Seconds to the help, beside those of Python itself."""
    commands = {
        "python": ["-c", "pass"],
        "tomopicker --help": ["-m", "tomopicker", "--help"],
        "tomopicker pick --help": ["-m", "tomopicker", "pick", "--help"],
        "import torch": ["-c", "import torch"],
    }
    for command in commands.values():  # once, so that all is in the system's cache
        stages.run_apart(command, threads=1)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            rows[name].append(stages.run_apart(command, threads=1))
    return {
        name: {key: [one[key] for one in some] for key in ("seconds", "cpu_seconds")}
        for name, some in rows.items()
    }


def _cuda(plan: Plan, model: Path, file: Path, work: Path, threads: int) -> dict[str, Any]:
    device = stages.cuda_device()
    if not device:
        return {"left_out": "PyTorch found no CUDA device"}
    return {
        "device": device,
        "stages": stages.measure_stages(
            model, file, work, threads=threads, repeats=plan.repeats, device="cuda"
        ),
        "training": growth.of_training(
            plan.trained[0],
            steps=plan.steps,
            paper_steps=plan.paper_steps,
            to_the_end=plan.to_the_end,
            device="cuda",
        ),
    }


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=False, cwd=RESULTS.parents[2]
        )
        return done.stdout.strip()

    changed = git(
        "status", "--porcelain", "--untracked-files=no", "--", ":/src", ":/benchmarks/speed"
    )
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (" with changes" if changed else "")


def _machine(threads: list[int]) -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        lines = [line.partition(":") for line in information.read_text().splitlines()]
        model = next((text.strip() for key, _, text in lines if "model name" in key), model)
    return {
        "cpu": model,
        "cores": threads[-1],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "cuda": stages.cuda_device() or None,
    }


def _rounded(value: Any) -> Any:
    """The same with five significant digits, which is more than any timing has."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
