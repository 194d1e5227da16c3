"""Memory: how much scoring takes, how much there is, and what running out of it looks like."""

from __future__ import annotations

import os
import re
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tomopicker.network import stream

if TYPE_CHECKING:
    from torch import nn

# More gains nothing: 127 Mvoxel took 35 CPU s with this and with twice as much, 40 with 0.4.
_ENOUGH_ON_CPU = 0.5e9
_SHARE_OF_CPU = 0.25
_SHARE_OF_GPU = 0.5
_UNKNOWN = 4.0e9

# What the convolutions' own workspace adds to the tensors: 1.3 measured with oneDNN.
_WORKSPACE = 1.3

# How oneDNN and torch's allocators say it, where they do not raise an error of its own.
_OUT_OF_MEMORY = re.compile(
    "can't allocate memory|not enough memory|out of memory|could not create a memory object"
)


def streamed_bytes(network: nn.Module, *, channels: int, planes: int, stride: int) -> float:
    """Measure the most bytes per voxel of a slab's y-x plane that `network.stream` holds.

    Counted on tensors without data, and with the convolutions' workspace added.

    Parameters
    ----------
    network
        On the meta device, in evaluation mode.
    channels, planes
        Of each slab.
    stride
        Of the network.
    """
    side = 2 * stride
    # The layers together reach over less than this; after it memory grows no more.
    count = max(16 * stride // planes, 8)
    slabs = (
        torch.empty(1, channels, planes, side, side, device="meta", dtype=_dtype(network))
        for _ in range(count)
    )
    with torch.inference_mode(), _Held() as held:
        for _ in stream(network, slabs):
            pass
    return float(_WORKSPACE * held.most / side**2)


def automatic_bytes(device: str) -> float:
    """Memory that scoring may take beside volumes when nobody says: a part of what is free."""
    if device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info(device)
        return _SHARE_OF_GPU * free
    return min(_SHARE_OF_CPU * _free_bytes(), _ENOUGH_ON_CPU)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out, of a GPU or the computer."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None
    )


class _Held(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the bytes of the tensors that are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            storage = result.untyped_storage()
            key = storage._cdata
            if key not in self._alive:
                self._alive[key] = storage.nbytes()
                weakref.finalize(storage, self._alive.pop, key)
                self.most = max(self.most, sum(self._alive.values()))
        return result


def _dtype(network: nn.Module) -> torch.dtype:
    return next(network.parameters()).dtype


def _free_bytes() -> float:
    """Memory that this process could still take, as far as the system tells."""
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())
        free = 1024.0 * int(found.group(1)) if found else _UNKNOWN
    elif hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        free = 0.5 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        free = _UNKNOWN
    return min(free, _free_in_group())


def _free_in_group() -> float:
    """What the control group of a batch job or a container leaves of its limit."""
    try:
        own = Path("/proc/self/cgroup").read_text().strip().rpartition(":")[2]
        folder = Path("/sys/fs/cgroup") / own.lstrip("/")
        limit = (folder / "memory.max").read_text().strip()
        used = (folder / "memory.current").read_text().strip()
    except OSError:
        return float("inf")
    return float("inf") if limit == "max" else float(limit) - float(used)
