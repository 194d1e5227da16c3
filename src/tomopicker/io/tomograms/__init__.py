"""Volumes of every format, one by one or many named at once."""

from tomopicker.io.names import SUFFIXES, match_names, plain_name, series_name, tomogram_name
from tomopicker.io.tomograms.find import find_tomograms
from tomopicker.io.tomograms.formats import read_tomogram, thickness_axis
from tomopicker.io.tomograms.masks import find_masks, read_mask
from tomopicker.io.tomograms.mrc import write_volume
from tomopicker.io.tomograms.relion import LISTED, write_half_maps
from tomopicker.io.tomograms.source import Source

__all__ = [
    "LISTED",
    "SUFFIXES",
    "Source",
    "find_masks",
    "find_tomograms",
    "match_names",
    "plain_name",
    "read_mask",
    "read_tomogram",
    "series_name",
    "thickness_axis",
    "tomogram_name",
    "write_half_maps",
    "write_volume",
]
