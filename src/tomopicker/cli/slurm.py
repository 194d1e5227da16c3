"""Have jobs of SLURM do what a command is told to do, and watch them."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tomopicker.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tomopicker.cli.log import Log
    from tomopicker.cli.plan import Job
    from tomopicker.cluster import Profile, Submitted, Work

_FIRST, _LONGEST, _SLOWER = 1.0, 30.0, 1.5
"""Seconds between two looks at the jobs, which become more: each costs SLURM an answer."""


def read_cluster(profile: Path | None, *, detach: bool) -> Profile | None:
    """Read what `--slurm` names, where it is given.

    Raises
    ------
    InputError
        When it is not a profile, or there is no SLURM here.
    """
    if profile is None:
        if detach:
            raise InputError("--detach: is for the jobs of --slurm; give both, or leave it out")
        return None
    from tomopicker.cluster import check_slurm, read_profile

    read = read_profile(profile)
    check_slurm()
    return read


def at_work(out: Path) -> Submitted | None:
    """Find the jobs that were submitted for a folder of results and have not ended."""
    from tomopicker.cluster import Submitted

    submitted = Submitted.read(out)
    if submitted is None:
        return None
    states = submitted.states()
    if states is None:
        raise InputError(
            f"{out}: job {submitted.job} was submitted for it, and squeue does not tell whether it "
            "has ended; give the same command again when SLURM answers"
        )
    return submitted if states else None


def pick_with_jobs(
    left: Sequence[Job], jobs: Mapping[str, Job], profile: Profile, log: Log, *, detach: bool
) -> None:
    """Share tomograms among an array of jobs, and note what became of them.

    Parameters
    ----------
    left
        Tomograms that are not done.
    jobs
        All of them, which are parted, by name.

    Raises
    ------
    InputError
        When the jobs end before everything was tried.
    """
    from tomopicker.cli.plan import part_of
    from tomopicker.cluster import Work

    out, arguments = log.summary.folder, _arguments()
    parts = min(profile.jobs, len(jobs))
    shards = [f"{part}/{parts}" for part in range(1, parts + 1)]
    names = {job.source.name for job in left}
    works = [
        Work(arguments=(*arguments, "--shard", shard), folder=Path.cwd())
        for shard in shards
        if names & {job.source.name for job in part_of(jobs, shard)}
    ]
    submitted = _submit(works, profile, out, arguments, name="tomopicker-pick")
    if detach:
        return
    since = submitted.time(out)

    def told() -> str:
        done = sum(job.outputs.record.exists() and job.done() is not None for job in left)
        failed = sum(_has_failed(job, since) for job in left)
        counts = {"done": log.done + done, "failed": failed, "left": len(left) - done - failed}
        return ", ".join(f"{number} {what}" for what, number in counts.items())

    try:
        with _cancelling(submitted):
            _watch(submitted, out, told)
    finally:
        _gather(left, since, log)
    missing = log.of - log.done - len(log.failures)
    if missing:
        raise InputError(
            f"{missing} of {log.of} tomograms are left, but no job is: {_logs(submitted, out)} "
            "tell why; the same command goes on"
        )


def train_with_a_job(profile: Profile, out: Path, *, detach: bool) -> None:
    """Have a job train, which resumes after every stop.

    Raises
    ------
    InputError
        When the training ended otherwise than it should.
    """
    from tomopicker.cluster import FOLDER, Work

    folder = out.absolute()
    ended = folder / FOLDER / "exit-code"
    arguments = [word for word in _arguments() if word != "--resume"]
    work = Work(
        arguments=tuple(arguments), folder=Path.cwd(), begun=folder / "config.json", ended=ended
    )
    submitted = _submit([work], profile, out, arguments, name="tomopicker-train")
    if detach:
        return

    def told() -> str:
        metrics = out / "metrics.csv"
        lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else []
        return f"{max(len(lines) - 1, 0)} epochs done"

    with _cancelling(submitted):
        _watch(submitted, out, told)
    code = ended.read_text(encoding="utf-8").strip() if ended.is_file() else None
    if code != "0":
        how = "was ended" if code is None else f"ended with exit code {code}"
        raise InputError(
            f"{out}: the training {how}: {_logs(submitted, out)} tell why; the same command goes "
            "on, with --resume where an epoch was begun"
        )


def _arguments() -> list[str]:
    """What was typed, without what is for the command that submits alone."""
    kept: list[str] = []
    words = iter(sys.argv[1:])
    for word in words:
        if word == "--slurm":
            next(words, None)
        elif word != "--detach" and not word.startswith("--slurm="):
            kept.append(word)
    return kept


def _submit(
    works: Sequence[Work], profile: Profile, out: Path, arguments: Sequence[str], *, name: str
) -> Submitted:
    """Submit jobs, unless those of the same command have not ended."""
    from tomopicker.cli.run import console
    from tomopicker.cluster import Submitted, submit

    earlier = at_work(out)
    if earlier is not None:
        if list(earlier.arguments) != list(arguments):
            raise InputError(
                f"{out}: job {earlier.job} is still at work for it, with another command; wait "
                f"until it has ended, or end it by scancel {earlier.job}"
            )
        console.print(f"Job {earlier.job} is at work already", soft_wrap=True)
        return earlier
    for work in works:
        if work.ended is not None:
            work.ended.unlink(missing_ok=True)
    try:
        submitted = submit(works, profile, out, arguments, name=name)
    except KeyboardInterrupt:
        # It was kept back until sbatch had answered.
        noted = Submitted.read(out)
        if noted is not None:
            _cancel(noted)
        raise
    noun = "a job" if submitted.jobs == 1 else f"an array of {submitted.jobs} jobs"
    console.print(
        f"Submitted {submitted.job}, {noun}, with logs {_logs(submitted, out)}. Ctrl-C cancels it; "
        "a lost connection does not, and the same command watches it again",
        soft_wrap=True,
    )
    return submitted


@contextmanager
def _cancelling(submitted: Submitted) -> Iterator[None]:
    """Have Ctrl-C end the jobs as it would end the work without them."""
    try:
        yield
    except KeyboardInterrupt:
        _cancel(submitted)
        raise


def _cancel(submitted: Submitted) -> None:
    from tomopicker.cli.run import console

    submitted.cancel()
    console.print(f"Cancelled job {submitted.job}")


def _watch(submitted: Submitted, out: Path, told: Callable[[], str]) -> None:
    """Tell how far the jobs are, until they have ended."""
    from rich.text import Text

    from tomopicker.cli.run import console

    pause, before = _FIRST, ""
    with console.status("") as status:
        while True:
            states = submitted.states()
            # A network disk looks for new names when its folder is listed.
            for _ in out.glob("*"):
                pass
            if states is None:
                jobs = "SLURM does not answer"
            else:
                counts = [f"{number} {state}" for state, number in sorted(states.items())]
                jobs = f"jobs: {', '.join(counts) or 'all ended'}"
            line = f"{told()}; {jobs}"
            status.update(Text(line))
            if not console.is_terminal and line != before:
                console.print(line, soft_wrap=True)
            if states is not None and not states:
                return
            before = line
            time.sleep(pause)
            pause = min(_SLOWER * pause, _LONGEST)


def _has_failed(job: Job, since: int) -> bool:
    """Whether a tomogram was tried since some time, and could not be picked."""
    try:
        return job.outputs.failure.stat().st_mtime_ns >= since
    except FileNotFoundError:
        return False


def _gather(left: Sequence[Job], since: int, log: Log) -> None:
    from tomopicker.cli.run import console
    from tomopicker.io.record import read_failure

    for job in left:
        record = job.done()
        if record is not None:
            log.add(record, job.outputs.out)
        elif _has_failed(job, since):
            failure = read_failure(job.outputs.failure)
            console.print(f"Left out: {failure.reason}", soft_wrap=True)
            log.add_failure(failure)


def _logs(submitted: Submitted, out: Path) -> str:
    from tomopicker.cluster import FOLDER

    return f"{out / FOLDER / submitted.job}_*log*"
