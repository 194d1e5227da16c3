"""Have programs' own libraries, each in an environment of its own, read what we write.

    python tests/second_readers.py --cryohub PYTHON --copick PYTHON

PYTHON is the interpreter of an environment with that package (`pip install cryohub`, `pip install
copick`); they need versions of other packages that do not go with ours, and are too heavy for the
tests. Prints how far the farthest particle is off, in voxels, and ends with exit code 1 where that
is more than a thousandth.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tomopicker.io.particles import place_of, write_particles
from tomopicker.io.particles.angles import from_relion
from tomopicker.types import Floats, Particles, Shape

SHAPE: Shape = (101, 203, 305)
VOXEL, PIXEL = 13.48, 3.37

CRYOHUB = """
import json, sys
from cryohub.reading.main import read_file
from pathlib import Path
(poses,) = read_file(Path(sys.argv[1]))
turns = None if poses.orientation is None else poses.orientation.as_matrix().tolist()
print(json.dumps([poses.position.tolist(), turns]))
"""
COPICK = """
import copick, json, sys
(run,) = copick.from_file(sys.argv[1]).runs
(picks,) = run.get_picks()
points, turns = picks.numpy()
print(json.dumps([points.tolist(), turns[:, :3, :3].tolist()]))
"""


def main() -> int:
    """Run, print how far each is off, and return the exit code."""
    parser = argparse.ArgumentParser(description="Have other programs' libraries read our lists.")
    parser.add_argument("--cryohub", type=Path)
    parser.add_argument("--copick", type=Path)
    arguments = parser.parse_args()
    table = Particles.from_voxels(
        np.array([[10.0, 20, 30.25], [-0.5, 202.5, 304.5], [100, 0, 0.3333]]),
        voxel_size=VOXEL,
        scores=np.array([0.9, 0.5, 0.25]),
        tomograms=("TS_01",) * 3,
        orientations=from_relion(np.array([[10.0, 20, 30], [40, 50, 60], [-170, 90, 5]])),
    )
    worst = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        for name, path in _written(Path(temporary), table).items():
            interpreter = arguments.copick if name == "copick" else arguments.cryohub
            if interpreter is None:
                continue
            program, given = (CRYOHUB, path)
            if name == "copick":
                program, given = COPICK, _config(Path(temporary))
            done = subprocess.run(
                [interpreter, "-c", program, given], capture_output=True, text=True, check=True
            )
            positions, turns = json.loads(done.stdout.splitlines()[-1])
            off = float(np.abs(np.array(positions) - _expected(name, table)).max())
            off *= {"relion4": PIXEL, "eman2": PIXEL, "copick": 1.0}.get(name, VOXEL) / VOXEL
            worst = max(worst, off)
            turned = "no orientations"
            if turns is not None:
                difference = float(np.abs(np.array(turns) - table.orientations).max())
                worst = max(worst, difference)
                turned = f"orientations off by {difference:.1e}"
            print(f"{name:10} {off:.1e} voxels, {turned}")
    return int(worst > 1e-3)


def _written(folder: Path, table: Particles) -> dict[str, Path]:
    paths = {}
    for name in ("relion3", "relion4", "dynamo", "cbox", "eman2", "copick"):
        paths[name] = folder / name / place_of(name, "TS_01")
        write_particles(paths[name], table, format=name, shape=SHAPE, pixel_size=PIXEL)
    return paths


def _expected(name: str, table: Particles) -> Floats:
    """What the library has to find, (n, 3) ``x y z`` in the unit of the format."""
    xyz: Floats = table.positions
    if name == "copick":
        return xyz
    if name == "relion4":
        return xyz / PIXEL
    if name == "eman2":
        return (xyz - np.array(SHAPE[::-1]) // 2 * VOXEL) / PIXEL
    # cryohub takes the corners of crYOLO's boxes, 20 voxels wide here, as they are.
    return xyz / VOXEL - (np.array([10, 10, 0]) if name == "cbox" else 0)


def _config(folder: Path) -> Path:
    """Write the configuration of a copick project whose picks ours are."""
    path = folder / "config.json"
    root = f"local://{folder / 'copick'}"
    config = {
        "config_type": "filesystem",
        "name": "test",
        "description": "picks",
        "version": "1.0.0",
        "pickable_objects": [{"name": "particle", "is_particle": True, "label": 1, "radius": 100}],
        "overlay_root": root,
        "overlay_fs_args": {},
    }
    path.write_text(json.dumps(config))
    return path


if __name__ == "__main__":
    sys.exit(main())
