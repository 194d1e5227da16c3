"""Held out: after training, what labelled particles and all other peaks tell of the scores.

The average that has the particles' shape, some of which are peaks that the network found; how much
shape counts beside the scores; and how particles score that were held out, which ends the list.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias, TypeVar

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
)
from tomopicker.inference import network_of, score
from tomopicker.mixture import fit_mixture
from tomopicker.picks import add_shape, compare_peaks, find_candidates, most_compared
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
    from tomopicker.template import Compared
    from tomopicker.types import Floats

_SCORING, _ALIGNING = 0.1, 0.7
"""Of the time of calibrating with a template: the share of scoring, and that of aligning in the
rest."""

_LIKELY = 0.5
"""Chance above which an unlabelled peak is aligned, too."""

_SHARES_OF_HIDDEN = (0.5, 0.9, 0.9)
"""Of the particles that are expected among unlabelled peaks: the likelier part of them at most, for
each average that is made. By their scores alone many of the last ones are something else."""

_ENOUGH_TO_ALIGN = 150
"""Aligned particles, with the training ones, beyond which none is added."""

_PEAK_ERROR = 0.2
"""How far a peak is from its particle's centre: root mean square distance in particle radii."""

_Scalar = TypeVar("_Scalar", bound=np.generic)

_Peaks: TypeAlias = "tuple[Features, NDArray[np.float64], Floats]"
"""Candidates of a tomogram: (n, 3) centres ``z y x`` in voxels and (n,) scores, best first."""


@dataclass(frozen=True, kw_only=True)
class _Labels:
    """Which peaks of a tomogram stand for what is labelled there."""

    held: NDArray[np.bool_]
    trained: NDArray[np.bool_]
    """Learned from; none is a held-out one."""
    clicked: NDArray[np.bool_]
    """Those of them that were not accepted from a list."""
    rejected: NDArray[np.bool_]


def calibrate(
    task: Task,
    checkpoint: Checkpoint,
    *,
    device: str = "cpu",
    progress: Callable[[float], None] = lambda _: None,
) -> Checkpoint:
    """Add to a checkpoint what scores its labelled particles reach, by which picking is cut.

    With `inference.template_weight` an average is made of the training particles, if they are eight
    or more of a radius up to 12 voxels, and of unlabelled peaks that are likely particles, and
    added, too. How much its shape counts in the scores is what all peaks tell (`fit_mixture`). For
    this the tomograms of training are always scored.

    The particles of validation are scored in their tomogram, whole, and with them the training
    particles of that tomogram, whose scores are somewhat better than an unseen particle's: they are
    lowered by the difference of the means, and tell how far scores scatter. With fewer than ten
    particles of validation there is no mean to trust: training particles stay as they are.
    Those that were accepted from a list tell, with those rejected there, of the chance at their
    scores. A tomogram where nothing but such was labelled is left out.
    """
    # What an earlier calibration has left.
    checkpoint = replace(checkpoint, template=None)
    checkpoint = _described(checkpoint, aligned=0, template_weight=0.0, contrasts=None)
    network = network_of(checkpoint)
    config = task.config
    held_out = sum(len(part.centres) for part in task.validation) >= FEWEST_TO_CALIBRATE
    trained = sum(len(part.centres) for part in task.training)
    is_shaped = (
        config.inference.template_weight > 0
        and trained >= FEWEST_TO_ALIGN
        and task.radius <= LARGEST_RADIUS
    )
    parts = list(task.validation)
    if not held_out:
        parts += task.training
    calibrated = len(_clicked_in(parts))
    if is_shaped:
        parts += task.training  # Their tomograms come last, those that are new.
    volumes = _clicked_in(parts)
    end = _SCORING if is_shaped else 1.0
    share = end / max(len(volumes), 1)
    peaks: list[_Peaks] = []
    for number, features in enumerate(volumes):
        volume = score(
            features,
            network,
            config,
            device=device,
            progress=_part(progress, number * share, (number + 1) * share),
        )
        peaks.append((features, *find_candidates(volume, config, radius=task.radius)))
    if is_shaped:
        checkpoint, peaks = _with_shape(
            task,
            checkpoint,
            peaks,
            calibrated=calibrated,
            held_out=held_out,
            device=device,
            progress=_part(progress, end, 1.0),
        )
    peaks = peaks[:calibrated]
    if held_out:
        peaks = as_unseen(peaks, task)
    progress(1.0)
    return _described(checkpoint, calibration=_calibration(peaks, task, held_out=held_out))


def likely_particles(
    task: Task, peaks: Sequence[_Peaks], chances: Sequence[Floats], *, share: float
) -> list[NDArray[np.bool_]]:
    """Find the unlabelled peaks that are likely particles, in each tomogram.

    They make the average better than the training particles alone, of which there are few: it
    takes about a hundred to be sure of an average in the right shape. None is added where there are
    150 already. Only tomograms with training particles give any: those of a tomogram of validation
    are all left to calibrate by.

    Parameters
    ----------
    chances
        Of each tomogram, (n,) of its peaks.
    share
        Of the particles that are expected among the unlabelled peaks of tomograms with training
        particles, the most that are taken.
    """
    free, joins = [], []
    for (features, centres, _), chance in zip(peaks, chances, strict=True):
        trained = _parts_of(features, task.training)
        mine = [*trained, *_parts_of(features, task.validation)]
        known = [*(part.centres for part in mine), *(part.rejected for part in mine)]
        # A particle may have a second peak, which is not to be averaged where it is held out.
        is_apart = KDTree(np.concatenate(known)).query(centres)[0] > task.radius
        is_free = is_apart & any(len(part.centres) for part in trained)
        free.append(is_free)
        joins.append(is_free & (chance > _LIKELY))
    every, is_in = np.concatenate(chances), np.concatenate(joins)
    most = max(_ENOUGH_TO_ALIGN - sum(len(part.centres) for part in task.training), 0)
    most = min(most, round(share * float(every[np.concatenate(free)].sum())))
    rows = np.flatnonzero(is_in)
    is_in[rows[np.argsort(-every[rows], kind="stable")[most:]]] = False
    return _for_each(peaks, is_in)


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
    return [_best_first(*some) for some in _lowered(peaks, task)]


def _lowered(peaks: Sequence[_Peaks], task: Task) -> list[_Peaks]:
    """Peaks as unseen, in the order in which they were."""
    labels = [_labels_of(task, *some) for some in peaks]
    both = list(zip(peaks, labels, strict=True))
    seen = np.concatenate([scores[its.clicked] for (_, _, scores), its in both])
    unseen = np.concatenate([scores[its.held] for (_, _, scores), its in both])
    excess = max(float(seen.mean() - unseen.mean()), 0.0) if len(seen) and len(unseen) else 0.0
    return [
        (features, centres, scores - excess * its.trained)
        for (features, centres, scores), its in both
    ]


def _best_first(features: Features, centres: NDArray[np.float64], scores: Floats) -> _Peaks:
    order = np.argsort(-scores, kind="stable")
    return features, centres[order], scores[order]


def _chances_by_score(
    task: Task, peaks: Sequence[_Peaks], *, calibrated: int, held_out: bool
) -> list[Floats]:
    """(n,) chance that each peak is a particle, as far as the network can tell."""
    known = peaks[:calibrated]
    if held_out:
        known = _lowered(known, task)
    peaks = [*known, *peaks[calibrated:]]
    calibration = _calibration([_best_first(*some) for some in known], task, held_out=held_out)
    every = []
    for _, _, scores in peaks:
        order = np.argsort(-scores, kind="stable")
        chances = np.empty(len(scores))
        chances[order] = judge(scores[order], calibration).chances
        every.append(chances)
    return every


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


def _with_shape(
    task: Task,
    checkpoint: Checkpoint,
    peaks: Sequence[_Peaks],
    *,
    calibrated: int,
    held_out: bool,
    device: str,
    progress: Callable[[float], None],
) -> tuple[Checkpoint, list[_Peaks]]:
    """Add the average of the training particles and of likely ones, and its contrast to the peaks.

    The first average has what is likely by the scores alone, the others what is by shape, too; each
    goes on from the one before, and likely ones from where they fitted it. The gain of being in the
    average is learned with the first, as the particles of the others were chosen by how they fit,
    and falls as one over their number. One whose contrasts tell too little is still followed by one
    of more particles, likely by their scores. What was rejected is known, and has no say. The first
    `calibrated` tomograms tell the chances by score.
    """
    every = peaks
    by_score = _chances_by_score(task, peaks, calibrated=calibrated, held_out=held_out)
    # Only the best are compared.
    most = [most_compared(checkpoint, features.shape) for features, _, _ in peaks]
    peaks = [(own, at[:n], scores[:n]) for (own, at, scores), n in zip(peaks, most, strict=True)]
    chances = [some[:n] for some, n in zip(by_score, most, strict=True)]
    labels = [_labels_of(task, *some) for some in peaks]
    trained, held, rejected = (
        np.concatenate(some)
        for some in zip(*((its.trained, its.held, its.rejected) for its in labels), strict=True)
    )
    scores = np.concatenate([some for _, _, some in peaks])
    tomograms = np.repeat(np.arange(len(peaks)), [len(some) for _, _, some in peaks])
    told = ~rejected
    first_chances, is_labelled = np.concatenate(chances)[told], (trained | held)[told]
    rng = np.random.default_rng([task.config.training.seed, 3])
    gain: float | None = None  # of one that were alone in the average
    is_aligned = np.zeros(len(scores), dtype=bool)
    moved = list(peaks)
    for number, share in enumerate(_SHARES_OF_HIDDEN):
        start, end = np.array([number, number + 1]) / len(_SHARES_OF_HIDDEN)
        middle = start + _ALIGNING * (end - start)
        joined = likely_particles(task, moved, chances, share=share)
        before, is_aligned = is_aligned, trained | np.concatenate(joined)
        if number and (is_aligned == before).all():
            break  # Nobody new is aligned: the average stays as it is.
        checkpoint = _with_template(
            task,
            checkpoint,
            [
                *clicked_places(
                    task,
                    [
                        (features, centres[its.trained])
                        for (features, centres, _), its in zip(moved, labels, strict=True)
                    ],
                ),
                *(
                    (features, centres[is_in])
                    for (features, centres, _), is_in in zip(moved, joined, strict=True)
                ),
            ],
            rng=rng,
            device=device,
            progress=_part(progress, start, middle),
        )
        near = _compared(checkpoint, peaks, device=device, progress=_part(progress, middle, end))
        contrasts = np.concatenate([some.contrasts for some in near])
        moved = [
            (features, centres + some.moves, own)
            for (features, centres, own), some in zip(peaks, near, strict=True)
        ]
        mixture = fit_mixture(
            scores[told],
            contrasts[told],
            first_chances,
            is_labelled=is_labelled,
            is_trained=trained[told],
            is_aligned=is_aligned[told],
            tomograms=tomograms[told],
            most=task.config.inference.template_weight,
            known_gain=None if gain is None else gain / checkpoint.description.aligned,
        )
        if mixture.weight:
            gain = mixture.gain * checkpoint.description.aligned
            now = np.zeros(len(scores))
            now[told] = mixture.chances
            chances = _for_each(peaks, now)
    if not mixture.weight:
        return checkpoint, list(every)
    checkpoint = _described(checkpoint, template_weight=mixture.weight, contrasts=mixture.learned)
    excess = _for_each(peaks, mixture.gain * is_aligned)
    return checkpoint, [
        (
            features,
            *add_shape(
                checkpoint,
                features.shape,
                centres,
                scores,
                replace(some, contrasts=some.contrasts - more),
            ),
        )
        for (features, centres, scores), some, more in zip(every, near, excess, strict=True)
    ]


def _with_template(
    task: Task,
    checkpoint: Checkpoint,
    places: Sequence[tuple[Features, NDArray[np.float64]]],
    *,
    rng: np.random.Generator,
    device: str,
    progress: Callable[[float], None],
) -> Checkpoint:
    """Add the average of what is at these places, (n, 3) each; from the one that is there."""
    # A tomogram's together, as its templates take most of the time.
    aligned = [(part.features, _places_in(part.features, places)) for part in task.training]
    with computing_on(device):
        template = learn_template(
            aligned,
            radius=task.radius,
            start=checkpoint.template,
            rng=rng,
            progress=progress,
        )
    number = sum(len(centres) for _, centres in aligned)
    return replace(_described(checkpoint, aligned=number), template=template)


def clicked_places(
    task: Task, peaks: Sequence[tuple[Features, NDArray[np.float64]]]
) -> list[tuple[Features, Floats]]:
    """Put the training particles nearer to their centres, beside which a person clicks.

    How far peaks are from the centres is known, how far clicks are is not, but the mean square of
    the distances between them is the sum of both variances. So a click moves to the mean of itself
    and its peak, each weighed by one over its variance. Accepted particles, which were peaks of
    another network, are taken apart from clicked ones. One without a peak stays where it is.

    Parameters
    ----------
    peaks
        Of each tomogram with its features: (m, 3) ``z y x`` in voxels of those that stand for
        training particles.

    Returns
    -------
    list
        Of each training part its features and (n, 3) places.
    """
    every = [part.centres for part in task.training]
    is_shown = np.concatenate([part.is_shown for part in task.training])
    places = np.concatenate(every)
    moves = np.concatenate([_to_peaks(part, peaks, task.radius) for part in task.training])
    squares = (moves**2).sum(axis=1)
    for group in (is_shown, ~is_shown):
        rows = group & np.isfinite(squares)
        if squares[rows].any():
            peak_share = (_PEAK_ERROR * task.radius) ** 2 / squares[rows].mean()
            places[rows] += max(1 - peak_share, 0.0) * moves[rows]
    parts = np.split(places, np.cumsum([len(centres) for centres in every])[:-1])
    return [(part.features, some) for part, some in zip(task.training, parts, strict=True)]


def _to_peaks(
    part: Labelled, peaks: Sequence[tuple[Features, NDArray[np.float64]]], radius: float
) -> Floats:
    """(n, 3) from each particle to the nearest peak of its tomogram; NaN where none is near."""
    mine = _places_in(part.features, peaks)
    apart, rows = KDTree(mine).query(part.centres)
    is_near = apart <= MATCH_RADII * radius
    moves = np.full(part.centres.shape, np.nan)
    moves[is_near] = mine[rows[is_near]] - part.centres[is_near]
    return moves


def _places_in(
    features: Features, places: Sequence[tuple[Features, NDArray[np.float64]]]
) -> NDArray[np.float64]:
    """(n, 3) of all places that are in one tomogram."""
    return np.concatenate([*(some for own, some in places if own is features), np.empty((0, 3))])


def _compared(
    checkpoint: Checkpoint,
    peaks: Sequence[_Peaks],
    *,
    device: str,
    progress: Callable[[float], None],
) -> list[Compared]:
    """The peaks of each tomogram with the checkpoint's template."""
    return [
        compare_peaks(
            checkpoint,
            features,
            centres,
            device=device,
            progress=_part(progress, number / len(peaks), (number + 1) / len(peaks)),
        )
        for number, (features, centres, _) in enumerate(peaks)
    ]


def _labels_of(
    task: Task, features: Features, centres: NDArray[np.float64], scores: Floats
) -> _Labels:
    """Peaks that stand for what is labelled in their tomogram, the best one for each place."""
    trained = _parts_of(features, task.training)
    tree = KDTree(centres)

    def at(places: Sequence[Floats]) -> NDArray[np.bool_]:
        every = np.concatenate([*places, np.empty((0, 3))])
        is_one = np.zeros(len(scores), dtype=bool)
        is_one[matched_rows(tree, scores, every, tolerance=MATCH_RADII * task.radius)] = True
        return is_one

    held = at([part.centres for part in _parts_of(features, task.validation)])
    is_trained = at([part.centres for part in trained]) & ~held
    return _Labels(
        held=held,
        trained=is_trained,
        clicked=at([part.centres[~part.is_shown] for part in trained]) & ~held,
        rejected=at([part.rejected for part in trained]) & ~held & ~is_trained,
    )


def _described(checkpoint: Checkpoint, **values: object) -> Checkpoint:
    """A checkpoint with some values of its description changed."""
    return replace(checkpoint, description=checkpoint.description.model_copy(update=values))


def _part(progress: Callable[[float], None], start: float, end: float) -> Callable[[float], None]:
    """Hear of a part of the work as of the share of all that it is."""
    return lambda done: progress(start + (end - start) * done)


def _for_each(peaks: Sequence[_Peaks], values: NDArray[_Scalar]) -> list[NDArray[_Scalar]]:
    """Values of all peaks, in the order of their tomograms, of each tomogram."""
    return np.split(values, np.cumsum([len(scores) for _, _, scores in peaks])[:-1])


def _clicked_in(parts: Sequence[Labelled]) -> list[Features]:
    """Tomograms where some particle was clicked, each once.

    Units of z differ between tomograms: one where nobody clicked tells of no particle's scores. Not
    by name: two sessions may both have a TS_01.
    """
    clicked = {id(part.features): part.features for part in parts if not part.is_shown.all()}
    return list(clicked.values())


def _parts_of(features: Features, parts: Sequence[Labelled]) -> list[Labelled]:
    """Parts of a task that are in one tomogram; not by name, as two may have the same."""
    return [part for part in parts if part.features is features]
