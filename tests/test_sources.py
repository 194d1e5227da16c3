"""Tomograms are found in every way that users and their other programs name them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import starfile

from conftest import SHORT, Outcome
from tomopicker.cli.run import read_labelled
from tomopicker.errors import InputError, UnknownVoxelSizeError
from tomopicker.io.particles import read_particles, read_picks_for, write_particles
from tomopicker.io.tomograms import find_tomograms, write_volume
from tomopicker.types import Particles

Command = Callable[..., Outcome]

SHAPE = (3, 4, 5)


def volume(path: Path, value: float = 0, *, voxel_size: float = 10, shape: tuple = SHAPE) -> Path:
    """Write a volume that begins with a value."""
    data = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    data[0, 0, 0] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(path, data, voxel_size=voxel_size)
    return path


def star(path: Path, columns: list[str], *rows: str, block: str = "global") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = "\n".join(f"_{column} #{number}" for number, column in enumerate(columns, start=1))
    path.write_text(
        f"\n# version 50001\n\ndata_{block}\n\nloop_\n{names}\n" + "\n".join(rows) + "\n"
    )
    return path


WHOLE = "rlnTomoReconstructedTomogram"
COLUMNS = ["rlnTomoName", "rlnTomoTiltSeriesPixelSize", "rlnTomoTomogramBinning", WHOLE]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A RELION-5 project with the tomograms 001 and TS_02; returns the list of its job."""
    for value, name in ((1, "001"), (2, "TS_02")):
        volume(tmp_path / f"Tomograms/job010/tomograms/rec_{name}.mrc", value)
    return star(
        tmp_path / "Tomograms/job010/tomograms.star",
        COLUMNS,
        "001 2.5 4 Tomograms/job010/tomograms/rec_001.mrc",
        "TS_02 2.5 4 Tomograms/job010/tomograms/rec_TS_02.mrc",
    )


def found(*places: Path | str) -> dict[str, float]:
    """Names of the tomograms that are found, with their first voxels."""
    return {source.name: float(source.open().data[0, 0, 0]) for source in find_tomograms(places)}


def refused(place: Path | str, *parts: str) -> None:
    with pytest.raises(InputError) as caught:
        found(place)
    for part in parts:
        assert part in str(caught.value)


def test_a_relion_list_names_its_tomograms_relative_to_the_project(project: Path) -> None:
    assert found(project) == {"001": 1, "TS_02": 2}
    assert found(project.parent) == {"001": 1, "TS_02": 2}


def test_a_relion_list_is_read_from_the_projects_folder_too(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "tomograms.star"
    elsewhere.write_text(project.read_text())
    refused(elsewhere, "is in none of", str(elsewhere.parent), str(Path.cwd()))
    monkeypatch.chdir(tmp_path)
    assert found(elsewhere) == {"001": 1, "TS_02": 2}


def test_a_relion_list_gives_the_voxel_size_that_a_header_lacks(project: Path) -> None:
    write_volume(
        project.parent / "tomograms/rec_001.mrc", np.ones(SHAPE), voxel_size=0, overwrite=True
    )
    assert [source.open().voxel_size for source in find_tomograms([project])] == [10, 10]
    text = project.read_text().replace(" 2.5 4 ", " 2.5 -1 ")
    project.write_text(text)
    with pytest.raises(UnknownVoxelSizeError, match="--voxel-size"):
        find_tomograms([project])[0].open()


def test_relion_counts_from_half_of_the_unbinned_size_that_its_list_states(tmp_path: Path) -> None:
    volume(tmp_path / "rec_TS_01.mrc")
    sizes = ["rlnTomoSizeX", "rlnTomoSizeY", "rlnTomoSizeZ"]
    listed = star(
        tmp_path / "tomograms.star", [*COLUMNS, *sizes], "TS_01 2.5 4 rec_TS_01.mrc 21 17 13"
    )
    (source,) = find_tomograms([listed])
    tomogram = source.open()
    assert tomogram.extent == (52.5, 42.5, 32.5)
    centre = Particles(
        positions=np.array([[26.25, 21.25, 16.25]]), voxel_size=10.0, tomograms=("TS_01",)
    )
    picks = tmp_path / "picks.star"
    write_particles(picks, centre, format="relion5", shape=tomogram.shape, extent=tomogram.extent)
    assert starfile.read(picks)[["rlnCenteredCoordinateXAngst"]].to_numpy() == 0
    (back,) = read_picks_for(picks, [tomogram])
    np.testing.assert_allclose(back.positions, centre.positions, atol=1e-3)
    # A user who knows another voxel size knows better than the list.
    assert source.open(voxel_size=20).extent is None
    listed.write_text(listed.read_text().replace("21 17 13", "0 0 0"))
    assert find_tomograms([listed])[0].open().extent is None


def test_a_relion_list_tells_the_pixel_size_that_particles_may_lack(project: Path) -> None:
    picks = star(
        project.parent / "picks.star",
        ["rlnTomoName", "rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ"],
        "TS_02 16 8 4",
        block="particles",
    )
    tomograms = [source.open() for source in find_tomograms([project])]
    assert {tomogram.pixel_size for tomogram in tomograms} == {2.5}
    none, some = read_picks_for(picks, tomograms, allow_none=True)
    assert len(none) == 0
    np.testing.assert_allclose(some.voxels, [[1, 2, 4]])
    # A user who knows another voxel size knows better than the list.
    assert find_tomograms([project])[0].open(voxel_size=9).pixel_size is None


def test_a_header_that_contradicts_the_list_is_refused_unless_the_user_decides(
    project: Path,
) -> None:
    project.write_text(project.read_text().replace(" 2.5 4 ", " 2.5 8 "))
    refused(project, "header says 10 Å", "says 20 Å", "--voxel-size")
    assert find_tomograms([project])[0].open(voxel_size=20).voxel_size == 20


def test_a_denoised_tomogram_is_taken_before_the_reconstruction_before_its_halves(
    tmp_path: Path,
) -> None:
    for value, name in enumerate(("denoised", "whole", "half1", "half2")):
        volume(tmp_path / f"{name}.mrc", value)
    path = star(
        tmp_path / "tomograms.star",
        ["rlnTomoName", f"{WHOLE}Denoised", WHOLE, f"{WHOLE}Half1", f"{WHOLE}Half2"],
        "a denoised.mrc whole.mrc half1.mrc half2.mrc",
        "b N/A whole.mrc half1.mrc half2.mrc",
        "c None N/A half1.mrc half2.mrc",
        "not-yet N/A N/A N/A N/A",
    )
    assert found(path) == {"a": 0, "b": 1, "c": 2.5}
    kinds = [source.kind for source in find_tomograms([path])]
    assert kinds == ["denoised", "", "mean of half maps"]


def test_the_mean_of_half_maps_is_a_volume_like_any_other(tmp_path: Path) -> None:
    one, other = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    write_volume(tmp_path / "half1.mrc", one, voxel_size=10)
    write_volume(tmp_path / "half2.mrc", other, voxel_size=10)
    path = star(
        tmp_path / "tomograms.star",
        ["rlnTomoName", f"{WHOLE}Half1", f"{WHOLE}Half2"],
        "a half1.mrc half2.mrc",
    )
    tomogram = find_tomograms([path])[0].open()
    mean = (one + other) / 2
    assert (tomogram.shape, tomogram.data.dtype, len(tomogram.data)) == (SHAPE, np.float32, 3)
    assert tomogram.data.size == mean.size
    np.testing.assert_array_equal(tomogram.data[1, ::2, 1:3], mean[1, ::2, 1:3])
    np.testing.assert_array_equal(np.asarray(tomogram.data, dtype=np.float64), mean)
    np.testing.assert_array_equal(tomogram.loaded().data, mean)
    volume(tmp_path / "other.mrc", shape=(3, 4, 6))
    path.write_text(path.read_text().replace("half2.mrc", "other.mrc"))
    refused(path, "its other half", "6 × 4 × 3")


def test_lists_of_something_else_are_refused_with_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.star"
    star(path, ["rlnTomoName", "rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ"], "a 1 2 3")
    refused(path, "list of particles", "--picks")
    star(path, ["rlnTomoName", "rlnTomoTiltSeriesStarFile"], "a tilt_series/a.star")
    refused(path, "tilt series without tomograms", "job that reconstructed them")
    star(path, ["rlnVoltage"], "300")
    refused(path, "lists no tomograms")
    star(path, ["rlnTomoName", WHOLE], "a N/A")
    refused(path, "lists no tomograms")


def test_a_folder_and_a_pattern_give_their_volumes_by_name(tmp_path: Path) -> None:
    for value, name in enumerate(("b.rec", "a.mrc", "deep/er/c.mrc", "tilts.st", "._a.mrc")):
        volume(tmp_path / name, value)
    (tmp_path / "notes.doc").write_text("no tomogram")
    assert list(found(tmp_path).items()) == [("a", 1), ("b", 0)]
    assert found(tmp_path / "**" / "?.mrc") == {"a": 1, "c": 2}
    assert found(tmp_path / "a.mrc", tmp_path / "deep" / "er") == {"a": 1, "c": 2}
    refused(tmp_path / "*.em", "no file is named so")
    refused(tmp_path / "deep", "holds no tomograms", "deep/*/*.mrc")


def test_a_text_list_has_a_path_on_each_line(tmp_path: Path) -> None:
    volume(tmp_path / "data/a b.mrc", 1)
    away = volume(tmp_path / "away/c.mrc", 2)
    path = tmp_path / "lists/mine.txt"
    path.parent.mkdir()
    path.write_text(f"# the good ones\ndata/a b.mrc\n\n{away}\n")
    assert found(path) == {"a b": 1, "c": 2}
    path.write_text("# none\n")
    refused(path, "lists no tomograms")


@pytest.mark.parametrize("given", [".", "tomostar", "warp_tiltseries"])
def test_a_warp_project_is_found_from_each_of_its_folders(tmp_path: Path, given: str) -> None:
    for value, name in enumerate(("TS_1", "TS_10", "other")):
        volume(tmp_path / f"warp_tiltseries/reconstruction/{name}_10.00Apx.mrc", value)
        volume(tmp_path / f"warp_tiltseries/reconstruction/odd/{name}_10.00Apx.mrc", 9)
    (tmp_path / "tomostar").mkdir()
    for name in ("TS_1", "TS_10"):
        (tmp_path / f"tomostar/{name}.tomostar").write_text("data_\n")
    names = found(tmp_path / given)
    if given == "warp_tiltseries":
        # It has no list of tilt series: its tomograms are called as their files are.
        assert names == {"TS_1_10.00Apx": 0, "TS_10_10.00Apx": 1, "other_10.00Apx": 2}
    else:
        assert names == {"TS_1": 0, "TS_10": 1}


def test_an_older_warp_folder_has_all_in_one(tmp_path: Path) -> None:
    volume(tmp_path / "reconstruction/TS_01_10.00Apx.mrc", 7)
    for name in ("TS_01", "TS_02"):
        (tmp_path / f"{name}.tomostar").write_text("data_\n")
    assert found(tmp_path / "TS_01.tomostar") == {"TS_01": 7}
    assert [source.name for source in find_tomograms([tmp_path])] == ["TS_01", "TS_02"]
    refused(tmp_path, "TS_02.mrc, is in none of")
    volume(tmp_path / "reconstruction/TS_01_5.00Apx.mrc", 8)
    refused(tmp_path, "TS_01 has 2 tomograms", "reconstruction/*_10.00Apx.mrc")


def test_tilt_series_without_any_tomogram_are_refused(tmp_path: Path) -> None:
    (tmp_path / "TS_01.tomostar").write_text("data_\n")
    volume(tmp_path / "TS_02.mrc")
    refused(tmp_path, "1 tilt series but no tomograms", "reconstruct them")


def copick(folder: Path, *files: str) -> Path:
    for file in files:
        (folder / "ExperimentRuns" / file).mkdir(parents=True)
    return folder


def test_a_copick_project_names_its_tomograms_after_their_runs(tmp_path: Path) -> None:
    root = copick(
        tmp_path / "static", "TS_1/VoxelSpacing10.012/wbp.zarr", "TS_2/VoxelSpacing10.012/wbp.zarr"
    )
    config = tmp_path / "config.json"
    for stated in (f"local://{root}", str(root), "static", f"file://{root}"):
        config.write_text(json.dumps({"static_root": stated, "overlay_root": "s3://bucket/mine"}))
        for place in (config, root):
            sources = find_tomograms([place])
            assert [(source.name, source.voxel_size) for source in sources] == [
                ("TS_1", 10.012),
                ("TS_2", 10.012),
            ]
    (source,) = find_tomograms([root / "ExperimentRuns/TS_2/VoxelSpacing10.012/wbp.zarr"])
    assert source.name == "TS_2"


def test_a_copick_project_with_a_choice_or_nothing_is_refused(tmp_path: Path) -> None:
    files = ("TS_1/VoxelSpacing10.000/wbp.zarr", "TS_1/VoxelSpacing10.000/denoised.zarr")
    root = copick(tmp_path / "static", *files)
    refused(root, "2 kinds", "VoxelSpacing10.000/denoised.zarr")
    config = tmp_path / "config.json"
    for content, part in (
        ("{", "cannot be read as JSON"),
        ("{}", "neither static_root nor overlay_root"),
        ('{"static_root": "s3://bucket"}', "not on this machine (s3://bucket"),
        ('{"static_root": "local:///nowhere"}', "not on this machine (/nowhere"),
    ):
        config.write_text(content)
        refused(config, part)
    refused(copick(tmp_path / "empty", "TS_1"), "has no tomograms")


def test_training_and_picking_take_a_relion_project_as_it_is(
    tomopicker: Command, simulated: Path, tmp_path: Path
) -> None:
    job = tmp_path / "Tomograms/job010"
    (job / "tomograms").mkdir(parents=True)
    rows, names = [], {"sim_0001": "TS_01", "sim_0002": "TS_02"}
    for simulation, name in names.items():
        file = job / "tomograms" / f"rec_{name}.mrc"
        file.write_bytes((simulated / f"{simulation}.mrc").read_bytes())
        rows.append(f"{name} 1.35 10 {file.relative_to(tmp_path)}")
    tomograms = star(job / "tomograms.star", COLUMNS, *rows, "TS_03 1.35 10 Tomograms/none.mrc")
    known = read_particles(simulated / "sim_0001.csv", voxel_size=13.5)
    clicks = Particles(
        positions=known.positions, voxel_size=13.5, tomograms=("TS_01",) * len(known)
    )
    picks = tmp_path / "Picks/particles.star"
    write_particles(picks, clicks, format="relion5", shape=(32, 64, 64))
    run = tmp_path / "run"
    learn = ("train", tomograms, "--picks", picks, "--radius", "60A", *SHORT)
    done = tomopicker(*learn, "--out", run)
    assert done.code == 0, done.stderr
    assert "1 of 3 tomograms have picks: TS_01" in done.stderr
    done = tomopicker("pick", run, tomograms, "--count", 3, "--out", tmp_path / "out")
    assert done.code == 2
    assert "TS_03" in done.errors[-1]
    assert {path.name for path in (tmp_path / "out" / "relion5").iterdir()} == {
        "TS_01.star",
        "TS_02.star",
        "import_coords.star",
    }
    assert "TS_02" in (tmp_path / "out/relion5/TS_02.star").read_text()
    # Clicks in the tomogram that is missing are not lost without a word.
    strange = Particles(positions=known.positions, voxel_size=13.5, tomograms=("TS_03",) * 24)
    write_particles(picks, strange, format="relion5", shape=(32, 64, 64), overwrite=True)
    done = tomopicker(*learn, "--out", tmp_path / "other")
    assert done.code == 2
    assert "Tomograms/none.mrc" in done.errors[-1]


def test_a_list_without_names_is_of_the_listed_tomogram_that_is_called_as_it_is(
    tomopicker: Command, simulated: Path, tmp_path: Path
) -> None:
    learn = ("train", simulated / "*.mrc", "--radius", "60A", *SHORT)
    refusal = tomopicker(*learn, "--picks", simulated / "sim_0002.csv", "--out", tmp_path / "run")
    assert refusal.code == 2  # a pattern names each of its files
    done = tomopicker(
        *("train", simulated, "--radius", "60A", *SHORT),
        *("--picks", simulated / "sim_0002.csv", "--out", tmp_path / "run"),
    )
    assert done.code == 0, done.stderr
    assert "1 of 2 tomograms have picks: sim_0002" in done.stderr


def test_several_tomograms_are_not_validated_on(
    tomopicker: Command, simulated: Path, tmp_path: Path
) -> None:
    done = tomopicker(
        *("train", simulated / "sim_0001.mrc", "--picks", simulated / "sim_0001.csv"),
        *("--val-tomogram", simulated, "--val-picks", simulated),
        *("--radius", "60A", *SHORT, "--out", tmp_path / "run"),
    )
    assert done.code == 2
    assert "2 tomograms there have picks; name one" in done.errors[-1]


def test_omes_files_are_called_without_both_suffixes(tmp_path: Path) -> None:
    for name in ("TS_01.ome.zarr", "TS_02.ome.tif", "TS_03.omega.mrc"):
        (tmp_path / name).touch()
    found = [source.name for source in find_tomograms([tmp_path])]
    assert found == ["TS_01", "TS_02", "TS_03.omega"]


def test_a_listed_tomogram_that_is_broken_is_told_though_others_have_picks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    volume(tmp_path / "rec" / "TS_01.mrc")
    (tmp_path / "rec" / "TS_02.mrc").write_bytes(b"cut off")
    for name in ("TS_01", "TS_02"):
        (tmp_path / f"{name}.csv").write_text("x,y,z\n1,2,1\n")
    labelled, _ = read_labelled(
        [tmp_path / "rec"], [tmp_path], voxel_size=None, skip_unmatched=False
    )
    assert [tomogram.name for tomogram, _ in labelled] == ["TS_01"]
    told = capsys.readouterr().err
    assert "1 of 2 tomograms could not be opened" in told
    assert "TS_02.mrc: is not an MRC file" in told
