"""IMOD's models and their points as text: pixels from a corner, but slices from their centres.

In a model, and in the text that model2point writes, the centre of the first voxel is x = y = 0.5
but z = 0.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from tomopicker.errors import InputError
from tomopicker.io.particles.frame import UNKNOWN, Frame
from tomopicker.io.particles.head import Head
from tomopicker.io.particles.rows import one_class, read_numbers, write_lines
from tomopicker.io.whole import whole_file
from tomopicker.types import Floats, Particles

MAGIC = b"IMODV1.2"
LABELS = {
    3: ("x", "y", "z"),
    4: ("contour", "x", "y", "z"),
    5: ("class", "contour", "x", "y", "z"),
}
"""Columns that model2point writes, without and with its options -contour and -object."""

_HALF = np.array([0.5, 0.5, 0.0])
"""Where IMOD sees the centre of the first voxel, ``x y z``."""

_MODEL = struct.Struct(">128s4iI4i6f3i2if2i3f")
_OBJECT = struct.Struct(">64s64siIii3fi8B2i")
_CONTOUR = struct.Struct(">iIii")
_MESH = struct.Struct(">iiIhh")
_SLICES_ARE_CENTRED, _CLIP_PLANES, _FLIPPED = 1 << 10, 1 << 12, 1 << 16
_SCATTERED = 1 << 9
_NANOMETRES = -9


def is_imod(head: Head) -> bool:
    """Recognise by the first bytes."""
    return head.data.startswith(MAGIC[:5])


def read_imod(path: Path, frame: Frame) -> Particles:
    """Read all the points of a model, of whatever kind its contours are.

    Raises
    ------
    InputError
        When the file is no model or damaged, was saved flipped, or has points in several objects.
    """
    objects = [points for points in _objects(path, _bytes(path)) if len(points)]
    if len(objects) > 1:
        raise InputError(
            f"{path}: has points in {len(objects)} objects; keep one (imodextract 1 IN OUT)"
        )
    xyz = objects[0] if objects else np.zeros((0, 3))
    if not np.isfinite(xyz).all():
        raise InputError(f"{path}: has a point that is not a number; remove it")
    return Particles(positions=(xyz - _HALF) * frame.voxel_size, voxel_size=frame.voxel_size)


def write_imod(path: Path, particles: Particles, frame: Frame, *, overwrite: bool = False) -> None:
    """Write a model of one object of scattered points; it holds neither scores nor names.

    Raises
    ------
    InputError
        When the frame has no shape, or the file exists and may not be replaced.
    """
    sides = frame.size(path, "an IMOD model holds the size of its tomogram")
    points = (particles.positions / frame.voxel_size + _HALF).astype(">f4")
    known = frame.voxel_size != UNKNOWN
    radius = min(round(frame.drawn_radius / frame.voxel_size), 1000)
    model = _MODEL.pack(
        *(b"IMOD-NewModel", *(int(side) for side in sides), 1, _SLICES_ARE_CENTRED | _CLIP_PLANES),
        *(1, 0, 0, 255, 0, 0, 0, 1, 1, 1, 0, 0, 0, 3, 128),
        *(frame.voxel_size / 10 if known else 1.0, _NANOMETRES if known else 0, 0, 0, 0, 0),
    )
    thing = _OBJECT.pack(
        *(b"particles", b"", 1, _SCATTERED, 0, 1, 0, 1, 0, radius),
        *(1, 3, 1, 1, 0, 0, 0, 0, 0, 0),
    )
    contour = _CONTOUR.pack(len(points), 0, 0, 0)
    with whole_file(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(
            MAGIC + model + b"OBJT" + thing + b"CONT" + contour + points.tobytes() + b"IEOF"
        )


def imod_voxel_size(path: Path) -> float | None:
    """Tell the voxel size, in ångström, that a model states; None where it states none."""
    fields = _unpack(path, _MODEL, _bytes(path), len(MAGIC))
    size, unit = fields[21], fields[22]
    # Units are powers of ten of a metre.
    angstrom = float(size) * 10.0 ** (unit + 10) if -12 <= unit <= -3 else 0.0
    return float(f"{angstrom:.6g}") if 0 < angstrom < 1e6 and angstrom != UNKNOWN else None


def is_imod_text(head: Head) -> bool:
    """Recognise ``model2point -object``: five columns, of which the first contour is 1."""
    return (
        head.is_bare and len(head.cells) == 5 and head.cells[0].isdecimal() and head.cells[1] == "1"
    )


def read_imod_text(path: Path, frame: Frame) -> Particles:
    """Read what model2point writes: ``x y z``, perhaps after the contour or object and contour.

    Raises
    ------
    InputError
        When a line is something else, or points are of several objects.
    """
    values, names = read_numbers(path, LABELS)
    if "class" in names:
        one_class(path, values[:, 0])
    return Particles(
        positions=(values[:, -3:] - _HALF) * frame.voxel_size, voxel_size=frame.voxel_size
    )


def write_imod_text(
    path: Path, particles: Particles, frame: Frame, *, overwrite: bool = False
) -> None:
    """Write ``object contour x y z`` for point2model.

    Raises
    ------
    InputError
        When the file exists and may not be replaced, or cannot be written.
    """
    xyz = particles.positions / frame.voxel_size + _HALF
    lines = (f"1 1 {x:.4f} {y:.4f} {z:.4f}" for x, y, z in xyz)
    write_lines(path, lines, overwrite=overwrite)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _unpack(path: Path, form: struct.Struct, data: bytes, start: int) -> tuple[int, ...]:
    if start + form.size > len(data):
        raise InputError(f"{path}: is truncated; copy it again")
    return form.unpack_from(data, start)


def _objects(path: Path, data: bytes) -> list[Floats]:
    """Walk the chunks of a model, and collect the points (n, 3) of each object."""
    if not data.startswith(MAGIC[:5]):
        raise InputError(f"{path}: is not an IMOD model; give one, or another format")
    if _unpack(path, _MODEL, data, len(MAGIC))[5] & _FLIPPED:
        raise InputError(
            f"{path}: was saved with y and z flipped; in 3dmod undo Edit - Image - Flip and save it"
        )
    objects: list[list[Floats]] = []
    start = len(MAGIC) + _MODEL.size
    while (kind := data[start : start + 4]) != b"IEOF":
        start += 4
        if kind == b"OBJT":
            _unpack(path, _OBJECT, data, start)
            objects.append([])
            start += _OBJECT.size
        elif kind == b"CONT":
            count = _unpack(path, _CONTOUR, data, start)[0]
            start += _CONTOUR.size
            if not objects or not 0 <= count <= (len(data) - start) // 12:
                raise InputError(f"{path}: is damaged (a contour of {count} points); save it again")
            points = np.frombuffer(data, ">f4", count=3 * count, offset=start)
            objects[-1].append(points.reshape(-1, 3).astype(np.float64))
            start += 12 * count
        elif kind == b"MESH":
            vertices, indices = _unpack(path, _MESH, data, start)[:2]
            start += _MESH.size + 12 * max(vertices, 0) + 4 * max(indices, 0)
        else:
            # Every other chunk says how long it is.
            (size,) = _unpack(path, struct.Struct(">I"), data, start)
            start += 4 + size
    return [np.concatenate(points) if points else np.zeros((0, 3)) for points in objects]
