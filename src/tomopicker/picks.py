"""Picks: take the particles of a tomogram from its scores (paper 3.4)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from math import ceil, hypot, prod
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from tomopicker.calibrate import Count, Judged, ScoreHistogram, judge, most_candidates
from tomopicker.contrasts import judge_contrasts
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

    from tomopicker.calibrate import Calibration
    from tomopicker.checkpoint import Checkpoint
    from tomopicker.config import Config
    from tomopicker.contrasts import Contrasts
    from tomopicker.features import Features
    from tomopicker.types import Floats, Shape, Tomogram

RATES = (0.05, 0.1, 0.2)
"""False-discovery rates at which the length of a list is told, to show how much hangs on it."""

_MORE_CANDIDATES = 50

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
class Shaped:
    """Peaks as a template ranks and moves them, the best first; where some met, the best stays."""

    centres: NDArray[np.float64]
    """(n, 3) ``z y x`` in voxels."""
    scores: Floats
    """(n,) by network and template."""
    plain: Floats
    """(n,) by the network alone."""
    contrasts: Floats
    """(n,) of the template; NaN where it was not compared."""


Fit: TypeAlias = "Callable[[NDArray[np.float64], Floats], Shaped]"
"""(n, 3) peaks ``z y x`` and their scores, best first, to what a template makes of them."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Where to end the list of peaks; nothing given means the automatic cut-off."""

    count: int | None = None
    threshold: float | None = None
    fdr: float | None = None

    @property
    def floor(self) -> float:
        """Score that every pick exceeds; -inf without a threshold."""
        return -np.inf if self.threshold is None else self.threshold


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
    by_contrasts: bool = False
    """Whether a template's contrasts told probabilities and number, and not the scores alone."""


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
    config, calibration = description.config, description.calibration
    if cut.fdr is not None and calibration is None:
        raise InputError(
            "this model was not calibrated, so a false-discovery rate cannot be estimated: give "
            "--count or --threshold, or train with --preset default"
        )
    length = cut.count
    if cut == Cut() and calibration is None:
        length = _expected(scores, checkpoint)
    smoothed = _Smoothed.of(scores, config, description.radius_voxels, overwrite=overwrite)
    del scores  # a caller may have kept none, and then they are free
    fit = None
    if calibration is not None and description.template_weight:
        features = features or plain_features_of(checkpoint, tomogram)
        fit = fit_of(checkpoint, features, device=device, progress=progress)
    if calibration is None:
        listed = _list_unjudged(smoothed, cut, length)
    elif fit is None:
        listed = _list_judged(smoothed, cut, calibration)
    else:
        listed = _list_by_shape(smoothed, cut, calibration, checkpoint, fit)
    judged, count = listed.judged, listed.count
    # Where the scores' voxels are larger, the last one may reach beyond the tomogram.
    centres = listed.centres * (scored_voxel_size(checkpoint, tomogram) / tomogram.voxel_size)
    table = Particles.from_voxels(
        np.minimum(centres, np.array(tomogram.shape) - 0.5),
        voxel_size=tomogram.voxel_size,
        scores=listed.scores,
        probabilities=None if judged is None else _chances(judged, len(centres)),
        tomograms=[tomogram.name] * len(centres),
    )
    return Picked(
        particles=table.select(np.arange(count)),
        candidates=table,
        threshold=float(listed.scores[count - 1]) if count else None,
        estimated=None if judged is None else judged.count,
        lengths={} if judged is None else {rate: judged.length_at(rate) for rate in RATES},
        histogram=None if judged is None else judged.histogram,
        by_contrasts=judged is not None and judged.by_contrasts,
    )


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
    smoothed = _Smoothed.of(scores, config, radius)
    del scores  # as `pick` does
    peaks = smoothed.peaks(count, floor=floor if fit is None else -np.inf)
    centres, found = smoothed.centres(peaks), peaks.scores
    if fit is not None:
        shaped = fit(centres, found)
        centres, found = shaped.centres, shaped.scores
    return centres[found > floor], found[found > floor]


def find_candidates(
    scores: NDArray[np.float32], config: Config, *, radius: float
) -> tuple[NDArray[np.float64], Floats]:
    """Find the peaks that a tomogram is judged by without a template, as `find_particles` does."""
    most = most_candidates(scores.size, config.peaks.spacing(radius))
    return find_particles(scores, config, radius=radius, count=most, floor=-np.inf)


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

    def fit(centres: NDArray[np.float64], scores: Floats) -> Shaped:
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
    shaped = _ranked_by_shape(checkpoint, centres, scores, near)
    some = _most_judged(checkpoint, shape)
    return shaped.centres[:some], shaped.scores[:some]


def most_compared(checkpoint: Checkpoint, shape: Shape) -> int:
    """Number of peaks of a tomogram that are compared with a template."""
    description = checkpoint.description
    spacing = description.config.peaks.spacing(description.radius_voxels)
    core = ball_voxels(description.config.labels.core_radius(description.radius_voxels))
    expected = description.priors.expected / core  # a voxel
    share = min(_TIMES_EXPECTED * expected * 2 * ball_voxels(spacing), _LARGEST_LOOKED_AT)
    return ceil(share * most_candidates(prod(shape), spacing))


@dataclass(frozen=True, kw_only=True)
class _Smoothed:
    """Scores as peaks are looked for in them: smoothed, if configured, and away from the faces."""

    scores: NDArray[np.float32]
    """``z y x``, a view of them."""
    margin: int
    """Voxels from a face in which no peak is taken."""
    shape: Shape
    """Of the whole volume."""
    config: Config
    radius: float
    """Of the particle, in voxels."""

    @classmethod
    def of(
        cls, scores: NDArray[np.float32], config: Config, radius: float, *, overwrite: bool = False
    ) -> _Smoothed:
        """Smooth a volume of scores: in a copy, unless they may be overwritten."""
        if config.peaks.smoothing:
            out = scores if overwrite else np.empty(scores.shape, dtype=np.float32)
            _smooth(scores, config.peaks.smoothing * radius, out)
            scores = out
        margin = _margin(config, radius)
        z, y, x = (slice(margin, max(length - margin, margin)) for length in scores.shape)
        return cls(
            scores=scores[z, y, x],
            margin=margin,
            shape=scores.shape,
            config=config,
            radius=radius,
        )

    @property
    def most_candidates(self) -> int:
        """Peaks that a tomogram is judged by without a template."""
        return most_candidates(prod(self.shape), self.config.peaks.spacing(self.radius))

    def peaks(self, count: int | None = None, *, floor: float = -np.inf) -> Peaks:
        """Look for peaks that score above the floor, so many at most, the best first.

        A search takes the whole volume, and a list is the beginning of every longer one.
        """
        spacing = self.config.peaks.spacing(self.radius)
        return find_peaks(self.scores, radius=spacing, count=count, threshold=floor)

    def centres(self, peaks: Peaks) -> NDArray[np.float64]:
        """(n, 3) ``z y x`` in voxels of the whole volume, between them if configured."""
        if self.config.peaks.subvoxel:
            return refine(self.scores, peaks, radius=max(self.radius / 4, 1.0)) + self.margin
        return peaks.voxels.astype(np.float64) + self.margin


@dataclass(frozen=True, kw_only=True)
class _Listed:
    """The picks, and the candidates that follow them, the best first."""

    centres: NDArray[np.float64]
    """(n, 3) ``z y x`` in voxels of the scores."""
    scores: Floats
    """(n,)."""
    count: int
    """How many are picks."""
    judged: Judged | None = None
    """What is known of the tomogram's peaks, if the model was calibrated."""


def _list_unjudged(smoothed: _Smoothed, cut: Cut, length: int | None) -> _Listed:
    """List the peaks that score above the threshold, at most so many, by scores alone."""
    if length is None:
        length = len(smoothed.peaks(floor=cut.floor))
    # What follows the list is found with it.
    peaks = smoothed.peaks(_with_candidates(length))
    count = _count(peaks.scores, cut, length)
    peaks = peaks.best(_with_candidates(count))
    return _Listed(centres=smoothed.centres(peaks), scores=peaks.scores, count=count)


def _list_judged(smoothed: _Smoothed, cut: Cut, calibration: Calibration) -> _Listed:
    """List the peaks by their scores, by which the tomogram is judged."""
    # The list is the start of the candidates, unless it is the longer of the two.
    most = smoothed.most_candidates
    peaks = smoothed.peaks(max(most, cut.count or 0))
    judged = judge(peaks.scores[:most], calibration)
    if cut.threshold is not None and len(peaks) and peaks.scores[-1] > cut.threshold:
        # There may be more above it.
        peaks = smoothed.peaks(floor=cut.threshold)
    count = _count(peaks.scores, cut, _length(cut, judged))
    if len(peaks) < _with_candidates(count):
        peaks = smoothed.peaks(_with_candidates(count))
    # The others, far more, need no centres.
    peaks = peaks.best(_with_candidates(count))
    centres = smoothed.centres(peaks)
    return _Listed(centres=centres, scores=peaks.scores, count=count, judged=judged)


def _list_by_shape(
    smoothed: _Smoothed, cut: Cut, calibration: Calibration, checkpoint: Checkpoint, fit: Fit
) -> _Listed:
    """List the peaks by what the checkpoint's template makes of them, too."""
    # It may drop those that it compares.
    length = (cut.count or 0) + most_compared(checkpoint, smoothed.shape)
    peaks = smoothed.peaks(max(smoothed.most_candidates, length))
    shaped = fit(smoothed.centres(peaks), peaks.scores)
    some = _most_judged(checkpoint, smoothed.shape)
    judged = _judge_by_shape(shaped, some, calibration, checkpoint.description.contrasts)
    count = _count(shaped.scores, cut, _length(cut, judged))
    listed = slice(_with_candidates(count))
    return _Listed(
        centres=shaped.centres[listed], scores=shaped.scores[listed], count=count, judged=judged
    )


def _judge_by_shape(
    shaped: Shaped, some: int, calibration: Calibration, learned: Contrasts | None
) -> Judged:
    """Judge the best peaks: by how they score, and then by contrasts of all that were compared."""
    judged = judge(shaped.scores[:some], calibration)
    if learned is None or not calibration.labelled_scores:
        return judged
    is_compared = np.isfinite(shaped.contrasts)
    shares = judge_contrasts(
        shaped.plain[is_compared],
        shaped.contrasts[is_compared],
        learned,
        expected=judged.count.estimate,
    )
    if shares is None:
        return judged
    # Those that were not compared are far down by their scores.
    chances = np.zeros(len(shaped.scores))
    chances[is_compared] = shares.chances
    return judged.with_contrasts(
        shaped.scores[:some],
        chances[:some],
        missed=calibration.missed,
        deviation=hypot(shares.deviation, calibration.missed_deviation),
    )


def _expected(scores: NDArray[np.float32], checkpoint: Checkpoint) -> int:
    """Particles that a tomogram of these scores holds, as far as training expected them."""
    description = checkpoint.description
    if description.config.expected is not None:
        return description.config.expected
    # Training was stopped before its end; what it expected is the best that is known.
    core = ball_voxels(description.config.labels.core_radius(description.radius_voxels))
    scored = sum(int(np.count_nonzero(plane > -np.inf)) for plane in scores)
    return round(description.priors.expected * scored / core)


def _length(cut: Cut, judged: Judged) -> int | None:
    """Picks at most, where a tomogram was judged; None where only a threshold ends the list."""
    if cut == Cut():
        return judged.best_length
    return cut.count if cut.fdr is None else judged.length_at(cut.fdr)


def _count(scores: Floats, cut: Cut, length: int | None) -> int:
    """How many of peaks are picks: those above the threshold, the first ones of them."""
    above = int(np.count_nonzero(scores > cut.floor))
    return above if length is None else min(length, above)


def _with_candidates(count: int) -> int:
    """Length of a list of so many picks with the candidates that follow them."""
    return 2 * count + _MORE_CANDIDATES


def _chances(judged: Judged, count: int) -> Floats:
    """(count,) probabilities of the best peaks; 0 below the last candidate."""
    chances = judged.chances[:count]
    return np.pad(chances, (0, count - len(chances)))


def _ranked_by_shape(
    checkpoint: Checkpoint, centres: NDArray[np.float64], scores: Floats, near: Compared
) -> Shaped:
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
    low = np.median(few) if len(few) else 0.0
    missing = len(scores) - len(near.contrasts)
    contrasts = np.pad(near.contrasts, (0, missing), constant_values=np.nan)
    plain = scores
    scores = plain + description.template_weight * np.nan_to_num(contrasts, nan=low)
    moved = centres + np.pad(near.moves, ((0, missing), (0, 0)))
    order = np.argsort(-scores, kind="stable")
    spacing = description.config.peaks.spacing(description.radius_voxels)
    order = order[are_apart(moved[order], before=centres[order], radius=_MET * spacing)]
    return Shaped(
        centres=moved[order],
        scores=scores[order],
        plain=plain[order],
        contrasts=contrasts[order],
    )


def _most_judged(checkpoint: Checkpoint, shape: Shape) -> int:
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
