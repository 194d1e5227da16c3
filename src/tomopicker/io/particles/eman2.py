"""EMAN2's info files: unbinned pixels from the tomogram's centre, beside all else EMAN2 knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tomopicker.errors import InputError
from tomopicker.io.particles.frame import Frame
from tomopicker.io.particles.head import Head
from tomopicker.io.particles.json import a_list, a_number, read_json, write_json
from tomopicker.types import Floats, Particles

BOXES, CLASSES, PIXEL = "boxes_3d", "class_list", "apix_unbin"
LABEL = "particles"


def is_eman2(head: Head) -> bool:
    """Recognise an info file by its boxes, its pixel size or its name."""
    text = head.text.lstrip()
    named = head.path.name.endswith("_info.json")
    return text.startswith("{") and (f'"{BOXES}"' in text or f'"{PIXEL}"' in text or named)


def read_eman2(path: Path, frame: Frame) -> Particles:
    """Read the boxes of one class.

    Files of before 2018 have no `apix_unbin`; their boxes are voxels from the first one.

    Raises
    ------
    InputError
        When there are no boxes, they are of several classes, or the frame has no shape.
    """
    content = read_json(path)
    if BOXES not in content:
        raise InputError(f"{path}: has no {BOXES}; pick in EMAN2's boxer, or give another file")
    boxes = [a_list(path, "a box", box) for box in a_list(path, BOXES, content[BOXES])]
    xyz, scores, kinds = np.zeros((len(boxes), 3)), [], set()
    for row, box in enumerate(boxes):
        where = f"box {row + 1}"
        if len(box) < 3:
            raise InputError(f"{path}: {where} has no x, y, z; remove it")
        xyz[row] = [a_number(path, where, value) for value in box[:3]]
        scores.append(a_number(path, f"{where}'s score", box[4]) if len(box) > 4 else 0.0)
        kinds.add(a_number(path, f"{where}'s class", box[5]) if len(box) > 5 else 0.0)
    if len(kinds) > 1:
        listed = ", ".join(f"{kind:g}" for kind in sorted(kinds)[:9])
        raise InputError(f"{path}: holds boxes of the classes {listed}; keep those of one")
    if PIXEL in content:
        unit = a_number(path, PIXEL, content[PIXEL])
        xyz = xyz * unit + _centre(path, frame)
    else:
        xyz = xyz * frame.voxel_size
    return Particles(
        positions=xyz,
        voxel_size=frame.voxel_size,
        scores=np.array(scores) if any(scores) else None,
    )


def write_eman2(path: Path, particles: Particles, frame: Frame, *, overwrite: bool = False) -> None:
    """Write boxes of one class; of a file that is replaced, everything else is kept.

    Raises
    ------
    InputError
        When the frame has no shape or pixel size, or the file exists and may not be replaced.
    """
    if frame.pixel_size is None:
        raise InputError(
            f"{path}: EMAN2 counts in pixels of the unbinned tilt series; give their size "
            "(--pixel-size)"
        )
    xyz = (particles.positions - _centre(path, frame)) / frame.pixel_size
    scores = np.zeros(len(particles)) if particles.scores is None else particles.scores
    content: dict[str, Any] = read_json(path) if overwrite and path.exists() else {}
    content |= {
        PIXEL: frame.pixel_size,
        BOXES: [
            [*row, "manual", float(score), 0]
            for row, score in zip(xyz.tolist(), scores, strict=True)
        ],
        CLASSES: {
            "0": {"boxsize": round(2 * frame.drawn_radius / frame.pixel_size), "name": LABEL}
        },
    }
    write_json(path, content, overwrite=overwrite)


def _centre(path: Path, frame: Frame) -> Floats:
    # EMAN2's boxer takes whole voxels, size // 2; its template matching takes size / 2, half a
    # voxel away where the size is odd. The boxer shows the list, so the boxer counts.
    size = frame.size(path, "EMAN2 counts from the tomogram's centre")
    return size // 2 * frame.voxel_size
