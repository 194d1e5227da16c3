"""Slices: pictures of a memory-mapped tomogram along any axis, fast enough to scroll."""

from __future__ import annotations

import io
import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from tomopicker.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tomopicker.types import Tomogram, Volume

Axis: TypeAlias = Literal["z", "y", "x"]
"""What a slice is perpendicular to."""

_SMALL = 1 << 27
"""Bytes of a volume that is in memory soon, so that slices along any axis come from the file."""

_PLANES = 9
_QUALITY = 90
_MARGIN = 0.5


class NotYetError(Exception):
    """Slices along x are being prepared; `share` of the work is done."""

    def __init__(self, share: float) -> None:
        super().__init__(f"{share:.0%} prepared")
        self.share = share


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a slice is shown."""

    thickness: int = 1
    """Neighbouring slices that are averaged."""
    smoothing: float = 0.0
    """Sigma in voxels of a Gaussian over the slice."""
    contrast: float = 1.0
    """How many times steeper than the grey values that suit the tomogram."""
    brightness: float = 0.0
    """How much brighter, in widths of the grey range."""


class Slices:
    """Pictures of one tomogram."""

    def __init__(self, tomogram: Tomogram) -> None:
        self._data = tomogram.data
        self._across = _Across(self._data)
        self._greys: dict[tuple[int, float], tuple[float, float]] = {}

    def close(self) -> None:
        """Stop what is being prepared; nothing more is asked of these slices."""
        self._across.stopped = True

    def picture(self, axis: Axis, at: int, look: Look) -> bytes:
        """Draw a slice as JPEG, rows and columns ``y x``, ``z x`` or ``y z``.

        Raises
        ------
        InputError
            When the volume has no such slice.
        NotYetError
            When it is large, and slices along x are still being prepared.
        """
        plane = self._plane(axis, at, look)
        low, high = self._grey_range(look)
        middle = (low + high) / 2 - look.brightness * (high - low)
        half = (high - low) / 2 / look.contrast
        grey = np.clip((plane - (middle - half)) * np.float32(255 / (2 * half)), 0, 255)
        file = io.BytesIO()
        Image.fromarray(grey.astype(np.uint8)).save(file, "JPEG", quality=_QUALITY)
        return file.getvalue()

    def _plane(self, axis: Axis, at: int, look: Look) -> NDArray[np.float32]:
        size = self._data.shape["zyx".index(axis)]
        if not 0 <= at < size:
            raise InputError(f"there is no slice {axis} = {at}; they go from 0 to {size - 1}")
        start = max(at - (look.thickness - 1) // 2, 0)
        stop = min(start + look.thickness, size)
        some = slice(start, stop)
        if axis == "z":
            plane = _mean(self._data[some], 0)
        elif axis == "y":
            plane = _mean(self._data[:, some], 1)
        else:
            plane = self._across.plane(some).T
        if look.smoothing:
            plane = gaussian_filter(plane, look.smoothing, mode="nearest", truncate=3.0)
        return np.ascontiguousarray(plane, dtype=np.float32)

    def _grey_range(self, look: Look) -> tuple[float, float]:
        """Values shown black and white, from a few slices as they are averaged and smoothed."""
        key = (look.thickness, look.smoothing)
        if key not in self._greys:
            depth = len(self._data)
            planes = np.unique(np.linspace(depth / 4, depth * 3 / 4, 3).astype(int))
            # A part of the plane is enough, and quick to smooth.
            _, rows, columns = self._data.shape
            middle = (
                slice(rows // 2 - min(rows // 2, 200), rows // 2 + 200),
                slice(columns // 2 - min(columns // 2, 200), columns // 2 + 200),
            )
            parts = []
            for at in planes.tolist():
                part = _mean(self._data[at : at + look.thickness, *middle], 0)
                parts.append(gaussian_filter(part, look.smoothing) if look.smoothing else part)
            low, high = np.percentile(np.stack(parts), [0.5, 99.5])
            self._greys[key] = (float(low), float(max(high, low + 1e-6 * max(abs(low), 1.0))))
        return self._greys[key]


class _Across:
    """Planes along x.

    In the file each of their voxels lies in another page: for one plane of a large volume all of
    it would be read. So it is read once, into a copy of 8 bits with rows and columns changed.
    """

    def __init__(self, data: Volume) -> None:
        self.stopped = False
        self._data = data
        self._small = math.prod(data.shape) * data.dtype.itemsize <= _SMALL
        self._copy: NDArray[np.uint8] | None = None
        self._share = 0.0
        self._error: OSError | MemoryError | None = None
        self._scale = (0.0, 1.0)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def plane(self, some: slice) -> NDArray[np.float32]:
        """Mean of some planes, ``z y``."""
        if self._small:
            return _mean(self._data[:, :, some], 2)
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._prepare, daemon=True)
                self._thread.start()
        if self._error is not None:
            raise InputError(
                f"slices along x cannot be shown ({self._error}); look along z and y instead"
            )
        if self._copy is None:
            raise NotYetError(self._share)
        low, step = self._scale
        return _mean(self._copy[:, some], 1) * np.float32(step) + np.float32(low + step / 2)

    def _prepare(self) -> None:
        try:
            low, high = wide_range(self._data)
            self._scale = (low, (high - low) / 255)
            depth, rows, columns = self._data.shape
            copy = np.empty((depth, columns, rows), dtype=np.uint8)
            for z in range(depth):
                if self.stopped:
                    return
                plane = np.asarray(self._data[z]).astype(np.float32)
                plane -= np.float32(low)
                plane *= np.float32(255 / (high - low))
                np.clip(plane, 0, 255, out=plane)
                if not np.isfinite(plane).all():
                    plane = np.nan_to_num(plane, copy=False, nan=127.0)
                copy[z] = plane.astype(np.uint8).T
                self._share = (z + 1) / depth
            self._copy = copy
        except (OSError, MemoryError) as error:
            self._error = error


def wide_range(data: Volume) -> tuple[float, float]:
    """Values between which nearly all of a volume lies, from a few of its planes.

    Raises
    ------
    InputError
        When none of them holds a finite number.
    """
    depth, rows, columns = data.shape
    step = max(1, math.isqrt(rows * columns // 50_000))
    planes = np.unique(np.linspace(0, depth - 1, _PLANES).astype(int)).tolist()
    sample = np.concatenate([np.asarray(data[z])[::step, ::step].ravel() for z in planes])
    sample = sample[np.isfinite(sample)].astype(np.float64)
    if not len(sample):
        raise InputError("the tomogram holds no finite number; reconstruct it again")
    low, high = np.percentile(sample, [0.1, 99.9])
    reach = max(high - low, 1e-6 * max(abs(low), 1.0))
    return float(low - _MARGIN * reach), float(high + _MARGIN * reach)


def _mean(planes: Volume, axis: int) -> NDArray[np.float32]:
    """Mean along an axis, 0 where it is not finite."""
    mean: NDArray[np.float32]
    if planes.shape[axis] == 1:
        mean = np.asarray(planes).take(0, axis).astype(np.float32)
    else:
        mean = np.asarray(planes).mean(axis=axis, dtype=np.float32)
    if not np.isfinite(mean).all():
        mean = np.nan_to_num(mean, nan=0.0, posinf=0.0, neginf=0.0)
    return mean
