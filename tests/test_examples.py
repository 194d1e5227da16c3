"""The examples run."""

import runpy
from pathlib import Path
from typing import Any

from small_task import SMALL
from tomopicker.config import Config, preset
from tomopicker.io.particles import read_particles

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_the_script_trains_and_picks(simulated: Path, tmp_path: Path) -> None:
    def short(name: Any, *, radius_angstrom: float, voxel_size: float) -> Config:
        settings = SMALL["default"] | {"training.epochs": 1, "sampling.steps_per_epoch": 2}
        # The simulated particles are smaller than those of the example.
        return preset(name, radius_angstrom=60, voxel_size=voxel_size, overrides=settings)

    main = runpy.run_path(str(EXAMPLES / "pick_in_python.py"))["main"]
    main.__globals__["preset"] = short
    out = tmp_path / "picks.csv"
    known, unseen = simulated / "sim_0001", simulated / "sim_0002.mrc"
    main(f"{known}.mrc", f"{known}.csv", str(unseen), str(out))
    picks = read_particles(out, voxel_size=13.5)
    assert len(picks) > 0
    assert picks.scores is not None
    assert "probability" in picks.extra  # it was calibrated
