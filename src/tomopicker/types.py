"""The nouns of the pipeline: tomogram, particles, window.

Axes are written once, here. A volume is an array ``z y x``; an array of voxel
coordinates has columns ``z y x`` so that a row indexes a volume; positions in
ångström have columns ``x y z``, as every file format of the field has them.
Voxel (0, 0, 0) has its centre at the origin of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tomopicker.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

Shape: TypeAlias = tuple[int, int, int]
"""Voxels along ``z y x``."""

Volume: TypeAlias = NDArray[Any]
"""A ``z y x`` array of any real type, often memory-mapped."""

Floats: TypeAlias = NDArray[np.float64]


class HalfVolume:
    """A ``z y x`` volume that takes two bytes a voxel: half precision about its mean.

    What is read of it is float32, to a two-thousandth of its distance from the mean.

    Parameters
    ----------
    data
        Deviations from the mean.
    mean, unit
        Of the volume's values; and what the deviations are counted in.
    """

    def __init__(self, data: NDArray[np.float16], *, mean: float, unit: float) -> None:
        self._data, self._mean, self._unit = data, np.float32(mean), np.float32(unit)
        self.shape, self.ndim, self.size = data.shape, data.ndim, data.size
        self.dtype = np.dtype(np.float32)
        self.nbytes = data.nbytes

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: Any) -> NDArray[np.float32]:
        block: NDArray[np.float32] = self._data[index].astype(np.float32)
        return block * self._unit + self._mean

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        whole = self[:]
        return whole if dtype is None else whole.astype(dtype)


class Bands:
    """A ``z y x`` volume that is used up along y: rows that have had their use are let go.

    Parameters
    ----------
    volume
        Is copied, so that its memory can be let go at once.

    Examples
    --------
    >>> bands = Bands(np.arange(200.0).reshape(1, 200, 1))
    >>> bands.let_go(before=70)
    >>> bands[:, 126:130, :].ravel().tolist(), bands.nbytes
    ([126.0, 127.0, 128.0, 129.0], 1088)
    """

    def __init__(self, volume: Volume) -> None:
        self.shape = volume.shape
        self._bands = {
            first: volume[:, first : first + _BAND].copy()
            for first in range(0, volume.shape[1], _BAND)
        }

    @property
    def nbytes(self) -> int:
        """What is still held."""
        return sum(band.nbytes for band in self._bands.values())

    def __getitem__(self, index: tuple[slice, slice, slice]) -> Volume:
        z, y, x = index
        start, stop, _ = y.indices(self.shape[1])
        if start // _BAND * _BAND not in self._bands:
            raise ValueError(f"rows from {start} on were let go")
        parts = [
            self._bands[first][z, max(start - first, 0) : stop - first, x]
            for first in range(start // _BAND * _BAND, max(stop, start + 1), _BAND)
        ]
        return np.concatenate(parts, axis=1)

    def let_go(self, *, before: int) -> None:
        """Free the rows before one, as far as whole bands can be; they cannot be read again."""
        for first in [first for first in self._bands if first + _BAND <= before]:
            del self._bands[first]


_BAND = 64  # rows


@dataclass(frozen=True, kw_only=True)
class Level:
    """A tomogram at larger voxels, as a file with several levels holds it."""

    data: Volume
    voxel_size: float
    """Ångström."""
    origin: Floats
    """(3,) ``z y x``, ångström: its first voxel's centre from that of the tomogram's own."""


@dataclass(frozen=True, kw_only=True)
class Tomogram:
    """One reconstructed volume and what its header says of it."""

    name: str
    data: Volume
    voxel_size: float
    """Edge of a voxel in ångström."""
    path: Path | None = None
    mask: Volume | None = None
    """``z y x``, of the same extent in perhaps other voxels; not zero where particles may be."""
    coarser: tuple[Level, ...] = ()
    """The same at larger voxels, which spares reading the small ones when it is rescaled."""
    pixel_size: float | None = None
    """Of the unbinned tilt series in ångström, where a project states it."""
    extent: tuple[float, float, float] | None = None
    """Size ``x y z`` in ångström that a project states, in unbinned pixels; its shape may round."""

    @property
    def shape(self) -> Shape:
        """Voxels along ``z y x``."""
        z, y, x = self.data.shape
        return z, y, x

    def loaded(self) -> Tomogram:
        """Read a volume that can only be read in blocks, such as a compressed one, into memory.

        One that is in memory or mapped stays as it is.
        """
        if isinstance(self.data, np.ndarray | HalfVolume):
            return self
        return replace(self, data=np.asarray(self.data))


@dataclass(frozen=True, kw_only=True)
class Particles:
    """A table of particles, one row each, in one or several tomograms.

    Raises
    ------
    InputError
        When the columns differ in length or a coordinate is not finite.
    """

    positions: Floats
    """(n, 3), ``x y z``, ångström from the centre of voxel (0, 0, 0)."""
    voxel_size: float
    """Of the tomogram the particles were picked in, ångström."""
    scores: Floats | None = None
    """(n,), higher is more certain; None when the source gives none."""
    probabilities: Floats | None = None
    """(n,), chance that each is a particle; None where it cannot be estimated."""
    tomograms: tuple[str, ...] = field(default=())
    """(n,) tomogram names; empty when the source names none."""
    orientations: Floats | None = None
    """(n, 3, 3), each turns the reference, ``x y z``, as the particle lies in the tomogram."""
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Columns (n,) of the source's table that mean nothing here, as text, by their name there."""
    optics: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Columns (n,) of what a list of RELION says of the optics group of each, in the same way."""

    def __post_init__(self) -> None:
        count = len(self.positions)
        if self.positions.shape != (count, 3):
            raise InputError(f"positions must be (n, 3), got {self.positions.shape}")
        columns = {
            "scores": self.scores,
            "probabilities": self.probabilities,
            "tomograms": self.tomograms or None,
            "orientations": self.orientations,
            **self.extra,
            **self.optics,
        }
        for name, column in columns.items():
            if column is not None and len(column) != count:
                raise InputError(f"{len(column)} {name} for {count} positions")
        if not np.isfinite(self.positions).all():
            row = int(np.flatnonzero(~np.isfinite(self.positions).all(axis=1))[0]) + 1
            raise InputError(f"particle {row} has a coordinate that is not a finite number")

    def __len__(self) -> int:
        return len(self.positions)

    @classmethod
    def from_voxels(
        cls,
        voxels: NDArray[Any],
        *,
        voxel_size: float,
        scores: Floats | None = None,
        probabilities: Floats | None = None,
        tomograms: Sequence[str] = (),
        orientations: Floats | None = None,
        extra: Mapping[str, tuple[str, ...]] | None = None,
    ) -> Particles:
        """Make a table from (n, 3) voxel coordinates ``z y x``.

        >>> Particles.from_voxels(np.array([[1, 2, 3]]), voxel_size=10.0).positions.tolist()
        [[30.0, 20.0, 10.0]]
        """
        zyx = np.asarray(voxels, dtype=np.float64).reshape(-1, 3)
        return cls(
            positions=zyx[:, ::-1] * voxel_size,
            voxel_size=voxel_size,
            scores=scores,
            probabilities=probabilities,
            tomograms=tuple(tomograms),
            orientations=orientations,
            extra=extra or {},
        )

    @property
    def voxels(self) -> Floats:
        """(n, 3) voxel coordinates ``z y x``, not rounded."""
        return self.positions[:, ::-1] / self.voxel_size

    def select(self, rows: NDArray[Any]) -> Particles:
        """Keep the given rows (a boolean mask or indices), in that order."""
        rows = np.arange(len(self))[rows]
        return replace(
            self,
            positions=self.positions[rows],
            scores=None if self.scores is None else self.scores[rows],
            probabilities=None if self.probabilities is None else self.probabilities[rows],
            tomograms=tuple(self.tomograms[row] for row in rows) if self.tomograms else (),
            orientations=None if self.orientations is None else self.orientations[rows],
            extra={name: tuple(cells[row] for row in rows) for name, cells in self.extra.items()},
            optics={name: tuple(cells[row] for row in rows) for name, cells in self.optics.items()},
        )


@dataclass(frozen=True, kw_only=True)
class Window:
    """A box of a volume, which may reach past its far faces."""

    corner: Shape
    """First voxel, ``z y x``."""
    shape: Shape

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The window as an index of a volume.

        >>> Window(corner=(0, 4, 8), shape=(4, 4, 4)).slices
        (slice(0, 4, None), slice(4, 8, None), slice(8, 12, None))
        """
        z, y, x = (
            slice(start, start + size) for start, size in zip(self.corner, self.shape, strict=True)
        )
        return z, y, x

    @property
    def size(self) -> int:
        """Voxels in it."""
        z, y, x = self.shape
        return z * y * x
