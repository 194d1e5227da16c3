"""Memory: how much scoring takes, how much there is, and what running out of it looks like."""

from __future__ import annotations

import os
import re
import weakref
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from tomopicker.network import build, folded, stream

if TYPE_CHECKING:
    from tomopicker.config import Network

# More gains nothing, unless a network sees far: 127 Mvoxel took 35 CPU s with this and with twice
# as much, 40 with 0.4.
_ENOUGH_ON_CPU = 0.5e9
_SHARE_OF_CPU = 0.25
_SHARE_OF_GPU = 0.5
_UNKNOWN = 4.0e9

# What the convolutions' own workspace adds to the tensors: 1.3 measured with oneDNN.
_WORKSPACE = 1.3


@lru_cache(maxsize=8)
def streamed_bytes(settings: Network, dtype: torch.dtype) -> float:
    """Measure the most bytes per voxel of a slab's y-x plane that `network.stream` holds.

    Of the folded network, in slabs of as many planes as its stride. Counted while a narrow column
    streams through it, with the convolutions' workspace added. In half precision it is taken for
    half, though the last layer stays single. The number is kept, as counting takes some time.

    Parameters
    ----------
    settings
        Of the network.
    dtype
        Of its weights but the last layer's.
    """
    stride = settings.stride
    shape = (1, 1 + settings.filter_channel, stride, stride, stride)
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        network = folded(build(settings))
        # The layers together reach over less than 16; after it memory grows no more.
        slabs = (torch.zeros(shape) for _ in range(16))
        with torch.inference_mode(), _Held() as held:
            for _ in stream(network, slabs):
                pass
    return float(_WORKSPACE * held.most / stride**2 * dtype.itemsize / torch.float32.itemsize)


def automatic_bytes(device: str) -> tuple[float, float]:
    """Memory that scoring may take beside volumes when nobody says: what is enough, and the most.

    The most is a part of what is free.
    """
    if device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info(device)
        return _SHARE_OF_GPU * free, _SHARE_OF_GPU * free
    most = _SHARE_OF_CPU * _free_bytes()
    return min(most, _ENOUGH_ON_CPU), most


def free_in_groups(
    table: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")
) -> float:
    """Memory that the control groups of a batch job or a container leave to this process.

    Of both versions of Linux's control groups. The limit of a job is often that of a group above
    the process's own, so that all of them are asked.

    Parameters
    ----------
    table
        Lists the groups that the process is in.
    mount
        Where the groups are.

    Returns
    -------
    float
        Bytes; infinite where there is no limit.
    """
    if not table.is_file():
        return float("inf")
    left = float("inf")
    for line in table.read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        if not controllers:
            root, limit, used = mount, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root, limit, used = mount / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        folder = root / own.lstrip("/")
        groups = [one for one in (folder, *folder.parents) if one.is_relative_to(root)]
        left = min(left, *(_left(one, limit, used) for one in groups))
    return left


class _Held(TorchFunctionMode):
    """Count the bytes of the tensors that are alive.

    A `TorchDispatchMode` and tensors of the device "meta" would import `torch._dynamo`, which takes
    a second.
    """

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._alive: dict[int, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            storage = result.untyped_storage()
            key = storage._cdata
            if key not in self._alive:
                self._alive[key] = storage.nbytes()
                weakref.finalize(storage, self._alive.pop, key)
                self.most = max(self.most, sum(self._alive.values()))
        return result


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
    return min(free, free_in_groups())


def _left(group: Path, limit: str, used: str) -> float:
    """What a control group leaves of its limit; infinite where it has none."""
    try:
        most = (group / limit).read_text().strip()
        taken = float((group / used).read_text())
        stat = (group / "memory.stat").read_text()
    except OSError:
        return float("inf")
    if most == "max":
        return float("inf")
    # What was read of files counts as used until somebody needs the memory, which we may.
    total = "total_" if "\ntotal_" in stat else ""
    cached = re.findall(rf"^{total}(?:in)?active_file (\d+)$", stat, re.MULTILINE)
    return max(float(most) - taken + sum(map(float, cached)), 0.0)
