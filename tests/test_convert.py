"""tomopicker convert: lists for other programs, each particle in the same place."""

from pathlib import Path

import numpy as np
import pytest
import starfile

from conftest import Command, Outcome
from tomopicker.io.particles import FORMATS, place_of, read_particles, writable, write_particles
from tomopicker.io.tomograms import write_volume
from tomopicker.types import Particles, Shape

SHAPE: Shape = (11, 23, 35)
VOXEL, PIXEL = 13.48, 3.37
BOTH = [name for name in writable() if FORMATS[name].read is not None]


@pytest.fixture
def tomogram(tmp_path: Path) -> Path:
    path = tmp_path / "tomograms" / "TS_01.mrc"
    write_volume(path, np.zeros(SHAPE, dtype=np.int8), voxel_size=VOXEL)
    return path


def table(*zyx: tuple[float, float, float], name: str = "TS_01") -> Particles:
    return Particles.from_voxels(
        np.array(zyx),
        voxel_size=VOXEL,
        scores=np.linspace(1, 0.5, len(zyx)),
        tomograms=(name,) * len(zyx),
    )


def refused(done: Outcome, *mentions: str) -> None:
    assert done.code == 2, done.stderr
    for mention in mentions:
        assert mention in done.errors[-1]


@pytest.mark.parametrize("source", BOTH)
@pytest.mark.parametrize("target", ["csv", "relion5", "imod", "eman2"])
def test_lists_are_converted_by_their_names(
    tomopicker: Command, tmp_path: Path, tomogram: Path, source: str, target: str
) -> None:
    before = table((1, 2, 3.25), (10, 20, 30))
    given = tmp_path / "in" / place_of(source, "TS_01")
    write_particles(given, before, format=source, shape=SHAPE, pixel_size=PIXEL)
    out = tmp_path / "out" / place_of(target, "TS_01")
    options = ("--like", tomogram, "--pixel-size", PIXEL, "--from", source)
    done = tomopicker("convert", given, out, *options)
    assert done.code == 0, done.stderr
    assert "2 particles of TS_01" in done.stderr
    after = read_particles(out, voxel_size=VOXEL, shape=SHAPE)
    np.testing.assert_allclose(after.voxels, before.voxels, atol=1e-3)
    again = tomopicker("convert", given, out, *options)
    refused(again, f"{out}: is already there", "--force")
    assert tomopicker("convert", given, out, *options, "--force").code == 0


def test_voxels_stay_voxels_whatever_their_size(tomopicker: Command, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y,z,score\n1,2,3,0.5\n")
    done = tomopicker("convert", tmp_path / "a.csv", tmp_path / "a.coords")
    assert done.code == 0, done.stderr
    assert (tmp_path / "a.coords").read_text() == "1.0000 2.0000 3.0000\n"
    assert "without scores, which coords does not hold" in done.stderr


@pytest.mark.parametrize(
    ("options", "mentions"),
    [
        (("a.star",), ("needs the tomogram's voxel size", "--like TOMOGRAM", "--voxel-size")),
        (("a.star", "--voxel-size", 10), ("centre", "--like TOMOGRAM")),
        (("a.star", "--voxel-size", 0), ("--voxel-size must be", "above 0")),
        (("a.star", "--to", "relion4", "--voxel-size", 10), ("relion4", "--pixel-size")),
        (("a.mod",), ("size of its tomogram", "--like TOMOGRAM")),
        (("folder",), ("does not tell the format", "--to", "relion5")),
        (("a.pdf",), ("no format of lists ends in .pdf", "--to")),
        (("a.csv", "--to", "lunch"), ("unknown format 'lunch'",)),
        (("a.xml", "--to", "deepfinder"), ("only read",)),
        (("a.coords", "--to-voxel-size", 5), ("voxel size of a is not known", "--voxel-size")),
        (("a.json", "--voxel-size", 9, "--to-voxel-size", 5), ("copick does not count in voxels",)),
        (("a.coords", "--from", "chimerax"), ("only written",)),
        (("a.coords", "--radius", "12vx"), ("12vx", "--voxel-size")),
    ],
)
def test_what_is_missing_is_told_and_nothing_is_written(
    tomopicker: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[object, ...],
    mentions: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("x y z\n1 2 3\n")
    refused(tomopicker("convert", "a.txt", *options), *mentions)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_bare_numbers_are_said_to_be_taken_for_something(
    tomopicker: Command, tmp_path: Path
) -> None:
    given, out = tmp_path / "a.txt", tmp_path / "a.coords"
    given.write_text("1.5 2.5 3\n")
    done = tomopicker("convert", given, out)
    assert "taken for csv (x y z" in done.stderr
    assert out.read_text() == "1.5000 2.5000 3.0000\n"
    done = tomopicker("convert", given, out, "--from", "imod-text", "--force")
    assert "taken for" not in done.stderr
    assert out.read_text() == "1.0000 2.0000 3.0000\n"


def test_a_suffix_of_several_formats_is_said_to_be_taken_for_one(
    tomopicker: Command, tmp_path: Path, tomogram: Path
) -> None:
    (tmp_path / "a.csv").write_text("x,y,z\n1,2,3\n")
    done = tomopicker("convert", tmp_path / "a.csv", tmp_path / "a.star", "--like", tomogram)
    assert "written as relion5; for another say --to relion4 or relion3" in done.stderr


def test_another_binning_scales_the_voxels(tomopicker: Command, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y,z\n10,20,30\n")
    done = tomopicker(
        *("convert", tmp_path / "a.csv", tmp_path / "a.coords"),
        *("--voxel-size", 13.48, "--to-voxel-size", 6.74),
    )
    assert done.code == 0, done.stderr
    assert (tmp_path / "a.coords").read_text() == "20.0000 40.0000 60.0000\n"
    assert "in voxels of 6.74 Å" in done.stderr


def test_particles_outside_are_warned_of(
    tomopicker: Command, tmp_path: Path, tomogram: Path
) -> None:
    (tmp_path / "a.csv").write_text("x,y,z\n100,2,3\n")
    done = tomopicker("convert", tmp_path / "a.csv", tmp_path / "a.coords", "--like", tomogram)
    assert done.code == 0, done.stderr
    assert "Warning: " in done.stderr
    assert "x = 100, outside the volume's 35 voxels" in done.stderr


def test_a_folder_becomes_a_folder_and_one_list(tomopicker: Command, tmp_path: Path) -> None:
    shapes: dict[str, Shape] = {"TS_01": SHAPE, "TS_02": (12, 24, 36)}
    for name, shape in shapes.items():
        path = tmp_path / "tomograms" / f"{name}.mrc"
        write_volume(path, np.zeros(shape, dtype=np.int8), voxel_size=VOXEL)
        write_particles(tmp_path / "picks" / f"{name}.csv", table((1, 2, 3), name=name))
    like = ("--like", tmp_path / "tomograms")
    done = tomopicker("convert", tmp_path / "picks", tmp_path / "star", "--to", "relion5", *like)
    assert done.code == 0, done.stderr
    assert "2 particles of 2 tomograms" in done.stderr
    listed = starfile.read(tmp_path / "star" / "import_coords.star")
    assert listed["rlnTomoName"].tolist() == ["TS_01", "TS_02"]
    for name, file in zip(listed["rlnTomoName"], listed["rlnTomoImportParticleFile"], strict=True):
        after = read_particles(file, voxel_size=VOXEL, shape=shapes[name])
        np.testing.assert_allclose(after.voxels, [[1, 2, 3]])
    # The folder is read again, the list of lists in it is not one.
    done = tomopicker("convert", tmp_path / "star", tmp_path / "all.star", *like)
    assert done.code == 0, done.stderr
    joined = starfile.read(tmp_path / "all.star")
    centres = [(3 - 35 / 2) * VOXEL, (3 - 36 / 2) * VOXEL]
    assert joined["rlnCenteredCoordinateXAngst"].tolist() == pytest.approx(centres)
    # And one list becomes a folder, as its program keeps it.
    done = tomopicker(
        "convert", tmp_path / "all.star", tmp_path / "copick", "--to", "copick", *like
    )
    assert done.code == 0, done.stderr
    for name in shapes:
        after = read_particles(tmp_path / "copick" / place_of("copick", name), voxel_size=VOXEL)
        np.testing.assert_allclose(after.voxels, [[1, 2, 3]])
    refused(
        tomopicker("convert", tmp_path / "all.star", tmp_path / "all.coords", *like),
        "coords holds the particles of one tomogram, these are of 2 (TS_01, TS_02)",
        "give a folder",
    )
    refused(
        tomopicker("convert", tmp_path / "star", tmp_path / "copick", "--to", "copick", *like),
        "is already there",
    )


TOMOGRAMS = (
    "data_global\n\nloop_\n_rlnTomoName\n_rlnTomoSizeX\n_rlnTomoSizeY\n_rlnTomoSizeZ\n"
    "_rlnTomoTiltSeriesPixelSize\n_rlnTomoTomogramBinning\n001 141 92 44 3.37 4\n"
    "002 200 100 50 3.37 4\n"
)


def test_relions_tomograms_give_the_unbinned_centre_and_the_set_for_its_jobs(
    tomopicker: Command, tmp_path: Path
) -> None:
    like, out = tmp_path / "tomograms.star", tmp_path / "particles.star"
    like.write_text(TOMOGRAMS)
    (tmp_path / "a.csv").write_text("tomogram,x,y,z\n001,17.625,11.5,5.5\n002,0,0,0\n")
    done = tomopicker("convert", tmp_path / "a.csv", out, "--like", like)
    assert done.code == 0, done.stderr
    # 141 unbinned pixels are 35.25 voxels, not 35: the first particle is in the very centre.
    after = starfile.read(out, parse_as_string=["rlnTomoName"])
    columns = [f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ"]
    expected = [[0, 0, 0], [-100 * PIXEL, -50 * PIXEL, -25 * PIXEL]]
    np.testing.assert_allclose(after[columns].to_numpy(), expected, atol=1e-4)
    assert after["rlnTomoName"].tolist() == ["001", "002"]
    pair = starfile.read(tmp_path / "optimisation_set.star")
    assert pair["rlnTomoParticlesFile"] == str(out.resolve())
    assert pair["rlnTomoTomogramsFile"] == str(like.resolve())
    # The pixel size that RELION-4 counts in is there too.
    done = tomopicker("convert", out, tmp_path / "four.star", "--like", like, "--to", "relion4")
    assert done.code == 0, done.stderr
    four = starfile.read(tmp_path / "four.star")["particles"]
    assert four["rlnCoordinateX"].tolist() == pytest.approx([70.5, 0], abs=1e-4)
    (tmp_path / "a.csv").write_text("tomogram,x,y,z\n003,1,2,3\n")
    refused(
        tomopicker("convert", tmp_path / "a.csv", tmp_path / "b.star", "--like", like),
        "has particles in 003, but --like has 001, 002",
    )
    # The folder of the job is its list.
    done = tomopicker("convert", out, tmp_path / "c.star", "--like", tmp_path, "--force")
    assert done.code == 0, done.stderr
    after = starfile.read(tmp_path / "c.star", parse_as_string=["rlnTomoName"])
    np.testing.assert_allclose(after[columns].to_numpy(), expected, atol=1e-4)


RELION4 = (
    "data_global\n\nloop_\n_rlnTomoName\n_rlnTomoSizeX\n_rlnTomoSizeY\n_rlnTomoSizeZ\n"
    "_rlnTomoTiltSeriesPixelSize\n_rlnTomoTiltSeriesName\n"
    "TS_01 141 92 44 3.37 a.st\nTS_02 200 100 50 1.35 b.st\n\n"
    "data_TS_01\n\nloop_\n_rlnTomoProjX\n_rlnTomoProjY\n[1,0,0,0] [0,1,0,0]\n"
)
COORDS = (
    "data_particles\n\nloop_\n_rlnTomoName\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnCoordinateZ\n"
    "TS_01 12 8 4\nTS_02 12 8 4\n"
)


def test_relion4s_tomograms_tell_the_pixel_size_that_its_particles_lack(
    tomopicker: Command, tmp_path: Path
) -> None:
    given, like, out = tmp_path / "in.star", tmp_path / "tomograms.star", tmp_path / "out.csv"
    given.write_text(COORDS)
    like.write_text(RELION4)
    refused(
        tomopicker("convert", given, out, "--voxel-size", VOXEL),
        "does not tell the pixel size of its tilt series",
        "tomograms.star",
    )
    # That list knows no binning either.
    refused(tomopicker("convert", given, out, "--like", like), "--voxel-size")
    done = tomopicker("convert", given, out, "--like", like, "--voxel-size", VOXEL)
    assert done.code == 0, done.stderr
    after = read_particles(out, voxel_size=VOXEL)
    second = np.array([4, 8, 12]) * 1.35 / VOXEL
    np.testing.assert_allclose(after.voxels, [[1, 2, 3], second], atol=1e-4)
    # And it tells the centre that RELION-5 counts from.
    five = tmp_path / "five.star"
    done = tomopicker("convert", given, five, "--like", like, "--voxel-size", VOXEL)
    assert done.code == 0, done.stderr
    column = starfile.read(five)["rlnCenteredCoordinateXAngst"]
    assert column.tolist() == pytest.approx([(12 - 70.5) * PIXEL, (12 - 100) * 1.35], abs=1e-4)
    like.write_text(RELION4.replace(" 1.35 b.st", " 0 b.st"))
    refused(tomopicker("convert", given, out, "--like", like), "does not tell the size of TS_02")
    like.write_text("data_\n\nloop_\n_rlnTomoName\n_rlnVoltage\nTS_01 300\n")
    refused(tomopicker("convert", given, out, "--like", like), "lists no tomograms")


def test_a_copick_project_becomes_one_list(tomopicker: Command, tmp_path: Path) -> None:
    for name, z in (("a", 1.0), ("b", 2.0)):
        path = tmp_path / "project" / place_of("copick", name)
        write_particles(path, table((z, 2, 3), name=name), format="copick")
    done = tomopicker("convert", tmp_path / "project", tmp_path / "all.csv")
    assert done.code == 0, done.stderr
    after = read_particles(tmp_path / "all.csv", voxel_size=VOXEL)
    assert after.tomograms == ("a", "b")
    np.testing.assert_allclose(after.voxels, [[1, 2, 3], [2, 2, 3]])


def test_tomograms_are_called_as_they_are_here(tomopicker: Command, tmp_path: Path) -> None:
    for name in ("rec_TS_51", "rec_TS_7"):
        path = tmp_path / "tomograms" / f"{name}.mrc"
        write_volume(path, np.zeros(SHAPE, dtype=np.int8), voxel_size=VOXEL)
    # A motive list knows tomograms by their numbers.
    both = Particles.from_voxels(
        np.array([[1, 2, 3], [4, 5, 6]]), voxel_size=VOXEL, tomograms=("TS_51", "TS_7")
    )
    write_particles(tmp_path / "a.em", both, format="tom")
    like = ("--like", tmp_path / "tomograms")
    done = tomopicker("convert", tmp_path / "a.em", tmp_path / "out", "--to", "coords", *like)
    assert done.code == 0, done.stderr
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["rec_TS_51.coords", "rec_TS_7.coords"]


def test_a_folder_with_one_tomogram_stands_for_no_other(
    tomopicker: Command, tmp_path: Path, tomogram: Path
) -> None:
    given = tmp_path / "a.csv"
    given.write_text("tomogram,x,y,z\nTS_02,1,2,3\n")
    done = tomopicker("convert", given, tmp_path / "a.star", "--like", tomogram.parent)
    refused(done, "has particles in TS_02, but --like has TS_01")


def test_one_tomogram_stands_for_all_and_says_so(
    tomopicker: Command, tmp_path: Path, tomogram: Path
) -> None:
    (tmp_path / "a.csv").write_text("tomogram,x,y,z\na,1,2,3\nb,4,5,6\n")
    done = tomopicker("convert", tmp_path / "a.csv", tmp_path / "a.star", "--like", tomogram)
    assert done.code == 0, done.stderr
    assert "All 2 tomograms are taken to be as large as TS_01" in done.stderr


def test_a_list_that_states_its_voxel_size_needs_nobody_to_tell_it(
    tomopicker: Command, tmp_path: Path
) -> None:
    given = tmp_path / "TS_01.tbl"
    write_particles(given, table((1, 2, 3)), format="dynamo")
    done = tomopicker("convert", given, tmp_path / "out", "--to", "copick")
    assert done.code == 0, done.stderr
    path = tmp_path / "out" / place_of("copick", "TS_01")
    np.testing.assert_allclose(read_particles(path, voxel_size=VOXEL).voxels, [[1, 2, 3]])


def test_a_pixel_size_that_need_not_be_the_tomograms_is_not_taken_for_it(
    tomopicker: Command, tmp_path: Path
) -> None:
    # Warp exports particles at another size than it reconstructs tomograms.
    given = tmp_path / "TS_01.star"
    write_particles(given, table((1, 2, 3)), format="relion3")
    done = tomopicker("convert", given, tmp_path / "a.csv")
    refused(done, "from relion3 to csv needs the tomogram's voxel size", "--voxel-size")
    assert tomopicker("convert", given, tmp_path / "a.csv", "--voxel-size", 6.74).code == 0
    after = read_particles(tmp_path / "a.csv", voxel_size=6.74)
    np.testing.assert_allclose(after.voxels, [[2, 4, 6]], atol=1e-3)


def test_zarr_and_the_projects_of_other_programs_tell_shapes(
    tomopicker: Command, tmp_path: Path
) -> None:
    zarr = pytest.importorskip("zarr", reason="the extra zarr is not installed")
    run = tmp_path / "ExperimentRuns" / "TS_01" / "VoxelSpacing13.480"
    zarr.save_array(str(run / "wbp.zarr"), np.zeros(SHAPE, dtype=np.float32))
    given = tmp_path / "TS_01.csv"
    given.write_text("tomogram,x,y,z\nTS_01,17.5,11.5,5.5\n")
    for number, like in enumerate((run / "wbp.zarr", tmp_path)):
        out = tmp_path / f"{number}.star"
        done = tomopicker("convert", given, out, "--like", like, "--voxel-size", VOXEL)
        assert done.code == 0, done.stderr
        after = starfile.read(out)
        assert after["rlnCenteredCoordinateXAngst"].tolist() == pytest.approx([0], abs=1e-4)


def test_a_tomogram_of_unknown_voxel_size_still_has_a_shape(
    tomopicker: Command, tmp_path: Path
) -> None:
    like, given = tmp_path / "b.mrc", tmp_path / "a.csv"
    write_volume(like, np.zeros(SHAPE, dtype=np.int8), voxel_size=1.0)
    given.write_text("x,y,z\n1,2,3\n")
    assert tomopicker("convert", given, tmp_path / "a.mod", "--like", like).code == 0
    refused(
        tomopicker("convert", given, tmp_path / "a.star", "--like", like),
        "needs the tomogram's voxel size",
    )


def test_a_table_is_written_with_tabs_where_its_name_says_so(
    tomopicker: Command, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text("tomogram,x,y,z,note\nTS 1,1,2,3,a b\nTS 2,4,5,6,c\n")
    done = tomopicker("convert", tmp_path / "a.csv", tmp_path / "a.tsv")
    assert done.code == 0, done.stderr
    first, second, _ = (tmp_path / "a.tsv").read_text().splitlines()
    assert first.split("\t") == ["x", "y", "z", "tomogram", "note"]
    assert second.split("\t") == ["1.0000", "2.0000", "3.0000", "TS 1", "a b"]
    after = read_particles(tmp_path / "a.tsv", voxel_size=VOXEL)
    assert after.tomograms == ("TS 1", "TS 2")


def test_candidates_are_not_taken_for_picks(tomopicker: Command, tmp_path: Path) -> None:
    given = tmp_path / "TS_01_candidates.csv"
    given.write_text("x,y,z,score,probability,picked\n1,2,3,0.5,,1\n4,5,6,0.2,,0\n")
    refused(
        tomopicker("convert", given, tmp_path / "a.coords"),
        "holds candidates, most of which are no picks",
        "without _candidates",
    )


def test_several_tomograms_are_named_one_by_one(
    tomopicker: Command, tmp_path: Path, tomogram: Path
) -> None:
    other = tmp_path / "more" / "TS_02.mrc"
    write_volume(other, np.zeros((12, 24, 36), dtype=np.int8), voxel_size=VOXEL)
    (tmp_path / "a.csv").write_text("tomogram,x,y,z\nTS_01,0,0,0\nTS_02,0,0,0\n")
    done = tomopicker(
        *("convert", tmp_path / "a.csv", tmp_path / "a.star"),
        *("--like", tomogram, "--like", other),
    )
    assert done.code == 0, done.stderr
    column = starfile.read(tmp_path / "a.star")["rlnCenteredCoordinateXAngst"]
    assert column.tolist() == pytest.approx([-17.5 * VOXEL, -18 * VOXEL])


def test_a_list_of_no_particles_is_converted(
    tomopicker: Command, tmp_path: Path, tomogram: Path
) -> None:
    (tmp_path / "a.csv").write_text("x,y,z,score\n")
    done = tomopicker("convert", tmp_path / "a.csv", tmp_path / "a.star", "--like", tomogram)
    assert done.code == 0, done.stderr
    assert "0 particles of TS_01" in done.stderr
    assert len(read_particles(tmp_path / "a.star", voxel_size=VOXEL, shape=SHAPE)) == 0
