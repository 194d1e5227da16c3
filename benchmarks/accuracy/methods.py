"""Run the methods of the accuracy benchmark: every row of the table, from three seeds.

Each run is a process of its own, so that its CPU time is its own, and leaves one JSON file; a
rerun goes on where the last one stopped. Make the tomograms first.

    python benchmarks/accuracy/methods.py --methods default-100,paper-kl [--sets defocus-ribosome]

`filter-N`, `default-N`: N clicks. `default-N~V`: each off by V voxels (root mean square distance,
each coordinate a normal deviate). `ceiling`: `default` with every target labelled. `default-100:X`
leaves part X out, see `WITHOUT`. `paper-OBJECTIVE`: preset `paper`, 100 clicks for training and
the validation tomogram's targets for its choices. `supervised`: unlabelled taken for negative,
soft blobs as targets. `template`: template matching with the true map.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tomograms import FAMILIES, TARGETS, VOXEL_SIZE, describe

TOLERANCE = 10 / 12
"""Particle radii within which a pick counts: the paper's 10 voxels at a radius of 12."""

WITHOUT: dict[str, tuple[str, dict[str, object]]] = {
    "shape": ("without shape", {}),
    "pretraining": ("from random weights (20 epochs)", {"training.start": "random"}),
    "mean-of-weights": ("without the mean with the first weights", {"training.start_worth": 0.0}),
    "pretraining-and-filter": (
        "from random weights (20 epochs), without the filter",
        {"network.filter_channel": False},
    ),
    "core": ("with labels as large as the particle", {"labels.core": 1.0}),
    "augmentation": ("without augmentation", {"sampling.augment": False}),
    "average": ("without the average over steps", {"training.ema": 0.0}),
    "subvoxel": (
        "without smoothing and sub-voxel centres",
        {"peaks.subvoxel": False, "peaks.smoothing": 0.0},
    ),
    "pu": ("with PN in place of PU", {"objective.name": "pn"}),
    "filter-in-scores": ("without the filter in the scores", {"inference.filter_weight": 0.0}),
}
"""What the table calls `default` without one of its parts, and the settings that switch it off.

Shape, which is added to the scores of whichever network, is left out with each of the others.
"""


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tomograms", type=Path, default=Path("build/accuracy"))
    parser.add_argument("--data", type=Path, help="folder with densities, for `template`")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/accuracy"))
    parser.add_argument("--methods", required=True)
    parser.add_argument("--sets", default=",".join(f"{f}-{t}" for f in FAMILIES for t in TARGETS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--paper-epochs", type=int, default=20)
    parser.add_argument("--parts", default="test1,test2,test3,test4")
    parser.add_argument("--one", nargs=3, metavar=("SET", "METHOD", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run(*options.one[:2], int(options.one[2]), options)))
        return
    wanted = [
        (name, method, seed)
        for seed in options.seeds.split(",")
        for method in options.methods.split(",")
        for name in options.sets.split(",")
        if seed == "0" or method != "template"  # nothing in it is random
    ]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda job: _run_apart(*job, options), wanted))


def _run_apart(name: str, method: str, seed: str, options: argparse.Namespace) -> None:
    file = options.out / name / f"{method.replace(':', '_without_')}_{seed}.json"
    if file.exists():
        return
    command = [sys.executable, __file__, "--one", name, method, seed, "--methods", method]
    command += ["--tomograms", str(options.tomograms), "--parts", options.parts]
    command += ["--paper-epochs", str(options.paper_epochs)]
    command += ["--data", str(options.data)] if options.data else []
    done = subprocess.run(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        print(f"{name} {method} seed {seed} failed:\n{done.stderr[-2000:]}", flush=True)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    row = json.loads(done.stdout)
    file.write_text(json.dumps(row, indent=1) + "\n")
    f1 = np.mean([part["true_count"]["f1"] for part in row["parts"].values()])
    print(f"{time.strftime('%H:%M:%S')} {name} {method} seed {seed}: F1 {f1:.3f}", flush=True)


def run(name: str, method: str, seed: int, options: argparse.Namespace) -> dict[str, object]:
    """Train one method on one set from one seed, and measure it on the test tomograms."""
    import torch

    torch.set_num_threads(1)
    kind, _, number = method.partition(":")[0].partition("-")
    without = method.partition(":")[2]
    row: dict[str, object] = {"set": name, "method": method, "seed": seed, "commit": _commit()}
    started = time.process_time()
    if kind == "filter":
        search = _filter(name, int(number), seed, options)
    elif kind == "template":
        search = _template(name, options)
    elif kind == "supervised":
        search = _supervised(name, int(number or 100), seed, options)
    elif kind == "paper":
        search, row["epoch"] = _paper(name, number, seed, options)
    elif kind not in ("default", "ceiling"):
        raise SystemExit(f"{method}: no such method")
    else:
        clicks, _, off = number.partition("~")
        overrides = {"inference.template_weight": 0.0, **WITHOUT[without][1]} if without else {}
        search, row["estimate"], row["template_weight"] = _default(
            name, int(clicks or 0), float(off or 0), seed, options, overrides
        )
    row["training_cpu_seconds"] = round(time.process_time() - started, 1)
    started = time.process_time()
    row["parts"] = {part: search(part) for part in options.parts.split(",")}
    row["picking_cpu_seconds"] = round(time.process_time() - started, 1)
    row["peak_megabytes"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return row


def _default(name, clicks, off, seed, options, overrides):
    """Preset `default`: a function that measures it on a part; without clicks, the ceiling.

    The ceiling has every target of the training tomogram to learn from, knows that there are no
    others, and has a whole tomogram to validate and calibrate on.
    """
    from tomopicker.config import preset
    from tomopicker.held_out import calibrate
    from tomopicker.inference import features_of, network_of, score
    from tomopicker.picks import Cut, find_particles, fit_of, pick
    from tomopicker.task import prepare
    from tomopicker.types import Particles

    tomogram, particles = _load(options, name, "train")
    # Without the filter's channel nothing estimates the number, so it is told.
    is_told = not clicks or overrides.get("network.filter_channel") is False
    config = preset(
        "default",
        radius_angstrom=_radius(name),
        voxel_size=VOXEL_SIZE,
        expected=len(particles) + 1 if is_told else None,
        overrides={"training.seed": seed, **overrides},
    )
    validation = None if clicks else _load(options, name, "validation")
    clicked = _some(particles, clicks or None, seed)
    places = clicks_beside(clicked.voxels, off, np.random.default_rng([seed, 2]))
    clicked = Particles.from_voxels(places, voxel_size=VOXEL_SIZE)
    task = prepare(config, [(tomogram, clicked)], validation)
    kept = calibrate(task, _trained(task))
    network = network_of(kept)

    def search(part: str) -> dict[str, object]:
        tomogram, truth = _load(options, name, part)
        features = features_of(kept, tomogram)
        scores = score(features, network, config)
        centres, ranked = find_particles(
            scores,
            config,
            radius=task.radius,
            count=_MOST,
            floor=-np.inf,
            fit=fit_of(kept, features),
        )
        measured = _measure(name, centres, ranked, truth)
        picked = pick(scores, tomogram, kept, Cut(), features=features)
        measured["own_cut"] = _counted(name, picked.particles.voxels, truth)
        measured["at_rates"] = {
            str(rate): _counted(name, picked.candidates.voxels[:length], truth)
            for rate, length in picked.lengths.items()
        }
        if picked.estimated is not None:
            measured["estimate"] = [
                picked.estimated.estimate,
                picked.estimated.low,
                picked.estimated.high,
            ]
        return measured

    return search, task.prior.expected, kept.description.template_weight


def _paper(name, objective, seed, options):
    """Preset `paper`, in its windows and on the whole volume."""
    from tomopicker.config import preset
    from tomopicker.inference import features_of, network_of, score
    from tomopicker.picks import find_particles
    from tomopicker.task import prepare

    tomogram, particles = _load(options, name, "train")
    config = preset(
        "paper",
        radius_angstrom=_radius(name),
        voxel_size=VOXEL_SIZE,
        expected=len(particles),
        overrides={
            "training.seed": seed,
            "objective.name": objective,
            "training.epochs": options.paper_epochs,
            # The particle is 14.5 voxels across; the authors' window is as wide as the particle.
            "sampling.side": 16,
            "sampling.stride": 16,
        },
    )
    task = prepare(
        config, [(tomogram, _some(particles, 100, seed))], _load(options, name, "validation")
    )
    kept = _trained(task)
    network = network_of(kept)

    def search(part: str) -> dict[str, object]:
        tomogram, truth = _load(options, name, part)
        measured = {}
        for method in ("windows", "whole"):
            inference = config.inference.model_copy(update={"method": method})
            settings = config.model_copy(update={"inference": inference})
            scores = score(features_of(kept, tomogram), network, settings)
            centres, ranked = find_particles(
                scores, config, radius=task.radius, count=_MOST, floor=-np.inf
            )
            measured[method] = _measure(name, centres, ranked, truth)
        return measured["windows"] | {"whole": measured["whole"]}

    return search, kept.description.epoch


def _filter(name, clicks, seed, options):
    """The radial matched filter alone."""
    from tomopicker.features import Features, compute_features
    from tomopicker.matched_filter import learn_filter
    from tomopicker.preprocess import Normalisation

    tomogram, particles = _load(options, name, "train")
    normalisation = Normalisation.of(tomogram.data, source=name)
    plain = Features(data=tomogram.data, normalisation=normalisation)
    chosen = _some(particles, clicks, seed)
    radius = _radius(name) / VOXEL_SIZE
    radial = learn_filter([(plain.density, plain.shape, chosen.voxels)], radius=radius)

    def search(part: str) -> dict[str, object]:
        tomogram, truth = _load(options, name, part)
        normalisation = Normalisation.of(tomogram.data, source=part)
        scores = compute_features(tomogram, normalisation, radial).correlation
        return _measure(name, *_peaks(name, scores), truth)

    return search


def _template(name, options):
    """Template matching with the true map, at each tomogram's own optics."""
    from template_matching import match

    from tomopicker.simulate import TARGET

    def search(part: str) -> dict[str, object]:
        tomogram, truth = _load(options, name, part)
        settings, templates, _ = describe(*name.split("-"), part, options.data)
        scores = match(np.asarray(tomogram.data), templates[TARGET], settings)
        return _measure(name, *_peaks(name, scores), truth)

    return search


def _supervised(name, clicks, seed, options):
    """Unlabelled is negative, soft blobs are the targets, after DeepETPicker's manner."""
    import torch
    from torch.nn import functional

    from tomopicker.augment import augment
    from tomopicker.config import preset
    from tomopicker.features import Features
    from tomopicker.inference import score
    from tomopicker.network import build
    from tomopicker.picks import find_particles
    from tomopicker.preprocess import Normalisation
    from tomopicker.types import Window

    tomogram, particles = _load(options, name, "train")
    chosen = _some(particles, clicks, seed).voxels
    features = Features(
        data=tomogram.data, normalisation=Normalisation.of(tomogram.data, source=name)
    )
    radius = _radius(name) / VOXEL_SIZE
    config = preset(
        "default",
        radius_angstrom=_radius(name),
        voxel_size=VOXEL_SIZE,
        overrides={"network.filter_channel": False, "training.seed": seed},
    )
    side, steps = config.sampling.side, 400
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    network = build(config.network)
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    axis = np.arange(side)
    for _ in range(steps):
        crops, blobs = [], []
        for centred in (True, True, True, False, False, False):
            centre = chosen[int(rng.integers(len(chosen)))]
            if not centred:
                centre = rng.uniform(0, features.shape)
            corner = np.rint(centre + rng.integers(-side // 4, side // 4 + 1, size=3)).astype(int)
            corner = np.clip(corner - side // 2, 0, np.array(features.shape) - side)
            window = Window(corner=tuple(corner.tolist()), shape=(side,) * 3)
            blob = np.zeros((side,) * 3, dtype=np.float32)
            for z, y, x in chosen - corner:
                squared = (
                    (axis - z)[:, None, None] ** 2 + (axis - y)[:, None] ** 2 + (axis - x) ** 2
                )
                np.maximum(blob, np.exp(-squared / (2 * (radius / 2) ** 2)), out=blob)
            crops.append(features.read(window))
            blobs.append(blob)
        volumes, soft = augment(
            torch.from_numpy(np.stack(crops)), torch.from_numpy(np.stack(blobs)), rng=rng
        )
        optimiser.zero_grad()
        shown = torch.sigmoid(network.train()(volumes))
        dice = 1 - 2 * (shown * soft).sum() / (shown.square().sum() + soft.square().sum() + 1)
        (dice + functional.binary_cross_entropy(shown, soft)).backward()
        optimiser.step()
        schedule.step()
    network.eval()

    def search(part: str) -> dict[str, object]:
        tomogram, truth = _load(options, name, part)
        normalisation = Normalisation.of(tomogram.data, source=part)
        scores = score(Features(data=tomogram.data, normalisation=normalisation), network, config)
        centres, ranked = find_particles(scores, config, radius=radius, count=_MOST, floor=-np.inf)
        return _measure(name, centres, ranked, truth)

    return search


_MOST = 3000


def _trained(task):
    """The checkpoint of the epoch that picking uses."""
    from tomopicker.training import Epoch, fit

    kept = None
    for event in fit(task):
        if isinstance(event, Epoch) and event.is_kept:
            kept = event.checkpoint
    return kept


def _peaks(name, scores):
    """Peaks of a correlation, taken as `default` takes its own."""
    from tomopicker.config import preset
    from tomopicker.labels import voxel_radius
    from tomopicker.picks import find_particles

    config = preset("default", radius_angstrom=_radius(name), voxel_size=VOXEL_SIZE)
    radius = voxel_radius(_radius(name), VOXEL_SIZE)
    return find_particles(scores, config, radius=radius, count=_MOST, floor=-np.inf)


def _measure(name, centres, scores, truth) -> dict[str, object]:
    """What the ranked picks of one tomogram are worth."""
    from tomopicker.evaluate import evaluate

    tolerance = TOLERANCE * _radius(name) / VOXEL_SIZE
    ranked = evaluate(centres, truth.voxels, tolerance=tolerance, scores=scores)
    curve = ranked.curve
    pure = curve.precision >= 0.9
    return {
        "targets": len(truth),
        "true_count": _counted(name, centres[: len(truth)], truth),
        "average_precision": round(ranked.average_precision, 4),
        "recall_at_90": round(float(curve.recall[pure].max(initial=0.0)), 4),
    }


def _counted(name, centres, truth) -> dict[str, object]:
    from tomopicker.evaluate import evaluate

    found = evaluate(centres, truth.voxels, tolerance=TOLERANCE * _radius(name) / VOXEL_SIZE)
    error = found.localisation_error
    return {
        "picks": len(centres),
        "f1": round(found.one_to_one.f1, 4),
        "precision": round(found.one_to_one.precision, 4),
        "recall": round(found.one_to_one.recall, 4),
        "paper_f1": round(found.paper.f1, 4),
        "error_angstrom": None if error is None else round(error * VOXEL_SIZE, 1),
    }


def _load(options, name: str, part: str):
    from tomopicker.io.particles import read_particles
    from tomopicker.io.tomograms import read_tomogram

    path = options.tomograms / name / part
    tomogram = read_tomogram(path.with_suffix(".mrc"), voxel_size=VOXEL_SIZE)
    return tomogram, read_particles(path.with_suffix(".csv"), voxel_size=VOXEL_SIZE)


def _some(particles, clicks: int | None, seed: int):
    """The first clicks of one random order, so that more clicks hold the fewer ones."""
    order = np.random.default_rng([seed, 1]).permutation(len(particles))
    return particles.select(np.sort(order[:clicks]))


def clicks_beside(centres: np.ndarray, off: float, rng: np.random.Generator) -> np.ndarray:
    """Where a person clicks (n, 3) centres: `off` voxels from them, root mean square."""
    return centres + rng.normal(scale=off / np.sqrt(3), size=centres.shape)


def _radius(name: str) -> float:
    return TARGETS[name.split("-")[1]]


def _commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()


if __name__ == "__main__":
    main()
