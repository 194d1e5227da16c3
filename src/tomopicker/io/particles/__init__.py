"""Picks of every format over one table, `Particles`."""

from tomopicker.io.particles.formats import (
    FORMATS,
    Format,
    check_format,
    read_particles,
    recognise,
    suffix_of,
    write_particles,
)
from tomopicker.io.particles.frame import Frame
from tomopicker.io.particles.matching import (
    by_tomogram,
    check_inside,
    fitting_orders,
    list_files,
    read_picks_for,
)

__all__ = [
    "FORMATS",
    "Format",
    "Frame",
    "by_tomogram",
    "check_format",
    "check_inside",
    "fitting_orders",
    "list_files",
    "read_particles",
    "read_picks_for",
    "recognise",
    "suffix_of",
    "write_particles",
]
