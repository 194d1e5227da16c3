"""Exports: the list that a session ends with, in the formats of other programs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tomopicker.errors import InputError
from tomopicker.io.particles import (
    check_format,
    place_of,
    writable,
    write_import_list,
    write_particles,
)
from tomopicker.serve.proposals import EXCLUSION
from tomopicker.types import Particles
from tomopicker.verdicts import near

if TYPE_CHECKING:
    from tomopicker.serve.rounds import Rounds
    from tomopicker.serve.session import Session
    from tomopicker.types import Floats, Tomogram
    from tomopicker.verdicts import Candidate


class ExportWish(BaseModel):
    """What to write."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str
    tomograms: tuple[int, ...] = Field(min_length=1)
    content: Literal["final", "seen"] = "final"
    """The picks as they were put right by eye, or only what a person clicked or accepted."""
    round: int | None = None
    """Whose picks; None for none."""
    least: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Picks that nobody has looked at must have this probability."""
    pixel_size: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Ångström, of the unbinned tilt series, for the formats that count in its pixels."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file that was written."""

    path: Path
    tomogram: str
    count: int


def writable_formats() -> dict[str, str]:
    """Formats that can be written, each with what it wants to be told, if anything."""
    formats = {}
    for name in writable():
        for pixel_size, wants in ((None, ""), (1.0, "pixel_size")):
            try:
                check_format(name, pixel_size=pixel_size)
            except InputError:
                continue
            formats[name] = wants
            break
    return formats


def final_list(
    clicked: Floats,
    rejected: Floats,
    candidates: list[Candidate],
    *,
    radius: float,
    least: float = 0.0,
) -> tuple[Floats, Floats, Floats]:
    """Put a picker's list right by what a person said.

    What they clicked or accepted is in it, with their centres; what they rejected is not; the
    rest are the picks, but for those within 0.8 of a radius of either.

    Parameters
    ----------
    clicked, rejected
        (n, 3) voxels ``z y x``.
    candidates
        Of one tomogram.
    radius
        Of the particle, voxels.
    least
        Probability that a pick must have, where the picker tells it.

    Returns
    -------
    tuple
        (n, 3) voxels ``z y x``; (n,) scores, which of a clicked particle is that of the candidate
        there, or the best of all; (n,) probabilities, 1 of what a person saw.
    """
    distance = EXCLUSION * radius
    places = np.array([one.voxel for one in candidates], dtype=np.float64).reshape(-1, 3)
    scores = np.array([one.score for one in candidates], dtype=np.float64)
    chances = np.array(
        [np.nan if one.probability is None else one.probability for one in candidates]
    ).reshape(-1)
    picked = np.array([one.picked for one in candidates], dtype=bool).reshape(-1)
    kept = picked & ~(chances < least)
    for table in (clicked, rejected):
        kept &= ~near(places, [(z, y, x) for z, y, x in table.tolist()], distance)
    best = scores.max(initial=-np.inf) if len(scores) else 0.0
    of_clicks = np.full(len(clicked), best)
    if len(places) and len(clicked):
        apart = np.linalg.norm(clicked[:, None] - places[None], axis=2)
        nearest = apart.argmin(axis=1)
        found = apart[np.arange(len(clicked)), nearest] <= distance
        of_clicks = np.where(found, scores[nearest], best)
    return (
        np.concatenate([clicked, places[kept]]),
        np.concatenate([of_clicks, scores[kept]]),
        np.concatenate([np.ones(len(clicked)), chances[kept]]),
    )


def export(session: Session, rounds: Rounds, wish: ExportWish) -> list[Exported]:
    """Write the lists of some tomograms under `exports/` of the session, over older ones.

    Raises
    ------
    InputError
        When the format is unknown or lacks what it needs, there is nothing to write, or it cannot
        be written.
    """
    check_format(wish.format, pixel_size=wish.pixel_size)
    written = []
    for number in dict.fromkeys(wish.tomograms):
        tomogram = session.tomogram(number)
        particles = _particles(session, rounds, wish, tomogram)
        if not len(particles):
            continue
        path = session.folder / "exports" / wish.format / place_of(wish.format, tomogram.name)
        write_particles(
            path,
            particles,
            format=wish.format,
            shape=tomogram.shape,
            pixel_size=wish.pixel_size,
            extent=tomogram.extent,
            radius=None if session.settings.diameter is None else session.radius,
            overwrite=True,
        )
        written.append(Exported(path=path, tomogram=tomogram.name, count=len(particles)))
    if not written:
        raise InputError(
            "there is nothing to write: these tomograms have neither particles nor picks yet"
        )
    if wish.format == "relion5":
        write_import_list(session.folder / "exports" / wish.format)
    return written


def exported_files(session: Session) -> dict[str, Path]:
    """Files under `exports/`, by what a page calls them: nothing else can be downloaded."""
    folder = session.folder / "exports"
    if not folder.is_dir():
        return {}
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path
        for path in files
        if not path.is_symlink() and not path.name.startswith(".")
    }


def _particles(session: Session, rounds: Rounds, wish: ExportWish, tomogram: Tomogram) -> Particles:
    clicked = session.voxels(tomogram.name)
    scores = chances = None
    if wish.content == "final" and wish.round is not None:
        candidates = rounds.candidates(wish.round, tomogram.name)
        if candidates:
            radius = session.radius / tomogram.voxel_size
            clicked, scores, chances = final_list(
                clicked,
                session.rejected(tomogram.name),
                candidates,
                radius=radius,
                least=wish.least,
            )
    particles = Particles.from_voxels(
        clicked,
        voxel_size=tomogram.voxel_size,
        scores=scores,
        tomograms=[tomogram.name] * len(clicked),
    )
    if wish.format != "csv":
        return particles
    if chances is not None and np.isfinite(chances).all():
        particles = replace(particles, probabilities=chances)
    return replace(particles, tomograms=())
