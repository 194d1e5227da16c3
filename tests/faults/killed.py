"""Fault test: sixty tomograms, some broken, and processes that are killed while they pick.

Not a part of `make test`, as it takes minutes; `make test-faults` runs it.
"""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conftest import Outcome
from killing import BROKEN, contents, make_tomograms, pick_and_kill

TOMOGRAMS, KILLS, SEED = 60, 60, 20


def test_nothing_is_lost_and_nothing_doubled(
    tomopicker: Callable[..., Outcome],
    trained: Path,
    simulated: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken, good = len(BROKEN), TOMOGRAMS - len(BROKEN)
    listed = make_tomograms(tmp_path / "data", simulated / "sim_0002.mrc", TOMOGRAMS, broken=broken)
    pick = ("pick", trained, listed, "--count", 9, "--device", "cpu", "--out")
    quiet, out = tmp_path / "quiet", tmp_path / "killed"
    assert tomopicker(*pick, quiet).code == 2

    # The second overlaps the first, and would do all of it alone.
    parts = [(*pick, out, "--shard", "1/2"), (*pick, out)]
    rng = np.random.default_rng(SEED)
    killed = pick_and_kill(parts, out, kills=KILLS, good=good, rng=rng, longest=0.4)
    with capsys.disabled():
        print(f"\n{killed}")
    assert killed.kills >= 50
    assert killed.while_writing > 0
    assert killed.codes == (2, 2)

    with (out / "summary.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [row["tomogram"] for row in rows]
    assert names == sorted(file.stem for file in map(Path, listed.read_text().splitlines()))
    failed = {row["tomogram"].split("_")[-1] for row in rows if row["status"] == "failed"}
    assert failed == set(BROKEN)
    assert [row["status"] for row in rows].count("done") == good
    assert len(list(out.glob("TS_*.json"))) == good
    # Once more, which also clears what the last of the killed left half.
    again = tomopicker(*pick, out)
    assert f"{good} of {TOMOGRAMS} tomograms are done already" in again.stderr
    assert list(out.rglob(".*")) == []
    assert contents(out) == contents(quiet)
    listed_for_relion = [
        (folder / "relion5" / "import_coords.star").read_text().count(".star\n")
        for folder in (quiet, out)
    ]
    assert listed_for_relion == [good, good]
