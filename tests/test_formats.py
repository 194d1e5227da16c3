"""Particle lists of every format: written and read again, and read by other programs' readers."""

import json
import struct
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import dynamotable
import emfile
import imodmodel
import numpy as np
import pandas as pd
import pytest
import starfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.spatial.transform import Rotation

from fuzz_readers import READERS, mutated, outcome, seeds
from tomopicker.errors import InputError
from tomopicker.io.particles import (
    FORMATS,
    doubt_about,
    list_files,
    place_of,
    read_particles,
    recognise,
    writable,
    write_particles,
)
from tomopicker.io.particles.angles import (
    from_dynamo,
    from_relion,
    from_tom,
    to_dynamo,
    to_relion,
    to_tom,
)
from tomopicker.types import Particles, Shape

SHAPE: Shape = (101, 203, 305)
VOXEL, PIXEL = 13.48, 3.37
WRITABLE = writable()
BOTH = [name for name in WRITABLE if FORMATS[name].read is not None]
HEADLESS = ("coords", "dynamo", "imod-text", "portal")
"""Formats in which a list of no particles is an empty file."""


def particles(*zyx: tuple[float, float, float], **columns: Any) -> Particles:
    return Particles.from_voxels(np.array(zyx).reshape(-1, 3), voxel_size=VOXEL, **columns)


def write(path: Path, table: Particles, name: str, *, shape: Shape = SHAPE) -> Path:
    write_particles(path, table, format=name, shape=shape, pixel_size=PIXEL, overwrite=True)
    return path


def read(path: Path, *, shape: Shape = SHAPE, voxel_size: float = VOXEL) -> Particles:
    return read_particles(path, voxel_size=voxel_size, shape=shape, pixel_size=PIXEL)


def refused(path: Path, content: str | bytes, *parts: str) -> None:
    """Assert that reading fails with one line that names the file and holds the parts."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for part in parts:
        assert part in message


# Every format

NAMES = st.sampled_from(["001", "1", "TS_01", "TS 02", "run.3"])


@st.composite
def tables(draw: st.DrawFn) -> Particles:
    """Particles near, on and beyond the faces of a tomogram, with and without all else."""
    count = draw(st.integers(0, 4))
    coordinate = st.floats(-20, 6000) | st.sampled_from([0.0, -0.5, 304.5, 0.333333333])
    zyx = draw(arrays.arrays(np.float64, (count, 3), elements=coordinate))
    scores = st.lists(st.floats(-9, 9, width=32), min_size=count, max_size=count, unique=True)
    names = draw(NAMES)
    turn = draw(st.integers(0, 9))
    return Particles.from_voxels(
        zyx,
        voxel_size=draw(st.sampled_from([0.731, 6.74, 10.0, 13.48])),
        scores=draw(st.none() | scores.map(np.array)),
        tomograms=(names,) * count,
        orientations=Rotation.random(count, rng=turn).as_matrix() if turn and count else None,
    )


@pytest.mark.parametrize("first", BOTH)
@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(before=tables(), odd=st.tuples(*[st.integers(1, 7000)] * 3))
def test_from_any_format_to_any_other_no_coordinate_moves(
    first: str, before: Particles, odd: Shape, tmp_path: Path
) -> None:
    def through(table: Particles, name: str) -> Particles:
        path = write(tmp_path / place_of(name, "list"), table, name, shape=odd)
        if not len(table) and name in HEADLESS:
            with pytest.raises(InputError, match="is empty"):
                read(path)
            return table
        assert recognise(path) == name
        after = read(path, shape=odd, voxel_size=table.voxel_size)
        held = FORMATS[name].holds
        # All 0, or all 1, is what programs write that have no scores.
        if "scores" in held and table.scores is not None and set(table.scores) - {0, 1}:
            np.testing.assert_allclose(after.scores, table.scores, rtol=1e-6)
        if "orientations" in held and table.orientations is not None:
            np.testing.assert_allclose(after.orientations, table.orientations, atol=1e-6)
        return after

    once = through(before, first)
    for second in BOTH:
        twice = through(once, second)
        assert twice.voxel_size == before.voxel_size
        np.testing.assert_allclose(twice.voxels, before.voxels, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", [name for name in BOTH if "names" in FORMATS[name].holds])
def test_tomograms_keep_their_names(name: str, tmp_path: Path) -> None:
    names = ("001", "002", "001") if name == "tom" else ("001", "TS_01", "001")
    table = particles((1, 2, 3), (4, 5, 6), (7, 8, 9), tomograms=names)
    after = read(write(tmp_path / place_of(name, "list"), table, name))
    series = [series.removesuffix(".tomostar") for series in after.tomograms]
    assert series == (["1", "2", "1"] if name == "tom" else list(names))


@pytest.mark.parametrize("name", [name for name in WRITABLE if "names" not in FORMATS[name].holds])
def test_a_format_for_one_tomogram_refuses_several(name: str, tmp_path: Path) -> None:
    table = particles((1, 2, 3), (4, 5, 6), tomograms=("a", "b"))
    with pytest.raises(InputError, match=r"of 2 \(a, b\); give a folder"):
        write(tmp_path / "list", table, name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", WRITABLE)
def test_nothing_is_written_over_without_being_told(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / place_of(name, "list"), particles((1, 2, 3)), name)
    before = path.read_bytes()
    with pytest.raises(InputError, match="exists already"):
        write_particles(
            path, particles((4, 5, 6)), format=name, shape=SHAPE, pixel_size=PIXEL, radius=9
        )
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", WRITABLE)
def test_what_a_format_needs_is_asked_for(name: str, tmp_path: Path) -> None:
    path, table = tmp_path / place_of(name, "list"), particles((1, 2, 3))
    if FORMATS[name].writes_shape:
        with pytest.raises(InputError, match=r"give the tomogram with it \(--like TOMOGRAM\)"):
            write_particles(path, table, format=name, pixel_size=PIXEL)
    if FORMATS[name].writes_pixels:
        with pytest.raises(InputError, match="--pixel-size"):
            write_particles(path, table, format=name, shape=SHAPE)
    assert not path.exists()
    write(path, table, name)
    if FORMATS[name].reads_shape:
        with pytest.raises(InputError, match=r"give the tomogram with it \(--like TOMOGRAM\)"):
            read_particles(path, voxel_size=VOXEL)


def test_a_format_that_is_only_read_or_only_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="deepfinder is only read; known for writing are csv"):
        write_particles(tmp_path / "a.xml", particles((1, 2, 3)), format="deepfinder")
    write(tmp_path / "a.cmm", particles((1, 2, 3)), "chimerax")
    with pytest.raises(InputError, match=r"a\.cmm: chimerax is only written"):
        read(tmp_path / "a.cmm")


@pytest.mark.parametrize("name", ["copick", "dynamo", "imod"])
def test_lists_that_tell_their_voxel_size_are_asked(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / place_of(name, "list"), particles((1, 2, 3)), name)
    tell = FORMATS[name].voxel_size
    assert tell is not None
    assert tell(path) == VOXEL
    if name in ("dynamo", "imod"):
        # 1 Å means, as in MRC headers, that nobody knows.
        write(path, replace(particles((1, 2, 3)), voxel_size=1.0), name)
        assert tell(path) is None


# Orientations


def test_dynamo_and_relion_agree_on_a_pair_that_both_reconstruct_alike() -> None:
    dynamo, relion = np.array([[-47.2730, 1.1777, -132.3000]]), np.array([[137.7, 1.1777, 42.727]])
    np.testing.assert_allclose(to_relion(from_dynamo(dynamo)), relion, atol=1e-9)
    np.testing.assert_allclose(to_dynamo(from_relion(relion)), dynamo, atol=1e-9)


def test_an_orientation_turns_the_reference_into_the_particle() -> None:
    # RELION writes the angles of the turn from particle to reference: z, new y, new z. A tilt of
    # 90 degrees takes the particle's axis to the reference's; back, z becomes -x.
    (tilted,) = from_relion(np.array([[0.0, 90, 0]]))
    np.testing.assert_allclose(tilted @ [0, 0, 1], [-1, 0, 0], atol=1e-12)
    # TOM turns the reference by phi about z, then theta about x, then psi about z.
    (turned,) = from_tom(np.array([[0.0, 90, 90]]))
    np.testing.assert_allclose(turned @ [0, 0, 1], [1, 0, 0], atol=1e-12)


@given(seed=st.integers(0, 1000))
def test_angles_and_matrices_are_each_others_inverse(seed: int) -> None:
    turns = Rotation.random(3, rng=seed).as_matrix()
    for back, forth in ((to_relion, from_relion), (to_dynamo, from_dynamo), (to_tom, from_tom)):
        np.testing.assert_allclose(forth(back(turns)), turns, atol=1e-9)
    upright = np.eye(3)[None]
    np.testing.assert_allclose(from_relion(to_relion(upright)), upright, atol=1e-9)


def test_a_box_that_was_turned_when_it_was_cut_turns_its_shifts_too(tmp_path: Path) -> None:
    # A box turned by rot = 90: its x is the tomogram's -y, so a shift of 10 Å along its x takes the
    # particle 10 Å along the tomogram's +y (coordinate minus turned shift).
    columns = (
        *(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ"),
        *("rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi"),
        *("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"),
        *(f"rlnOrigin{axis}Angst" for axis in "XYZ"),
    )
    head = "data_particles\n\nloop_\n" + "".join(f"_{column}\n" for column in columns)
    (tmp_path / "a.star").write_text(f"{head}0 0 0 90 0 0 10 20 30 10 0 0\n")
    table = read_particles(tmp_path / "a.star", voxel_size=10, shape=(10, 10, 10))
    np.testing.assert_allclose(table.positions, [[50, 60, 50]], atol=1e-9)
    box, particle = from_relion(np.array([[90.0, 0, 0], [10, 20, 30]]))
    assert table.orientations is not None
    np.testing.assert_allclose(table.orientations[0], box @ particle)


@pytest.mark.parametrize("name", ["relion5", "relion4", "relion3", "topaz", "dynamo"])
@pytest.mark.parametrize("series", ["data_01", "loop_1", "_a", "a b", "nan", "1e5", ";a", "ä"])
def test_names_that_mean_something_to_a_parser_survive(
    name: str, series: str, tmp_path: Path
) -> None:
    table = particles((1, 2, 3), (4, 5, 6), tomograms=(series, series))
    after = read(write(tmp_path / place_of(name, "list"), table, name))
    assert {one.removesuffix(".tomostar") for one in after.tomograms} == {series}
    np.testing.assert_allclose(after.voxels, table.voxels, atol=1e-3)


@pytest.mark.parametrize("name", ["relion5", "relion4", "relion3", "topaz", "dynamo"])
@pytest.mark.parametrize("series", ["#1", "a#b", "a'b", 'a"b', "a\tb", "", " "])
def test_names_that_could_not_be_read_again_are_refused(
    name: str, series: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="cannot hold the name"):
        write(tmp_path / "list", particles((1, 2, 3), tomograms=(series,)), name)
    assert list(tmp_path.iterdir()) == []


def test_columns_that_would_break_a_table_are_left_out(tmp_path: Path) -> None:
    cells = {"rlnA": ("", "a b"), "rlnB": ("#", "1"), "rlnC": ('"', "1"), "rln D": ("1", "2")}
    table = particles((1, 2, 3), (4, 5, 6), extra={**cells, "rlnE": ("a\tb", "'")})
    after = read(write(tmp_path / "a.star", table, "relion5"))
    assert dict(after.extra) == {"rlnA": ("", "a b")}
    assert len(after) == 2


def test_other_columns_survive_where_the_target_can_hold_them(tmp_path: Path) -> None:
    columns = {"rlnClassNumber": ("1", "2"), "who": ("me, too", "you")}
    table = particles((1, 2, 3), (4, 5, 6), tomograms=("a", "a"), extra=columns)
    after = read(write(tmp_path / "a.csv", table, "csv"))
    assert dict(after.extra) == columns
    after = read(write(tmp_path / "a.star", table, "relion5"))
    assert dict(after.extra) == {"rlnClassNumber": columns["rlnClassNumber"]}
    assert after.select(np.array([1])).extra == {"rlnClassNumber": ("2",)}


# Other programs' readers, and numbers worked by hand

ONE = ((10.0, 20.0, 30.25), (1.0, 2.0, 3.0))
"""z y x of two particles."""


def two(**columns: Any) -> Particles:
    return particles(*ONE, scores=np.array([0.5, 0.25]), **columns)


def test_dynamotable_reads_dynamo_tables(tmp_path: Path) -> None:
    turns = from_dynamo(np.array([[10.0, 20, 30], [40, 50, 60]]))
    table = two(tomograms=("TS_01", "TS_02"), orientations=turns)
    path = write(tmp_path / "a.tbl", table, "dynamo")
    frame = dynamotable.read(path, tmp_path / "a.doc")
    assert frame[["x", "y", "z"]].to_numpy().tolist() == [[30.25, 20, 10], [3, 2, 1]]
    assert frame["tomo"].tolist() == [1, 2]
    assert frame["tomo_file"].tolist() == ["TS_01", "TS_02"]
    assert frame["cc"].tolist() == [0.5, 0.25]
    angles = frame[["tdrot", "tilt", "narot"]].to_numpy()
    np.testing.assert_allclose(angles, [[10, 20, 30], [40, 50, 60]], atol=1e-6)
    assert frame["apix"].tolist() == [VOXEL] * 2


def test_what_dynamotable_writes_is_read(tmp_path: Path) -> None:
    columns = {"x": [10.0, 4.0], "y": [20.0, 5.0], "z": [30.0, 6.0], "dx": [0.5, 0.0]}
    files = ["tomograms/TS_01.mrc", "tomograms/TS_02.mrc"]
    frame = pd.DataFrame({**columns, "tomo_file": files})
    dynamotable.write(frame, str(tmp_path / "a.tbl"))
    table = read(tmp_path / "a.tbl")
    np.testing.assert_allclose(table.voxels, [[30, 20, 10.5], [6, 5, 4]])
    assert table.tomograms == ("TS_01", "TS_02")


def test_imodmodel_reads_our_models_and_we_read_its(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mod", two(), "imod")
    model = imodmodel.ImodModel.from_file(path)
    header = model.header
    assert (header.xmax, header.ymax, header.zmax) == (305, 203, 101)
    assert header.pixelsize == pytest.approx(VOXEL / 10)
    assert header.units == -9
    assert header.flags.z_coordinates_start_from_negative_half
    (thing,) = model.objects
    assert thing.header.flags.scattered
    points = thing.contours[0].points
    np.testing.assert_allclose(points, [[30.75, 20.5, 10], [3.5, 2.5, 1]])
    thing.contours.append(imodmodel.models.Contour(points=np.array([[5.5, 6.5, 7.0]])))
    with warnings.catch_warnings(action="ignore"):
        model.to_file(tmp_path / "b.mod")
    np.testing.assert_allclose(read(tmp_path / "b.mod").voxels, [*ONE, (7, 6, 5)])


def test_emfile_reads_our_motive_lists(tmp_path: Path) -> None:
    turns = from_tom(np.array([[10.0, 20, 30], [40, 50, 60]]))
    path = write(tmp_path / "a.em", two(tomograms=("TS_7", "TS_8"), orientations=turns), "tom")
    header, data = emfile.read(path)
    assert (header["xdim"], header["ydim"], header["zdim"]) == (20, 2, 1)
    np.testing.assert_allclose(data[0, :, 7:10], [[31.25, 21, 11], [4, 3, 2]])
    np.testing.assert_allclose(data[0, :, 0], [0.5, 0.25])
    np.testing.assert_allclose(data[0, :, 4], [7, 8])
    # phi, psi, theta
    np.testing.assert_allclose(data[0, :, 16:19], [[10, 30, 20], [40, 60, 50]], atol=1e-4)
    assert data[0, :, 19].tolist() == [1, 1]


def test_a_real_motive_list_is_read(shared_data: Path) -> None:
    table = read_particles(shared_data / "foreign" / "cryoCAT_ribosome.em", voxel_size=10)
    assert len(table) == 1023
    assert len(set(table.tomograms)) == 5
    # The first is at voxel 737 of 1, 2, 3 …, moved by -0.10413.
    np.testing.assert_allclose(
        table.voxels[0, ::-1], [735.8959, 737.8939, 527.4354], rtol=0, atol=1e-3
    )
    assert table.orientations is not None


def test_starfile_reads_what_relion_warp_and_cryolo_would(tmp_path: Path) -> None:
    turns = from_relion(np.array([[10.0, 20, 30], [40, 50, 60]]))
    table = two(tomograms=("001", "001"), orientations=turns)
    five = starfile.read(
        write(tmp_path / "5.star", table, "relion5"), parse_as_string=["rlnTomoName"]
    )
    # 30.25 voxels less half of 305.
    assert five["rlnCenteredCoordinateXAngst"][0] == pytest.approx((30.25 - 152.5) * VOXEL)
    assert five["rlnTomoName"].tolist() == ["001", "001"]
    angles = five[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy()
    np.testing.assert_allclose(angles, [[10, 20, 30], [40, 50, 60]], atol=1e-6)
    four = starfile.read(write(tmp_path / "4.star", table, "relion4"))["particles"]
    assert four["rlnCoordinateX"].tolist() == pytest.approx([121, 12])
    three = starfile.read(write(tmp_path / "3.star", table, "relion3"), always_dict=True)[""]
    assert three["rlnCoordinateX"].tolist() == pytest.approx([30.25, 3])
    path = tmp_path / "a.cbox"
    write_particles(path, table, format="cbox", radius=4 * VOXEL)
    blocks = starfile.read(path)
    assert blocks["global"] == {"cbox_format_version": 1.0}
    boxes = blocks["cryolo"]
    # The corner of a box of 8 voxels in x and y, the centre in z.
    assert boxes["CoordinateX"].tolist() == pytest.approx([26.25, -1])
    assert boxes["CoordinateZ"].tolist() == pytest.approx([10, 1])
    assert boxes["Width"].tolist() == pytest.approx([8, 8])
    assert blocks["cryolo_include"]["slice_index"].tolist() == [1, 10]


def test_boxes_that_were_drawn_by_hand_have_no_confidence(tmp_path: Path) -> None:
    columns = ("CoordinateX", "CoordinateY", "CoordinateZ", "Width", "Height", "Confidence")
    head = "data_global\n\n_cbox_format_version 1.0\n\ndata_cryolo\n\nloop_\n"
    text = head + "".join(f"__{column}\n" for column in columns) + "1 2 3 10 20 <NA>\n"
    (tmp_path / "a.cbox").write_text(text.replace("__", "_"))
    table = read(tmp_path / "a.cbox")
    assert table.voxels.tolist() == [pytest.approx([3, 12, 6])]
    assert table.scores is None


def test_copick_is_json_as_its_model_has_it(tmp_path: Path) -> None:
    turns = Rotation.random(2, rng=1).as_matrix()
    path = tmp_path / place_of("copick", "rec_TS_01.mrc")
    assert path.parent.parent == tmp_path / "ExperimentRuns" / "TS_01"
    write(path, two(tomograms=("rec_TS_01.mrc",) * 2, orientations=turns), "copick")
    content = json.loads(path.read_text())
    assert content["pickable_object_name"] == "particle"
    assert (content["user_id"], content["session_id"]) == ("tomopicker", "1")
    assert content["run_name"] == "TS_01"
    assert content["voxel_spacing"] == VOXEL
    assert content["unit"] == "angstrom"
    assert content["trust_orientation"] is True
    point = content["points"][0]
    assert point["location"]["x"] == pytest.approx(30.25 * VOXEL)
    assert point["score"] == 0.5
    matrix = np.array(point["transformation_"])
    np.testing.assert_allclose(matrix[:3, :3], turns[0])
    assert matrix[3].tolist() == [0, 0, 0, 1]


def test_copicks_shifts_are_added_and_untrusted_turns_left_out(tmp_path: Path) -> None:
    matrix = np.eye(4)
    matrix[:3, 3] = 13.48, 0, -13.48
    matrix[0, 0] = -1
    point = {"location": {"x": 0, "y": 13.48, "z": 26.96}, "transformation_": matrix.tolist()}
    content = {"pickable_object_name": "ribosome", "points": [point], "trust_orientation": False}
    folder = tmp_path / "TS_01" / "Picks"
    folder.mkdir(parents=True)
    path = folder / "me_1_ribosome.json"
    path.write_text(json.dumps(content))
    table = read(path)
    np.testing.assert_allclose(table.voxels, [[1, 1, 1]])
    assert table.tomograms == ("TS_01",)
    assert table.orientations is None
    content["trust_orientation"] = True
    refused(path, json.dumps(content), "more than turn")
    content["unit"] = "nm"
    refused(path, json.dumps(content), "its unit is nm")
    write(folder / "me_2_fas.json", particles((1, 2, 3)), "copick")
    assert json.loads((folder / "me_2_fas.json").read_text())["pickable_object_name"] == "fas"
    with pytest.raises(InputError, match="holds several lists"):
        list_files(tmp_path)


def test_a_name_that_no_file_can_have_is_made_one(tmp_path: Path) -> None:
    point = '{"location": {"x": 1, "y": 2, "z": 3}}'
    text = f'{{"pickable_object_name": "a", "run_name": "T\\u0000S\\ud800", "points": [{point}]}}'
    (tmp_path / "a.json").write_text(text)
    assert read(tmp_path / "a.json").tomograms == ("T_S_",)


def test_the_portals_annotations_are_in_voxels(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ndjson", two(), "portal")
    first = json.loads(path.read_text().splitlines()[0])
    assert first == {"type": "point", "location": {"x": 30.25, "y": 20.0, "z": 10.0}}
    path.write_text('{"type": "instancePoint", "location": {"x": 1, "y": 2, "z": 3}, "id": 7}\n')
    assert read(path).voxels == pytest.approx(np.array([[3, 2, 1]]))


def test_eman2_counts_unbinned_pixels_from_whole_voxels(tmp_path: Path) -> None:
    path = tmp_path / "info" / "TS_01_info.json"
    path.parent.mkdir()
    path.write_text('{"tlt_params": [[1, 2]], "boxes_3d": []}')
    write_particles(
        path, two(), format="eman2", shape=SHAPE, pixel_size=PIXEL, radius=50, overwrite=True
    )
    content = json.loads(path.read_text())
    # 305 // 2 is 152, of 203 is 101, of 101 is 50; binned four times.
    assert content["boxes_3d"][0][:3] == pytest.approx([-487, -324, -160])
    assert content["boxes_3d"][0][3:] == ["manual", 0.5, 0]
    assert content["class_list"] == {"0": {"boxsize": 30, "name": "particles"}}
    assert content["apix_unbin"] == PIXEL
    assert content["tlt_params"] == [[1, 2]]
    assert list_files(tmp_path) == {"TS_01": path}
    path.write_text('{"boxes_3d": [[1, 2, 3, "manual"]], "class_list": {}}')
    assert read(path).voxels == pytest.approx(np.array([[3, 2, 1]]))


def test_points_for_imod_count_from_a_corner(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", two(), "imod-text")
    assert path.read_text().splitlines()[0].split() == ["1", "1", "30.7500", "20.5000", "10.0000"]
    # model2point without options, which nothing tells from voxels.
    path.write_text("7 8 30.75 20.5 10\n")
    refused(path, path.read_text(), "5 columns and no header")
    path.write_text("30.75 20.5 10\n")
    assert recognise(path) == "csv"
    doubt = doubt_about(path)
    assert doubt is not None
    assert "taken for csv (x y z, voxels" in doubt
    assert "--from imod-text" in doubt
    table = read_particles(path, voxel_size=VOXEL, format="imod-text")
    assert table.voxels == pytest.approx(np.array([ONE[0]]))


def test_napari_counts_as_the_array_does(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", two(), "napari")
    frame = pd.read_csv(path)
    assert frame.columns.tolist() == ["index", "axis-0", "axis-1", "axis-2"]
    assert frame.to_numpy().tolist() == [[0, 10, 20, 30.25], [1, 1, 2, 3]]


def test_topaz_tables_name_the_image(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", two(tomograms=("TS 01", "001")), "topaz")
    frame = pd.read_csv(path, sep="\t", dtype={"image_name": str})
    assert frame["image_name"].tolist() == ["TS 01", "001"]
    assert frame["x_coord"].tolist() == [30.25, 3]
    assert frame["score"].tolist() == [0.5, 0.25]


def test_chimerax_markers_are_in_angstrom(tmp_path: Path) -> None:
    root = ElementTree.parse(write(tmp_path / "a.cmm", two(), "chimerax")).getroot()
    assert root.tag == "marker_set"
    first = root[0].attrib
    assert float(first["x"]) == pytest.approx(30.25 * VOXEL, abs=1e-4)
    assert float(first["z"]) == pytest.approx(10 * VOXEL, abs=1e-4)
    assert float(first["radius"]) == pytest.approx(10 * VOXEL)


DEEPFINDER = (
    "<objlist>\n"
    '  <object tomo_idx="0" class_label="1" x="3" y="2" z="1" cluster_size="9"/>\n'
    '  <object tomo_idx="1" class_label="1" x="6" y="5" z="4" cluster_size="7"/>\n'
    "</objlist>\n"
)


def test_deepfinders_lists_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text(DEEPFINDER)
    table = read(path)
    assert table.voxels == pytest.approx(np.array([[1, 2, 3], [4, 5, 6]]))
    assert table.scores == pytest.approx([9, 7])
    assert table.tomograms == ("0", "1")
    second = DEEPFINDER.replace('idx="1" class_label="1"', 'idx="1" class_label="2"')
    refused(path, second, "classes 1, 2", "keep the lines of one")


# What is no list


def test_entities_are_refused_before_they_are_expanded(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE a [<!ENTITY b "' + "x" * 99 + '">]>' + DEEPFINDER.replace("9", "&b;")
    refused(tmp_path / "a.xml", bomb, "declares a document type or entities")


def test_damaged_models_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mod", two(), "imod")
    whole = path.read_bytes()
    refused(path, whole[:-4], "truncated")
    refused(path, whole[:100], "truncated")
    count = whole.index(b"CONT") + 4
    for points in (-1, 3, 2**31 - 1):
        many = whole[:count] + struct.pack(">i", points) + whole[count + 4 :]
        refused(path, many, "damaged" if points != 3 else "")
    flags = 8 + 128 + 16
    flipped = whole[:flags] + struct.pack(">I", 1 << 16) + whole[flags + 4 :]
    refused(path, flipped, "y and z flipped", "3dmod")
    thing = whole[whole.index(b"OBJT") : -4]
    refused(path, whole[:-4] + thing + b"IEOF", "points in 2 objects", "imodextract")


def test_damaged_motive_lists_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.em", two(), "tom")
    whole = path.read_bytes()
    refused(path, whole[:-1], "truncated or damaged")
    refused(path, whole[:-4] + struct.pack("<f", np.nan), "particle 2", "not a number")


def test_bad_json_is_refused_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    head = '{"pickable_object_name": "a", "points": '
    refused(path, head, "not JSON")
    refused(path, head + "7}", "points is not a list")
    refused(path, head + "[7]}", "point 1 is not a JSON object")
    refused(path, head + '[{"location": {"x": 1, "y": 2}}]}', "point 1's z is None")
    refused(path, head + '[{"location": {"x": 1, "y": 2, "z": NaN}}]}', "point 1's z is nan")
    refused(path, head + '[{"location": {"x": 1, "y": 2, "z": 1e999}}]}', "not a number")
    huge = "9" * 400
    refused(path, head + f'[{{"location": {{"x": 1, "y": 2, "z": {huge}}}}}]}}', "not a number")
    matrix = '"transformation_": [[1]]'
    text = f'[{{"location": {{"x": 1, "y": 2, "z": 3}}, {matrix}}}]}}'
    refused(path, head + text, "not 4 × 4")
    refused(path, '{"boxes_3d": [[1, 2]]}', "box 1 has no x, y, z")
    refused(path, '{"apix_unbin": 1}', "has no boxes_3d")
    refused(path, '{"boxes_3d": [[1,2,3,"m",0,0],[1,2,3,"m",0,4]]}', "classes 0, 4")
    refused(tmp_path / "a.ndjson", '{"location": {"x": 1}}', "line 1's z")
    matrix = '"xyz_rotation_matrix": [[1,0,0],[0,1,0],[0,0,2]]'
    refused(
        tmp_path / "a.ndjson",
        f'{{"location": {{"x": 1, "y": 2, "z": 3}}, {matrix}}}',
        "is no rotation",
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, bytes]]:
    """Valid lists of every format."""
    return seeds(tmp_path_factory.mktemp("seeds"))


@pytest.mark.parametrize("name", [None, *READERS])
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32), junk=st.none() | st.binary(max_size=300))
def test_whatever_is_in_a_file_it_is_read_or_clearly_refused(
    name: str | None, seed: int, junk: bytes | None, corpus: list[tuple[str, bytes]], tmp_path: Path
) -> None:
    file, content = mutated(np.random.default_rng(seed), corpus)
    path = tmp_path / file
    path.write_bytes(content if junk is None else junk)
    assert outcome(path, name) in ("read", "refused")


def test_json_and_xml_of_no_known_program_are_told_as_such(tmp_path: Path) -> None:
    refused(tmp_path / "a.json", '{"a": 1}', "is JSON, but no list of particles", "copick")
    refused(tmp_path / "a.xml", "<a/>", "is XML, but no list of particles")


def test_numbers_beyond_all_measure_are_refused_not_overflowed(tmp_path: Path) -> None:
    refused(tmp_path / "a.csv", "x,y,z\n1e308,2,3\n", "not a finite number")
    refused(tmp_path / "a.star", "1e308,2,3\n", "no columns")
