"""Several processes train as one does, stop together, and leave speaking to the first."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from conftest import SHORT as SECOND
from conftest import Command, start_process
from tomopicker import parallel
from tomopicker.checkpoint import read_checkpoint
from tomopicker.config import Network, Objective, preset
from tomopicker.errors import InputError
from tomopicker.network import build
from tomopicker.objectives import objective
from tomopicker.prior import Prior
from tomopicker.task import Task, prepare
from tomopicker.training import Epoch, fit
from tomopicker.types import Particles, Tomogram

RADIUS = 4
SHAPE = (32, 48, 48)
SHORT = {
    "default": {"sampling.steps_per_epoch": 4, "training.batch": 5},
    # 18 windows: of the last batch one process gets nothing.
    "paper": {"sampling.stride": 16, "training.batch": 17},
}


def _task(name: str) -> Task:
    """Dark balls on noise, some of them clicked."""
    rng = np.random.default_rng(1)
    volume = rng.normal(0, 0.5, SHAPE).astype(np.float32)
    near = np.indices((9, 9, 9)) - 4
    centres = [(a, b, c) for a in (8, 23) for b in (8, 23, 38) for c in (8, 23, 38)]
    for z, y, x in centres:
        ball = (near**2).sum(0) <= RADIUS**2
        volume[z - 4 : z + 5, y - 4 : y + 5, x - 4 : x + 5] -= 2 * ball
    config = preset(
        name,
        radius_angstrom=RADIUS * 10,
        voxel_size=10.0,
        expected=18,
        overrides={"network.channels": [4, 8], "sampling.side": 16, "training.epochs": 2}
        | SHORT[name],
    )
    known = Particles.from_voxels(np.array(centres[:8], dtype=float), voxel_size=10.0)
    return prepare(config, [(Tomogram(name="one", data=volume, voxel_size=10.0), known)])


def _trained(name: str) -> list[Epoch]:
    events = fit(_task(name))
    return [event for event in events if isinstance(event, Epoch)]


def _gradients(name: str) -> dict[str, Tensor]:
    """Of steps in double precision, and the statistics of batch normalisation after them."""
    generator = torch.Generator().manual_seed(2)
    volumes = torch.randn(5, 1, 8, 8, 8, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 2, (5, 8, 8, 8), generator=generator, dtype=torch.uint8)
    torch.manual_seed(3)
    network = parallel.share_batch_norm(build(Network(channels=(3, 5))), "cpu").double()
    # Of one window some processes get nothing.
    for total in (5, 1):
        mine = parallel.part(total)
        logits = parallel.whole(network(volumes[:total][mine]), mine, total)
        known = parallel.whole(labels[:total][mine], mine, total)
        prior = Prior(observed=0.5, expected=0.9, unlabelled=0.8)
        objective(Objective(name=name))(logits, known, prior).loss.backward()
    parallel.sum_gradients(network)
    running = {key: value for key, value in network.named_buffers() if "running" in key}
    return {key: value.grad for key, value in network.named_parameters()} | running


def _failing() -> str:
    try:
        with parallel.failing_together():
            if parallel.number() == 1:
                raise InputError("TS_01.mrc: cannot be read here")
    except InputError as error:
        return str(error)
    except SystemExit as end:
        return f"ended with {end.code}"
    return "went on"


def _stopping() -> int:
    """How many steps each process makes where the second is asked to stop after the third."""
    with parallel.stopping_together() as stop_if_asked:
        for step in range(1, 10):
            if step == 3 and parallel.number() == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            try:
                stop_if_asked()
            except KeyboardInterrupt:
                return step
    return 0


def _everything() -> dict[str, Any]:
    found: dict[str, Any] = {"lists": parallel.gathered([parallel.number()] * 2)}
    for name in ("pu", "kl", "balanced-pu"):
        found[name] = _gradients(name)
    for name in SHORT:
        epochs = _trained(name)
        found[name] = ([dict(epoch.measures) for epoch in epochs], epochs[-1].checkpoint.weights)
    found["failing"] = _failing()
    found["stopping"] = _stopping()
    return found


def _joined(number: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=number, world_size=2
    )
    torch.save(_everything(), folder / f"{number}.pt")
    parallel.leave()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes that joined found."""
    folder = tmp_path_factory.mktemp("together")
    spawn = multiprocessing.get_context("spawn")
    started = [spawn.Process(target=_joined, args=(number, folder)) for number in range(2)]
    for each in started:
        each.start()
    for each in started:
        each.join(180)
    assert [each.exitcode for each in started] == [0, 0]
    return [torch.load(folder / f"{number}.pt") for number in range(2)]


@pytest.mark.parametrize("name", ["pu", "kl", "balanced-pu"])
def test_gradients_are_those_of_one_process_whatever_the_objective(
    two: list[dict[str, Any]], name: str
) -> None:
    alone = _gradients(name)
    for of_process in two:
        for key, gradient in alone.items():
            torch.testing.assert_close(of_process[name][key], gradient, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", ["default", "paper"])
def test_two_processes_learn_what_one_does(two: list[dict[str, Any]], name: str) -> None:
    epochs = _trained(name)
    weights = epochs[-1].checkpoint.weights
    for rows, of_process in (found[name] for found in two):
        losses = [row["loss"] for row in rows]
        np.testing.assert_allclose(losses, [each.measures["loss"] for each in epochs], rtol=1e-4)
        for key, tensor in weights.items():
            # A bias before batch normalisation does nothing. Its gradient is a rounding error,
            # which Adam makes a step of, and the mean after it follows.
            if key.endswith(".weight"):
                torch.testing.assert_close(of_process[key], tensor, rtol=1e-2, atol=1e-3)
        # They are to the last bit those of the other process.
        assert all(torch.equal(of_process[key], two[0][name][1][key]) for key in weights)


def test_all_processes_end_when_one_fails_and_the_first_tells_why(
    two: list[dict[str, Any]],
) -> None:
    first, second = (found["failing"] for found in two)
    assert first == "TS_01.mrc: cannot be read here"
    assert second == "ended with 0"


def test_all_processes_stop_after_the_same_step(two: list[dict[str, Any]]) -> None:
    assert [found["stopping"] for found in two] == [3, 3]


def test_lists_are_joined_in_the_order_of_the_processes(two: list[dict[str, Any]]) -> None:
    assert [found["lists"] for found in two] == [[0, 0, 1, 1]] * 2


@given(total=st.integers(0, 50), processes=st.integers(1, 9))
def test_every_window_is_in_one_part_and_no_part_is_much_larger(total: int, processes: int) -> None:
    parts = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "processes", lambda: processes)
        for number in range(processes):
            patch.setattr(parallel, "number", lambda number=number: number)
            parts.append(range(total)[parallel.part(total)])
    assert [each for part in parts for each in part] == list(range(total))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_alone_everything_is_as_it_was() -> None:
    values = torch.arange(3.0)
    network = build(Network(channels=(2, 2)))
    assert parallel.whole(values, parallel.part(3), 3) is values
    assert parallel.share_batch_norm(network, "cpu") is network
    assert parallel.gathered([1, 2]) == [1, 2]
    assert parallel.own_device("cuda:1") == "cuda:1"
    with pytest.raises(InputError, match="said once"), parallel.failing_together():
        raise InputError("said once")


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "3 processes need as many GPUs, but there are 2"),
        ("cuda:1", "--device cuda:1: several processes cannot share it"),
        ("mps", "--device mps: several processes cannot share it"),
    ],
)
def test_every_process_needs_a_gpu_of_its_own(
    device: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "processes", lambda: 3)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(InputError, match=message):
        parallel.own_device(device)
    assert parallel.own_device("cpu") == "cpu"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert parallel.own_device("cuda") == "cuda:1"


def _torchrun(simulated: Path, out: Path, *options: object) -> list[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    return [*command, "-m", "tomopicker", *map(str, _learn(simulated, out, *options))]


def _learn(simulated: Path, out: Path, *options: object) -> list[object]:
    tomogram = simulated / "sim_0001.mrc"
    command = ["train", tomogram, "--picks", tomogram.with_suffix(".csv"), "--radius", "60A"]
    return [*command, "--out", out, "--device", "cpu", *SECOND, *options]


def test_torchrun_trains_one_run_that_one_process_can_go_on_with(
    tomopicker: Command, simulated: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    together, alone = tmp_path / "together", tmp_path / "alone"
    done = subprocess.run(
        _torchrun(simulated, together), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("2 processes train together") == 1
    assert done.stderr.count("Done.") == 1
    assert read_checkpoint(together).description.calibration is not None
    assert tomopicker(*_learn(simulated, alone)).code == 0
    losses = [
        [row["loss"] for row in read_checkpoint(run / "last.safetensors").description.history]
        for run in (together, alone)
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    done_on = tomopicker(*_learn(simulated, together, "--epochs", 2, "--resume"))
    assert done_on.code == 0, done_on.stderr
    assert read_checkpoint(together / "last.safetensors").description.epoch == 2


def test_an_error_is_told_once(
    simulated: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    too_small = ("--set", "training.batch=1")
    done = subprocess.run(
        _torchrun(simulated, tmp_path / "run", *too_small),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error")]
    assert len(errors) == 1
    assert "2 processes cannot share batches of 1 windows" in errors[0]
    assert not (tmp_path / "run").exists()


def test_ctrl_c_stops_all_processes_after_a_step(
    simulated: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    run = tmp_path / "run"
    command = _torchrun(simulated, run, "--epochs", 100_000)
    with start_process(command, environment) as process:
        deadline = time.monotonic() + 180
        while not (run / "last.safetensors").is_file() and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert errors.count("Stopped.") == 1, errors
    assert "ended: what stopped it" not in errors
    assert not list(run.glob(".*")), "a temporary file was left"
    assert read_checkpoint(run / "last.safetensors").description.epoch > 0
