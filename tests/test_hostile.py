"""Files that want to harm: what they ask for is refused, or does nothing outside its folder."""

import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from conftest import Outcome
from tomopicker.errors import InputError
from tomopicker.io.particles import FORMATS, place_of, read_particles
from tomopicker.io.tomograms import find_tomograms, read_tomogram

Command = Callable[..., Outcome]

ESCAPES = ("../../x", "/x", "..", "a/../../x", "..\\x", "/", "x\ny")
"""Names of tomograms that, taken for those of files, lead out of a folder or are no name."""


def everything(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def tomograms_star(path: Path, name: str, file: Path) -> Path:
    path.write_text(
        "data_global\n\nloop_\n_rlnTomoName #1\n_rlnTomoTiltSeriesPixelSize #2\n"
        "_rlnTomoTomogramBinning #3\n_rlnTomoReconstructedTomogram #4\n"
        f'"{name}" 2.5 4 {file}\n'
    )
    return path


@pytest.mark.parametrize("name", [name for name in ESCAPES if "\n" not in name])
def test_a_list_of_tomograms_cannot_have_picks_written_elsewhere(
    tomopicker: Command, trained: Path, simulated: Path, tmp_path: Path, name: str
) -> None:
    listed = tomograms_star(tmp_path / "tomograms.star", name, simulated / "sim_0002.mrc")
    before = everything(tmp_path)
    done = tomopicker("pick", trained, listed, "--out", tmp_path / "a" / "b" / "picks")
    assert done.code == 2
    assert done.errors[-1] == (
        f"Error: {listed}: calls a tomogram {name!r}, which cannot be the name of its files; "
        "rename it, without slashes or unprintable characters"
    )
    assert everything(tmp_path) == before


@pytest.mark.parametrize("name", ESCAPES)
def test_a_list_of_particles_is_written_below_the_folder_that_is_given(
    tomopicker: Command, tmp_path: Path, name: str
) -> None:
    source = tmp_path / "picks.csv"
    source.write_text(f'tomogram,x,y,z\n"{name}",1,2,3\nTS_01,1,2,3\n')
    out = tmp_path / "a" / "b" / "lists"
    for format in ("coords", "copick", "eman2"):
        before = everything(tmp_path)
        done = tomopicker(
            "convert", source, out / format, "--to", format, "--voxel-size", 10, "--pixel-size", 10
        )
        assert done.code in (0, 2), done.stderr
        new = {path for path in everything(tmp_path) - before if path.is_file()}
        assert all(path.is_relative_to(out / format) for path in new)


@pytest.mark.parametrize("format", FORMATS)
def test_no_format_has_a_place_outside_its_folder(format: str) -> None:
    for name in ESCAPES:
        with pytest.raises(InputError, match="calls a tomogram"):
            place_of(format, name)


def test_a_projects_tomogram_is_read_where_it_is_and_nothing_is_written_there(
    tomopicker: Command, trained: Path, simulated: Path, tmp_path: Path
) -> None:
    far = simulated / ".." / simulated.name / "sim_0002.mrc"
    listed = tomograms_star(tmp_path / "tomograms.star", "TS_01", far)
    before = everything(simulated.parent)
    size = read_tomogram(far).voxel_size
    out = ("--voxel-size", size, "--out", tmp_path / "picks")
    done = tomopicker("pick", trained, listed, "--count", 3, *out)
    assert done.code == 0, done.stderr
    assert (tmp_path / "picks" / "TS_01.csv").is_file()
    assert everything(simulated.parent) == before


def test_no_archive_is_unpacked(tmp_path: Path) -> None:
    # Some kilobytes that are 100 MB.
    for name in ("a.zarr", "a.mrc", "a.hdf", "a.em", "a.tif", "a.zip", "a.zarr.zip"):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("zarr.json", bytes(100 << 20))
        with pytest.raises(InputError, match=name):
            read_tomogram(tmp_path / name, voxel_size=10)
        if name != "a.em":
            with pytest.raises(InputError, match=name):
                read_particles(tmp_path / name, voxel_size=10, shape=(9, 9, 9))
    packed = tmp_path / "packed.mrc"
    packed.write_bytes(gzip.compress(bytes(100 << 20)))
    with pytest.raises(InputError, match="is compressed"):
        read_tomogram(packed)


def test_a_volume_of_nothing_that_says_it_is_vast_is_refused(tmp_path: Path) -> None:
    vast = (1 << 16,) * 3
    zarr.create_array(str(tmp_path / "a.zarr"), shape=vast, chunks=(64,) * 3, dtype="f4")
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        file.create_dataset("volume", shape=vast, chunks=(64,) * 3, dtype="f4")
    for name in ("a.zarr", "a.hdf"):
        assert sum(path.stat().st_size for path in (tmp_path / name, *everything(tmp_path / name)))
        with pytest.raises(InputError, match=f"{name}: says that it has 65536 × 65536 × 65536"):
            read_tomogram(tmp_path / name, voxel_size=10)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: gzip.compress(bytes(64 << 20)),
        lambda data: data[: len(data) // 2],
        lambda data: b"no chunk at all",
        lambda data: b"",
    ],
    ids=["bomb", "cut", "text", "empty"],
)
@pytest.mark.parametrize("version", [2, 3])
def test_a_damaged_chunk_or_one_that_is_much_more_than_it_says_is_refused(
    tmp_path: Path, damage: Callable[[bytes], bytes], version: int
) -> None:
    from zarr.codecs import GzipCodec

    compressor = {"id": "gzip", "level": 1} if version == 2 else GzipCodec()
    array = zarr.create_array(
        str(tmp_path / "a.zarr"),
        shape=(16, 16, 16),
        chunks=(8, 16, 16),
        dtype="f4",
        zarr_format=version,
        compressors=compressor,
    )
    array[:] = np.random.default_rng(0).normal(size=array.shape)
    (chunk,) = tmp_path.glob("a.zarr/1.0.0" if version == 2 else "a.zarr/c/1/0/0")
    chunk.write_bytes(damage(chunk.read_bytes()))
    volume = read_tomogram(tmp_path / "a.zarr", voxel_size=10).data
    assert np.isfinite(volume[0]).all()
    with pytest.raises(InputError, match=r"a\.zarr: a part of it cannot be read"):
        np.asarray(volume)


def test_a_tomogram_with_a_damaged_chunk_does_not_cost_the_others(
    tomopicker: Command, trained: Path, simulated: Path, tmp_path: Path
) -> None:
    from tomopicker.io.tomograms import write_volume

    good = read_tomogram(simulated / "sim_0002.mrc")
    for name in ("b.hdf", "a.mrc"):
        if name == "a.mrc":
            write_volume(tmp_path / name, np.asarray(good.data), voxel_size=good.voxel_size)
            continue
        with h5py.File(tmp_path / name, "w") as file:
            data = np.asarray(good.data, dtype=np.float32)
            volume = file.create_dataset("v", data=data, chunks=(4, 64, 64), compression="gzip")
            at = volume.id.get_chunk_info(2)
    with (tmp_path / "b.hdf").open("r+b") as opened:
        opened.seek(at.byte_offset)
        opened.write(bytes(at.size))
    done = tomopicker(
        *("pick", trained, tmp_path / "b.hdf", tmp_path / "a.mrc", "--count", 3),
        *("--voxel-size", good.voxel_size, "--out", tmp_path / "picks"),
    )
    assert done.code == 2
    assert f"Left out: {tmp_path / 'b.hdf'}: a part of it cannot be read" in done.stderr
    assert "2 tomograms: 1 done, 1 failed" in done.stderr


def test_a_volume_is_not_looked_for_outside_of_its_file(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "other.zarr"), shape=(8, 8, 8), dtype="f4")
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2)
    away = {"path": "../other.zarr", "coordinateTransformations": []}
    group.attrs["multiscales"] = [{"axes": ["z", "y", "x"], "datasets": [away]}]
    with pytest.raises(InputError, match=r"a\.zarr: cannot be read as zarr"):
        read_tomogram(tmp_path / "a.zarr", voxel_size=10)
    with h5py.File(tmp_path / "other.hdf", "w") as file:
        file["v"] = np.ones((8, 8, 8), dtype=np.float32)
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        file["v"] = h5py.ExternalLink("other.hdf", "/v")
    with pytest.raises(InputError, match="holds no volume"):
        read_tomogram(tmp_path / "a.hdf", voxel_size=10)


def test_entities_of_xml_are_not_expanded(tmp_path: Path) -> None:
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    for declared in (f'<!ENTITY l0 "ha">{laughs}', '<!ENTITY l9 SYSTEM "file:///etc/passwd">'):
        text = f"<?xml version='1.0'?><!DOCTYPE o [{declared}]><objlist>&l9;</objlist>"
        (tmp_path / "a.xml").write_text(text)
        with pytest.raises(InputError, match="declares a document type or entities"):
            read_particles(tmp_path / "a.xml", voxel_size=10)


def test_json_that_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 200_000)
    with pytest.raises(InputError, match=r"a\.json"):
        read_particles(tmp_path / "a.json", voxel_size=10)
    with pytest.raises(InputError, match=r"a\.json"):
        find_tomograms([tmp_path / "a.json"])
    (tmp_path / "b.json").write_text(json.dumps({"static_root": "/nowhere/../../etc"}))
    with pytest.raises(InputError, match="its tomograms are not on this machine"):
        find_tomograms([tmp_path / "b.json"])
