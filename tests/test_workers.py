"""Several processes of one command pick what one does, and end with it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conftest import Outcome
from killing import contents, make_tomograms
from tomopicker.cli.workers import devices_of

Command = Callable[..., Outcome]


@pytest.fixture(scope="module")
def listed(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of six tomograms, of which the last is cut off."""
    folder = tmp_path_factory.mktemp("workers") / "data"
    return make_tomograms(folder, simulated / "sim_0002.mrc", 6, broken=1)


def statuses(out: Path) -> list[str]:
    rows = (out / "summary.csv").read_text(encoding="utf-8").splitlines()[1:]
    return sorted(row.split(",")[1] for row in rows)


def is_gone(group: int) -> bool:
    """Whether a group of processes has ended, or does within some seconds."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_two_workers_pick_and_tell_what_one_process_does(
    tomopicker: Command, trained: Path, listed: Path, tmp_path: Path
) -> None:
    pick = ("pick", trained, listed, "--count", 9, "--device", "cpu", "--json", "--out")
    one = tomopicker(*pick, tmp_path / "one")
    two = tomopicker(*pick, tmp_path / "two", "--workers", 2)
    assert (one.code, two.code) == (2, 2)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert statuses(tmp_path / "two") == ["done"] * 5 + ["failed"]
    assert two.errors[-1] == one.errors[-1]
    # In another order, and the messages as well.
    assert sorted(two.errors[:-1]) == sorted(
        line.replace(str(tmp_path / "one"), str(tmp_path / "two")) for line in one.errors[:-1]
    )
    told = [
        {
            line["tomogram"]: (line["status"], line.get("picks"), line.get("threshold"))
            for line in map(json.loads, done.stdout.splitlines())
        }
        for done in (one, two)
    ]
    assert told[0] == told[1]
    again = tomopicker(*pick, tmp_path / "two", "--workers", 2)
    assert "5 of 6 tomograms are done already" in again.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_all_workers_and_the_same_command_goes_on(
    trained: Path,
    listed: Path,
    tmp_path: Path,
    environment: dict[str, str],
    number: signal.Signals,
    code: int,
) -> None:
    out = tmp_path / "picks"
    words = ("pick", trained, listed, "--count", 9, "--device", "cpu", "--workers", 2, "--out", out)
    command = [sys.executable, "-m", "tomopicker", *map(str, words)]
    process = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while process.poll() is None and not list(out.glob("TS_*.json")):
        time.sleep(0.01)
    # As a terminal does, to all processes; a scheduler's may come to the first one alone.
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, told = process.communicate()
    assert process.returncode == code, told
    assert "the same command goes on" in told
    assert "Traceback" not in told
    assert is_gone(process.pid)
    assert "left" in statuses(out)
    assert [path for path in out.rglob(".*") if path.suffix != ".unfinished"] == []
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert statuses(out) == ["done"] * 5 + ["failed"]


def test_a_worker_that_is_killed_costs_its_tomogram_and_is_told(
    trained: Path, listed: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    out = tmp_path / "picks"
    words = ("pick", trained, listed, "--count", 9, "--device", "cpu", "--workers", 2, "--out", out)
    process = subprocess.Popen(
        [sys.executable, "-m", "tomopicker", *map(str, words)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not list(out.glob("TS_*.json")):
        time.sleep(0.01)
    of_it = ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(process.pid)]
    table = subprocess.run(of_it, capture_output=True, text=True, check=True).stdout.splitlines()
    workers = [line.split()[0] for line in table if "spawn_main" in line]
    assert len(workers) == 2
    os.kill(int(workers[0]), signal.SIGKILL)
    _, told = process.communicate()
    assert process.returncode == 2
    assert "(signal 9)" in told.splitlines()[-1]
    assert "fewer --workers" in told.splitlines()[-1]
    assert statuses(out) == ["done"] * 4 + ["failed", "left"]


def test_workers_take_the_gpus_in_turn_and_are_no_more_than_tomograms(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices_of("cuda", None, 9) == ["cuda:0", "cuda:1"]
    assert devices_of("cuda", 3, 9) == ["cuda:0", "cuda:1", "cuda:0"]
    assert devices_of("cuda", None, 1) == ["cuda"]
    assert devices_of("cuda", 1, 9) == ["cuda"]
    assert devices_of("cuda:1", None, 9) == ["cuda:1"]
    assert devices_of("cpu", None, 9) == ["cpu"]
    assert devices_of("cpu", 4, 3) == ["cpu"] * 3
    assert devices_of("cpu", 2, 0) == ["cpu"]
