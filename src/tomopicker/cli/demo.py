"""tomopicker demo: the whole pipeline on a small simulated data set, in minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tomopicker.errors import InputError

_CLICKS = 60
_EPOCHS = 5
_SHAPE = "64,256,256"
_RADIUS = "150A"


def demo(
    out: Annotated[Path, typer.Option(help="Folder to make.")] = Path("tomopicker-demo"),
    seed: Annotated[int, typer.Option(help="Seed of all randomness.", min=0)] = 0,
) -> None:
    """Simulate, train, pick an unseen tomogram, evaluate and draw: a few minutes on two cores."""
    import numpy as np

    from tomopicker.cli import evaluate, pick, plot, simulate, train
    from tomopicker.cli.run import console
    from tomopicker.io.particles import read_particles, write_particles

    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out}: is not empty; give another --out, or remove it")
    data, run, picks = out / "data", out / "run", out / "picks"

    def step(number: int, text: str) -> None:
        console.rule(f"{number}/5  {text}", align="left")

    step(1, "Simulate two tomograms of a crowded cell (one to learn from, one unseen)")
    simulate.simulate(out=data, shape=_SHAPE, tomograms=2, seed=seed, phase_plate=True)
    known, unseen = data / "sim_0001", data / "sim_0002"

    step(2, f"Click {_CLICKS} particles in the first, then train on them")
    truth = read_particles(known.with_suffix(".csv"), voxel_size=1.0)
    chosen = np.random.default_rng(seed).permutation(len(truth))[:_CLICKS]
    clicks = out / "clicks.csv"
    write_particles(clicks, truth.select(np.sort(chosen)), format="csv")
    train.train(
        tomograms=[known.with_suffix(".mrc")],
        picks=clicks,
        out=run,
        radius=_RADIUS,
        seed=seed,
        epochs=_EPOCHS,
    )

    step(3, "Pick the unseen tomogram")
    pick.pick(run=run, tomograms=[unseen.with_suffix(".mrc")], out=picks, report=True)

    step(4, "Compare the picks with the truth")
    evaluate.evaluate(picks / "sim_0002.csv", unseen.with_suffix(".csv"))

    step(5, "Draw a slice: truth blue, picks green")
    plot.plot(
        tomogram=unseen.with_suffix(".mrc"),
        picks=[picks / "sim_0002.csv"],
        truth=unseen.with_suffix(".csv"),
        radius=_RADIUS,
        thickness=5,
        out=out / "picks.png",
    )
    console.print(_WHAT_IS_WHERE.format(out=out, clicks=_CLICKS), soft_wrap=True)


_WHAT_IS_WHERE = """
Everything is in {out}/
  data/       two simulated tomograms (.mrc) and where their particles are (.csv)
  clicks.csv  the {clicks} particles that were "clicked"
  run/        the trained model: best.safetensors, the settings, log, metrics and their plot
  picks/      picks of the unseen tomogram: sim_0002.csv (x, y, z in voxels, score,
              probability), relion5/sim_0002.star, a picture, and report.html, which shows
              what was picked and what to doubt: open it in a browser
  picks.png   a slice of it with the truth in blue and the picks in green; open it

On your own data, with about 100 particles clicked in one tomogram (x,y,z in voxels):
  tomopicker inspect TOMOGRAM.mrc --picks clicks.csv
  tomopicker train TOMOGRAM.mrc --picks clicks.csv --radius 150A --out run
  tomopicker pick run OTHER_TOMOGRAMS*.mrc --out picks
"""
