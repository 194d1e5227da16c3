"""Tomograms and picks are told apart by what is in them, in the projects of other programs."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import starfile

from conftest import SHORT, Command
from tomopicker.cli.run import read_labelled
from tomopicker.errors import InputError
from tomopicker.io.particles import place_of, writable, write_particles
from tomopicker.io.particles.formats import is_list
from tomopicker.io.places import picks_of_project, tomograms_and_picks
from tomopicker.io.tomograms import write_volume
from tomopicker.types import Particles, Shape

SHAPE: Shape = (30, 40, 50)
VOXEL = 10.0


def volume(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(path, np.zeros(SHAPE, dtype=np.int8), voxel_size=VOXEL)
    return path


def picks(name: str = "TS_01") -> Particles:
    return Particles.from_voxels(
        np.array([[3.0, 8, 10], [15, 20, 25]]), voxel_size=VOXEL, tomograms=(name, name)
    )


def written(path: Path, format: str, name: str = "TS_01") -> Path:
    write_particles(path, picks(name), format=format, shape=SHAPE, pixel_size=2.5, overwrite=True)
    return path


def labelled(*places: Path) -> dict[str, Particles]:
    """What `tomopicker train PLACES` learns from."""
    tomograms, lists = tomograms_and_picks(places, None)
    found, _ = read_labelled(
        tomograms,
        lists or picks_of_project(tomograms),
        voxel_size=None,
        skip_unmatched=False,
    )
    return {tomogram.name: table for tomogram, table in found}


def refused(*places: Path, mentions: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        labelled(*places)
    for mention in mentions:
        assert mention in str(caught.value)


@pytest.mark.parametrize("format", writable())
def test_lists_of_every_format_are_known_by_their_content(tmp_path: Path, format: str) -> None:
    assert is_list(written(tmp_path / place_of(format, "TS_01"), format))


def test_what_is_no_list_is_not_taken_for_one(tmp_path: Path) -> None:
    assert not is_list(volume(tmp_path / "a.mrc"))
    texts = {
        "tomograms.star": "data_global\n\nloop_\n_rlnTomoName\n_rlnTomoSizeX\nTS_01 9\n",
        "paths.txt": "# mine\nrec/TS_01.mrc\nrec/TS_02.mrc\n",
        "config.json": '{"static_root": "local://here"}',
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        assert not is_list(tmp_path / name)


@pytest.fixture
def relion(tmp_path: Path) -> Path:
    """The tomograms.star of a RELION-5 project with TS_01 and TS_02."""
    rows = []
    for name in ("TS_01", "TS_02"):
        file = volume(tmp_path / f"Tomograms/job010/tomograms/rec_{name}.mrc")
        rows.append(f"{name} 2.5 4 200 160 120 {file.relative_to(tmp_path)}")
    columns = ("rlnTomoName", "rlnTomoTiltSeriesPixelSize", "rlnTomoTomogramBinning")
    columns += ("rlnTomoSizeX", "rlnTomoSizeY", "rlnTomoSizeZ", "rlnTomoReconstructedTomogram")
    path = tmp_path / "Tomograms/job010/tomograms.star"
    head = "".join(f"_{column}\n" for column in columns)
    path.write_text(f"data_global\n\nloop_\n{head}" + "\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize("format", ["relion5", "relion4", "csv"])
def test_a_relion_project(tmp_path: Path, relion: Path, format: str) -> None:
    suffix = "csv" if format == "csv" else "star"
    path = written(tmp_path / f"Picks/job011/particles.{suffix}", format)
    for tomograms in (relion, relion.parent):
        # A list without names is of the tomogram that it is called as, so not this one.
        if format == "csv":
            refused(tomograms, path, mentions=("which of the 2 tomograms",))
            continue
        (name, table), *others = labelled(tomograms, path).items()
        assert (name, others) == ("TS_01", [])
        np.testing.assert_allclose(table.voxels, picks().voxels, atol=1e-3)


def test_relions_set_of_tomograms_and_particles_is_enough(tmp_path: Path, relion: Path) -> None:
    written(tmp_path / "Picks/job011/particles.star", "relion5")
    path = tmp_path / "Picks/job011/optimisation_set.star"
    named = {
        "rlnTomoParticlesFile": "Picks/job011/particles.star",
        "rlnTomoTomogramsFile": str(relion.relative_to(tmp_path)),
    }
    # RELION's programs write a list of values, its Python a table.
    path.write_text("data_\n\n" + "".join(f"_{key} {value}\n" for key, value in named.items()))
    np.testing.assert_allclose(labelled(path)["TS_01"].voxels, picks().voxels, atol=1e-3)
    starfile.write({"optimisation_set": pd.DataFrame([named])}, path, overwrite=True)
    assert set(labelled(path)) == {"TS_01"}
    # Another list in the place of its own.
    other = written(tmp_path / "TS_02.star", "relion5", "TS_02")
    assert set(labelled(path, other)) == {"TS_02"}
    (tmp_path / "Picks/job011/particles.star").unlink()
    refused(path, mentions=("particles.star, which is not there", "project's folder"))


@pytest.fixture
def warp(tmp_path: Path) -> Path:
    """A Warp project with two tilt series, reconstructed."""
    for name in ("TS_1", "TS_10"):
        volume(tmp_path / f"warp_tiltseries/reconstruction/{name}_10.00Apx.mrc")
        (tmp_path / "tomostar").mkdir(exist_ok=True)
        (tmp_path / f"tomostar/{name}.tomostar").write_text("data_\n")
    return tmp_path


@pytest.mark.parametrize("given", [".", "tomostar", "warp_tiltseries"])
def test_a_warp_project_with_a_list_of_m(warp: Path, given: str) -> None:
    path = written(warp / "matching.star", "relion3", "TS_10")
    (name, table), *others = labelled(warp / given, path).items()
    assert name.startswith("TS_10")
    assert not others
    np.testing.assert_allclose(table.voxels, picks().voxels, atol=1e-3)


def test_the_lists_of_warps_template_matching(warp: Path) -> None:
    # As Warp writes them: fractions of the volume's size, named by series, template and size.
    head = "".join(
        f"_{column}\n"
        for column in (
            *("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ", "rlnAngleRot", "rlnAngleTilt"),
            *("rlnAnglePsi", "rlnMicrographName", "rlnAutopickFigureOfMerit"),
        )
    )
    matching = warp / "warp_tiltseries/matching"
    matching.mkdir()
    for name in ("TS_1", "TS_10"):
        (matching / f"{name}_10.00Apx_ribosome.star").write_text(
            f"data_\n\nloop_\n{head}0.2 0.2 0.1 10 20 30 {name}.tomostar 7.5\n"
            f"0.5 0.5 0.5 10 20 30 {name}.tomostar 6.5\n"
        )
    for lists in (matching, matching / "*_ribosome.star"):
        found = labelled(warp / "warp_tiltseries", lists)
        assert set(found) == {"TS_1_10.00Apx", "TS_10_10.00Apx"}
        for table in found.values():
            np.testing.assert_allclose(table.voxels, [[3, 8, 10], [15, 20, 25]])
            assert table.scores is not None
    # Its 10.00Apx is no voxel size of the coordinates.
    (matching / "TS_1_10.00Apx_spike.star").write_bytes(
        (matching / "TS_1_10.00Apx_ribosome.star").read_bytes()
    )
    refused(warp, matching / "*.star", mentions=("spike.star: has picks in TS_1", "ribosome.star"))


def copick(folder: Path, *kinds: str) -> Path:
    zarr = pytest.importorskip("zarr", reason="the extra zarr is not installed")
    for name in ("TS_01", "TS_02"):
        run = folder / "ExperimentRuns" / name
        zarr.save_array(str(run / "VoxelSpacing10.000" / "wbp.zarr"), np.zeros(SHAPE, np.float32))
        for kind in kinds:
            written(run / "Picks" / kind, "copick", name)
    return folder


def test_a_copick_project_has_its_picks_in_it(tmp_path: Path) -> None:
    tree = copick(tmp_path / "static", "me_1_ribosome.json")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"static_root": f"local://{tree}", "overlay_root": "s3://else"}))
    for place in (tree, config):
        found = labelled(place)
        assert set(found) == {"TS_01", "TS_02"}
        np.testing.assert_allclose(found["TS_02"].voxels, picks().voxels)


def test_of_several_kinds_of_picks_one_has_to_be_named(tmp_path: Path) -> None:
    tree = copick(tmp_path / "static", "me_1_ribosome.json", "me_1_fas.json")
    pattern = tree / "ExperimentRuns/*/Picks/me_1_fas.json"
    refused(tree, mentions=("2 kinds (me_1_fas.json, me_1_ribosome.json)", f"'{pattern}'"))
    assert set(labelled(tree, pattern)) == {"TS_01", "TS_02"}
    # As a shell that was given no quotes would.
    assert set(labelled(tree, *sorted(tree.glob("ExperimentRuns/*/Picks/me_1_fas.json")))) == {
        "TS_01",
        "TS_02",
    }


def test_files_and_folders_in_any_order(tmp_path: Path) -> None:
    files = [volume(tmp_path / f"rec/TS_0{number}.mrc") for number in (1, 2)]
    lists = [written(tmp_path / f"clicks/TS_0{number}.csv", "csv") for number in (1, 2)]
    for places in (
        (*files, *lists),
        (lists[1], files[1], lists[0], files[0]),
        (*files, tmp_path / "clicks"),
        (tmp_path / "rec", tmp_path / "clicks"),
        (tmp_path / "clicks", tmp_path / "rec"),
        (tmp_path / "rec" / "*.mrc", tmp_path / "clicks" / "*.csv"),
    ):
        assert set(labelled(*places)) == {"TS_01", "TS_02"}
    assert set(labelled(tmp_path / "rec", lists[1])) == {"TS_02"}


def test_what_is_not_clear_is_told_with_the_remedy(tmp_path: Path) -> None:
    tomogram = volume(tmp_path / "TS_01.mrc")
    path = written(tmp_path / "TS_01.csv", "csv")
    refused(path, mentions=("is a list of particles; name the tomograms",))
    refused(tomogram, mentions=("has no picks of its own", "--picks"))
    # Lists beside tomograms may be anything.
    refused(tmp_path, mentions=("has no picks of its own", "--picks"))
    with pytest.raises(InputError, match=r"TS_01\.csv: is a list of particles, and --picks names"):
        tomograms_and_picks([tomogram, path], path)
    other = written(tmp_path / "other/TS_01.csv", "csv")
    refused(tomogram, path, other, mentions=("other/TS_01.csv: has picks in TS_01, as",))
    refused(tomogram, tmp_path / "nothing.star", mentions=("nothing.star", "no such file"))
    refused(tomogram, tmp_path / "*.tbl", mentions=("no file is named so",))
    (tmp_path / "a.star").write_text("data_\n\nloop_\n_rlnVoltage\n300\n")
    refused(tomogram, tmp_path / "a.star", mentions=("a.star: lists no tomograms",))


def test_training_takes_its_picks_from_among_its_tomograms(
    tomopicker: Command, simulated: Path, tmp_path: Path
) -> None:
    learn = ("train", simulated / "sim_0001.mrc", "--radius", "60A", *SHORT)
    done = tomopicker(*learn, simulated / "sim_0001.csv", "--out", tmp_path / "run")
    assert done.code == 0, done.stderr
    assert (tmp_path / "run/clicks/sim_0001.csv").is_file()
    done = tomopicker(*learn, "--out", tmp_path / "none")
    assert done.code == 2
    assert "has no picks of its own" in done.errors[-1]
    assert not (tmp_path / "none").exists()
