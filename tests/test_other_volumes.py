"""EM, HDF5 and TIFF volumes, written by the formats' own libraries, are read as any other."""

import sys
from pathlib import Path
from typing import Any

import emfile
import h5py
import numpy as np
import pytest
import tifffile

from tomopicker.errors import InputError, UnknownVoxelSizeError
from tomopicker.io.tomograms import find_tomograms, read_tomogram
from tomopicker.types import Volume

SHAPE = (40, 12, 14)


def ramp(dtype: Any = np.float32) -> Volume:
    return (np.arange(np.prod(SHAPE)).reshape(SHAPE) % 120).astype(dtype)


def eman(path: Path, volume: Volume, *, apix: float = 13.48, images: int = 1) -> Path:
    """Write a file as EMAN2 does: its attributes are on the group of the image."""
    with h5py.File(path, "w") as file:
        for number in range(images):
            group = file.create_group(f"MDF/images/{number}")
            group.create_dataset("image", data=volume, chunks=(8, 12, 14), compression="gzip")
            for axis in "xyz":
                group.attrs[f"EMAN.apix_{axis}"] = np.array([apix])
    return path


def refused(path: Path, *parts: str, error: type[InputError] = InputError) -> None:
    with pytest.raises(error) as caught:
        read_tomogram(path)
    for part in (str(path), *parts):
        assert part in str(caught.value)


def assert_is(data: Volume, volume: Volume) -> None:
    assert data.shape == volume.shape
    np.testing.assert_array_equal(np.asarray(data), volume)
    np.testing.assert_array_equal(data[3], volume[3])
    np.testing.assert_array_equal(data[14:18, ::2, 5], volume[14:18, ::2, 5])
    np.testing.assert_array_equal(data[-1], volume[-1])


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.float32, np.float64])
def test_an_em_volume_is_mapped(tmp_path: Path, dtype: Any) -> None:
    path = tmp_path / "TS_01.em"
    emfile.write(path, ramp(dtype))
    tomogram = read_tomogram(path, voxel_size=12)
    assert (tomogram.name, tomogram.voxel_size) == ("TS_01", 12)
    assert isinstance(tomogram.data, np.memmap)
    assert_is(tomogram.data, ramp(dtype))
    refused(path, "--voxel-size", error=UnknownVoxelSizeError)


def test_an_em_volume_of_another_byte_order_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.em"
    head = bytearray(512)
    head[0], head[3] = 5, 5  # Mac, float
    head[4:16] = np.array(SHAPE[::-1], ">i4").tobytes()
    path.write_bytes(bytes(head) + ramp(">f4").tobytes())
    assert_is(read_tomogram(path, voxel_size=10).data, ramp())


def test_em_files_that_are_no_volume_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.em"
    refused(path, "no such file")
    path.write_bytes(b"nothing")
    refused(path, "is not an EM volume")
    path.write_bytes(bytes([6, 0, 0, 5]) + bytes(508))
    refused(path, "header makes no sense")
    emfile.write(path, np.zeros((1, 30, 20), np.float32), overwrite=True)
    refused(path, "perhaps a list of particles")
    emfile.write(path, ramp(), overwrite=True)
    path.write_bytes(path.read_bytes()[:-1])
    refused(path, "is truncated")
    head = bytearray(path.read_bytes())
    head[3] = 8
    path.write_bytes(bytes(head))
    refused(path, "complex numbers")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_an_eman2_volume_has_its_voxel_size(tmp_path: Path, dtype: Any) -> None:
    tomogram = read_tomogram(eman(tmp_path / "TS_01__bin4.hdf", ramp(dtype)))
    assert (tomogram.name, tomogram.voxel_size) == ("TS_01__bin4", 13.48)
    assert tomogram.data.dtype == dtype
    assert_is(tomogram.data, ramp(dtype))


def test_another_hdf5_file_is_its_one_volume(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["some/volume"] = ramp()
        file["some/table"] = np.zeros((5, 3))
    refused(path, "--voxel-size", error=UnknownVoxelSizeError)
    assert_is(read_tomogram(path, voxel_size=10).data, ramp())


def test_hdf5_files_that_are_no_one_volume_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf"
    refused(path, "no such file")
    path.write_bytes(b"nothing")
    refused(path, "is not an HDF5 file")
    refused(eman(path, ramp(), images=2), "several volumes")
    refused(eman(path, ramp(), apix=1), "--voxel-size", error=UnknownVoxelSizeError)
    with h5py.File(path, "w") as file:
        file["table"] = np.zeros((5, 3))
    refused(path, "holds no volume")
    with h5py.File(path, "w") as file:
        file["volume"] = ramp(np.complex64)
    refused(path, "not real numbers")


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_a_tiff_stack_is_read(
    tmp_path: Path, dtype: Any, byteorder: Any, compression: str | None
) -> None:
    path = tmp_path / "TS_01.tif"
    tifffile.imwrite(path, ramp(dtype), compression=compression, byteorder=byteorder)
    tomogram = read_tomogram(path, voxel_size=12)
    assert (tomogram.name, tomogram.voxel_size) == ("TS_01", 12)
    assert isinstance(tomogram.data, np.memmap) == (compression is None)
    assert_is(tomogram.data, ramp(dtype))
    assert tomogram.data[4:4].shape == (0, 12, 14)
    refused(path, "--voxel-size", error=UnknownVoxelSizeError)


def test_tiff_files_that_are_no_volume_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    refused(path, "no such file")
    path.write_bytes(b"nothing")
    refused(path, "is not a TIFF file")
    tifffile.imwrite(path, ramp()[0])
    refused(path, "is not one volume (14 × 12)")
    tifffile.imwrite(path, ramp(np.complex64))
    refused(path, "not real numbers")


@pytest.mark.parametrize(
    ("package", "extra", "name"), [("h5py", "hdf5", "a.hdf"), ("tifffile", "tiff", "a.tif")]
)
def test_without_a_library_the_remedy_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, extra: str, name: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    refused(tmp_path / name, f"pip install 'tomopicker[{extra}]'")


def test_a_folder_may_hold_any_of_them(tmp_path: Path) -> None:
    eman(tmp_path / "a.hdf", ramp())
    tifffile.imwrite(tmp_path / "b.TIF", ramp())
    emfile.write(tmp_path / "c.em", ramp())
    assert [source.name for source in find_tomograms([tmp_path])] == ["a", "b", "c"]
    for source in find_tomograms([tmp_path]):
        assert_is(source.open(voxel_size=10).data, ramp())
