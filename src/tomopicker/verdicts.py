"""Verdicts: which candidates a person should look at first, and what was said of them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np
from scipy.spatial import KDTree

from tomopicker.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from tomopicker.types import Floats

Answer: TypeAlias = Literal["accept", "reject", "skip"]
"""What a person says of a candidate; `skip` puts it off."""

Order: TypeAlias = Literal["teach", "random", "best"]
"""What is asked first: what teaches most, a fair sample of the picks, or the best scores."""

ANSWERS: dict[str, Answer] = {"a": "accept", "r": "reject", "s": "skip"}
"""The answer of each key."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A peak that a picker found, picked or not."""

    tomogram: str
    voxel: tuple[float, float, float]
    """Centre ``z y x`` in voxels of its tomogram."""
    score: float
    probability: float | None = None
    """Chance that it is a particle; None where the picker does not tell."""
    picked: bool = True
    """Whether it is above the picker's cut-off."""
    model: str = ""
    """What found it, for the record."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a person said of a candidate, and what they were shown."""

    candidate: Candidate
    answer: Answer
    who: str
    when: str
    """ISO 8601 with its zone."""
    order: Order
    """Why it was asked."""

    def __post_init__(self) -> None:
        if self.answer not in get_args(Answer):
            known = ", ".join(get_args(Answer))
            raise InputError(f"{self.answer!r} is not a verdict; known are {known}")


def judge(verdicts: tuple[Verdict, ...], new: Verdict) -> tuple[Verdict, ...]:
    """Add a verdict; it takes the place of an earlier one on the same candidate."""
    return (*(one for one in verdicts if one.candidate != new.candidate), new)


def undo(verdicts: tuple[Verdict, ...]) -> tuple[Verdict, ...]:
    """Take the last verdict back."""
    return verdicts[:-1]


def counts(verdicts: Sequence[Verdict]) -> dict[Answer, int]:
    """Tell how many candidates were accepted, rejected and put off."""
    found = Counter(one.answer for one in verdicts)
    return {answer: found[answer] for answer in get_args(Answer)}


@dataclass(frozen=True, kw_only=True)
class Pool:
    """What a picker found in one tomogram, and what is known there."""

    candidates: Sequence[Candidate]
    radius: float
    """Of the particle, in the tomogram's voxels."""
    known: Sequence[tuple[float, float, float]] = ()
    """``z y x`` centres that a person has clicked."""


def queue(
    candidates: Sequence[Candidate],
    verdicts: Sequence[Verdict],
    *,
    radius: float,
    order: Order = "teach",
    known: Sequence[tuple[float, float, float]] = (),
) -> list[Candidate]:
    """Candidates of one tomogram that wait for a verdict, as `queue_across` orders them.

    Parameters
    ----------
    candidates, radius, known
        As those of a `Pool`.
    verdicts, order
        As of `queue_across`.
    """
    pool = Pool(candidates=candidates, radius=radius, known=known)
    return queue_across([pool], verdicts, order=order)


def queue_across(
    pools: Sequence[Pool], verdicts: Sequence[Verdict], *, order: Order = "teach"
) -> list[Candidate]:
    """Candidates that wait for a verdict, in the order to ask; those put off come last.

    A candidate does not wait where a verdict or a known particle is within half a radius: it is
    the same particle, although another model may have placed it a little differently.

    Parameters
    ----------
    pools
        One for each tomogram.
    verdicts
        So far, of any model and any tomogram.
    order
        `teach` is `teaching_order`; `random` is a fair sample of the picked ones, the same each
        time; `best` is by score.
    """
    waiting: list[Candidate] = []
    later: list[Candidate] = []
    for pool in pools:
        some = [one for one in pool.candidates if one.picked or order != "random"]
        if not some:
            continue
        said = [one for one in verdicts if one.candidate.tomogram == some[0].tomogram]
        judged = [one.candidate.voxel for one in said if one.answer != "skip"]
        put_off = [one.candidate.voxel for one in said if one.answer == "skip"]
        voxels = np.array([one.voxel for one in some], dtype=np.float64)
        is_known = near(voxels, [*judged, *pool.known], pool.radius / 2)
        is_later = near(voxels, put_off, pool.radius / 2)
        for one, known, put in zip(some, is_known, is_later, strict=True):
            if not known:
                (later if put else waiting).append(one)
    everyone = [one for pool in pools for one in pool.candidates]
    radii = {pool.candidates[0].tomogram: pool.radius for pool in pools if pool.candidates}
    ranks = _ranks(everyone, order, radii)
    return [*sorted(waiting, key=ranks.__getitem__), *sorted(later, key=ranks.__getitem__)]


def near(
    voxels: Floats, places: Sequence[tuple[float, float, float]], distance: float
) -> NDArray[np.bool_]:
    """(n,) whether each of (n, 3) voxels is within a distance of any of some places."""
    if not len(places) or not len(voxels):
        return np.zeros(len(voxels), dtype=bool)
    found, _ = KDTree(np.array(places, dtype=np.float64)).query(voxels)
    close: NDArray[np.bool_] = found <= distance
    return close


def teaching_order(
    voxels: Floats,
    uncertainty: Floats,
    scores: Floats,
    *,
    radius: float,
    tomograms: NDArray[np.intp] | None = None,
    most: int = 300,
) -> NDArray[np.intp]:
    """Order candidates by how much a verdict on each would teach, the most first.

    Information density (Settles & Craven 2008): a verdict teaches as much as the candidate is
    uncertain, times how many others are alike, here in score. One that is chosen then makes those
    that are alike in score and near in place less worth asking, so that the first dozen are not
    a dozen of the same kind from one corner.

    Parameters
    ----------
    voxels
        (n, 3) centres ``z y x`` in voxels, or in any other length.
    uncertainty
        (n,), 0 for certain and 1 for a coin toss.
    scores
        (n,)
    radius
        Of the particle, in that length: "near" is within a few of it.
    tomograms
        (n,) numbers of the tomograms, if there are several: no place is near another one's.
    most
        Candidates that are put in order; the rest follow by uncertainty alone.

    Examples
    --------
    >>> at = np.array([[0, 0, 0], [0, 0, 90], [0, 90, 0.0]])
    >>> teaching_order(at, np.array([0.1, 1.0, 0.5]), np.array([5.0, 1, 2]), radius=5).tolist()
    [1, 2, 0]
    """
    by_uncertainty = np.argsort(-uncertainty, kind="stable")
    head, tail = by_uncertainty[:most], by_uncertainty[most:]
    spread = max(float(np.std(scores)) if len(scores) else 0.0, 1e-9)
    # Silverman's rule, for the density of scores that are roughly normal.
    width = 1.06 * spread * max(len(scores), 1) ** -0.2
    density = _density(scores[head], np.sort(scores), width)
    value = uncertainty[head] * density / max(density.max(initial=0), 1e-9)
    order = []
    left = np.ones(len(head), dtype=bool)
    for _ in range(len(head)):
        best = int(np.argmax(np.where(left, value, -1.0)))
        order.append(best)
        left[best] = False
        apart = ((voxels[head] - voxels[head[best]]) ** 2).sum(axis=1) / (4 * radius) ** 2
        if tomograms is not None:
            apart[tomograms[head] != tomograms[head[best]]] = np.inf
        unlike = ((scores[head] - scores[head[best]]) / width) ** 2
        value = value * (1 - 0.9 * np.exp(-(apart + unlike) / 2))
    return np.concatenate([head[order], tail]).astype(np.intp)


def uncertainties(candidates: Sequence[Candidate]) -> Floats:
    """(n,) how uncertain each candidate is, from 0 to 1.

    4 p (1 - p) of its probability. Where a picker tells none, the chance is taken as a logistic
    curve of the score about the cut-off, or about the lowest score where all are picked.
    """
    if all(one.probability is not None for one in candidates):
        chance = np.array([one.probability for one in candidates], dtype=np.float64)
        return 4 * chance * (1 - chance)
    scores = np.array([one.score for one in candidates])
    picked = np.array([one.picked for one in candidates])
    low = scores[picked].min() if picked.any() else scores.max()
    cut = low if picked.all() else (low + scores[~picked].max(initial=-math.inf)) / 2
    steps = (scores - cut) / max(float(scores.std()), 1e-9)
    chance = 1 / (1 + np.exp(-np.clip(2 * steps, -50, 50)))
    uncertainty: Floats = 4 * chance * (1 - chance)
    return uncertainty


def precision(right: int, wrong: int) -> tuple[float, float, float]:
    """Share of right picks in a fair sample, with Wilson's interval of 95 %.

    Returns
    -------
    tuple
        The share, its lower and its upper bound; of an empty sample 0, 0 and 1.

    Examples
    --------
    >>> [round(value, 3) for value in precision(19, 1)]
    [0.95, 0.764, 0.991]
    """
    count = right + wrong
    if not count:
        return 0.0, 0.0, 1.0
    share, z = right / count, 1.959964
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2) / (1 + z * z / count)
    return share, max(centre - half, 0.0), min(centre + half, 1.0)


def _ranks(
    candidates: Sequence[Candidate], order: Order, radii: Mapping[str, float]
) -> dict[Candidate, int]:
    """Place of each candidate in an order; `radii` are in voxels, of each tomogram."""
    if not candidates:
        return {}
    scores = np.array([one.score for one in candidates], dtype=np.float64)
    if order == "random":
        # By place, so that the sample stays the same as verdicts come in and the list changes.
        rows = np.argsort([_lot(one.voxel) for one in candidates], kind="stable")
    elif order == "best":
        rows = np.argsort(-scores, kind="stable")
    else:
        numbers = {name: number for number, name in enumerate(radii)}
        rows = teaching_order(
            # In particle radii, as voxels may be of different sizes.
            np.array([np.array(one.voxel) / radii[one.tomogram] for one in candidates]),
            uncertainties(candidates),
            scores,
            radius=1.0,
            tomograms=np.array([numbers[one.tomogram] for one in candidates]),
        )
    return {candidates[row]: rank for rank, row in enumerate(rows.tolist())}


@lru_cache(maxsize=100_000)
def _lot(voxel: tuple[float, float, float]) -> float:
    """A number between 0 and 1 that a place draws, always the same."""
    return float(np.random.default_rng([int(abs(value) * 10) for value in voxel]).random())


def _density(at: Floats, scores: Floats, width: float) -> Floats:
    """(n,) density of sorted scores at each place, as the share within a width of it."""
    high = np.searchsorted(scores, at + width, side="right")
    low = np.searchsorted(scores, at - width, side="left")
    share: Floats = (high - low) / max(len(scores), 1)
    return share
