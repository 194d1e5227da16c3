"""Time of every stage from file to picks, beside what the machine could do at most."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from limits import (
    interleaved,
    limits_of,
    operations_counter,
    operations_per_voxel,
    use_threads,
)

from tomopicker.calibrate import judge, most_candidates
from tomopicker.checkpoint import read_checkpoint
from tomopicker.inference import features_of, network_of, score
from tomopicker.io.tomograms import read_tomogram
from tomopicker.peaks import find_peaks
from tomopicker.picks import compare_peaks, find_particles
from tomopicker.preprocess import Normalisation
from tomopicker.rescale import rescale

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from tomopicker.checkpoint import Checkpoint
    from tomopicker.types import Tomogram

WHOLE = "file to picks"

_CHILD = Path(__file__).with_name("child.py")
_TRANSFORMS = 5
"""Of every voxel: there of the volume and its square, back of three correlations."""


def run_apart(arguments: Sequence[str | Path], *, threads: int) -> dict[str, float | None]:
    """Run Python with the arguments as a process of its own; seconds and peak memory of it."""
    command = [sys.executable, str(_CHILD), sys.executable, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def pick_apart(
    model: Path, tomogram: Path, out: Path, *, threads: int, device: str = "cpu"
) -> dict[str, float | None]:
    """Run ``tomopicker pick`` as a process of its own, as `run_apart` does, anew each time."""
    # Of picks that are there it would say that they are done.
    shutil.rmtree(out, ignore_errors=True)
    arguments = ["-m", "tomopicker", "pick", model, tomogram, "--out", out]
    return run_apart([*arguments, "--device", device], threads=threads)


def measure_stages(
    model: Path, file: Path, work: Path, *, threads: int, repeats: int, device: str = "cpu"
) -> dict[str, Any]:
    """Time every stage on one tomogram, the limits in between.

    Returns
    -------
    dict
        For every stage its seconds, its work, and the limit that it is compared with; the limits'
        seconds and work; and the operations of the network, with all the voxels that it runs again.
    """
    use_threads(threads)
    checkpoint, tomogram = read_checkpoint(model), read_tomogram(file)
    network = network_of(checkpoint)
    tasks, work_of_stages, operations = _stages(checkpoint, tomogram, file, network, device)
    wholes: list[dict[str, float | None]] = []
    tasks[WHOLE] = lambda: wholes.append(
        pick_apart(model, file, work / "picks", threads=threads, device=device)
    )
    limits = limits_of(file, device)
    taken = interleaved({name: task for name, (task, _) in limits.items()} | tasks, repeats, device)
    taken[WHOLE] = {key: [one[key] for one in wholes] for key in ("seconds", "cpu_seconds")}
    voxels = work_of_stages["network"]["voxels"]
    return {
        "threads": threads,
        "device": device,
        "shape": list(tomogram.shape),
        "scored_voxels": voxels,
        "operations_per_voxel": operations_per_voxel(checkpoint.description.config.network),
        "operations": operations,
        "limits": {name: taken[name] | {"work": work} for name, (_, work) in limits.items()},
        "stages": {name: taken[name] | work_of_stages.get(name, {}) for name in tasks},
    }


def _stages(
    checkpoint: Checkpoint, tomogram: Tomogram, file: Path, network: nn.Module, device: str
) -> tuple[dict[str, Callable[[], object]], dict[str, dict[str, Any]], int]:
    """Every stage as a task, and its work: what it must do at least, of what the limit does.

    Last come the operations that the network's convolutions do for the tomogram.
    """
    description = checkpoint.description
    config = description.config
    rescaled = rescale(tomogram, description.voxel_size)
    features = features_of(checkpoint, tomogram)
    with operations_counter() as counter:
        scores = score(features, network, config, device=device)
    radius = description.radius_voxels
    spacing = config.peaks.exclusion * radius
    most = most_candidates(scores.size, spacing)
    candidates = find_peaks(scores, radius=spacing, count=most)

    def standardise() -> Normalisation:
        return Normalisation.of(read_tomogram(file).data, source=str(file))

    tasks: dict[str, Callable[[], object]] = {}
    if device == "cpu":
        tasks = {
            "read and standardise": standardise,
            "rescale": lambda: rescale(tomogram, description.voxel_size),
            "matched filter": lambda: features_of(checkpoint, rescaled),
        }
    tasks["network"] = lambda: score(features, network, config, device=device)
    if device == "cpu":
        tasks["smoothing"] = lambda: find_particles(
            scores, config, radius=radius, count=1, floor=-np.inf
        )
        tasks["peaks"] = lambda: find_peaks(scores, radius=spacing, count=most)
        if description.calibration is not None:
            calibration = description.calibration
            tasks["judge"] = lambda: judge(candidates.scores, calibration)
    centres = candidates.voxels.astype(np.float64)
    compared = 0
    if checkpoint.template is not None:
        # It knows no wedge, and so makes its templates anew.
        bare = replace(checkpoint, template=replace(checkpoint.template, wedges=None))
        tasks["templates"] = lambda: compare_peaks(bare, features, centres[:1], device=device)
        tasks["comparison"] = lambda: compare_peaks(checkpoint, features, centres, device=device)
        tasks["comparison"]()
        with operations_counter() as comparing:
            tasks["comparison"]()
        compared = comparing.get_total_flops()
    size, voxels = tomogram.data.nbytes, scores.size
    operations = operations_per_voxel(config.network)
    work: dict[str, dict[str, Any]] = {
        "read and standardise": {"limit": "read", "work": size},
        "rescale": {"limit": "copy", "work": size + rescaled.data.nbytes},
        "matched filter": {"limit": "transform", "work": _TRANSFORMS * voxels},
        "network": {"limit": "matrix product", "work": operations * voxels, "voxels": voxels},
        "smoothing": {"limit": "copy", "work": 2 * scores.nbytes},
        "peaks": {"limit": "copy", "work": scores.nbytes},
        "comparison": {"limit": "matrix product", "work": compared},
    }
    return tasks, work, counter.get_total_flops()


def cuda_device() -> str:
    """Name of the GPU; an empty text where PyTorch finds none."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""
