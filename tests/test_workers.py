"""Several processes of one command pick what one does, and end with it."""

import contextlib
import errno
import json
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from conftest import Command, start_process
from killing import contents, make_tomograms
from tomopicker.cli import picking
from tomopicker.cli.picking import Opening
from tomopicker.cli.run import console
from tomopicker.cli.workers import _received, _send, _sendable, _work, devices_of
from tomopicker.errors import InputError, UnknownVoxelSizeError, is_out_of_memory
from tomopicker.picks import Cut


@pytest.fixture(scope="module")
def listed(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of four tomograms, of which the last is cut off."""
    folder = tmp_path_factory.mktemp("workers") / "data"
    return make_tomograms(folder, simulated / "sim_0002.mrc", 4, broken=1)


def with_two(run: Path, tomograms: Path, out: Path) -> list[object]:
    """Command that picks with two workers."""
    return ["pick", run, tomograms, "--count", 9, "--device", "cpu", "--workers", 2, "--out", out]


def start(command: list[object], environment: dict[str, str]) -> subprocess.Popen[str]:
    return start_process([sys.executable, "-m", "tomopicker", *command], environment)


def await_one_more(process: subprocess.Popen[str], out: Path) -> None:
    """Wait until a tomogram is done that was not."""
    deadline, before = time.monotonic() + 180, len(list(out.glob("TS_*.json")))
    while process.poll() is None and len(list(out.glob("TS_*.json"))) == before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def workers_of(process: int) -> list[int]:
    """Processes that a process has spawned to pick, the first one first."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        # One may end meanwhile.
        with contextlib.suppress(OSError):
            # After the name, which may hold spaces: the state, and the parent.
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return sorted(found)


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
    one = tomopicker(*pick, tmp_path / "one", dpi=None)
    two = tomopicker(*pick, tmp_path / "two", "--workers", 2)
    assert (one.code, two.code) == (2, 2)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert statuses(tmp_path / "two") == ["done"] * 3 + ["failed"]
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
    assert "3 of 4 tomograms are done already" in again.stderr


def test_a_signal_ends_all_workers_and_the_same_command_goes_on(
    tomopicker: Command,
    trained: Path,
    simulated: Path,
    tmp_path: Path,
    environment: dict[str, str],
) -> None:
    out = tmp_path / "picks"
    # So many that some are left when the second signal comes.
    eight = make_tomograms(tmp_path / "data", simulated / "sim_0002.mrc", 8, broken=1)
    command = with_two(trained, eight, out)
    # As a terminal does, to all processes; a scheduler's may come to the first one alone.
    for number, code, send in ((signal.SIGINT, 130, os.killpg), (signal.SIGTERM, 143, os.kill)):
        process = start(command, environment)
        await_one_more(process, out)
        send(process.pid, number)
        _, told = process.communicate(timeout=300)
        assert process.returncode == code, told
        assert "the same command goes on" in told
        assert "Traceback" not in told
        assert is_gone(process.pid)
        assert "left" in statuses(out)
        assert [path for path in out.rglob(".*") if path.suffix != ".unfinished"] == []
    done = tomopicker(*command)
    assert done.code == 2, done.stderr
    assert "tomograms are done already" in done.stderr
    assert statuses(out) == ["done"] * 7 + ["failed"]


def test_a_worker_that_is_killed_costs_its_tomogram_and_is_told(
    trained: Path, simulated: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    out = tmp_path / "picks"
    five = make_tomograms(tmp_path / "data", simulated / "sim_0002.mrc", 5, broken=1)
    process = start(with_two(trained, five, out), environment)
    await_one_more(process, out)
    workers = workers_of(process.pid)
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 2
    how = r"(TS_\d+)\S*: the process that picked it was killed \(signal 9\); .*fewer --workers"
    lost = re.search(how, told.splitlines()[-1])
    assert lost, told
    assert "1 of 5 tomograms left out" in told.splitlines()[-1]
    # Between its record and its message it was done already.
    assert statuses(out) in (["done"] * 3 + ["failed", "left"], ["done"] * 4 + ["failed"])
    imported = (out / "relion5" / "import_coords.star").read_text(encoding="utf-8")
    # A list of the lost one may have been written before it had a record.
    others = {path.stem for path in out.glob("TS_*.json")} - {lost[1]}
    assert set(re.findall(r"(TS_\d+)\.star", imported)) - {lost[1]} == others
    assert len(others) == 3


def test_a_worker_that_dies_before_its_first_tomogram_costs_that_one_alone(
    trained: Path, listed: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    out = tmp_path / "picks"
    process = start(with_two(trained, listed, out), {**environment, "FORCE_COLOR": "1"})
    workers: list[int] = []
    while process.poll() is None and not workers:
        time.sleep(0.01)
        workers = workers_of(process.pid)
    os.kill(workers[0], signal.SIGKILL)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "(signal 9)" in told
    assert "Traceback" not in told
    # The only bar is that of all tomograms.
    assert "picking" in told
    assert "taking the peaks" not in told
    assert statuses(out) == ["done"] * 2 + ["failed", "left"]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (UnknownVoxelSizeError("TS_01.mrc: no voxel size"), "TS_01.mrc: no voxel size"),
        (OSError(errno.ENOSPC, "No space left", "a.csv"), "No space left"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
        (RuntimeError("shapes differ"), "shapes differ"),
        (ConnectionResetError(errno.ECONNRESET, "reset by peer", "TS_01.mrc"), "reset by peer"),
    ],
)
def test_what_ends_a_worker_is_told_by_the_first_process(error: Exception, text: str) -> None:
    sent = pickle.loads(pickle.dumps(_sendable(error)))
    kinds = (InputError, OSError)
    assert [isinstance(sent, kind) for kind in kinds] == [isinstance(error, kind) for kind in kinds]
    assert is_out_of_memory(sent) == is_out_of_memory(error)
    assert text in str(sent)


def test_a_connection_that_a_disk_resets_is_told_and_one_that_nobody_hears_ends_the_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def reset(*_: object, **__: object) -> None:
        raise ConnectionResetError(errno.ECONNRESET, "reset by peer", "best.safetensors")

    for name in ("_file", "_force_terminal", "no_color"):
        monkeypatch.setattr(console, name, getattr(console, name))
    monkeypatch.setattr(picking, "read_model", reset)
    ours, its = multiprocessing.Pipe()
    opening = Opening(voxel_size=None, mask=None, masks=None)
    _work(its, (Path("run"), Cut(), "cpu", None), opening, of=1, tells=False)
    told = ours.recv()
    assert isinstance(told, OSError)
    assert told.filename == "best.safetensors"
    ours.close()
    assert list(_received(its)) == []
    with pytest.raises(SystemExit):
        _send(its, "a line")


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
