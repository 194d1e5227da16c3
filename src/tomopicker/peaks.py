"""Scores to separated peaks: exact greedy non-maximum suppression, paper 3.4."""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from tomopicker.errors import InputError
from tomopicker.types import Floats, Shape, Volume


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """Picked voxels, best first."""

    voxels: NDArray[np.int64]
    """(n, 3), ``z y x``."""
    scores: Floats
    """(n,), never increasing."""

    def __len__(self) -> int:
        return len(self.voxels)

    def best(self, count: int) -> Peaks:
        """The first ones."""
        return Peaks(voxels=self.voxels[:count], scores=self.scores[:count])


def find_peaks(
    scores: Volume,
    *,
    radius: float,
    count: int | None = None,
    threshold: float | None = None,
) -> Peaks:
    """Pick the maximum, exclude the ball of `radius` around it, and repeat (paper 3.4).

    The picks are those of that loop over the whole volume, ties included: of equal scores the
    first in ``z y x`` order is picked. Voxels that are NaN or -inf are never picked. The scores
    are only read, so a memory-mapped volume will do.

    Parameters
    ----------
    scores
        (z, y, x), of any real type.
    radius
        In voxels; a voxel at squared distance d² <= radius² from a pick is excluded.
    count
        Most picks to make; fewer are made when nothing is left. None sets no limit.
    threshold
        Picks score above it. None sets no threshold.

    Raises
    ------
    InputError
        When the scores are not a volume, or a setting is out of range.

    Examples
    --------
    >>> find_peaks(np.array([[[1.0, 5.0, 4.0, 3.0]]]), radius=1).voxels.tolist()
    [[0, 0, 1], [0, 0, 3]]
    """
    if scores.ndim != 3:
        raise InputError(f"scores must be a volume (z, y, x), got shape {scores.shape}")
    if not radius > 0:
        raise InputError(f"the radius of a pick must be above 0 voxels, got {radius}")
    if count is not None and count < 0:
        raise InputError(f"the number of picks must be 0 or more, got {count}")
    if threshold is not None and math.isnan(threshold):
        raise InputError("the threshold of a pick's score must be a number, got nan")
    floor = -math.inf if threshold is None else threshold
    limit = scores.size if count is None else count

    voxels: list[_Voxel] = []
    values: list[float] = []
    blocks = _Blocks(scores, radius, floor)
    # A block waits at a place that its best live voxel cannot pass: its first maximum when last
    # looked at, or, before that, its maximum at its first corner. Exclusion only moves voxels
    # back, so a block need not be looked at again until it comes to the head of the queue.
    queue = blocks.places()
    heapq.heapify(queue)
    while queue and len(voxels) < limit:
        best = blocks.best(queue[0][2])
        if best is None:
            heapq.heappop(queue)
            continue
        place, voxel = best
        heapq.heapreplace(queue, place)
        if queue[0] is place:
            voxels.append(voxel)
            values.append(-place[0])
            blocks.exclude(voxel)
    return Peaks(
        voxels=np.array(voxels, dtype=np.int64).reshape(-1, 3),
        scores=np.array(values, dtype=np.float64),
    )


def refine(scores: Volume, peaks: Peaks, *, radius: float) -> Floats:
    """Move each peak to the centroid of the scores around it.

    The centroid is that of the scores, less their minimum, in a ball that follows it until it
    rests: so neither the grid nor the background pulls it to the ball's centre. Near a face of
    the volume the ball is cut on both sides alike, for the missing half would push it inwards.
    A plateau pulls towards its middle, and a constant neighbourhood does not move.

    Parameters
    ----------
    scores
        (z, y, x), the volume in which `peaks` were found; NaN and infinite voxels are ignored.
    peaks
        n peaks.
    radius
        Of the ball, in voxels; best about that of the bump that a particle makes.

    Returns
    -------
    (n, 3) centres ``z y x`` in voxels, each at most 1.5 voxels, and at most `radius`, from its
    peak.

    Raises
    ------
    InputError
        When `radius` is not positive.
    """
    if not radius > 0:
        raise InputError(f"the radius to refine in must be above 0 voxels, got {radius}")
    centres = peaks.voxels.astype(np.float64)
    farthest = min(_FARTHEST_MOVE, radius)
    # Many at once: alone a peak takes a thousand times the time of the arithmetic.
    some = max(1, int(_REFINED_VOXELS / (2 * min(radius, max(scores.shape)) + 1) ** 3))
    for start in range(0, len(centres), some):
        moving = np.arange(start, min(start + some, len(centres)))
        for _ in range(_MOVES):
            before = centres[moving]
            moves = _centroids(scores, before, radius) - peaks.voxels[moving]
            lengths = np.linalg.norm(moves, axis=1, keepdims=True)
            moves *= np.minimum(1.0, farthest / np.maximum(lengths, farthest))
            centres[moving] = peaks.voxels[moving] + moves
            moving = moving[np.abs(centres[moving] - before).max(axis=1) >= _REST]
            if not len(moving):
                break
    return centres


def are_apart(centres: Floats, *, before: Floats, radius: float) -> NDArray[np.bool_]:
    """Tell which of peaks that have moved stay: those that no better one that stays has met.

    Two meet within the radius, if they are nearer to each other than they were.

    Parameters
    ----------
    centres, before
        (n, 3) now and as they were, the best first.

    >>> before = np.array([[0.0, 0, 0], [0, 0, 4], [0, 0, 8]])
    >>> are_apart(before * 0.5, before=before, radius=3).tolist()
    [True, False, True]
    """
    stay = np.ones(len(centres), dtype=bool)
    if not len(centres):
        return stay
    pairs = KDTree(centres).query_pairs(radius, output_type="ndarray")
    now, then = (
        np.linalg.norm(at[pairs[:, 0]] - at[pairs[:, 1]], axis=1) for at in (centres, before)
    )
    met = pairs[now < then]
    # By the better one: whether it stays is known when its turn comes.
    for better, other in met[np.lexsort(met.T[::-1])].tolist():
        stay[other] &= not stay[better]
    return stay


_Voxel: TypeAlias = Shape  # z y x
_Place: TypeAlias = tuple[float, int, int]  # minus the score, flat index, block

_SIDES = _DEPTH, _HIGH, _WIDE = 8, 16, 32
"""Of a block: larger ones are slow to look at, smaller ones are too many."""
_ROW = np.dtype("<u4")  # a bit for each voxel of a block's row along x
_REFINED_VOXELS = 1 << 18  # around peaks that are refined together, 2 MiB each array
_FARTHEST_MOVE = 1.5
_MOVES = 10
_REST = 0.01


class _Blocks:
    """The best voxel left in every block of a volume, as balls are excluded from it."""

    def __init__(self, scores: Volume, radius: float, floor: float) -> None:
        self._scores = np.asarray(scores)  # slices of a memory map are slow to make
        self._dtype = np.result_type(scores.dtype, np.float32)
        self._grid = _grid_of(scores.shape)
        self._floor = floor
        # Squared distances of whole voxels: the integer part of radius² is all that counts.
        self._reach = [int(min(radius, size)) for size in scores.shape]
        self._limit = int(min(radius, sum(scores.shape)) ** 2)
        self._half_widths, self._rows = _ball_tables(self._reach, self._limit)
        bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
        # What each eight voxels of a row may score at most, by the byte that says so.
        self._caps = np.where(bits, -np.inf, np.inf).astype(self._dtype)
        # Copies of blocks would soon be one of the volume, so a bit says which voxels are excluded.
        # Only a block that came to the head of the queue has those, until it is spent; the others
        # keep the list of the picks that reach them.
        self._excluded: dict[int, NDArray[np.uint32]] = {}
        self._pending: defaultdict[int, list[_Voxel]] = defaultdict(list)

    def places(self) -> list[_Place]:
        """Place of every block that holds scores above the floor: its maximum, at its corner."""
        maxima = _block_maxima(self._scores).ravel().astype(np.float64)
        blocks = np.flatnonzero(maxima > self._floor)
        corners = np.stack(np.unravel_index(blocks, self._grid)) * np.array(_SIDES)[:, None]
        flat = np.ravel_multi_index(tuple(corners), self._scores.shape)
        return list(zip((-maxima[blocks]).tolist(), flat.tolist(), blocks.tolist(), strict=True))

    def best(self, block: int) -> tuple[_Place, _Voxel] | None:
        """Place and voxel of the block's first maximum; None when none is above the floor."""
        _, grid_rows, grid_columns = self._grid
        _, rows, columns = self._scores.shape
        layer, line = divmod(block, grid_rows * grid_columns)
        z, y, x = layer * _DEPTH, line // grid_columns * _HIGH, line % grid_columns * _WIDE
        excluded = self._excluded.get(block)
        for centre in self._pending.pop(block, ()):
            if excluded is None:
                excluded = self._excluded[block] = np.zeros((_DEPTH, _HIGH), dtype=_ROW)
            excluded |= self._ball(z - centre[0], y - centre[1], x - centre[2])
        values = self._scores[z : z + _DEPTH, y : y + _HIGH, x : x + _WIDE]
        live = values.astype(self._dtype, order="C")  # in one piece, all that follows is fast
        depth, high, wide = live.shape
        if excluded is not None:
            caps = self._caps.take(excluded.view(np.uint8), axis=0).reshape(_DEPTH, _HIGH, _WIDE)
            np.minimum(live, caps[:depth, :high, :wide], out=live)
        first = int(live.argmax())
        score = float(live.item(first))
        if score != score:  # not a number, which is the maximum wherever there is one
            np.fmax(live, -np.inf, out=live)
            first = int(live.argmax())
            score = float(live.item(first))
        if not score > self._floor:
            self._excluded.pop(block, None)
            return None
        z, y, x = z + first // (high * wide), y + first // wide % high, x + first % wide
        return (-score, (z * rows + y) * columns + x, block), (z, y, x)

    def exclude(self, centre: _Voxel) -> None:
        """Exclude the ball around a pick."""
        _, rows, columns = self._grid
        z, y, x = (
            _blocks_near(at, reach, side, size)
            for at, reach, side, size in zip(centre, self._reach, _SIDES, self._grid, strict=True)
        )
        for i, dz in z:
            for j, dy in y:
                start, left = (i * rows + j) * columns, self._limit - dz - dy
                for k, dx in x:
                    if dx <= left:
                        self._pending[start + k].append(centre)

    def _ball(self, z: int, y: int, x: int) -> NDArray[np.uint32]:
        """Rows of a block in the ball whose centre is `z y x` before the block's corner."""
        z, y = z + self._reach[0] + _DEPTH, y + self._reach[1] + _HIGH
        half_widths = self._half_widths[z : z + _DEPTH, y : y + _HIGH]
        ball: NDArray[np.uint32] = self._rows[x + self._reach[2] + _WIDE].take(half_widths)
        return ball


@lru_cache(maxsize=4096)
def _blocks_near(at: int, reach: int, side: int, count: int) -> list[tuple[int, int]]:
    """Blocks along an axis within reach of a voxel, each with its squared distance."""
    first, last = max(0, at - reach) // side, min(count - 1, (at + reach) // side)
    return [
        (index, max(index * side - at, at - (index + 1) * side + 1, 0) ** 2)
        for index in range(first, last + 1)
    ]


def _ball_tables(reach: Sequence[int], limit: int) -> tuple[NDArray[np.intp], NDArray[np.uint32]]:
    """What makes the rows of a ball: how wide each is, and the bits of a row of each width.

    Returns
    -------
    tuple
        Half the width of the ball's row at each distance ``z y`` from its centre, 0 where there is
        none and 1 where it is the middle only; and, for each distance along x from the centre to a
        block's corner, the bits of each such width. The first distance is that of a block that ends
        `reach` before the centre.
    """
    z, y, x = (np.arange(-one - side, one + side) for one, side in zip(reach, _SIDES, strict=True))
    left = limit - z[:, None] ** 2 - y**2
    # In double precision the root of a square of this size is exact.
    half = np.where(left < 0, 0, np.floor(np.sqrt(np.maximum(left, 0))) + 1)
    half_widths = np.minimum(half, reach[2] + 1).astype(np.intp)
    width = np.arange(reach[2] + 2, dtype=np.int64)
    first = np.clip(1 - width - x[:, None], 0, _WIDE)
    last = np.clip(width - x[:, None], first, _WIDE)
    rows = (np.int64(1) << last) - (np.int64(1) << first)
    return half_widths, rows.astype(_ROW)


def _grid_of(shape: Sequence[int]) -> list[int]:
    """Blocks along each axis of a volume."""
    return [-(-size // side) for size, side in zip(shape, _SIDES, strict=True)]


def _block_maxima(scores: Volume) -> Volume:
    """Maximum of every block, ``z y x`` blocks; NaN for a block that holds nothing else."""
    _, rows, columns = scores.shape
    grid = _grid_of(scores.shape)
    dtype = np.result_type(scores.dtype, np.float32)
    maxima = np.empty(grid, dtype=dtype)
    plane = np.full((grid[1] * _HIGH, grid[2] * _WIDE), np.nan, dtype=dtype)
    for layer, start in enumerate(range(0, len(scores), _DEPTH)):
        np.fmax.reduce(scores[start : start + _DEPTH], axis=0, out=plane[:rows, :columns])
        lines = np.fmax.reduce(plane.reshape(grid[1], _HIGH, -1), axis=1)
        np.fmax.reduce(lines.reshape(grid[1], grid[2], _WIDE), axis=2, out=maxima[layer])
    return maxima


def _centroids(scores: Volume, centres: Floats, radius: float) -> Floats:
    """Centroids (n, 3) of the scores, less their minimum, in balls around centres (n, 3)."""
    last = np.array(scores.shape) - 1
    # The mirror image of every voxel of a box must be in the volume too.
    reach = np.minimum(radius, np.minimum(centres, last - centres))
    low = np.ceil(centres - reach).astype(np.intp)
    high = np.floor(centres + reach).astype(np.intp)
    voxels, offsets, insides = [], [], []
    for axis, longest in enumerate((high - low).max(axis=0) + 1):
        shape = [len(centres), 1, 1, 1]
        shape[axis + 1] = longest
        at = low[:, axis, None] + np.arange(longest)
        voxels.append(np.minimum(at, last[axis]).reshape(shape))
        offsets.append((at - centres[:, axis, None]).reshape(shape))
        insides.append((at <= high[:, axis, None]).reshape(shape))
    z, y, x = offsets
    values = scores[tuple(voxels)].astype(np.float64)  # (n, z, y, x)
    ball = (z**2 + y**2 + x**2 <= radius**2) & insides[0] & insides[1] & insides[2]
    ball &= np.isfinite(values)
    least = values.min(axis=(1, 2, 3), where=ball, initial=np.inf)
    weights = np.where(ball, values, 0) - np.where(ball, least[:, None, None, None], 0)
    total = weights.sum(axis=(1, 2, 3))
    moves = np.stack([(weights * offset).sum(axis=(1, 2, 3)) for offset in offsets], axis=1)
    moved: Floats = centres + moves / np.where(total > 0, total, np.inf)[:, None]
    return moved
