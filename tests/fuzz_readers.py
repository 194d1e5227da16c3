"""Feed damaged particle lists to every reader: each must give a result or a clear refusal.

    python tests/fuzz_readers.py --inputs 100000 --seed 0

Valid lists of every format are mutated (bytes flipped, cut, repeated, spliced with other lists and
with what tends to break parsers), or made of random bytes. Anything but a table or an `InputError`
of one line that names the file is printed with its input and ends the run with exit code 1. Ctrl-C
ends it with the totals so far.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

from tomopicker.errors import InputError
from tomopicker.io.particles import FORMATS, place_of, read_particles, writable, write_particles
from tomopicker.io.tomograms.relion import read_optimisation_set, read_rows
from tomopicker.types import Particles, Shape

SHAPE: Shape = (101, 203, 305)
VOXEL, PIXEL = 13.48, 3.37

READERS = [name for name, format in FORMATS.items() if format.read is not None]

NASTY = (
    *(b"nan", b"inf", b"-1e308", b"1e999", b"9" * 400, b"0x1", b"1_0", b"\xd9\xa3", b"-", b""),
    *(
        b",",
        b";",
        b"\t",
        b" ",
        b"\n",
        b"\r\n",
        b"\x00",
        b"\xff\xfe",
        b"\xe2\x80\xa8",
        b'"',
        b"'",
        b"#",
    ),
    *(
        b"{" * 99,
        b"[" * 2000,
        b"}",
        b"]",
        b"null",
        b"true",
        b"\\ud800",
        b"<!DOCTYPE",
        b"&lt;",
        b"<object ",
    ),
    *(
        b"data_",
        b"loop_",
        b"_rlnTomoName #1",
        b"data_optics",
        b"save_",
        b"IEOF",
        b"OBJT",
        b"CONT",
        b"MESH",
    ),
    *(
        b"\x7f\xff\xff\xff",
        b"\x80\x00\x00\x00",
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x01",
        b"\xff\xff\xff\x7f",
    ),
)
"""What tends to break parsers."""

DEEPFINDER = (
    '<objlist><object tomo_idx="0" class_label="1" x="3" y="2" z="1" cluster_size="9"/>'
    '<object tomo_idx="1" class_label="1" x="6" y="5" z="4"/></objlist>'
)
TOMOGRAMS = (
    "data_global\n\nloop_\n_rlnTomoName\n_rlnTomoSizeX\n_rlnTomoSizeY\n_rlnTomoSizeZ\n"
    "_rlnTomoTiltSeriesPixelSize\n_rlnTomoTomogramBinning\nTS_01 4092 5760 2000 1.35 8\n"
)
WARP = (
    "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnImagePixelSize\n1 4\n2 5\n\n"
    "data_particles\n\nloop_\n_rlnTomoName\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnCoordinateZ\n"
    "_rlnOriginXAngst\n_rlnOriginYAngst\n_rlnOriginZAngst\n_rlnOpticsGroup\n"
    "_rlnTomoSubtomogramRot\n_rlnTomoSubtomogramTilt\n_rlnTomoSubtomogramPsi\n"
    "a.tomostar 1 2 3 4 5 6 1 10 20 30\nb.tomostar 1 2 3 4 5 6 2 10 20 30\n"
)


def seeds(folder: Path) -> list[tuple[str, bytes]]:
    """Valid lists of every format, by the name of the file, and some by other programs' habits."""
    turns = np.stack([np.eye(3)[[1, 2, 0]], np.eye(3)[[2, 0, 1]]])
    table = Particles.from_voxels(
        np.array([[10.0, 20, 30.25], [1, 2, 3]]),
        voxel_size=VOXEL,
        scores=np.array([0.5, 0.25]),
        tomograms=("TS_01", "TS_01"),
        orientations=turns,
        extra={"rlnClassNumber": ("1", "2")},
    )
    found = []
    for name in writable():
        path = folder / place_of(name, "seed")
        write_particles(path, table, format=name, shape=SHAPE, pixel_size=PIXEL, overwrite=True)
        found.append((path.name, path.read_bytes()))
    others = {
        "a.xml": DEEPFINDER,
        "tomograms.star": TOMOGRAMS,
        "warp.star": WARP,
        "bare.csv": "1,2,3,0.5\n4,5,6,0.25\n",
        "classes.coords": "1 2 3 4\n1 5 6 7\n",
        "old_info.json": '{"boxes_3d": [[1, 2, 3, "manual", 0.5, 1]], "class_list": {}}',
        "points.ndjson": '{"type": "point", "location": {"x": 1, "y": 2, "z": 3}}\n' * 2,
    }
    return found + [(name, text.encode()) for name, text in others.items()]


def mutated(rng: np.random.Generator, corpus: list[tuple[str, bytes]]) -> tuple[str, bytes]:
    """Draw a list and damage it, or draw bytes."""
    name, whole = corpus[rng.integers(len(corpus))]
    if rng.random() < 0.05:
        return name, rng.bytes(int(rng.integers(0, 700)))
    data = bytearray(whole)
    for _ in range(int(rng.choice([1, 1, 1, 2, 2, 5]))):
        at = int(rng.integers(len(data) + 1))
        end = min(at + int(rng.integers(1, 40)), len(data))
        kind = rng.integers(8)
        if kind == 0 and at < len(data):
            data[at] = int(rng.integers(256))
        elif kind in (6, 7):
            # Mostly still a list, with other numbers in it.
            digits = [place for place in range(at, len(data)) if data[place] in b"0123456789"]
            if digits:
                data[digits[0]] = b"0123456789.-e"[rng.integers(13)]
        elif kind == 1:
            del data[at:end]
        elif kind == 2:
            data[at:at] = data[at:end] * int(rng.integers(1, 20))
        elif kind == 3:
            data[at:at] = NASTY[rng.integers(len(NASTY))]
        elif kind == 4:
            data[at:end] = NASTY[rng.integers(len(NASTY))]
        else:
            other = corpus[rng.integers(len(corpus))][1]
            start = int(rng.integers(len(other) + 1))
            data[at:end] = other[start : start + int(rng.integers(1, 200))]
    return name, bytes(data)


def drawn(rng: np.random.Generator, file: str) -> str | None:
    """Mostly what the user of a program would do, say nothing or the right format; else any."""
    chance = rng.random()
    if chance < 0.5:
        return None
    same = [name for name in READERS if Path(FORMATS[name].place).suffix == Path(file).suffix]
    among = same if same and chance < 0.85 else READERS
    return among[rng.integers(len(among))]


def outcome(path: Path, name: str | None) -> str:
    """Read a list as whatever it seems to be, or as `name`; anything but a refusal goes through."""
    try:
        if path.name == "tomograms.star" and name is None:
            read_rows(path)
            read_optimisation_set(path)
            return "read"
        table = read_particles(path, voxel_size=VOXEL, shape=SHAPE, pixel_size=PIXEL, format=name)
        states = None if name is None else FORMATS[name].voxel_size
        if states is not None:
            states(path)
    except InputError as error:
        message = str(error)
        assert message.startswith(f"{path}: "), message
        assert "\n" not in message, message
        assert len(message) < 2000, message
        return "refused"
    assert np.isfinite(table.positions).all()
    assert table.orientations is None or np.isfinite(table.orientations).all()
    assert table.scores is None or np.isfinite(table.scores).all()
    return "read"


def main() -> int:
    """Run, print totals, and return the exit code."""
    parser = argparse.ArgumentParser(description="Feed damaged particle lists to every reader.")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    # What is damaged may ask for much: a limit turns that into a failure instead of a slow machine.
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    warnings.simplefilter("error")
    rng = np.random.default_rng(arguments.seed)
    totals: Counter[tuple[str, str]] = Counter()
    failures, slowest, began = 0, 0.0, time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        corpus = seeds(folder)
        for number in range(arguments.inputs):
            file, data = mutated(rng, corpus)
            path = folder / file
            path.write_bytes(data)
            name = drawn(rng, file)
            start = time.monotonic()
            try:
                totals[name or "recognised", outcome(path, name)] += 1
            except KeyboardInterrupt:
                arguments.inputs = number
                break
            except Exception:  # noqa: BLE001 - whatever else comes out is what is looked for
                failures += 1
                print(f"input {number} ({file}, as {name}): {data[:2000]!r}")
                traceback.print_exc(file=sys.stdout)
            slowest = max(slowest, time.monotonic() - start)
    for name in ("recognised", *READERS):
        print(f"{name:12} {totals[name, 'read']:7} read {totals[name, 'refused']:7} refused")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"{arguments.inputs} inputs in {time.monotonic() - began:.0f} s: {failures} failures, "
        f"slowest {slowest:.2f} s, at most {memory} MB"
    )
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
