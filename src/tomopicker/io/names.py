"""Names that link tomograms, tilt series and particles across programs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tomopicker.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

SUFFIXES = (
    *(".mrc", ".rec", ".map", ".st"),
    *(".zarr", ".em", ".hdf", ".h5", ".hdf5", ".tif", ".tiff"),
)
"""How the names of volumes end; what a file is, its content decides."""


def tomogram_name(path: Path | str) -> str:
    """Give the file's name without its folder and the suffix of a volume.

    In a copick project, whose files are all called alike, it is the name of the run. OME's files
    have two suffixes.

    >>> tomogram_name("a/TS_01_10.00Apx.mrc"), tomogram_name("TS_01_10.00Apx")
    ('TS_01_10.00Apx', 'TS_01_10.00Apx')
    >>> tomogram_name("ExperimentRuns/TS_01/VoxelSpacing10.000/wbp.zarr")
    'TS_01'
    >>> tomogram_name("TS_01.ome.zarr"), tomogram_name("TS_01.ome.zarr/1")
    ('TS_01', 'TS_01')
    """
    name = Path(path).name
    folder = Path(path).parent
    if folder.suffix.lower() == ".zarr":
        # A level of an image.
        return tomogram_name(folder)
    if folder.name.startswith("VoxelSpacing") and folder.parent.name:
        return folder.parent.name
    stem, suffix = Path(name).stem, Path(name).suffix
    return stem.removesuffix(".ome") if suffix.lower() in SUFFIXES else name


def series_name(name: str) -> str:
    """Derive the tilt series' name from a tomogram's, or from what a particle list calls it.

    RELION calls the tomogram of TS_01 `rec_TS_01.mrc`, Warp calls it `TS_01_10.00Apx.mrc` and
    its tilt series `TS_01.tomostar`.

    >>> series_name("tomograms/rec_TS_01.mrc"), series_name("TS_01_10.00Apx.mrc")
    ('TS_01', 'TS_01')
    """
    stem = tomogram_name(name.replace("\\", "/").rstrip("/")).removesuffix(".tomostar")
    return re.sub(r"_\d+(\.\d+)?Apx$", "", stem.removeprefix("rec_")) or stem


def plain_name(name: str) -> str:
    """Reduce a name to what the names of one tomogram have in common in different programs.

    >>> plain_name("rec_TS_01.mrc") == plain_name("ts_01_10.00Apx")
    True
    """
    return series_name(name).lower()


def match_names(wanted: Sequence[str], available: Sequence[str]) -> dict[str, str]:
    """Find each wanted name among the available ones.

    The same name first, then the same `plain_name`; last a bare number, as the TomoPicker
    authors' lists name tomograms, is the number a name ends with.

    Returns
    -------
    dict
        From the wanted names that were found to the available ones.

    Raises
    ------
    InputError
        When a wanted name could be several of the available ones.

    Examples
    --------
    >>> match_names(["TS_01.tomostar", "TS_02"], ["rec_TS_01", "TS_010"])
    {'TS_01.tomostar': 'rec_TS_01'}
    """
    found = {}
    for name in dict.fromkeys(wanted):
        for same in (str.__eq__, _same_plain_name, _same_number):
            hits = [other for other in available if same(name, other)]
            if len(hits) > 1:
                raise InputError(
                    f"{name} could be any of {', '.join(hits)}; give one of them, or rename them"
                )
            if hits:
                found[name] = hits[0]
                break
    return found


def _same_plain_name(name: str, other: str) -> bool:
    return plain_name(name) == plain_name(other)


def _same_number(name: str, other: str) -> bool:
    number = re.search(r"\d+$", plain_name(other))
    return name.isdecimal() and number is not None and int(name) == int(number.group())
