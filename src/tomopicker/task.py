"""Task: tomograms standardised, labelled and split, and the prior fixed (paper 3.1 and 3.2)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import KDTree

from tomopicker.calibrate import (
    FEWEST_TO_CALIBRATE,
    MATCH_RADII,
    count_in_all,
    match_labelled,
    most_candidates,
)
from tomopicker.errors import InputError
from tomopicker.features import Features, compute_features
from tomopicker.labels import (
    IGNORED,
    NEGATIVE,
    POSITIVE,
    UNLABELLED,
    ball_voxels,
    stamp,
    voxel_radius,
)
from tomopicker.mask import within
from tomopicker.matched_filter import RadialFilter, learn_filter
from tomopicker.peaks import find_peaks
from tomopicker.preprocess import Normalisation, finite
from tomopicker.prior import Prior, class_prior
from tomopicker.rescale import rescale
from tomopicker.windows import cut

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tomopicker.config import Config
    from tomopicker.types import Floats, Particles, Tomogram, Window


_SAME_PLACE = 0.5
"""Voxels within which two lists mean one particle: they may round differently."""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A tomogram with its labels."""

    name: str
    features: Features
    labels: NDArray[np.uint8]
    """``z y x``: POSITIVE, UNLABELLED, NEGATIVE or IGNORED."""
    centres: Floats
    """(n, 3) voxels ``z y x`` of the particles stamped into the labels."""
    is_shown: NDArray[np.bool_]
    """(n,) whether a person accepted each from a list, where others are the fair sample."""
    rejected: Floats
    """(m, 3) voxels ``z y x`` of what is known to be something else."""

    def sample(self, window: Window) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """(c, s, s, s) channels and (s, s, s) labels; padding is ignored, not unlabelled."""
        return self.features.read(window), cut(self.labels, window, fill=IGNORED)


@dataclass(frozen=True, kw_only=True)
class Task:
    """Everything that training needs, made by `prepare`."""

    config: Config
    training: tuple[Labelled, ...]
    validation: tuple[Labelled, ...]
    prior: Prior
    radius: int
    """Particle radius in voxels."""
    voxel_size: float
    """Edge in ångström of the voxels that the tomograms were brought to."""
    radial: RadialFilter | None
    validation_tomogram: str | None
    picks_sha256: str


def prepare(
    config: Config,
    training: Sequence[tuple[Tomogram, Particles]],
    validation: tuple[Tomogram, Particles] | None = None,
    rejected: Sequence[Particles] | None = None,
    accepted: Sequence[Particles] | None = None,
) -> Task:
    """Rescale, standardise, label and split the data, and fix the prior.

    With `preprocessing.working_radius`, the first training tomogram's voxel size and the particle's
    radius fix the working voxel size, and all tomograms are brought to it.

    Without a validation tomogram, `training.held_out` of the labelled particles of all tomograms
    are kept for validation; their voxels count neither as positive nor as unlabelled in training.
    Particles that were accepted from a picker's list are learned from and neither kept nor counted
    by, as they are no fair sample, unless fewer than ten others are there.

    Parameters
    ----------
    training
        Tomograms with their labelled particles; some may have none, where something was rejected.
    rejected
        For each training tomogram what looks like the particle and is not, as a person found.
    accepted
        For each training tomogram those of its labelled particles that a person was shown, in a
        list that a picker had made.

    Raises
    ------
    InputError
        When voxel sizes differ, by more than can be rescaled or at all if nothing is rescaled, the
        particle does not fit the window or the tomogram, too few particles are labelled,
        validation holds no positive, the expected count is not above the labelled one, a place is
        both labelled and rejected, or one that was accepted is not labelled.
    """
    voxel_size = config.working_voxel_size(training[0][0].voxel_size)
    radius = voxel_radius(config.radius_angstrom, voxel_size)
    _check(config, [tomogram for tomogram, _ in (*training, *filter(None, [validation]))], radius)
    if config.preset == "paper" and config.expected is None:
        raise InputError(
            "preset paper needs the expected number of particles per training tomogram: give "
            "--expected N; to estimate it, count the particles in a typical box of the tomogram "
            "and multiply by the number of such boxes, or let --preset default estimate it"
        )
    if config.preprocessing.working_radius is not None:
        training = [_rescaled(*one, voxel_size) for one in training]
        validation = validation and _rescaled(*validation, voxel_size)
    training = [(tomogram.loaded(), particles) for tomogram, particles in training]
    validation = validation and (validation[0].loaded(), validation[1])
    tomograms = [tomogram for tomogram, _ in training]
    rng = np.random.default_rng([config.training.seed, 0])
    tables = [particles for _, particles in training]
    shown = [_shown(*pair) for pair in zip(training, accepted or [], strict=False)]
    shown = shown or [np.zeros(len(table), dtype=bool) for table in tables]
    if sum(int((~some).sum()) for some in shown) < FEWEST_TO_CALIBRATE:
        shown = [np.zeros_like(some) for some in shown]
    splits = _split(tables, shown, validation is None, config, rng)
    normalisations = [_normalisation(tomogram, config) for tomogram in tomograms]
    radial = None
    if config.network.filter_channel:
        plain = [
            Features(data=tomogram.data, normalisation=normalisation)
            for tomogram, normalisation in zip(tomograms, normalisations, strict=True)
        ]
        radial = learn_filter(
            [
                (features.density, features.shape, kept.voxels)
                for features, (kept, _, _) in zip(plain, splits, strict=True)
            ],
            # 8 voxels and not 8 with a rounding error, which the filter would round up.
            radius=round(config.radius_angstrom / voxel_size, 6),
        )
    core = config.labels.core_radius(radius)
    not_it = [_rejected(*pair, core) for pair in zip(training, rejected or [], strict=False)]
    not_it = not_it or [np.empty((0, 3)) for _ in training]
    labelled, held = [], []
    for tomogram, normalisation, (kept, out, is_shown), wrong in zip(
        tomograms, normalisations, splits, not_it, strict=True
    ):
        features = compute_features(tomogram, normalisation, radial)
        elsewhere = stamp(features.shape, out.voxels, radius=radius) > 0
        part = _label(tomogram, features, kept, core, elsewhere, wrong)
        labelled.append(replace(part, is_shown=is_shown))
        if validation is None:
            elsewhere = stamp(features.shape, kept.voxels, radius=radius) > 0
            held.append(_label(tomogram, features, out, core, elsewhere))
    if validation is not None:
        tomogram, particles = validation
        features = compute_features(tomogram, _normalisation(tomogram, config), radial)
        held.append(_label(tomogram, features, particles, core))
    _check_positive(labelled, "training", "--picks")
    _check_positive(held, "validation", "--picks" if validation is None else "--val-picks")
    out_of_training = [len(out) for _, out, _ in splits]
    return Task(
        config=config,
        training=tuple(labelled),
        validation=tuple(held),
        prior=_prior(config, labelled, out_of_training, core, radius),
        radius=radius,
        voxel_size=voxel_size,
        radial=radial,
        validation_tomogram=validation[0].name if validation else None,
        picks_sha256=_hash(
            [*(particles for _, particles in training), *(rejected or []), *(accepted or [])]
        ),
    )


def _check(config: Config, tomograms: Sequence[Tomogram], radius: int) -> None:
    side = config.sampling.side
    if 2 * radius > side:
        raise InputError(
            f"the particle's diameter is {2 * radius} voxels, but the window is {side}: give a "
            "smaller --radius, or a larger window with --set sampling.side=N"
        )
    first = tomograms[0]
    for tomogram in tomograms:
        is_other = abs(tomogram.voxel_size / first.voxel_size - 1) > 1e-2
        if is_other and config.preprocessing.working_radius is None:
            raise InputError(
                f"{tomogram.name}: voxel size {tomogram.voxel_size:g} Å, but "
                f"{first.name} has {first.voxel_size:g} Å: train on tomograms of one voxel size, "
                "or with --preset default, which rescales them"
            )
        across = 2 * voxel_radius(config.radius_angstrom, tomogram.voxel_size)
        if across > min(tomogram.shape):
            raise InputError(
                f"{tomogram.name}: {' x '.join(map(str, tomogram.shape))} voxels (z y x) cannot "
                f"hold a particle {across} voxels across: check --radius and the voxel size"
            )


def _rescaled(
    tomogram: Tomogram, particles: Particles, voxel_size: float
) -> tuple[Tomogram, Particles]:
    """Bring a tomogram to a voxel size, and count its particles' voxels as it has them then."""
    tomogram = rescale(tomogram, voxel_size)
    return tomogram, replace(particles, voxel_size=tomogram.voxel_size)


def _split(
    tables: Sequence[Particles],
    shown: Sequence[NDArray[np.bool_]],
    hold_out: bool,
    config: Config,
    rng: np.random.Generator,
) -> list[tuple[Particles, Particles, NDArray[np.bool_]]]:
    """Training and held-out particles of each tomogram, and which of the former were shown.

    Those held out are a share of all together that were not shown.
    """
    total = sum(map(len, tables))
    fair = np.flatnonzero(~np.concatenate(shown))
    held = 0
    if hold_out:
        if total < 2:
            raise InputError(
                "one labelled particle cannot be both learned from and validated on: label more, "
                "or give --val-tomogram and --val-picks"
            )
        held = max(1, round(config.training.held_out * len(fair)))
        if len(fair) >= 2 * FEWEST_TO_CALIBRATE:
            held = max(held, FEWEST_TO_CALIBRATE)
        held = min(held, len(fair) - 1)
    is_held = np.zeros(total, dtype=bool)
    is_held[rng.permutation(fair)[:held]] = True
    parts = np.split(is_held, np.cumsum([len(table) for table in tables])[:-1])
    return [
        (table.select(np.flatnonzero(~part)), table.select(np.flatnonzero(part)), some[~part])
        for table, some, part in zip(tables, shown, parts, strict=True)
    ]


def _normalisation(tomogram: Tomogram, config: Config) -> Normalisation:
    return Normalisation.of(
        tomogram.data,
        clip_sigma=config.preprocessing.clip_sigma,
        source=str(tomogram.path or tomogram.name),
    )


def _not_finite(tomogram: Tomogram) -> NDArray[np.bool_] | None:
    if np.issubdtype(tomogram.data.dtype, np.integer):
        return None
    known = finite(np.asarray(tomogram.data))
    return None if known is None else ~known


def _label(
    tomogram: Tomogram,
    features: Features,
    particles: Particles,
    core: float,
    elsewhere: NDArray[np.bool_] | None = None,
    rejected: Floats | None = None,
) -> Labelled:
    """Label a tomogram; `elsewhere` are the voxels of particles that belong to another part."""
    rejected = np.empty((0, 3)) if rejected is None else rejected
    labels = stamp(features.shape, particles.voxels, radius=core)
    if len(rejected):
        wrong = stamp(features.shape, rejected, radius=core) == POSITIVE
        labels[wrong & (labels == UNLABELLED)] = NEGATIVE
    if elsewhere is not None:
        labels[elsewhere & (labels != POSITIVE)] = IGNORED
    unknown = _not_finite(tomogram)
    if unknown is not None:
        labels[unknown] = IGNORED
    if tomogram.mask is not None:
        # What was clicked is a particle, whatever the mask says.
        labels[~within(tomogram.mask, features.shape) & (labels != POSITIVE)] = IGNORED
    return Labelled(
        name=tomogram.name,
        features=features,
        labels=labels,
        centres=particles.voxels,
        is_shown=np.zeros(len(particles), dtype=bool),
        rejected=rejected,
    )


def _rejected(labelled: tuple[Tomogram, Particles], rejected: Particles, core: float) -> Floats:
    """(m, 3) voxels ``z y x`` of rejected places, none of them a labelled particle's."""
    tomogram, particles = labelled
    wrong = replace(rejected, voxel_size=tomogram.voxel_size).voxels
    if len(wrong) and len(particles):
        distances, _ = KDTree(particles.voxels).query(wrong)
        nearest = int(np.argmin(distances))
        if distances[nearest] < core:
            z, y, x = wrong[nearest]
            raise InputError(
                f"{tomogram.name}: the rejected place at x {x:.1f}, y {y:.1f}, z {z:.1f} (working "
                "voxels) is that of a labelled particle: take it out of --picks or of --negatives"
            )
    return wrong


def _shown(labelled: tuple[Tomogram, Particles], accepted: Particles) -> NDArray[np.bool_]:
    """(n,) which of the labelled particles are those that were accepted from a list."""
    tomogram, particles = labelled
    is_shown = np.zeros(len(particles), dtype=bool)
    places = replace(accepted, voxel_size=tomogram.voxel_size).voxels
    if not len(places):
        return is_shown
    apart, rows = np.full(len(places), np.inf), np.zeros(len(places), dtype=int)
    if len(particles):
        apart, rows = KDTree(particles.voxels).query(places)
    if apart.max() > _SAME_PLACE:
        z, y, x = places[int(apart.argmax())]
        raise InputError(
            f"{tomogram.name}: the accepted particle at x {x:.1f}, y {y:.1f}, z {z:.1f} (working "
            "voxels) is none of the labelled ones: --picks must hold what --accepted names"
        )
    is_shown[rows] = True
    return is_shown


def _check_positive(parts: Sequence[Labelled], stage: str, option: str) -> None:
    if not any((part.labels == POSITIVE).any() for part in parts):
        names = ", ".join(part.name for part in parts)
        raise InputError(
            f"{names}: {stage} holds no positive voxel, as every pick is where the volume has no "
            f"finite value: check that {option} belongs to that tomogram"
        )


def _prior(
    config: Config,
    labelled: Sequence[Labelled],
    held_out: Sequence[int],
    core: float,
    radius: int,
) -> Prior:
    """Eq 2, 4 and 8, over all training tomograms; held-out particles are not there to be found."""
    positive = sum(int((part.labels == POSITIVE).sum()) for part in labelled)
    # Not what was rejected, which is neither.
    counted = positive + sum(int((part.labels == UNLABELLED).sum()) for part in labelled)
    clicked = sum(len(part.centres) for part in labelled) + sum(held_out)
    if config.expected is not None:
        if config.expected * len(labelled) <= clicked:
            raise InputError(
                f"{config.expected} particles expected per tomogram, but {clicked} are labelled "
                f"in {len(labelled)}: give the number that the tomogram holds in all, labelled or "
                "not, with --expected"
            )
        expected = float(config.expected * len(labelled))
    else:
        # Whole particles, whose cores alone may be labelled, in half of the volume.
        most = counted / 2 / ball_voxels(radius)
        expected = _filtered_count(labelled, clicked, radius, most)
    return class_prior(
        expected_particles=expected - sum(held_out),
        ball_voxels=ball_voxels(core),
        labelled_voxels=positive,
        total_voxels=counted,
    )


def _filtered_count(labelled: Sequence[Labelled], clicked: int, radius: int, most: float) -> float:
    """Number of particles that the matched filter's peaks speak for, in all tomograms."""
    found = []
    for part in labelled:
        correlation = part.features.correlation
        if correlation is None:
            raise InputError(
                "the expected number of particles can only be estimated with the matched filter's "
                "channel: give --expected N"
            )
        if part.features.mask is not None:
            kept = within(part.features.mask, part.features.shape)
            correlation = np.where(kept, correlation, -np.inf)
        candidates = most_candidates(correlation.size, radius)
        peaks = find_peaks(correlation, radius=radius, count=candidates)
        matched = match_labelled(
            peaks.voxels.astype(np.float64),
            peaks.scores,
            part.centres[~part.is_shown],
            rejected=part.rejected,
            tolerance=MATCH_RADII * radius,
        )
        found.append((peaks.scores, matched))
    total = count_in_all(found)
    # Never fewer than a tenth more than were clicked: hardly anybody clicks all of them. And never
    # more than there is room for, as peaks that a few clicks cannot tell from noise would be.
    return max(min(total, most), 1.1 * clicked)


def _hash(tables: Sequence[Particles]) -> str:
    digest = hashlib.sha256()
    for table in tables:
        digest.update(np.ascontiguousarray(np.round(table.positions, 3)).tobytes())
    return digest.hexdigest()
