"""The steps of the paper as its text has them, without a thought to time: the yardstick of speed.

Sections 3.1 and 3.4: a dense mask, subvolumes saved one by one, inference of one subvolume after
another, and a greedy loop over the whole score volume. The picks of that loop are those of
`peaks.find_peaks`; a test says so.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from tomopicker.types import Shape


def standardise(volume: NDArray[np.generic], *, clip: float = 3.0) -> NDArray[np.float32]:
    """Standardise a volume ``z y x`` in memory, clip it, and standardise it again."""
    values = volume.astype(np.float64)
    values = (values - values.mean()) / values.std()
    values = np.clip(values, -clip, clip)
    return ((values - values.mean()) / values.std()).astype(np.float32)


def mask(shape: Shape, centres: NDArray[np.int64], radius: float) -> NDArray[np.uint8]:
    """1 within the radius of a centre: every particle's distance to every voxel of the volume."""
    z, y, x = np.meshgrid(*(np.arange(length) for length in shape), indexing="ij")
    labels = np.zeros(shape, dtype=np.uint8)
    for cz, cy, cx in centres:
        labels[(z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 <= radius**2] = 1
    return labels


def corners(shape: Shape, side: int) -> Iterator[Shape]:
    """First voxels of the non-overlapping subvolumes that cover a volume."""
    yield from product(*(range(0, length, side) for length in shape))


def subvolume(volume: NDArray[np.float32], corner: Shape, side: int) -> NDArray[np.float32]:
    """Copy a cube out of a volume; what lies past the far faces is 0, the mean."""
    cube = np.zeros((side,) * 3, dtype=volume.dtype)
    part = volume[tuple(slice(start, start + side) for start in corner)]
    cube[tuple(slice(length) for length in part.shape)] = part
    return cube


def save_subvolumes(
    volume: NDArray[np.float32], labels: NDArray[np.uint8], folder: Path, side: int
) -> list[tuple[Path, Path]]:
    """Save every subvolume and its labels in a file each."""
    files = []
    for corner in corners(volume.shape, side):
        name = "-".join(map(str, corner))
        pair = folder / f"{name}-volume.npy", folder / f"{name}-labels.npy"
        np.save(pair[0], subvolume(volume, corner, side))
        np.save(pair[1], subvolume(labels, corner, side))
        files.append(pair)
    return files


@torch.inference_mode()
def infer(volume: NDArray[np.float32], network: nn.Module, side: int) -> NDArray[np.float32]:
    """Score one subvolume after another and merge the scores, ``z y x`` logits."""
    network.eval()
    scores = np.empty(volume.shape, dtype=np.float32)
    for corner in corners(volume.shape, side):
        cube = torch.from_numpy(subvolume(volume, corner, side))[None, None]  # (1 1 s s s)
        part = scores[tuple(slice(start, start + side) for start in corner)]
        part[...] = network(cube)[0].numpy()[tuple(slice(length) for length in part.shape)]
    return scores


def peaks(
    scores: NDArray[np.float32], *, radius: float, count: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Take the volume's maximum, set the ball around it to -inf, and repeat `count` times.

    The scores are changed. Returns (n, 3) voxels ``z y x`` and (n,) scores.
    """
    reach = int(radius)
    voxels, values = [], []
    for _ in range(count):
        best = np.unravel_index(int(np.argmax(scores)), scores.shape)
        if scores[best] == -np.inf:
            break
        voxels.append(best)
        values.append(float(scores[best]))
        box = tuple(slice(max(at - reach, 0), at + reach + 1) for at in best)
        z, y, x = np.ogrid[box]
        near = (z - best[0]) ** 2 + (y - best[1]) ** 2 + (x - best[2]) ** 2 <= radius**2
        scores[box][near[tuple(slice(length) for length in scores[box].shape)]] = -np.inf
    return np.array(voxels, dtype=np.int64).reshape(-1, 3), np.array(values)
