"""Kinds: picks of several kinds of particle in one tomogram, where a place holds but one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import KDTree

from tomopicker.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tomopicker.types import Particles

CONTACT = 0.4
"""Two particles' centres are at least this far apart, in sums of their radii: for two of one kind
the 0.8 radii that preset `default` keeps its own picks apart by."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """The picks of one kind in a tomogram."""

    name: str
    radius_angstrom: float
    picks: Particles
    """(n,), best first, with probabilities."""


def settle(kinds: Sequence[Kind]) -> list[NDArray[np.bool_]]:
    """Decide which picks stay, where those of different kinds are too near each other.

    The most probable pick of all kinds stays, then the next, and so on, unless one of another kind
    that stayed is nearer than `CONTACT`. Of picks that are equally probable the one that ranks
    higher in its own list goes first, then the one whose kind comes first by name. Picks of one
    kind never displace each other.

    Returns
    -------
    list
        For each kind (n,) whether its picks stay.

    Raises
    ------
    InputError
        When a kind has no probabilities, by which alone kinds can be compared: the scores of two
        models have nothing in common.
    """
    for kind in kinds:
        if kind.picks.probabilities is None and len(kind.picks):
            raise InputError(
                f"{kind.name}: its picks have no probabilities, so they cannot be compared with "
                "those of other kinds; pick with a model of --preset default that was trained to "
                "its end"
            )
    counts = [len(kind.picks) for kind in kinds]
    of = np.repeat(np.arange(len(kinds)), counts)
    if not len(of):
        return [np.zeros(0, dtype=bool) for _ in kinds]
    positions = np.concatenate([kind.picks.positions for kind in kinds])
    chances = np.concatenate(
        [
            np.zeros(0) if kind.picks.probabilities is None else kind.picks.probabilities
            for kind in kinds
        ]
    )
    ranks = np.concatenate([np.arange(count) / max(count, 1) for count in counts])
    names = np.array([kind.name for kind in kinds])[of]
    radii = np.array([kind.radius_angstrom for kind in kinds])[of]
    pairs = KDTree(positions).query_pairs(2 * CONTACT * radii.max(), output_type="ndarray")
    first, second = pairs.T
    apart = np.linalg.norm(positions[first] - positions[second], axis=1)
    rivals = (of[first] != of[second]) & (apart < CONTACT * (radii[first] + radii[second]))
    against: dict[int, list[int]] = {}
    for one, other in pairs[rivals].tolist():
        against.setdefault(one, []).append(other)
        against.setdefault(other, []).append(one)
    stays = np.zeros(len(of), dtype=bool)
    for pick in np.lexsort((names, ranks, -chances)).tolist():
        stays[pick] = not stays[against.get(pick, [])].any()
    return np.split(stays, np.cumsum(counts)[:-1])
