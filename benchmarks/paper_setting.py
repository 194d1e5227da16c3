"""The authors' setting on simulated tomograms: PN, PU, KL and `default`, 100 of about 600 labelled.

One training, one validation and two test tomograms, made from fixed seeds; each method is trained
from three seeds, in a process of its own so that CPU time and peak memory are its own. Rows are
kept as they come, and a rerun goes on where the last one stopped.

    python benchmarks/paper_setting.py [--jobs 2] [--epochs 20] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

SHAPE, PARTICLES, CLICKS, RADIUS = (32, 112, 112), 600, 100, 3.0
VOXEL_SIZE, RADIUS_ANGSTROM = 50.0, 150.0
TOLERANCE = RADIUS * 10 / 12  # the paper's 10 voxels at a radius of 12
WINDOW = 16
METHODS, SEEDS = ("pn", "pu", "kl", "default"), (0, 1, 2)
TRAIN, VALIDATION, TESTS = 100, 101, (102, 103)


def main() -> None:
    """Run what is missing, then write the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--jobs", type=int, default=2, help="processes side by side, one thread each"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/paper_setting"))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--epochs", type=int, default=20, help="of pn, pu and kl; the paper has 20")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run(options.one[0], int(options.one[1]), options.epochs)))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    wanted = [(m, s) for s in SEEDS for m in options.methods.split(",")]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda job: _run_apart(*job, options.epochs, options.out), wanted))
    summarise(options.out)


def _run_apart(method: str, seed: int, epochs: int, out: Path) -> None:
    file = out / f"{method}_{seed}.json"
    if file.exists():
        return
    command = [sys.executable, __file__, "--one", method, str(seed), "--epochs", str(epochs)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    print(f"{time.strftime('%H:%M:%S')} {method} seed {seed} ...", flush=True)
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    file.write_text(done.stdout)
    print(f"{time.strftime('%H:%M:%S')} {method} seed {seed} done", flush=True)


def run(method: str, seed: int, epochs: int) -> dict[str, object]:
    """Train one method from one seed and measure it on the test tomograms."""
    import torch

    from tomopicker.config import preset
    from tomopicker.evaluate import combine, evaluate
    from tomopicker.held_out import calibrate
    from tomopicker.inference import features_of, network_of, score
    from tomopicker.picks import Cut, pick
    from tomopicker.task import prepare
    from tomopicker.training import Epoch, fit

    torch.set_num_threads(1)
    rng = np.random.default_rng([seed, 1])
    labelled = [_clicks(*_simulate(number), rng) for number in (TRAIN, VALIDATION)]
    overrides: dict[str, object] = {"training.seed": seed}
    if method != "default":
        overrides |= {
            "objective.name": method,
            "sampling.side": WINDOW,
            "sampling.stride": WINDOW,
            "training.epochs": epochs,
        }
    config = preset(
        "default" if method == "default" else "paper",
        radius_angstrom=RADIUS_ANGSTROM,
        voxel_size=VOXEL_SIZE,
        expected=None if method == "default" else PARTICLES,
        overrides=overrides,
    )
    started = time.process_time()
    task = prepare(config, [labelled[0]], labelled[1])
    best = None
    for event in fit(task):
        if isinstance(event, Epoch) and event.is_kept:
            best = event.checkpoint
    assert best is not None
    if method == "default":
        best = calibrate(task, best)
    trained = time.process_time()
    network = network_of(best)
    row: dict[str, object] = {
        "method": method,
        "seed": seed,
        "epochs": config.training.epochs,
        "kept_epoch": best.description.epoch,
        "training_cpu_seconds": trained - started,
    }
    cuts = {"count": None} | ({"automatic": Cut()} if method == "default" else {})
    for inference in ("windows", "whole"):
        if method == "default" and inference == "windows":
            continue
        began = time.process_time()
        settings = config.model_copy(
            update={"inference": config.inference.model_copy(update={"method": inference})}
        )
        evaluations = {name: [] for name in cuts}
        for number in TESTS:
            tomogram, truth = _simulate(number)
            volume = score(features_of(best, tomogram), network, settings)
            for name, cut in cuts.items():
                picked = pick(volume, tomogram, best, cut or Cut(count=len(truth)))
                found = picked.particles
                evaluations[name].append(
                    evaluate(found.voxels, truth.voxels, tolerance=TOLERANCE, scores=found.scores)
                )
        for name, several in evaluations.items():
            pooled = combine(several)
            row[f"{inference}_{name}"] = {
                "f1": pooled.one_to_one.f1,
                "precision": pooled.one_to_one.precision,
                "recall": pooled.one_to_one.recall,
                "paper_f1": pooled.paper.f1,
                "average_precision": pooled.average_precision,
                "localisation_error": pooled.localisation_error,
            }
        row[f"{inference}_cpu_seconds"] = time.process_time() - began
    row["peak_megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return row


def summarise(out: Path) -> None:
    """Write the table of means and spreads, with where it was made."""
    rows = [json.loads(file.read_text()) for file in sorted(out.glob("*_?.json"))]
    lines = [
        "| method | inference | F1 one-to-one | F1 as the paper counts | average precision "
        "| centre error (voxels) | training CPU s | peak MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    kinds = {
        "windows_count": "windows, N = true count",
        "whole_count": "whole volume, N = true count",
        "whole_automatic": "whole volume, automatic cut-off",
    }
    for method in METHODS:
        some = [row for row in rows if row["method"] == method]
        for kind, title in kinds.items():
            measured = [row[kind] for row in some if kind in row]
            if not measured:
                continue
            cells = [
                _spread([one[name] for one in measured])
                for name in ("f1", "paper_f1", "average_precision", "localisation_error")
            ]
            cells += [
                _spread([row["training_cpu_seconds"] for row in some], digits=0),
                _spread([row["peak_megabytes"] for row in some], digits=0),
            ]
            label = f"{method} ({some[0]['epochs']} epochs, {len(some)} seeds)"
            lines.append(f"| {label} | {title} | {' | '.join(cells)} |")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    heading = (
        f"Simulated {' x '.join(map(str, SHAPE))} voxels, {PARTICLES} particles of radius "
        f"{RADIUS:g} voxels, {CLICKS} clicked; mean ± standard deviation over seeds.\n"
        f"Commit {commit}; {platform.machine()}, one core per run, Python "
        f"{platform.python_version()}; `make bench-paper`.\n\n"
    )
    (out / "table.md").write_text(heading + "\n".join(lines) + "\n")
    print(heading + "\n".join(lines))


def _simulate(number: int):
    """One tomogram and its particles; the training one is plain, the others vary."""
    from tomopicker.simulate import Simulation, simulate, vary
    from tomopicker.types import Tomogram

    settings = Simulation(
        shape=SHAPE, voxel_size=VOXEL_SIZE, radius_angstrom=RADIUS_ANGSTROM, particles=PARTICLES
    )
    rng = np.random.default_rng(number)
    if number != TRAIN:
        settings = vary(settings, rng=rng)
    made = simulate(settings, rng=rng)
    tomogram = Tomogram(name=f"sim_{number}", data=made.volume, voxel_size=VOXEL_SIZE)
    return tomogram, made.particles


def _clicks(tomogram, particles, rng: np.random.Generator):
    chosen = np.sort(rng.permutation(len(particles))[:CLICKS])
    return tomogram, particles.select(chosen)


def _spread(values: list[float], digits: int = 2) -> str:
    return f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}"


if __name__ == "__main__":
    main()
