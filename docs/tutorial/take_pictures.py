"""Take the pictures of workbench.md: click ribosomes, train, review and export in a browser.

    python docs/tutorial/take_pictures.py TOMOGRAM PARTICLES

PARTICLES is a CSV with known ribosomes, of which 60 are clicked. It takes as long as a training.
Chromium must be installed, and playwright, which the extra `dev` brings.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from tomopicker.io.particles import read_particles

CLICKS = 60
LONGEST = 3600e3
"""Milliseconds that a training may take."""


def main(tomogram: str, particles: str) -> None:
    """Serve a new session, and work in it."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    # A CSV holds voxels, so their size does not matter.
    known = read_particles(Path(particles), voxel_size=1.0).voxels[:CLICKS].tolist()
    with tempfile.TemporaryDirectory(prefix="tomopicker-") as folder, sync_playwright() as driver:
        words = ["serve", f"{folder}/ribosomes", "--tomograms", tomogram, "--port", "0"]
        with subprocess.Popen(
            [sys.executable, "-m", "tomopicker", *words],
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            text=True,
        ) as server:
            assert server.stdout is not None
            found = (re.search(r"http://127\.0\.0\.1:\d+/\S+", line) for line in server.stdout)
            browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            try:
                page = browser.new_page(viewport={"width": 1280, "height": 720})
                page.goto(next(address.group() for address in found if address))
                work(page, Path(tomogram).stem, known)
            finally:
                browser.close()
                server.terminate()


def work(page: Page, name: str, known: list[list[float]]) -> None:
    """Do what the tutorial says, and take a picture of each step."""
    expect.set_options(timeout=120e3)
    job = page.locator("#job-message")

    page.fill("#diameter", "250")
    page.press("#diameter", "Enter")
    expect(page.locator("#diameter-hint")).to_contain_text("voxels of")
    click(page, name, known[:5])
    page.click("#propose")
    expect(page.locator("#proposal-state")).to_contain_text("Learned from 5")
    page.fill("#shown", "100")
    page.fill("#slice", f"{known[0][0]:.0f}")
    take(page, "proposals")
    page.fill("#shown", "0")

    click(page, name, known[5:])
    page.click("#tab-training")
    page.click("#train")
    expect(job).to_contain_text("Training is done", timeout=LONGEST)
    page.click("#pick-this")
    expect(job).to_contain_text("Picking is done", timeout=LONGEST)
    page.click("#tab-review")
    expect(page.locator("#accept")).to_be_enabled()
    take(page, "review")

    page.click("#tab-exporting")
    page.select_option("#format", "relion5")
    page.click("#export-this")
    expect(page.locator("#export-done")).to_contain_text("in 1 file")
    page.click("#fit")
    take(page, "export")

    # A second round, so that the circles of the first one are there.
    page.click("#tab-training")
    page.click("#train")
    page.click("#job summary")
    expect(page.locator("#job-log")).to_contain_text("epoch 3", timeout=LONGEST)
    page.locator("#job-log").evaluate("log => log.scrollIntoView(false)")
    take(page, "training")


def click(page: Page, tomogram: str, places: list[list[float]]) -> None:
    """Put particles, all at once."""
    action = {"do": "add", "tomogram": tomogram, "at": places}
    assert page.request.post(f"{page.url}api/act", data=action).ok
    expect(page.locator("#tomogram")).to_contain_text(re.compile(rf"\((5|{CLICKS})\)"))


def take(page: Page, name: str) -> None:
    """Take a picture, when the slices have come."""
    page.wait_for_timeout(5000)
    path = Path(__file__).with_name(f"workbench-{name}.jpg")
    page.screenshot(path=path, type="jpeg", quality=80)


if __name__ == "__main__":
    main(*sys.argv[1:])
