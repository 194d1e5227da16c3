"""How the cost grows with voxels, picks, clicks and steps of training."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from inputs import VOXEL_SIZE, shape_of, write_tomogram
from limits import interleaved
from rivals import RADIUS, blurred_noise
from stages import pick_apart

from tomopicker.checkpoint import read_checkpoint
from tomopicker.config import preset
from tomopicker.held_out import calibrate
from tomopicker.io.record import read_record
from tomopicker.io.tomograms import read_tomogram
from tomopicker.peaks import find_peaks
from tomopicker.simulate import Simulation, simulate
from tomopicker.task import prepare
from tomopicker.training import Epoch, Step, fit
from tomopicker.types import Tomogram
from tomopicker.windows import grid

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tomopicker.config import Config
    from tomopicker.task import Task
    from tomopicker.types import Particles, Shape

_VOXELS_EACH = 9600
"""Of a training tomogram, for each of its particles."""


def with_voxels(
    model: Path,
    work: Path,
    megavoxels: Sequence[float],
    unrescaled: Shape | None,
    *,
    threads: int,
    repeats: int,
) -> list[dict[str, Any]]:
    """Pick tomograms of growing size from file to files; those that take minutes only once.

    The last has the voxels that it is scored at, so that none are spared by rescaling.
    """
    sizes = [0.25, *megavoxels]  # the first shows what is not the tomogram's
    tomograms = [(shape_of(size), VOXEL_SIZE) for size in sizes]
    if unrescaled is not None:
        tomograms.append((unrescaled, read_checkpoint(model).description.voxel_size))
    rows = []
    for number, (shape, voxel_size) in enumerate(tomograms):
        file, voxels = work / f"growth_{number}.mrc", int(np.prod(shape))
        write_tomogram(file, shape, seed=2, voxel_size=voxel_size)
        once = voxels > 50e6
        some = [
            pick_apart(model, file, work / "picks", threads=threads)
            for _ in range(1 if once else repeats)
        ]
        file.unlink()
        record = read_record(work / "picks" / f"{file.stem}.json")
        rows.append(
            {
                "shape": list(shape),
                "voxels": voxels,
                "scored_voxels": round(voxels * (voxel_size / record.scored_voxel_size) ** 3),
                "file_bytes": voxels,
                "picks": record.picks,
                **{key: [one[key] for one in some] for key in some[0]},
            }
        )
    return rows


def with_picks(shape: Shape, counts: Sequence[int], *, repeats: int) -> list[dict[str, Any]]:
    """Take growing numbers of peaks from one volume of scores."""
    scores = blurred_noise(shape)
    tasks = {
        str(count): lambda count=count: find_peaks(scores, radius=RADIUS / 2, count=count)
        for count in counts
    }
    taken = interleaved(tasks, repeats)
    return [{"count": count, "shape": list(shape), **taken[str(count)]} for count in counts]


def with_clicks(
    work: Path, megavoxels: float, counts: Sequence[int], *, repeats: int
) -> list[dict[str, Any]]:
    """Prepare training with growing numbers of clicks; how long training is they do not change."""
    file = work / "clicks.mrc"
    shape = shape_of(megavoxels)
    every = write_tomogram(
        file, shape, seed=3, particle_voxels=int(np.prod(shape)) // max(counts) - 1
    )
    tomogram = read_tomogram(file)
    config = preset("default", radius_angstrom=120.0, voxel_size=tomogram.voxel_size)
    tasks = {
        str(count): lambda count=count: prepare(
            config, [(tomogram, every.select(np.arange(count)))]
        )
        for count in counts
    }
    taken = interleaved(tasks, repeats)
    file.unlink()
    return [{"count": count, "shape": list(shape), **taken[str(count)]} for count in counts]


def of_training(
    shape: Shape, *, steps: int, paper_steps: int, to_the_end: bool, device: str = "cpu"
) -> dict[str, Any]:
    """Train `default` and `paper` for some steps on the same tomogram and clicks.

    The first step of each is left out: memory and kernels are got ready in it.

    Parameters
    ----------
    shape
        Voxels ``z y x``, of 20 Å, of the simulated tomogram.
    to_the_end
        Whether `default` is also trained to its end, validated and calibrated.
    """
    settings = Simulation(
        shape=shape,
        voxel_size=20.0,
        radius_angstrom=145.0,
        particles=int(np.prod(shape)) // _VOXELS_EACH,
        contact=0.65,
    )
    made = simulate(settings, rng=np.random.default_rng(0))
    tomogram = Tomogram(name="simulated", data=made.volume, voxel_size=20.0)
    clicks = made.particles.select(np.arange(100))
    results: dict[str, Any] = {"shape": list(shape), "clicks": len(clicks), "device": device}
    for name, measured in (("default", steps), ("paper", paper_steps)):
        task = _task(name, tomogram, clicks, settings.particles)
        planned = task.config.training.epochs * _steps_per_epoch(task)
        results[name] = {"planned_steps": planned, **_steps(task, measured, device)}
    if to_the_end:
        wall, cpu = time.perf_counter(), time.process_time()
        task = _task("default", tomogram, clicks, settings.particles)
        last = [event for event in fit(task, device=device) if isinstance(event, Epoch)][-1]
        calibrate(task, last.checkpoint, device=device)
        results["default"]["to_the_end"] = {
            "seconds": [time.perf_counter() - wall],
            "cpu_seconds": [time.process_time() - cpu],
        }
    return results


def _task(name: str, tomogram: Tomogram, clicks: Particles, particles: int) -> Task:
    config: Config = preset(
        "default" if name == "default" else "paper",
        radius_angstrom=145.0,
        voxel_size=20.0,
        expected=None if name == "default" else particles,
    )
    return prepare(config, [(tomogram, clicks)])


def _steps_per_epoch(task: Task) -> int:
    sampling = task.config.sampling
    if sampling.method == "crops":
        return sampling.steps_per_epoch
    windows = sum(
        len(grid(part.features.shape, side=sampling.side, stride=sampling.stride))
        for part in task.training
    )
    return -(-windows // task.config.training.batch)


def _steps(task: Task, count: int, device: str) -> dict[str, list[float]]:
    """Seconds of single steps, the first one left out."""
    wall, cpu = [], []
    for event in fit(task, device=device):
        if isinstance(event, Step):
            wall.append(time.perf_counter())
            cpu.append(time.process_time())
        if len(wall) > count:
            break
    return {"seconds": np.diff(wall).tolist(), "cpu_seconds": np.diff(cpu).tolist()}
