"""Augmentation: what another tomogram of the same particle might look like, wedge untouched.

Flips along z, y or x map the missing wedge onto itself; other rotations would tilt it. They make
mirror images of the particle, which at these resolutions costs nothing. Spectrum, contrast and
noise vary as they do between tomograms.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

    from tomopicker.types import Floats

FLIPS: tuple[tuple[int, ...], ...] = tuple(
    tuple(axis for axis, flip in zip((-3, -2, -1), choice, strict=True) if flip)
    for choice in product((False, True), repeat=3)
)
"""The eight wedge-legal flips, as the axes to reverse; the first reverses none."""


def augment(
    volumes: Tensor,
    labels: Tensor,
    *,
    rng: np.random.Generator,
    first: int = 0,
    total: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Vary a batch as tomograms vary, on the device that it is on.

    Parameters
    ----------
    volumes
        (b, c, z, y, x) standardised windows; channel 0 is the tomogram, a second channel its
        correlation with the matched filter, which is flipped and scaled but has its own noise.
    labels
        (b, z, y, x), flipped along.
    rng
        The same one gives the same batch on devices of one kind; noise made on a GPU is another
        than that made on a CPU.
    first, total
        Where these windows are only some of a batch: the place of the first of them, and the
        windows of the whole batch. Each is then varied as it would be among all of them.

    Returns
    -------
    tuple
        New tensors of the same shapes.
    """
    total = len(volumes) if total is None else total
    here = slice(first, first + len(volumes))
    batch, new_labels = volumes.clone(), labels.clone()
    choices = [FLIPS[int(rng.integers(len(FLIPS)))] for _ in range(total)]
    for i, axes in enumerate(choices[here]):
        if axes:
            batch[i], new_labels[i] = volumes[i].flip(axes), labels[i].flip(axes)

    density = _vary_spectrum(batch[:, 0], rng.normal(0.0, 0.5, total)[here])
    density = density * _per_window(rng.lognormal(0.0, 0.15, total)[here], density)
    density = density + _per_window(rng.normal(0.0, 0.1, total)[here], density)
    density = density + _noise(density, rng.uniform(0.0, 0.4, total), rng, here)
    if batch.shape[1] == 1:
        return density[:, None], new_labels
    correlation = batch[:, 1]
    correlation = correlation * _per_window(rng.lognormal(0.0, 0.1, total)[here], correlation)
    correlation = correlation + _noise(correlation, rng.uniform(0.0, 0.2, total), rng, here)
    return torch.stack([density, correlation], dim=1), new_labels


def _per_window(values: Floats, like: Tensor) -> Tensor:
    # Not every device knows double precision.
    return torch.from_numpy(values.astype(np.float32)).to(like.device)[:, None, None, None]


def _noise(like: Tensor, sigmas: Floats, rng: np.random.Generator, here: slice) -> Tensor:
    """White noise for some windows of a batch, made for all of them: one seed for a batch."""
    generator = torch.Generator(device=like.device).manual_seed(int(rng.integers(2**62)))
    shape = (len(sigmas), *like.shape[1:])
    noise = torch.randn(shape, generator=generator, device=like.device)
    return noise[here] * _per_window(sigmas[here], like)


def _vary_spectrum(density: Tensor, slopes: Floats) -> Tensor:
    """Tilt the amplitude spectrum: exp(a f), f from 0 at the origin to 1 at the Nyquist limit."""
    if not len(density):  # of which not every library can make a transform
        return density
    frequencies = [torch.fft.fftfreq(n, device=density.device) for n in density.shape[1:3]]
    frequencies.append(torch.fft.rfftfreq(density.shape[3], device=density.device))
    z, y, x = torch.meshgrid(*frequencies, indexing="ij")
    radius = 2 * torch.sqrt(z**2 + y**2 + x**2)
    tilt = torch.exp(_per_window(slopes, density) * radius)
    spectrum = torch.fft.rfftn(density, dim=(1, 2, 3)) * tilt
    varied: Tensor = torch.fft.irfftn(spectrum, s=density.shape[1:], dim=(1, 2, 3))
    # Keep the standard deviation: contrast is varied on its own.
    return (
        varied
        * (density.std(dim=(1, 2, 3)) / varied.std(dim=(1, 2, 3)).clamp_min(1e-6))[
            :, None, None, None
        ]
    )
