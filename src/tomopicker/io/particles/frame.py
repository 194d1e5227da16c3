"""What the coordinates of a particle file are counted in."""

from __future__ import annotations

from dataclasses import dataclass

from tomopicker.types import Shape


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The tomogram that particles belong to, as far as their file's convention needs it."""

    voxel_size: float
    """Of the tomogram, ångström."""
    shape: Shape | None = None
    """Of the tomogram; RELION-5 counts from its centre."""
    pixel_size: float | None = None
    """Of the unbinned tilt series, ångström; RELION-4 counts in its pixels."""
