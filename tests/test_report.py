"""The pictures show what they say they show."""

import csv
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle
from typer.testing import CliRunner, Result

from tomopicker.errors import InputError
from tomopicker.report import (
    TRUTH_COLOUR,
    PickList,
    densest_slice,
    precision_recall_figure,
    save_figure,
    slice_figure,
    training_figure,
)
from tomopicker.report.slices import PICK_COLOURS, bar_length

SHAPE = (20, 30, 40)
DATA = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
NEAR_AND_FAR = np.array([[10.0, 5, 6], [13.0, 15, 16], [7.0, 25, 26], [13.01, 1, 2], [6.99, 3, 4]])


def boxes(figure: Figure) -> list[Rectangle]:
    return [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def picks(voxels: np.ndarray, *, name: str = "picks", colour: str | None = None) -> PickList:
    return PickList(name=name, voxels=voxels, colour=colour)


def test_boxes_are_those_of_the_particles_at_most_a_radius_from_the_slice() -> None:
    figure = slice_figure(DATA, [picks(NEAR_AND_FAR)], radius=3, voxel_size=10, slice_index=10)
    drawn = {(*box.get_xy(), box.get_width(), box.get_height()) for box in boxes(figure)}
    assert drawn == {(3, 2, 6, 6), (13, 12, 6, 6), (23, 22, 6, 6)}  # x, y of the corner, sides


@pytest.mark.parametrize(
    ("axis", "corner"), [("z", (28, 18)), ("y", (28, 8)), ("x", (18, 8))], ids=["z", "y", "x"]
)
def test_each_axis_shows_the_other_two_with_the_earlier_one_upright(axis, corner) -> None:
    lists = [picks(np.array([[10.0, 20, 30]]))]
    figure = slice_figure(DATA, lists, radius=2, voxel_size=10, axis=axis)
    (box,) = boxes(figure)
    assert box.get_xy() == corner
    vertical, horizontal = "zyx".replace(axis, "")
    assert figure.axes[0].get_ylabel() == f"{vertical} (voxels)"
    assert figure.axes[0].get_xlabel() == f"{horizontal} (voxels)"
    assert figure.axes[0].get_ylim()[0] < figure.axes[0].get_ylim()[1]


@pytest.mark.parametrize("axis", ["z", "y", "x"])
@pytest.mark.parametrize(
    ("thickness", "expected"), [(1, slice(9, 10)), (3, slice(8, 11)), (4, slice(7, 11))]
)
def test_image_is_the_mean_of_the_slices_about_the_asked_one(axis, thickness, expected) -> None:
    figure = slice_figure(
        DATA, [], radius=3, voxel_size=10, slice_index=9, axis=axis, thickness=thickness
    )
    (image,) = figure.axes[0].images
    along = "zyx".index(axis)
    mean = np.moveaxis(DATA, along, 0)[expected].mean(axis=0)
    np.testing.assert_allclose(image.get_array(), mean, atol=1e-6)
    assert image.origin == "lower"


def test_a_thick_slice_at_a_face_averages_what_there_is() -> None:
    figure = slice_figure(DATA, [], radius=3, voxel_size=10, slice_index=0, thickness=5)
    np.testing.assert_allclose(
        figure.axes[0].images[0].get_array(), DATA[:3].mean(axis=0), atol=1e-6
    )


def test_gold_does_not_set_the_contrast() -> None:
    gold = DATA.copy()
    gold[10, 5, 5] = -1000
    image = slice_figure(gold, [], radius=3, voxel_size=10, slice_index=10).axes[0].images[0]
    assert -10 < image.get_clim()[0] < image.get_clim()[1] < 10


def test_a_box_encloses_the_particle_it_names() -> None:
    volume = np.zeros(SHAPE, dtype=np.int8)
    volume[8:13, 18:23, 28:33] = -100
    figure = slice_figure(volume, [picks(np.array([[10.0, 20, 30]]))], radius=2.5, voxel_size=10)
    (box,) = boxes(figure)
    pixels = np.argwhere(figure.axes[0].images[0].get_array() < 0)
    x, y = box.get_xy()
    # Pixel i covers i - 1/2 to i + 1/2: the five dark ones are the box, to the edge.
    assert pixels.min(axis=0).tolist() == [y + 0.5, x + 0.5]
    assert pixels.max(axis=0).tolist() == [y + 5 - 0.5, x + 5 - 0.5]


def test_a_voxel_without_a_value_is_not_spread_by_the_smoothing() -> None:
    holed = DATA.copy()
    holed[10, 15, 20] = np.nan
    figure = slice_figure(holed, [], radius=3, voxel_size=10, slice_index=10, smoothing=1.5)
    assert np.isfinite(np.asarray(figure.axes[0].images[0].get_array())).all()


def test_legend_names_each_list_with_its_number_in_the_slice_and_its_colour() -> None:
    lists = [
        picks(NEAR_AND_FAR, name="ground truth", colour=TRUTH_COLOUR),
        picks(NEAR_AND_FAR[:1], name="TomoPicker"),
        picks(NEAR_AND_FAR[3:], name="other"),
    ]
    figure = slice_figure(DATA, lists, radius=3, voxel_size=10, slice_index=10)
    assert legend(figure) == [
        "ground truth (3 in this slice)",
        "TomoPicker (1 in this slice)",
        "other (0 in this slice)",
    ]
    colours = [to_hex(line.get_markeredgecolor()) for line in figure.legends[0].get_lines()]
    assert colours == [TRUTH_COLOUR, *PICK_COLOURS[:2]]
    drawn = [to_hex(box.get_edgecolor()) for box in boxes(figure)]
    assert drawn == [TRUTH_COLOUR] * 3 + [PICK_COLOURS[0]]


def test_of_two_boxes_at_one_place_the_lower_shows_around_the_upper() -> None:
    lists = [picks(NEAR_AND_FAR[:1], name="a"), picks(NEAR_AND_FAR[:1], name="b")]
    lower, upper = boxes(slice_figure(DATA, lists, radius=3, voxel_size=10))
    assert lower.get_linewidth() > upper.get_linewidth()


def test_legend_lies_outside_the_image() -> None:
    lists = [picks(NEAR_AND_FAR, name=f"a list with a long name, number {n}") for n in range(4)]
    figure = slice_figure(DATA, lists, radius=3, voxel_size=10)
    figure.draw_without_rendering()
    image = figure.axes[0].get_tightbbox()
    below = figure.legends[0].get_window_extent()
    assert below.y1 <= image.y0
    assert figure.bbox.x0 <= below.x0
    assert below.x1 <= figure.bbox.x1


def test_lines_are_thinner_on_a_larger_slice() -> None:
    one = [picks(np.array([[0.0, 50, 50]]))]
    small = slice_figure(np.zeros((1, 100, 100)), one, radius=12, voxel_size=10)
    large = slice_figure(np.zeros((1, 1000, 1000)), one, radius=12, voxel_size=10)
    assert boxes(small)[0].get_linewidth() > boxes(large)[0].get_linewidth() > 0.4


def test_scale_bar_is_as_long_as_it_says() -> None:
    figure = slice_figure(np.zeros((3, 50, 652)), [], radius=12, voxel_size=13.48)
    left, right = figure.axes[0].lines[0].get_xdata()
    (label,) = [text.get_text() for text in figure.axes[0].texts]
    assert label == "200 nm"
    assert (right - left) * 1.348 == pytest.approx(200)


@given(st.floats(0.5, 1e5))
def test_scale_bar_takes_between_a_tenth_and_a_quarter_of_the_width(width: float) -> None:
    assert width / 10 - 1e-9 <= bar_length(width) <= width / 4


def test_default_slice_is_the_one_with_most_particles() -> None:
    lists = [picks(np.array([[2.0, 1, 1], [15.0, 1, 1]])), picks(np.array([[17.0, 1, 1]]))]
    assert densest_slice(SHAPE, lists, radius=2) == 15  # 15, 16 and 17 see two; 10 is the middle
    figure = slice_figure(DATA, lists, radius=2, voxel_size=10)
    assert "z = 15" in figure.axes[0].get_title()


def test_of_equal_slices_the_default_one_cuts_the_particles_deepest() -> None:
    lists = [picks(np.array([[15.0, 1, 1], [16.0, 1, 1], [16.0, 1, 1]]))]
    assert densest_slice(SHAPE, lists, radius=4) == 16  # 12 to 19 see all three


def test_default_slice_without_particles_is_the_middle_one() -> None:
    assert densest_slice(SHAPE, [], radius=2) == 10


@settings(max_examples=30)
@given(
    st.lists(st.integers(-5, 30), max_size=12),
    st.floats(0.5, 6),
)
def test_no_slice_holds_more_particles_than_the_default_one(z: list[int], radius: float) -> None:
    one = picks(np.array([[float(value), 0, 0] for value in z]).reshape(-1, 3))
    counts = [len(one.near(index, radius=radius)) for index in range(SHAPE[0])]
    assert counts[densest_slice(SHAPE, [one], radius=radius)] == max(counts)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"slice_index": 20}, "slice 20 lies outside the tomogram; z runs from 0 to 19"),
        ({"slice_index": -1}, "slice -1 lies outside"),
        ({"radius": 0}, "the radius must be positive, got 0"),
        ({"thickness": 0}, "the thickness must be positive, got 0"),
        ({"voxel_size": float("nan")}, "the voxel size must be positive, got nan"),
    ],
)
def test_what_cannot_be_drawn_is_refused(changed, message) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        slice_figure(DATA, [], **({"radius": 3, "voxel_size": 10} | changed))


def test_more_lists_than_colours_are_refused() -> None:
    with pytest.raises(InputError, match="only 5 colours"):
        slice_figure(DATA, [picks(NEAR_AND_FAR)] * 6, radius=3, voxel_size=10)


def test_a_constant_slice_is_drawn(tmp_path: Path) -> None:
    figure = slice_figure(np.zeros(SHAPE, dtype=np.int8), [], radius=3, voxel_size=10)
    save_figure(figure, tmp_path / "flat.png", dpi=50)
    assert imread(tmp_path / "flat.png").size


@pytest.fixture
def small() -> Figure:
    figure = Figure(figsize=(1, 1))
    figure.add_subplot().plot([0, 1])
    return figure


@pytest.mark.parametrize(
    ("suffix", "start", "end"),
    [
        (".png", b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"),
        (".pdf", b"%PDF-", b"%%EOF\n"),
        (".svg", b"<?xml", b"</svg>\n"),
        (".PNG", b"\x89PNG", b"IEND\xaeB`\x82"),
    ],
)
def test_a_picture_is_written_whole_and_alone_and_twice_the_same(
    small, tmp_path, suffix, start, end
) -> None:
    path = tmp_path / f"figure{suffix}"
    save_figure(small, path)
    first = path.read_bytes()
    assert first.startswith(start)
    assert first.endswith(end)
    save_figure(small, path, force=True)
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


def test_an_unknown_suffix_lists_the_known_ones(small, tmp_path) -> None:
    with pytest.raises(InputError, match=r"one of \.png, \.pdf, \.svg, not '\.jpg'"):
        save_figure(small, tmp_path / "figure.jpg")
    assert not list(tmp_path.iterdir())


def test_a_picture_is_replaced_only_by_force(small, tmp_path) -> None:
    path = tmp_path / "figure.png"
    path.write_text("mine")
    with pytest.raises(InputError, match="--force"):
        save_figure(small, path)
    assert path.read_text() == "mine"
    save_figure(small, path, force=True)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_no_folder_is_made(small, tmp_path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        save_figure(small, tmp_path / "new" / "figure.png")
    assert not list(tmp_path.iterdir())


def test_a_failure_in_drawing_leaves_the_old_picture_and_nothing_else(tmp_path) -> None:
    path = tmp_path / "figure.png"
    path.write_text("mine")
    broken = Figure()
    broken.text(0, 0, "$\\frac{1}$")  # half a fraction
    with pytest.raises(ValueError, match="frac"):
        save_figure(broken, path, force=True)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


METRICS = """\
epoch,loss,positive_risk,average_precision,learning_rate,seconds,note
1,0.9,0.5,,0.002,3,first
2,0.5,0.3,0.4,0.002,3,
3,0.4,0.2,0.6,0.001,3,
"""


def test_training_has_panels_for_losses_measures_and_rate() -> None:
    figure = training_figure(list(csv.DictReader(METRICS.splitlines())), kept_epoch=3)
    drawn = [[line.get_label() for line in axes.lines] for axes in figure.axes]
    assert drawn == [
        ["loss", "positive risk", "kept"],
        ["average precision", "kept"],
        ["learning rate", "kept"],
    ]
    loss = figure.axes[0].lines[0]
    assert loss.get_xydata().tolist() == [[1, 0.9], [2, 0.5], [3, 0.4]]
    measure = figure.axes[1].lines[0].get_ydata()
    assert np.isnan(measure[0])
    assert measure[1:].tolist() == [0.4, 0.6]


def test_training_without_measures_has_only_the_loss() -> None:
    figure = training_figure([{"epoch": 1, "loss": 0.5}])
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [([], "no epoch"), ([{"epoch": 1, "risk": 2}], "no column 'loss', only epoch, risk")],
)
def test_metrics_that_cannot_be_drawn_are_refused(rows, message) -> None:
    with pytest.raises(InputError, match=message):
        training_figure(rows)


def test_area_under_the_drawn_curve_is_the_average_precision() -> None:
    # Of picks right, wrong, right with two to find: AP = 1/2 (1) + 1/2 (2/3) = 5/6.
    precision, recall = np.array([1, 1 / 2, 2 / 3]), np.array([1 / 2, 1 / 2, 1])
    figure = precision_recall_figure(precision, recall, average_precision=5 / 6, label="TS_1")
    curve = next(line for line in figure.axes[0].lines if str(line.get_label()).startswith("TS_1"))
    x, y = np.asarray(curve.get_xdata()), np.asarray(curve.get_ydata())
    assert curve.get_drawstyle() == "steps-pre"  # between two points, the later one's height
    assert np.sum(np.diff(x) * y[1:]) == pytest.approx(5 / 6)
    assert legend(figure) == ["TS_1, AP 0.833", "best F1 0.800 at 3 picks"]


def test_curves_without_a_right_pick_are_drawn() -> None:
    figure = precision_recall_figure(np.zeros(3), np.zeros(3), average_precision=0)
    assert "best F1 0.000" in legend(figure)[1]


def test_precision_and_recall_must_be_of_one_length() -> None:
    with pytest.raises(InputError, match="3 values of precision for 2 of recall"):
        precision_recall_figure(np.zeros(3), np.zeros(2), average_precision=0)


def test_real_ribosomes_are_darker_than_their_surroundings(shared_data: Path) -> None:
    mrcfile = pytest.importorskip("mrcfile")
    folder = shared_data / "real"
    table = np.loadtxt(folder / "picks_train_100.csv", delimiter=",", skiprows=1)
    with mrcfile.mmap(folder / "empiar10499_00254_north.mrc", permissive=True) as volume:
        picture = slice_figure(
            volume.data, [picks(table[:, 2::-1])], radius=12.5, voxel_size=10, thickness=9
        )
    image = np.asarray(picture.axes[0].images[0].get_array())
    boxed = []
    for box in boxes(picture):
        x, y = np.rint(box.get_center()).astype(int)
        boxed.append(image[max(y - 8, 0) : y + 9, max(x - 8, 0) : x + 9].mean())
    assert len(boxed) > 10
    assert np.mean(boxed) < image.mean() - 2 * image.std() / 17


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., Result]:
    """Run `plot` on a small tomogram with three picks, all but one of them at its middle."""
    import mrcfile

    from tomopicker.cli.plot import plot

    with mrcfile.new(tmp_path / "TS_1.mrc", data=DATA) as file:
        file.voxel_size = 10
    (tmp_path / "picks.csv").write_text("x,y,z,score\n20,15,10,0.9\n30,15,10,0.8\n20,15,3,0.7\n")
    app = typer.Typer()
    app.command()(plot)

    def run(*more: str, picks: tuple[str, ...] = ("picks.csv",), out: str = "figure.png") -> Result:
        files = [part for name in picks for part in ("--picks", str(tmp_path / name))]
        fixed = [str(tmp_path / "TS_1.mrc"), *files, "--out", str(tmp_path / out)]
        return CliRunner().invoke(app, [*fixed, *more])

    return run


def test_command_draws_and_says_what_it_drew(command, tmp_path) -> None:
    result = command("--radius", "30A", "--name", "mine", "--truth", str(tmp_path / "picks.csv"))
    assert result.exit_code == 0, result.output
    assert result.output.endswith("figure.png: z = 10, 2 of 3 ground truth, 2 of 3 mine\n")
    assert imread(tmp_path / "figure.png").size


@pytest.mark.parametrize("radius", ["3vx", "30A", "3nm"])
def test_command_takes_the_radius_in_each_unit(command, radius) -> None:
    result = command("--radius", radius, "--axis", "x", "--slice", "20", out="figure.svg")
    assert "x = 20, 2 of 3 picks" in result.output


def test_command_refuses_to_replace_before_it_reads(command, tmp_path) -> None:
    (tmp_path / "figure.png").write_text("mine")
    (tmp_path / "TS_1.mrc").unlink()
    result = command("--radius", "3vx")
    assert isinstance(result.exception, InputError)
    assert "--force" in str(result.exception)
    assert (tmp_path / "figure.png").read_text() == "mine"


def test_command_wants_a_name_for_each_list(command) -> None:
    result = command("--radius", "3vx", "--name", "mine", picks=("picks.csv", "picks.csv"))
    assert isinstance(result.exception, InputError)
    assert "1 --name for 2 --picks" in str(result.exception)


def test_command_refuses_picks_outside_the_tomogram(command, tmp_path) -> None:
    (tmp_path / "far.csv").write_text("x,y,z\n20,15,10\n200,15,10\n")
    result = command("--radius", "3vx", picks=("far.csv",))
    assert isinstance(result.exception, InputError)
    assert "pick 2 has x = 200" in str(result.exception)
    assert not (tmp_path / "figure.png").exists()


def test_command_draws_only_the_picks_of_its_tomogram(command, tmp_path) -> None:
    table = "tomogram,x,y,z\nTS_1,20,15,10\nTS_2,20,15,10\nTS_2,900,900,900\n"
    (tmp_path / "all.csv").write_text(table)
    result = command("--radius", "3vx", picks=("all.csv",))
    assert "1 of 1 all" in result.output
