"""Cluster: commands as jobs of SLURM, which go on after preemption and after their time limit.

submitit writes the batch script, hands it to sbatch and has a job requeued before its time is over;
a few lines of shell in that script do so when something more urgent takes its place. A job is a
command of ours, started as it would be by hand. What became of its work is told by the files of
that command, and what state it is in by squeue, so no accounting is needed.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
import tomllib
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from tomopicker.errors import InputError
from tomopicker.io.whole import whole_file
from tomopicker.signals import STOPPING, held

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FOLDER = "slurm"
"""Folder among the results with what was submitted, and the jobs' logs."""

_SUBMITTED = "jobs.json"

_OURS = frozenset(
    {"array", "chdir", "clusters", "error", "input", "job-name", "no-requeue", "nodes", "ntasks"}
    | {"ntasks-per-node", "open-mode", "output", "parsable", "requeue", "signal", "test-only"}
    | {"time", "wait", "wrap"}
)
"""Options of sbatch that decide how a job goes on, what is known of it, or where its files are."""

_VARIABLES = {"array-inx": "array", "mem-per-node": "mem", "timelimit": "time"}
"""Options of sbatch whose variable is not named as they are."""

_STOPPED = (130, *(128 + number for number in STOPPING))
"""Exit codes of a command of ours that was told to stop, or had not begun to listen."""

# SLURM warns a job that it will be preempted, but takes one that stops then for failed. In the
# shell, as the warning may come before Python listens to it. What SLURM has ended itself is
# COMPLETING as long as this runs, and left alone: what shall go on it starts again by itself, and
# what was cancelled it would start again, too, if asked. A job that was lost with its node and runs
# elsewhere has another count of restarts. Tasks of an array go by their places: one of them has
# the id of the whole array as its own.
_GO_ON = f"""\
go_on() {{
    case $? in {"|".join(map(str, _STOPPED))}) ;; *) return ;; esac
    unset ${{!SQUEUE_@}}
    job=${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}${{SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}}
    for attempt in 1 2 3 4 5 6; do
        if told=$(squeue --noheader --jobs="$job" --Format=State:20,RestartCnt:20); then
            set -- $told
            if [ "$1" != COMPLETING ] && [ "$2" = "${{SLURM_RESTART_COUNT:-0}}" ]; then
                scontrol requeue "$job"
            fi
            return
        fi
        sleep 5
    done
}}
trap go_on EXIT"""
"""Lines that begin a batch script: a job whose command was told to stop goes on later."""

_ENDED = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"}
    | {"PREEMPTED", "REVOKED", "TIMEOUT"}
)
"""States of SLURM that a job does not leave."""

_GONE = re.compile("Invalid job id")
"""What squeue says of a job that SLURM has forgotten, minutes after its end."""

_OTHERS = 0o022
"""Permissions to write of all but a file's owner."""

_TO_STOP = 30.0
"""Seconds that a command gets to stop before its job is requeued without waiting for it."""


def _one_line(text: str) -> str:
    # As a second line in a batch script it would be a command.
    if not text or not text.isprintable():
        raise ValueError("is empty, or has more than one line")
    return text


def _not_ours(options: dict[str, Any]) -> dict[str, Any]:
    for name in options:
        if not re.fullmatch(r"[a-z][a-z-]*", name):
            raise ValueError(f"{name} is no long option of sbatch, written without the dashes")
        if name in _OURS:
            raise ValueError(f"{name} is for TomoPicker to set")
    return options


def _minutes(text: str) -> str:
    if not _TIME.fullmatch(text):
        raise ValueError(
            "is not hours:minutes:seconds, as 4:00:00, or days-hours:..., as 2-0:00:00"
        )
    return text


_TIME = re.compile(r"(?:(?P<days>\d{1,3})-)?(?P<hours>\d{1,3}):(?P<minutes>\d\d):(?P<seconds>\d\d)")

Word = Annotated[str, AfterValidator(_one_line)]
Count = Annotated[int, Field(ge=1)]


class Profile(BaseModel):
    """What jobs ask of a cluster; what is left out is as the cluster has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    gpus: Annotated[int, Field(ge=0)] | None = None
    """Of each job."""
    cpus: Count | None = None
    """Of each job."""
    memory: Word | None = None
    """Of each job, as SLURM writes it: `32G`."""
    time: Annotated[str, AfterValidator(_minutes)] = "4:00:00"
    """Limit of each job, which goes on in a new one after it."""
    warning: Annotated[int, Field(ge=10)] = 90
    """Seconds before the limit at which a job stops to go on later."""
    jobs: Count = 8
    """Parts that tomograms are shared among, at most."""
    at_once: Count | None = None
    """Jobs that run at the same time, at most."""
    requeue: Annotated[int, Field(ge=0)] = 20
    """Times that a job goes on after its limit; preemption and lost nodes do not count."""
    setup: tuple[Word, ...] = ()
    """Lines of shell before the command, as `module load cuda`."""
    sbatch: Annotated[dict[str, Word | int | bool], AfterValidator(_not_ours)] = {}
    """Further options, by their long names."""

    @property
    def minutes(self) -> int:
        """The limit of each job.

        >>> Profile(time="1-2:30:00").minutes
        1590
        """
        parts = _TIME.fullmatch(self.time)
        # Which its validator has seen to.
        assert parts is not None
        limit = timedelta(**{unit: int(number or 0) for unit, number in parts.groupdict().items()})
        return max(int(limit.total_seconds()) // 60, 1)

    def options(self) -> dict[str, Any]:
        """Options of sbatch, as submitit wants them."""
        stated: dict[str, Any] = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "gpus-per-node": self.gpus,
            "cpus-per-task": self.cpus,
            "mem": self.memory,
        }
        given = {name: value for name, value in stated.items() if value is not None}
        # An option that is false is one left out.
        more = {name: value for name, value in self.sbatch.items() if value is not False}
        return {"requeue": True, **given, **more}


def read_profile(path: Path) -> Profile:
    """Read what jobs ask of a cluster from a TOML file.

    Raises
    ------
    InputError
        When it cannot be read, or a name or a value in it is not known.
    """
    try:
        return Profile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); see docs/cluster.md"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        known = ", ".join(Profile.model_fields)
        raise InputError(
            f"{path}: {where}: {first['msg']}; known are {known}: see docs/cluster.md"
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: is not TOML ({error}); see docs/cluster.md") from error


def check_slurm() -> None:
    """Refuse a machine without SLURM's programs.

    Raises
    ------
    InputError
        Naming the first that is missing.
    """
    for program in ("sbatch", "srun", "squeue", "scancel", "scontrol"):
        if shutil.which(program) is None:
            raise InputError(
                f"--slurm: there is no SLURM on this machine (no {program}); give the command on a "
                "login node, or share the work by --shard, as docs/cluster.md says"
            )


@dataclass(kw_only=True)
class Work:
    """A command of ours as a job does it, again after every stop; it may be told to resume."""

    arguments: tuple[str, ...]
    """Of `tomopicker`."""
    folder: Path
    """That paths among the arguments count from."""
    begun: Path | None = None
    """File that is there when the command has to be given with --resume."""
    ended: Path | None = None
    """File to write the exit code to in the end."""
    _process: int | None = field(default=None, init=False)

    def __call__(self) -> None:
        """Do it. Called by submitit, in a job."""
        resume = ["--resume"] if self.begun is not None and self.begun.exists() else []
        command = [sys.executable, "-m", "tomopicker", *self.arguments, *resume]
        with subprocess.Popen(command, cwd=self.folder) as process:
            self._process = process.pid
            _await(process.pid)
            code = process.wait()
        if code < 0:
            # As a shell has it that a signal ended it.
            code = 128 - code
        if self.ended is not None and code not in _STOPPED:
            with whole_file(self.ended, overwrite=True) as temporary:
                temporary.write_text(f"{code}\n", encoding="utf-8")
        if code:
            sys.exit(code)

    def checkpoint(self) -> Any:
        """Let submitit requeue the job, whose time is nearly over: the command was told, too."""
        from submitit.helpers import DelayedSubmission

        # It is written again, and this process ends then.
        os.umask(os.umask(_OTHERS) | _OTHERS)
        if self._process is not None:
            _await(self._process, longest=_TO_STOP)
        return DelayedSubmission(replace(self))


class Submitted(BaseModel):
    """Jobs that do a command."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job: Annotated[str, Field(pattern=r"^\d+$")]
    """Its id; of an array, the id of all."""
    name: Word
    """In SLURM's lists. Ids may come again, when a cluster is set up anew."""
    jobs: Count
    """In the array."""
    arguments: tuple[str, ...]
    """Of the command that was shared among them."""

    @classmethod
    def read(cls, out: Path) -> Self | None:
        """Read what was submitted last for a folder of results; None where nothing was.

        Raises
        ------
        InputError
            When the file is not such a note.
        """
        path = out / FOLDER / _SUBMITTED
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise InputError(
                f"{path}: is not what TomoPicker notes of jobs; see with squeue whether some run, "
                "and remove it"
            ) from error

    def states(self) -> Counter[str] | None:
        """Count the jobs by their state, with the reason where one waits.

        Returns
        -------
        Counter or None
            Without those that have ended, so empty in the end; None when SLURM does not answer.
        """
        mine = (f"--jobs={self.job}", f"--name={self.name}")
        asked = _ask("squeue", "--noheader", "--array", "--states=all", *mine, "--format=%T|%r")
        if asked.returncode:
            return Counter() if _GONE.search(asked.stderr) else None
        lines = (line.strip().split("|", 1) for line in asked.stdout.splitlines())
        return Counter(
            state.lower() + (f" ({reason})" if state == "PENDING" and reason != "None" else "")
            for state, reason in lines
            if state not in _ENDED
        )

    def cancel(self) -> None:
        """End all of them.

        Raises
        ------
        InputError
            When SLURM refuses.
        """
        asked = _ask("scancel", self.job)
        if asked.returncode:
            raise InputError(
                f"scancel {self.job}: {asked.stderr.strip()}; the jobs may still run: see squeue"
            )

    def time(self, out: Path) -> int:
        """When they were submitted, by the clock of the disk; nanoseconds."""
        return (out / FOLDER / _SUBMITTED).stat().st_mtime_ns


def submit(
    works: Sequence[Work], profile: Profile, out: Path, arguments: Sequence[str], *, name: str
) -> Submitted:
    """Hand work to SLURM: a job, or an array of jobs.

    Parameters
    ----------
    works
        One for each job.
    out
        Folder of the results, on a disk that all nodes have.
    arguments
        Of the command that was shared among them.
    name
        Of the jobs in SLURM's lists.

    Raises
    ------
    InputError
        When submitit or SLURM is not here, the folder cannot be one of jobs or is somebody else's,
        or SLURM refuses what is asked.
    """
    try:
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError
    except ImportError as error:
        raise InputError(
            "--slurm needs submitit: install it with pip install 'tomopicker[slurm]'"
        ) from error
    folder = _own_folder(out)
    mask = os.umask(_OTHERS)
    os.umask(mask)
    executor = SlurmExecutor(folder, max_num_timeout=profile.requeue)
    executor.update_parameters(
        job_name=name,
        time=profile.minutes,
        signal_delay_s=profile.warning,
        array_parallelism=profile.at_once or len(works),
        # Results are for those that they would be for without jobs.
        setup=[*_GO_ON.splitlines(), f"export SLURM_UMASK={mask:04o}", "", *profile.setup],
        # SLURM does not hand the processors of a job on to its steps by itself.
        srun_args=[f"--cpus-per-task={profile.cpus}"] if profile.cpus else None,
        wckey=None,
        additional_parameters=profile.options(),
    )
    # Jobs that nobody noted could be neither watched nor cancelled.
    with held(signal.SIGINT, signal.SIGHUP, *STOPPING):
        (folder / _SUBMITTED).unlink(missing_ok=True)
        try:
            with _plain_environment(profile), executor.batch():
                jobs = [executor.submit(work) for work in works]
        except (FailedJobError, FailedSubmissionError) as error:
            raise InputError(f"sbatch: {error}; mend the profile") from error
        submitted = Submitted(
            job=jobs[0].job_id.partition("_")[0],
            name=name,
            jobs=len(jobs),
            arguments=tuple(arguments),
        )
        with whole_file(folder / _SUBMITTED, overwrite=True) as temporary:
            temporary.write_text(submitted.model_dump_json() + "\n", encoding="utf-8")
    return submitted


def _await(process: int, longest: float = math.inf) -> None:
    """Wait for the end of a child without taking its exit code from whoever else waits for it."""
    # Popen's own waiting holds a lock, for which a signal's handler would wait for ever.
    end = time.monotonic() + longest
    with suppress(ChildProcessError):
        while os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            if time.monotonic() > end:
                return
            time.sleep(0.2)


def _own_folder(out: Path) -> Path:
    """Make the folder of jobs among the results, into which nobody else may write.

    Raises
    ------
    InputError
        When SLURM or a batch script would not take its name as it is, or it is somebody else's.
    """
    folder = out.absolute() / FOLDER
    if re.search(r"[%\\]", str(folder)) or not str(folder).isprintable():
        raise InputError(
            f"{out}: has a character in its path (%, \\ or one that cannot be printed) that means "
            "something else to SLURM; give another --out"
        )
    folder.mkdir(parents=True, exist_ok=True)
    # Jobs run what is in it.
    if folder.stat().st_uid != os.geteuid():
        raise InputError(
            f"{folder}: is of another user, whose jobs these results are; give another --out, or "
            "pick without --slurm"
        )
    folder.chmod(stat.S_IMODE(folder.stat().st_mode) & ~_OTHERS)
    return folder


@contextmanager
def _plain_environment(profile: Profile) -> Iterator[None]:
    """Submit without variables that would overrule what is asked for, and those of another job.

    What jobs are started from is for its owner alone to write.
    """
    stated = {*profile.options(), *_OURS}
    kept = dict(os.environ)
    in_job = "SLURM_JOB_ID" in os.environ
    for variable in kept:
        program, _, rest = variable.partition("_")
        option = rest.lower().replace("_", "-")
        overrules = program == "SBATCH" and _VARIABLES.get(option, option) in stated
        if overrules or (in_job and program == "SLURM" and not rest.startswith("CONF")):
            del os.environ[variable]
    mask = os.umask(_OTHERS)
    os.umask(mask | _OTHERS)
    try:
        yield
    finally:
        os.umask(mask)
        os.environ.update(kept)


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a program of SLURM, whose variables would leave jobs out, or have it ask questions."""
    ours = ("SQUEUE_", "SCANCEL_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
