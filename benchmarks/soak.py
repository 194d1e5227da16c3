"""Train for an hour and watch whether the memory grows.

Training is the product's own, of a simulated tomogram, with the settings of `default`; it is
stopped by SIGTERM as a scheduler would, which it must survive with its last epoch whole. The
resident memory of its process is asked of `ps` every few seconds.

    python benchmarks/soak.py [--minutes 60] [--every 5] [--out benchmarks/results/soak.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

STOPPED = 130
"""Exit code of a training that was told to stop."""

SIMULATE = (
    *("simulate", "--shape", "64,192,192", "--radius", "80A", "--particles", "60", "--seed", "1"),
)
TRAIN = (
    *("train", "data/sim_0001.mrc", "--picks", "data/sim_0001.csv", "--radius", "80A"),
    *("--set", "sampling.steps_per_epoch=20", "--epochs", "1000000", "--out", "run"),
)
"""Short epochs, as what could be left behind after each is looked for."""


def main() -> int:
    """Measure, print, and write JSON; 1 when the training ended otherwise than told."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--every", type=float, default=5, help="seconds")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/soak.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_tomopicker([*SIMULATE, "--out", "data"], folder).check_returncode()
        with (folder / "log").open("w+") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tomopicker", *TRAIN], cwd=folder, stdout=log, stderr=log
            )
            try:
                samples = watch(process, folder / "run", 60 * options.minutes, options.every)
                process.send_signal(signal.SIGTERM)
                code = process.wait()
            finally:
                process.kill()
            log.seek(0)
            said = log.read()
        if code != STOPPED or len(samples) < 3:
            print(said[-2000:], f"the training ended with exit code {code}", sep="\n")
            return 1
        # What was stopped is whole: it is picked with.
        picked = run_tomopicker(
            ["pick", "run", "data/sim_0001.mrc", "--count", "60", "--out", "picks"], folder
        )
        epochs = len((folder / "run" / "metrics.csv").read_text().splitlines()) - 1
    measured = {
        **summarised(samples),
        "epochs": epochs,
        "picked_with_afterwards": picked.returncode == 0,
        "command": shlex.join(["tomopicker", *TRAIN]),
        "commit": revision(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    for what, value in measured.items():
        print(f"{what}: {value}")
    return 0 if picked.returncode == 0 else 1


def watch(
    process: subprocess.Popen[bytes], run: Path, seconds: float, every: float
) -> list[tuple[float, float]]:
    """Sample a training, from the end of its first epoch on; times in seconds and megabytes."""
    while process.poll() is None and not (run / "metrics.csv").is_file():
        time.sleep(1)
    began, samples = time.monotonic(), []
    while process.poll() is None and time.monotonic() - began < seconds:
        told = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(process.pid)],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip()
        if told:
            samples.append((time.monotonic() - began, int(told) * 1024 / 1e6))
        time.sleep(every)
    return samples


def summarised(samples: list[tuple[float, float]]) -> dict[str, float]:
    """Say how the memory went; the slope leaves out the first tenth, when caches fill."""
    seconds, megabytes = np.array(samples).T
    first = int(np.searchsorted(seconds, 0.1 * seconds[-1]))
    slope, _ = np.polyfit(seconds[first:], megabytes[first:], 1)
    return {
        "minutes": round(seconds[-1] / 60, 1),
        "samples": len(samples),
        "megabytes_at_start": round(megabytes[0], 1),
        "megabytes_at_a_tenth": round(megabytes[first], 1),
        "megabytes_at_end": round(megabytes[-1], 1),
        "megabytes_at_most": round(megabytes.max(), 1),
        "megabytes_per_hour": round(3600 * slope, 1),
    }


def run_tomopicker(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "tomopicker", *arguments], cwd=folder, check=False)


def revision() -> str:
    """Commit of the source, with a + where it was changed."""
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return told.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
