"""Pick with several processes of this machine, each of which takes the next tomogram."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections import deque
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import IO, TYPE_CHECKING, TypeAlias, cast

from tomopicker.errors import InputError, OutputError, is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from multiprocessing.process import BaseProcess
    from pathlib import Path

    from tomopicker.cli.log import Ended
    from tomopicker.cli.picking import Opening
    from tomopicker.cli.plan import Job
    from tomopicker.picks import Cut


def devices_of(device: str, workers: int | None, tomograms: int) -> list[str]:
    """Choose the device of each worker.

    Parameters
    ----------
    device
        As PyTorch calls it; "cuda" stands for all GPUs, which the workers take in turn.
    workers
        How many are wanted; None is one for each of all GPUs, and else one.
    tomograms
        How many are left to pick: no more workers than that.
    """
    import torch

    devices = [device]
    if device == "cuda":
        devices = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    count = min(workers or len(devices), tomograms)
    if count <= 1:
        return [device]
    return [devices[number % len(devices)] for number in range(count)]


def pick_by_workers(
    jobs: Sequence[Job],
    devices: Sequence[str],
    run: Path,
    cut: Cut,
    *,
    memory: float | None,
    opening: Opening,
    lost: list[str],
) -> Generator[Ended]:
    """Pick tomograms with a process for each device, which share the processor's threads.

    They end when the generator does, be it closed or left by an error. Where one is killed its
    tomogram is left, the others go on, and `lost` is told.

    Raises
    ------
    OutputError
        When something cannot be written.
    InputError, OSError, MemoryError, RuntimeError
        What ended a worker, as it would have ended picking in one process.
    """
    from tomopicker.cli.run import console, progress_bar

    waiting, done = deque(jobs), 0
    processes: dict[Connection, BaseProcess] = {}
    at: dict[Connection, Job] = {}

    def hand_out(worker: Connection) -> None:
        job = waiting.popleft() if waiting else None
        if job is not None:
            at[worker] = job
        # One that was lost just now takes nothing, which is noticed when it is listened to.
        with suppress(ConnectionError):
            worker.send(job)

    try:
        with _inherited_by(len(devices)):
            for number, device in enumerate(devices):
                model = (run, cut, device, memory)
                worker, process = _start(model, opening, len(jobs), tells=number == 0)
                processes[worker] = process
                hand_out(worker)
        with progress_bar("picking") as bar:
            while processes:
                for one in wait(list(processes)):
                    worker = cast("Connection", one)
                    try:
                        told = worker.recv()
                    # Reset where it was killed with something that it had not read yet.
                    except (EOFError, ConnectionError):
                        process = processes.pop(worker)
                        process.join()
                        if worker in at:
                            lost.append(_how_it_was_lost(at[worker], process))
                        continue
                    if isinstance(told, str):
                        console.print(told, end="", soft_wrap=True)
                    elif isinstance(told, Exception):
                        raise told
                    else:
                        del at[worker]
                        done += 1
                        bar.show(done / len(jobs), f"{done} of {len(jobs)}")
                        yield told
                        hand_out(worker)
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.join()


_Model: TypeAlias = "tuple[Path, Cut, str, float | None]"
"""What `read_model` is told: the run, the cut-off, the device and the memory."""


def _start(
    model: _Model, opening: Opening, of: int, *, tells: bool
) -> tuple[Connection, BaseProcess]:
    # Not forked: CUDA and the threads of a process do not survive that.
    context = multiprocessing.get_context("spawn")
    mine, its = context.Pipe()
    process = context.Process(target=_work, args=(its, model, opening, of, tells), daemon=True)
    process.start()
    its.close()
    return mine, process


def _work(connection: Connection, model: _Model, opening: Opening, of: int, tells: bool) -> None:
    """Pick what comes until nothing does, and send what is said and what became of it."""
    from tomopicker.cli.log import terminable
    from tomopicker.cli.picking import pick_all, read_model
    from tomopicker.cli.run import console

    console.file = cast("IO[str]", _Sent(connection))
    # FORCE_COLOR would have it take the pipe for a terminal: bars and colours are the first one's.
    console._force_terminal = False
    console.no_color = True
    run, cut, device, memory = model
    with terminable():
        try:
            read = read_model(run, cut, device=device, memory=memory)
            for ended in pick_all(_received(connection), read, opening, of=of, tells=tells):
                _send(connection, ended)
        except (InputError, OSError, MemoryError, RuntimeError) as error:
            _send(connection, _sendable(error))


def _send(connection: Connection, what: object) -> None:
    """Send something; end this process where the other is gone: there is nobody to pick for."""
    try:
        connection.send(what)
    except ConnectionError:
        sys.exit()


def _received(connection: Connection) -> Iterator[Job]:
    """Take jobs until there are no more, or nobody who gives them."""
    with suppress(EOFError, ConnectionError):
        while (job := connection.recv()) is not None:
            yield job


def _sendable(error: Exception) -> Exception:
    """Reduce an error to what the other process can read whatever its class takes."""
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, error.strerror, error.filename)
    if is_out_of_memory(error):
        return MemoryError(str(error))
    for kind in (OutputError, InputError, OSError):
        if isinstance(error, kind):
            return kind(str(error))
    # A fault of ours, where the place counts.
    return RuntimeError("".join(traceback.format_exception(error)))


class _Sent:
    """A text file whose lines are sent to the process that has the terminal."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def write(self, text: str) -> int:
        if text:
            _send(self._connection, text)
        return len(text)

    def flush(self) -> None:
        """Nothing is kept back."""


@contextmanager
def _inherited_by(workers: int) -> Iterator[None]:
    """Have processes that are started inside ignore Ctrl-C, and share this one's threads."""
    import torch

    variable = "OMP_NUM_THREADS"
    before = os.environ.get(variable)
    os.environ[variable] = str(max(torch.get_num_threads() // workers, 1))
    # A terminal sends it to all of its processes, but this one ends the others.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        del os.environ[variable]
        if before is not None:
            os.environ[variable] = before


def _how_it_was_lost(job: Job, process: BaseProcess) -> str:
    code = process.exitcode or 0
    how = f"was killed (signal {-code})" if code < 0 else f"ended (exit code {code})"
    return (
        f"{job.source.name}: the process that picked it {how}; if memory was short, give fewer "
        "--workers; the same command picks it"
    )
