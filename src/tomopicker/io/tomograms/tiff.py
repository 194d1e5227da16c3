"""TIFF stacks: a volume whose pages are its planes along z."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tomopicker.errors import InputError, UnknownVoxelSizeError
from tomopicker.io.names import tomogram_name
from tomopicker.io.tomograms.chunked import ChunkedVolume
from tomopicker.types import Tomogram, Volume

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_PAGES = 16
"""Pages that are read at a time."""


def read_tiff(path: Path, voxel_size: float | None = None) -> Tomogram:
    """Open a TIFF stack; mapped where it is not compressed, else read some pages at a time.

    Parameters
    ----------
    path
        The file.
    voxel_size
        Ångström; TIFF has no place for the size along z.

    Raises
    ------
    UnknownVoxelSizeError
        When `voxel_size` is not given.
    InputError
        When tifffile is not installed, the file cannot be read, or is not one volume.
    """
    try:
        import tifffile
    except ImportError as error:
        raise InputError(
            f"{path}: TIFF volumes need another package: pip install 'tomopicker[tiff]'"
        ) from error
    if not path.is_file():
        raise InputError(f"{path}: no such file; check its name and folder")
    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            shape = tuple(side for side in series.shape if side > 1)
            dtype, count, offset = series.dtype, len(file.series), series.dataoffset
            order = file.byteorder
    except (tifffile.TiffFileError, OSError, IndexError, ValueError) as error:
        raise InputError(f"{path}: is not a TIFF file that can be read ({error})") from error
    if len(shape) != 3 or count > 1:
        size = " × ".join(str(side) for side in shape[::-1])
        raise InputError(f"{path}: is not one volume ({size}); write its planes as pages")
    if dtype is None or np.dtype(dtype).kind not in "iuf":
        raise InputError(f"{path}: holds {dtype}, not real numbers; convert it")
    if voxel_size is None:
        raise UnknownVoxelSizeError(
            f"{path}: a TIFF file does not tell its voxel size; give it, for example "
            "--voxel-size 13.48"
        )
    if offset is not None:
        stored = np.dtype(dtype).newbyteorder("<" if order == "<" else ">")
        data: Volume = np.memmap(path, dtype=stored, mode="r", offset=offset, shape=shape)
    else:
        pages = _Pages(path, (shape[0], shape[1], shape[2]), np.dtype(dtype))
        data = cast("Volume", ChunkedVolume(pages, depth=_PAGES, path=path))
    return Tomogram(name=tomogram_name(path), data=data, voxel_size=voxel_size, path=path)


class _Pages:
    """The pages of a compressed file, as `ChunkedVolume` asks for them."""

    ndim = 3

    def __init__(self, path: Path, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> None:
        self._path, self.shape, self.dtype = path, shape, dtype

    def __getitem__(self, index: tuple[Any, ...]) -> NDArray[Any]:
        import tifffile

        planes, *rest = index
        keys = range(self.shape[0])[planes]
        if not keys:
            pages = np.empty((0, *self.shape[1:]), self.dtype)
        else:
            pages = np.asarray(tifffile.imread(self._path, key=keys))
        part: NDArray[Any] = pages.reshape(len(keys), *self.shape[1:])[(slice(None), *rest)]
        return part
