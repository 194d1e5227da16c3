"""Held out: what the particles that training never saw tell of a trained network's scores.

How much shape counts beside the scores, and how particles score, which ends the list. The average
that has the shape is made here, too, as some of its particles are peaks that the network found.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from scipy.spatial import KDTree

from tomopicker.calibrate import (
    FEWEST_TO_CALIBRATE,
    MATCH_RADII,
    LabelledScores,
    judge,
    learn_calibration,
    match_labelled,
    matched_rows,
    shape_weight,
)
from tomopicker.inference import add_shape, contrasts_of, find_candidates, network_of, score
from tomopicker.template import (
    FEWEST_TO_ALIGN,
    LARGEST_RADIUS,
    computing_on,
    learn_template,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from tomopicker.calibrate import Calibration
    from tomopicker.checkpoint import Checkpoint
    from tomopicker.features import Features
    from tomopicker.task import Labelled, Task
    from tomopicker.types import Floats

_SCORING, _ALIGNING = 0.15, 0.7
"""Shares of the time of calibrating with a template that scoring and aligning take, about."""

_LIKELY = 0.5
"""Chance above which an unlabelled peak is aligned, too."""

_SHARE_OF_HIDDEN = 0.5
"""Of the particles that are expected among unlabelled peaks: the likelier half of them at most.
Chances may be too high, and of the last ones many are something else."""

_ENOUGH_TO_ALIGN = 150
"""Aligned particles, with the training ones, beyond which none is added."""

_Peaks: TypeAlias = "tuple[Features, NDArray[np.float64], Floats]"
"""Candidates of a tomogram: (n, 3) centres ``z y x`` in voxels and (n,) scores, best first."""


@dataclass(frozen=True, kw_only=True)
class Likely:
    """Unlabelled peaks, as far as the network can tell what they are."""

    places: list[tuple[Features, NDArray[np.float64]]]
    """Of each tomogram, (n, 3) centres ``z y x`` in voxels of those that are likely particles."""
    hidden: float
    """Number of particles that is expected among all unlabelled peaks."""

    def at(self, features: Features) -> NDArray[np.float64]:
        """(n, 3) places of one tomogram, 0 where it gives none."""
        mine = [places for own, places in self.places if own is features]
        return np.concatenate([*mine, np.empty((0, 3))])


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Peaks of a tomogram that stand for what is labelled there."""

    held: set[int]
    trained: set[int]
    """Learned from; none is a held-out one."""
    clicked: set[int]
    """Those of them that were not accepted from a list."""
    rejected: set[int]


def calibrate(
    task: Task,
    checkpoint: Checkpoint,
    *,
    device: str = "cpu",
    progress: Callable[[float], None] = lambda _: None,
) -> Checkpoint:
    """Add to a checkpoint what scores its labelled particles reach, by which picking is cut.

    With `inference.template_weight`, and where enough particles are held out, an average is made
    of the training particles and of unlabelled peaks that are likely particles, and added, too. How
    much shape counts in the scores is what the held-out particles tell (`shape_weight`).

    The particles of validation are scored in their tomogram, whole, and with them the training
    particles of that tomogram, whose scores are somewhat better than an unseen particle's: they are
    lowered by the difference of the means, and tell how far scores scatter. With fewer than ten
    particles of validation there is no mean to trust: training particles stay as they are.
    Those that were accepted from a list tell, with those rejected there, of the chance at their
    scores. A tomogram where nothing but such was labelled is left out.
    """
    network = network_of(checkpoint)
    config = task.config
    held_out = sum(len(part.centres) for part in task.validation) >= FEWEST_TO_CALIBRATE
    is_shaped = (
        held_out
        and config.inference.template_weight > 0
        and sum(len(part.centres) for part in task.training) >= FEWEST_TO_ALIGN
        and task.radius <= LARGEST_RADIUS
    )
    parts = list(task.validation)
    if not held_out:
        parts += task.training
    # Units of z differ between tomograms: one where nobody clicked tells of no particle's scores.
    # Not by name: two sessions may both have a TS_01.
    volumes = list(
        {id(part.features): part.features for part in parts if not part.is_shown.all()}.values()
    )
    end = _SCORING if is_shaped else 1.0
    peaks: list[_Peaks] = []
    for number, features in enumerate(volumes):
        volume = score(
            features,
            network,
            config,
            device=device,
            progress=lambda done, n=number: progress(end * (n + done) / len(volumes)),  # type: ignore[misc]
        )
        peaks.append((features, *find_candidates(volume, config, radius=task.radius)))
    if is_shaped:
        likely = likely_particles(task, peaks)
        with computing_on(device):
            checkpoint = _with_template(
                task, checkpoint, likely, lambda done: progress(end + _ALIGNING * done)
            )
        end += _ALIGNING
        checkpoint, peaks = _weigh_shape(
            task,
            checkpoint,
            peaks,
            likely,
            device=device,
            progress=lambda done: progress(end + (1 - end) * done),
        )
    if held_out:
        peaks = as_unseen(peaks, task)
    calibration = _calibration(peaks, task, held_out=held_out)
    return replace(
        checkpoint,
        description=checkpoint.description.model_copy(update={"calibration": calibration}),
    )


def likely_particles(task: Task, peaks: Sequence[_Peaks]) -> Likely:
    """Unlabelled peaks that are likely particles, as far as the network can tell.

    They make the average better than the training particles alone, of which there are few: it
    takes about a hundred to be sure of an average in the right shape. None is added where there are
    150 already. Only tomograms with training particles give any: elsewhere it is not known how much
    better a particle fits for being in the average.
    """
    peaks = as_unseen(peaks, task)
    calibration = _calibration(peaks, task, held_out=True)
    places, chances, may_join = [], [], []
    for features, centres, scores in peaks:
        trained = _parts_of(features, task.training)
        mine = [*trained, *_parts_of(features, task.validation)]
        known = [*(part.centres for part in mine), *(part.rejected for part in mine)]
        # A particle may have a second peak, which is not to be averaged where it is held out.
        is_apart = KDTree(np.concatenate(known)).query(centres)[0] > task.radius
        places.append((features, centres[is_apart]))
        chances.append(judge(scores, calibration).chances[is_apart])
        is_learned_from = any(len(part.centres) for part in trained)
        may_join.append(np.full(len(chances[-1]), is_learned_from))
    every = np.concatenate(chances)
    joins = np.concatenate(may_join) & (every > _LIKELY)
    hidden = float(every.sum())
    most = max(_ENOUGH_TO_ALIGN - sum(len(part.centres) for part in task.training), 0)
    most = min(most, round(_SHARE_OF_HIDDEN * hidden))
    rows = np.flatnonzero(joins)
    joins[rows[np.argsort(-every[rows], kind="stable")[most:]]] = False
    starts = np.cumsum([len(some) for some in chances])[:-1]
    return Likely(
        places=[
            (features, centres[some])
            for (features, centres), some in zip(places, np.split(joins, starts), strict=True)
        ],
        hidden=hidden,
    )


def as_unseen(peaks: Sequence[_Peaks], task: Task) -> list[_Peaks]:
    """Peaks with the scores that training particles would have if they were none.

    The network has learned some of their noise, and it is in the average of the aligned. So their
    peaks are lowered by what the clicked ones have on average more than those that were held out,
    over all tomograms. Accepted ones are lowered, too, and have no say: a review asks for those
    about the cut-off, which score less than the others.

    Parameters
    ----------
    peaks
        Of each tomogram with its features: (n, 3) centres and (n,) scores, the best first.
    """
    rows = [_rows_of(task, *some) for some in peaks]
    excess = _excess(
        [scores[sorted(its.clicked)] for (_, _, scores), its in zip(peaks, rows, strict=True)],
        [scores[sorted(its.held)] for (_, _, scores), its in zip(peaks, rows, strict=True)],
    )
    lowered = []
    for (features, centres, scores), its in zip(peaks, rows, strict=True):
        scores = scores.copy()
        scores[sorted(its.trained)] -= excess
        order = np.argsort(-scores, kind="stable")
        lowered.append((features, centres[order], scores[order]))
    return lowered


def _calibration(peaks: Sequence[_Peaks], task: Task, *, held_out: bool) -> Calibration:
    """What the labelled particles among the peaks tell of how particles score."""
    judged: list[tuple[Floats, LabelledScores]] = []
    known = 0
    for features, centres, scores in peaks:
        mine = _parts_of(features, (*task.training, *task.validation))
        found = match_labelled(
            centres,
            scores,
            np.concatenate([part.centres[~part.is_shown] for part in mine]),
            accepted=np.concatenate([part.centres[part.is_shown] for part in mine]),
            rejected=np.concatenate([part.rejected for part in mine]),
            tolerance=MATCH_RADII * task.radius,
        )
        judged.append((scores, found))
        known += sum(len(part.centres) for part in mine)
    return learn_calibration(judged, known=known, held_out=held_out)


def _with_template(
    task: Task,
    checkpoint: Checkpoint,
    likely: Likely,
    progress: Callable[[float], None],
) -> Checkpoint:
    """Add the average of the training particles, and of likely ones."""
    # A tomogram's together, as its templates take most of the time.
    aligned = [
        (part.features, np.concatenate([part.centres, likely.at(part.features)]))
        for part in task.training
    ]
    template = learn_template(
        aligned, radius=task.radius, seed=task.config.training.seed, progress=progress
    )
    number = sum(len(centres) for _, centres in aligned)
    return replace(
        checkpoint,
        description=checkpoint.description.model_copy(update={"aligned": number}),
        template=template,
    )


def _weigh_shape(
    task: Task,
    checkpoint: Checkpoint,
    peaks: Sequence[_Peaks],
    likely: Likely,
    *,
    device: str,
    progress: Callable[[float], None],
) -> tuple[Checkpoint, list[_Peaks]]:
    """Find how much the template's contrast counts in the scores, and add it to them.

    Held-out particles are told from the other candidates, but not from the training particles, nor
    from what was rejected, which are known. What the aligned ones fit better than held-out ones,
    since the average has their noise, is taken off them.
    """
    shapes = [
        contrasts_of(
            checkpoint,
            features,
            centres,
            device=device,
            progress=lambda done, n=number: progress((n + done) / len(peaks)),  # type: ignore[misc]
        )
        for number, (features, centres, _) in enumerate(peaks)
    ]
    compared = [
        (features, centres[: len(near)], scores[: len(near)])
        for (features, centres, scores), near in zip(peaks, shapes, strict=True)
    ]
    rows = [_rows_of(task, *some) for some in compared]
    gain = _excess(
        [near[sorted(its.clicked)] for near, its in zip(shapes, rows, strict=True)],
        [near[sorted(its.held)] for near, its in zip(shapes, rows, strict=True)],
    )
    told = []
    for (features, centres, _), near, its in zip(compared, shapes, rows, strict=True):
        joined = _same(likely.at(features), centres)
        near[sorted(its.trained | joined)] -= gain
        told.append(np.setdiff1d(np.arange(len(near)), sorted(its.trained | its.rejected)))
    is_held = [np.isin(some, sorted(its.held)) for some, its in zip(told, rows, strict=True)]
    found = sum(np.count_nonzero(some) for some in is_held)
    weight = shape_weight(
        np.concatenate([scores[some] for (_, _, scores), some in zip(compared, told, strict=True)]),
        np.concatenate([near[some] for near, some in zip(shapes, told, strict=True)]),
        np.concatenate(is_held),
        labelled_share=found / (found + likely.hidden + 1e-9),
        most=task.config.inference.template_weight,
    )
    description = checkpoint.description.model_copy(update={"template_weight": weight})
    checkpoint = replace(checkpoint, description=description)
    if not weight:
        return checkpoint, list(peaks)
    return checkpoint, [
        (features, *add_shape(checkpoint, features.shape, centres, scores, near))
        for (features, centres, scores), near in zip(peaks, shapes, strict=True)
    ]


def _rows_of(task: Task, features: Features, centres: NDArray[np.float64], scores: Floats) -> _Rows:
    """Peaks that stand for what is labelled in their tomogram, the best one for each place."""
    trained = _parts_of(features, task.training)
    tree = KDTree(centres)

    def at(places: Sequence[Floats]) -> set[int]:
        every = np.concatenate([*places, np.empty((0, 3))])
        return set(matched_rows(tree, scores, every, tolerance=MATCH_RADII * task.radius))

    held = at([part.centres for part in _parts_of(features, task.validation)])
    return _Rows(
        held=held,
        trained=at([part.centres for part in trained]) - held,
        clicked=at([part.centres[~part.is_shown] for part in trained]) - held,
        rejected=at([part.rejected for part in trained]) - held,
    )


def _parts_of(features: Features, parts: Sequence[Labelled]) -> list[Labelled]:
    """Parts of a task that are in one tomogram; not by name, as two may have the same."""
    return [part for part in parts if part.features is features]


def _same(places: NDArray[np.float64], centres: NDArray[np.float64]) -> set[int]:
    """Rows of the peaks that places are taken from."""
    # From no place at all everything is infinitely far.
    return set(np.flatnonzero(KDTree(places).query(centres)[0] < 1e-6).tolist())


def _excess(learned: Sequence[Floats], held: Sequence[Floats]) -> float:
    """By how much the mean of what was learned from is above that of what was held out, or 0."""
    seen, unseen = np.concatenate(learned), np.concatenate(held)
    if not len(seen) or not len(unseen):
        return 0.0
    return max(float(seen.mean() - unseen.mean()), 0.0)
