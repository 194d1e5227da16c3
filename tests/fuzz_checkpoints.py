"""Feed damaged checkpoints to the reader: each must give a usable one or a clear refusal.

    python tests/fuzz_checkpoints.py --inputs 20000 --seed 0

A valid checkpoint is damaged as disks, copies and ill will do it: cut, its bytes flipped, its
header made another (shapes, places, types and names of tensors, sizes of gigabytes), its
description made another (values of other types and sizes, missing and unknown names, nested by the
thousand). What is read is given a network, and now and then picks with it. Anything but that or an
`InputError` of one line is printed and ends the run with exit code 1.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from described import describe
from tomopicker.checkpoint import (
    Checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from tomopicker.errors import InputError
from tomopicker.inference import features_of, network_of, score
from tomopicker.network import build
from tomopicker.picks import Cut, pick
from tomopicker.template import Template, side
from tomopicker.types import Tomogram

KINDS = ("cut", "bytes", "header", "description", "text", "random")

VALUES = (
    *(None, True, False, 0, -1, 1, 2, 3, 2**31, 2**63, 2**64, -(2**63), 10**30, 10**400),
    *(0.0, -0.0, 0.5, -1.5, 1e-300, 1e300, float("nan"), float("inf"), -float("inf")),
    *("", "x", "\x00", "\ud800", "0", "nan", "pu", "default", "/etc/passwd", "../x", "9" * 400),
    *([], [1], [0], [-1], [[]], [10**9] * 3, [4096] * 8, [1.5, None], {}, {"": {}}, {"a": 1}),
)
"""What a description or a header may hold in another's place."""


def seed_file(folder: Path) -> bytes:
    """Write a checkpoint with all that one may have, and read its bytes."""
    description = describe(
        3,
        (-1.0, 0.5, 0.25, 0.0),
        ({"epoch": 1.0, "loss": 0.5, "steps": 2.0, "validation_ap": 0.5},),
    )
    description = description.model_copy(update={"template_weight": 10.0, "aligned": 20})
    torch.manual_seed(0)
    weights = build(description.config.network).state_dict()
    training = {f"weights.{name}": tensor.clone() for name, tensor in weights.items()}
    edge = side(description.radius_voxels)
    template = Template(volume=torch.randn(edge, edge, edge).numpy())
    path = folder / "seed.safetensors"
    write_checkpoint(
        path,
        Checkpoint(description=description, weights=weights, training=training, template=template),
    )
    return path.read_bytes()


def damaged(rng: np.random.Generator, whole: bytes, kind: str) -> bytes:
    """Damage a checkpoint in one of the ways of `KINDS`."""
    length = int.from_bytes(whole[:8], "little")
    header, data = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    if kind == "cut":
        at = int(rng.integers(len(whole)))
        return whole[:at] if rng.random() < 0.5 else whole[:at] + whole[at + 1 + rng.integers(99) :]
    if kind == "bytes":
        some = bytearray(whole)
        # Half of them in the header, which is small beside the weights.
        end = 8 + length if rng.random() < 0.5 else len(some)
        for _ in range(int(rng.choice([1, 1, 2, 5, 50]))):
            some[rng.integers(end)] ^= 1 << int(rng.integers(8))
        return bytes(some)
    if kind == "random":
        return rng.bytes(int(rng.integers(0, 3000)))
    if kind == "header":
        _change(rng, header)
        return _assembled(json.dumps(header), data, rng)
    text = header["__metadata__"]["tomopicker"]
    if kind == "text":
        at = int(rng.integers(len(text)))
        deep = "[" * int(rng.choice([10, 1000, 100_000]))
        text = text[:at] + str(rng.choice([deep, "9" * 5000, "}", '"', ",", "\\", "nan", "1e999"]))
        text += header["__metadata__"]["tomopicker"][at + int(rng.integers(5)) :]
    else:
        description = json.loads(text)
        for _ in range(int(rng.choice([1, 1, 1, 2, 4]))):
            _change(rng, description)
        text = json.dumps(description)
    header["__metadata__"]["tomopicker"] = text
    return _assembled(json.dumps(header), data, None)


def outcome(path: Path, tomogram: Tomogram | None) -> str:
    """Read a checkpoint as picking does, and pick; anything but a refusal goes through."""
    try:
        checkpoint = read_checkpoint(path)
        network = network_of(checkpoint)
        if tomogram is not None:
            config = checkpoint.description.config
            scores = score(features_of(checkpoint, tomogram), network, config)
            pick(scores, tomogram, checkpoint, Cut(count=5), overwrite=True)
            return "picked with"
    except InputError as error:
        message = str(error)
        assert "\n" not in message, message
        assert len(message) < 2000, message
        return "refused"
    return "read"


def main() -> int:
    """Run, print totals, and return the exit code."""
    parser = argparse.ArgumentParser(description="Feed damaged checkpoints to the reader.")
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # What is damaged may ask for much: a limit turns that into a failure instead of a slow machine.
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    warnings.simplefilter("error")
    rng = np.random.default_rng(arguments.seed)
    volume = rng.normal(size=(24, 24, 24)).astype(np.float32)
    tomogram = Tomogram(name="t", data=volume, voxel_size=10.0)
    totals: Counter[tuple[str, str]] = Counter()
    failures, slowest, began = 0, 0.0, time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        whole, path = seed_file(Path(temporary)), Path(temporary) / "c.safetensors"
        for number in range(arguments.inputs):
            kind = KINDS[rng.choice(len(KINDS), p=(0.1, 0.2, 0.2, 0.35, 0.1, 0.05))]
            path.write_bytes(damaged(rng, whole, kind))
            picks = rng.random() < 0.1
            start = time.monotonic()
            try:
                totals[kind, outcome(path, tomogram if picks else None)] += 1
            except KeyboardInterrupt:
                arguments.inputs = number
                break
            except Exception:  # noqa: BLE001 - whatever else comes out is what is looked for
                failures += 1
                kept = Path(f"failed-{arguments.seed}-{number}.safetensors")
                kept.write_bytes(path.read_bytes())
                print(f"input {number} ({kind}): kept as {kept}")
                traceback.print_exc(limit=-3, file=sys.stdout)
            slowest = max(slowest, time.monotonic() - start)
    for kind in KINDS:
        counts = (f"{totals[kind, what]:7} {what}" for what in ("read", "picked with", "refused"))
        print(f"{kind:12}", *counts)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"{arguments.inputs} inputs in {time.monotonic() - began:.0f} s: {failures} failures, "
        f"slowest {slowest:.2f} s, at most {memory} MB"
    )
    return int(failures > 0)


def _assembled(header: str, data: bytes, rng: np.random.Generator | None) -> bytes:
    """A safetensors file, of which the stated length of the header may be another."""
    text = header.encode("utf-8", errors="surrogatepass")
    length = len(text)
    if rng is not None and rng.random() < 0.1:
        length = int(rng.choice([0, 1, length - 1, length + 1, 2**31, 2**62]))
    return length.to_bytes(8, "little") + text + data


def _change(rng: np.random.Generator, tree: Any) -> None:
    """Replace, remove, add, double or nest something, somewhere in a tree of JSON."""
    places = list(_places(tree))
    parent, key = places[rng.integers(len(places))]
    kind = rng.integers(6)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, dict):
        parent[f"{key}x" if rng.random() < 0.5 else ""] = parent[key]
    elif kind == 2 and isinstance(parent[key], int | float):
        factor = int(rng.choice([-1, 0, 2, 1000, 10**9]))
        parent[key] = type(parent[key])(parent[key] * factor)
    elif kind == 3 and isinstance(parent[key], list):
        parent[key] = parent[key] * int(rng.choice([0, 2, 1000]))
    elif kind == 4:
        other, name = places[rng.integers(len(places))]
        parent[key] = copy.deepcopy(other[name])
    else:
        parent[key] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])


def _places(tree: Any) -> Any:
    """Every value of a tree, as what holds it and where."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree))
    for key in keys:
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _places(tree[key])


if __name__ == "__main__":
    sys.exit(main())
