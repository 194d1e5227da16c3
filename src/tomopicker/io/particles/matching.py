"""Which picks belong to which tomogram, and whether they fit it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tomopicker.errors import InputError
from tomopicker.io.names import (
    SIMULATION,
    differ_in_binning,
    files_of,
    in_words,
    match_names,
    plain_name,
)
from tomopicker.io.particles.formats import FORMATS, SUFFIXES, names_in, read_particles, recognise
from tomopicker.io.particles.frame import UNKNOWN
from tomopicker.io.particles.relion_project import NOT_LISTS
from tomopicker.io.particles.rows import cut, listed
from tomopicker.io.summary import is_summary
from tomopicker.types import Floats, Particles, Shape, Tomogram

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

ORDERS = ("xyz", "zyx", "yxz", "xzy", "yzx", "zxy")
"""What three columns may be; the file's own first, then the likelier mistakes."""


def read_picks_for(
    path: Path | str | Sequence[Path],
    tomograms: Sequence[Tomogram],
    *,
    skip_unmatched: bool = False,
    allow_none: bool = False,
) -> list[Particles]:
    """Read the picks of each tomogram, from one file, several, or a folder of files.

    Parameters
    ----------
    path
        One file for all the tomograms (see `by_tomogram`); several, or a pattern of their names,
        each with picks of the tomograms that are named in it or of the one that is called as it
        is; or a folder with a file per tomogram, named as the tomogram is, of which `.csv` counts
        before `.star`.
    tomograms
        The tomograms, whose voxel sizes and shapes the picks are read with.
    skip_unmatched
        Whether picks in other tomograms are left out instead of refused.
    allow_none
        Whether a tomogram may have no picks, as most of a project's; its table is empty then. A
        file that names no tomogram is of the one that is called as the file is.

    Raises
    ------
    InputError
        When a tomogram has no picks, none at all has any, or picks have no tomogram.
    """
    places = [Path(path)] if isinstance(path, str | Path) else list(path)
    files = [file for place in places for file in files_of(place)]
    names = [tomogram.name for tomogram in tomograms]
    of_each: dict[Path, list[str]]
    if len(files) > 1:
        of_each = dict.fromkeys(files, names)
    elif files[0].is_dir():
        of_each = _names_of_each(files[0], names, allow_none=allow_none)
    else:
        of_each = {files[0]: names}
    found: dict[str, tuple[Path, Particles]] = {}
    for file, theirs in of_each.items():
        sharing = [tomogram for tomogram in tomograms if tomogram.name in theirs]
        parts = _read_file(
            file,
            sharing,
            skip_unmatched=skip_unmatched,
            allow_none=allow_none or len(of_each) > 1,
        )
        for name, part in zip((one.name for one in sharing), parts, strict=True):
            if len(part) and name in found:
                raise InputError(
                    f"{file}: has picks in {name}, as {found[name][0]} has; give one of the two"
                )
            if len(part):
                found[name] = file, part
    shown = in_words(places)
    if not found:
        raise InputError(f"{shown}: has no picks in {listed(names)}; check the names in it")
    missing = [name for name in names if name not in found]
    if missing and not allow_none:
        raise InputError(f"{shown}: has no picks in {listed(missing)}; leave that tomogram out")
    return [
        found[one.name][1]
        if one.name in found
        else Particles(positions=np.empty((0, 3)), voxel_size=one.voxel_size)
        for one in tomograms
    ]


def count_elsewhere(place: Path, names: Sequence[str]) -> int:
    """Count the picks of a file or folder that are in none of the tomograms.

    Raises
    ------
    InputError
        As `read_particles`.
    """
    files = files_of(place)
    is_one = len(files) == 1 and not files[0].is_dir()
    if files[0].is_dir():
        files = list(list_files(files[0]).values())
    count = 0
    for file in files:
        table = read_particles(file, voxel_size=UNKNOWN, shape=(1, 1, 1), pixel_size=UNKNOWN)
        if is_one and not table.tomograms:
            return 0
        called = table.tomograms or (file.stem,) * len(table)
        matched = match_names(called, names)
        count += sum(name not in matched for name in called)
    return count


def list_files(folder: Path) -> dict[str, Path]:
    """List the particle files in a folder, by their stem; of equal stems the likeliest suffix.

    Hidden files are left out: macOS puts a `._TS_01.csv`, which is no list, beside every file on
    some disks. So are the candidates that `tomopicker pick` writes beside a list, its summary, and
    the settings of `tomopicker simulate`.
    In a project of copick or EMAN2, the lists are where those programs keep them.

    Raises
    ------
    InputError
        When there is none.
    """
    files: dict[str, Path] = {}
    hidden = (".", SIMULATION, *NOT_LISTS)
    found = sorted(folder.iterdir())
    for suffix in SUFFIXES:
        for file in found:
            if file.suffix.lower() == suffix and not file.name.startswith(hidden):
                files.setdefault(file.stem.removesuffix("_info"), file)
    for file in () if files else sorted(folder.glob("info/*_info.json")):
        files[file.stem.removesuffix("_info")] = file
    for file in () if files else sorted(folder.glob("**/Picks/*.json")):
        run = file.parent.parent.name
        if run in files:
            raise InputError(
                f"{file.parent}: holds several lists ({files[run].name}, {file.name}); give one"
            )
        files[run] = file
    lists = {
        stem: file
        for stem, file in files.items()
        if not _is_beside_its_list(stem, files) and not is_summary(file)
    }
    if not lists:
        raise InputError(f"{folder}: has no picks; put one {', '.join(SUFFIXES)} file per tomogram")
    return lists


def by_tomogram(
    particles: Particles,
    names: Sequence[str],
    source: Path,
    *,
    skip_unmatched: bool = False,
    allow_none: bool = False,
) -> list[Particles]:
    """Distribute one table over tomograms, by the names in it (see `match_names`).

    Parameters
    ----------
    particles
        All the picks; without names they can only be of one tomogram.
    names
        Of the tomograms.
    source
        The file to name in errors.
    skip_unmatched
        Whether picks in other tomograms are left out instead of refused.
    allow_none
        See `read_picks_for`.

    Returns
    -------
    list
        The particles of each tomogram, in the order of `names`, and named so.

    Raises
    ------
    InputError
        When the table does not tell which tomogram its picks are in, names one that is not
        there, or leaves one without picks.
    """
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{source}: two tomograms are called {double}; rename one of them")
    if not particles.tomograms and len(names) == 1:
        return [replace(particles, tomograms=tuple(names) * len(particles))]
    if not particles.tomograms and allow_none and match_names([source.stem], names):
        particles = replace(particles, tomograms=(source.stem,) * len(particles))
    if not particles.tomograms:
        raise InputError(
            f"{source}: does not say which of the {len(names)} tomograms its picks are in; add a "
            "column tomogram, or give a folder with one file per tomogram"
        )
    try:
        matched = match_names(particles.tomograms, names)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    strangers = [name for name in dict.fromkeys(particles.tomograms) if name not in matched]
    if strangers and not skip_unmatched:
        raise InputError(
            f"{source}: has picks in {listed(strangers)}, but the tomograms are {listed(names)}; "
            "pass the missing tomogram too, or use --skip-unmatched"
        )
    owners = np.array([matched.get(name, "") for name in particles.tomograms])
    parts = []
    for name in names:
        part = particles.select(owners == name)
        if not len(part) and not allow_none:
            raise InputError(
                f"{source}: has no picks in {name}, only in "
                f"{listed(list(dict.fromkeys(particles.tomograms)))}; leave that tomogram out"
            )
        parts.append(replace(part, tomograms=(name,) * len(part)))
    return parts


def check_inside(particles: Particles, shape: Shape, source: Path | str) -> None:
    """Refuse picks that lie outside their tomogram.

    Parameters
    ----------
    particles
        Of one tomogram.
    shape
        Its voxels ``z y x``.
    source
        The file to name in the error.

    Raises
    ------
    InputError
        Naming the first pick that is more than half a voxel outside and, when all would fit in
        another order of the columns, that order.
    """
    xyz = particles.voxels[:, ::-1]
    sizes = dict(zip("zyx", shape, strict=True))
    wrong = ~_inside(xyz, "xyz", sizes)
    if not wrong.any():
        return
    row, column = np.argwhere(wrong)[0]
    axis = "xyz"[column]
    outside = int(wrong.any(axis=1).sum())
    remedy = "check the voxel size or binning that the picks were made at"
    fitting = fitting_orders(particles, shape)
    if fitting:
        remedy = f"the picks fit the volume as {','.join(fitting[0])}: swap the columns"
    raise InputError(
        f"{source}: pick {row + 1} has {axis} = {xyz[row, column]:.6g}, outside the volume's "
        f"{sizes[axis]} voxels along {axis} ({outside} of {len(particles)} picks are outside); "
        f"{remedy}"
    )


def fitting_orders(particles: Particles, shape: Shape) -> list[str]:
    """Name the orders of the columns, of `ORDERS`, in which every pick is inside the volume.

    >>> low_and_wide = Particles.from_voxels(np.array([[90, 20, 5]]), voxel_size=10.0)
    >>> fitting_orders(low_and_wide, (10, 30, 100))
    ['zyx']
    """
    sizes = dict(zip("zyx", shape, strict=True))
    xyz = particles.voxels[:, ::-1]
    return [order for order in ORDERS if _inside(xyz, order, sizes).all()]


def _is_beside_its_list(stem: str, files: Mapping[str, Path]) -> bool:
    """Tell whether a file holds the candidates of a list in the same folder."""
    name = stem.removesuffix("_candidates")
    return name != stem and name in files


def _check_binning(file: Path, table: Particles, tomogram: str) -> None:
    """Refuse voxels that, by the names, are not those of the tomogram."""
    for name in dict.fromkeys((file.stem, *table.tomograms)):
        if plain_name(name) == plain_name(tomogram) and differ_in_binning(name, tomogram):
            raise InputError(
                f"{file}: counts voxels of {cut(name)}, which are of another size than those of "
                f"{tomogram}; convert it with --voxel-size and --to-voxel-size, or rename it"
            )


def _inside(columns: Floats, order: str, sizes: dict[str, int]) -> NDArray[np.bool_]:
    """Tell of each coordinate (n, 3) whether it is within the volume, half a voxel included."""
    limits = np.array([sizes[axis] for axis in order])
    return (columns >= -0.5) & (columns <= limits - 0.5)


def _read_file(
    file: Path, tomograms: Sequence[Tomogram], *, skip_unmatched: bool, allow_none: bool
) -> list[Particles]:
    """Read the picks of tomograms of perhaps different sizes from one file."""
    names = [tomogram.name for tomogram in tomograms]
    parts = []
    tables: dict[object, dict[str, Particles]] = {}
    for tomogram in tomograms:
        key = (tomogram.voxel_size, tomogram.shape, tomogram.extent, tomogram.pixel_size)
        if key not in tables:
            table = read_particles(
                file,
                voxel_size=tomogram.voxel_size,
                shape=tomogram.shape,
                pixel_size=tomogram.pixel_size,
                extent=tomogram.extent,
            )
            if not len(table):
                raise InputError(f"{file}: has a header but no picks; give at least one pick")
            if FORMATS[recognise(file)].in_voxels:
                _check_binning(file, table, tomogram.name)
            of_each = by_tomogram(
                table, names, file, skip_unmatched=skip_unmatched, allow_none=allow_none
            )
            tables[key] = dict(zip(names, of_each, strict=True))
        parts.append(tables[key][tomogram.name])
    return parts


def _names_of_each(
    folder: Path, names: Sequence[str], *, allow_none: bool
) -> dict[Path, list[str]]:
    """Find the files of tomograms in a folder, by the files' names or else by what is in them."""
    files = list_files(folder)
    try:
        matched = match_names(names, list(files))
        if not matched:
            by_content = {file: _named_in(file, names) for file in files.values()}
            if any(by_content.values()):
                return {file: theirs for file, theirs in by_content.items() if theirs}
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None
    missing = [name for name in names if name not in matched]
    if missing and not (allow_none and matched):
        raise InputError(
            f"{folder}: has no picks for {listed(missing)}, only {listed(sorted(files))}; "
            "name the files as the tomograms are named"
        )
    of_each: dict[Path, list[str]] = {}
    for name, match in matched.items():
        of_each.setdefault(files[match], []).append(name)
    return of_each


def _named_in(file: Path, names: Sequence[str]) -> list[str]:
    """Those of the tomograms that a list names; none where it is no list."""
    with suppress(InputError):
        return list(match_names(names_in(file), names).values())
    return []
