"""MRC volumes in and out, memory-mapped."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mrcfile
import numpy as np

from tomopicker.errors import InputError, UnknownVoxelSizeError
from tomopicker.io.names import tomogram_name
from tomopicker.io.whole import whole_file
from tomopicker.types import Tomogram, Volume

if TYPE_CHECKING:
    from numpy.typing import NDArray


def read_mrc(path: Path, voxel_size: float | None = None) -> Tomogram:
    """Open an MRC volume, read-only and memory-mapped.

    Modes 0 (signed or, as IMOD marks it, unsigned bytes), 1, 2, 6 and 12 are read; headers are
    taken permissively, and `nstart` and `origin` are ignored, as pixel formats need.

    Parameters
    ----------
    path
        A `.mrc`, `.rec`, `.map` or `.st` file. A volume whose header calls it an image stack, as
        IMOD's often do, is a volume here.
    voxel_size
        Ångström; overrides the header.

    Returns
    -------
    Tomogram
        Its data is ``z y x`` on disk and cannot be written to.

    Raises
    ------
    UnknownVoxelSizeError
        When the header's voxel size is 0, exactly 1, or differs between axes by more than 0.1 %,
        and `voxel_size` is not given.
    InputError
        When the file is missing, truncated, compressed, not MRC, or not one real-valued volume.
    """
    _check_is_mrc(path)
    header, data = _open(path)
    if voxel_size is None:
        voxel_size = _voxel_size(path, header)
    return Tomogram(name=tomogram_name(path), data=data, voxel_size=voxel_size, path=path)


def write_volume(
    path: Path | str, data: NDArray[Any], *, voxel_size: float, overwrite: bool = False
) -> None:
    """Write a volume as MRC, whole or not at all.

    Parameters
    ----------
    path
        The file to write.
    data
        ``z y x``; kept as it is where MRC has its type (int8, int16, uint16, float16, float32),
        bytes and truth values as the next wider type, everything else as float32.
    voxel_size
        Ångström, for the header.
    overwrite
        Whether a file that is already there may be replaced.

    Raises
    ------
    InputError
        When the data is not 3D, or the file exists or cannot be written.
    """
    path = Path(path)
    if data.ndim != 3:
        raise InputError(f"{path}: a volume has 3 axes, z y x; got shape {data.shape}")
    with (
        whole_file(path, overwrite=overwrite) as temporary,
        warnings.catch_warnings(action="ignore", category=RuntimeWarning),
        mrcfile.new(temporary, overwrite=True) as mrc,
    ):
        mrc.set_data(data.astype(_mrc_type(data.dtype), copy=False))
        mrc.voxel_size = voxel_size


_COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZ": "bunzip2"}
_MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_COMPLEX_MODES = (3, 4)
_IMOD_STAMP = 1146047817
_IMOD_SIGNED_BYTES = 1


def _check_is_mrc(path: Path) -> None:
    """Refuse, with the remedy, what is not a complete MRC file of a mode that is read."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the tomogram file in it")
    if not path.exists():
        raise InputError(f"{path}: no such file; check its name and folder")
    try:
        with path.open("rb") as file:
            head = file.read(1024)
        size = path.stat().st_size
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); check its permissions"
        ) from error
    marked = head[208:211] == b"MAP"
    for magic, tool in _COMPRESSED.items():
        if head.startswith(magic) and not marked:
            raise InputError(f"{path}: is compressed and cannot be memory-mapped; {tool} it first")
    if len(head) < 1024 and not marked:
        raise InputError(f"{path}: is not an MRC file ({size} bytes); give an MRC volume")
    if len(head) < 1024:
        raise InputError(f"{path}: is truncated within its header; copy it again")
    order = _byte_order(head)
    nx, ny, nz, mode = (int(n) for n in np.frombuffer(head, f"{order}i4", count=4))
    extended = int(np.frombuffer(head, f"{order}i4", count=1, offset=92)[0])
    if min(nx, ny, nz) < 1 or extended < 0:
        raise InputError(f"{path}: is not an MRC file (its header makes no sense); give an MRC one")
    if mode in _COMPLEX_MODES and marked:
        raise InputError(
            f"{path}: holds complex numbers (mode {mode}), a Fourier transform; "
            "give the real-space volume"
        )
    if mode not in _MODES:
        what = f"has MRC mode {mode}" if marked else "is not an MRC file"
        raise InputError(f"{path}: {what}; give an MRC volume of mode 0, 1, 2, 6 or 12")
    expected = 1024 + extended + nx * ny * nz * np.dtype(_MODES[mode]).itemsize
    # Files older than the MAP mark are believed only when their size confirms the header.
    if not marked and size != expected:
        raise InputError(f"{path}: is not an MRC file (no MAP mark); give an MRC volume")
    if size < expected:
        raise InputError(
            f"{path}: is truncated, {size} bytes of {expected}; copy or reconstruct it again"
        )


def _byte_order(head: bytes) -> str:
    """Tell the byte order from the mode, which some writers state more reliably than the stamp."""
    stamped = ">" if head[212] == 0x11 else "<"
    known = (*_MODES, *_COMPLEX_MODES)
    other = "<" if stamped == ">" else ">"
    for order in (stamped, other):
        if int(np.frombuffer(head, f"{order}i4", count=1, offset=12)[0]) in known:
            return order
    return stamped


def _open(path: Path) -> tuple[Any, Volume]:
    """Memory-map a file that passed `_check_is_mrc`; returns its header and ``z y x`` data."""
    # What the library warns of (stamps, surplus bytes) does not matter or has been checked.
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        try:
            with mrcfile.mmap(path, mode="r", permissive=True) as mrc:
                header, data = mrc.header.copy(), mrc.data
        except (ValueError, OSError, ZeroDivisionError) as error:
            raise InputError(
                f"{path}: its MRC header is damaged ({error}); reconstruct it"
            ) from error
    if data is None:
        raise InputError(
            f"{path}: its data cannot be mapped into memory; where that is limited (ulimit -v) "
            "allow more, or else copy or reconstruct it again"
        )
    if data.ndim == 4:
        raise InputError(f"{path}: is a stack of {len(data)} volumes; give one volume per file")
    if data.ndim == 2 or min(data.shape) == 1:
        size = " × ".join(str(side) for side in data.shape[::-1])
        raise InputError(f"{path}: is a single 2D image ({size}); give a reconstructed volume")
    if data.dtype == np.int8 and _bytes_are_unsigned(header):
        data = data.view(np.uint8)
    return header, data


def _bytes_are_unsigned(header: Any) -> bool:
    """Tell whether mode 0 is unsigned, which MRC2014 forbids and older IMOD wrote."""
    order = header.mode.dtype.byteorder
    stamp, flags = np.frombuffer(header.extra2.tobytes(), f"{order}i4", count=2, offset=40)
    if stamp == _IMOD_STAMP:
        return not flags & _IMOD_SIGNED_BYTES
    return bool(header.dmin >= 0 and header.dmax > 127)


def _voxel_size(path: Path, header: Any) -> float:
    """Read the voxel size in ångström, or say that it is unknown and what to do."""
    cells = (float(header.cella.x), float(header.cella.y), float(header.cella.z))
    grids = (int(header.mx), int(header.my), int(header.mz))
    sizes = [cell / grid if grid else 0.0 for cell, grid in zip(cells, grids, strict=True)]
    remedy = "give it, for example --voxel-size 13.48"
    if not all(math.isfinite(size) and size > 0 for size in sizes):
        raise UnknownVoxelSizeError(f"{path}: its header has no voxel size; {remedy}")
    # Many programs write 1 where they do not know.
    if all(math.isclose(size, 1, rel_tol=1e-6) for size in sizes):
        raise UnknownVoxelSizeError(
            f"{path}: its header says 1 Å per voxel, which means unknown; {remedy}"
        )
    if max(sizes) > 1.001 * min(sizes):
        written = " × ".join(f"{size:.4g}" for size in sizes)
        raise UnknownVoxelSizeError(
            f"{path}: its header says {written} Å, but voxels must be cubes; {remedy}"
        )
    # Headers hold float32: six digits give back the 13.48 that was meant.
    return float(f"{sorted(sizes)[1]:.6g}")


def _mrc_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Choose the type that MRC stores values of `dtype` in."""
    kept = {"i1", "i2", "u2", "f2", "f4"}
    widened = {"b1": "i1", "u1": "u2"}
    code = f"{dtype.kind}{dtype.itemsize}"
    return np.dtype(code if code in kept else widened.get(code, "f4"))
