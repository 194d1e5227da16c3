"""Jobs of a real SLURM: what is requeued, preempted, drained or out of time loses nothing.

Not a part of `make test`, as it takes minutes and SLURM; `make test-slurm` runs it.
"""

import csv
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from safetensors.torch import load_file
from virtual_cluster import NODES, Cluster, NoClusterError, cluster, why_not

from conftest import SHORT, Outcome, start_process
from killing import contents, make_tomograms

TOMOGRAMS, BROKEN = 30, 2
LONGER = 180.0
"""Seconds that a training takes whose job is warned after 110 at the latest."""

GIVE_UP = 400.0
"""Seconds after which something that should happen is not waited for any more."""


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    reason = why_not()
    if reason is not None:
        pytest.skip(f"no SLURM can be started here: {reason}")
    with ExitStack() as stack:
        try:
            started = stack.enter_context(cluster())
        except NoClusterError as error:
            pytest.skip(f"no SLURM can be started here: {error}")
        yield started


@pytest.fixture
def start(
    slurm: Cluster, environment: dict[str, str]
) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start the command line as somebody on a login node does."""
    with ExitStack() as stack:

        def run(*arguments: object) -> "subprocess.Popen[str]":
            # Neither Ctrl-C nor the end of the tests reaches it by itself.
            process = start_process(
                [sys.executable, "-m", "tomopicker", *arguments],
                {**environment, **slurm.environment, **environment},
                stdout=subprocess.PIPE,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield run


def profile(folder: Path, **values: object) -> Path:
    """Write a profile; text is put between quotes."""
    path = folder / "cluster.toml"
    lines = [f"{name} = {value!r}" for name, value in {"cpus": 1, **values}.items()]
    path.write_text("\n".join(lines).replace("'", '"') + "\n")
    return path


def wait_until(what: str, is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + GIVE_UP
    while not is_so():
        assert time.monotonic() < end, f"{what}: not in {GIVE_UP:.0f} s"
        time.sleep(0.1)


def summary(out: Path) -> dict[str, str]:
    with (out / "summary.csv").open(newline="", encoding="utf-8") as file:
        return {row["tomogram"]: row["status"] for row in csv.DictReader(file)}


def own_contents(out: Path) -> dict[str, bytes]:
    """What is in a folder of picks but for the jobs' own folder."""
    return {name: data for name, data in contents(out).items() if not name.startswith("slurm/")}


def restarts(slurm: Cluster, states: dict[str, str]) -> int:
    return sum(
        int(re.findall(r"Restarts=(\d+)", slurm.run("scontrol", "show", "job", job))[0])
        for job in states
    )


def test_requeued_preempted_and_lost_jobs_pick_what_a_quiet_process_does(
    tomopicker: Callable[..., Outcome],
    start: Callable[..., "subprocess.Popen[str]"],
    slurm: Cluster,
    trained: Path,
    simulated: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = simulated / "sim_0002.mrc"
    listed = make_tomograms(tmp_path / "data", source, TOMOGRAMS, broken=BROKEN)
    good = TOMOGRAMS - BROKEN
    pick = ("pick", trained, listed, "--count", 9, "--device", "cpu", "--out")
    # A name that a shell and SLURM would each take for something else if they could.
    quiet, out = tmp_path / "quiet", tmp_path / 'it\'s $HOME & "picks" #1'
    assert tomopicker(*pick, quiet, dpi=None).code == 2

    asked = profile(tmp_path, jobs=4, partition="gentle", time="0:30:00")
    before = set(slurm.jobs())
    process = start(*pick, out, "--slurm", asked)

    def mine(states: str) -> list[str]:
        return [job for job in slurm.jobs(states) if job not in before and "_" in job]

    def when_picked(number: int) -> None:
        done = len(list(out.glob("TS_*.json")))
        wait_until(
            f"{number} are picked and a job runs",
            lambda: len(list(out.glob("TS_*.json"))) >= max(number, done) and bool(mine("running")),
        )

    # Requeued by somebody.
    when_picked(2)
    slurm.run("scontrol", "requeue", mine("running")[0])
    # Preempted, after a warning, by a job that wants all nodes.
    when_picked(6)
    slurm.run("sbatch", "-p", "urgent", "-N", 2, "--exclusive", "-o", "/dev/null", "--wrap", "true")
    wait_until("the jobs go on", lambda: bool(mine("running")) and not slurm.jobs("completing"))
    # A node vanishes, and is drained when it is back.
    when_picked(12)
    slurm.run("scontrol", "update", f"NodeName={NODES[1]}", "State=DOWN", "Reason=test")
    # It may have come back by itself.
    with suppress(RuntimeError):
        slurm.run("scontrol", "update", f"NodeName={NODES[1]}", "State=RESUME")
    slurm.run("scontrol", "update", f"NodeName={NODES[1]}", "State=DRAIN", "Reason=test")
    said, told = process.communicate(timeout=GIVE_UP)
    slurm.run("scontrol", "update", f"NodeName={NODES[1]}", "State=RESUME")

    states = {job: state for job, state in slurm.jobs().items() if job not in before and "_" in job}
    again = restarts(slurm, states)
    with capsys.disabled():
        print(f"\n{TOMOGRAMS} tomograms, {len(states)} jobs, requeued {again} times\n{told}")
    assert process.returncode == 2, told
    assert f"{TOMOGRAMS} tomograms: {good} done, {BROKEN} failed" in told
    assert f"({BROKEN} of {TOMOGRAMS} tomograms left out)" in told.splitlines()[-1]
    assert said == ""
    assert again >= 3
    assert sorted(summary(out).values()) == ["done"] * good + ["failed"] * BROKEN
    assert own_contents(out) == own_contents(quiet)
    assert not list(out.glob("TS_*.unfinished"))
    # Nothing is left for the same command, which submits nothing for what is done.
    (one,) = (path for path in sorted((tmp_path / "data").glob("TS_0000.mrc")))
    assert "done already" in tomopicker("pick", trained, one, "--count", 9, "--out", out).stderr


def test_ctrl_c_cancels_the_jobs_and_the_same_command_watches_those_at_work(
    start: Callable[..., "subprocess.Popen[str]"],
    slurm: Cluster,
    trained: Path,
    simulated: Path,
    tmp_path: Path,
) -> None:
    listed = make_tomograms(tmp_path / "data", simulated / "sim_0002.mrc", 12)
    asked = profile(tmp_path, jobs=2, time="0:30:00", sbatch={})
    asked.write_text(asked.read_text().replace("sbatch = {}", '[sbatch]\nbegin = "now+1hour"'))
    out = tmp_path / "picks"
    pick = ("pick", trained, listed, "--out", out, "--slurm", asked, "--count")
    # More than the cluster allows in an array.
    (tmp_path / "many").mkdir()
    many = profile(tmp_path / "many", jobs=12)
    _, told = (refused := start(*pick[:-2], many, "--count", 9)).communicate(timeout=GIVE_UP)
    assert refused.returncode == 2
    assert "Invalid job array specification; mend the profile" in told
    submitted = start(*pick, 9, "--detach")
    _, told = submitted.communicate(timeout=GIVE_UP)
    assert submitted.returncode == 0, told
    (job,) = re.findall(r"Submitted (\d+), an array of 2 jobs", told)
    assert slurm.jobs()[f"{job}_0"] == "PENDING"

    _, told = (other := start(*pick, 8)).communicate(timeout=GIVE_UP)
    assert other.returncode == 2
    assert f"job {job} is still at work for it, with another command" in told

    watching = start(*pick, 9)
    wait_until("it watches", lambda: _says(watching, "is at work already"))
    wait_until("it watches", lambda: _says(watching, "2 pending (BeginTime)"))
    os.kill(watching.pid, signal.SIGINT)
    _, told = watching.communicate(timeout=GIVE_UP)
    assert watching.returncode == 130, told
    assert f"Cancelled job {job}" in told
    assert "Stopped. 12 tomograms: 12 left; the same command goes on" in told
    wait_until("cancelled", lambda: slurm.jobs().get(f"{job}_0", "CANCELLED") == "CANCELLED")


def test_training_goes_on_after_its_time_limit_with_the_same_weights(
    tomopicker: Callable[..., Outcome],
    start: Callable[..., "subprocess.Popen[str]"],
    slurm: Cluster,
    simulated: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def learn(epochs: int, out: str) -> tuple[object, ...]:
        return (
            *("train", simulated / "sim_0001.mrc", "--picks", simulated / "sim_0001.csv", *SHORT),
            *("--radius", "60A", "--epochs", epochs, "--set", "sampling.steps_per_epoch=20"),
            *("--device", "cpu", "--out", tmp_path / out),
        )

    # As many epochs as go on for longer than a job may, however fast this machine is.
    assert tomopicker(*learn(5, "timed")).code == 0
    with (tmp_path / "timed" / "metrics.csv").open(newline="") as file:
        seconds = min(float(row["seconds"]) for row in csv.DictReader(file))
    epochs = math.ceil(LONGER / seconds)
    # SLURM looks twice a minute only, and so warns up to a minute too early.
    asked = profile(tmp_path, time="0:02:00", warning=10)
    before = set(slurm.jobs())
    process = start(*learn(epochs, "run"), "--slurm", asked)
    quiet = tomopicker(*learn(epochs, "quiet"))
    _, told = process.communicate(timeout=600)
    states = {job: state for job, state in slurm.jobs().items() if job not in before}
    again = restarts(slurm, states)
    log = (tmp_path / "run" / "log.txt").read_text()
    with capsys.disabled():
        print(f"\nthe training was requeued {again} times\n{told}")
    assert process.returncode == 0, told
    assert again >= 1
    # A job may be stopped again before it has read what it goes on from.
    assert 1 <= log.count("Continuing after epoch") <= again
    assert quiet.code == 0, quiet.stderr
    weights = [load_file(tmp_path / run / "best.safetensors") for run in ("run", "quiet")]
    assert weights[0].keys() == weights[1].keys()
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


def _says(process: "subprocess.Popen[str]", text: str) -> bool:
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line, f"it ended and did not say {text}"
    return text in line
