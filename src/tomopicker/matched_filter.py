"""Radial matched filter: the clicked particles' rotational average, correlated with a tomogram.

The rotational average of a particle is its size, its contrast and the rings of the contrast
transfer function. A few clicks fix it, and since it has no orientation one correlation replaces
the thousands of a template search.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
from scipy.fft import next_fast_len

from tomopicker.errors import InputError
from tomopicker.types import Window
from tomopicker.windows import tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray
    from torch import Tensor

    from tomopicker.types import Floats, Shape
    from tomopicker.windows import Tile

MASK_RADII = 1.25
"""Radius within which the filter looks, in particle radii: the particle and its first dark ring."""

_TILE = 128
_MOST_AT_ONCE = 4  # tiles, of 100 MB each


@dataclass(frozen=True, kw_only=True)
class RadialFilter:
    """A rotationally symmetric template, sampled at whole voxels of its radius."""

    profile: Floats
    """(k,) density at radius 0, 1, ... k - 1 voxels; the mask ends at k - 1."""

    @property
    def reach(self) -> int:
        """Voxels that the filter looks at on either side of a voxel."""
        return len(self.profile) - 1

    def template(self) -> NDArray[np.float32]:
        """(k, k, k) template, mean 0 and norm 1 within its mask, 0 outside."""
        distance = _distances(self.reach)
        mask = distance <= self.reach
        values = np.interp(distance, np.arange(len(self.profile)), self.profile)
        values = np.where(mask, values - values[mask].mean(), 0.0)
        template: NDArray[np.float32] = (values / np.sqrt((values**2).sum())).astype(np.float32)
        return template


def learn_filter(
    blocks: Iterable[tuple[Callable[[Window], NDArray[np.float32]], Shape, Floats]],
    *,
    radius: float,
) -> RadialFilter:
    """Average the clicked particles over all directions.

    Parameters
    ----------
    blocks
        For each tomogram a function that reads a window of the standardised volume, the volume's
        shape ``z y x``, and the clicked centres (n, 3) in voxels ``z y x``.
    radius
        Particle radius in voxels.

    Raises
    ------
    InputError
        When the average has no contrast, so that it cannot be told from any other place.
    """
    reach = ceil(MASK_RADII * radius)
    total, count = np.zeros(reach + 2), np.zeros(reach + 2)
    for read, shape, centres in blocks:
        for centre in centres:
            low = np.maximum(np.floor(centre).astype(int) - reach, 0)
            high = np.minimum(np.ceil(centre).astype(int) + reach + 1, shape)
            corner, extent = low.tolist(), (high - low).tolist()
            block = read(Window(corner=tuple(corner), shape=tuple(extent)))
            axes = (np.arange(a, b) - c for a, b, c in zip(low, high, centre, strict=True))
            z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
            distance = np.sqrt(z**2 + y**2 + x**2)
            inside = distance <= reach
            # Each voxel is shared by the two nearest whole radii, so that the profile is smooth
            # although the centres lie between voxels.
            ring = np.floor(distance[inside]).astype(int)
            upper = distance[inside] - ring
            values = block[inside]
            total += np.bincount(ring, values * (1 - upper), minlength=reach + 2)
            total += np.bincount(ring + 1, values * upper, minlength=reach + 2)
            count += np.bincount(ring, 1 - upper, minlength=reach + 2)
            count += np.bincount(ring + 1, upper, minlength=reach + 2)
    profile = (total / np.maximum(count, 1e-9))[: reach + 1]
    if not count[0] or np.ptp(profile) < 1e-6:
        raise InputError(
            "the clicked particles' average has no contrast: check that the picks belong to this "
            "tomogram with `tomopicker inspect`"
        )
    return RadialFilter(profile=profile)


def correlate(
    read: Callable[[Window], NDArray[np.float32]], shape: Shape, radial: RadialFilter
) -> NDArray[np.float16]:
    """Correlate a tomogram with a filter, normalised by the local mean and standard deviation.

    The correlation coefficient of the template with the voxels under its mask, computed tile by
    tile with fast Fourier transforms; beyond the faces the volume is mirrored.

    Parameters
    ----------
    read
        Reads a window of the standardised volume.
    shape
        Of the volume, ``z y x``.

    Returns
    -------
    numpy.ndarray
        ``z y x``, between -1 and 1, in half precision: a thousandth of the coefficient is far
        below its noise, and the volume is as large as the tomogram.
    """
    import torch

    reach = radial.reach
    template = torch.from_numpy(radial.template())
    scores = np.empty(shape, dtype=np.float16)
    kernels: dict[Shape, _Kernels] = {}

    @torch.inference_mode()
    def correlate_tile(tile: Tile) -> None:
        block = read(tile.read)
        margins = [
            (reach - (core - start), reach - (start + length - core - size))
            for core, size, start, length in zip(
                tile.core.corner, tile.core.shape, tile.read.corner, tile.read.shape, strict=True
            )
        ]
        block = np.pad(block, margins, "symmetric")
        z, y, x = (next_fast_len(length, real=True) for length in block.shape)
        # Tiles have few shapes, so that most find their kernels' spectra here.
        if (z, y, x) not in kernels:
            kernels[z, y, x] = _Kernels.of(template, (z, y, x))
        coefficient = _correlate_block(torch.from_numpy(block), kernels[z, y, x])
        scores[tile.core.slices] = coefficient.half().numpy()

    every = tiles(shape, side=_TILE, halo=reach)
    if torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
        for tile in every:
            correlate_tile(tile)
    else:
        # As on Apple's processors: there a transform has one thread.
        with ThreadPoolExecutor(min(torch.get_num_threads(), _MOST_AT_ONCE)) as pool:
            list(pool.map(correlate_tile, every))
    return scores


@dataclass(frozen=True, kw_only=True)
class _Kernels:
    """Spectra of a template and of the mean under its mask, for blocks of one size."""

    reach: int
    voxels: int
    """In the mask."""
    size: Shape
    """Of the transform."""
    template: Tensor
    mean: Tensor

    @classmethod
    def of(cls, template: Tensor, size: Shape) -> _Kernels:
        import torch

        reach = template.shape[0] // 2
        mask = torch.from_numpy(_distances(reach) <= reach).float()
        return cls(
            reach=reach,
            voxels=int(mask.sum()),
            size=size,
            template=torch.fft.rfftn(template, size),
            mean=torch.fft.rfftn(mask / mask.sum(), size),
        )


def _correlate_block(block: Tensor, kernels: _Kernels) -> Tensor:
    """Coefficients at the voxels of a block that hold a whole template around them."""
    from torch import fft

    size = kernels.size
    inner = tuple(slice(2 * kernels.reach, length) for length in block.shape)
    # The kernels are symmetric, so convolution is correlation.
    spectrum = fft.rfftn(block, size)
    overlap = fft.irfftn(spectrum * kernels.template, size)[inner]
    mean = fft.irfftn(spectrum.mul_(kernels.mean), size)[inner]
    spectrum = fft.rfftn(block.square(), size)
    square = fft.irfftn(spectrum.mul_(kernels.mean), size)[inner]
    # A flat neighbourhood (padding, erased gold) has no variance and correlates with nothing.
    deviation = ((square - mean * mean).clamp(min=1e-4) * kernels.voxels).sqrt()
    coefficient: Tensor = (overlap / deviation).clamp(-1, 1)
    return coefficient


def _distances(reach: int) -> Floats:
    axis = np.arange(-reach, reach + 1, dtype=np.float64)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij", sparse=True)
    return np.sqrt(z**2 + y**2 + x**2)
