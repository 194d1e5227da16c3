"""Held out: what the particles that training never saw tell of a trained network's scores.

How much shape is worth beside them, and how particles score, by which a list is ended. The
average that has the shape is made here, too, for which particles serve that the network has found.
"""

from __future__ import annotations

from dataclasses import replace
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
    from tomopicker.task import Task
    from tomopicker.types import Floats

_SCORING, _ALIGNING = 0.15, 0.7
"""Shares of the time of calibrating with a template that scoring and aligning take, about."""

_LIKELY = 0.9
"""Chance above which a peak is aligned, too; of those that have it four in five are particles."""

_ENOUGH_TO_ALIGN = 150
"""Particles up to which such peaks are added."""


_Peaks: TypeAlias = "tuple[Features, NDArray[np.float64], Floats]"
"""Candidates of a tomogram: (n, 3) centres ``z y x`` in voxels and (n,) scores, best first."""


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
        likely, hidden = likely_particles(task, peaks)
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
            hidden=hidden,
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


def likely_particles(
    task: Task, peaks: Sequence[_Peaks]
) -> tuple[list[tuple[Features, NDArray[np.float64]]], float]:
    """Unlabelled peaks that are likely particles, as far as the network can tell.

    They make the average better than the labelled particles alone, of which there are few: it
    takes about a hundred to be sure of an average in the right shape. Only where others were
    learned from is it known what a particle gains by being in the average.

    Returns
    -------
    tuple
        The likeliest places of all tomograms, so many that with the training particles there are
        at most 150; and the number of particles that is expected among all unlabelled peaks.
    """
    tolerance = MATCH_RADII * task.radius
    peaks = as_unseen(peaks, task)
    calibration = _calibration(peaks, task, held_out=True)
    places, chances, may_join = [], [], []
    for features, centres, scores in peaks:
        trained = [part for part in task.training if part.features is features]
        mine = [*trained, *(part for part in task.validation if part.features is features)]
        known = [*(part.centres for part in mine), *(part.rejected for part in mine)]
        is_far = KDTree(np.concatenate(known)).query(centres)[0] > tolerance
        places.append((features, centres[is_far]))
        chances.append(judge(scores, calibration).chances[is_far])
        may_join.append(np.full(len(chances[-1]), bool(trained)))
    every = np.concatenate(chances)
    joins = np.concatenate(may_join) & (every > _LIKELY)
    most = max(_ENOUGH_TO_ALIGN - sum(len(part.centres) for part in task.training), 0)
    rows = np.flatnonzero(joins)
    joins[rows[np.argsort(-every[rows], kind="stable")[most:]]] = False
    starts = np.cumsum([len(some) for some in chances])[:-1]
    likely = [
        (features, centres[some])
        for (features, centres), some in zip(places, np.split(joins, starts), strict=True)
    ]
    return likely, float(every.sum())


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
    tolerance = MATCH_RADII * task.radius
    seen, clicked, unseen = [], [], []
    for features, centres, scores in peaks:
        trained = [part for part in task.training if part.features is features]
        fair, mine, only_clicked = (
            _rows_at(places, centres, scores, tolerance)
            for places in (
                [part.centres for part in task.validation if part.features is features],
                [part.centres for part in trained],
                [part.centres[~part.is_shown] for part in trained],
            )
        )
        seen.append(sorted(mine - fair))
        clicked += scores[sorted(only_clicked - fair)].tolist()
        unseen += scores[sorted(fair)].tolist()
    if not clicked or not unseen:
        return list(peaks)
    excess = max(float(np.mean(clicked) - np.mean(unseen)), 0.0)
    lowered = []
    for (features, centres, scores), rows in zip(peaks, seen, strict=True):
        scores = scores.copy()
        scores[rows] -= excess
        order = np.argsort(-scores, kind="stable")
        lowered.append((features, centres[order], scores[order]))
    return lowered


def _calibration(peaks: Sequence[_Peaks], task: Task, *, held_out: bool) -> Calibration:
    """What the labelled particles among the peaks tell of how particles score."""
    judged: list[tuple[Floats, LabelledScores]] = []
    known = 0
    for features, centres, scores in peaks:
        mine = [part for part in (*task.training, *task.validation) if part.features is features]
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
    likely: Sequence[tuple[Features, NDArray[np.float64]]],
    progress: Callable[[float], None],
) -> Checkpoint:
    """Add the average of the training particles, and of likely ones."""
    aligned = [*((part.features, part.centres) for part in task.training), *likely]
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
    likely: Sequence[tuple[Features, NDArray[np.float64]]],
    *,
    hidden: float,
    device: str,
    progress: Callable[[float], None],
) -> tuple[Checkpoint, list[_Peaks]]:
    """Find how much the template's contrast counts in the scores, and add it to them.

    Held-out particles are told from the other candidates, but not from the training particles, nor
    from what was rejected, which are known. What the aligned ones fit better than held-out ones,
    since the average has their noise, is taken off them.

    `hidden` is the number of particles expected among the unlabelled candidates.
    """
    tolerance = MATCH_RADII * task.radius
    shapes, joined, seen, unseen, told, is_held = [], [], [], [], [], []
    for number, (features, centres, scores) in enumerate(peaks):
        near = contrasts_of(
            checkpoint,
            features,
            centres,
            device=device,
            progress=lambda done, n=number: progress((n + done) / len(peaks)),  # type: ignore[misc]
        )
        mine = [part for part in task.training if part.features is features]
        held, clicked, found, rejected = (
            _rows_at(places, centres[: len(near)], scores[: len(near)], tolerance)
            for places in (
                [part.centres for part in task.validation if part.features is features],
                [part.centres for part in mine],
                [places for its, places in likely if its is features],
                [part.rejected for part in mine],
            )
        )
        shapes.append(near)
        joined.append(sorted((clicked | found) - held))
        seen += near[sorted(clicked - held)].tolist()
        unseen += near[sorted(held)].tolist()
        told.append(np.setdiff1d(np.arange(len(near)), sorted((clicked | rejected) - held)))
        is_held.append(np.isin(told[-1], sorted(held)))
    gain = max(float(np.mean(seen) - np.mean(unseen)), 0.0) if seen and unseen else 0.0
    for near, rows in zip(shapes, joined, strict=True):
        near[rows] -= gain
    total = sum(len(part.centres) for part in task.validation)
    weight = shape_weight(
        np.concatenate([peaks[n][2][rows] for n, rows in enumerate(told)]),
        np.concatenate([shapes[n][rows] for n, rows in enumerate(told)]),
        np.concatenate(is_held),
        labelled_share=total / (total + hidden),
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


def _rows_at(
    places: Sequence[Floats], centres: NDArray[np.float64], scores: Floats, tolerance: float
) -> set[int]:
    """Rows of the peaks that stand for places, each (n, 3); none of no places."""
    every = np.concatenate([*places, np.empty((0, 3))])
    return set(matched_rows(centres, scores, every, tolerance=tolerance))
