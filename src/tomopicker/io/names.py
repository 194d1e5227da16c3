"""Names of files, and those that link tomograms, tilt series and particles across programs."""

from __future__ import annotations

import glob
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

SIMULATION = "simulation.json"
"""What `tomopicker simulate` writes beside tomograms and lists: the settings."""


def files_of(place: Path) -> list[Path]:
    """List the files that a pattern names; a place that is none stands for itself.

    Raises
    ------
    InputError
        When no file is named so.
    """
    if place.exists() or not re.search(r"[*?]", str(place)):
        return [place]
    matches = sorted(glob.glob(str(place), recursive=True))  # noqa: PTH207, of any root
    if not matches:
        raise InputError(f"{place}: no file is named so; check the pattern and its folder")
    return [Path(match) for match in matches]


def in_words(places: Sequence[Path]) -> str:
    """Name places to a user: the first, and how many more.

    >>> in_words([Path("a.csv"), Path("b.csv"), Path("c.csv")])
    'a.csv and 2 more'
    """
    return str(places[0]) if len(places) == 1 else f"{places[0]} and {len(places) - 1} more"


def check_name(name: str, place: Path | str) -> str:
    """Return a tomogram's name, if files can be called so.

    Raises
    ------
    InputError
        Naming the place that calls a tomogram so, when its files would be in another folder.

    Examples
    --------
    >>> check_name("TS_01_10.00Apx", "tomograms.star")
    'TS_01_10.00Apx'
    """
    if name in ("", ".", "..") or re.search(r"[/\\]", name) or not name.isprintable():
        raise InputError(
            f"{place}: calls a tomogram {name!r}, which cannot be the name of its files; rename "
            "it, without slashes or unprintable characters"
        )
    return name


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
    its tilt series `TS_01.tomostar`. IMOD's is `TS_01_rec.mrc`, AreTomo's `TS_01_Vol.mrc`, EMAN2's
    `TS_01__bin4.hdf`, and people add the binning in one of these ways.

    >>> series_name("tomograms/rec_TS_01.mrc"), series_name("TS_01_10.00Apx.mrc")
    ('TS_01', 'TS_01')
    >>> series_name("TS_01_bin4_rec.mrc"), series_name("TS_01__bin4.hdf")
    ('TS_01', 'TS_01')
    """
    stem = tomogram_name(name.replace("\\", "/").rstrip("/")).removesuffix(".tomostar")
    return _BESIDE_THE_SERIES.sub("", stem) or stem


def plain_name(name: str) -> str:
    """Reduce a name to what the names of one tomogram have in common in different programs.

    >>> plain_name("rec_TS_01.mrc") == plain_name("ts_01_10.00Apx")
    True
    """
    return series_name(name).lower()


def differ_in_binning(name: str, other: str) -> bool:
    """Tell whether both names state a binning or voxel size, and not the same.

    >>> differ_in_binning("TS_01_bin4", "TS_01_bin8"), differ_in_binning("TS_01_bin4", "TS_01")
    (True, False)
    >>> differ_in_binning("TS_01_10.00Apx.mrc", "ts_01_10Apx")
    False
    """
    ours, theirs = (
        [float(number.group(1)) if number else None for number in (find(one) for find in _SIZES)]
        for one in (name, other)
    )
    pairs = zip(ours, theirs, strict=True)
    return any(our is not None and their not in (None, our) for our, their in pairs)


def match_names(wanted: Sequence[str], available: Sequence[str]) -> dict[str, str]:
    """Find each wanted name among the available ones.

    The same name first, then the same `plain_name`, in the same binning before any other; last a
    bare number, as the TomoPicker authors' lists name tomograms, is the number a name ends with.

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
        for same in (str.__eq__, _same_series_and_binning, _same_series, _same_number):
            hits = [other for other in available if same(name, other)]
            if len(hits) > 1:
                raise InputError(
                    f"{name} could be any of {', '.join(hits)}; give one of them, or rename them"
                )
            if hits:
                found[name] = hits[0]
                break
    return found


_BESIDE_THE_SERIES = re.compile(
    r"^rec_|(_+(full_rec|rec|recon|vol|bin\d+|\d+(\.\d+)?Apx))+$", flags=re.IGNORECASE
)
"""What the names of tomograms have before or behind the name of their tilt series."""

_SIZES = tuple(
    re.compile(pattern, flags=re.IGNORECASE).search
    for pattern in (r"_bin(\d+)(?![^_.])", r"_(\d+(?:\.\d+)?)Apx(?![^_.])")
)
"""How names state a binning, and a voxel size."""


def _same_series_and_binning(name: str, other: str) -> bool:
    return _same_series(name, other) and not differ_in_binning(name, other)


def _same_series(name: str, other: str) -> bool:
    return plain_name(name) == plain_name(other)


def _same_number(name: str, other: str) -> bool:
    number = re.search(r"\d+$", plain_name(other))
    return name.isdecimal() and number is not None and int(name) == int(number.group())
