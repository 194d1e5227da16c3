"""Fault test: two hundred tomograms, some broken, processes that are killed, and a disk that fills.

Not a part of `make test`, as it takes minutes; `make test-faults` runs it.
"""

import csv
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from conftest import Outcome
from killing import BROKEN, contents, make_tomograms, pick_and_kill

TOMOGRAMS, BAD, KILLS, FILLS, SEED = 200, 10, 60, 3, 20
DISK = 128 << 20
"""Bytes of the disk that is filled."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path | None]:
    """A small disk; None where only an administrator may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, check=False).returncode:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Fill a disk to the last byte, and have it as it was in the end."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        # Others write at the same time, so what is free is known only when nothing is.
        for size in (1 << 20, 4096):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))
    try:
        yield
    finally:
        ballast.unlink()


def test_nothing_is_lost_and_nothing_doubled(
    tomopicker: Callable[..., Outcome],
    trained: Path,
    simulated: Path,
    tmp_path: Path,
    disk: Path | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    began, good = time.monotonic(), TOMOGRAMS - BAD
    listed = make_tomograms(tmp_path / "data", simulated / "sim_0002.mrc", TOMOGRAMS, broken=BAD)
    pick = ("pick", trained, listed, "--count", 9, "--device", "cpu", "--out")
    quiet, out = tmp_path / "quiet", (disk or tmp_path) / "killed"
    assert tomopicker(*pick, quiet, dpi=None).code == 2

    # The second overlaps the first, and would do all of it alone.
    killed = pick_and_kill(
        [(*pick, out, "--shard", "1/2"), (*pick, out)],
        out,
        kills=KILLS,
        good=good,
        rng=np.random.default_rng(SEED),
        longest=0.4,
        fills=0 if disk is None else FILLS,
        full=lambda: full(disk or out),
    )
    with (out / "summary.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    statuses = [row["status"] for row in rows]
    with capsys.disabled():
        print(
            f"\n{TOMOGRAMS} tomograms, {BAD} of them broken: {statuses.count('done')} done, "
            f"{statuses.count('failed')} failed, {statuses.count('left')} left\n"
            f"{killed.kills} processes killed (SIGKILL), after {killed.while_writing} of which a "
            f"tomogram's files were half done\n"
            f"disk filled {0 if disk is None else FILLS} times, which ended {killed.filled} "
            f"processes\n{time.monotonic() - began:.0f} s"
        )
    assert killed.kills >= 50
    assert killed.while_writing > 0
    assert killed.codes == (2, 2)
    assert disk is None or killed.filled >= FILLS

    names = [row["tomogram"] for row in rows]
    assert names == sorted(file.stem for file in map(Path, listed.read_text().splitlines()))
    failed = [row["tomogram"].split("_")[-1] for row in rows if row["status"] == "failed"]
    assert sorted(failed) == sorted(BROKEN[number % len(BROKEN)] for number in range(BAD))
    assert all(row["reason"] for row in rows if row["status"] == "failed")
    assert statuses.count("done") == good
    assert len(list(out.glob("TS_*.json"))) == good
    # Once more, which also clears what the last of the killed left half.
    again = tomopicker(*pick, out, dpi=None)
    assert f"{good} of {TOMOGRAMS} tomograms are done already" in again.stderr
    assert list(out.rglob(".*")) == []
    assert contents(out) == contents(quiet)
    listed_for_relion = [
        (folder / "relion5" / "import_coords.star").read_text().count(".star\n")
        for folder in (quiet, out)
    ]
    assert listed_for_relion == [good, good]
