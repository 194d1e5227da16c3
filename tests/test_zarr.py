"""Zarr volumes, written by the zarr library, are read as any other."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from conftest import SHORT, Outcome
from tomopicker.errors import InputError, UnknownVoxelSizeError
from tomopicker.io.particles import read_particles
from tomopicker.io.tomograms import find_tomograms, read_tomogram
from tomopicker.rescale import level_for, rescale, rescaled_voxel_size
from tomopicker.types import Volume

Command = Callable[..., Outcome]

AXES = [{"name": axis, "type": "space", "unit": "angstrom"} for axis in "zyx"]


def mean_of_blocks(volume: Volume) -> Volume:
    z, y, x = (side // 2 for side in volume.shape)
    blocks = volume[: 2 * z, : 2 * y, : 2 * x].reshape(z, 2, y, 2, x, 2)
    return blocks.mean(axis=(1, 3, 5)).astype(np.float32)


def every_second(volume: Volume) -> Volume:
    return np.ascontiguousarray(volume[::2, ::2, ::2])


def ome(
    path: Path,
    volume: Volume,
    *,
    version: int = 2,
    levels: int = 3,
    voxel_size: float = 10,
    axes: list[Any] = AXES,
    shrink: Callable[[Volume], Volume] = mean_of_blocks,
) -> Path:
    """Write an OME-Zarr image of version 0.4 or 0.5."""
    group = zarr.open_group(str(path), mode="w", zarr_format=version)
    datasets = []
    for number in range(levels):
        size = voxel_size * 2**number
        array = group.create_array(
            str(number), shape=volume.shape, dtype=volume.dtype, chunks=(8, 16, 16)
        )
        array[:] = volume
        moves: list[dict[str, Any]] = [{"type": "scale", "scale": [size] * 3}]
        if shrink is mean_of_blocks:
            # A block's centre is not that of its first voxel.
            moves.append({"type": "translation", "translation": [(size - voxel_size) / 2] * 3})
        datasets.append({"path": str(number), "coordinateTransformations": moves})
        volume = shrink(volume)
    scales = {"axes": axes, "datasets": datasets, "name": "/"}
    if version == 2:
        group.attrs["multiscales"] = [{**scales, "version": "0.4"}]
    else:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [scales]}
    return path


def waves(shape: tuple[int, int, int] = (40, 64, 48)) -> Volume:
    """Waves so long that every level holds them."""
    z, y, x = np.indices(shape)
    volume = np.sin(2 * np.pi * z / 37) + np.cos(2 * np.pi * y / 41) + np.sin(2 * np.pi * x / 45)
    return volume.astype(np.float32)


def refused(path: Path, *parts: str, error: type[InputError] = InputError) -> None:
    with pytest.raises(error) as caught:
        read_tomogram(path)
    for part in (str(path), *parts):
        assert part in str(caught.value)


@pytest.mark.parametrize("version", [2, 3])
def test_an_image_is_its_finest_level_with_the_coarser_ones_beside_it(
    tmp_path: Path, version: int
) -> None:
    volume = waves()
    tomogram = read_tomogram(ome(tmp_path / "TS_01.zarr", volume, version=version))
    assert (tomogram.name, tomogram.shape, tomogram.voxel_size) == ("TS_01", (40, 64, 48), 10)
    assert tomogram.data.dtype == np.float32
    assert [level.voxel_size for level in tomogram.coarser] == [20, 40]
    np.testing.assert_allclose(tomogram.coarser[1].origin, [15, 15, 15])
    np.testing.assert_array_equal(np.asarray(tomogram.data), volume)
    np.testing.assert_array_equal(tomogram.loaded().data, volume)


@pytest.mark.parametrize(
    "index",
    [
        *(3, -1, slice(2, 5), slice(6, 11), slice(None), slice(0, 40, 3), slice(4, 4)),
        *((3, slice(None, None, 2)), (slice(9, 12), slice(3, 9), slice(40, 48)), (7, 2, 5)),
        (slice(38, 50), slice(None), 1),
    ],
)
def test_a_part_of_a_zarr_volume_is_that_part(tmp_path: Path, index: Any) -> None:
    volume = np.random.default_rng(0).normal(size=(40, 20, 48)).astype(np.float32)
    data = read_tomogram(ome(tmp_path / "a.zarr", volume, levels=1)).data
    for _ in range(2):  # from the file, then from what was kept of it
        np.testing.assert_array_equal(data[index], volume[index])
    assert (len(data), data.size) == (40, volume.size)
    assert len(list(data)) == 40


@pytest.mark.parametrize(
    ("index", "chunks"),
    [
        # 40 × 64 × 48 voxels in chunks of 8 × 16 × 16.
        ((slice(None), 20), 5 * 3),
        ((slice(None), slice(None), 47), 5 * 4),
        ((slice(4, 12), 3, 3), 2),
        ((slice(None), slice(0, 16, 5), slice(16, 32)), 5),
    ],
)
def test_a_slice_along_y_or_x_reads_no_chunk_that_it_does_not_touch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: Any, chunks: int
) -> None:
    volume = waves()
    tomogram = read_tomogram(ome(tmp_path / "a.zarr", volume, levels=1))
    read: set[str] = set()
    get = zarr.storage.LocalStore.get

    async def noted(self: Any, key: str, *arguments: Any, **named: Any) -> Any:
        read.add(key)
        return await get(self, key, *arguments, **named)

    monkeypatch.setattr(zarr.storage.LocalStore, "get", noted)
    np.testing.assert_array_equal(tomogram.data[index], volume[index])
    assert len(read) == chunks


def test_the_level_that_is_rescaled_is_the_coarsest_that_is_fine_enough(tmp_path: Path) -> None:
    tomogram = read_tomogram(ome(tmp_path / "a.zarr", waves()))
    chosen = {size: level_for(tomogram, size).voxel_size for size in (10.5, 19, 19.9, 20, 35, 60)}
    assert chosen == {10.5: 10, 19: 10, 19.9: 20, 20: 20, 35: 20, 60: 40}
    # Six times the finest voxel would be too much for a file without levels.
    assert rescaled_voxel_size(tomogram, 60) == 60


@pytest.mark.parametrize("shrink", [mean_of_blocks, every_second])
@pytest.mark.parametrize("size", [20, 27])
def test_density_stays_in_its_place_whichever_level_it_comes_from(
    tmp_path: Path, size: float, shrink: Callable[[Volume], Volume]
) -> None:
    volume = waves((80, 96, 88))
    coarse = rescale(read_tomogram(ome(tmp_path / "a.zarr", volume, shrink=shrink)), size)
    fine = rescale(read_tomogram(ome(tmp_path / "b.zarr", volume, levels=1)), size)
    assert (coarse.voxel_size, coarse.coarser, coarse.shape) == (size, (), fine.shape)
    inner = (slice(4, -4),) * 3
    # Half a voxel of 10 Å would be 0.1, as a wave is 40 of them long and 2 high.
    assert np.abs(coarse.data[inner] - fine.data[inner]).max() < 0.03


def test_a_level_can_be_named_by_itself(tmp_path: Path) -> None:
    path = ome(tmp_path / "TS_01.zarr", waves())
    tomogram = read_tomogram(path / "1")
    assert (tomogram.name, tomogram.voxel_size, tomogram.shape) == ("TS_01", 20, (20, 32, 24))
    (source,) = find_tomograms([path / "2"])
    assert source.open().voxel_size == 40


@pytest.mark.parametrize("version", [2, 3])
def test_a_bare_array_needs_its_voxel_size(tmp_path: Path, version: int) -> None:
    path = tmp_path / "a.zarr"
    volume = waves().astype(np.float16)
    array = zarr.create_array(
        str(path), shape=(1, *volume.shape), dtype="f2", zarr_format=version, chunks=(1, 8, 64, 48)
    )
    array[:] = volume[None]
    refused(path, "--voxel-size", error=UnknownVoxelSizeError)
    tomogram = read_tomogram(path, voxel_size=12)
    assert (tomogram.voxel_size, tomogram.data.dtype) == (12, np.float16)
    np.testing.assert_array_equal(tomogram.data[5], volume[5])


def test_units_are_told_and_the_users_voxel_size_is_the_finest_levels(tmp_path: Path) -> None:
    nanometres = [{**axis, "unit": "nanometer"} for axis in AXES]
    path = ome(tmp_path / "a.zarr", waves(), voxel_size=1.0, axes=nanometres)
    assert read_tomogram(path).voxel_size == 10
    corrected = read_tomogram(path, voxel_size=11)
    assert [level.voxel_size for level in corrected.coarser] == [22, 44]
    np.testing.assert_allclose(corrected.coarser[0].origin, [5.5] * 3)
    nameless = [{"name": axis, "type": "space"} for axis in "zyx"]
    refused(ome(tmp_path / "b.zarr", waves(), axes=nameless), error=UnknownVoxelSizeError)


def test_what_is_not_one_volume_is_refused(tmp_path: Path) -> None:
    swapped = [{"name": axis, "type": "space", "unit": "angstrom"} for axis in "xyz"]
    refused(ome(tmp_path / "a.zarr", waves(), axes=swapped), "axes in the order x, y, z")
    for name, data, words in (
        ("stack", np.zeros((2, 3, 4, 5), np.float32), "stack of volumes"),
        ("image", np.zeros((4, 5), np.float32), "not a volume"),
        ("complex", np.zeros((3, 4, 5), np.complex64), "not real numbers"),
    ):
        zarr.create_array(str(tmp_path / f"{name}.zarr"), data=data)
        with pytest.raises(InputError, match=words):
            read_tomogram(tmp_path / f"{name}.zarr", voxel_size=10)
    group = zarr.open_group(str(tmp_path / "group.zarr"), mode="w")
    group.create_array("a", data=waves())
    group.create_array("b", data=waves())
    refused(tmp_path / "group.zarr", "2 arrays (a, b)")
    (tmp_path / "empty.zarr").mkdir()
    refused(tmp_path / "empty.zarr", "is not a zarr volume")
    refused(tmp_path / "none.zarr", "no such folder")
    path = ome(tmp_path / "damaged.zarr", waves())
    (path / "0" / ".zarray").write_text("{")
    refused(path, "cannot be read as zarr")


def test_without_the_library_the_remedy_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ome(tmp_path / "a.zarr", waves())
    monkeypatch.setitem(sys.modules, "zarr", None)
    refused(path, "pip install 'tomopicker[zarr]'")


def test_a_copick_project_is_trained_on_and_picked_at_a_level_of_its_zarrs(
    tomopicker: Command, simulated: Path, tmp_path: Path
) -> None:
    root = tmp_path / "static"
    for number in (1, 2):
        source = read_tomogram(simulated / f"sim_000{number}.mrc")
        fine = np.kron(source.data, np.ones((2, 2, 2), np.float32)).astype(np.float32)
        ome(
            root / f"ExperimentRuns/sim_000{number}/VoxelSpacing6.750/wbp.zarr",
            fine,
            levels=2,
            voxel_size=6.75,
        )
    (tmp_path / "config.json").write_text(json.dumps({"static_root": f"local://{root}"}))
    known = read_particles(simulated / "sim_0001.csv", voxel_size=13.5)
    clicks = "".join(f"{2 * x + 0.5},{2 * y + 0.5},{2 * z + 0.5}\n" for z, y, x in known.voxels)
    (tmp_path / "sim_0001.csv").write_text("x,y,z\n" + clicks)
    run, out = tmp_path / "run", tmp_path / "out"
    done = tomopicker(
        *("train", tmp_path / "config.json", "--picks", tmp_path / "sim_0001.csv"),
        *("--radius", "108A", "--out", run, *SHORT),
    )
    assert done.code == 0, done.stderr
    text = " ".join(done.stderr.split())
    assert "6.75 Å voxels brought to 13.5 Å (from the file's level of 13.5 Å)" in text
    done = tomopicker("pick", run, root, "--count", 4, "--format", "csv", "--out", out)
    assert done.code == 0, done.stderr
    # In the finest level's voxels, as clicks are.
    assert read_particles(out / "sim_0002.csv", voxel_size=6.75).voxels[:, 2].max() > 40
    done = tomopicker("inspect", root, "--picks", tmp_path / "sim_0001.csv", "--radius", "60A")
    assert done.code == 0, done.stderr
    assert "128 × 128 × 64" in done.stdout
