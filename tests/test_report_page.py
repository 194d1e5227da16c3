"""The report's page tells what was picked, hides nothing, and needs nothing but itself."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from conftest import Outcome
from described import record_of
from tomopicker.calibrate import Calibration
from tomopicker.checkpoint import Description, Priors
from tomopicker.config import preset
from tomopicker.errors import InputError
from tomopicker.io.candidates import Candidates, read_candidates
from tomopicker.io.record import RecordedCount, RecordedHistogram
from tomopicker.report import cubes, distributions, pictures
from tomopicker.report.concerns import Findings, concerns
from tomopicker.report.page import MOST_SHOWN, Reported, RunFacts, render_report
from tomopicker.types import Particles, Tomogram

Command = Callable[..., Outcome]

VOID = {"meta", "img", "br", "link", "input", "path", "image", "circle", "rect"}


@dataclass
class Page(HTMLParser):
    """A parsed page: what it holds, and whether every element is closed."""

    html: str
    text: list[str] = field(default_factory=list)
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


RADIUS = 6.0
SHAPE = (60, 90, 100)


def description(*, calibrated: bool = True) -> Description:
    config = preset("default", radius_angstrom=60, voxel_size=10)
    return Description(
        config=config,
        voxel_size=10.0,
        radius_voxels=6,
        priors=Priors(observed=0.01, expected=0.02, unlabelled=0.01),
        # Dark particles with a bright rim.
        filter_profile=(-1.0, -1.0, -0.9, -0.7, -0.3, 0.1, 0.3, 0.2, 0.0),
        calibration=Calibration(
            labelled_scores=tuple(np.linspace(1, 3, 11)),
            raw_scores=tuple(np.linspace(3, 9, 11)),
            labelled=11,
            held_out=True,
            peaks=100,
            particles=20.0,
            level=3.0,
            slope=1.0,
            curvature=0.1,
        )
        if calibrated
        else None,
        training_tomograms=("TS_1",),
        picks_sha256="0" * 64,
        epoch=2,
        history=(
            {"epoch": 1, "loss": 0.5, "validation_ap": None, "learning_rate": 2e-3, "seconds": 30},
            {"epoch": 2, "loss": 0.25, "validation_ap": 0.75, "learning_rate": 1e-3, "seconds": 31},
        ),
    )


def planted(seed: int = 0, *, particles: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """A noisy volume with dark balls, and their centres, at least 2 radii from each other."""
    rng = np.random.default_rng(seed)
    centres: list[np.ndarray] = []
    while len(centres) < particles:
        one = cubes.random_places(SHAPE, 1, margin=10, rng=rng)[0]
        if all(np.linalg.norm(one - other) > 2 * RADIUS for other in centres):
            centres.append(one)
    places = np.array(centres)
    # Slow waves stand for a cell's other molecules: all of the volume is alike to look at.
    volume = rng.normal(0, 1, SHAPE)
    volume += 0.5 * np.sin(np.arange(SHAPE[2]) / 3) * np.sin(np.arange(SHAPE[1]) / 3)[:, None]
    grid = np.stack(np.indices(SHAPE), axis=-1)
    for centre in places:
        volume[((grid - centre) ** 2).sum(axis=-1) <= RADIUS**2] -= 2
    return volume.astype(np.float32), places


def reported(
    name: str = "TS_1",
    *,
    volume: np.ndarray,
    places: np.ndarray,
    count: int | None = None,
    clicks: np.ndarray | None = None,
    calibrated: bool = True,
    **changes: object,
) -> Reported:
    """What `pick` would leave of a tomogram whose picks are the first `count` places."""
    count = len(places) if count is None else count
    scores = np.linspace(9, 1, len(places))
    record = record_of(
        name,
        shape=volume.shape,
        picks=count,
        threshold=float(scores[count - 1]) if count else None,
        estimated=RecordedCount(estimate=41.4, low=33.0, high=52.0) if calibrated else None,
        lengths={"0.05": 31, "0.1": 37} if calibrated else {},
        histogram=RecordedHistogram(
            edges=tuple(np.linspace(0, 9.5, 20)),
            counts=(8,) * 19,
            particles=tuple(np.linspace(0, 8, 19)),
            others=tuple(np.linspace(8, 0, 19)),
            unlike_training=0.05,
        )
        if calibrated
        else None,
    )
    return Reported(
        open=lambda: Tomogram(name=name, data=volume, voxel_size=10.0),
        candidates=Candidates(
            particles=Particles.from_voxels(
                places,
                voxel_size=10.0,
                scores=scores,
                probabilities=np.linspace(1, 0.8, len(places)) if calibrated else None,
            ),
            picked=np.arange(len(places)) < count,
        ),
        record=record.model_copy(update=changes),
        clicks=clicks,
        listed=count,
    )


VOLUME, PLACES = planted()
RUN = RunFacts(folder="run", commands=("tomopicker train TS_1.mrc --out run",), clicks=25)


@pytest.fixture(scope="module")
def page() -> Page:
    """The report on one tomogram: 30 planted particles picked, 10 just rejected, 25 clicked."""
    one = reported(volume=VOLUME, places=PLACES, count=30, clicks=PLACES[:25])
    return Page(render_report(description(), RUN, [one]))


def test_the_page_needs_no_other_file_and_no_network(page: Page) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "srcset", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, value[:80])
    assert "url(" not in page.html
    assert "@import" not in page.html
    assert not re.search(r"https?://|fetch\(|XMLHttpRequest", page.html)
    (policy,) = (m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_every_picture_has_a_text_that_stands_for_it(page: Page) -> None:
    texts = [image["alt"] for image in page.all("img")]
    texts += [svg["aria-label"] for svg in page.all("svg")]
    assert len(texts) > 20
    assert all(text and len(text) > 10 for text in texts)
    assert all(svg["role"] == "img" for svg in page.all("svg"))


def test_links_lead_to_parts_and_no_two_parts_share_a_name(page: Page) -> None:
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))
    targets = {str(link["href"])[1:] for link in page.all("a")}
    labels = {
        str(attributes[name])
        for _, attributes in page.tags
        for name in ("aria-labelledby", "aria-describedby")
        if name in attributes
    }
    assert targets | labels <= set(names)
    assert "tomogram-1" in targets


def test_the_numbers_are_those_of_the_picks_and_of_their_record(page: Page) -> None:
    words = page.words()
    assert "30 picks in 1 tomogram " in words
    assert "Particles there, estimated 41 (33 to 52), by scores" in words
    assert "Picks at 5 % false 31" in words
    assert "Clicked particles in the list 25 of 25" in words
    expected = 100 * (1 - np.linspace(1, 0.8, 40)[:30].mean())
    assert f"Picks expected to be false {expected:.0f} %" in words
    assert "Score of the last pick 3.05" in words  # 9 - 8 * 29 / 39
    z, y, x = PLACES[0]
    assert f"1 score 9.00, probability 1.00 {x:.1f}, {y:.1f}, {z:.1f}" in words
    assert "31 score 2.85" in words  # the first that was rejected
    assert "Mean of 30 picks" in words
    assert "Mean of 25 clicked particles" in words
    assert "60 Å" in words
    assert "2 epochs, 1 min 1 s" in words
    assert "tomopicker train TS_1.mrc --out run" in words


def test_the_loss_can_be_read_as_numbers_too(page: Page) -> None:
    words = page.words()
    assert "epoch loss validation ap learning rate seconds" in words
    assert "1 0.5 0.002 30 2 0.25 0.75 0.001 31" in words


def test_planted_particles_give_no_reason_to_doubt(page: Page) -> None:
    assert "Nothing about these picks calls for attention" in page.words()


def test_settings_that_are_not_the_presets_are_named() -> None:
    config = preset("default", radius_angstrom=60, voxel_size=10, overrides={"training.epochs": 3})
    told = description().model_copy(update={"config": config})
    one = reported(volume=VOLUME, places=PLACES)
    assert "training.epochs 3 10" in Page(render_report(told, RUN, [one])).words()
    assert (
        "None: all are those of the preset"
        in Page(render_report(description(), RUN, [one])).words()
    )


def test_names_of_the_user_are_text_and_no_more() -> None:
    name = "<script>alert('a')</script>\"><img src=x onerror=alert(1)>&amp;{{ 7*7 }}"
    one = reported(name, volume=VOLUME, places=PLACES, command=name, path=name, device=name)
    run = RunFacts(folder=name, commands=[name])
    hostile = description().model_copy(update={"training_tomograms": (name,)})
    page = Page(render_report(hostile, run, [one]))
    assert len(page.all("script")) == 1
    assert all(str(image["src"]).startswith("data:image/") for image in page.all("img"))
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert name in "".join(page.text)
    assert "49" not in page.html.split("<h1>")[0]


def test_a_tomogram_without_picks_has_its_page() -> None:
    one = reported(volume=VOLUME, places=PLACES, count=0)
    words = Page(render_report(description(), RUN, [one])).words()
    assert "0 picks in 1 tomogram" in words
    assert "There are no picks." in words
    assert "Just rejected" in words


def test_a_volume_without_a_finite_number_around_a_pick_is_drawn() -> None:
    holed = VOLUME.copy()
    holed[:, :, :50] = np.nan
    one = reported(volume=holed, places=PLACES, clicks=np.empty((0, 3)))
    assert "40 picks" in Page(render_report(description(), RUN, [one])).words()


def test_of_many_tomograms_those_with_most_to_look_at_are_shown_and_the_page_stays_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: dict[str, pictures.Picture] = {}

    def once(figure: Figure, alt: str) -> pictures.Picture:
        key = re.sub(r"TS_\d+", "", alt)
        if key not in drawn:
            drawn[key] = pictures.drawing(figure, alt)
        return replace(drawn[key], alt=alt)

    # The tomograms differ in their names alone.
    monkeypatch.setattr("tomopicker.report.page.drawing", once)
    rng = np.random.default_rng(1)
    # Noise, which no picture format makes small, and picks in all of it.
    volume = rng.normal(size=(16, 400, 400)).astype(np.float32)
    places = cubes.random_places(volume.shape, 60, margin=6, rng=rng)
    many = [
        reported(f"TS_{n}", volume=volume, places=places, command=f"tomopicker pick run {n}.mrc")
        for n in range(1, 16)
    ]
    # The last is uncalibrated, which is one more reason to look at it.
    many[-1] = reported("TS_15", volume=volume, places=places, calibrated=False)
    heard: list[float] = []
    html = render_report(description(), RUN, many, progress=heard.append)
    assert len(html.encode()) < 15_000_000
    assert heard == sorted(heard)
    assert heard[-1] == pytest.approx(1)
    page = Page(html)
    words = page.words()
    assert "900 picks in 15 tomograms" in words
    assert f"{MOST_SHOWN} of 15 tomograms are shown below" in words
    assert "And 8 more that picked other tomograms" in words  # of 1 that trained and 15
    shown = {str(s["id"]) for s in page.all("section") if s.get("class") == "tomogram"}
    assert len(shown) == MOST_SHOWN
    assert "tomogram-15" in shown
    assert "tomogram-14" not in shown


def test_a_picture_is_as_small_as_asked() -> None:
    noise = np.random.default_rng(0).normal(size=(400, 500)).astype(np.float32)
    large = pictures.photograph(noise, (-2, 2), longest=400, most_bytes=10**6, alt="noise")
    small = pictures.photograph(noise, (-2, 2), longest=400, most_bytes=9000, alt="noise")
    assert (large.width, large.height) == (400, 320)
    assert len(small.source) <= 9000
    assert small.width / small.height == pytest.approx(500 / 400, rel=0.05)


def findings(one: Reported, **changes: object) -> Findings:
    """Measure a tomogram as the page does, and change what is asked."""
    from tomopicker.report.page import _measure

    return replace(_measure(one, description()), **changes)  # type: ignore[arg-type]


def only(found: list[str]) -> str:
    assert len(found) == 1, found
    return found[0]


def test_inverted_contrast_is_told() -> None:
    one = reported(volume=-VOLUME, places=PLACES)
    assert "may be inverted" in only(concerns(findings(one)))
    # Where particles were bright in training too, there is nothing to say.
    assert concerns(findings(one, trained_contrast=1.0)) == []
    assert "brighter than their surroundings" in only(
        concerns(findings(one, trained_contrast=None))
    )


def test_picks_that_score_below_the_clicked_particles_are_told() -> None:
    # Scores 9 to 1, and nine in ten of the clicked ones above 3.6.
    base = findings(reported(volume=VOLUME, places=PLACES))
    low = replace(base, scores=base.scores - 1.5)
    assert "Half of the picks score 3.5 or less" in only(concerns(low))
    assert concerns(replace(base, scores=base.scores - 1.3)) == []
    # What is not known, as of an older checkpoint, is not told.
    assert concerns(replace(low, trained_scores=np.empty(0))) == []


def test_picks_that_look_like_nothing_are_told() -> None:
    places = cubes.random_places(SHAPE, 40, margin=8, rng=np.random.default_rng(7))
    noise = np.random.default_rng(8).normal(size=SHAPE).astype(np.float32)
    assert any(
        "neither darker nor brighter" in one
        for one in concerns(findings(reported(volume=noise, places=places)))
    )


def on_a_grid(*sizes: int, step: int = 16) -> np.ndarray:
    """Places (n, 3) in a box, `step` voxels apart and from the faces, if no more than one fits."""
    axes = [np.arange(step // 2, size, step) if size > step else [size / 2] for size in sizes]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3).astype(float)


def test_picks_in_empty_ice_are_told_and_those_in_the_cell_are_not() -> None:
    rng = np.random.default_rng(9)
    volume = rng.normal(size=(60, 96, 200)).astype(np.float32)
    # A cell in the right half and ice in the left.
    lumps = rng.normal(size=(15, 24, 25)).repeat(4, 0).repeat(4, 1).repeat(4, 2)
    volume[:, :, 100:] += lumps
    ice = on_a_grid(60, 96, 80) + np.array([2, 0, 0])
    cell = ice + np.array([0, 0, 110])
    for places in (ice, cell):
        for z, y, x in places.astype(int):
            volume[z - 3 : z + 4, y - 3 : y + 4, x - 3 : x + 4] -= 1
    said = "less to see around the picks"
    assert any(said in one for one in concerns(findings(reported(volume=volume, places=ice))))
    assert not any(said in one for one in concerns(findings(reported(volume=volume, places=cell))))


def test_picks_in_a_layer_are_told() -> None:
    base = findings(reported(volume=VOLUME, places=PLACES))
    layer = on_a_grid(60, 90, 100, step=12)
    layer[:, 0] = 30
    assert "within 0 of the 60 slices" in only(concerns(replace(base, voxels=layer[:42])))


def test_picks_at_the_faces_are_told() -> None:
    base = findings(reported(volume=VOLUME, places=PLACES))
    face = on_a_grid(60, 1, 100, step=12)
    face[:, 1] = 4
    assert "100 % of the picks are within 1.5 radii of the volume's faces" in only(
        concerns(replace(base, voxels=face))
    )


def test_pairs_at_the_least_distance_are_told() -> None:
    base = findings(reported(volume=VOLUME, places=PLACES))
    pairs = np.concatenate([PLACES[:20], PLACES[:20] + np.array([0, 0, base.exclusion])])
    assert "as near to another" in only(concerns(replace(base, voxels=pairs)))


def test_few_picks_and_missed_clicks_are_told() -> None:
    one = reported(volume=VOLUME, places=PLACES, count=4, clicks=PLACES[:10])
    few, missed = concerns(findings(one))
    assert few.startswith("Very few picks: 4.")
    assert missed.startswith("Of the 10 clicked particles 4 are in the list.")


def test_what_the_calibration_cannot_tell_is_told() -> None:
    def told(**changes: object) -> str:
        return only(concerns(findings(reported(volume=VOLUME, places=PLACES, **changes))))

    assert "hardly known: 10 to 90" in told(estimated=RecordedCount(estimate=30, low=10, high=90))
    assert "not calibrated" in told(calibrated=False)
    histogram = reported(volume=VOLUME, places=PLACES).record.histogram
    assert histogram is not None
    assert "40 % of the peaks would have to score differently" in told(
        histogram=histogram.model_copy(update={"unlike_training": 0.4})
    )
    # Where the average told the particles, too, that says less.
    assert "used to tell the particles all the same" in told(
        histogram=histogram.model_copy(update={"unlike_training": 0.4}), by_contrasts=True
    )
    base = findings(reported(volume=VOLUME, places=PLACES))
    assert "About 55 % of the picks" in only(
        concerns(replace(base, probabilities=np.full(40, 0.45)))
    )


def test_a_list_that_was_changed_is_told() -> None:
    base = findings(reported(volume=VOLUME, places=PLACES))
    assert "The list holds 35 picks, but 40 were made" in only(concerns(replace(base, listed=35)))


def test_mean_of_planted_balls_is_the_ball_and_that_of_random_places_is_flat() -> None:
    mean = cubes.mean_cube(VOLUME, PLACES, radius=RADIUS)
    half = len(mean.cube) // 2
    assert mean.cube[half, half, half - 5 : half + 6].max() < -1
    assert mean.contrasts.mean() == pytest.approx(-2, abs=0.3)
    places = cubes.random_places(SHAPE, 300, margin=6, rng=np.random.default_rng(5))
    assert np.abs(cubes.mean_cube(VOLUME, places, radius=RADIUS).contrasts.mean()) < 0.3


def test_the_mean_of_real_ribosomes_is_dark_with_a_bright_rim(shared_data: Path) -> None:
    mrcfile = pytest.importorskip("mrcfile")
    folder = shared_data / "real"
    table = np.loadtxt(folder / "picks_train_100.csv", delimiter=",", skiprows=1)
    with mrcfile.mmap(folder / "empiar10499_00254_north.mrc", permissive=True) as volume:
        mean = cubes.mean_cube(volume.data, table[:, 2::-1], radius=12.5)
    half = len(mean.cube) // 2
    grid = np.hypot(*np.mgrid[-half : half + 1, -half : half + 1])
    for section in cubes.sections(mean.cube)[:2]:  # yz is blurred by the wedge
        assert section[grid < 9].mean() < section[(grid > 13) & (grid < 17)].mean() - section.std()
    assert (mean.contrasts < 0).mean() > 0.9


def test_what_lies_outside_the_volume_is_unknown_and_out_of_the_mean() -> None:
    ones = np.ones((9, 9, 9), dtype=np.float32)
    corner = cubes.cut_cube(ones, np.zeros(3), 2)
    assert np.isfinite(corner).sum() == 27
    mean = cubes.mean_cube(ones, np.array([[0.0, 0, 0], [4.0, 4, 4]]), radius=2)
    assert np.nanmin(mean.cube) == np.nanmax(mean.cube) == 1


def test_random_places_keep_from_the_faces() -> None:
    places = cubes.random_places((4, 50, 60), 500, margin=10, rng=np.random.default_rng(0))
    assert places[:, 0].tolist() == [1.5] * 500  # thinner than twice the margin
    assert places[:, 1].min() >= 10
    assert places[:, 2].max() <= 49


def test_score_figure_shows_every_peak_that_the_histogram_holds() -> None:
    histogram = RecordedHistogram(
        edges=tuple(np.linspace(0, 10, 101)),
        counts=(3,) * 100,
        particles=(1.0,) * 100,
        others=(2.0,) * 100,
        unlike_training=0.0,
    )
    figure = distributions.score_figure(
        np.array([8.0, 5.0, 2.0]), threshold=5.0, histogram=histogram
    )
    bars = [bar for part in figure.axes[0].containers for bar in part]
    assert sum(bar.get_height() for bar in bars) == 3 * (100 - 19)  # all from score 1.9 on
    kept = sum(bar.get_height() for bar in figure.axes[0].containers[1])
    assert kept == pytest.approx(3 * 50, abs=6)  # above 5, to a bin
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert "cut-off 5.00" in labels


def test_there_is_nothing_to_draw_without_picks() -> None:
    with pytest.raises(InputError, match="no scores"):
        distributions.score_figure(np.empty(0), threshold=None)
    with pytest.raises(InputError, match="no picks"):
        distributions.depth_figure(np.empty(0), 10)
    with pytest.raises(InputError, match="no distances"):
        distributions.neighbour_figure(np.empty(0), exclusion=5, diameter=10)
    with pytest.raises(InputError, match="no tomograms"):
        distributions.numbers_figure([], [])


@pytest.fixture(scope="module")
def picked(
    tomopicker: Command, trained: Path, simulated: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Folder of picks of sim_0001, which was trained on, with a report."""
    out = tmp_path_factory.mktemp("picked") / "picks"
    done = tomopicker(
        *("pick", trained, simulated / "sim_0001.mrc", "--count", 12, "--out", out, "--report")
    )
    assert done.code == 0, done.stderr
    assert str(out / "report.html") in done.stderr
    return out


def test_pick_writes_a_report_of_what_it_picked(picked: Path) -> None:
    page = Page((picked / "report.html").read_text(encoding="utf-8"))
    words = page.words()
    assert "12 picks in 1 tomogram" in words
    assert re.search(r"Clicked particles in the list \d+ of 24", words)
    candidates = read_candidates(picked / "sim_0001_candidates.csv", voxel_size=13.5)
    z, y, x = candidates.picks.voxels[0]
    assert f"{x:.1f}, {y:.1f}, {z:.1f}" in words
    assert "network.channels [4, 8] [24, 48, 96]" in words
    assert re.search(r"tomopicker pick \S+ \S*sim_0001.mrc --count 12", words)


def test_report_writes_the_same_page_elsewhere_and_replaces_none(
    tomopicker: Command, picked: Path, trained: Path, simulated: Path, tmp_path: Path
) -> None:
    report = ("report", trained, simulated / "sim_0001.mrc", "--picks", picked)
    page = tmp_path / "page.html"
    done = tomopicker(*report, "--out", page)
    assert done.code == 0, done.stderr
    assert done.stdout.strip() == str(page)
    assert page.read_bytes() == (picked / "report.html").read_bytes()
    refused = tomopicker(*report)
    assert refused.code == 2
    assert "--force" in refused.stderr
    assert tomopicker(*report, "--force").code == 0


def test_report_takes_tomograms_as_pick_does(
    tomopicker: Command, picked: Path, trained: Path, simulated: Path, tmp_path: Path
) -> None:
    listed = tmp_path / "tomograms.txt"
    listed.write_text(f"{simulated / 'sim_0001.mrc'}\n")
    done = tomopicker("report", trained, listed, "--picks", picked, "--out", tmp_path / "page.html")
    assert done.code == 0, done.stderr
    assert (tmp_path / "page.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sim_0002.mrc",), "pick again"),
        (("sim_0001.mrc", "--voxel-size", "20"), "give --voxel-size 13.5"),
        (("sim_0001.mrc", "--out", "page.pdf"), "ends in .html"),
        (("sim_0001.mrc", "--picks", "nowhere"), "is no folder"),
    ],
)
def test_report_says_what_is_missing(
    tomopicker: Command,
    picked: Path,
    trained: Path,
    simulated: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(simulated)
    done = tomopicker("report", "--picks", picked, "--out", "new.html", trained, *arguments)
    assert done.code == 2
    assert message in done.stderr
    assert len(done.errors) == 1
