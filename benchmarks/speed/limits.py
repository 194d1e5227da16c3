"""What a machine can do at most, and how many operations a network takes: the limits of speed."""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

from tomopicker.network import build

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from tomopicker.config import Network

_COPIED = 1 << 28
"""Bytes, far more than the caches hold."""
_BLOCK = 128
"""Side of the cube whose transform is timed: about a tile of the matched filter."""


def use_threads(count: int) -> None:
    """Let torch, and processes that are started, use this many threads from now on."""
    torch.set_num_threads(count)
    os.environ["OMP_NUM_THREADS"] = str(count)


def interleaved(
    tasks: Mapping[str, Callable[[], object]], repeats: int, device: str = "cpu"
) -> dict[str, dict[str, list[float]]]:
    """Time every task `repeats` times, one after the other and not each by itself.

    What else the machine does then slows all of them alike.

    Returns
    -------
    dict
        For every task its ``seconds`` and, of all threads, ``cpu_seconds``.
    """
    taken: dict[str, dict[str, list[float]]] = {
        name: {"seconds": [], "cpu_seconds": []} for name in tasks
    }
    for _ in range(repeats):
        for name, task in tasks.items():
            _wait_for(device)
            wall, cpu = time.perf_counter(), time.process_time()
            task()
            _wait_for(device)
            taken[name]["seconds"].append(time.perf_counter() - wall)
            taken[name]["cpu_seconds"].append(time.process_time() - cpu)
    return taken


def limits_of(file: Path, device: str = "cpu") -> dict[str, tuple[Callable[[], object], float]]:
    """Tasks whose time is a limit of the machine, each with its work.

    The work is operations of the matrix product, bytes read and written of the copy, voxels of the
    transform, and bytes of the file, which is in the system's cache when it was read before.
    """
    on_gpu = device.startswith("cuda")
    if on_gpu:
        # What convolutions are allowed by default the limit must be allowed too.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    side = 8192 if on_gpu else 2048
    a, b = (torch.ones(side, side, device=device) for _ in range(2))
    product = torch.empty_like(a)
    source = torch.ones(_COPIED // 4, device=device)
    # Once before they are timed: memory is given when it is first touched.
    target = source.clone()
    torch.mm(a, b, out=product)
    cube = torch.ones((_BLOCK,) * 3, device=device)
    size = file.stat().st_size
    buffer = bytearray(size)
    tasks: dict[str, tuple[Callable[[], object], float]] = {
        "matrix product": (lambda: torch.mm(a, b, out=product), 2.0 * side**3),
        "copy": (lambda: target.copy_(source), 2.0 * _COPIED),
    }
    if not on_gpu:
        tasks["transform"] = (lambda: torch.fft.rfftn(cube), cube.numel())
        tasks["read"] = (lambda: _read(file, buffer), size)
    return tasks


def operations_per_voxel(settings: Network) -> float:
    """Floating-point operations of one voxel's score: two for each weight of the convolutions.

    Counted from the shapes that go through every layer. Normalisation, activations and pooling
    are not counted.
    """
    side = 2 * settings.stride
    with torch.device("meta"):
        network = build(settings).eval()
        volumes = torch.empty(1, 1 + settings.filter_channel, side, side, side)
    with operations_counter() as counter, torch.inference_mode():
        network(volumes)
    return counter.get_total_flops() / side**3


def operations_counter() -> FlopCounterMode:
    """Context that counts the floating-point operations of what runs in it."""
    # PyTorch's own table lacks the convolution that is oneDNN's by name.
    return FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.mkldnn_convolution: _of_convolution}
    )


def _of_convolution(
    volumes: Sequence[int], weights: Sequence[int], *_: object, out_shape: Sequence[int]
) -> int:
    return 2 * math.prod(weights) * volumes[0] * math.prod(out_shape[2:])


def _read(file: Path, buffer: bytearray) -> None:
    rest = memoryview(buffer)
    with file.open("rb", buffering=0) as opened:
        while rest:
            rest = rest[opened.readinto(rest) :]


def _wait_for(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
