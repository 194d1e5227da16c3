"""Volumes that are stored in compressed chunks, read slab by slab when they are needed."""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from tomopicker.errors import InputError, is_out_of_memory

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tomopicker.types import Shape

_SLAB_BYTES = 1 << 30
"""A slab larger than this is not kept; one of 256 planes of 1000 by 1000 floats still is."""


class ChunkedVolume:
    """A ``z y x`` volume that is indexed as an array in memory is.

    Stages read planes one after the other, and a plane of a chunk costs the whole chunk: so the
    slab of chunks that was read last is kept.

    Parameters
    ----------
    source
        An array of zarr or h5py, or what is indexed as one by numbers and slices; axes before the
        last three have length 1.
    depth
        Planes in a chunk.
    path
        Of its file, to name it where a chunk is damaged.
    """

    def __init__(self, source: Any, *, depth: int, path: Path) -> None:
        self._source, self._path = source, path
        self._first = (0,) * (source.ndim - 3)
        self._depth = max(1, depth)
        self._kept: tuple[int, NDArray[Any]] | None = None
        self.shape: Shape = tuple(source.shape[-3:])
        self.ndim = 3
        self.size = math.prod(self.shape)
        self.dtype = np.dtype(source.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> NDArray[Any]:
        z, *rest = index if isinstance(index, tuple) else (index,)
        if isinstance(z, slice):
            planes = z
        else:
            # One beyond the end must be an error: by it a loop over the planes ends.
            plane = range(len(self))[z]
            planes = slice(plane, plane + 1)
        start, stop, step = planes.indices(len(self))
        number = start // self._depth
        plane_bytes = self.dtype.itemsize * self.shape[1] * self.shape[2]
        whole_slab = stop <= (number + 1) * self._depth and step > 0 and stop > start
        if whole_slab and plane_bytes * self._depth <= _SLAB_BYTES:
            slab = self._slab(number)
            first = number * self._depth
            block = slab[start - first : stop - first : step]
        elif step > 0 and all(_is_forward(one) for one in rest):
            # Across the slabs, as a slice along y or x is, only the chunks that it touches.
            block = self._read(slice(start, stop, step), *rest)
            return block if isinstance(z, slice) else block[0]
        else:
            block = self._read(slice(start, stop, step))
        return block[(slice(None) if isinstance(z, slice) else 0, *rest)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        whole = self._read(slice(None))
        return whole if dtype is None else whole.astype(dtype)

    def _slab(self, number: int) -> NDArray[Any]:
        # Read once: another thread may keep another slab at any time.
        kept = self._kept
        if kept is None or kept[0] != number:
            planes = slice(number * self._depth, (number + 1) * self._depth)
            kept = self._kept = (number, self._read(planes))
        return kept[1]

    def _read(self, *index: Any) -> NDArray[Any]:
        """Read a block.

        Raises
        ------
        InputError
            When it is damaged, or a library that unpacks it says so in its own way.
        """
        try:
            return np.asarray(self._source[(*self._first, *index)])
        except (OSError, ValueError, TypeError, RuntimeError, EOFError, zlib.error) as error:
            if is_out_of_memory(error):
                raise
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{self._path}: a part of it cannot be read ({reason}); copy or convert it again"
            ) from error


def _is_forward(index: Any) -> bool:
    """Tell whether zarr and h5py take an index as numpy does."""
    if isinstance(index, slice):
        return index.step is None or index.step > 0
    return isinstance(index, int | np.integer)
