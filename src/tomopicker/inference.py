"""Inference: score a whole tomogram and take its peaks (paper 3.4)."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from tomopicker.augment import FLIPS
from tomopicker.calibrate import Count, Judged, ScoreHistogram, judge, most_candidates
from tomopicker.checkpoint import check_weights
from tomopicker.errors import InputError
from tomopicker.features import Features, compute_features
from tomopicker.labels import ball_voxels
from tomopicker.matched_filter import RadialFilter
from tomopicker.network import build, receptive_radius
from tomopicker.peaks import Peaks, find_peaks, refine
from tomopicker.preprocess import Normalisation, finite
from tomopicker.rescale import rescale, rescaled_voxel_size
from tomopicker.types import Particles, Shape, Window
from tomopicker.windows import grid, inside, tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from tomopicker.checkpoint import Checkpoint
    from tomopicker.config import Config
    from tomopicker.types import Floats, Tomogram

RATES = (0.05, 0.1, 0.2)
"""False-discovery rates at which the length of a list is told, to show how much hangs on it."""

_MORE_CANDIDATES = 50

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
    the paper, padded with the mean at the far faces. Voxels without a finite value score -inf.

    Yields
    ------
    tuple
        The window of the volume, its logits ``z y x`` (float32), and the share of the work done.
    """
    network.to(device).eval()
    if config.inference.method == "windows":
        parts = _score_windows(features, network, config, device)
    else:
        parts = _score_whole(features, network, config, device)
    for window, logits, done in parts:
        at = inside(window, features.shape)
        z, y, x = at.shape
        if z and y and x:
            known = finite(np.asarray(features.data[at.slices]))
            scores = logits[:z, :y, :x]
            yield at, scores if known is None else np.where(known, scores, -np.inf), done


def score(
    features: Features,
    network: nn.Module,
    config: Config,
    *,
    device: str = "cpu",
    progress: Callable[[float], None] = lambda _: None,
) -> NDArray[np.float32]:
    """Score a whole tomogram: logits ``z y x``, float32. `progress` hears the share done."""
    scores = np.empty(features.shape, dtype=np.float32)
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
    description = checkpoint.description
    if scored_voxel_size(checkpoint, tomogram) != tomogram.voxel_size:
        tomogram = rescale(tomogram, description.voxel_size)
    radial = None
    if description.filter_profile is not None:
        radial = RadialFilter(profile=np.array(description.filter_profile))
    normalisation = Normalisation.of(
        tomogram.data,
        clip_sigma=description.config.preprocessing.clip_sigma,
        source=str(tomogram.path or tomogram.name),
    )
    return compute_features(tomogram, normalisation, radial)


def find_particles(
    scores: NDArray[np.float32], config: Config, *, radius: float, count: int | None, floor: float
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

    Returns
    -------
    tuple
        (n, 3) centres in voxels ``z y x`` and (n,) scores, best first.
    """
    scores = _for_peaks(scores, config, radius)
    peaks = find_peaks(scores, radius=config.peaks.exclusion * radius, count=count, threshold=floor)
    return _centres(scores, peaks, config, radius), peaks.scores


def pick(
    scores: NDArray[np.float32], tomogram: Tomogram, checkpoint: Checkpoint, cut: Cut
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
            length = round(description.priors.expected * scores.size / core)
    if cut.fdr is not None and calibration is None:
        raise InputError(
            "this model was not calibrated, so a false-discovery rate cannot be estimated: give "
            "--count or --threshold, or train with --preset default"
        )
    radius = description.radius_voxels
    scores = _for_peaks(scores, config, radius)
    spacing = config.peaks.exclusion * radius
    judged = None
    if calibration is not None:
        most = most_candidates(scores.size, spacing)
        candidates = find_peaks(scores, radius=spacing, count=most)
        judged = judge(candidates.scores, calibration)
    if judged is not None and automatic:
        peaks = candidates.best(judged.best_length)
    elif judged is not None and cut.fdr is not None:
        peaks = candidates.best(judged.length_at(cut.fdr))
    else:
        peaks = find_peaks(scores, radius=spacing, count=length, threshold=floor)
    count = len(peaks)
    most = 2 * count + _MORE_CANDIDATES
    if judged is None or len(candidates) < most:
        candidates = find_peaks(scores, radius=spacing, count=most)
    # Peaks are taken best first, so a list is the beginning of every longer one.
    peaks = candidates.best(most)
    centres = _centres(scores, peaks, config, radius)
    # Where the scores' voxels are larger, the last one may reach beyond the tomogram.
    centres = centres * (scored_voxel_size(checkpoint, tomogram) / tomogram.voxel_size)
    table = Particles.from_voxels(
        np.minimum(centres, np.array(tomogram.shape) - 0.5),
        voxel_size=tomogram.voxel_size,
        scores=peaks.scores,
        probabilities=None if judged is None else _chances(judged, len(peaks)),
        tomograms=[tomogram.name] * len(peaks),
    )
    return Picked(
        particles=table.select(np.arange(count)),
        candidates=table,
        threshold=float(peaks.scores[count - 1]) if count else None,
        estimated=None if judged is None else judged.count,
        lengths={} if judged is None else {rate: judged.length_at(rate) for rate in RATES},
        histogram=None if judged is None else judged.histogram,
    )


def find_candidates(
    scores: NDArray[np.float32], config: Config, *, radius: float
) -> tuple[NDArray[np.float64], Floats]:
    """Find the peaks that a tomogram is judged by, as `find_particles` does (see `calibrate`)."""
    most = most_candidates(scores.size, config.peaks.exclusion * radius)
    return find_particles(scores, config, radius=radius, count=most, floor=-np.inf)


def _chances(judged: Judged, count: int) -> Floats:
    """(count,) probabilities of the best peaks; 0 below the last candidate."""
    chances = judged.chances[:count]
    return np.pad(chances, (0, count - len(chances)))


def _centres(
    scores: NDArray[np.float32], peaks: Peaks, config: Config, radius: float
) -> NDArray[np.float64]:
    """Centres (n, 3) ``z y x`` of the peaks of smoothed scores, between voxels if configured."""
    if config.peaks.subvoxel:
        return refine(scores, peaks, radius=max(radius / 4, 1.0))
    return peaks.voxels.astype(np.float64)


def _for_peaks(scores: NDArray[np.float32], config: Config, radius: float) -> NDArray[np.float32]:
    """Blur the scores, and set those near the volume's faces to -inf, if configured."""
    settings = config.peaks
    if settings.smoothing:
        scores = _smooth(scores, settings.smoothing * radius)
    margin = ceil(settings.margin * radius)
    if not margin:
        return scores
    within = np.full_like(scores, -np.inf)
    inner = (slice(margin, -margin),) * 3
    within[inner] = scores[inner]
    return within


def _smooth(scores: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Blur the scores; voxels of -inf stay so, and count as the lowest score to the others."""
    unknown = np.isneginf(scores)
    if unknown.any():
        scores = np.where(unknown, scores[~unknown].min(initial=0), scores)
    smooth: NDArray[np.float32] = gaussian_filter(scores, sigma, mode="nearest", truncate=3.0)
    if unknown.any():
        smooth[unknown] = -np.inf
    return smooth


def _score_windows(
    features: Features, network: nn.Module, config: Config, device: str
) -> Iterator[tuple[Window, NDArray[np.float32], float]]:
    side, batch = config.sampling.side, config.training.batch
    windows = grid(features.shape, side=side, stride=side)
    for start in range(0, len(windows), batch):
        some = windows[start : start + batch]
        volumes = torch.from_numpy(np.stack([features.read(window) for window in some]))
        logits = _forward(network, volumes.to(device), flips=config.inference.flips)
        done = min(start + batch, len(windows)) / len(windows)
        for window, block in zip(some, logits.cpu().numpy(), strict=True):
            yield window, block, done


def _score_whole(
    features: Features, network: nn.Module, config: Config, device: str
) -> Iterator[tuple[Window, NDArray[np.float32], float]]:
    stride = config.network.stride
    z, y, x = (-(-length // stride) * stride for length in features.shape)
    padded: Shape = (z, y, x)
    halo = receptive_radius(config.network)
    parts = list(tiles(padded, side=config.inference.tile, halo=halo, multiple=stride))
    for number, tile in enumerate(parts, start=1):
        volume = torch.from_numpy(features.read(tile.read))[None].to(device)
        logits = _forward(network, volume, flips=config.inference.flips)[0]
        yield tile.core, logits[tile.core_in_read].cpu().numpy(), number / len(parts)


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
