"""Reading and writing volumes, and matching names."""

import struct
import warnings
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from tomopicker.errors import InputError, UnknownVoxelSizeError
from tomopicker.io.tomograms import (
    match_names,
    plain_name,
    read_tomogram,
    series_name,
    thickness_axis,
    tomogram_name,
    write_volume,
)

SHAPE = (4, 5, 6)


@pytest.fixture
def volume_file(tmp_path: Path) -> Path:
    path = tmp_path / "rec_TS_01.mrc"
    write_volume(path, ramp(np.float32), voxel_size=13.48)
    return path


def ramp(dtype: type) -> np.ndarray:
    return np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(dtype)


def patch(path: Path, offset: int, code: str, *values: float) -> None:
    """Overwrite header fields, as another program might have written them."""
    content = bytearray(path.read_bytes())
    struct.pack_into(f"<{code}", content, offset, *values)
    path.write_bytes(content)


MODE, MXYZ, CELL, ISPG, NSYMBT, IMOD, DMIN, MAP = 12, 28, 40, 88, 92, 152, 76, 208


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint16, np.float16, np.float32])
def test_a_volume_comes_back_as_it_was_written(tmp_path: Path, dtype: type) -> None:
    write_volume(tmp_path / "a.mrc", ramp(dtype), voxel_size=13.48)

    tomogram = read_tomogram(tmp_path / "a.mrc")

    assert tomogram.data.dtype == dtype
    assert tomogram.shape == SHAPE
    assert tomogram.voxel_size == 13.48
    assert tomogram.name == "a"
    np.testing.assert_array_equal(tomogram.data, ramp(dtype))


def test_the_data_is_mapped_and_cannot_be_changed(volume_file: Path) -> None:
    data = read_tomogram(volume_file).data
    assert isinstance(data, np.memmap)
    assert not data.flags.writeable


@pytest.mark.parametrize(
    ("dtype", "stored"), [(np.float64, "f4"), (np.int64, "f4"), (np.bool_, "i1"), (np.uint8, "u2")]
)
def test_a_type_that_mrc_lacks_is_stored_in_the_next_wider(
    tmp_path: Path, dtype: type, stored: str
) -> None:
    write_volume(tmp_path / "a.mrc", ramp(dtype), voxel_size=10)
    read = read_tomogram(tmp_path / "a.mrc").data
    assert read.dtype == stored
    np.testing.assert_array_equal(read, ramp(dtype))


def test_a_volume_with_nan_is_written_without_a_warning(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.mrc", np.full(SHAPE, np.nan), voxel_size=10)
    assert np.isnan(read_tomogram(tmp_path / "a.mrc").data).all()


def test_an_explicit_voxel_size_overrides_the_header(volume_file: Path) -> None:
    assert read_tomogram(volume_file, voxel_size=10).voxel_size == 10


@pytest.mark.parametrize("voxel_size", [0, -1, float("nan")])
def test_an_explicit_voxel_size_must_be_positive(volume_file: Path, voxel_size: float) -> None:
    with pytest.raises(InputError, match="positive"):
        read_tomogram(volume_file, voxel_size=voxel_size)


def test_big_endian_files_are_read(tmp_path: Path) -> None:
    with mrcfile.new(tmp_path / "a.rec", data=ramp(np.dtype(">i2"))) as mrc:
        mrc.voxel_size = 8
    tomogram = read_tomogram(tmp_path / "a.rec")
    assert tomogram.voxel_size == 8
    np.testing.assert_array_equal(tomogram.data, ramp(np.int16))


@pytest.mark.parametrize("suffix", [".mrc", ".rec", ".map", ".st"])
def test_the_content_decides_and_an_image_stack_header_is_a_volume(
    volume_file: Path, suffix: str
) -> None:
    patch(volume_file, ISPG, "i", 0)
    path = volume_file.rename(volume_file.with_suffix(suffix))
    assert read_tomogram(path).shape == SHAPE
    assert read_tomogram(path).name == "rec_TS_01"


def test_unsigned_bytes_of_old_imod_files_are_unsigned(tmp_path: Path) -> None:
    path = tmp_path / "a.rec"
    write_volume(path, np.full(SHAPE, -1, np.int8), voxel_size=10)
    assert (read_tomogram(path).data == -1).all()
    patch(path, IMOD, "ii", 1146047817, 0)
    assert (read_tomogram(path).data == 255).all()
    patch(path, IMOD, "ii", 1146047817, 1)
    assert (read_tomogram(path).data == -1).all()
    # Neither stamp nor flag, but grey values that signed bytes cannot hold.
    patch(path, IMOD, "ii", 0, 0)
    patch(path, DMIN, "ff", 0, 255)
    assert (read_tomogram(path).data == 255).all()


@pytest.mark.parametrize("kind", [b"FEI1", b"SERI", b"CCP4"])
def test_an_extended_header_is_skipped(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "a.mrc"
    with mrcfile.new(path, data=ramp(np.int16)) as mrc:
        mrc.set_extended_header(np.zeros(768 * 3, np.uint8))
        mrc.header.exttyp = kind
        mrc.voxel_size = 10
    assert path.stat().st_size == 1024 + 2304 + ramp(np.int16).nbytes
    np.testing.assert_array_equal(read_tomogram(path).data, ramp(np.int16))


def test_where_a_header_says_that_the_volume_starts_does_not_matter(tmp_path: Path) -> None:
    with mrcfile.new(tmp_path / "a.mrc", data=ramp(np.float32)) as mrc:
        mrc.voxel_size = 10
        mrc.nstart = (-3, 4, 5)
        mrc.header.origin.x = 777
    tomogram = read_tomogram(tmp_path / "a.mrc")
    assert tomogram.voxel_size == 10
    np.testing.assert_array_equal(tomogram.data, ramp(np.float32))


def test_a_file_older_than_the_map_mark_is_read_when_its_size_fits(volume_file: Path) -> None:
    patch(volume_file, MAP, "ii", 0, 0)
    assert read_tomogram(volume_file).shape == SHAPE
    volume_file.write_bytes(volume_file.read_bytes() + b"\0")
    refused(volume_file, "not an MRC file")


def test_surplus_bytes_and_odd_stamps_are_no_error_and_no_warning(volume_file: Path) -> None:
    patch(volume_file, MAP + 4, "i", 7)
    volume_file.write_bytes(volume_file.read_bytes() + b"\0" * 9)
    with warnings.catch_warnings(action="error"):
        np.testing.assert_array_equal(read_tomogram(volume_file).data, ramp(np.float32))


def refused(path: Path, *parts: str, error: type[InputError] = InputError) -> None:
    """Assert that reading fails with one line that names the file and holds the parts."""
    with pytest.raises(error) as caught:
        read_tomogram(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none.mrc", "no such file")
    refused(tmp_path, "is a folder")


@pytest.mark.parametrize("keep", [1100, 1500])
def test_a_truncated_file_is_refused(volume_file: Path, keep: int) -> None:
    volume_file.write_bytes(volume_file.read_bytes()[:keep])
    refused(volume_file, "truncated", f"{keep} bytes of 1504", "copy or reconstruct it again")


def test_a_file_cut_within_its_header_is_refused(volume_file: Path) -> None:
    volume_file.write_bytes(volume_file.read_bytes()[:500])
    refused(volume_file, "truncated within its header")


@pytest.mark.parametrize("content", [b"", b"x,y,z\n1,2,3\n", bytes(5000), b"\x07" * 5000])
def test_what_is_not_mrc_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mrc"
    path.write_bytes(content)
    refused(path, "not an MRC file")


def test_compressed_files_are_refused_with_the_remedy(tmp_path: Path) -> None:
    for content, remedy in ((b"\x1f\x8b\x08" + bytes(3000), "gunzip"), (b"BZh9", "bunzip2")):
        path = tmp_path / "a.mrc.gz"
        path.write_bytes(content)
        refused(path, "compressed", remedy)


def test_a_single_image_a_single_slice_and_a_volume_stack_are_refused(tmp_path: Path) -> None:
    for name, data in (("image", ramp(np.float32)[0]), ("slice", ramp(np.float32)[:1])):
        with mrcfile.new(tmp_path / f"{name}.mrc", data=data):
            pass
        refused(tmp_path / f"{name}.mrc", "2D image")
    with mrcfile.new(tmp_path / "stack.mrc", data=np.zeros((2, 3, 4, 5), np.float32)):
        pass
    refused(tmp_path / "stack.mrc", "stack of 2 volumes")


def test_complex_and_unknown_modes_are_refused(volume_file: Path) -> None:
    patch(volume_file, MODE, "i", 4)
    refused(volume_file, "complex", "real-space")
    patch(volume_file, MODE, "i", 101)
    refused(volume_file, "mode 101")


def test_an_unusable_header_is_refused(volume_file: Path) -> None:
    patch(volume_file, 0, "i", -1)
    refused(volume_file, "not an MRC file")


@pytest.mark.parametrize("cell", [(0, 0, 0), (6, 5, 4), (60, 50, 41), (60, 50, float("nan"))])
def test_a_voxel_size_that_is_zero_one_or_anisotropic_is_unknown(
    volume_file: Path, cell: tuple[float, float, float]
) -> None:
    patch(volume_file, CELL, "fff", *cell)
    refused(volume_file, "--voxel-size 13.48", error=UnknownVoxelSizeError)
    assert read_tomogram(volume_file, voxel_size=12).voxel_size == 12


def test_sizes_that_differ_by_less_than_a_thousandth_are_equal(volume_file: Path) -> None:
    patch(volume_file, CELL, "fff", 60, 50, 40.03)
    assert read_tomogram(volume_file).voxel_size == 10


def test_a_header_without_a_grid_has_an_unknown_voxel_size(volume_file: Path) -> None:
    patch(volume_file, MXYZ, "iii", 0, 0, 0)
    refused(volume_file, "no voxel size", error=UnknownVoxelSizeError)


def test_a_volume_is_never_silently_replaced(volume_file: Path) -> None:
    with pytest.raises(InputError, match="exists already"):
        write_volume(volume_file, ramp(np.int8), voxel_size=10)
    assert read_tomogram(volume_file).voxel_size == 13.48
    write_volume(volume_file, ramp(np.int8), voxel_size=10, overwrite=True)
    assert read_tomogram(volume_file).voxel_size == 10


def test_a_failed_write_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mrcfile.mrcfile.MrcFile, "set_data", no_space)
    with pytest.raises(InputError, match=r"a\.mrc: cannot be written \(No space left"):
        write_volume(tmp_path / "a.mrc", ramp(np.int8), voxel_size=10)
    assert list(tmp_path.iterdir()) == []


def test_only_volumes_are_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="3 axes"):
        write_volume(tmp_path / "a.mrc", np.zeros((3, 3)), voxel_size=10)


def test_the_thinnest_axis_is_named_and_z_wins_ties() -> None:
    assert thickness_axis((3, 4, 5)) == "z"
    assert thickness_axis((5, 4, 5)) == "y"
    assert thickness_axis((5, 4, 3)) == "x"
    assert thickness_axis((4, 4, 4)) == "z"


def test_only_the_suffix_of_a_volume_is_stripped() -> None:
    assert tomogram_name("a/b.REC") == "b"
    assert tomogram_name("b.mrc.gz") == "b.mrc.gz"
    assert tomogram_name("TS_1.2") == "TS_1.2"


@pytest.mark.parametrize(
    "name",
    ["TS_01", "rec_TS_01.mrc", "TS_01_10.00Apx.mrc", "TS_01.tomostar", "a/b/ts_01.rec", "TS_01.st"],
)
def test_what_other_programs_call_a_tomogram_has_one_plain_name(name: str) -> None:
    assert plain_name(name) == "ts_01"


def test_a_name_made_of_a_prefix_only_keeps_it() -> None:
    assert series_name("_10.00Apx.mrc") == "_10.00Apx"


def test_names_match_exactly_before_plainly_before_by_number() -> None:
    available = ["TS_01", "rec_TS_01", "TS_0002"]
    assert match_names(["TS_01", "rec_TS_01"], available) == {
        "TS_01": "TS_01",
        "rec_TS_01": "rec_TS_01",
    }
    assert match_names(["ts_0002.mrc"], available) == {"ts_0002.mrc": "TS_0002"}
    assert match_names(["2", "3"], available) == {"2": "TS_0002"}


def test_a_name_that_could_be_two_tomograms_is_refused() -> None:
    with pytest.raises(InputError, match="TS_01 could be any of rec_TS_01, ts_01"):
        match_names(["TS_01"], ["rec_TS_01", "ts_01"])
    with pytest.raises(InputError, match="could be any of a, a"):
        match_names(["a"], ["a", "a"])


def test_real_volumes_are_read(shared_data: Path) -> None:
    tomogram = read_tomogram(shared_data / "real" / "empiar10499_00254_north.mrc")
    assert tomogram.shape == (235, 328, 652)
    assert tomogram.voxel_size == 10
    assert thickness_axis(tomogram.shape) == "z"
    assert read_tomogram(shared_data / "densities" / "4v4r_10A.mrc").shape == (66, 66, 66)
