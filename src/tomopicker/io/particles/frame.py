"""What the coordinates of a particle file are counted in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tomopicker.errors import InputError
from tomopicker.types import Floats, Shape

UNKNOWN = 1.0
"""A voxel size of exactly 1 Å means, as in MRC headers, that nobody knows it."""

_RADIUS_VOXELS = 10.0


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The tomogram that particles belong to, as far as their file's convention needs it."""

    voxel_size: float
    """Of the tomogram, ångström."""
    shape: Shape | None = None
    """Of the tomogram; RELION-5, EMAN2 and IMOD need it."""
    pixel_size: float | None = None
    """Of the unbinned tilt series, ångström; RELION-4 and EMAN2 count in its pixels."""
    extent: tuple[float, float, float] | None = None
    """Its size ``x y z`` in ångström, where that is not its shape in voxels but unbinned pixels."""
    radius: float | None = None
    """Of the particle, ångström, for the formats that draw it."""

    @property
    def drawn_radius(self) -> float:
        """Radius in ångström to draw a particle with, known or not."""
        return _RADIUS_VOXELS * self.voxel_size if self.radius is None else self.radius

    def size(self, path: Path, reason: str) -> Floats:
        """(3,) voxels of the tomogram, ``x y z``.

        Raises
        ------
        InputError
            With the reason why it is needed, where the frame has no shape.
        """
        if self.shape is None:
            raise InputError(f"{path}: {reason}; give the tomogram with it (--like TOMOGRAM)")
        return np.array(self.shape[::-1], dtype=np.float64)
