"""Find the tomograms that a user means: files, folders, patterns, lists and projects."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tomopicker.errors import InputError
from tomopicker.io.names import SUFFIXES, files_of, tomogram_name
from tomopicker.io.tomograms.copick import RUNS, read_copick_config, read_copick_tree
from tomopicker.io.tomograms.relion import LISTED, read_tomogram_list
from tomopicker.io.tomograms.source import Source
from tomopicker.io.tomograms.warp import read_tomostars, reconstructions_of, tomostars_of
from tomopicker.io.tomograms.zarr import is_zarr

if TYPE_CHECKING:
    from collections.abc import Iterable

_NO_TOMOGRAM = (".st",)
"""In a folder these are tilt series, which IMOD leaves beside the tomograms."""


def find_tomograms(places: Iterable[Path | str]) -> list[Source]:
    """Find out which tomograms are meant; none is opened yet.

    Parameters
    ----------
    places
        Any of: the file of a tomogram; a pattern as `rec/*.mrc`; a folder with tomograms; a
        `tomograms.star` of RELION-5, or a folder that holds one; a folder of Warp, or a
        `.tomostar`; a copick configuration (`.json`), or the folder that holds its
        `ExperimentRuns`; a text file (`.txt`) with a path on each line.

    Returns
    -------
    list
        In the order given; within a folder by name. A file that is not there is one of them, and
        is refused when it is opened.

    Raises
    ------
    InputError
        When a place names no tomograms, or it is not clear which.
    """
    return [source for place in places for source in _sources(Path(place))]


def holds_tomograms(folder: Path) -> bool:
    """Tell whether a folder has tomograms, or is of a project that `find_tomograms` knows."""
    return (
        (folder / LISTED).is_file()
        or (folder / RUNS).is_dir()
        or reconstructions_of(folder) is not None
        or bool(tomostars_of(folder) or _volumes_in(folder))
    )


def _sources(place: Path) -> list[Source]:
    suffix = place.suffix.lower()
    matches = files_of(place)
    if matches != [place]:
        return find_tomograms(matches)
    if place.is_dir() and suffix not in SUFFIXES and not is_zarr(place):
        return _in_folder(place)
    if suffix == ".star":
        return read_tomogram_list(place)
    if suffix == ".json":
        return read_copick_config(place)
    if suffix == ".tomostar":
        return read_tomostars([place], place.parent)
    if suffix == ".txt":
        return _in_text(place)
    return [Source(name=tomogram_name(place), paths=(place,))]


def _in_folder(folder: Path) -> list[Source]:
    if (folder / LISTED).is_file():
        return read_tomogram_list(folder / LISTED)
    if (folder / RUNS).is_dir():
        return read_copick_tree(folder)
    tomostars = tomostars_of(folder)
    if tomostars:
        return read_tomostars(tomostars, folder)
    for place in filter(None, (folder, reconstructions_of(folder))):
        volumes = _volumes_in(place)
        if volumes:
            return [
                Source(name=tomogram_name(file), paths=(file.absolute(),), listed=folder)
                for file in volumes
            ]
    raise InputError(
        f"{folder}: holds no tomograms ({', '.join(SUFFIXES)}), no tomograms.star, no .tomostar "
        f"and no {RUNS}; where they are in folders below, give a pattern, as '{folder}/*/*.mrc'"
    )


def _volumes_in(folder: Path) -> list[Path]:
    return [
        file
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in SUFFIXES
        and file.suffix.lower() not in _NO_TOMOGRAM
        and not file.name.startswith(".")
    ]


def _in_text(path: Path) -> list[Source]:
    """Sources of a file with one path on each line; empty lines and those that begin with #."""
    from tomopicker.io.particles.rows import read_text

    lines = [line.strip() for line in read_text(path).splitlines()]
    names = [line for line in lines if line and not line.startswith("#")]
    if not names:
        raise InputError(f"{path}: lists no tomograms; write the path of one on each line")
    return [Source(name=tomogram_name(name), paths=(Path(name),), listed=path) for name in names]
