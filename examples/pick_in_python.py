"""The two commands as a script: train on clicks in one tomogram, pick another.

python examples/pick_in_python.py TS_01.mrc clicks.csv TS_02.mrc picks.csv
"""

import sys

from tomopicker.config import preset
from tomopicker.held_out import calibrate
from tomopicker.inference import features_of, network_of, score
from tomopicker.io.particles import read_particles, write_particles
from tomopicker.io.tomograms import read_tomogram
from tomopicker.picks import Cut, pick
from tomopicker.task import prepare
from tomopicker.training import Epoch, fit


def main(known: str, clicks: str, unseen: str, out: str) -> None:
    tomogram = read_tomogram(known)
    particles = read_particles(clicks, voxel_size=tomogram.voxel_size, shape=tomogram.shape)
    settings = preset("default", radius_angstrom=125, voxel_size=tomogram.voxel_size)

    task = prepare(settings, [(tomogram, particles)])
    best = None
    for event in fit(task):
        if isinstance(event, Epoch):
            sys.stderr.write(f"{dict(event.measures)}\n")
            best = event.checkpoint if event.is_kept else best
    if best is None:
        raise SystemExit("no epoch was trained")
    best = calibrate(task, best)

    other = read_tomogram(unseen)
    scores = score(features_of(best, other), network_of(best), settings)
    picked = pick(scores, other, best, Cut())
    write_particles(out, picked.particles, format="csv")


if __name__ == "__main__":
    main(*sys.argv[1:])
