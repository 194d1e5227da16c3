"""Edits: what a person did to a layer of points, in the actions that a session keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tomopicker.serve.notes import Add, Delete, Move

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tomopicker.serve.notes import Action, Particle, Voxel
    from tomopicker.types import Floats


def edits(particles: Sequence[Particle], voxels: Floats, *, tomogram: str) -> list[Action]:
    """Find what turns the particles of a session into those of a layer.

    A point is known by its place, to the last digit, since the layer is filled from the session.
    As many points that are gone as there are new ones were moved, each to the nearest new place.

    Parameters
    ----------
    particles
        Of the tomogram, as the session has them.
    voxels
        (n, 3) ``z y x``, as the layer has them now.
    """
    new: list[Voxel] = []
    left = {one.voxel: one for one in particles}
    for z, y, x in voxels.tolist():
        if left.pop((z, y, x), None) is None and (z, y, x) not in new:
            new.append((z, y, x))
    gone = list(left.values())
    if len(gone) == len(new):
        return [
            Move(tomogram=tomogram, particle=one.number, at=place)
            for one, place in zip(gone, _nearest(gone, new), strict=True)
        ]
    actions: list[Action] = []
    if gone:
        actions.append(Delete(tomogram=tomogram, particles=tuple(one.number for one in gone)))
    if new:
        actions.append(Add(tomogram=tomogram, at=tuple(new)))
    return actions


def _nearest(gone: Sequence[Particle], new: Sequence[Voxel]) -> list[Voxel]:
    """Give each particle that is gone a new place of its own, the shortest ways first."""
    apart = np.linalg.norm(
        np.array([one.voxel for one in gone]).reshape(-1, 1, 3) - np.array(new).reshape(1, -1, 3),
        axis=2,
    )
    places: dict[int, Voxel] = {}
    for row, column in np.dstack(np.unravel_index(np.argsort(apart, axis=None), apart.shape))[0]:
        if int(row) not in places and new[int(column)] not in places.values():
            places[int(row)] = new[int(column)]
    return [places[row] for row in range(len(gone))]
