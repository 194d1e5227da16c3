"""Measure how fast the workbench opens and shows a volume of 1000 x 1000 x 500 voxels.

A volume of noise (2 GB) is written, served on the loopback by a process of its own, looked at, and
removed. It is in the system's file cache then, as a tomogram is that somebody works on.

    python benchmarks/workbench.py [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np

SHAPE = (500, 1000, 1000)
LOOK = "thickness=11&smoothing=2"
"""As the page shows slices of a particle that is 32 voxels across."""
SLICES = 30


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/workbench.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        write_noise(folder / "large.mrc")
        with subprocess.Popen(
            [
                *(sys.executable, "-m", "tomopicker", "serve", str(folder / "session")),
                *("--tomograms", str(folder / "large.mrc"), "--port", "0"),
            ],
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            text=True,
        ) as server:
            try:
                measured = look(address_of(server))
            finally:
                server.terminate()
    measured["machine"] = f"{platform.machine()}, {os.cpu_count()} cores"
    measured["load"] = round(os.getloadavg()[0], 1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(measured, indent=1) + "\n")
    for what, value in measured.items():
        print(f"{what}: {value}")


def write_noise(path: Path) -> None:
    """Write a float32 MRC of noise whose planes repeat."""
    import mrcfile

    planes = np.random.default_rng(0).normal(size=(10, *SHAPE[1:])).astype(np.float32)
    with mrcfile.new_mmap(path, SHAPE, mrc_mode=2) as file:
        for z in range(0, SHAPE[0], len(planes)):
            file.data[z : z + len(planes)] = planes
        file.voxel_size = 10.0


def address_of(server: subprocess.Popen[str]) -> str:
    """Wait for the address that the server prints."""
    assert server.stdout is not None
    for line in server.stdout:
        found = re.search(r"http://127\.0\.0\.1:\d+/\S+", line)
        if found:
            return found.group()
    raise SystemExit("the server ended before it was ready")


def look(address: str) -> dict[str, object]:
    """Milliseconds of the page and of slices along each axis: first, median and slowest."""
    page, started = get(address)
    parts = re.findall(r'(?:src|href)="(static/[^"]+)"', page.decode())
    for part in (*parts, "api/session", "api/tomograms/0"):
        get(address + part)
    measured: dict[str, object] = {"page": round(1000 * (time.perf_counter() - started))}
    rng = np.random.default_rng(1)
    for axis, size in zip("zyx", SHAPE, strict=True):
        places = rng.choice(np.arange(10, size - 10), SLICES, replace=False)
        url = f"{address}api/tomograms/0/slice?axis={axis}&{LOOK}&at="
        prepared = time.perf_counter()
        while axis == "x":
            try:
                get(f"{url}{places[0]}")
                break
            except urllib.error.HTTPError as error:
                if error.code != 503:
                    raise
                time.sleep(0.05)
        if axis == "x":
            measured["x ready after"] = round(1000 * (time.perf_counter() - prepared))
        times = []
        for at in places:
            started = time.perf_counter()
            get(f"{url}{at}")
            times.append(1000 * (time.perf_counter() - started))
        measured[axis] = {
            "first": round(times[0]),
            "median": round(float(np.median(times))),
            "slowest of the others": round(max(times[1:])),
        }
    return measured


def get(url: str) -> tuple[bytes, float]:
    """Content of an address, and when it was asked for."""
    started = time.perf_counter()
    with urllib.request.urlopen(url) as answer:
        return answer.read(), started


if __name__ == "__main__":
    main()
