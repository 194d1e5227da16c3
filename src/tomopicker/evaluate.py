"""Picks against known particles: matching, precision, recall, F1, average precision, paper 4.2."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tomopicker.errors import InputError
from tomopicker.types import Floats

if TYPE_CHECKING:
    from collections.abc import Sequence

PAPER_TOLERANCE = 10.0
"""Voxels within which a pick finds a particle, paper 4.2."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """True and false picks and missed particles, and the ratios that paper 4.2 makes of them.

    A ratio without a denominator (nothing picked, or no particle to find) is 0.

    >>> Counts(true_positives=2, false_positives=2, false_negatives=6).recall
    0.25
    """

    true_positives: int
    false_positives: int
    false_negatives: int

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            true_positives=self.true_positives + other.true_positives,
            false_positives=self.false_positives + other.false_positives,
            false_negatives=self.false_negatives + other.false_negatives,
        )

    @property
    def precision(self) -> float:
        """TP / (TP + FP)."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """TP / (TP + FN)."""
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float:
        """2 × precision × recall / (precision + recall)."""
        return _ratio(2 * self.precision * self.recall, self.precision + self.recall)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One-to-one precision and recall of the picks that score at least a threshold."""

    thresholds: Floats
    """(k,), the different scores, falling; -inf where the picks have none."""
    precision: Floats
    """(k,)."""
    recall: Floats
    """(k,), never falling."""

    @property
    def average_precision(self) -> float:
        """Sum of precision × gain in recall, without interpolation; 0 where nothing was picked."""
        return float(self.precision @ np.diff(self.recall, prepend=0.0))


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How well picks find the known particles of one tomogram, or of several together."""

    one_to_one: Counts
    """A pick finds at most one particle, and a particle is found by at most one pick."""
    paper: Counts
    """As paper 4.2 counts; see `evaluate`."""
    localisation_error: float | None
    """Mean distance of the matched pairs, in the coordinates' unit; None where none matched."""
    scores: Floats | None
    """(n,), of the picks, falling; None where the picks have none."""
    hits: NDArray[np.bool_]
    """(n,), whether one more particle can be matched with this pick and all the better ones."""

    @property
    def curve(self) -> Curve:
        """Precision and recall at every score; picks of equal score count as one step.

        Picks without scores are all of equal score, so their curve is one point.
        """
        scores = np.full(len(self.hits), -np.inf) if self.scores is None else self.scores
        # The last pick of each run of equal scores.
        ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)[: len(scores)])
        found = np.cumsum(self.hits)[ends]
        truths = self.one_to_one.true_positives + self.one_to_one.false_negatives
        return Curve(
            thresholds=scores[ends],
            precision=found / (ends + 1),
            recall=found / max(truths, 1),
        )

    @property
    def average_precision(self) -> float:
        """Of the curve; for picks without scores, precision × recall."""
        return self.curve.average_precision


def evaluate(
    picks: NDArray[Any],
    truth: NDArray[Any],
    *,
    tolerance: float,
    scores: NDArray[Any] | None = None,
) -> Evaluation:
    """Compare the picks of one tomogram with its known particles.

    `paper` (section 4.2): TP are the particles that have a pick within the tolerance, FN those
    that have none, and FP the picks that have no particle within it. One pick may find several
    particles and one particle use up several picks, so TP + FP need not be the number of picks.

    `one_to_one`: as many disjoint pairs of a pick and a particle within the tolerance as there
    can be, and of those the pairs at the least total distance. The curve counts the most pairs
    for the best 1, 2, 3… picks, so it ends at these counts.

    Parameters
    ----------
    picks
        (n, 3), axes in any order and any unit.
    truth
        (m, 3), in the same order and unit.
    tolerance
        Distance, in that unit, up to and including which a pick finds a particle.
    scores
        (n,), higher is better; None when the picks have none.

    Raises
    ------
    InputError
        When an array has the wrong shape or holds NaN, or the tolerance is not positive.

    Examples
    --------
    One pick between two particles:

    >>> result = evaluate(np.array([[0, 0, 5]]), np.array([[0, 0, 0], [0, 0, 9]]), tolerance=10)
    >>> result.paper.true_positives, result.one_to_one.true_positives, result.localisation_error
    (2, 1, 4.0)
    """
    if not 0 < tolerance < np.inf:
        raise InputError(f"the tolerance must be a distance above 0, got {tolerance}")
    picks, truth = _points("picks", picks), _points("known particles", truth)
    if scores is not None:
        scores = np.asarray(scores, dtype=np.float64)
        if scores.shape != (len(picks),):
            raise InputError(f"{len(picks)} picks need as many scores, got {scores.shape}")
        if np.isnan(scores).any():
            row = int(np.flatnonzero(np.isnan(scores))[0]) + 1
            raise InputError(f"the score of pick {row} is not a number")

    of_pick, of_truth, distances = _pairs(picks, truth, tolerance)
    pairs = _match(of_pick, of_truth, distances / tolerance)
    matched = distances[pairs]
    best_first = np.arange(len(picks)) if scores is None else np.argsort(-scores, kind="stable")
    found = len(np.unique(of_truth))
    return Evaluation(
        one_to_one=Counts(
            true_positives=len(matched),
            false_positives=len(picks) - len(matched),
            false_negatives=len(truth) - len(matched),
        ),
        paper=Counts(
            true_positives=found,
            false_positives=len(picks) - len(np.unique(of_pick)),
            false_negatives=len(truth) - found,
        ),
        localisation_error=float(matched.mean()) if len(matched) else None,
        scores=None if scores is None else scores[best_first],
        hits=_hits(best_first, of_pick, of_truth),
    )


def combine(evaluations: Collection[Evaluation]) -> Evaluation:
    """Pool the evaluations of several tomograms, every particle counting alike.

    The counts are summed and all the picks ranked together by their scores; where one of the
    lists has no scores, all the picks count as of equal score.
    """
    ranked = [each.scores for each in evaluations if each.scores is not None]
    hits = np.concatenate([np.zeros(0, dtype=bool), *(each.hits for each in evaluations)])
    scores = None
    if len(ranked) == len(evaluations):
        pooled = np.concatenate([np.zeros(0), *ranked])
        best_first = np.argsort(-pooled, kind="stable")
        scores, hits = pooled[best_first], hits[best_first]
    none = Counts(true_positives=0, false_positives=0, false_negatives=0)
    one_to_one = sum((each.one_to_one for each in evaluations), start=none)
    distance = sum(
        each.localisation_error * each.one_to_one.true_positives
        for each in evaluations
        if each.localisation_error is not None
    )
    matched = one_to_one.true_positives
    return Evaluation(
        one_to_one=one_to_one,
        paper=sum((each.paper for each in evaluations), start=none),
        localisation_error=distance / matched if matched else None,
        scores=scores,
        hits=hits,
    )


def macro_f1(evaluations: Collection[Evaluation]) -> float:
    """Mean of the one-to-one F1, every tomogram counting alike; 0 without tomograms."""
    return _ratio(sum(each.one_to_one.f1 for each in evaluations), len(evaluations))


def as_json(
    evaluation: Evaluation, tomograms: Mapping[str, Evaluation] | None = None
) -> dict[str, Any]:
    """Make a dictionary for JSON: the one-to-one counts, and the paper's under ``paper``.

    Parameters
    ----------
    evaluation
        Of one tomogram, or several combined.
    tomograms
        What was combined, by name: adds ``tomograms`` and ``macro_f1``.
    """
    result: dict[str, Any] = {
        **_counts_as_json(evaluation.one_to_one),
        "paper": _counts_as_json(evaluation.paper),
        "average_precision": evaluation.average_precision,
        "localisation_error": evaluation.localisation_error,
    }
    if tomograms is not None:
        result["macro_f1"] = macro_f1(tomograms.values())
        result["tomograms"] = {name: as_json(each) for name, each in tomograms.items()}
    return result


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _counts_as_json(counts: Counts) -> dict[str, float]:
    return {
        "precision": counts.precision,
        "recall": counts.recall,
        "f1": counts.f1,
        "true_positives": counts.true_positives,
        "false_positives": counts.false_positives,
        "false_negatives": counts.false_negatives,
    }


def _points(name: str, points: NDArray[Any]) -> Floats:
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise InputError(f"{name} must be (n, 3) coordinates, got {points.shape}")
    if not np.isfinite(points).all():
        raise InputError(f"{name} have a coordinate that is not a finite number")
    return points


def _pairs(
    picks: Floats, truth: Floats, tolerance: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    """Pick, particle and distance (p,) of every pair within the tolerance."""
    from scipy.spatial import cKDTree

    # Coordinates that went through ångström and back differ in their last digit.
    reach = tolerance * (1 + 1e-9)
    pairs = cKDTree(picks).sparse_distance_matrix(cKDTree(truth), reach, output_type="ndarray")
    return pairs["i"], pairs["j"], pairs["v"]


def _match(
    of_pick: NDArray[np.intp], of_truth: NDArray[np.intp], costs: Floats
) -> NDArray[np.intp]:
    """Indices (k,) of the cheapest of the largest sets of disjoint pairs; costs are about <= 1."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    if not len(costs):
        return np.zeros(0, dtype=np.intp)
    rows, row_of = np.unique(of_pick, return_inverse=True)
    columns, column_of = np.unique(of_truth, return_inverse=True)
    # Every pick may go to a column of its own instead, which costs more than all pairs together:
    # so each can be placed, and as few as possible are placed there. The 1 added to all costs
    # keeps a distance of 0 from reading as the absence of a pair.
    alone = np.arange(len(rows))
    edges = coo_array(
        (
            np.concatenate([1 + costs, np.full(len(rows), 3.0 + len(rows))]),
            (np.concatenate([row_of, alone]), np.concatenate([column_of, len(columns) + alone])),
        ),
        shape=(len(rows), len(columns) + len(rows)),
    )
    row, column = min_weight_full_bipartite_matching(edges.tocsr())
    placed = np.empty(len(rows), dtype=np.intp)
    placed[row] = column
    return np.flatnonzero(placed[row_of] == column_of)


def _hits(
    best_first: NDArray[np.intp], of_pick: NDArray[np.intp], of_truth: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """Whether each pick, in the given order (n,), lets one more particle be matched."""
    near: list[list[int]] = [[] for _ in best_first]
    for pick, truth in zip(of_pick.tolist(), of_truth.tolist(), strict=True):
        near[pick].append(truth)
    owners: dict[int, int] = {}
    spent: set[int] = set()
    return np.array([_augment(pick, near, owners, spent) for pick in best_first.tolist()], bool)


def _augment(
    pick: int, near: Sequence[Sequence[int]], owners: dict[int, int], spent: set[int]
) -> bool:
    """Match one more pick, giving others another particle where need be, if that is possible."""
    reached_from: dict[int, int] = {}
    queue = deque([pick])
    while queue:
        current = queue.popleft()
        for truth in near[current]:
            if truth in reached_from or truth in spent:
                continue
            reached_from[truth] = current
            if truth in owners:
                queue.append(owners[truth])
                continue
            _hand_over(truth, pick, reached_from, owners)
            return True
    # No free particle can be reached from these, nor ever will be: no later path may enter them
    # and leave again. Not trying them again keeps the whole ranking linear in the pairs.
    spent.update(reached_from)
    return False


def _hand_over(
    free: int, pick: int, reached_from: Mapping[int, int], owners: dict[int, int]
) -> None:
    """Shift the particles along the path from `pick` to the free particle."""
    held = {owners[truth]: truth for truth in reached_from if truth in owners}
    truth = free
    while True:
        owner = reached_from[truth]
        owners[truth] = owner
        if owner == pick:
            return
        truth = held[owner]
