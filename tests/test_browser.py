"""A person gets from a tomogram to a list in a real browser, by mouse and keys alone."""

import contextlib
import csv
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tomopicker.io.candidates import read_candidates, write_candidates
from tomopicker.io.tomograms import write_volume
from tomopicker.serve.session import read_verdicts

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright, which drives the browser, is not installed"
)
expect = sync_api.expect
# As long as a busy machine may take to pick; only a fault waits so long.
expect.set_options(timeout=240_000)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SHAPE = (40, 72, 96)
RADIUS = 5.0

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


@pytest.fixture
def planted(tmp_path: Path):
    """A noisy tomogram with 24 dark balls, and their centres ``z y x``."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid([10, 30], [12, 36, 60], [12, 36, 60, 84], indexing="ij"), axis=-1)
    centres = np.rint(grid.reshape(-1, 3) + rng.uniform(-3, 3, (24, 3)))
    data = rng.normal(size=SHAPE).astype(np.float32)
    z, y, x = np.indices(SHAPE)
    for at in centres:
        inside = (z - at[0]) ** 2 + (y - at[1]) ** 2 + (x - at[2]) ** 2 <= RADIUS**2
        data -= 2 * inside
    path = tmp_path / "TS_01.mrc"
    write_volume(path, data, voxel_size=10.0)
    return path, centres


@pytest.fixture
def address(planted, tmp_path: Path, environment: dict[str, str]):
    """Address of a workbench with the planted tomogram, in a process of its own."""
    with serving(environment, tmp_path / "session", "--tomograms", planted[0]) as found:
        yield found


@contextlib.contextmanager
def serving(environment: dict[str, str], *arguments: object):
    """Serve a workbench until it is done with, at the address that this gives."""
    with subprocess.Popen(
        [sys.executable, "-m", "tomopicker", "serve", *map(str, arguments), "--port", "0"],
        env=environment | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        found = (re.search(r"http://127\.0\.0\.1:\d+/\S+", line) for line in lines)
        try:
            yield next(match.group() for match in found if match)
        finally:
            process.terminate()


@pytest.fixture
def page(address: str):
    with browsing(address) as made:
        yield made


@contextlib.contextmanager
def browsing(address: str):
    """Open a page in a browser; it must have no fault until it is closed."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
                *("--disable-background-networking", "--disable-component-update"),
                "--disable-sync",
            ],
        )
        with contextlib.closing(browser):
            made = browser.new_page(viewport={"width": 1280, "height": 720})
            problems: list[str] = []
            made.on("pageerror", lambda error: problems.append(str(error)))
            made.on(
                "console",
                lambda said: problems.append(said.text) if said.type == "error" else None,
            )
            made.goto(address)
            yield made
            assert problems == []


def go_to_slice(page, z):
    page.locator("#slice").fill(str(int(z)))


def place_of(page, at, *, axis="z"):
    """Where a voxel is on the screen while the slice fits its view."""
    box = page.locator(f"[data-axis={axis}] canvas").bounding_box()
    down, right = {"z": (1, 2), "y": (0, 2), "x": (1, 0)}[axis]
    scale = min(box["width"] / SHAPE[right], box["height"] / SHAPE[down])
    return (
        box["x"] + box["width"] / 2 + (at[right] - (SHAPE[right] - 1) / 2) * scale,
        box["y"] + box["height"] / 2 + (at[down] - (SHAPE[down] - 1) / 2) * scale,
    )


def table(path: Path) -> np.ndarray:
    with path.open() as file:
        rows = [[float(row[axis]) for axis in "zyx"] for row in csv.DictReader(file)]
    return np.array(rows)


def test_from_a_tomogram_to_a_list(page, planted, tmp_path: Path):
    _, centres = planted
    session = tmp_path / "session"
    expect(page.locator("#saved")).to_have_text("All saved")
    page.fill("#diameter", "100")
    page.press("#diameter", "Enter")
    expect(page.locator("#diameter-hint")).to_contain_text("10.0 voxels of 10 Å")

    # Click 20; after the fifth the filter proposes others.
    for number, at in enumerate(centres[:20], start=1):
        go_to_slice(page, at[0])
        page.mouse.click(*place_of(page, at))
        # A click on what is proposed there accepts it.
        expect(page.locator("#tomogram")).to_contain_text(f"TS_01 ({number})")
    clicked = table(session / "particles" / "TS_01.csv")
    apart = np.linalg.norm(clicked[:, None] - centres[None, :20], axis=2)
    assert sorted(apart.argmin(axis=1)) == list(range(20))
    assert apart.min(axis=1).max() < 2
    expect(page.locator("#propose")).to_be_enabled()
    before = len(read_verdicts(session))
    page.click("#propose")
    expect(page.locator("#proposal-state")).to_contain_text("Learned from 20")
    # No key is answered before the candidate's slice is there, and every key from then on.
    are_held, held = True, []
    page.route("**/slice?*", lambda route: held.append(route) if are_held else route.continue_())
    page.locator("#contrast").fill("0.5")
    page.click("#walk")
    expect(page.locator("#candidate")).to_contain_text("Proposed")
    expect(page.locator("#reject")).to_be_disabled()
    page.keyboard.press("r")
    are_held = False
    for route in held:
        route.continue_()
    expect(page.locator("#reject")).to_be_enabled()
    assert len(read_verdicts(session)) == before
    page.keyboard.press("r")
    expect(page.locator("#review-counts")).to_contain_text("1 rejected")
    page.keyboard.press("u")
    expect(page.locator("#review-counts")).to_contain_text("0 rejected")

    # Train on them, and pick.
    page.click("#tab-training")
    page.click("#panel-training summary >> nth=0")
    page.fill("#epochs", "1")
    page.fill("#settings", "sampling.steps_per_epoch=2\nnetwork.channels=[4,8]\nsampling.side=16")
    page.click("#train")
    expect(page.locator("#job-message")).to_contain_text("Training is done")
    page.select_option("#pick-end", "count")
    page.fill("#pick-count", "60")
    page.click("#pick-this")
    expect(page.locator("#job-message")).to_contain_text("Picking is done")

    # Review 20 by key.
    page.click("#tab-review")
    expect(page.locator("#source")).to_have_value("1")
    for number in range(1, 21):
        expect(page.locator("#accept")).to_be_enabled()
        page.keyboard.press("rsa"[number % 3])
        said = (before + (number + 1) // 3, number // 3, (number + 2) // 3)
        expect(page.locator("#review-counts")).to_contain_text(
            "{} accepted, {} rejected, {} put off".format(*said)
        )
    verdicts = read_verdicts(session)[before:]
    assert len(verdicts) == 20
    assert {one.order for one in verdicts} == {"teach"}
    assert all(one.candidate.model.startswith("round 1 (") for one in verdicts)

    # Export: 20 clicks, 7 accepted and the rest of the picks, without what was rejected.
    page.click("#tab-exporting")
    page.select_option("#format", "csv")
    page.click("#export-this")
    expect(page.locator("#export-done")).to_contain_text("in 1 file")
    with page.expect_download() as download:
        page.click("#exports a")
    exported = table(Path(download.value.path()))
    rejected = [one.candidate.voxel for one in verdicts if one.answer == "reject"]
    assert len(exported) >= 27
    for at in rejected:
        assert np.linalg.norm(exported - at, axis=1).min() > 0.5


def test_particles_are_moved_and_deleted_by_mouse_and_key_in_any_view(
    page, planted, tmp_path: Path
):
    clicks = tmp_path / "session" / "particles" / "TS_01.csv"
    saved = page.locator("#saved")
    expect(saved).to_have_text("All saved")

    def drag(start, end, axis="z"):
        page.mouse.move(*place_of(page, start, axis=axis))
        page.mouse.down()
        page.mouse.move(*place_of(page, end, axis=axis), steps=5)
        page.mouse.up()

    go_to_slice(page, 20)
    page.mouse.click(*place_of(page, (20, 30, 40)))
    expect(page.locator("#click-count")).to_have_text("1")
    drag((20, 30, 40), (20, 50, 60))
    expect(page.locator("#undo")).to_be_enabled()
    expect(saved).to_have_text("All saved")
    assert np.abs(table(clicks) - [20, 50, 60]).max() < 0.2
    # In the xz view its depth is changed.
    page.mouse.click(*place_of(page, (20, 50, 60)))
    drag((20, 50, 60), (8, 50, 66), axis="y")
    expect(saved).to_have_text("All saved")
    assert np.abs(table(clicks) - [8, 50, 66]).max() < 0.5
    # Keys: move by a voxel, put another one at the cross, delete it, take all of it back.
    page.locator("[data-axis=z] canvas").focus()
    page.keyboard.press("Alt+ArrowRight")
    page.keyboard.press("ArrowLeft")
    for _ in range(3):
        page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Enter")
    expect(page.locator("#click-count")).to_have_text("2")
    page.keyboard.press("Delete")
    expect(page.locator("#click-count")).to_have_text("1")
    for count in ("2", "1"):
        page.keyboard.press("Control+z")
        expect(page.locator("#click-count")).to_have_text(count)


def test_what_goes_wrong_is_shown(page):
    expect(page.locator("#saved")).to_have_text("All saved")
    page.fill("#diameter", "-5")
    page.press("#diameter", "Enter")
    expect(page.locator("#problem")).to_contain_text("above 0")
    page.click("#problem-close")
    expect(page.locator("#problem")).to_be_hidden()


def test_the_review_goes_to_whichever_tomogram_teaches_most(
    tomopicker, simulated: Path, trained: Path, tmp_path: Path, environment: dict[str, str]
):
    session = tmp_path / "session"
    given = [session, "--tomograms", simulated, "--run", trained]
    with serving(environment, *given) as address, browsing(address) as page:
        expect(page.locator("#saved")).to_have_text("All saved")
        page.fill("#diameter", "120")
        page.press("#diameter", "Enter")
        expect(page.locator("#diameter-hint")).to_contain_text("voxels of 13.5 Å")
        page.click("#tab-training")
        page.select_option("#pick-end", "count")
        page.fill("#pick-count", "12")
        page.click("#pick-all")
        expect(page.locator("#job-message")).to_contain_text("Picking is done")
        # What a model of one second is sure of is chance.
        for path in (session / "rounds" / "01" / "picks").glob("*_candidates.csv"):
            found = read_candidates(path, voxel_size=1.0)
            even = replace(found.particles, probabilities=np.full(len(found.particles), 0.5))
            write_candidates(path, replace(found, particles=even), overwrite=True)
        page.click("#tab-review")
        for number in range(1, 13):
            expect(page.locator("#accept")).to_be_enabled()
            page.keyboard.press("r")
            expect(page.locator("#review-counts")).to_contain_text(f"{number} rejected")
        seen = [one.candidate.tomogram for one in read_verdicts(session)]
        assert set(seen) == {"sim_0001", "sim_0002"}
        # What is taken back is shown where it is.
        page.keyboard.press("u")
        expect(page.locator("#review-counts")).to_contain_text("11 rejected")
        expect(page.locator("#tomogram")).to_have_value(
            str(["sim_0001", "sim_0002"].index(seen[-1]))
        )
        page.select_option("#tomogram", "1")
        page.check("#only-here")
        for number in range(seen[:-1].count("sim_0002") + 1, 12):
            expect(page.locator("#accept")).to_be_enabled()
            page.keyboard.press("a" if number % 2 else "r")
            expect(page.locator("#tomogram")).to_have_value("1")
