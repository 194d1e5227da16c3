"""Tomograms that are named but not yet opened, as lists and projects name them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tomopicker.errors import InputError, UnknownVoxelSizeError
from tomopicker.io.names import check_name
from tomopicker.io.tomograms.formats import read_tomogram

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tomopicker.types import Shape, Tomogram, Volume


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a tomogram is, and what the list that names it says of it."""

    name: str
    paths: tuple[Path, ...]
    """Its file, or the files of its two half maps, whose mean it is."""
    listed: Path | None = None
    """The list, folder or project that names it; None where the user named the file itself."""
    voxel_size: float | None = None
    """In ångström, if the list says it."""
    pixel_size: float | None = None
    """Of the unbinned tilt series in ångström, if the list says it."""
    extent: tuple[float, float, float] | None = None
    """Size ``x y z`` in ångström, if the list says it."""
    kind: str = ""
    """What a list's tomogram is, where there is a choice: "denoised", "mean of half maps"."""

    def __post_init__(self) -> None:
        check_name(self.name, self.listed or self.paths[0])

    def open(self, *, voxel_size: float | None = None) -> Tomogram:
        """Open the tomogram under the name that the list gives it.

        Paths are looked for in the list's folder, in those above it, and in the current one: the
        lists of RELION are relative to the project's folder.

        Parameters
        ----------
        voxel_size
            Ångström; overrides the file and the list.

        Raises
        ------
        UnknownVoxelSizeError
            When neither the file nor the list tells the voxel size.
        InputError
            When a file is nowhere or cannot be read, or differs from the list by more than 1 % in
            voxel size, or from its other half in shape.
        """
        files = self.files()
        tomogram = self._read(files[0], voxel_size)
        if voxel_size is None:
            tomogram = replace(tomogram, pixel_size=self.pixel_size, extent=self.extent)
        if len(files) == 1:
            return tomogram
        other = self._read(files[1], voxel_size)
        if other.shape != tomogram.shape:
            raise InputError(
                f"{files[1]}: has {_size(other.shape)} voxels, but its other half {files[0]} has "
                f"{_size(tomogram.shape)}; reconstruct both anew"
            )
        mean = cast("Volume", MeanVolume(tomogram.data, other.data))
        return replace(tomogram, data=mean, coarser=())

    def files(self) -> list[Path]:
        """Tell where its files are; one that the user named himself may be missing.

        Raises
        ------
        InputError
            When a file that a list names is nowhere.
        """
        return [self._locate(path) for path in self.paths]

    def _locate(self, path: Path) -> Path:
        if self.listed is None or path.is_absolute():
            return path
        folders = folders_for(self.listed)
        for folder in folders:
            if (folder / path).exists():
                return folder / path
        looked = ", ".join(str(folder) for folder in folders[:-1] if folder != Path(folder.anchor))
        raise InputError(
            f"{self.listed}: the tomogram of {self.name}, {path}, is in none of {looked} and "
            f"{folders[-1]}; run the command in the project's folder, or correct the path"
        )

    def _read(self, path: Path, voxel_size: float | None) -> Tomogram:
        if voxel_size is not None or self.voxel_size is None:
            return read_tomogram(path, voxel_size=voxel_size, name=self.name)
        try:
            tomogram = read_tomogram(path, name=self.name)
        except UnknownVoxelSizeError:
            return read_tomogram(path, voxel_size=self.voxel_size, name=self.name)
        if abs(tomogram.voxel_size / self.voxel_size - 1) > _SAME:
            raise InputError(
                f"{path}: its header says {tomogram.voxel_size:g} Å per voxel, but {self.listed} "
                f"says {self.voxel_size:g} Å; give the right one with --voxel-size"
            )
        return tomogram


def folders_for(listed: Path) -> list[Path]:
    """Name the folders in which the paths of a list are looked for: its own, those above, here."""
    here = listed.absolute().parent
    return list(dict.fromkeys([here, *here.parents, Path.cwd()]))


class MeanVolume:
    """The mean of two volumes, computed as float32 where and when it is read."""

    def __init__(self, first: Any, second: Any) -> None:
        self._halves = (first, second)
        self.shape: Shape = first.shape
        self.ndim = 3
        self.size = int(np.prod(first.shape))
        self.dtype = np.dtype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> NDArray[np.float32]:
        first, second = (np.asarray(half[index], dtype=np.float32) for half in self._halves)
        mean: NDArray[np.float32] = (first + second) / np.float32(2)
        return mean

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        whole = self[:]
        return whole if dtype is None else whole.astype(dtype)


_SAME = 0.01
"""Lists round voxel sizes; a binning that is wrong is wrong by more."""


def _size(shape: Shape) -> str:
    return " × ".join(str(side) for side in shape[::-1])
