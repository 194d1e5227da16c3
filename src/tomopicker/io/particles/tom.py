"""Motive lists of TOM, AV3 and Artiatomi: 20 numbers a particle in an EM volume, voxels from 1."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from tomopicker.errors import InputError
from tomopicker.io.names import series_name
from tomopicker.io.particles.angles import from_tom, to_tom
from tomopicker.io.particles.dynamo import tomogram_names
from tomopicker.io.particles.frame import Frame
from tomopicker.io.particles.head import Head
from tomopicker.io.whole import whole_file
from tomopicker.types import Particles

ROWS = 20
_HEADER, _FLOAT32, _PC = 512, 5, 6
_BIG_ENDIAN = (0, 3, 5)
"""Machines that wrote the high byte first: OS-9, SGI and Sun, old Macintosh."""
_SCORE, _PARTICLE, _TOMOGRAM, _CLASS = 0, 3, 4, 19
_PLACE, _SHIFT, _ANGLES = slice(7, 10), slice(10, 13), (16, 18, 17)
"""Rows that are used, from 0; the angles are phi, theta, psi, and psi comes before theta."""


def is_tom(head: Head) -> bool:
    """Recognise a 32-bit EM file whose fastest axis is 20 long."""
    if len(head.data) < _HEADER:
        return False
    return head.data[3] == _FLOAT32 and _sides(head.data)[1][0] == ROWS


def read_tom(path: Path, frame: Frame) -> Particles:
    """Read a motive list; refined shifts are added, and tomograms are named by their numbers.

    Raises
    ------
    InputError
        When the file is no such list or not as long as it says.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) < _HEADER or data[3] != _FLOAT32:
        raise InputError(f"{path}: is not an EM file of 32-bit numbers; give a motive list")
    order, sides = _sides(data)
    if sides[0] != ROWS or min(sides) < 0:
        raise InputError(
            f"{path}: its sides are {' × '.join(map(str, sides))}; a motive list is 20 × particles"
        )
    if len(data) != _HEADER + 4 * sides[0] * sides[1] * sides[2]:
        raise InputError(f"{path}: is truncated or damaged; copy it again")
    table = np.frombuffer(data, f"{order}f4", offset=_HEADER).reshape(-1, ROWS).astype(np.float64)
    if not np.isfinite(table).all():
        row = int(np.flatnonzero(~np.isfinite(table).all(axis=1))[0]) + 1
        raise InputError(f"{path}: particle {row} has a value that is not a number; remove it")
    scores, angles = table[:, _SCORE], table[:, _ANGLES]
    return Particles(
        positions=(table[:, _PLACE] + table[:, _SHIFT] - 1) * frame.voxel_size,
        voxel_size=frame.voxel_size,
        scores=scores if scores.any() else None,
        tomograms=tomogram_names(path, table[:, _TOMOGRAM], {}),
        orientations=from_tom(angles) if angles.any() else None,
    )


def write_tom(path: Path, particles: Particles, frame: Frame, *, overwrite: bool = False) -> None:
    """Write a motive list of class 1; tomograms are numbered, by their own number if they have one.

    Raises
    ------
    InputError
        When the file exists and may not be replaced, or cannot be written.
    """
    table = np.zeros((len(particles), ROWS), dtype="<f4")
    table[:, _PARTICLE] = np.arange(1, len(particles) + 1)
    table[:, _TOMOGRAM] = _numbers(particles)
    table[:, _CLASS] = 1
    table[:, _PLACE] = particles.positions / frame.voxel_size + 1
    if particles.orientations is not None:
        table[:, _ANGLES] = to_tom(particles.orientations)
    if particles.scores is not None:
        table[:, _SCORE] = particles.scores
    header = np.zeros(_HEADER, dtype=np.uint8)
    header[0], header[3] = _PC, _FLOAT32
    header[4:16] = np.array([ROWS, len(table), 1], dtype="<i4").view(np.uint8)
    with whole_file(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(header.tobytes() + table.tobytes())


def _numbers(particles: Particles) -> list[int]:
    """Number tomograms as the names end, where that tells them apart, else as they come."""
    names = list(dict.fromkeys(particles.tomograms))
    own = {name: _trailing_number(name) for name in names}
    if None in own.values() or len(set(own.values())) < len(names):
        own = {name: number for number, name in enumerate(names, start=1)}
    return [own[name] or 0 for name in particles.tomograms] or [1] * len(particles)


def _trailing_number(name: str) -> int | None:
    digits = re.search(r"\d{1,6}$", series_name(name))
    return int(digits.group()) if digits else None


def _sides(data: bytes) -> tuple[str, tuple[int, int, int]]:
    """Byte order and sides of an EM file; old ones are of big-endian machines."""
    order = ">" if data[0] in _BIG_ENDIAN else "<"
    x, y, z = (int(side) for side in np.frombuffer(data, f"{order}i4", count=3, offset=4))
    return order, (x, y, z)
