"""Augmentation: what another tomogram of the same particle might look like, wedge untouched.

Flips along z, y or x map the missing wedge onto itself; other rotations would tilt it. They make
mirror images of the particle, which at these resolutions costs nothing. Spectrum, contrast and
noise vary as they do between tomograms.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

FLIPS: tuple[tuple[int, ...], ...] = tuple(
    tuple(axis for axis, flip in zip((-3, -2, -1), choice, strict=True) if flip)
    for choice in product((False, True), repeat=3)
)
"""The eight wedge-legal flips, as the axes to reverse; the first reverses none."""


def augment(volumes: Tensor, labels: Tensor, *, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Vary a batch as tomograms vary.

    Parameters
    ----------
    volumes
        (b, c, z, y, x) standardised windows; channel 0 is the tomogram, a second channel its
        correlation with the matched filter, which is flipped and scaled but has its own noise.
    labels
        (b, z, y, x), flipped along.

    Returns
    -------
    tuple
        New tensors of the same shapes.
    """
    flipped_volumes, flipped_labels = [], []
    for volume, label in zip(volumes, labels, strict=True):
        axes = FLIPS[int(rng.integers(len(FLIPS)))]
        flipped_volumes.append(torch.flip(volume, axes) if axes else volume)
        flipped_labels.append(torch.flip(label, axes) if axes else label)
    batch, new_labels = torch.stack(flipped_volumes), torch.stack(flipped_labels)

    density = _vary_spectrum(batch[:, 0], rng)
    density = density * _per_window(rng.lognormal(0.0, 0.15, len(batch)), density)
    density = density + _per_window(rng.normal(0.0, 0.1, len(batch)), density)
    density = _add_noise(density, rng.uniform(0.0, 0.4, len(batch)), rng)
    if batch.shape[1] == 1:
        return density[:, None], new_labels
    correlation = batch[:, 1]
    correlation = correlation * _per_window(rng.lognormal(0.0, 0.1, len(batch)), correlation)
    correlation = _add_noise(correlation, rng.uniform(0.0, 0.2, len(batch)), rng)
    return torch.stack([density, correlation], dim=1), new_labels


def _per_window(values: np.ndarray[tuple[int], np.dtype[np.float64]], like: Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=like.dtype, device=like.device)[:, None, None, None]


def _add_noise(
    density: Tensor, sigmas: np.ndarray[tuple[int], np.dtype[np.float64]], rng: np.random.Generator
) -> Tensor:
    generator = torch.Generator(device=density.device).manual_seed(int(rng.integers(2**62)))
    noise = torch.randn(density.shape, generator=generator, device=density.device)
    return density + noise * _per_window(sigmas, density)


def _vary_spectrum(density: Tensor, rng: np.random.Generator) -> Tensor:
    """Tilt the amplitude spectrum: exp(a f), f from 0 at the origin to 1 at the Nyquist limit."""
    frequencies = [torch.fft.fftfreq(n, device=density.device) for n in density.shape[1:3]]
    frequencies.append(torch.fft.rfftfreq(density.shape[3], device=density.device))
    z, y, x = torch.meshgrid(*frequencies, indexing="ij")
    radius = 2 * torch.sqrt(z**2 + y**2 + x**2)
    slopes = _per_window(rng.normal(0.0, 0.5, len(density)), density)
    spectrum = torch.fft.rfftn(density, dim=(1, 2, 3)) * torch.exp(slopes * radius)
    varied: Tensor = torch.fft.irfftn(spectrum, s=density.shape[1:], dim=(1, 2, 3))
    # Keep the standard deviation: contrast is varied on its own.
    return (
        varied
        * (density.std(dim=(1, 2, 3)) / varied.std(dim=(1, 2, 3)).clamp_min(1e-6))[
            :, None, None, None
        ]
    )
