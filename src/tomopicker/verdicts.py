"""Verdicts: which candidates a person should look at first, and what was said of them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np
from scipy.spatial import KDTree

from tomopicker.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tomopicker.types import Floats

Answer: TypeAlias = Literal["accept", "reject", "skip"]
"""What a person says of a candidate; `skip` puts it off."""

Order: TypeAlias = Literal["teach", "random", "best"]
"""What is asked first: what helps the list most, a fair sample of the picks, or the best scores."""

ANSWERS: dict[str, Answer] = {"a": "accept", "r": "reject", "s": "skip"}
"""The answer of each key."""

SLIPS = 0.02
"""Share of the answers that are wrong, so that no single one is taken for certain."""

_ODDS_SPREAD = 1.0
"""How far off a model's odds may be in a tomogram: standard deviation of the factor's logarithm."""

_FARTHEST_ODDS = 6.0
_STEPS = 601


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A peak that a picker found, picked or not; the same one whatever is thought of its chance."""

    tomogram: str
    voxel: tuple[float, float, float]
    """Centre ``z y x`` in voxels of its tomogram."""
    score: float = field(compare=False)
    probability: float | None = field(default=None, compare=False)
    """Chance that it is a particle; None where the picker does not tell."""
    picked: bool = field(default=True, compare=False)
    """Whether it is above the cut-off."""
    model: str = ""
    """What found it."""


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
        `teach` is by `worth`; `random` is a fair sample of the picked ones, the same each time;
        `best` is by score.
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
    ranks = _ranks(pools, order)
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


def expected_f1(chances: Floats, particles: float) -> Floats:
    """(n,) expected F1 of the lists of the 1, 2, ... n best: twice the hits over length and count.

    Parameters
    ----------
    chances
        (n,) that each is a particle, the best first.
    particles
        Expected number of particles in all.

    >>> expected_f1(np.array([1.0, 0.5]), 2.0).tolist()  # 2 · 1 / (1 + 2), 2 · 1.5 / (2 + 2)
    [0.6666666666666666, 0.75]
    """
    length = np.arange(1, len(chances) + 1)
    f1: Floats = 2 * np.cumsum(chances) / (length + particles)
    return f1


def worth(chances: Floats) -> Floats:
    """(n,) how much the answer to each candidate would add to the expected F1 of the best list.

    With expected hits H among L picks, N expected particles and F = 2 H / (L + N), the best list
    has the candidates whose chance p is above F / 2. Of a pick, the answer is no with chance
    1 - p, which takes a false pick worth F / 2 away; of another, it is yes with chance p, which
    adds a hit worth 1 - F / 2. That is the lesser of (1 - p) F / 2 and p (1 - F / 2), in units of
    2 / (L + N): most at the cut-off, as uncertainty sampling (Lewis & Gale 1994) asks
    most at 1 / 2.

    >>> worth(np.array([1.0, 0.6, 0.5, 0.1])).round(2).tolist()
    [0.0, 0.16, 0.2, 0.06]
    """
    cut = _best_cut(chances)
    gain: Floats = np.minimum((1 - chances) * cut, chances * (1 - cut))
    return gain


def revise(
    candidates: Sequence[Candidate], verdicts: Sequence[Verdict], *, automatic: bool
) -> list[Candidate]:
    """Put the chances and the cut-off of a tomogram right by what was said of candidates there.

    A model may think too well, or too badly, of all that is in a tomogram. So all odds there,
    p / (1 - p), change by one factor: the most likely one, given the answers and a log-normal prior
    about 1. Whichever candidates were asked for, the answers are fair draws of their chances. The
    best list by the chances of then is picked (see `worth`).

    Parameters
    ----------
    candidates
        Of one tomogram and one model.
    verdicts
        Of any. Those on candidates of another model say nothing here: this one may have learned
        from them.
    automatic
        Whether the picker chose the cut-off by itself. A list that was asked for, of so many or so
        pure, stays what it is.

    Examples
    --------
    >>> some = [
    ...     Candidate(tomogram="a", voxel=(0, 0, x), score=-x, probability=p, picked=p > 0.5)
    ...     for x, p in ((0, 0.9), (9, 0.6), (18, 0.4))
    ... ]
    >>> said = {"answer": "reject", "who": "", "when": "", "order": "best"}
    >>> no = [Verdict(candidate=one, **said) for one in some[:2]]
    >>> [round(one.probability, 2) for one in revise(some, no, automatic=True)]
    [0.76, 0.35, 0.19]
    """
    answers = {one.candidate: one.answer == "accept" for one in verdicts if one.answer != "skip"}
    asked = [row for row, one in enumerate(candidates) if one in answers]
    if not asked or any(one.probability is None for one in candidates):
        return list(candidates)
    # Tables have four decimals.
    chances = np.clip([one.probability for one in candidates], 1e-4, 1 - 1e-4)
    log_odds = np.log(chances / (1 - chances))
    is_particle = np.array([answers[candidates[row]] for row in asked])
    factors = np.linspace(-_FARTHEST_ODDS, _FARTHEST_ODDS, _STEPS)
    expected = SLIPS + (1 - 2 * SLIPS) * _logistic(log_odds[asked] + factors[:, None])
    surprise = -np.log(np.where(is_particle, expected, 1 - expected)).sum(axis=1)
    best = factors[np.argmin(surprise + (factors / _ODDS_SPREAD) ** 2 / 2)]
    revised = _logistic(log_odds + best)
    picked = np.array([one.picked for one in candidates])
    if automatic and picked.any():
        known = revised.copy()
        known[asked] = is_particle
        picked = revised > _best_cut(known)
    return [
        replace(one, probability=float(chance), picked=bool(listed))
        for one, chance, listed in zip(candidates, revised, picked, strict=True)
    ]


def chances_of(candidates: Sequence[Candidate]) -> Floats:
    """(n,) probability of each candidate of one tomogram.

    Where a picker tells none it is taken as a logistic curve of the score about the cut-off, or
    about the lowest score where all are picked.
    """
    if all(one.probability is not None for one in candidates):
        return np.array([one.probability for one in candidates], dtype=np.float64)
    scores = np.array([one.score for one in candidates])
    picked = np.array([one.picked for one in candidates])
    low = scores[picked].min() if picked.any() else scores.max()
    cut = low if picked.all() else (low + scores[~picked].max(initial=-math.inf)) / 2
    steps = (scores - cut) / max(float(scores.std()), 1e-9)
    return _logistic(np.clip(2 * steps, -50, 50))


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


def _ranks(pools: Sequence[Pool], order: Order) -> dict[Candidate, int]:
    """Place of each candidate in an order."""
    candidates = [one for pool in pools for one in pool.candidates]
    if order == "random":
        # By place, so that the sample stays the same as verdicts come in and the list changes.
        rows = np.argsort([_lot(one.voxel) for one in candidates], kind="stable")
    elif order == "best":
        rows = np.argsort([-one.score for one in candidates], kind="stable")
    else:
        # Where chances are taken from scores, each list has an end of its own.
        chances = np.concatenate([np.zeros(0), *(chances_of(pool.candidates) for pool in pools)])
        rows = np.argsort(-worth(chances), kind="stable")
    return {candidates[row]: rank for rank, row in enumerate(rows.tolist())}


@lru_cache(maxsize=100_000)
def _lot(voxel: tuple[float, float, float]) -> float:
    """A number between 0 and 1 that a place draws, always the same."""
    return float(np.random.default_rng([int(abs(value) * 10) for value in voxel]).random())


def _best_cut(chances: Floats) -> float:
    """F / 2 of the list with the best expected F1: its picks have chances above that."""
    best_first = np.sort(chances)[::-1]
    return float(expected_f1(best_first, best_first.sum()).max(initial=0.0)) / 2


def _logistic(log_odds: Floats) -> Floats:
    chance: Floats = 1 / (1 + np.exp(-log_odds))
    return chance
