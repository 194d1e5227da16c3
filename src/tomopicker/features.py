"""Features: what the network sees of a tomogram, read window by window."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np

from tomopicker.matched_filter import correlate
from tomopicker.preprocess import Normalisation
from tomopicker.types import Bands
from tomopicker.windows import cut, inside, place

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tomopicker.matched_filter import RadialFilter
    from tomopicker.types import Shape, Tomogram, Volume, Window


@dataclass(frozen=True, kw_only=True)
class Features:
    """A tomogram's input channels; the volume itself stays where it is, on disk or in memory."""

    data: Volume
    """``z y x``, raw."""
    normalisation: Normalisation
    correlation: NDArray[np.float16] | None = None
    """``z y x``, the matched filter's correlation, standardised; None without that channel."""
    mask: Volume | None = None
    """Where particles may be, see `Tomogram.mask`; it changes no channel."""

    @property
    def shape(self) -> Shape:
        """Voxels along ``z y x``."""
        z, y, x = self.data.shape
        return z, y, x

    def density(self, window: Window) -> NDArray[np.float32]:
        """(z, y, x) standardised density; outside of the volume 0, its mean."""
        at = inside(window, self.shape)
        block = self.normalisation.apply(np.asarray(self.data[at.slices]))
        return place(block, at, window)

    def read(self, window: Window) -> NDArray[np.float32]:
        """(c, z, y, x) all channels; outside of the volume 0."""
        channels = [self.density(window)]
        if self.correlation is not None:
            channels.append(cut(self.correlation, window))
        return np.stack(channels)

    def for_one_use(self) -> Features:
        """The same, whose correlation is let go row by row once scoring is done with it."""
        if self.correlation is None:
            return self
        return replace(self, correlation=cast("NDArray[np.float16]", Bands(self.correlation)))

    def let_go(self, *, before: int) -> None:
        """Free the correlation's rows along y before one, if these features are `for_one_use`."""
        if isinstance(self.correlation, Bands):
            self.correlation.let_go(before=before)


def compute_features(
    tomogram: Tomogram, normalisation: Normalisation, radial: RadialFilter | None
) -> Features:
    """Compute the channels of a tomogram; the correlation only when there is a filter.

    Each tomogram's correlation is standardised by its own mean and deviation, because the
    coefficient shrinks with the noise.
    """
    import torch

    plain = Features(data=tomogram.data, normalisation=normalisation, mask=tomogram.mask)
    if radial is None:
        return plain
    correlation = correlate(plain.density, plain.shape, radial)
    # Plane by plane: the whole volume in a wider type would take several times its memory.
    planes = torch.from_numpy(correlation)
    mean = sum(float(plane.double().sum()) for plane in planes) / correlation.size
    squares = sum(float((plane.double() - mean).square().sum()) for plane in planes)
    deviation = np.sqrt(squares / correlation.size)
    for plane in planes:
        plane.copy_((plane.float() - mean) / deviation)
    return replace(plain, correlation=correlation)
