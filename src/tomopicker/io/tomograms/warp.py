"""Folders of Warp: tilt series (.tomostar) and the tomograms reconstructed from them."""

from __future__ import annotations

from pathlib import Path

from tomopicker.errors import InputError
from tomopicker.io.names import plain_name
from tomopicker.io.tomograms.source import Source

_PLACES = (".", "reconstruction", "warp_tiltseries/reconstruction")
"""Where Warp and WarpTools put tomograms, from the folder of the project."""


def tomostars_of(folder: Path) -> list[Path]:
    """List the tilt series of a Warp project, from its own folder or the one that holds them."""
    found = sorted(folder.glob("*.tomostar")) or sorted(folder.glob("tomostar/*.tomostar"))
    return [file for file in found if not file.name.startswith(".")]


def reconstructions_of(folder: Path) -> Path | None:
    """Give the folder below a Warp project that holds its tomograms; None without one."""
    return next((folder / place for place in _PLACES[1:] if (folder / place).is_dir()), None)


def read_tomostars(tomostars: list[Path], folder: Path) -> list[Source]:
    """Find the tomogram of each tilt series.

    Parameters
    ----------
    tomostars
        Files of tilt series, whose names the tomograms have.
    folder
        What the user gave. Tomograms are looked for in it, beside it and below both, as
        `TS_01.mrc`, `TS_01_10.00Apx.mrc`, `rec_TS_01.mrc` and so on (see `series_name`).

    Raises
    ------
    InputError
        When there are none, or several of one tilt series: the user has to say which.
    """
    above = dict.fromkeys([folder, folder.absolute().parent])
    places = [root / place for root in above for place in _PLACES]
    files = {file.resolve(): file for place in places for file in sorted(place.glob("*.mrc"))}
    files = {real: file for real, file in files.items() if not file.name.startswith(".")}
    sources = []
    for tomostar in tomostars:
        name = tomostar.stem
        found = [file for file in files.values() if plain_name(file.name) == plain_name(name)]
        if len(found) > 1:
            raise InputError(
                f"{folder}: {name} has {len(found)} tomograms "
                f"({', '.join(str(file) for file in found[:4])}); name the ones to take, as "
                f"'{found[0].parent / found[0].name.replace(name, '*')}'"
            )
        # A series that is not reconstructed is told when it is opened: it must not cost the others.
        path = found[0].absolute() if found else Path(f"{name}.mrc")
        sources.append(Source(name=name, paths=(path,), listed=tomostar))
    if not any(source.paths[0].is_absolute() for source in sources):
        raise InputError(
            f"{folder}: has {len(tomostars)} tilt series but no tomograms of them in "
            f"{', '.join(str(place) for place in places if place.is_dir())}; reconstruct them, or "
            "name the tomograms"
        )
    return sources
