"""Dynamo's tables: bare numbers in voxels, with a list of the tomograms beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tomopicker.errors import InputError
from tomopicker.io.names import tomogram_name
from tomopicker.io.particles.angles import from_dynamo, to_dynamo
from tomopicker.io.particles.frame import UNKNOWN, Frame
from tomopicker.io.particles.head import Head
from tomopicker.io.particles.rows import check_names, number, read_rows, read_text, write_lines
from tomopicker.types import Floats, Particles

COLUMNS = 42
_SHIFT, _ANGLES, _SCORE, _TOMOGRAM, _PLACE, _VOXEL = (3, 4, 5), (6, 7, 8), 9, 19, (23, 24, 25), 35
"""Columns that are used, from 0: dx dy dz, tdrot tilt narot, cc, tomo, x y z, apix."""


def is_dynamo(head: Head) -> bool:
    """Recognise by the name, or the number of bare columns."""
    return head.suffix == ".tbl" or (head.is_bare and len(head.cells) > max(_PLACE))


def read_dynamo(path: Path, frame: Frame) -> Particles:
    """Read a table and, where ``<table>.doc`` lies beside it, the names of its tomograms.

    Coordinates are taken to be 0 at the centre of the first voxel; refined shifts are added.

    Raises
    ------
    InputError
        When a line is not such a row.
    """
    rows = read_rows(path)
    for line, cells in rows:
        if len(cells) <= max(_PLACE):
            raise InputError(
                f"{path}: line {line} has {len(cells)} columns; a Dynamo table has 26 or more"
            )

    def column(label: str, index: int) -> Floats:
        return np.array([number(path, line, label, cells[index]) for line, cells in rows])

    def columns(label: str, indices: tuple[int, int, int]) -> Floats:
        return np.stack([column(label, index) for index in indices], axis=1)

    angles, scores = columns("an angle", _ANGLES), column("cc", _SCORE)
    xyz = columns("a coordinate", _PLACE) + columns("a shift", _SHIFT)
    return Particles(
        positions=xyz * frame.voxel_size,
        voxel_size=frame.voxel_size,
        scores=scores if scores.any() else None,
        tomograms=tomogram_names(path, column("tomo", _TOMOGRAM), _read_names(path)),
        orientations=from_dynamo(angles) if angles.any() else None,
    )


def write_dynamo(
    path: Path, particles: Particles, frame: Frame, *, overwrite: bool = False
) -> None:
    """Write a table and ``<table>.doc``, which says that tomogram 1 is the first name, and so on.

    Raises
    ------
    InputError
        When a file exists and may not be replaced, or cannot be written.
    """
    names = particles.tomograms or (path.stem,) * len(particles)
    check_names(path, names)
    indices = {name: number for number, name in enumerate(dict.fromkeys(names), start=1)}
    if not overwrite and path.with_suffix(".doc").exists():
        raise InputError(f"{path.with_suffix('.doc')}: exists already; choose another name")
    table = np.zeros((len(particles), COLUMNS))
    table[:, 0] = table[:, 30] = np.arange(1, len(particles) + 1)
    table[:, 1:3] = 1  # aligned, averaged
    table[:, _TOMOGRAM] = [indices[name] for name in names]
    table[:, _PLACE] = particles.positions / frame.voxel_size
    table[:, _VOXEL] = frame.voxel_size
    if particles.orientations is not None:
        table[:, _ANGLES] = to_dynamo(particles.orientations)
    if particles.scores is not None:
        table[:, _SCORE] = particles.scores
    lines = (" ".join(f"{value:.9g}" for value in row) for row in table)
    write_lines(path, lines, overwrite=overwrite)
    listed = (f"{number} {name}" for name, number in indices.items())
    write_lines(path.with_suffix(".doc"), listed, overwrite=overwrite)


def dynamo_voxel_size(path: Path) -> float | None:
    """Tell the voxel size in ångström that the first row states; None where it does not."""
    line, cells = read_rows(path)[0]
    stated = number(path, line, "apix", cells[_VOXEL]) if len(cells) > _VOXEL else 0.0
    return stated if stated > 0 and stated != UNKNOWN else None


def tomogram_names(path: Path, indices: Floats, names: dict[int, str]) -> tuple[str, ...]:
    """Name tomograms by their numbers; one that is nowhere named is the list's only one.

    Raises
    ------
    InputError
        When a number is not whole.
    """
    if (indices != indices.round()).any():
        raise InputError(f"{path}: the number of a tomogram is not whole; correct it")
    numbers = [int(index) for index in indices]
    if len(set(numbers)) == 1 and numbers[0] not in names:
        return ()
    return tuple(names.get(number, str(number)) for number in numbers)


def _read_names(path: Path) -> dict[int, str]:
    """Read the tomograms' names by their numbers, from the list beside a table."""
    listing = path.with_suffix(".doc")
    if not listing.is_file() or not listing.stat().st_size:
        return {}
    names = {}
    for line in read_text(listing).splitlines():
        index, _, place = line.strip().partition(" ")
        if index.isdecimal() and len(index) < 10 and place.strip():
            names[int(index)] = tomogram_name(place.strip().replace("\\", "/"))
    return names
