"""Recall of silver-standard positions against the number of picks, for a tomogram without a truth.

Positions from template matching are not the truth: some are wrong and many particles are missing.
So the held-out ones give a recall, and picks near no position at all, not even an uncertain one,
give an upper bound of the false picks.

    python benchmarks/recall_of_silver.py PICKS --train CSV --held-out CSV [--uncertain CSV]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.spatial import KDTree

from tomopicker.io.particles import read_particles


def main() -> None:
    """Print one row of a table for each number of picks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picks", type=Path)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--uncertain", type=Path)
    parser.add_argument("--tolerance", type=float, default=10.0, help="voxels")
    options = parser.parse_args()
    picks, train, held_out = (
        _voxels(path) for path in (options.picks, options.train, options.held_out)
    )
    silver = np.concatenate([train, held_out])
    uncertain = _voxels(options.uncertain) if options.uncertain else np.empty((0, 3))
    print(
        "| picks | recall of held-out | picks on silver | on silver or uncertain | centre error |"
    )
    print("|---|---|---|---|---|")
    numbers = [number for number in (50, 100, 150, 200, 300, 400, 600) if number < len(picks)]
    for number in [*numbers, len(picks)]:
        best = picks[:number]
        found = _near(held_out, best, options.tolerance)
        error = KDTree(best).query(held_out[found])[0].mean()
        on_silver = _near(best, silver, options.tolerance).mean()
        on_any = _near(best, np.concatenate([silver, uncertain]), options.tolerance).mean()
        print(f"| {number} | {found.mean():.2f} | {on_silver:.2f} | {on_any:.2f} | {error:.1f} |")


def _voxels(path: Path) -> np.ndarray:
    return read_particles(path, voxel_size=1.0).voxels


def _near(points: np.ndarray, others: np.ndarray, tolerance: float) -> np.ndarray:
    return KDTree(others).query(points)[0] <= tolerance


if __name__ == "__main__":
    main()
