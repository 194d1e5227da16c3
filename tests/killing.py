"""Tomograms by the dozen, some of them broken, and processes that pick them and are killed."""

import multiprocessing
import multiprocessing.synchronize
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tomopicker.io.tomograms import read_tomogram, write_volume

# The children of a process that has imported all that picking needs begin to pick at once.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["tomopicker.picks", "tomopicker.report", "tomopicker.io.particles", "tomopicker.cli.run"]
)

BROKEN = ("truncated", "text", "nan", "empty", "missing", "huge", "scaleless")


def make_tomograms(folder: Path, source: Path, count: int, *, broken: int = 0) -> Path:
    """Write different tomograms, the last few broken in all ways in turn, and a list of them."""
    folder.mkdir(parents=True)
    tomogram = read_tomogram(source)
    volume = np.asarray(tomogram.data)
    files = []
    for number in range(count):
        kind = BROKEN[(number - count + broken) % len(BROKEN)] if number >= count - broken else ""
        # Spread over the list, so that every part of it has some.
        file = folder / f"TS_{number * 7919 % 1009:04d}{'_' + kind if kind else ''}.mrc"
        files.append(file)
        one = np.roll(volume, (number, 3 * number, 5 * number), axis=(0, 1, 2))
        if kind == "nan":
            one = np.full_like(one, np.nan, dtype=np.float32)
        if kind in ("", "nan", "truncated", "huge", "scaleless"):
            write_volume(file, one, voxel_size=tomogram.voxel_size)
        if kind == "truncated":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        elif kind in ("huge", "scaleless"):
            # Of the header: columns, rows and sections; the cell's three lengths, in ångström.
            at, numbers = (0, b"\xff\xff\xff\x7f") if kind == "huge" else (40, bytes(4))
            with file.open("r+b") as opened:
                opened.seek(at)
                opened.write(3 * numbers)
        elif kind == "text":
            file.write_text("This is a note and no tomogram.\n" * 100)
        elif kind == "empty":
            file.touch()
    listed = folder / "tomograms.txt"
    listed.write_text("".join(f"{file}\n" for file in files))
    return listed


@dataclass(kw_only=True)
class Killed:
    """What was done to the processes."""

    kills: int = 0
    """While tomograms were left, after picking had begun."""
    while_writing: int = 0
    """Of these, after how many some tomogram's files were found half done."""
    filled: int = 0
    """Processes that a full disk ended."""
    codes: tuple[int | None, ...] = ()
    """Exit codes of the last processes, which were left alone."""


def pick_and_kill(
    commands: Sequence[Sequence[object]],
    out: Path,
    *,
    kills: int,
    good: int,
    rng: np.random.Generator,
    longest: float,
    fills: int = 0,
    full: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Killed:
    """Run commands side by side, kill each at random, again and again, at last leave them alone.

    Parameters
    ----------
    good
        Tomograms that can be picked: when all have their record no kill counts any more.
    longest
        Seconds from the first tomogram's scores to a kill, at most.
    fills
        How often the disk is filled in between, until it has ended all the commands.
    full
        In which context it is full.
    """
    killed, times = Killed(), 0
    while killed.kills < kills and len(list(out.glob("TS_*.json"))) < good:
        running = [_start(command) for command in commands]
        if times < fills and killed.kills >= (times + 1) * kills / (fills + 1):
            times += 1
            _await_picking(running)
            with full():
                for process, _ in running:
                    process.join()
                    killed.filled += process.exitcode == 2
                    process.close()
            continue
        for which in rng.permutation(len(running)):
            process, _ = running[which]
            _await_picking([running[which]])
            time.sleep(rng.uniform(0, longest))
            if process.is_alive():
                process.kill()
                killed.kills += 1
            process.join()
            killed.while_writing += bool(list(out.glob(".*.unfinished")))
            process.close()
    last = [_start(command) for command in commands]
    for process, _ in last:
        process.join()
    killed.codes = tuple(process.exitcode for process, _ in last)
    return killed


_Running = tuple["multiprocessing.process.BaseProcess", "multiprocessing.synchronize.Event"]


def _await_picking(running: Sequence[_Running]) -> None:
    """Wait until processes are ready, which takes longer than picking one of these tomograms."""
    for process, begun in running:
        while process.is_alive() and not begun.wait(0.02):
            pass


def _start(command: Sequence[object]) -> _Running:
    begun = _CONTEXT.Event()
    process = _CONTEXT.Process(target=_run, args=([str(word) for word in command], begun))
    process.start()
    return process, begun


def _run(arguments: list[str], begun: "multiprocessing.synchronize.Event") -> None:
    import torch

    from tomopicker import inference
    from tomopicker.cli import main

    score = inference.score

    def telling(*arguments: object, **settings: object) -> object:
        scores = score(*arguments, **settings)
        begun.set()
        return scores

    inference.score = telling
    torch.set_num_threads(1)
    with Path(os.devnull).open("w") as nowhere:
        sys.stdout = sys.stderr = nowhere
        sys.argv = ["tomopicker", *arguments]
        main()


def contents(out: Path) -> dict[str, bytes]:
    """All files in a folder of picks that hold no place, by their paths, but for their times."""
    return {
        # The library that writes STAR begins with the date.
        str(path.relative_to(out)): re.sub(rb"\A# Created by .*", b"", path.read_bytes())
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.suffix != ".json" and path.name not in _TIMED
    }


_TIMED = ("summary.csv", "import_coords.star")
