"""Template matching with the true map: the baseline that knows what the particle looks like.

The target's map is rotated, given the transfer function and missing wedge of the tomogram, and
correlated with it, normalised by the local standard deviation within a spherical mask; the best
orientation counts at each voxel.
"""

from __future__ import annotations

import numpy as np
from scipy import fft
from scipy.spatial.transform import Rotation


def match(volume, density, settings, *, orientations: int = 1000) -> np.ndarray:
    """Correlation ``z y x`` of the best of many orientations, for particles dark or bright alike.

    Parameters
    ----------
    volume
        ``z y x``.
    density
        Odd cube of the target's density, matter positive.
    settings
        The `Simulation` that made the volume: the template is imaged as the particle was.
    """
    from tomopicker.simulate import plant, transfer
    from tomopicker.template import even_rotations

    shape = tuple(fft.next_fast_len(side + density.shape[0], real=True) for side in volume.shape)
    volume = (volume - volume.mean()) / volume.std()
    volume = np.clip(volume, -4, 4)
    spectrum = fft.rfftn(volume, shape, workers=1)
    box = density.shape[0] + 8
    box += 1 - box % 2
    half = box // 2
    amplitude, _ = transfer((box, box, box), settings.model_copy(update={"shape": (box,) * 3}))
    axis = np.arange(box) - half
    distance = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    mask = np.clip(settings.radius * 1.2 + 0.5 - distance, 0, 1).astype(np.float32)

    def correlate(kernel: np.ndarray, of: np.ndarray) -> np.ndarray:
        rolled = np.zeros(shape, dtype=np.float32)
        rolled[:box, :box, :box] = kernel
        rolled = np.roll(rolled, (-half, -half, -half), axis=(0, 1, 2))
        full = fft.irfftn(of * np.conj(fft.rfftn(rolled, workers=1)), shape, workers=1)
        return full[: volume.shape[0], : volume.shape[1], : volume.shape[2]]

    weight = mask.sum()
    mean = correlate(mask / weight, spectrum)
    square = correlate(mask / weight, fft.rfftn(volume**2, shape, workers=1))
    deviation = np.sqrt(np.maximum(square - mean**2, 1e-3))
    turns = even_rotations(orientations)
    best = np.full(volume.shape, -np.inf, dtype=np.float32)
    for turn in turns:
        template = np.zeros((box, box, box), dtype=np.float32)
        plant(template, density, np.full((1, 3), float(half)), Rotation.concatenate([turn]))
        template = fft.irfftn(fft.rfftn(template) * amplitude, template.shape)
        template = mask * (template - (mask * template).sum() / weight)
        template /= np.sqrt((template**2).sum() * weight)
        np.maximum(best, correlate(template, spectrum) / deviation, out=best)
    return best
