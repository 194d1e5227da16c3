"""Volumes of every format, one by one or many named at once."""

from tomopicker.io.names import SUFFIXES, match_names, plain_name, series_name, tomogram_name
from tomopicker.io.tomograms.mrc import read_tomogram, thickness_axis, write_volume

__all__ = [
    "SUFFIXES",
    "match_names",
    "plain_name",
    "read_tomogram",
    "series_name",
    "thickness_axis",
    "tomogram_name",
    "write_volume",
]
