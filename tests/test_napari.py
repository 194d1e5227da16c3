"""The napari plugin puts tomograms and picks in one place, and keeps what is clicked there."""

import os

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import csv
import re
import time
import warnings
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from tomopicker.errors import InputError
from tomopicker.io.particles import (
    FORMATS,
    formats_of_name,
    read_particles,
    writable,
    write_particles,
)
from tomopicker.io.particles.formats import SUFFIXES as LISTS
from tomopicker.io.tomograms import SUFFIXES as VOLUMES
from tomopicker.io.tomograms import read_tomogram, write_volume
from tomopicker.napari.edits import edits
from tomopicker.serve.notes import Add, Delete, Move, Particle
from tomopicker.serve.rounds import TrainWish
from tomopicker.serve.session import Session
from tomopicker.types import Particles

VOXELS = np.array([[3.0, 10, 20], [7.5, 30.25, 5], [11, 2, 39]])


# napari and what it uses warn of each other's deprecations, which are not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def napari():
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import napari
            import napari.viewer
            from qtpy.QtWidgets import QApplication
    except ImportError as error:
        pytest.skip(f"napari or Qt is not here: {error}")
    application = QApplication.instance() or QApplication([])
    yield napari
    application.processEvents()


@pytest.fixture
def viewer(napari, monkeypatch):
    from napari.components import ViewerModel

    model = ViewerModel()
    monkeypatch.setattr(napari, "current_viewer", lambda: model)
    return model


@pytest.fixture
def tomogram(tmp_path: Path):
    volume = np.random.default_rng(0).normal(size=(16, 36, 41)).astype(np.float32)
    write_volume(tmp_path / "TS_01.mrc", volume, voxel_size=12.5)
    return tmp_path / "TS_01.mrc"


def particles(*places, first=1):
    return [
        Particle(number=first + i, tomogram="TS_01", voxel=tuple(map(float, place)))
        for i, place in enumerate(places)
    ]


def test_nothing_changed_is_no_edit():
    assert edits(particles(*VOXELS), VOXELS, tomogram="TS_01") == []


def test_points_that_came_are_added_and_those_that_went_are_deleted():
    before = particles(*VOXELS[:2])
    (added,) = edits(before, VOXELS, tomogram="TS_01")
    assert added == Add(tomogram="TS_01", at=(tuple(VOXELS[2]),))
    (deleted,) = edits(particles(*VOXELS), VOXELS[1:2], tomogram="TS_01")
    assert deleted == Delete(tomogram="TS_01", particles=(1, 3))


def test_points_that_were_moved_keep_their_numbers_whatever_their_order():
    moved = VOXELS + np.array([0.5, 0, 0])
    actions = edits(particles(*VOXELS), moved[::-1], tomogram="TS_01")
    assert all(isinstance(one, Move) for one in actions)
    assert {one.particle: one.at for one in actions} == {
        number: tuple(place) for number, place in enumerate(moved, start=1)
    }


def test_the_manifest_is_valid_and_names_what_is_there(napari):
    from npe2 import PluginManifest

    manifest = PluginManifest.from_file(files("tomopicker.napari") / "napari.yaml")
    manifest.validate_imports()


def test_napari_offers_us_every_file_that_is_read_and_every_ending_that_is_written():
    """napari reads the manifest without our code, so the tables' endings stand in it once more."""
    manifest = files("tomopicker.napari").joinpath("napari.yaml").read_text(encoding="utf-8")
    read = re.findall(r"- '\*(\.\w+)'", manifest)
    assert read == list(dict.fromkeys([*VOLUMES, *LISTS]))
    written = re.findall(r"- '(\.\w+)'", manifest)
    assert sorted(written) == sorted(
        {Path(FORMATS[name].place).suffix for name in writable()} | {".tsv"}
    )
    assert all(formats_of_name(Path(f"picks{ending}")) for ending in written)


def test_a_tomogram_and_its_picks_of_any_format_lie_in_one_place(viewer, tomogram, tmp_path):
    from tomopicker.napari.layers import reader_of

    ((data, options, kind),) = reader_of(str(tomogram))(str(tomogram))
    assert kind == "image"
    viewer.add_image(data, **options)
    opened = read_tomogram(tomogram)
    table = Particles.from_voxels(VOXELS, voxel_size=12.5)
    # Voxels, ångström from a corner, and ångström from the centre.
    for format, name in (("csv", "a.csv"), ("relion5", "b.star"), ("copick", "c.json")):
        path = tmp_path / name
        write_particles(path, table, format=format, shape=opened.shape)
        ((points, about, kind),) = reader_of(str(path))(str(path))
        assert kind == "points"
        assert points * about["scale"] == pytest.approx(VOXELS * 12.5, abs=0.02)


def test_a_list_in_angstrom_wants_its_tomogram_first(viewer, tmp_path):
    from tomopicker.napari.layers import reader_of

    path = tmp_path / "b.star"
    write_particles(
        path, Particles.from_voxels(VOXELS, voxel_size=12.5), format="relion5", shape=(16, 36, 41)
    )
    with pytest.raises(InputError, match="open its tomogram first"):
        reader_of(str(path))(str(path))


def test_a_file_that_is_neither_is_left_to_others(napari, tmp_path):
    from tomopicker.napari.layers import reader_of

    (tmp_path / "notes.txt").write_text("buy milk\n")
    assert reader_of(str(tmp_path / "notes.txt")) is None
    assert reader_of(str(tmp_path / "none.csv")) is None


@pytest.mark.parametrize("name", ["picks.csv", "picks.star", "picks.coords", "picks.tbl"])
def test_points_are_written_in_the_place_that_they_are_shown_in(viewer, tomogram, tmp_path, name):
    from tomopicker.napari.layers import reader_of, write_points

    ((data, options, _),) = reader_of(str(tomogram))(str(tomogram))
    viewer.add_image(data, **options)
    layer = viewer.add_points(VOXELS, scale=(12.5,) * 3)
    data, attributes, _ = layer.as_layer_data_tuple()
    path = tmp_path / name
    assert write_points(str(path), data, attributes) == [str(path)]
    read = read_particles(path, voxel_size=12.5, shape=(16, 36, 41))
    assert read.voxels == pytest.approx(VOXELS, abs=1e-3)


def test_points_that_are_no_picks_are_refused_with_the_remedy(viewer, tmp_path):
    from tomopicker.napari.layers import write_points

    with pytest.raises(InputError, match="2 axes"):
        write_points(str(tmp_path / "a.csv"), np.zeros((3, 2)), {"scale": (1.0, 1.0)})
    with pytest.raises(InputError, match="differs along its axes"):
        write_points(str(tmp_path / "a.csv"), VOXELS, {"scale": (2.0, 1.0, 1.0)})
    with pytest.raises(InputError, match="open it here first"):
        write_points(str(tmp_path / "a.star"), VOXELS, {"scale": (1.0, 1.0, 1.0)})


@pytest.fixture
def widget(viewer, simulated: Path, tmp_path: Path):
    from tomopicker.napari.widget import PickerWidget

    made = PickerWidget(viewer)
    made.open_session(tmp_path / "session", [simulated / "sim_0001.mrc"])
    yield made
    made.close_session()
    made._timer.stop()


def rows(path: Path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def click(widget, voxels):
    layer = widget.viewer.layers["particles"]
    for voxel in voxels:
        layer.add(voxel)


def wait(widget, is_so, seconds=60.0):
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, widget.message.text()
        QApplication.processEvents()
        widget._look()
        time.sleep(0.05)


def test_clicks_moves_and_deletions_are_on_the_disk_at_once(widget, tmp_path):
    name = widget.tomogram.currentText()
    table = tmp_path / "session" / "particles" / f"{name}.csv"
    click(widget, VOXELS)
    assert len(rows(table)) == 3
    layer = widget.viewer.layers["particles"]
    moved = layer.data.copy()
    moved[0] += 1
    layer.data = moved
    assert rows(table)[0]["z"] == "4.0000"
    layer.selected_data = {1}
    layer.remove_selected()
    assert [row["x"] for row in rows(table)] == ["21.0000", "39.0000"]
    widget.undo()
    assert len(rows(table)) == 3
    assert len(widget.viewer.layers["particles"].data) == 3


def test_a_click_outside_of_the_tomogram_is_told_and_taken_back(widget):
    click(widget, [[-5.0, 3, 3]])
    assert "outside" in widget.message.text()
    assert len(widget.viewer.layers["particles"].data) == 0


def test_the_mean_of_the_slices_asked_for_is_shown(widget):
    widget.slices.setValue(3)
    assert widget.viewer.layers["sim_0001"].projection_mode == "mean"
    assert widget.viewer.dims.thickness[0] == 3 * widget.viewer.layers["sim_0001"].scale[0]


def test_nothing_is_asked_of_a_panel_without_a_session(viewer):
    from tomopicker.napari.widget import PickerWidget

    panel = PickerWidget(viewer)
    panel._try(panel.train)
    assert "open a folder" in panel.message.text()
    panel._timer.stop()


def test_from_five_clicks_to_verdicts_that_the_workbench_reads(widget, simulated, tmp_path):
    truth = read_particles(simulated / "sim_0001.csv", voxel_size=1.0).voxels
    widget.diameter.setValue(120.0)
    click(widget, truth[:6])
    widget.propose()
    wait(widget, lambda: len(widget.viewer.layers["proposals"].data) > 0)
    widget.review()
    voxel_size = widget.viewer.layers["particles"].scale[0]
    first = widget.viewer.layers["candidate"].data[0].copy()
    assert tuple(widget.viewer.camera.center) == pytest.approx(tuple(first * voxel_size))
    widget.judge("accept")
    widget.judge("reject")
    widget.judge("skip")
    session = tmp_path / "session"
    assert [row["verdict"] for row in rows(session / "verdicts.csv")] == [
        *("accept", "reject", "skip")
    ]
    assert len(widget.viewer.layers["particles"].data) == 7
    widget.close_session()
    again = Session.open(session)
    assert len(again.voxels("sim_0001")) == 7
    again.close()


def test_train_and_pick_from_the_panel(widget, simulated):
    truth = read_particles(simulated / "sim_0001.csv", voxel_size=1.0).voxels
    widget.diameter.setValue(120.0)
    click(widget, truth[:12])
    with pytest.raises(InputError, match="no model yet"):
        widget.pick()
    widget._set_diameter()
    few = ("sampling.steps_per_epoch=2", "training.batch=2")
    widget._bench.start(TrainWish(epochs=1, settings=few, device="cpu"))
    wait(widget, lambda: "Training is done" in widget.message.text())
    widget.pick()
    wait(widget, lambda: len(widget.viewer.layers["picks"].data) > 0)
    widget.format.setCurrentText("csv")
    widget.export()
    assert "particles written" in widget.message.text()
