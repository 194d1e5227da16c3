"""Let a simulated person click and review, and measure what their list is worth.

The person clicks true centres, off by 2 voxels (root mean square distance, each coordinate a
normal deviate), and says of candidates whether they are particles, wrongly in 2 of 100 cases.
Make the tomograms first; a rerun goes on where the last one stopped.

    python benchmarks/accuracy/person.py [--rows clicks-100,review-80x2] [--scene own]
    python benchmarks/accuracy/person.py --table

`clicks-N`: N clicks at random in the training tomogram. `spread-N`: 20 there, and the others at
random in the tomograms of the scene that a person looks at. `review-VxR`: 20 clicks, and V
verdicts in R rounds, each on what the queue then asks first across those tomograms; between the
rounds the model is trained again, with what was accepted as clicks and what was rejected as
negatives. `retrained-VxR` trains it after the last round, too. `review-VxR:X` differs in X, see
`VARIANTS`.

A scene says which tomograms the person looks at and which they never see. `own`: they review the
four test tomograms, and the list of those is judged, as put right by the verdicts, and as the
model alone gives it. `others`: they review four others, and the test tomograms are unseen. `choice`
is what settings are chosen by, without a test tomogram.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import numpy as np
from methods import (
    _MOST,
    TOLERANCE,
    _commit,
    _counted,
    _load,
    _measure,
    _radius,
    _some,
    _trained,
    clicks_beside,
)
from tomograms import VOXEL_SIZE

SET = "defocus-ribosome"
CLICK_ERROR = 2.0
"""Voxels: root mean square distance of a click from the centre."""
WRONG = 0.02
"""Share of the verdicts."""
FIRST_CLICKS = 20

ROWS = ("clicks-20", "clicks-100", "spread-100", "review-80x1", "review-80x2", "retrained-80x2")
"""Of the table in docs/accuracy.md, in its order."""

SCENES = {
    "own": (("test1", "test2", "test3", "test4"), ()),
    "others": (
        ("choice1", "choice2", "choice3", "choice4"),
        ("test1", "test2", "test3", "test4"),
    ),
    "choice": (
        ("choice1", "choice2", "choice3", "choice4"),
        ("validation", "choice5", "choice6"),
    ),
}
"""Tomograms that the person looks at, beside the training tomogram, and those that they do not."""

VARIANTS: dict[str, dict[str, object]] = {
    "random": {"order": "random"},
    "best": {"order": "best"},
    "no-negatives": {"negatives": False},
    "rejected-0.5": {"settings": {"objective.rejected": 0.5}},
    "rejected-1": {"settings": {"objective.rejected": 1.0}},
}
"""How a row may differ: in the order of the queue, or in what training makes of the verdicts."""


_SCORED: dict[str, object] = {}
"""The tomograms that the last model has scored: it is asked for them again when it is judged."""


@dataclass
class Person:
    """What one person knows and has said."""

    truths: dict[str, np.ndarray]
    rng: np.random.Generator
    particles: dict[str, list] = field(default_factory=dict)
    verdicts: tuple = ()

    def click(self, part: str, centres: np.ndarray) -> None:
        """Click true centres, a little beside each."""
        places = clicks_beside(centres, CLICK_ERROR, self.rng)
        self.particles.setdefault(part, []).extend(map(tuple, places.tolist()))

    def say(self, candidate, order: str) -> None:
        """Accept a candidate that is the particle nearest to it and not known yet, or reject it."""
        from tomopicker.verdicts import Verdict, judge

        here = self.particles.setdefault(candidate.tomogram, [])
        truth = self.truths[candidate.tomogram]
        reach = TOLERANCE * _radius(SET) / VOXEL_SIZE
        apart = np.linalg.norm(truth - candidate.voxel, axis=1)
        nearest = truth[apart.argmin()]
        is_known = len(here) and np.linalg.norm(np.array(here) - nearest, axis=1).min() <= reach
        is_right = bool(apart.min() <= reach and not is_known)
        if self.rng.random() < WRONG:
            is_right = not is_right
        answer = "accept" if is_right else "reject"
        verdict = Verdict(candidate=candidate, answer=answer, who="person", when="", order=order)
        self.verdicts = judge(self.verdicts, verdict)
        if is_right:
            here.append(candidate.voxel)

    def accepted(self, part: str) -> list:
        """Candidates that were accepted, which are among the particles."""
        return [
            one.candidate.voxel
            for one in self.verdicts
            if one.answer == "accept" and one.candidate.tomogram == part
        ]

    def rejected(self, part: str) -> list:
        """Places that were rejected, but for those where they know a particle."""
        from tomopicker.serve.proposals import EXCLUSION
        from tomopicker.verdicts import near

        places = [
            one.candidate.voxel
            for one in self.verdicts
            if one.answer == "reject" and one.candidate.tomogram == part
        ]
        reach = EXCLUSION * _radius(SET) / VOXEL_SIZE
        is_known = near(np.array(places).reshape(-1, 3), self.particles.get(part, []), reach)
        return [place for place, known in zip(places, is_known, strict=True) if not known]


def main() -> None:
    """Run what is missing, one process a seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tomograms", type=Path, default=Path("build/accuracy"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/person"))
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--scene", choices=SCENES, default="own")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--table", action="store_true", help="print what was measured, only")
    parser.add_argument("--one", metavar="SEED", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.table:
        _print_table(options.out / options.scene)
        return
    if options.one:
        run(int(options.one), options)
        return
    command = [sys.executable, __file__, "--rows", options.rows, "--scene", options.scene]
    command += ["--tomograms", str(options.tomograms), "--out", str(options.out)]

    def apart(seed: str) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run([*command, "--one", seed], env=environment, check=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(apart, options.seeds.split(",")))


def run(seed: int, options: argparse.Namespace) -> None:
    """All rows of one seed that are missing; the model from the first clicks is trained once."""
    import torch

    torch.set_num_threads(1)
    reviewed, unseen = SCENES[options.scene]
    parts = {part: _load(options, SET, part) for part in ("train", *reviewed, *unseen)}
    known: dict[str, object] = {}
    for row in options.rows.split(","):
        file = options.out / options.scene / f"{row.replace(':', '_')}_{seed}.json"
        if file.exists():
            continue
        started = time.process_time()
        person, kept = _act(row, seed, parts, reviewed, known)
        measured = _judge(person, kept, parts, reviewed, unseen)
        measured |= {"row": row, "scene": options.scene, "seed": seed, "commit": _commit()}
        measured["cpu_seconds"] = round(time.process_time() - started, 1)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(measured, indent=1) + "\n")
        print(f"{time.strftime('%H:%M:%S')} {options.scene} {row} seed {seed}: {_short(measured)}")
        sys.stdout.flush()


def _act(row: str, seed: int, parts, reviewed, known):
    """Click and review as a row says: the person, and the model in the end."""
    name, _, variant = row.partition(":")
    kind, _, numbers = name.partition("-")
    differs = VARIANTS[variant] if variant else {}
    person = Person(
        truths={part: truth.voxels for part, (_, truth) in parts.items()},
        rng=np.random.default_rng([seed, 2]),
    )
    truth = parts["train"][1]
    if kind == "clicks":
        person.click("train", _some(truth, int(numbers), seed).voxels)
        return person, _train(person, parts, seed)
    person.click("train", _some(truth, FIRST_CLICKS, seed).voxels)
    if kind == "spread":
        everywhere = [(part, at) for part in reviewed for at in parts[part][1].voxels]
        order = np.random.default_rng([seed, 1]).permutation(len(everywhere))
        for place in order[: int(numbers) - FIRST_CLICKS]:
            part, at = everywhere[place]
            person.click(part, at[None])
        return person, _train(person, parts, seed)
    if kind not in ("review", "retrained"):
        raise SystemExit(f"{row}: no such row")
    reviewed_before = f"review-{numbers}:{variant}"
    if reviewed_before not in known:
        if "" not in known:
            known[""] = (person, _train(person, parts, seed))
        known[reviewed_before] = _review(
            numbers, deepcopy(known[""]), seed, parts, reviewed, differs
        )
    person, kept = known[reviewed_before]
    return person, _train(person, parts, seed, differs) if kind == "retrained" else kept


def _review(numbers: str, first, seed: int, parts, reviewed, differs):
    """Judge what the queue asks first, round by round, and train between the rounds."""
    from tomopicker.verdicts import queue_across

    person, kept = first
    verdicts, rounds = (int(number) for number in numbers.split("x"))
    order = differs.get("order", "teach")
    for number in range(rounds):
        if number:
            kept = _train(person, parts, seed, differs)
        for _ in range(verdicts // rounds):
            pools = [_pool(part, kept, parts, person) for part in reviewed]
            person.say(queue_across(pools, person.verdicts, order=order)[0], order)
    return person, kept


def _train(person: Person, parts, seed: int, differs=None):
    """Train preset `default` on what the person knows."""
    from tomopicker.config import preset
    from tomopicker.held_out import calibrate
    from tomopicker.task import prepare
    from tomopicker.types import Particles

    differs = differs or {}
    config = preset(
        "default",
        radius_angstrom=_radius(SET),
        voxel_size=VOXEL_SIZE,
        overrides={"training.seed": seed, **differs.get("settings", {})},
    )

    def table(places: list) -> Particles:
        voxels = np.array(places, dtype=np.float64).reshape(-1, 3)
        return Particles.from_voxels(voxels, voxel_size=VOXEL_SIZE)

    use_negatives = differs.get("negatives", True)
    seen = [
        part
        for part in parts
        if person.particles.get(part) or (use_negatives and person.rejected(part))
    ]
    labelled = [(parts[part][0], table(person.particles.get(part, []))) for part in seen]
    rejected = [table(person.rejected(part)) for part in seen] if use_negatives else None
    accepted = [table(person.accepted(part)) for part in seen]
    task = prepare(config, labelled, None, rejected, accepted)
    return calibrate(task, _trained(task))


def _pool(part: str, kept, parts, person: Person):
    """What the model finds in a tomogram, as the product offers it for review."""
    from tomopicker.verdicts import Pool

    tomogram = parts[part][0]
    _, candidates = _found(part, kept, tomogram, person)
    radius = _radius(SET) / VOXEL_SIZE
    return Pool(candidates=candidates, radius=radius, known=person.particles.get(part, []))


def _found(part: str, kept, tomogram, person: Person):
    """The peaks of a tomogram, and the candidates there as the verdicts make them look."""
    from tomopicker.inference import features_of, network_of, score
    from tomopicker.picks import find_particles, fit_of
    from tomopicker.verdicts import revise

    if _SCORED.get("by") is not kept:
        _SCORED.clear()
        _SCORED["by"] = kept
    if part not in _SCORED:
        features = features_of(kept, tomogram)
        config, radius = kept.description.config, kept.description.radius_voxels
        scores = score(features, network_of(kept), config)
        fit = fit_of(kept, features)
        _SCORED[part] = (
            find_particles(scores, config, radius=radius, count=_MOST, floor=-np.inf, fit=fit),
            _candidates(part, scores, tomogram, kept, features),
        )
    found, candidates = _SCORED[part]
    return found, revise(candidates, person.verdicts, automatic=True)


def _candidates(part: str, scores, tomogram, kept, features):
    """What the model finds in a tomogram, before anybody said anything of it."""
    from tomopicker.picks import Cut, pick
    from tomopicker.verdicts import Candidate

    picked = pick(scores, tomogram, kept, Cut(), features=features)
    table = picked.candidates
    model = _digest(kept)
    return [
        Candidate(
            tomogram=part,
            voxel=tuple(at),
            score=value,
            probability=chance,
            picked=number < len(picked.particles),
            model=model,
        )
        for number, (at, value, chance) in enumerate(
            zip(
                table.voxels.tolist(),
                table.scores.tolist(),
                table.probabilities.tolist(),
                strict=True,
            )
        )
    ]


def _digest(kept) -> str:
    """What tells a model from all others, as the product tells them apart."""
    weights = (tensor.numpy().tobytes() for tensor in kept.weights.values())
    return hashlib.sha256(b"".join(weights)).hexdigest()


def _judge(person: Person, kept, parts, reviewed, unseen) -> dict[str, object]:
    """What the list of each tomogram is worth: by the model alone, and as it was put right."""
    from tomopicker.serve.exports import final_list

    results: dict[str, dict[str, object]] = {}
    for part in (*reviewed, *unseen):
        tomogram, truth = parts[part]
        found, candidates = _found(part, kept, tomogram, person)
        alone = _measure(SET, *found, truth)
        before = [one.voxel for one in _SCORED[part][1] if one.picked]
        alone["own_cut"] = _counted(SET, np.array(before).reshape(-1, 3), truth)
        results[part] = {"model": alone}
        if part not in reviewed:
            continue
        known = np.array(person.particles.get(part, [])).reshape(-1, 3)
        wrong = np.array(person.rejected(part)).reshape(-1, 3)
        exact = _radius(SET) / VOXEL_SIZE
        final, _, _ = final_list(known, wrong, candidates, radius=exact)
        # The particles that are known come first, then the others by their score.
        everything = [replace(one, picked=True) for one in candidates]
        ranked, _, _ = final_list(known, wrong, everything, radius=exact)
        results[part]["final"] = {
            "targets": len(truth),
            "true_count": _counted(SET, ranked[: len(truth)], truth),
            "own_cut": _counted(SET, final, truth),
        }
    answers = [one.answer for one in person.verdicts]
    return {
        "parts": results,
        "accepted": answers.count("accept"),
        "rejected": answers.count("reject"),
        "clicks": {part: len(places) for part, places in person.particles.items()},
    }


def _print_table(folder: Path) -> None:
    """Mean over the tomograms, and its standard deviation over the seeds, of each row."""
    files = sorted(folder.glob("*.json"))
    rows: dict[str, list[dict]] = {}
    for measured in (json.loads(file.read_text()) for file in files):
        rows.setdefault(measured["row"], []).append(measured)
    print(
        "| row | seeds | accepted, rejected | list: true count | own cut | model: true count "
        "| own cut |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: (*ROWS, row).index(row)):
        cells = []
        for kind, at in product(("final", "model"), ("true_count", "own_cut")):
            means = [
                float(
                    np.mean(
                        [part[kind][at]["f1"] for part in one["parts"].values() if kind in part]
                    )
                )
                for one in rows[row]
            ]
            spread = f" ± {np.std(means):.2f}" if len(means) > 1 else ""
            cells.append(f"{np.mean(means):.3f}{spread}")
        said = [np.mean([one[key] for one in rows[row]]) for key in ("accepted", "rejected")]
        verdicts = f"{said[0]:.0f}, {said[1]:.0f}" if sum(said) else "–"
        print(f"| {row} | {len(rows[row])} | {verdicts} | {' | '.join(cells)} |")


def _short(measured) -> str:
    """Mean F1 at the true count and at the own cut-off."""
    texts = []
    for kind, keep in (("final", "final"), ("model", "final"), ("unseen", "")):
        rows = [
            row["final" if kind == "final" else "model"]
            for row in measured["parts"].values()
            if ("final" in row) == bool(keep)
        ]
        if rows:
            means = [np.mean([row[at]["f1"] for row in rows]) for at in ("true_count", "own_cut")]
            texts.append(f"{kind} {means[0]:.3f} {means[1]:.3f}")
    return ", ".join(texts) + f"; {measured['accepted']} accepted, {measured['rejected']} rejected"


if __name__ == "__main__":
    main()
