"""Picks of every format over one table, `Particles`."""

from tomopicker.io.particles.formats import (
    FORMATS,
    Format,
    check_format,
    doubt_about,
    formats_of_name,
    place_of,
    read_in,
    read_particles,
    recognise,
    writable,
    write_in,
    write_particles,
)
from tomopicker.io.particles.frame import Frame
from tomopicker.io.particles.matching import (
    by_tomogram,
    check_inside,
    count_elsewhere,
    fitting_orders,
    list_files,
    read_picks_for,
)
from tomopicker.io.particles.relion_project import write_import_list

__all__ = [
    "FORMATS",
    "Format",
    "Frame",
    "by_tomogram",
    "check_format",
    "check_inside",
    "count_elsewhere",
    "doubt_about",
    "fitting_orders",
    "formats_of_name",
    "list_files",
    "place_of",
    "read_in",
    "read_particles",
    "read_picks_for",
    "recognise",
    "writable",
    "write_import_list",
    "write_in",
    "write_particles",
]
