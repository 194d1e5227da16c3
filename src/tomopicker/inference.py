"""Inference: score a whole tomogram and take its peaks (paper 3.4)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import compress, product
from math import ceil, prod
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from tomopicker.augment import FLIPS
from tomopicker.calibrate import Count, Judged, ScoreHistogram, judge, most_candidates
from tomopicker.checkpoint import check_weights
from tomopicker.errors import InputError, is_out_of_memory
from tomopicker.features import Features, compute_features
from tomopicker.labels import ball_voxels
from tomopicker.mask import keeps, kept_box, within
from tomopicker.matched_filter import RadialFilter
from tomopicker.memory import automatic_bytes, streamed_bytes
from tomopicker.network import build, folded, receptive_radius, stream
from tomopicker.peaks import Peaks, are_apart, find_peaks, refine
from tomopicker.prefetch import one_ahead
from tomopicker.preprocess import Normalisation, finite
from tomopicker.rescale import rescale, rescaled_voxel_size
from tomopicker.template import Compared, compare, computing_on
from tomopicker.types import Particles, Shape, Window
from tomopicker.windows import around, grid, inside, shifted, tile_of, tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from tomopicker.checkpoint import Checkpoint
    from tomopicker.config import Config
    from tomopicker.types import Floats, Tomogram
    from tomopicker.windows import Tile

RATES = (0.05, 0.1, 0.2)
"""False-discovery rates at which the length of a list is told, to show how much hangs on it."""

_MORE_CANDIDATES = 50

_Part: TypeAlias = "tuple[Window, NDArray[np.float32] | None, float]"
"""A window of the volume, its logits, and the share of the work done; None where a mask keeps
nothing, so that nothing was computed."""

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

_TOO_MUCH = 2.0  # times its own voxels that a tomogram's tiles read, halos and all
_SLAB = 32  # planes to smooth at a time
_BLUR_SIGMAS = 3.0

_VOXEL_SIZE_TOLERANCE = 0.02
"""A particle 2 % larger or smaller is still the same particle to the network."""


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


def score_tiles(
    features: Features, network: nn.Module, config: Config, *, device: str = "cpu"
) -> Iterator[tuple[Window, NDArray[np.float32], float]]:
    """Score a tomogram part by part.

    With `inference.method` "whole" the parts are tiles with a halo as wide as the network sees, so
    the scores do not depend on the tiles. With "windows" they are the non-overlapping windows of
    the paper, padded with the mean at the far faces. With `inference.filter_weight` the filter's
    correlation is added to the logits. Voxels without a finite value, and those that a mask leaves
    out, score -inf.

    Yields
    ------
    tuple
        The window of the volume, its scores ``z y x`` (float32), and the share of the work done.
    """
    if config.inference.method == "windows":
        parts = _score_windows(features, network, config, device)
    else:
        parts = _score_whole(features, network, config, device)
    weight = np.float32(config.inference.filter_weight)
    for window, logits, done in parts:
        at = inside(window, features.shape)
        z, y, x = at.shape
        if not (z and y and x):
            continue
        if logits is None:
            yield at, np.broadcast_to(np.float32(-np.inf), at.shape), done
        else:
            known = finite(np.asarray(features.data[at.slices]))
            scores = logits[:z, :y, :x]
            if weight and features.correlation is not None:
                scores = scores + weight * features.correlation[at.slices]
            if features.mask is not None:
                scores = np.where(within(features.mask, features.shape, at), scores, -np.inf)
            yield at, scores if known is None else np.where(known, scores, -np.inf), done


def score(
    features: Features,
    network: nn.Module,
    config: Config,
    *,
    device: str = "cpu",
    progress: Callable[[float], None] = lambda _: None,
) -> NDArray[np.float32]:
    """Score a whole tomogram: ``z y x``, float32. `progress` hears the share done."""
    z, y, x = features.shape
    # Tiles are done along y. With that axis first in memory, the scores take no more of it than
    # are done, while the correlation is let go.
    scores = np.empty((y, z, x), dtype=np.float32).transpose(1, 0, 2)
    for window, logits, done in score_tiles(features, network, config, device=device):
        scores[window.slices] = logits
        progress(done)
    return scores


def network_of(checkpoint: Checkpoint) -> nn.Module:
    """Build a checkpoint's network with its weights, in evaluation mode."""
    settings = checkpoint.description.config.network
    # On no memory first: a damaged description may ask for a network of terabytes.
    with torch.device("meta"):
        check_weights(build(settings), checkpoint.weights)
    network = build(settings)
    checkpoint.load_into(network)
    return network.eval()


def scored_voxel_size(checkpoint: Checkpoint, tomogram: Tomogram) -> float:
    """Edge in ångström of the voxels that a tomogram is scored at.

    A checkpoint trained with `preprocessing.working_radius` has every tomogram brought to its own
    voxel size; one trained without takes only tomograms that have it, within 2 %.

    Raises
    ------
    InputError
        When the tomogram's voxel size is too far from the training tomograms'.
    """
    description = checkpoint.description
    if description.config.preprocessing.working_radius is not None:
        return rescaled_voxel_size(tomogram, description.voxel_size)
    if abs(tomogram.voxel_size / description.voxel_size - 1) > _VOXEL_SIZE_TOLERANCE:
        raise InputError(
            f"{tomogram.path or tomogram.name}: voxel size {tomogram.voxel_size:g} Å, but this "
            f"model was trained at {description.voxel_size:g} Å: rescale the tomogram, or train "
            "on one of this size"
        )
    return tomogram.voxel_size


def features_of(checkpoint: Checkpoint, tomogram: Tomogram) -> Features:
    """Compute a tomogram's channels as the checkpoint was trained, of `scored_voxel_size` voxels.

    Raises
    ------
    InputError
        As `scored_voxel_size` does, or when the volume cannot be standardised.
    """
    radial = None
    if checkpoint.description.filter_profile is not None:
        radial = RadialFilter(profile=np.array(checkpoint.description.filter_profile))
    return _features(checkpoint, tomogram, radial)


def _features(checkpoint: Checkpoint, tomogram: Tomogram, radial: RadialFilter | None) -> Features:
    description = checkpoint.description
    if scored_voxel_size(checkpoint, tomogram) != tomogram.voxel_size:
        tomogram = rescale(tomogram, description.voxel_size)
    tomogram = tomogram.loaded()
    normalisation = Normalisation.of(
        tomogram.data,
        clip_sigma=description.config.preprocessing.clip_sigma,
        source=str(tomogram.path or tomogram.name),
    )
    return compute_features(tomogram, normalisation, radial)


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
            features = features or _features(checkpoint, tomogram, None)
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


def _score_windows(
    features: Features, network: nn.Module, config: Config, device: str
) -> Iterator[_Part]:
    side, batch = config.sampling.side, config.training.batch
    windows = grid(features.shape, side=side, stride=side)
    network = folded(network).to(device)
    left_out = [_kept(features, window) is None for window in windows]
    kept = [window for window, out in zip(windows, left_out, strict=True) if not out]
    starts = range(0, len(kept), batch)
    volumes = (
        np.stack([features.read(window) for window in kept[start : start + batch]])
        for start in starts
    )
    with closing(one_ahead(volumes)) as blocks:
        for start, block in zip(starts, blocks, strict=True):
            some = kept[start : start + batch]
            logits = _forward(
                network, torch.from_numpy(block).to(device), flips=config.inference.flips
            )
            done = min(start + batch, len(kept)) / len(kept)
            for window, scores in zip(some, logits.cpu().numpy(), strict=True):
                yield window, scores, done
    for window in compress(windows, left_out):
        yield window, None, 1.0


@torch.inference_mode()
def _forward(network: nn.Module, volumes: Tensor, *, flips: bool) -> Tensor:
    """(b, c, z, y, x) -> (b, z, y, x) logits, averaged over the eight flips if asked."""
    if not flips:
        logits: Tensor = network(volumes)
        return logits
    total = torch.zeros_like(volumes[:, 0])
    for axes in FLIPS:
        total += torch.flip(network(torch.flip(volumes, axes)), axes)
    return total / len(FLIPS)


def _score_whole(
    features: Features, network: nn.Module, config: Config, device: str
) -> Iterator[_Part]:
    stride = config.network.stride
    z, y, x = (-(-length // stride) * stride for length in features.shape)
    shape: Shape = (z, y, x)
    whole = Window(corner=(0, 0, 0), shape=shape)
    box = _kept(features, whole, multiple=stride)
    if box is None:
        yield whole, None, 1.0
        return
    for window in around(whole, box):
        yield window, None, 0.0
    halo = receptive_radius(config.network)
    trained, dtype = network, _precision(device)
    network = folded(trained, dtype=dtype)
    side = config.inference.tile
    if side is None:
        sides = _sides(box, shape, config, dtype, halo=halo, device=device)
    else:
        sides = (box.shape[0], side, side)
    waiting = [
        tile_of(shifted(tile.core, box.corner), shape, halo=halo)
        for tile in tiles(box.shape, side=sides, halo=0, multiple=stride)
    ]
    network.to(device)
    done, least = 0.0, 0.0
    while waiting:
        tile = waiting.pop(0)
        kept = _kept(features, tile.core, multiple=stride)
        for window in [tile.core] if kept is None else around(tile.core, kept):
            done += window.size / box.size
            yield window, None, least
        if kept is None:
            continue
        tile, share = tile_of(kept, shape, halo=halo), kept.size / box.size
        failed = overflowed = False
        try:
            for window, logits in _score_tile(features, network, tile, config, device):
                if dtype == torch.float16 and not np.isfinite(logits).all():
                    overflowed = True
                    break
                # Beyond the volume there are planes of padding.
                planes = min(kept.shape[0], features.shape[0] - kept.corner[0])
                part = (window.corner[0] + window.shape[0] - kept.corner[0]) / planes
                least = max(least, min(done + min(part, 1.0) * share, 1.0))
                yield window, logits, least
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            failed = True
        # Out of the handler, whose traceback still holds the tile's tensors.
        if failed:
            if device.startswith("cuda"):
                torch.cuda.empty_cache()
            waiting[:0] = _halves(tile, shape, halo=halo, multiple=stride, device=device)
        elif overflowed:
            # Few networks have activations above 65,504. Without a score no particle is found.
            dtype = torch.float32
            network = folded(trained, dtype=dtype).to(device)
            waiting.insert(0, tile)
        else:
            done += share
            features.let_go(before=min((tile.read.corner[1] for tile in waiting), default=shape[1]))


def _kept(features: Features, window: Window, *, multiple: int = 1) -> Window | None:
    """The part of a window that has to be scored; None where a mask keeps nothing of it.

    Its corners are multiples of `multiple`, as the window's are.
    """
    if features.mask is None:
        return window
    box = kept_box(features.mask, features.shape, inside(window, features.shape))
    if box is None:
        return None
    (z, y, x), (depth, high, wide) = (
        [start // multiple * multiple for start in box.corner],
        [
            -(-(start + size) // multiple) * multiple - start // multiple * multiple
            for start, size in zip(box.corner, box.shape, strict=True)
        ],
    )
    return Window(corner=(z, y, x), shape=(depth, high, wide))


def _sides(
    box: Window, shape: Shape, config: Config, dtype: torch.dtype, *, halo: int, device: str
) -> Shape:
    """Sides of the tiles of a box that read least and fit the memory; along z all of it is one.

    Memory that nobody spoke of is what is enough; where tiles that fit it read too much, they are
    the smallest that do not.
    """
    stride = config.network.stride
    each = streamed_bytes(config.network, dtype)
    if config.inference.flips:
        each += 4 * box.shape[0]  # their sum
    memory = config.inference.memory
    enough, most = automatic_bytes(device) if memory is None else 2 * (memory * 1e9,)
    z, y, x = box.shape
    # A box has a halo of its own on faces that are not the volume's.
    beside_y, beside_x = (
        min(start, halo) + min(length - start - size, halo)
        for start, size, length in zip(box.corner[1:], box.shape[1:], shape[1:], strict=True)
    )
    ways: list[tuple[int, int, Shape]] = []  # voxels that the largest tile reads, and that all do
    # Of equal ones the most rows, with each of which some of the correlation can be let go.
    for columns, rows in product(range(1, x // stride + 1), range(1, y // stride + 1)):
        high, wide = -(-y // rows), -(-x // columns)
        # Tiles in the middle have a halo on both sides, those of one or two none or one.
        around_y = min(halo * (rows - 1) + beside_y, 2 * halo)
        around_x = min(halo * (columns - 1) + beside_x, 2 * halo)
        area = min(high + around_y, y + beside_y) * min(wide + around_x, x + beside_x)
        read = (y + 2 * halo * (rows - 1) + beside_y) * (x + 2 * halo * (columns - 1) + beside_x)
        ways.append((area, read, (z, high, wide)))
    least = min(way[0] for way in ways)
    fitting = [way for way in ways if way[0] <= max(most / each, least)]
    small = [way for way in fitting if way[0] * each <= enough]
    best = min(small, key=lambda way: way[1], default=None)
    if best is None or best[1] > _TOO_MUCH * y * x:
        best = min(fitting, key=lambda way: (max(way[1], _TOO_MUCH * y * x), way[0]))
    return best[2]


def _halves(tile: Tile, shape: Shape, *, halo: int, multiple: int, device: str) -> list[Tile]:
    """Split a tile that did not fit the memory across its longer side."""
    axis = 1 if tile.core.shape[1] >= tile.core.shape[2] else 2
    length = tile.core.shape[axis]
    if length <= multiple:
        _, y, x = tile.read.shape
        raise InputError(
            f"the memory of {device} is too small to score even a column of {y} x {x} voxels: end "
            "other programs that use it, or take another --device"
        )
    first = -(-length // (2 * multiple)) * multiple
    halves = []
    for start, size in ((0, first), (first, length - first)):
        corner, sides = list(tile.core.corner), list(tile.core.shape)
        corner[axis] += start
        sides[axis] = size
        core = Window(
            corner=(corner[0], corner[1], corner[2]), shape=(sides[0], sides[1], sides[2])
        )
        halves.append(tile_of(core, shape, halo=halo))
    return halves


def _score_tile(
    features: Features, network: nn.Module, tile: Tile, config: Config, device: str
) -> Iterator[tuple[Window, NDArray[np.float32]]]:
    """Logits of a tile's core, slab by slab; with flips at once, when their mean is known."""
    planes = config.network.stride
    if not config.inference.flips:
        yield from _stream_tile(features, network, tile, planes, device, ())
        return
    total = np.zeros(tile.core.shape, dtype=np.float32)
    for axes in FLIPS:
        for window, logits in _stream_tile(features, network, tile, planes, device, axes):
            start = window.corner[0] - tile.core.corner[0]
            total[start : start + len(logits)] += logits
    total /= len(FLIPS)
    yield tile.core, total


def _stream_tile(
    features: Features,
    network: nn.Module,
    tile: Tile,
    planes: int,
    device: str,
    axes: tuple[int, ...],
) -> Iterator[tuple[Window, NDArray[np.float32]]]:
    """Logits of a tile's core, slab by slab along z, by the network on the flipped volume."""
    (length, *sides), (first, *corner) = tile.read.shape, tile.read.corner
    windows = [
        Window(
            corner=(first + z, corner[0], corner[1]),
            shape=(min(planes, length - z), sides[0], sides[1]),
        )
        for z in range(0, length, planes)
    ]
    backwards = -3 in axes
    if backwards:
        windows.reverse()
    depth, rows, columns = tile.core_in_read
    done = 0
    with closing(one_ahead(map(features.read, windows))) as blocks:
        for slab in _run(network, blocks, device, axes):
            start = length - done - len(slab) if backwards else done
            done += len(slab)
            low, stop = max(start, depth.start), min(start + len(slab), depth.stop)
            if low >= stop:  # of the halo
                continue
            logits = slab[low - start : stop - start, rows, columns]
            _, y, x = tile.core.corner
            _, high, wide = tile.core.shape
            yield Window(corner=(first + low, y, x), shape=(stop - low, high, wide)), logits


@torch.inference_mode()
def _run(
    network: nn.Module, blocks: Iterable[NDArray[np.float32]], device: str, axes: tuple[int, ...]
) -> Iterator[NDArray[np.float32]]:
    """(c, z, y, x) blocks, one after the other along z, to (z, y, x) logits."""
    dtype = next(network.parameters()).dtype  # the first layer's

    def slab(block: NDArray[np.float32]) -> Tensor:
        return torch.flip(torch.from_numpy(block)[None].to(device, dtype), axes)

    for logits in stream(network, map(slab, blocks)):
        yield torch.flip(logits[0], axes).cpu().numpy()


def _precision(device: str) -> torch.dtype:
    """Float16 where the hardware multiplies it, eight times as fine as bfloat16."""
    if device.startswith("cuda") and torch.cuda.get_device_capability(device) >= (7, 0):
        return torch.float16
    return torch.float32
