"""Places that a user names without saying which is which: tomograms, and the picks in them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tomopicker.errors import InputError
from tomopicker.io.names import SUFFIXES, files_of
from tomopicker.io.particles.formats import is_list
from tomopicker.io.particles.matching import list_files
from tomopicker.io.particles.rows import listed
from tomopicker.io.tomograms.copick import copick_trees, picks_in
from tomopicker.io.tomograms.find import holds_tomograms
from tomopicker.io.tomograms.relion import read_optimisation_set, read_rows
from tomopicker.io.tomograms.zarr import is_zarr

if TYPE_CHECKING:
    from collections.abc import Sequence

# TOM's lists are volumes by their name.
_NO_LISTS = frozenset(SUFFIXES) - {".em"}
"""How the names of volumes end that are not looked into for a list."""


def tomograms_and_picks(
    places: Sequence[Path], picks: Path | None
) -> tuple[list[Path], list[Path]]:
    """Tell lists of particles from tomograms, by what is in them.

    Parameters
    ----------
    places
        Whatever `find_tomograms` finds tomograms by; and lists of particles, patterns that name
        nothing else, and folders that hold lists and no tomograms.
    picks
        Lists that were named as such; `places` then are tomograms.

    Returns
    -------
    tuple
        The places of tomograms, and those of picks, in the order given; the latter may be none.

    Raises
    ------
    InputError
        When there are lists among the places and `picks` too, or nothing but lists, or a place is
        not there.
    """
    for place in places if picks is None else ():
        # Nobody knows what it is meant to be.
        if files_of(place) == [place] and not place.exists():
            raise InputError(f"{place}: no such file; check its name and folder")
    lists = [place for place in places if _holds_picks(place)]
    tomograms = [place for place in places if place not in lists]
    if picks is not None and lists:
        raise InputError(
            f"{lists[0]}: is a list of particles, and --picks names one too; give one of them"
        )
    if not tomograms:
        raise InputError(
            f"{lists[0]}: is a list of particles; name the tomograms that they are in before it"
        )
    return tomograms, lists if picks is None else [picks]


def picks_of_project(places: Sequence[Path]) -> list[Path]:
    """Find the picks that a project keeps beside its tomograms.

    These are the particles of RELION's `optimisation_set.star`, and the one kind of picks in a
    copick project.

    Raises
    ------
    InputError
        When there are none, it is not clear which, or a STAR file lists nothing that is known.
    """
    found: list[Path] = []
    for place in places:
        if place.suffix.lower() == ".star" and place.is_file():
            named = read_optimisation_set(place)
            if named is None:
                # If it is no list of tomograms either, that is what is wrong.
                read_rows(place)
            else:
                found.append(named[0])
        for tree in copick_trees(place):
            found += picks_in(tree)
    kinds = sorted({file.name for file in found})
    if len(kinds) > 1:
        raise InputError(
            f"{places[0]}: has picks of {len(kinds)} kinds ({listed(kinds)}); give one, as --picks "
            f"'{_pattern(found[0])}'"
        )
    if not found:
        raise InputError(
            f"{places[0]}: has no picks of its own; name a list of particles behind the tomograms, "
            "or give it with --picks"
        )
    return found


def is_picks(file: Path) -> bool:
    """Tell whether a file is a list of particles.

    Raises
    ------
    InputError
        As `is_list`.
    """
    return file.suffix.lower() not in _NO_LISTS and file.is_file() and is_list(file)


def _holds_picks(place: Path) -> bool:
    """Tell whether a file, all files of a pattern, or a folder are picks."""
    matches = files_of(place)
    if matches != [place]:
        return all(_holds_picks(match) for match in matches)
    if not place.is_dir():
        return is_picks(place)
    if place.suffix.lower() in _NO_LISTS or is_zarr(place) or holds_tomograms(place):
        return False
    try:
        return bool(list_files(place))
    except InputError:
        return False


def _pattern(file: Path) -> Path:
    """Name all the picks of a kind in a copick project."""
    return file.parents[2] / "*" / "Picks" / file.name
