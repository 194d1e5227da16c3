"""Template: the average of aligned particles in three dimensions, and what has its shape.

The radial filter knows a particle's size and rings, not its shape. Aligned with each other, the
clicked particles give an average that does. Nothing is searched: only around the peaks that the
network has found is the average turned into all orientations, which as products of matrices takes
seconds.

How well a place fits says little by itself. Whatever is large, dense and clear fits any template
of its size, in the best of thousands of orientations, better than a particle does in more noise.
So every place is also compared with decoys, shapes that it is not expected to have but which are
like the average in all else: its mirror image, and lumps of its size and spectrum. What counts is
how much better the average fits than they do.

Everything is computed in boxes whose noise was made white, and which lack what the missing wedge
lacks in their tomogram; both are measured on boxes of it at random places. Tomograms of one tilt
scheme share what is turned and filtered, which takes most of the time. It is computed where torch
makes its tensors: ``with computing_on("cuda"):`` makes that a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import ceil
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.fft import next_fast_len
from scipy.spatial.transform import Rotation
from torch import fft
from torch.nn import functional

from tomopicker.types import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from tomopicker.features import Features
    from tomopicker.types import Floats

MASK_RADII = 1.2
"""Of the ball that is compared, in particle radii."""

FEWEST_TO_ALIGN = 8
"""Particles that are aligned; fewer average to nothing that is more than their noise."""

LARGEST_RADIUS = 12
"""Voxels; the templates of larger particles would take gigabytes. `default` works with 8."""

_MOST_ALIGNED = 500
"""More would take gigabytes, and a few hundred show all the detail that is looked at."""

_MARGIN = 4  # voxels around a box, for the filter that makes noise white and for places nearby
_SHIFTS = [(z, y, x) for z, y, x in product((-1, 0, 1), repeat=3) if z * y * x == 0]
"""Of particles that are aligned: all but corners, which change nothing there."""
_NEARBY, _NEARBY_RADII = 2.45, 0.4
"""How far from the voxel of a peak its particle is looked for: voxels, as every other peak is more
than one off, and particle radii, lest a neighbour be found."""
_NOISE_BOXES = 300
_BAND = 0.4  # cycles a voxel beyond which nothing is looked at
_EDGE = 0.02

_ORIENTATIONS = 3000
"""About 17 degrees apart; at 1,000 a part of the gain is lost."""
_DECOYS = 3000
"""Lumps, each in one orientation, so that the best of them is the best of as many."""
_LUMPS = 14
"""At most, that one decoy is made of."""
_COMPONENTS = 384
"""Of the templates of all three kinds, which hold 98 % of them at this resolution."""
_OF_WHICH_ONE = 3
"""Of so many templates one tells how they vary."""
_ROUGH, _COARSE = 48, 10
"""Places are chosen by so many components, the first, of one in so many templates. At the best few
all components of all templates are compared."""
_PLACES_KEPT = 8
_VOXELS_TO_BE_SURE, _FROM_PEAK = 70, 1.0
"""The chance that a particle of v voxels is at a place: exp(v / 70 x correlation), times a normal
density of the distance from the peak in voxels."""
_SAME_WEDGE = 0.04
"""Mean difference of the amplitudes that two wedges pass, below which they are taken for one. Two
measurements of one differ by 0.02, a tilt range of 60 degrees from one of 54 by 0.07."""
_AT_ONCE = 128

# Rounds of alignment: orientations tried, and the finest detail in cycles a voxel. Detail grows, so
# that noise is not aligned with noise; finer detail needs more orientations.
_FIRST_DETAIL = 0.14
_COARSE_ROUNDS = [(600, 0.25 + 0.15 * number / 13) for number in range(8)]
_FINE_ROUNDS = [(2000, 0.25 + 0.15 * number / 13) for number in range(8, 14)]
_STARTS = 3
"""Averages of random orientations, of which the best goes on after the coarse rounds: some settle
so slowly that particles have half of the contrast in the end, which shows by then."""
_SHARPNESS = 100.0
"""Of the chance of an orientation, exp(sharpness x correlation), as 1 / the noise's variance."""
_LIKELIEST = 12
_WIENER = 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class Template:
    """An average particle in white noise, mean 0 outside of its ball."""

    volume: NDArray[np.float32]
    """Odd cube ``z y x`` of `side` voxels."""
    wedges: NDArray[np.float32] | None = None
    """(k, grid, grid, grid // 2 + 1) amplitudes that the tilt schemes of its tomograms pass."""


def computing_on(device: str) -> torch.device:
    """Context in which templates are aligned and compared on a device.

    Any but a CUDA device stands for the CPU: Apple's lacks some of what is needed.

    >>> computing_on("mps")
    device(type='cpu')
    """
    return torch.device(device if device.startswith("cuda") else "cpu")


def side(radius: float) -> int:
    """Voxels along an edge of the boxes that are compared.

    >>> side(8)
    23
    """
    return 2 * ceil(MASK_RADII * radius + 0.5) + 1


def grid(radius: float) -> int:
    """Voxels along an edge of the transforms that a wedge filters: the boxes and some zeros.

    A transform of 23 voxels takes three times as long as one of 24.

    >>> grid(8), grid(6), grid(12)
    (24, 18, 32)
    """
    return int(next_fast_len(side(radius), real=True))


def learn_template(
    tomograms: Sequence[tuple[Features, Floats]],
    *,
    radius: float,
    start: Template | None = None,
    rng: np.random.Generator,
    progress: Callable[[float], None] = lambda _: None,
) -> Template:
    """Align particles with their own average, again and again.

    Expectation maximisation as of Scheres et al. (2007): every particle joins the average in its
    likeliest orientations and shifts, weighed by their chances, and each spatial frequency is
    divided by how often the wedge let it through. Without a start there are three, averages of
    random orientations; that one goes on which its particles fit best in the last round of coarse
    detail, as some settle slowly.

    Parameters
    ----------
    tomograms
        Each with the (n, 3) centres ``z y x`` of its particles, in voxels.
    radius
        Of the particle, voxels.
    start
        Average of much the same particles, which goes on at once.
    rng
        Of the orientations, and of which particles are aligned where there are over 500.
    """
    boxes = _Boxes(radius)
    seen = _seen(tomograms, boxes, rng)
    tries = _STARTS if start is None else 0
    left = work = sum(tried for tried, _ in tries * _COARSE_ROUNDS + _FINE_ROUNDS)

    def improved(average: Tensor, rounds: Sequence[tuple[int, float]]) -> tuple[Tensor, float]:
        nonlocal left
        fit = 0.0
        for orientations, detail in rounds:
            progress(1 - left / work)
            left -= orientations
            average, fit = _improved(average, seen, boxes, orientations, detail, rng=rng)
        return average, fit

    if start is None:
        coarse = [
            improved(_of_random_turns(seen, boxes, rng), _COARSE_ROUNDS) for _ in range(tries)
        ]
        average, _ = max(coarse, key=itemgetter(1))
    else:
        average = torch.as_tensor(start.volume)
    average, _ = improved(average, _FINE_ROUNDS)
    wedges = torch.stack([some.wedge for some in seen])
    return Template(volume=average.cpu().numpy(), wedges=wedges.cpu().numpy())


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What a template tells of n places."""

    contrasts: Floats
    """(n,) how much better the template fits than decoys do, -1 to 1."""
    moves: Floats
    """(n, 3) from each place to where the template fits, ``z y x`` in voxels."""


def compare(
    features: Features,
    centres: Floats,
    template: Template,
    *,
    radius: float,
    progress: Callable[[float], None] = lambda _: None,
) -> Compared:
    """Compare places with a template in all orientations, and with decoys.

    A contrast is the correlation with the template in its best orientation and place nearby, less
    the mean of the correlations with its mirror image and with the best of the lumps. A move is to
    the mean of the places nearby, weighed by the chance that the particle is there.

    Parameters
    ----------
    features
        Of the tomogram.
    centres
        (n, 3) ``z y x`` in voxels.
    radius
        Of the particle, voxels.
    """
    if not len(centres):
        return Compared(contrasts=np.empty(0), moves=np.empty((0, 3)))
    boxes = _Boxes(radius)
    optics = _Optics.of(features, boxes)
    known = [] if template.wedges is None else list(torch.as_tensor(template.wedges))
    number = _scheme_of(known, optics.wedge)
    if number is None:
        axes, few, lengths = _shown(template, boxes, optics.wedge)
    else:
        axes, few, lengths = _shown_by_scheme(template, number, radius, str(optics.wedge.device))
    coarse = few[:_ROUGH, ::_COARSE].contiguous()
    places = len(boxes.nearby)
    kept = min(_PLACES_KEPT, places)
    size = min(_AT_ONCE, len(centres))
    nearby = _Nearby(boxes, axes, at_once=size)
    rough_fits = torch.empty(size * places, coarse.shape[1])
    fine_fits = torch.empty(size * kept, few.shape[1])
    # Small results that stay between large ones that go would keep those from being used again.
    contrasts, moves = torch.empty(len(centres)), torch.empty(len(centres), 3)
    for start in range(0, len(centres), _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        some = centres[rows]
        count, white = len(some), optics.whitened(boxes.read(features, some))
        voxels, norms = nearby.roughly(white)
        torch.mm(voxels.flatten(0, 1), coarse, out=rough_fits[: count * places])
        fits = rough_fits[: count * places].amax(1).reshape(count, places)
        best = fits.topk(kept, dim=1).indices
        voxels = nearby.at(white, best, norms.gather(1, best))
        torch.mm(voxels.flatten(0, 1), few, out=fine_fits[: count * kept])
        fit, mirrored, lump = (
            kind.amax(1).reshape(count, kept)
            for kind in torch.split(fine_fits[: count * kept], lengths, dim=1)
        )
        contrasts[rows] = fit.amax(1) - (mirrored.amax(1) + lump.amax(1)) / 2
        # What the others would fit, were all templates compared there.
        fits += (fit - fits.gather(1, best)).mean(1, keepdim=True)
        moves[rows] = _moves(some, fits.scatter(1, best, fit), boxes)
        progress(min(1.0, (start + _AT_ONCE) / len(centres)))
    return Compared(
        contrasts=contrasts.cpu().numpy().astype(np.float64),
        moves=moves.cpu().numpy().astype(np.float64),
    )


def _moves(centres: Floats, fits: Tensor, boxes: _Boxes) -> Tensor:
    """(n, 3) from (n, 3) centres to the mean of p places nearby, by (n, p) correlations there."""
    # Boxes are read about the nearest whole voxel.
    whole = torch.as_tensor((np.rint(centres) - centres).astype(np.float32))
    away = torch.tensor(boxes.nearby) + whole[:, None]
    odds = len(boxes.weights) / _VOXELS_TO_BE_SURE * fits
    chances = torch.softmax(odds - away.square().sum(2) / (2 * _FROM_PEAK**2), dim=1)
    return (chances[:, :, None] * away).sum(1)


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """Particles of tomograms of one tilt scheme."""

    wedge: Tensor
    """(grid, grid, grid // 2 + 1) amplitudes that the scheme passes."""
    passed: Tensor
    """(side, side, side) centred: the squares of these, whole."""
    particles: Tensor
    """(n, shifts, v) voxels of the ball at each shift, weighed, mean 0 and norm 1."""


def _seen(
    tomograms: Sequence[tuple[Features, Floats]], boxes: _Boxes, rng: np.random.Generator
) -> list[_Seen]:
    """Read the particles that are aligned, of each tilt scheme."""
    aligned = min(1.0, _MOST_ALIGNED / max(sum(len(centres) for _, centres in tomograms), 1))
    schemes: list[tuple[Tensor, list[Tensor]]] = []
    for features, centres in tomograms:
        rows = np.sort(rng.permutation(len(centres))[: ceil(aligned * len(centres))])
        if len(rows):
            optics = _Optics.of(features, boxes)
            number = _scheme_of([wedge for wedge, _ in schemes], optics.wedge)
            if number is None:
                number = len(schemes)
                schemes.append((optics.wedge, []))
            blocks = boxes.read(features, centres[rows])
            schemes[number][1].append(boxes.shifted(optics.whitened(blocks)))
    return [
        _Seen(wedge=wedge, passed=boxes.whole(wedge) ** 2, particles=torch.cat(parts))
        for wedge, parts in schemes
    ]


def _of_random_turns(seen: Sequence[_Seen], boxes: _Boxes, rng: np.random.Generator) -> Tensor:
    """(side, side, side) average of particles that are turned anyhow."""
    total = _Sum(boxes)
    for some in seen:
        count, shifts, _ = some.particles.shape
        turns = _matrices(Rotation.random(count, random_state=rng))
        total.add(some, torch.arange(count) * shifts + shifts // 2, turns, torch.ones(count))
    return total.average(_FIRST_DETAIL)


def _improved(
    average: Tensor,
    seen: Sequence[_Seen],
    boxes: _Boxes,
    orientations: int,
    detail: float,
    *,
    rng: np.random.Generator,
) -> tuple[Tensor, float]:
    """Align all particles with an average, once.

    Returns
    -------
    tuple
        (side, side, side) average of them, and how well they fitted the one before: the mean of
        their log likelihoods, in units of a correlation.
    """
    total, fit = _Sum(boxes), 0.0
    for some in seen:
        count, shifts, _ = some.particles.shape
        # Each round another grid, so that none of its gaps stays one.
        turns = _matrices(Rotation.random(random_state=rng) * even_rotations(orientations))
        fits = some.particles.flatten(0, 1) @ boxes.turned(average, turns, some.wedge).T
        best, at = fits.reshape(count, -1).topk(_LIKELIEST, dim=1)
        chances = torch.softmax(_SHARPNESS * best, dim=1)
        fit += float(torch.logsumexp(_SHARPNESS * best, dim=1).sum()) / _SHARPNESS
        likely = chances > 0.01
        rows = (torch.arange(count)[:, None] * shifts + at // len(turns))[likely]
        total.add(some, rows, turns[(at % len(turns))[likely]], chances[likely])
    return total.average(detail), fit / sum(len(some.particles) for some in seen)


class _Sum:
    """Particles turned back and added, and how often each spatial frequency was let through."""

    def __init__(self, boxes: _Boxes) -> None:
        self._boxes = boxes
        self._total, self._weight = torch.zeros(2, len(boxes.places))
        self._chances = 0.0

    def add(self, seen: _Seen, rows: Tensor, turns: Tensor, chances: Tensor) -> None:
        """Add particles at shifts, (n,) rows of all of these, with (n,) chances.

        They are turned by (n, 3, 3), and turned back.
        """
        particles, back = seen.particles.flatten(0, 1), turns.transpose(1, 2)
        for some in torch.split(torch.arange(len(rows)), _AT_ONCE):
            passed = seen.passed.expand(len(some), -1, -1, -1)
            both = torch.stack([self._boxes.filled(particles[rows[some]]), passed], dim=1)
            turned = self._boxes.sampled(both, back[some])
            self._total += chances[some] @ turned[:, 0]
            self._weight += chances[some] @ turned[:, 1]
        self._chances += float(chances.sum())

    def average(self, detail: float) -> Tensor:
        """(side, side, side) average up to `detail` cycles a voxel."""
        boxes = self._boxes
        parts = torch.stack([self._total, self._weight, torch.ones_like(self._total)])
        total, weight, known = boxes.filled(parts)
        spectrum = fft.fftn(total) / (fft.ifftshift(weight) + _WIENER * self._chances)
        # How often frequencies beyond the ball were let through was not asked.
        spectrum *= fft.ifftshift(known)
        return boxes.low_passed(fft.ifftn(spectrum).real, detail) * boxes.ball


def even_rotations(number: int) -> Rotation:
    """Rotations that fill all orientations evenly: a super-Fibonacci spiral (Alexa, CVPR 2022).

    >>> len(even_rotations(10))
    10
    """
    s = np.arange(number) + 0.5
    phi, psi = np.sqrt(2), 1.533751168755204288118041  # psi solves psi**4 = psi + 4
    near, far = np.sqrt(s / number), np.sqrt(1 - s / number)
    alpha, beta = 2 * np.pi * s / phi, 2 * np.pi * s / psi
    quaternions = [near * np.sin(alpha), near * np.cos(alpha), far * np.sin(beta)]
    return Rotation.from_quat(np.stack([*quaternions, far * np.cos(beta)], axis=1))


def _scheme_of(known: Sequence[Tensor], wedge: Tensor) -> int | None:
    """Which of these wedges this one is, but for errors of measurement; None if none."""
    seen = _frequencies(len(wedge)) < _BAND
    away = [float((one - wedge)[seen].abs().mean()) for one in known]
    return int(np.argmin(away)) if away and min(away) < _SAME_WEDGE else None


@lru_cache(maxsize=4)
def _shown_by_scheme(
    template: Template, number: int, radius: float, device: str
) -> tuple[Tensor, Tensor, list[int]]:
    """`_shown` through one of the template's own wedges, made once for all tomograms."""
    assert template.wedges is not None
    with torch.device(device):
        wedge = torch.as_tensor(template.wedges[number])
        return _shown(template, _Boxes(radius), wedge)


def _shown(template: Template, boxes: _Boxes, wedge: Tensor) -> tuple[Tensor, Tensor, list[int]]:
    """Templates of all three kinds, through a wedge.

    Returns
    -------
    tuple
        (v, k) main axes, (k, n) templates along these, and how many there are of each kind:
        in all orientations, their mirror images, and lumps.
    """
    volume = torch.as_tensor(template.volume)
    turned = boxes.turned(volume, _matrices(even_rotations(_ORIENTATIONS)), wedge)
    lumps = boxes.lumps(volume, _DECOYS, wedge)
    # Dark, where the particle is.
    lumps *= torch.sign(turned.mean(0) @ lumps.mean(0))
    # Through its centre, which the wedge does not notice, each becomes its mirror image.
    kinds = [turned, turned.flip(1), lumps]
    axes = _main_axes(torch.cat([kind[::_OF_WHICH_ONE] for kind in kinds]))
    few = torch.cat([kind @ axes for kind in kinds]).T
    return axes, few, [len(kind) for kind in kinds]


def _main_axes(templates: Tensor) -> Tensor:
    """(v, k) the few ways in which (n, v) templates vary, where products are smaller."""
    with torch.random.fork_rng(devices=[templates.device] if templates.is_cuda else []):
        torch.manual_seed(0)
        most = min(_COMPONENTS, *templates.shape)
        axes: Tensor = torch.svd_lowrank(templates, q=most, niter=2)[2]
    return axes


class _Nearby:
    """Voxels of the ball at all places near peaks, along axes.

    What is the same for all peaks is made once, memory too: to touch new memory takes longer than
    to compute what is in it.
    """

    def __init__(self, boxes: _Boxes, axes: Tensor, *, at_once: int) -> None:
        """Make ready for (v, k) axes of voxels as of `_Boxes.shifted`, and for so many peaks."""
        reach = max(map(max, boxes.nearby))
        wide = boxes.side + 2 * reach
        self._part = slice(_MARGIN - reach, _MARGIN + boxes.side + reach)
        self._total = boxes.weights.sum()
        self._rows, self._away = boxes.rows(wide, reach, boxes.nearby)
        self._balls = torch.zeros(len(self._away), wide**3)
        self._balls.scatter_(
            1,
            self._rows + self._away[:, None],
            boxes.weights.expand(len(self._away), -1),
        )
        self._outer_rows, self._outer_away = boxes.rows(boxes.outer, _MARGIN, boxes.nearby)
        # Axes have no mean of their own, and so see none.
        self._axes = axes * boxes.weights.sqrt()[:, None]
        self._rough = self._axes[:, :_ROUGH].T.contiguous()
        self._voxels = torch.empty(len(self._rows) * at_once)
        self._found = torch.empty(at_once, len(self._away), len(self._rough))

    def roughly(self, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """(n, p, k) along the first axes at each of p places near n peaks; (n, p) norms there."""
        count = len(blocks)
        # A voxel of all boxes lies together, so that those of the ball are copied in long pieces.
        every = blocks[:, self._part, self._part, self._part].permute(1, 2, 3, 0)
        every = every.reshape(-1, count)
        mean = self._balls @ every / self._total
        squares = self._balls @ every.square()
        norms = (squares - self._total * mean**2).clamp(min=0).sqrt().clamp(min=1e-6)
        voxels = self._voxels[: len(self._rows) * count].view(-1, count)
        found = self._found[:count]
        for number, by in enumerate(self._away):
            torch.index_select(every, 0, self._rows + by, out=voxels)
            found[:, number] = (self._rough @ voxels / norms[number]).T
        return found, norms.T

    def at(self, blocks: Tensor, places: Tensor, norms: Tensor) -> Tensor:
        """(n, m, k) along all axes at (n, m) numbers of places near n peaks, of (n, m) norms."""
        rows = (self._outer_rows + self._outer_away[places][:, :, None]).flatten(1)
        voxels = blocks.flatten(1).gather(1, rows).reshape(*places.shape, -1)
        return voxels @ self._axes / norms[:, :, None]


class _Boxes:
    """Cubes around places, of which a ball is compared."""

    def __init__(self, radius: float) -> None:
        self.radius = radius
        self.side = side(radius)
        self.half = self.side // 2
        self.grid = grid(radius)
        self.outer = self.side + 2 * _MARGIN + 1  # even, for the transform
        reach = min(_NEARBY, _NEARBY_RADII * radius)
        steps = range(-int(reach), int(reach) + 1)
        self.nearby = [
            (z, y, x) for z, y, x in product(steps, repeat=3) if z * z + y * y + x * x <= reach**2
        ]
        axis = torch.arange(self.side) - self.half
        squared = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2
        self.ball = (MASK_RADII * radius + 0.5 - squared.sqrt()).clamp(0, 1)
        self.inside = self.ball.flatten() > 0
        self.weights = self.ball.flatten()[self.inside]
        self.places = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
        self.places = self.places.reshape(-1, 3)[self.inside].float()

    def read(self, features: Features, centres: Floats) -> Tensor:
        """(n, outer, outer, outer) standardised density around (n, 3) places."""
        corners = np.rint(centres).astype(int) - self.half - _MARGIN
        shape = (self.outer,) * 3
        blocks = [
            features.density(Window(corner=(z, y, x), shape=shape)) for z, y, x in corners.tolist()
        ]
        return torch.as_tensor(np.stack(blocks))

    def shifted(self, blocks: Tensor) -> Tensor:
        """(n, s, v) voxels of the ball at each of s shifts, weighed, mean 0 and norm 1."""
        middle, away = self.rows(self.outer, _MARGIN, _SHIFTS)
        every = blocks.flatten(1)
        return torch.stack([self._normalised(every[:, middle + by]) for by in away], dim=1)

    def rows(
        self, wide: int, margin: int, steps: Sequence[tuple[int, ...]]
    ) -> tuple[Tensor, Tensor]:
        """(v,) rows of the ball's voxels in a flat cube of a margin more, (s,) what steps add."""
        strides = torch.tensor([wide**2, wide, 1])
        middle = (self.places.long() + self.half + margin) * strides
        return middle.sum(1), (torch.tensor(steps) * strides).sum(1)

    def normalised(self, boxes: Tensor) -> Tensor:
        """(n, v) voxels of the ball of (n, side, side, side), weighed, mean 0 and norm 1."""
        return self._normalised(boxes.flatten(1)[:, self.inside])

    def _normalised(self, voxels: Tensor) -> Tensor:
        """(..., v) voxels of the ball, weighed, mean 0 and norm 1."""
        mean = (voxels @ self.weights)[..., None] / self.weights.sum()
        voxels = (voxels - mean) * self.weights.sqrt()
        norm = voxels.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-6)
        normalised: Tensor = voxels / norm
        return normalised

    def filled(self, voxels: Tensor) -> Tensor:
        """(n, side, side, side) with (n, v) voxels in the ball and 0 outside."""
        full = torch.zeros(len(voxels), self.side**3)
        full[:, self.inside] = voxels
        return full.reshape(-1, self.side, self.side, self.side)

    def turned(self, volume: Tensor, turns: Tensor, wedge: Tensor) -> Tensor:
        """(k, v) templates: a volume in k orientations as a tomogram shows it, normalised.

        The volume is 0 outside of the ball, so only the ball's voxels are turned.
        """
        parts = []
        for some in torch.split(turns, _AT_ONCE):
            voxels = self.sampled(volume.expand(len(some), 1, -1, -1, -1), some)
            shown = _filtered(self.filled(voxels[:, 0]), wedge)
            parts.append(self.normalised(shown))
        return torch.cat(parts)

    def sampled(self, volumes: Tensor, turns: Tensor) -> Tensor:
        """(n, c, v) voxels in the ball of (n, c, side, side, side), turned by (n, 3, 3).

        Each is turned about its centre by the matrix, which acts on ``z y x``.
        """
        # Where each voxel comes from, in the grid's order and units: x y z, the faces at 1.
        grid = (self.places @ turns).flip(2)[:, None, None] / self.half
        return functional.grid_sample(volumes, grid, align_corners=True)[:, :, 0, 0]

    def lumps(self, volume: Tensor, number: int, wedge: Tensor) -> Tensor:
        """(k, v) templates: random shapes of a volume's size and spectrum, seen in one orientation.

        Each is of a few Gaussian lumps in an ellipsoid, and has in every shell of spatial
        frequencies the power that the volume has there.
        """
        shells, sides = _Shells(self.grid), (self.grid,) * 3
        power = shells.means(fft.rfftn(volume, s=sides).abs().square()[None])
        axis = torch.arange(self.side) - self.half
        rng = np.random.default_rng(0)
        parts = []
        for start in range(0, number, _AT_ONCE):
            count = min(_AT_ONCE, number - start)
            size = self.radius * rng.uniform(0.6, 1.05, (count, 1))
            shape = np.exp(rng.normal(0, 0.25, (count, 1, 3)))
            shape /= np.cbrt(shape.prod(axis=2, keepdims=True))
            places = rng.normal(size=(count, _LUMPS, 3))
            places /= np.linalg.norm(places, axis=2, keepdims=True)
            places *= np.cbrt(rng.uniform(size=(count, _LUMPS, 1))) * 0.8 * size[:, :, None] * shape
            weights = rng.uniform(0.5, 1.5, (count, _LUMPS))
            weights *= rng.choice([1, 1, 1, -0.5], (count, _LUMPS))  # some are holes
            weights *= np.arange(_LUMPS) < rng.integers(3, _LUMPS + 1, (count, 1))
            sigma = size * rng.uniform(0.15, 0.4, (count, _LUMPS))
            at, width, weight = (
                torch.as_tensor(a.astype(np.float32)) for a in (places, sigma, weights)
            )
            z, y, x = (
                torch.exp(-((axis - at[:, :, i, None]) ** 2) / (2 * width[:, :, None] ** 2))
                for i in range(3)
            )
            z = z * weight[:, :, None]
            density = torch.einsum("nkz,nky,nkx->nzyx", z, y, x).clamp(min=0).tanh() * self.ball
            spectra = fft.rfftn(density, s=sides, dim=(1, 2, 3))
            gain = (power / shells.means(spectra.abs().square()).clamp(min=1e-12)).sqrt()
            spectra *= gain[:, shells.number] * wedge
            shown = fft.irfftn(spectra, s=sides, dim=(1, 2, 3))
            parts.append(self.normalised(_cropped(shown, self.side)))
        return torch.cat(parts)

    def low_passed(self, volume: Tensor, detail: float) -> Tensor:
        """Without frequencies above `detail` cycles a voxel."""
        return _filtered(volume, torch.sigmoid((detail - _frequencies(self.side)) / _EDGE))

    def whole(self, wedge: Tensor) -> Tensor:
        """(side, side, side) centred transform of a wedge, of which the grid has half."""
        axis = torch.arange(self.side) - self.half
        z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
        sign = torch.where(x < 0, -1, 1)
        # The nearest of the grid's frequencies, which are others than the box has.
        z, y, x = (
            (number * self.grid / self.side).round().long()
            for number in (sign * z, sign * y, x.abs())
        )
        return wedge[z % self.grid, y % self.grid, x]


@dataclass(frozen=True, kw_only=True)
class _Optics:
    """What a tomogram does to all that is in it, measured on boxes at random places."""

    white: Tensor
    """(o, o, o // 2 + 1) amplitudes that make its noise white."""
    wedge: Tensor
    """(g, g, g // 2 + 1) amplitudes, 1 where it shows what is there and 0 in its missing wedge."""

    @classmethod
    def of(cls, features: Features, boxes: _Boxes) -> _Optics:
        """Measure a tomogram."""
        rng = np.random.default_rng(0)
        high = np.maximum(np.array(features.shape) - boxes.half - 1, boxes.half + 1)
        places = rng.uniform(boxes.half, high, size=(_NOISE_BOXES, 3))
        blocks = boxes.read(features, places)
        shells = _Shells(boxes.outer)
        (spectrum,) = shells.means(_power(blocks)[None])
        # Nothing is raised where there is next to nothing, as beyond a band limit.
        amplitude = (spectrum + 1e-3 * spectrum.max()).rsqrt()
        frequency = _frequencies(boxes.outer)
        white = amplitude[shells.number] * torch.sigmoid((_BAND - frequency) / _EDGE)
        inner = _filtered(blocks, white)[
            :, *(slice(_MARGIN, _MARGIN + boxes.grid) for _ in range(3))
        ]
        shells = _Shells(boxes.grid)
        power = _power(inner)
        # In every shell most directions were imaged.
        imaged = shells.quantiles(power, 0.75)[shells.number]
        return cls(white=white, wedge=(power / imaged.clamp(min=1e-12)).clamp(0, 1).sqrt())

    def whitened(self, blocks: Tensor) -> Tensor:
        """(n, o, o, o) with white noise."""
        return _filtered(blocks, self.white)


class _Shells:
    """Spatial frequencies of a cube, in shells of one voxel of its transform."""

    def __init__(self, size: int) -> None:
        self.number = (_frequencies(size) * size).round().long().clamp(max=size // 2 + 4)

    def means(self, values: Tensor) -> Tensor:
        """(n, k) mean of (n, ...) values in each shell."""
        counts = torch.bincount(self.number.flatten())
        sums = torch.zeros(len(values), len(counts))
        return sums.index_add_(1, self.number.flatten(), values.flatten(1)) / counts.clamp(min=1)

    def quantiles(self, values: Tensor, share: float) -> Tensor:
        """(k,) quantile of each shell."""
        return torch.stack(
            [
                values[self.number == shell].quantile(share)
                for shell in range(int(self.number.max()) + 1)
            ]
        )


def _frequencies(size: int) -> Tensor:
    """(n, n, n // 2 + 1) cycles a voxel."""
    axis, half = fft.fftfreq(size), fft.rfftfreq(size)
    frequencies: Tensor = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + half**2).sqrt()
    return frequencies


def _filtered(volumes: Tensor, amplitudes: Tensor) -> Tensor:
    """(..., n, n, n) volumes, their spectra of a grid times its (g, g, g // 2 + 1) amplitudes."""
    axes, sides = (-3, -2, -1), (len(amplitudes),) * 3
    spectra = fft.rfftn(volumes, s=sides, dim=axes) * amplitudes
    return _cropped(fft.irfftn(spectra, s=sides, dim=axes), volumes.shape[-1])


def _cropped(volumes: Tensor, size: int) -> Tensor:
    """(..., size, size, size) without the zeros that were put behind them."""
    return volumes[..., :size, :size, :size]


def _power(blocks: Tensor) -> Tensor:
    """(n, n, n // 2 + 1) mean power of cubes that fall off to their faces."""
    size = blocks.shape[-1]
    window = torch.hann_window(size + 2, periodic=False)[1:-1]
    falling = blocks * window[:, None, None] * window[:, None] * window
    power: Tensor = fft.rfftn(falling, dim=(1, 2, 3)).abs().square().mean(0)
    return power


def _matrices(turns: Rotation) -> Tensor:
    """(n, 3, 3) that turn ``z y x``."""
    return torch.as_tensor(turns.as_matrix().astype(np.float32))
