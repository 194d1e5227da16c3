"""Reading and writing particle lists, and giving picks to tomograms."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import starfile

from tomopicker.errors import InputError
from tomopicker.io.particles import (
    by_tomogram,
    check_format,
    check_inside,
    fitting_orders,
    place_of,
    read_particles,
    read_picks_for,
    write_particles,
)
from tomopicker.types import Particles, Shape, Tomogram

SHAPE: Shape = (100, 200, 300)
VOXEL = 13.48
PIXEL = 3.37


def particles(
    *zyx: tuple[float, float, float], names: tuple[str, ...] = (), scores: Any = None
) -> Particles:
    return Particles.from_voxels(np.array(zyx), voxel_size=VOXEL, tomograms=names, scores=scores)


def tomogram(name: str, shape: Shape = SHAPE, voxel_size: float = VOXEL) -> Tomogram:
    return Tomogram(name=name, data=np.broadcast_to(np.int8(0), shape), voxel_size=voxel_size)


def read(path: Path, text: str | None = None) -> Particles:
    if text is not None:
        path.write_text(text)
    return read_particles(path, voxel_size=VOXEL, shape=SHAPE)


def refused(path: Path, text: str | bytes, *parts: str) -> None:
    """Assert that reading fails with one line that names the file and holds the parts."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for part in parts:
        assert part in message


# Every format


def test_an_unknown_format_lists_the_known_ones(tmp_path: Path) -> None:
    known = "unknown format 'emn'; known are csv, relion5, relion4, cbox, relion3, copick"
    with pytest.raises(InputError, match=known):
        write_particles(tmp_path / "a.csv", particles((1, 2, 3)), format="emn")
    with pytest.raises(InputError, match=known):
        place_of("emn", "a")
    assert list(tmp_path.iterdir()) == []


def test_a_list_is_never_silently_replaced(tmp_path: Path) -> None:
    write_particles(tmp_path / "a.csv", particles((1, 2, 3)))
    with pytest.raises(InputError, match=r"a\.csv: exists already"):
        write_particles(tmp_path / "a.csv", particles((4, 5, 6)))
    assert read(tmp_path / "a.csv").voxels == pytest.approx(np.array([[1, 2, 3]]))


def test_a_list_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"a\.csv: cannot be written \(.+\)"):
        write_particles(tmp_path / "file" / "a.csv", particles((1, 2, 3)))


@pytest.mark.parametrize("suffix", [".csv", ".star", ".coords"])
def test_a_missing_an_empty_and_a_binary_file_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    with pytest.raises(InputError, match="no such file"):
        read(path)
    refused(path, "", "is empty")
    refused(path, " \n\n", "is empty")
    refused(path, b"\x93NUMPY\x00\x01", "is not text")
    refused(path, b"\xff\xfe\xfd", "is not text")


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        read(tmp_path)


# CSV


def test_csv_is_x_y_z_score_in_voxels(tmp_path: Path) -> None:
    write_particles(tmp_path / "a.csv", particles((3, 2, 1.23456), scores=np.array([0.5])))
    assert (tmp_path / "a.csv").read_text() == "x,y,z,score\n1.2346,2.0000,3.0000,0.5\n"


def test_csv_has_a_probability_where_the_particles_have_one(tmp_path: Path) -> None:
    both = replace(
        particles((3, 2, 1), (6, 5, 4), scores=np.array([2.0, 1.0])),
        probabilities=np.array([1.0, 0.25]),
    )
    write_particles(tmp_path / "a.csv", both.select(np.array([1])))
    assert (tmp_path / "a.csv").read_text() == (
        "x,y,z,score,probability\n4.0000,5.0000,6.0000,1,0.2500\n"
    )
    assert len(read(tmp_path / "a.csv")) == 1
    with pytest.raises(InputError, match="1 probabilities for 2 positions"):
        replace(both, probabilities=np.array([0.5]))


def test_csv_has_no_tomogram_column_unless_there_are_several(tmp_path: Path) -> None:
    write_particles(tmp_path / "a.csv", particles((3, 2, 1), (6, 5, 4), names=("a", "a")))
    assert (tmp_path / "a.csv").read_text().startswith("x,y,z\n")
    write_particles(tmp_path / "b.csv", particles((3, 2, 1), (6, 5, 4), names=("a", "b,c")))
    assert (tmp_path / "b.csv").read_text().startswith("x,y,z,tomogram\n")
    assert read(tmp_path / "b.csv").tomograms == ("a", "b,c")


@pytest.mark.parametrize(
    "text",
    [
        "x,y,z\n1,2,3\n4,5,6.5\n",
        "\ufeffx,y,z\r\n1,2,3\r\n4,5,6.5\r\n",
        "# by hand\nZ; quality; Y; X\n3;9;2;1\n\n6.5;9;5;4\n",
        "1,2,3\n4,5,6.5\n",
        "1\t2\t3\n4\t5\t6.5\n",
        "  1   2 3\n4 5 6.5",
        "tomogram_name,z_coord,y_coord,x_coord\n1,3,2,1\n1,6.5,5,4\n",
    ],
)
def test_tables_of_voxels_are_read(tmp_path: Path, text: str) -> None:
    table = read(tmp_path / "a.csv", text)
    np.testing.assert_allclose(table.voxels, [[3, 2, 1], [6.5, 5, 4]])
    assert table.scores is None


def test_a_fourth_column_without_a_header_is_the_score(tmp_path: Path) -> None:
    assert read(tmp_path / "a.txt", "1 2 3 0.25\n").scores == pytest.approx([0.25])


@pytest.mark.parametrize("column", ["tomogram", "tomogram_name", "rlnTomoName"])
def test_names_stay_text(tmp_path: Path, column: str) -> None:
    assert read(tmp_path / "a.csv", f"{column},x,y,z\n001,1,2,3\n").tomograms == ("001",)


def test_bad_tables_are_refused_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    refused(path, "# nothing\n", "only comments")
    refused(path, "a,b,z\n1,2,3\n", "no column x, y", "only a, b, z", "x,y,z,score")
    refused(path, "1,2\n", "line 1 has 2 columns", "x,y,z,score")
    refused(path, "x,y,z\n1,2,3\n1,2\n", "line 3 has 2 columns where 3")
    refused(path, "x,y,z\n1,2,3\n1,nan,3\n", "line 3 has y = nan", "not a number")
    refused(path, "x,y,z\n1,2,here\n", "line 2 has z = here")
    refused(path, "1,2,3\n1,2,inf\n", "line 2 has z = inf")
    refused(path, "x,y,z,score\n1,2,3,\n", "line 2 has score = nothing")
    refused(path, "x,y,z\n" + "1" * 200_000 + ",2,3\n", "not a table")


# Coords


def test_coords_are_x_y_z_or_class_x_y_z(tmp_path: Path) -> None:
    for text in ("1 2 3\n4 5 6\n", "1\t1\t2\t3\n1\t4\t5\t6\n", "1,2,3\n4,5,6\n"):
        voxels = read(tmp_path / "a.coords", text).voxels
        np.testing.assert_allclose(voxels, [[3, 2, 1], [6, 5, 4]])


def test_bad_coords_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.coords"
    refused(path, "1 2\n", "line 1 has 2 columns", "x y z or class x y z")
    refused(path, "1 2 3\n1 2\n", "line 2 has 2 columns where 3")
    refused(path, "1 2 3\n1 2 q\n", "line 2 has z = q")
    refused(path, "1.5 2 3 4\n", "first is not a class number")
    refused(path, "1 2 3 4\n2 2 3 4\n", "classes 1, 2", "keep the lines of one")


# RELION


def test_relion5_counts_from_half_the_size(tmp_path: Path) -> None:
    # The centre of (100, 200, 300) voxels of 13.48 Å is z = 50, y = 100, x = 150.
    path = tmp_path / "rec_TS_01.star"
    write_particles(path, particles((50, 100, 151)), format="relion5", shape=SHAPE)
    text = path.read_text()
    assert "data_particles\n" in text
    assert text.split("\n")[-4].split("\t") == ["13.48", "0", "0", "TS_01"]


def test_relion4_counts_unbinned_pixels(tmp_path: Path) -> None:
    # Binned four times: voxel (1, 2, 3) is pixel (4, 8, 12).
    path = tmp_path / "TS_01.star"
    write_particles(path, particles((1, 2, 3)), format="relion4", pixel_size=PIXEL)
    row = path.read_text().split("\n")[-4].split("\t")
    assert [float(cell) for cell in row[:3]] == pytest.approx([12, 8, 4])


def test_relion3_is_what_warp_reads(tmp_path: Path) -> None:
    path = tmp_path / "TS_01_13.48Apx.star"
    write_particles(path, particles((1, 2, 3)), format="relion3")
    text = path.read_text()
    assert "\ndata_\n" in text
    assert text.split("\n")[-4].split("\t")[:4] == ["3", "2", "1", "TS_01.tomostar"]


def test_relion5_needs_the_shape_and_relion4_the_pixel_size(tmp_path: Path) -> None:
    path = tmp_path / "a.star"
    with pytest.raises(InputError, match=r"a\.star: RELION-5 counts from the tomogram's centre"):
        write_particles(path, particles((1, 2, 3)), format="relion5")
    with pytest.raises(InputError, match="relion4 counts in pixels of the unbinned tilt series"):
        check_format("relion4")
    write_particles(path, particles((1, 2, 3)), format="relion5", shape=SHAPE)
    with pytest.raises(InputError, match="centre"):
        read_particles(path, voxel_size=VOXEL)


def star(*columns: str, rows: str, block: str = "particles", head: str = "") -> str:
    return f"{head}data_{block}\n\nloop_\n" + "".join(f"_{c}\n" for c in columns) + rows + "\n"


XYZ = ("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ")
CENTRED = tuple(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ")
ORIGINS = tuple(f"rlnOrigin{axis}Angst" for axis in "XYZ")


def test_refined_shifts_are_taken_off(tmp_path: Path) -> None:
    path = tmp_path / "a.star"
    text = star(*CENTRED, *ORIGINS, rows="0 0 0 13.48 0 -13.48")
    np.testing.assert_allclose(read(path, text).voxels, [[51, 100, 149]])
    text = star(*XYZ, *ORIGINS, rows="10 20 30 13.48 0 -13.48")
    np.testing.assert_allclose(read(path, text).voxels, [[31, 20, 9]])
    text = star(*XYZ, "rlnOriginX", "rlnOriginY", "rlnOriginZ", rows="10 20 30 1 0 -1", block="")
    np.testing.assert_allclose(read(path, text).voxels, [[31, 20, 9]])


@pytest.mark.parametrize(
    ("columns", "values"),
    [
        (("rlnPixelSize",), "26.96"),
        (("rlnDetectorPixelSize", "rlnMagnification"), "26.96 10000"),
        (("rlnDetectorPixelSize",), "26.96"),
    ],
)
def test_a_pixel_size_in_a_relion3_list_is_its_unit(
    tmp_path: Path, columns: tuple[str, ...], values: str
) -> None:
    table = read(tmp_path / "a.star", star(*XYZ, *columns, rows=f"1 2 3 {values}", block=""))
    np.testing.assert_allclose(table.voxels, [[6, 4, 2]])


def test_the_pixel_size_is_that_of_each_particles_optics_group(tmp_path: Path) -> None:
    path = tmp_path / "a.star"
    optics = star(
        "rlnOpticsGroup", "rlnTomoTiltSeriesPixelSize", rows="1 13.48\n2 26.96", block="optics"
    )
    columns = ("rlnTomoName", *XYZ, "rlnOpticsGroup")
    table = read(path, star(*columns, rows="001 1 2 3 2\n001 1 2 3 1", head=optics))
    np.testing.assert_allclose(table.voxels, [[6, 4, 2], [3, 2, 1]])
    assert table.tomograms == ("001", "001")
    refused(path, star(*columns, rows="001 1 2 3 7", head=optics), "no optics group 7")
    refused(path, star(*columns[:4], rows="001 1 2 3", head=optics), "no rlnOpticsGroup")


OPTICS = star(
    *("rlnOpticsGroup", "rlnOpticsGroupName", "rlnVoltage", "rlnSphericalAberration"),
    *("rlnAmplitudeContrast", "rlnTomoTiltSeriesPixelSize"),
    rows="1 krios 300 2.7 0.07 3.37\n3 glacios 200 2.7 0.1 3.37\n4 unused 1 1 1 1",
    block="optics",
)


@pytest.mark.parametrize("through", ["relion3", "relion4", "relion5"])
def test_optics_groups_go_from_one_relion_list_to_another(tmp_path: Path, through: str) -> None:
    path, other, last = (tmp_path / f"{name}.star" for name in ("a", "b", "c"))
    columns = ("rlnTomoName", *XYZ, "rlnOpticsGroup")
    table = read(
        path, star(*columns, rows="TS_01 1 2 3 3\nTS_02 1 2 3 1\nTS_02 4 5 6 3", head=OPTICS)
    )
    write_particles(other, table, format=through, shape=SHAPE, pixel_size=PIXEL)
    again = read(other)
    assert dict(again.optics) == dict(table.optics)
    write_particles(last, again.select(np.array([1, 2])), format="relion4", pixel_size=PIXEL)
    blocks = starfile.read(last)
    particles, optics = blocks["particles"], blocks["optics"].set_index("rlnOpticsGroup")
    assert len(optics) == 2
    of_each = optics.loc[particles["rlnOpticsGroup"]]
    assert of_each["rlnOpticsGroupName"].tolist() == ["krios", "glacios"]
    assert of_each["rlnVoltage"].tolist() == [300, 200]
    assert of_each["rlnAmplitudeContrast"].tolist() == [0.07, 0.1]


def test_relion5_gets_no_optics_groups_that_lack_what_it_needs(tmp_path: Path) -> None:
    # Without any it makes them from its tomograms.
    write_particles(tmp_path / "4.star", particles((1, 2, 3)), format="relion4", pixel_size=PIXEL)
    table = read(tmp_path / "4.star")
    assert set(table.optics) == {"rlnOpticsGroupName", "rlnTomoTiltSeriesPixelSize"}
    write_particles(tmp_path / "5.star", table, format="relion5", shape=SHAPE)
    assert "optics" not in starfile.read(tmp_path / "5.star", always_dict=True)


def test_a_list_of_no_particles_has_no_optics_groups(tmp_path: Path) -> None:
    write_particles(tmp_path / "a.star", particles(), format="relion4", pixel_size=PIXEL)
    assert len(read(tmp_path / "a.star")) == 0


def test_optics_groups_that_do_not_fit_are_left_out(tmp_path: Path) -> None:
    columns = ("rlnTomoName", *CENTRED, "rlnOpticsGroup")
    table = read(tmp_path / "a.star", star(*columns, rows="a 0 0 0 7", head=OPTICS))
    assert dict(table.optics) == {}


def test_a_relion4_list_without_a_pixel_size_needs_one(tmp_path: Path) -> None:
    path = tmp_path / "a.star"
    text = star("rlnTomoName", *XYZ, rows="TS_01 4 8 12")
    refused(path, text, "pixel size of its tilt series", "rlnTomoTiltSeriesPixelSize")
    table = read_particles(path, voxel_size=VOXEL, pixel_size=PIXEL)
    np.testing.assert_allclose(table.voxels, [[3, 2, 1]])
    table = read(path, star("rlnTomoName", *XYZ, "rlnPixelSize", rows="TS_01 1 2 3 13.48"))
    np.testing.assert_allclose(table.voxels, [[3, 2, 1]])


@pytest.mark.parametrize("column", ["rlnLCCmax", "rlnMaxValueProbDistribution"])
def test_other_programs_scores_are_read(tmp_path: Path, column: str) -> None:
    table = read(tmp_path / "a.star", star(*XYZ, column, rows="1 2 3 0.5"))
    assert table.scores == pytest.approx([0.5])


def test_a_star_file_that_was_corrected_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.star"
    refused(path, star(*XYZ, rows="1 2 3\n1 2 3 4 5"), "not a STAR file that can be read")
    assert len(read(path, star(*XYZ, rows="1 2 3"))) == 1


def test_bad_star_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.star"
    refused(path, "1,2,3\n", "no columns rlnCoordinateX", "only nothing")
    refused(path, star("rlnTomoName", "rlnBinning", rows="a 1"), "only rlnTomoName, rlnBinning")
    refused(path, star(*XYZ, rows="1 2 3\n1 2 q"), "row 2 has rlnCoordinateZ = q")
    refused(path, star(*XYZ, rows="1 2 3\n1 2"), "row 2 has rlnCoordinateZ")
    refused(path, star(*XYZ, rows="1 2 3\n1 2 3 4 5"), "not a STAR file that can be read")
    refused(path, "data_particles\n", "not a STAR file that can be read")


# Other programs' files


def test_warps_export_is_counted_in_the_exported_pixels(shared_data: Path) -> None:
    path = shared_data / "foreign" / "cryoCAT_warp2_particles_matching.star"
    table = read_particles(path, voxel_size=10)
    assert len(table) == 1218
    assert len(set(table.tomograms)) == 5
    # The first is at 354.242 pixels of 4 Å; the tilt series' pixels are 0.7894 Å.
    assert table.positions[0] == pytest.approx([1416.968, 1588.528, 303.312], abs=0.01)
    # A camera of 5760 × 4092 pixels sees about 4550 × 3230 Å.
    assert table.positions.max(axis=0) == pytest.approx([3293, 4466, 708], abs=1)


def test_warps_template_matches_are_counted_in_their_pixel_size(shared_data: Path) -> None:
    path = shared_data / "foreign" / "cryoCAT_bin6_TM_starfile.star"
    table = read_particles(path, voxel_size=12.23)
    assert len(table) == 177
    assert set(table.tomograms) == {"0243_12.23Apx.mrc", "0360_12.23Apx.mrc"}
    first = (513.333 * 7.338 - 15.321433) / 12.23
    assert table.voxels[0, 2] == pytest.approx(first, abs=1e-3)
    parts = by_tomogram(table, ["rec_0243", "0360"], path)
    assert [len(part) for part in parts] == [145, 32]


def test_lists_of_clicked_particles_are_read(shared_data: Path) -> None:
    table = read_particles(shared_data / "ts037" / "cyto_ribosomes_west.csv", voxel_size=13.48)
    assert len(table) == 911
    assert table.voxels[0].tolist() == pytest.approx([286, 851, 147])
    real = read_particles(shared_data / "real" / "picks_train_100.csv", voxel_size=10)
    assert len(real) == 100
    check_inside(real, (235, 328, 652), "picks_train_100.csv")


# Picks and tomograms


def test_picks_within_half_a_voxel_are_inside() -> None:
    check_inside(particles((-0.5, -0.5, -0.5), (99.5, 199.5, 299.5)), SHAPE, "a.csv")


def test_a_pick_outside_is_named_with_its_value() -> None:
    with pytest.raises(InputError) as caught:
        check_inside(particles((50, 100, 150), (50, 250, 250)), SHAPE, "a.csv")
    assert str(caught.value) == (
        "a.csv: pick 2 has y = 250, outside the volume's 200 voxels along y (1 of 2 picks are "
        "outside); check the voxel size or binning that the picks were made at"
    )


@pytest.mark.parametrize("order", ["zyx", "yxz", "xzy", "yzx", "zxy"])
def test_swapped_columns_are_recognised(order: str) -> None:
    rng, sides = np.random.default_rng(0), np.array(SHAPE)
    position = dict(zip("zyx", rng.uniform(0, sides - 1, (50, 3)).T, strict=True))
    # The file's columns hold, as x, y, z, what `order` says.
    columns = np.stack([position[axis] for axis in order], axis=1)
    swapped = Particles(positions=columns * VOXEL, voxel_size=VOXEL)
    expected = f"the picks fit the volume as {','.join(order)}: swap the columns"
    with pytest.raises(InputError, match=expected):
        check_inside(swapped, SHAPE, "a.csv")
    assert fitting_orders(swapped, SHAPE) == [order]


def test_picks_without_names_are_of_the_one_tomogram() -> None:
    (part,) = by_tomogram(particles((1, 2, 3)), ["TS_01"], Path("a.csv"))
    assert part.tomograms == ("TS_01",)
    with pytest.raises(InputError, match=r"a\.csv: does not say which of the 2 tomograms"):
        by_tomogram(particles((1, 2, 3)), ["TS_01", "TS_02"], Path("a.csv"))


def test_every_pick_goes_to_its_tomogram() -> None:
    table = particles((1, 2, 3), (4, 5, 6), (7, 8, 9), names=("TS_02", "TS_01.tomostar", "TS_02"))
    first, second = by_tomogram(table, ["rec_TS_01", "TS_02_10.00Apx"], Path("a.star"))
    np.testing.assert_allclose(first.voxels, [[4, 5, 6]])
    np.testing.assert_allclose(second.voxels, [[1, 2, 3], [7, 8, 9]])
    assert first.tomograms == ("rec_TS_01",)


def test_picks_in_a_tomogram_that_was_not_given_are_refused_or_skipped() -> None:
    table = particles((1, 2, 3), (4, 5, 6), names=("TS_01", "TS_09"))
    with pytest.raises(InputError) as caught:
        by_tomogram(table, ["TS_01"], Path("a.csv"))
    assert str(caught.value) == (
        "a.csv: has picks in TS_09, but the tomograms are TS_01; pass the missing tomogram too, "
        "or use --skip-unmatched"
    )
    (part,) = by_tomogram(table, ["TS_01"], Path("a.csv"), skip_unmatched=True)
    assert len(part) == 1


def test_a_tomogram_without_picks_and_one_that_comes_twice_are_refused() -> None:
    table = particles((1, 2, 3), names=("TS_01",))
    with pytest.raises(InputError, match=r"a\.csv: has no picks in TS_02, only in TS_01"):
        by_tomogram(table, ["TS_01", "TS_02"], Path("a.csv"))
    with pytest.raises(InputError, match="two tomograms are called TS_01"):
        by_tomogram(table, ["TS_01", "TS_01"], Path("a.csv"))
    with pytest.raises(InputError, match=r"a\.csv: TS_01 could be any of rec_TS_01, ts_01"):
        by_tomogram(table, ["rec_TS_01", "ts_01"], Path("a.csv"))


def test_one_file_serves_tomograms_of_different_sizes(tmp_path: Path) -> None:
    path = tmp_path / "a.star"
    path.write_text(star("rlnTomoName", *CENTRED, rows="TS_01 0 0 0\nTS_02 0 0 0"))
    small = tomogram("TS_02", shape=(10, 20, 30), voxel_size=10)
    first, second = read_picks_for(path, [tomogram("TS_01"), small])
    np.testing.assert_allclose(first.voxels, [[50, 100, 150]])
    np.testing.assert_allclose(second.voxels, [[5, 10, 15]])
    assert second.voxel_size == 10


def test_a_folder_holds_a_file_per_tomogram(tmp_path: Path) -> None:
    (tmp_path / "rec_TS_01.csv").write_text("1,2,3\n")
    (tmp_path / "rec_TS_01.star").write_text("not read")
    (tmp_path / "TS_02.coords").write_text("4 5 6\n")
    (tmp_path / "notes.pdf").write_text("not read")
    (tmp_path / "._TS_02.csv").write_bytes(b"\0of macOS")
    first, second = read_picks_for(tmp_path, [tomogram("TS_01"), tomogram("TS_02")])
    np.testing.assert_allclose(first.voxels, [[3, 2, 1]])
    np.testing.assert_allclose(second.voxels, [[6, 5, 4]])
    with pytest.raises(InputError, match="has no picks for TS_03, only TS_02, rec_TS_01"):
        read_picks_for(tmp_path, [tomogram("TS_03")])


def test_a_list_of_no_picks_can_be_read_but_not_learned_from(tmp_path: Path) -> None:
    path = tmp_path / "none.csv"
    assert len(read(path, "x,y,z,score\n")) == 0
    with pytest.raises(InputError, match=r"none\.csv: has a header but no picks"):
        read_picks_for(path, [tomogram("TS_01")])


def test_a_folder_that_does_not_tell_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no picks; put one"):
        read_picks_for(tmp_path, [tomogram("TS_01")])
    (tmp_path / "rec_TS_01.csv").write_text("1,2,3\n")
    (tmp_path / "ts_01.csv").write_text("1,2,3\n")
    with pytest.raises(InputError, match="could be any of rec_TS_01, ts_01"):
        read_picks_for(tmp_path, [tomogram("TS_01")])


def test_voxels_of_another_binning_are_not_taken_for_the_tomograms(tmp_path: Path) -> None:
    path = tmp_path / "TS_01_bin4.csv"
    path.write_text("x,y,z\n1,2,3\n")
    assert len(read_picks_for(path, [tomogram("rec_TS_01_bin4")])[0]) == 1
    assert len(read_picks_for(path, [tomogram("TS_02_bin8")])[0]) == 1  # names it in no way
    for source in (path, tmp_path):
        with pytest.raises(InputError, match=r"voxels of TS_01_bin4, .* those of TS_01_bin8; conv"):
            read_picks_for(source, [tomogram("TS_01_bin8")])
    path = tmp_path / "all.csv"
    path.write_text("tomogram,x,y,z\nTS_01_6.7Apx.mrc,1,2,3\n")
    with pytest.raises(InputError, match="rename it"):
        read_picks_for(path, [tomogram("TS_01_10.00Apx")])
    # Ångström are ångström, whatever the voxels.
    path = tmp_path / "TS_01_bin4.star"
    path.write_text(star("rlnTomoName", *CENTRED, rows="TS_01_bin4 0 0 0"))
    assert len(read_picks_for(path, [tomogram("TS_01_bin8")])[0]) == 1


def test_long_lists_of_names_are_shortened() -> None:
    names = tuple(f"TS_{n}" for n in range(9))
    table = particles(*[(1, 2, 3)] * 9, names=names)
    with pytest.raises(InputError, match="TS_1, TS_2, TS_3, TS_4, TS_5 and 3 more, but"):
        by_tomogram(table, ["TS_0"], Path("a.csv"))
