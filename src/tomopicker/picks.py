"""Picks: take the particles of a tomogram from its scores (paper 3.4)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from math import ceil, prod
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from tomopicker.calibrate import Count, Judged, ScoreHistogram, judge, most_candidates
from tomopicker.errors import InputError
from tomopicker.inference import plain_features_of, scored_voxel_size
from tomopicker.labels import ball_voxels
from tomopicker.mask import keeps
from tomopicker.peaks import Peaks, are_apart, find_peaks, refine
from tomopicker.template import Compared, compare, computing_on
from tomopicker.types import Particles

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tomopicker.checkpoint import Checkpoint
    from tomopicker.config import Config
    from tomopicker.features import Features
    from tomopicker.types import Floats, Shape, Tomogram

RATES = (0.05, 0.1, 0.2)
"""False-discovery rates at which the length of a list is told, to show how much hangs on it."""

_MORE_CANDIDATES = 50

Fit: TypeAlias = "Callable[[NDArray[np.float64], Floats], tuple[NDArray[np.float64], Floats]]"
"""(n, 3) peaks ``z y x`` and their scores, best first, to those that a template makes of them."""

_TIMES_EXPECTED = 10
_LARGEST_LOOKED_AT = 0.5
"""Peaks that are compared with a template: so many times the particles that training expected, at
most half of the candidates. In proportion to the volume, so that a part is judged as all is."""

_JUDGED = 0.7
"""Of those, the best ones, by which a tomogram is judged. Contrasts scatter, so that some peaks
below the ones that are compared would score as the last of these do: there the list has gaps."""

_MET = 0.75
"""Of the exclusion: two peaks that a template moves to within it are one particle's. Peaks fill the
volume, and those of noise, which move at random, are often somewhat nearer than that to another."""

_SLAB = 32  # planes to smooth at a time
_BLUR_SIGMAS = 3.0


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Where to end the list of peaks; nothing given means the automatic cut-off."""

    count: int | None = None
    threshold: float | None = None
    fdr: float | None = None


@dataclass(frozen=True, kw_only=True)
class Picked:
    """The picks of one tomogram."""

    particles: Particles
    """Best first; scores are logits, with probabilities if the model was calibrated."""
    candidates: Particles
    """The particles, and the peaks that follow them: twice as many and 50, where there are."""
    threshold: float | None
    """Score of the last pick; None without picks."""
    estimated: Count | None
    """Number of particles in the tomogram, if the model was calibrated."""
    lengths: dict[float, int] = field(default_factory=dict)
    """Number of picks at each of `RATES`, if the model was calibrated."""
    histogram: ScoreHistogram | None = None
    """Of all the peaks that the probabilities come from, if the model was calibrated."""


def fit_of(
    checkpoint: Checkpoint,
    features: Features,
    *,
    device: str = "cpu",
    progress: Callable[[float], None] = lambda _: None,
) -> Fit | None:
    """What the checkpoint's template makes of peaks; None where it has no say.

    Other scores, other places, and fewer of them.

    Parameters
    ----------
    features
        Of the tomogram; its correlation is not looked at.
    """
    if checkpoint.template is None or not checkpoint.description.template_weight:
        return None

    def fit(centres: NDArray[np.float64], scores: Floats) -> tuple[NDArray[np.float64], Floats]:
        near = compare_peaks(checkpoint, features, centres, device=device, progress=progress)
        return _ranked_by_shape(checkpoint, centres, scores, near)

    return fit


def compare_peaks(
    checkpoint: Checkpoint,
    features: Features,
    centres: NDArray[np.float64],
    *,
    device: str = "cpu",
    progress: Callable[[float], None] = lambda _: None,
) -> Compared:
    """Compare the best m of (n, 3) peaks ``z y x`` with the checkpoint's template.

    Parameters
    ----------
    features
        Of the tomogram; its correlation is not looked at.
    centres
        The best first.
    """
    template, description = checkpoint.template, checkpoint.description
    assert template is not None
    # Of the candidates, however many peaks there are: a score must not hang on that.
    centres = centres[: most_compared(checkpoint, features.shape)]
    with computing_on(device):
        near = compare(
            features, centres, template, radius=description.radius_voxels, progress=progress
        )
    may_move = _may_be_picked(
        features, centres + near.moves, description.config, radius=description.radius_voxels
    )
    return replace(near, moves=np.where(may_move[:, None], near.moves, 0.0))


def _ranked_by_shape(
    checkpoint: Checkpoint, centres: NDArray[np.float64], scores: Floats, near: Compared
) -> tuple[NDArray[np.float64], Floats]:
    """Peaks with what the checkpoint's template tells of the best ones, the best first again.

    Each moves to where the template fits. Of those that have met there the best stays. Those far
    down the list are no particles, however they fit: they get what the last ones have that were
    looked at.

    Parameters
    ----------
    centres, scores
        (n, 3) ``z y x`` and (n,), the best first.
    near
        What `compare_peaks` found there.
    """
    description = checkpoint.description
    few = near.contrasts[-max(len(near.contrasts) // 5, 1) :]
    contrasts = np.full(len(scores), np.median(few) if len(few) else 0.0)
    contrasts[: len(near.contrasts)] = near.contrasts
    scores = scores + description.template_weight * contrasts
    moved = centres + np.pad(near.moves, ((0, len(scores) - len(near.moves)), (0, 0)))
    order = np.argsort(-scores, kind="stable")
    spacing = description.config.peaks.exclusion * description.radius_voxels
    order = order[are_apart(moved[order], before=centres[order], radius=_MET * spacing)]
    return moved[order], scores[order]


def find_particles(
    scores: NDArray[np.float32],
    config: Config,
    *,
    radius: float,
    count: int | None,
    floor: float,
    fit: Fit | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smooth the scores as configured, take the peaks and their centres.

    Parameters
    ----------
    scores
        Logits, ``z y x``.
    radius
        Particle radius in voxels.
    count, floor
        Peaks at most, and the score that they must exceed.
    fit
        Of a template, which ranks and moves the peaks, and may drop some.

    Returns
    -------
    tuple
        (n, 3) centres in voxels ``z y x`` and (n,) scores, best first.
    """
    scores, margin = _for_peaks(scores, config, radius)
    peaks = _peaks(scores, config, radius, count, floor if fit is None else -np.inf)
    centres = _centres(scores, peaks, config, radius) + margin
    found = peaks.scores
    if fit is not None:
        centres, found = fit(centres, found)
    return centres[found > floor], found[found > floor]


def pick(
    scores: NDArray[np.float32],
    tomogram: Tomogram,
    checkpoint: Checkpoint,
    cut: Cut,
    *,
    features: Features | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    progress: Callable[[float], None] = lambda _: None,
) -> Picked:
    """Take the particles of a scored tomogram, in its own voxels.

    The list ends after `cut.count` picks, above `cut.threshold`, or where the expected share of
    false picks passes `cut.fdr`. With nothing given it ends after the expected number of particles
    in preset ``paper`` (section 3.4), and where the expected F1 is best in ``default``. However it
    ends, a calibrated model tells each pick's probability and what other lists there could be.

    Parameters
    ----------
    scores
        Logits ``z y x`` of the tomogram's `features_of`, whose voxels need not be its own.
    features
        Of the tomogram, for a checkpoint with a template; made anew where they are not given.
    device
        Where peaks are compared with a template.
    overwrite
        Whether the scores may be smoothed where they are: they are then not copied.
    progress
        Hears the share done of comparing peaks with a template.

    Raises
    ------
    InputError
        When a false-discovery rate is asked of a checkpoint that was not calibrated, or as
        `scored_voxel_size` does.
    """
    description = checkpoint.description
    config = description.config
    calibration = description.calibration
    length, floor = cut.count, -np.inf if cut.threshold is None else cut.threshold
    automatic = cut == Cut()
    if automatic and calibration is None:
        length = config.expected
        if length is None:
            # Training was stopped before its end; what it expected is the best that is known.
            core = ball_voxels(config.labels.core_radius(description.radius_voxels))
            scored = sum(int(np.count_nonzero(plane > -np.inf)) for plane in scores)
            length = round(description.priors.expected * scored / core)
    if cut.fdr is not None and calibration is None:
        raise InputError(
            "this model was not calibrated, so a false-discovery rate cannot be estimated: give "
            "--count or --threshold, or train with --preset default"
        )
    radius = description.radius_voxels
    shape, most = scores.shape, most_candidates(scores.size, config.peaks.exclusion * radius)
    scores, margin = _for_peaks(scores, config, radius, overwrite=overwrite)
    judged = centres = None
    if calibration is None and length is not None:
        # With the candidates that follow the list, at once.
        peaks = _peaks(scores, config, radius, 2 * length + _MORE_CANDIDATES, -np.inf)
    elif calibration is None:
        peaks = _peaks(scores, config, radius, None, floor)
    else:
        # The list is the start of the candidates, unless it is the longer of the two. A template
        # may drop those that it compares.
        spare = most_compared(checkpoint, shape) if description.template_weight else 0
        peaks = _peaks(scores, config, radius, max(most, (length or 0) + spare), -np.inf)
        found, judged_by = peaks.scores, most
        if description.template_weight:
            features = features or plain_features_of(checkpoint, tomogram)
            fit = fit_of(checkpoint, features, device=device, progress=progress)
            if fit is not None:
                centres, found = fit(_centres(scores, peaks, config, radius) + margin, found)
                judged_by = _judged_by(checkpoint, shape)
        judged = judge(found[:judged_by], calibration)
        if automatic:
            length = judged.best_length
        elif cut.fdr is not None:
            length = judged.length_at(cut.fdr)
        if centres is None and cut.threshold is not None and len(found) and found[-1] > floor:
            peaks = _peaks(scores, config, radius, None, floor)
    if centres is None:
        found = peaks.scores
    above = int(np.count_nonzero(found > floor))
    count = above if length is None else min(length, above)
    # Peaks are taken best first, so a list is the beginning of every longer one.
    wanted = 2 * count + _MORE_CANDIDATES
    if centres is None:
        if len(peaks) < wanted:
            peaks = _peaks(scores, config, radius, wanted, -np.inf)
        peaks = peaks.best(wanted)
        centres, found = _centres(scores, peaks, config, radius) + margin, peaks.scores
    centres, found = centres[:wanted], found[:wanted]
    # Where the scores' voxels are larger, the last one may reach beyond the tomogram.
    centres = centres * (scored_voxel_size(checkpoint, tomogram) / tomogram.voxel_size)
    table = Particles.from_voxels(
        np.minimum(centres, np.array(tomogram.shape) - 0.5),
        voxel_size=tomogram.voxel_size,
        scores=found,
        probabilities=None if judged is None else _chances(judged, len(found)),
        tomograms=[tomogram.name] * len(found),
    )
    return Picked(
        particles=table.select(np.arange(count)),
        candidates=table,
        threshold=float(found[count - 1]) if count else None,
        estimated=None if judged is None else judged.count,
        lengths={} if judged is None else {rate: judged.length_at(rate) for rate in RATES},
        histogram=None if judged is None else judged.histogram,
    )


def find_candidates(
    scores: NDArray[np.float32], config: Config, *, radius: float
) -> tuple[NDArray[np.float64], Floats]:
    """Find the peaks that a tomogram is judged by without a template, as `find_particles` does."""
    most = most_candidates(scores.size, config.peaks.exclusion * radius)
    return find_particles(scores, config, radius=radius, count=most, floor=-np.inf)


def add_shape(
    checkpoint: Checkpoint,
    shape: Shape,
    centres: NDArray[np.float64],
    scores: Floats,
    near: Compared,
) -> tuple[NDArray[np.float64], Floats]:
    """Candidates that a tomogram of a shape is judged by with a template.

    Parameters
    ----------
    centres, scores
        Of `find_candidates`.
    near
        Of `compare_peaks` there.
    """
    centres, scores = _ranked_by_shape(checkpoint, centres, scores, near)
    some = _judged_by(checkpoint, shape)
    return centres[:some], scores[:some]


def most_compared(checkpoint: Checkpoint, shape: Shape) -> int:
    """Number of peaks of a tomogram that are compared with a template."""
    description = checkpoint.description
    spacing = description.config.peaks.exclusion * description.radius_voxels
    core = ball_voxels(description.config.labels.core_radius(description.radius_voxels))
    expected = description.priors.expected / core  # a voxel
    share = min(_TIMES_EXPECTED * expected * 2 * ball_voxels(spacing), _LARGEST_LOOKED_AT)
    return ceil(share * most_candidates(prod(shape), spacing))


def _judged_by(checkpoint: Checkpoint, shape: Shape) -> int:
    """Number of peaks that a tomogram is judged by where a template has its say."""
    return ceil(_JUDGED * most_compared(checkpoint, shape))


def _may_be_picked(
    features: Features, centres: NDArray[np.float64], config: Config, *, radius: float
) -> NDArray[np.bool_]:
    """Whether peaks are looked for at each of (n, 3) places: off the faces, mask and unknown."""
    margin = _margin(config, radius)
    shape = np.array(features.shape)
    found: NDArray[np.bool_] = np.all((centres >= margin) & (centres <= shape - margin - 1), axis=1)
    voxels = np.rint(centres[found]).astype(np.int64)
    known = np.isfinite(np.asarray(features.data[tuple(voxels.T)], dtype=np.float32))
    if features.mask is not None:
        known &= keeps(features.mask, features.shape, voxels)
    found[found] = known
    return found


def _chances(judged: Judged, count: int) -> Floats:
    """(count,) probabilities of the best peaks; 0 below the last candidate."""
    chances = judged.chances[:count]
    return np.pad(chances, (0, count - len(chances)))


def _peaks(
    scores: NDArray[np.float32], config: Config, radius: float, count: int | None, floor: float
) -> Peaks:
    """Peaks of smoothed scores."""
    return find_peaks(scores, radius=config.peaks.exclusion * radius, count=count, threshold=floor)


def _centres(
    scores: NDArray[np.float32], peaks: Peaks, config: Config, radius: float
) -> NDArray[np.float64]:
    """Centres (n, 3) ``z y x`` of the peaks of smoothed scores, between voxels if configured."""
    if config.peaks.subvoxel:
        return refine(scores, peaks, radius=max(radius / 4, 1.0))
    return peaks.voxels.astype(np.float64)


def _for_peaks(
    scores: NDArray[np.float32], config: Config, radius: float, *, overwrite: bool = False
) -> tuple[NDArray[np.float32], int]:
    """Smooth the scores, if configured; and view those away from the faces, with their corner."""
    settings = config.peaks
    if settings.smoothing:
        out = scores if overwrite else np.empty(scores.shape, dtype=np.float32)
        _smooth(scores, settings.smoothing * radius, out)
        scores = out
    margin = _margin(config, radius)
    z, y, x = (slice(margin, max(length - margin, margin)) for length in scores.shape)
    return scores[z, y, x], margin


def _margin(config: Config, radius: float) -> int:
    """Voxels from a face in which no peak is taken."""
    return ceil(config.peaks.margin * radius)


def _smooth(scores: NDArray[np.float32], sigma: float, out: NDArray[np.float32]) -> None:
    """Blur the scores into `out`, which may be the same; voxels of -inf stay so.

    To the others those count as the lowest score. Slab by slab and in threads, with the result of
    `gaussian_filter` on the whole.
    """
    lowest = min(float(plane.min(where=np.isfinite(plane), initial=0)) for plane in scores)
    reach = int(_BLUR_SIGMAS * sigma + 0.5)
    length, rows, _ = scores.shape
    threads = torch.get_num_threads()
    strips = [(rows * n // threads, rows * (n + 1) // threads) for n in range(threads)]
    before = scores[:0].copy()  # planes as they were, which `out` may have replaced
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, length, _SLAB):
            stop = min(start + _SLAB, length)
            block = np.concatenate([before, scores[start : stop + reach]], dtype=np.float32)
            at = slice(len(before), len(before) + stop - start)
            before = block[max(at.stop - reach, 0) : at.stop].copy()
            unknown = np.isneginf(block)
            block[unknown] = lowest

            def blur(strip: tuple[int, int], block: NDArray[np.float32] = block) -> Any:
                low = max(strip[0] - reach, 0)
                part = block[:, low : strip[1] + reach]
                blurred = gaussian_filter(part, sigma, mode="nearest", truncate=_BLUR_SIGMAS)
                return blurred[:, strip[0] - low : strip[1] - low]

            for (low, high), blurred in zip(strips, pool.map(blur, strips), strict=True):
                out[start:stop, low:high] = blurred[at]
            out[start:stop][unknown[at]] = -np.inf
