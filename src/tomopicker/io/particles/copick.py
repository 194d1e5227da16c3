"""copick's picks: a JSON file per run, user and object, in ångström from the first voxel."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from tomopicker.errors import InputError
from tomopicker.io.names import series_name
from tomopicker.io.particles.angles import are_rotations
from tomopicker.io.particles.frame import Frame
from tomopicker.io.particles.head import Head
from tomopicker.io.particles.json import a_list, a_number, an_object, read_json, write_json
from tomopicker.types import Particles

USER, SESSION, OBJECT = "tomopicker", "1", "particle"


def is_copick(head: Head) -> bool:
    """Recognise by the name of the object."""
    return head.text.lstrip().startswith("{") and '"pickable_object_name"' in head.text


def read_copick(path: Path, frame: Frame) -> Particles:
    """Read the picks of one run; a point's shift is added to its location.

    Raises
    ------
    InputError
        When the file is no such list, or holds something else than numbers.
    """
    content = read_json(path)
    unit = content.get("unit", "angstrom")
    if unit != "angstrom":
        raise InputError(f"{path}: its unit is {unit}; only angstrom is known")
    points = a_list(path, "points", content.get("points") or [])
    positions, matrices, scores = np.zeros((len(points), 3)), np.zeros((len(points), 4, 4)), []
    for row, value in enumerate(points):
        where = f"point {row + 1}"
        point = an_object(path, where, value)
        location = an_object(path, f"{where}'s location", point.get("location"))
        positions[row] = [a_number(path, f"{where}'s {x}", location.get(x)) for x in "xyz"]
        matrices[row] = _matrix(path, where, point.get("transformation_"))
        score = point.get("score")
        scores.append(1.0 if score is None else a_number(path, f"{where}'s score", score))
    turns = matrices[:, :3, :3]
    turned = content.get("trust_orientation") is not False and (turns != np.eye(3)).any()
    if turned and not are_rotations(turns):
        raise InputError(
            f"{path}: has a transformation_ that does more than turn; set trust_orientation: false"
        )
    name = content.get("run_name") or _run_of(path)
    return Particles(
        positions=positions + matrices[:, :3, 3],
        voxel_size=frame.voxel_size,
        # The score of every point that was clicked is 1.
        scores=np.array(scores) if set(scores) - {1.0} else None,
        tomograms=(_printable(str(name)),) * len(points) if name else (),
        orientations=turns if turned else None,
    )


def write_copick(
    path: Path, particles: Particles, frame: Frame, *, overwrite: bool = False
) -> None:
    """Write the picks of one run; the object is named as the file is, ``user_session_object``.

    Raises
    ------
    InputError
        When the file exists and may not be replaced, or cannot be written.
    """
    user, session, object_name = _identity(path)
    count = len(particles)
    matrices = np.tile(np.eye(4), (count, 1, 1))
    if particles.orientations is not None:
        matrices[:, :3, :3] = particles.orientations
    scores = np.ones(count) if particles.scores is None else particles.scores
    names = particles.tomograms or (_run_of(path) or path.stem,)
    content: dict[str, Any] = {
        "pickable_object_name": object_name,
        "user_id": user,
        "session_id": session,
        "run_name": series_name(names[0]),
        "voxel_spacing": frame.voxel_size,
        "unit": "angstrom",
        "points": [
            {
                "location": dict(zip("xyz", position.tolist(), strict=True)),
                "transformation_": matrix.tolist(),
                "instance_id": 0,
                "score": float(score),
            }
            for position, matrix, score in zip(particles.positions, matrices, scores, strict=True)
        ],
        "trust_orientation": particles.orientations is not None,
    }
    write_json(path, content, overwrite=overwrite)


def copick_voxel_size(path: Path) -> float | None:
    """Tell the voxel size, in ångström, of the tomogram that was picked; None where unknown."""
    spacing = read_json(path).get("voxel_spacing")
    return None if spacing is None else a_number(path, "voxel_spacing", spacing)


def _matrix(path: Path, where: str, value: object) -> list[list[float]]:
    if value is None:
        return np.eye(4).tolist()
    rows = [a_list(path, f"{where}'s transformation_", row) for row in _four(path, where, value)]
    return [
        [a_number(path, f"{where}'s transformation_", cell) for cell in _four(path, where, row)]
        for row in rows
    ]


def _four(path: Path, where: str, value: object) -> list[Any]:
    values = a_list(path, f"{where}'s transformation_", value)
    if len(values) != 4:
        raise InputError(f"{path}: {where}'s transformation_ is not 4 × 4; write it again")
    return values


def _printable(name: str) -> str:
    """Replace what JSON can hold but no file's name or text can."""
    return "".join(character if character.isprintable() else "_" for character in name)


def _run_of(path: Path) -> str | None:
    """Name of the run by the folders that copick keeps picks in: ``<run>/Picks/<file>``."""
    return path.parent.parent.name if path.parent.name == "Picks" else None


def _identity(path: Path) -> tuple[str, str, str]:
    match = re.fullmatch(r"([^_]+)_([^_]+)_([^_]+)", path.stem)
    return (match[1], match[2], match[3]) if match else (USER, SESSION, OBJECT)
