"""Proposals: what else looks as the clicked particles do, by the matched filter alone."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tomopicker.config import preset
from tomopicker.errors import InputError
from tomopicker.features import Features, compute_features
from tomopicker.matched_filter import RadialFilter, learn_filter
from tomopicker.peaks import find_peaks, refine
from tomopicker.preprocess import Normalisation
from tomopicker.types import Tomogram
from tomopicker.verdicts import near

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tomopicker.types import Floats, Volume

FEWEST = 5
"""Clicks from which the filter can be learned."""

_LEAST_RADIUS = 4.0
"""Of the particle in the binned voxels that it is looked for at: enough for its rings."""

EXCLUSION = preset("default", radius_angstrom=100.0, voxel_size=10.0).peaks.exclusion
"""Particle radii within which two places are one particle, as preset default's picks."""

_FIRST = 20
"""Proposals that are shown at first, even where they are less like the clicks."""

_MOST = 500
"""Proposals: centres take longer than all else, and nobody goes through more by eye."""


@dataclass(frozen=True, kw_only=True)
class Proposals:
    """Peaks of the correlation, best first."""

    voxels: Floats
    """(n, 3) centres ``z y x`` in the tomogram's voxels."""
    scores: Floats
    """(n,) correlation in standard deviations of the whole tomogram's."""
    least: float
    """Score from which they are shown at first: that of the middle one of the clicked particles."""
    clicks: int
    """That the filter was learned from."""


@dataclass(frozen=True, kw_only=True)
class Binned:
    """A tomogram in coarse voxels, to look for particles in within seconds."""

    tomogram: Tomogram
    features: Features
    factor: int

    def to_binned(self, voxels: Floats) -> Floats:
        """Coarse coordinates of (n, 3) voxels of the tomogram."""
        return (voxels - (self.factor - 1) / 2) / self.factor

    def from_binned(self, voxels: Floats) -> Floats:
        """Voxels of the tomogram of (n, 3) coarse coordinates."""
        return voxels * self.factor + (self.factor - 1) / 2


def bin_tomogram(tomogram: Tomogram, radius: float) -> Binned:
    """Average blocks of voxels, as large as leaves the particle a radius of four.

    Parameters
    ----------
    tomogram
        Memory-mapped; it is read once.
    radius
        Of the particle, ångström.

    Raises
    ------
    InputError
        When the tomogram is too small for the particle, or is constant.
    """
    factor = max(1, int(radius / tomogram.voxel_size / _LEAST_RADIUS))
    factor = min(factor, *tomogram.shape)
    coarse = tomogram
    if factor > 1:
        data = _block_means(tomogram.data, factor)
        coarse = replace(tomogram, data=data, voxel_size=tomogram.voxel_size * factor)
    normalisation = Normalisation.of(coarse.data, source=str(tomogram.path or tomogram.name))
    features = Features(data=coarse.data, normalisation=normalisation)
    return Binned(tomogram=coarse, features=features, factor=factor)


def learn(binned: Binned, clicks: Floats, radius: float) -> RadialFilter:
    """Learn the filter from (n, 3) clicked voxels ``z y x`` of a tomogram; radius in ångström.

    Raises
    ------
    InputError
        When there are fewer than five, or they look like nothing.
    """
    if len(clicks) < FEWEST:
        raise InputError(f"click {FEWEST} particles first; there are {len(clicks)}")
    features = binned.features
    block = (features.density, features.shape, binned.to_binned(clicks))
    return learn_filter([block], radius=radius / binned.tomogram.voxel_size)


def propose(
    binned: Binned,
    radial: RadialFilter,
    *,
    radius: float,
    clicks: Floats,
    known: Floats,
) -> Proposals:
    """Find where a tomogram looks as the clicked particles do.

    Parameters
    ----------
    binned
        The tomogram.
    radial
        Learned from clicks in it or in another of the session.
    radius
        Of the particle, ångström.
    clicks
        (n, 3) voxels ``z y x`` of this tomogram that are particles; their scores suggest how many
        proposals to show.
    known
        (n, 3) voxels where nothing need be proposed: these and what was rejected.
    """
    features = compute_features(binned.tomogram, binned.features.normalisation, radial)
    correlation = features.correlation
    if correlation is None:
        raise AssertionError("features with a filter have its correlation")
    coarse = radius / binned.tomogram.voxel_size
    margin = max(1, round(coarse / 2))
    # Faces cut particles in half, and what is cut looks alike.
    inner = np.full_like(correlation, -np.inf)
    within = tuple(slice(margin, size - margin) for size in correlation.shape)
    inner[within] = correlation[within]
    peaks = find_peaks(inner, radius=EXCLUSION * coarse, count=_MOST)
    voxels = binned.from_binned(refine(correlation, peaks, radius=max(coarse / 4, 1.0)))
    own = radius / (binned.tomogram.voxel_size / binned.factor)
    new = ~near(voxels, [(z, y, x) for z, y, x in known.tolist()], EXCLUSION * own)
    scores = peaks.scores[new]
    floor = _middle_score(correlation, binned.to_binned(clicks))
    return Proposals(
        voxels=voxels[new],
        scores=scores,
        least=min(floor, float(scores[:_FIRST].min(initial=np.inf))),
        clicks=len(clicks),
    )


class Proposer:
    """Makes proposals in the background, one tomogram at a time, the latest wish first."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._wish: Wish | None = None
        self._busy: Wish | None = None
        self._results: dict[str, Proposals] = {}
        self._errors: dict[str, str] = {}
        self._binned: dict[tuple[str, float], Binned] = {}
        self._closed = False
        self.revision = 0
        threading.Thread(target=self._work, daemon=True).start()

    def ask(self, wish: Wish) -> None:
        """Wish for proposals; a wish that waits is replaced."""
        with self._lock:
            self._wish = wish
            self._lock.notify()

    def close(self) -> None:
        """Take no more wishes."""
        with self._lock:
            self._closed = True
            self._lock.notify()

    def state(self, name: str) -> tuple[str, Proposals | None, str]:
        """How far a tomogram's proposals are: "idle", "busy" or "failed", the last ones, why."""
        with self._lock:
            wishes = [one.tomogram.name for one in (self._wish, self._busy) if one is not None]
            error = self._errors.get(name, "")
            state = "busy" if name in wishes else "failed" if error else "idle"
            return state, self._results.get(name), error

    def forget(self) -> None:
        """Drop all results, as when the particle's size has changed."""
        with self._lock:
            self._results.clear()
            self._errors.clear()
            self.revision += 1

    def _work(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._wish is not None or self._closed)
                if self._closed:
                    return
                wish = self._busy = self._wish
                self._wish = None
            if wish is not None:
                self._fulfil(wish)

    def _fulfil(self, wish: Wish) -> None:
        name = wish.tomogram.name
        result, error = None, ""
        try:
            result = self._make(wish)
        except (InputError, OSError, MemoryError, ImportError) as problem:
            error = str(problem) or "there is not enough memory; close other programs"
        with self._lock:
            self._busy = None
            self.revision += 1
            if error:
                self._errors[name] = error
            else:
                self._errors.pop(name, None)
            if result is not None:
                self._results[name] = result

    def _make(self, wish: Wish) -> Proposals | None:
        # The filter needs it, and it takes seconds: time enough while the first ones are clicked.
        import torch  # noqa: F401

        binned = self._bin(wish.tomogram, wish.radius)
        if wish.only_prepare:
            return None
        teacher = binned
        if wish.teacher.name != wish.tomogram.name:
            teacher = self._bin(wish.teacher, wish.radius)
        radial = learn(teacher, wish.teacher_clicks, wish.radius)
        if teacher.tomogram.voxel_size != binned.tomogram.voxel_size:
            step = binned.tomogram.voxel_size / teacher.tomogram.voxel_size
            radial = _resampled(radial, step)
        proposals = propose(
            binned, radial, radius=wish.radius, clicks=wish.clicks, known=wish.known
        )
        return replace(proposals, clicks=len(wish.teacher_clicks))

    def _bin(self, tomogram: Tomogram, radius: float) -> Binned:
        key = (tomogram.name, radius)
        if key not in self._binned:
            while len(self._binned) > 1:
                # Two at most: each may take hundreds of megabytes.
                self._binned.pop(next(iter(self._binned)))
            self._binned[key] = bin_tomogram(tomogram, radius)
        return self._binned[key]


@dataclass(frozen=True, kw_only=True)
class Wish:
    """For proposals in a tomogram."""

    tomogram: Tomogram
    teacher: Tomogram
    """Whose clicks are learned from."""
    teacher_clicks: Floats
    clicks: Floats
    known: Floats
    radius: float
    """Ångström."""
    only_prepare: bool = False
    """Whether to read the tomogram ahead of the clicks that are still to come."""


def _block_means(data: Volume, factor: int) -> NDArray[np.float32]:
    """Mean of every whole block; voxels left over at the far faces are left out."""
    depth, rows, columns = (size // factor for size in data.shape)
    means = np.empty((depth, rows, columns), dtype=np.float32)
    for z in range(depth):
        total = np.zeros(data.shape[1:], dtype=np.float32)
        for plane in data[z * factor : (z + 1) * factor]:
            total += plane
        block = np.zeros((rows, columns), dtype=np.float32)
        for y in range(factor):
            for x in range(factor):
                block += total[y::factor, x::factor][:rows, :columns]
        means[z] = block / factor**3
    return means


def _middle_score(correlation: NDArray[np.float16], clicks: Floats) -> float:
    """Median over the clicks of the best correlation within a voxel of each."""
    scores = []
    for place in np.rint(clicks).astype(int).clip(0, np.array(correlation.shape) - 1):
        low = (place - 1).clip(0)
        z, y, x = (slice(start, at + 2) for start, at in zip(low, place, strict=True))
        scores.append(float(correlation[z, y, x].max()))
    return float(np.median(scores)) if scores else np.inf


def _resampled(radial: RadialFilter, step: float) -> RadialFilter:
    """The filter at voxels that are `step` times as large."""
    reach = max(1, round(radial.reach / step))
    places = np.arange(reach + 1) * step
    profile = np.interp(places, np.arange(len(radial.profile)), radial.profile)
    return RadialFilter(profile=profile)
