"""Rounds: a model trained on the session's particles, its picks, and the processes that make them.

A round is a folder: what was learned from, the run, the picks and the logs. Training and picking
are the commands of the package, in processes of their own.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tomopicker.errors import InputError
from tomopicker.io.candidates import SUFFIX, candidates_path, read_candidates
from tomopicker.io.particles import write_particles
from tomopicker.io.record import RecordedCut, read_record, record_path
from tomopicker.io.summary import is_summary
from tomopicker.io.whole import whole_file
from tomopicker.serve.proposals import EXCLUSION
from tomopicker.serve.session import hold
from tomopicker.types import Particles
from tomopicker.verdicts import Candidate, near, revise

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tomopicker.serve.session import Session, Taught
    from tomopicker.types import Floats

Kind: TypeAlias = Literal["train", "pick"]
State: TypeAlias = Literal["running", "done", "failed", "cancelled"]

_TAIL = 60
_PATIENCE = 15.0
"""Seconds that a process which was asked to stop has to do so."""


class TrainWish(BaseModel):
    """How to train."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    do: Literal["train"] = "train"
    epochs: Annotated[int, Field(ge=1, le=10_000)] | None = None
    settings: tuple[Annotated[str, Field(max_length=200)], ...] = Field(default=(), max_length=50)
    """As `tomopicker train --set`."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d{1,3})?)$")] = "auto"
    resume: int | None = None
    """Round whose training to go on with, instead of a new one."""


class PickWish(BaseModel):
    """What to pick, and where the list ends."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    do: Literal["pick"] = "pick"
    round: int
    tomograms: tuple[int, ...] = Field(min_length=1)
    fdr: Annotated[float, Field(gt=0, lt=1)] | None = None
    count: Annotated[int, Field(ge=1)] | None = None
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d{1,3})?)$")] = "auto"


@dataclass(frozen=True, kw_only=True)
class Round:
    """A model and what it picked."""

    number: int
    folder: Path

    @property
    def run(self) -> Path:
        """The run folder, or what a file says that it is: a run that was made elsewhere."""
        elsewhere = self.folder / "run.txt"
        if elsewhere.is_file():
            return Path(elsewhere.read_text(encoding="utf-8").strip())
        return self.folder / "run"

    @property
    def model(self) -> Path:
        """The checkpoint that picking uses."""
        return self.run / "best.safetensors" if self.run.is_dir() else self.run

    @property
    def picks(self) -> Path:
        """Folder of its picks."""
        return self.folder / "picks"

    @property
    def is_ready(self) -> bool:
        """Whether it can pick."""
        return self.model.is_file()

    @property
    def is_whole(self) -> bool:
        """Whether its training came to its end, or was made elsewhere."""
        if self.run != self.folder / "run":
            return True
        return "Done. Pick with" in _tail(self.run / "log.txt")

    def name(self) -> str:
        """Name for the record: the round and the beginning of the checkpoint's SHA-256."""
        digest = _digest(self.model, self.model.stat().st_mtime_ns)
        return f"round {self.number} ({digest[:12]})"

    def picked(self) -> list[str]:
        """Names of the tomograms that it has picked."""
        if not self.picks.is_dir():
            return []
        return sorted(
            file.stem
            for file in self.picks.glob("*.csv")
            if not file.name.endswith(SUFFIX) and not is_summary(file)
        )


@dataclass(kw_only=True)
class Job:
    """A process that trains or picks."""

    kind: Kind
    round: Round
    log: Path
    started: float
    process: subprocess.Popen[bytes]
    targets: tuple[Path, ...] = ()
    """Files that picking writes, one for each tomogram."""
    cancelled: bool = False
    ended: float | None = None

    @property
    def state(self) -> State:
        """How far it is."""
        code = self.process.poll()
        if code is None:
            return "running"
        if self.ended is None:
            self.ended = time.time()
        if code == 0:
            return "done"
        return "cancelled" if self.cancelled else "failed"

    @property
    def seconds(self) -> float:
        """How long it has taken."""
        return (self.ended or time.time()) - self.started

    def share(self) -> float | None:
        """Share of the work that is done; None where nothing tells."""
        if self.kind == "pick":
            done = [
                path.is_file() and path.stat().st_mtime >= self.started - 1 for path in self.targets
            ]
            return sum(done) / max(len(done), 1)
        try:
            settings = json.loads((self.round.run / "config.json").read_text(encoding="utf-8"))
            rows = (self.round.run / "metrics.csv").read_text(encoding="utf-8").count("\n") - 1
            # Calibrating, which follows, takes about a tenth.
            return float(0.9 * min(rows / settings["training"]["epochs"], 1.0))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def message(self) -> str:
        """Say in plain words how it is or has ended."""
        what = "Training" if self.kind == "train" else "Picking"
        state = self.state
        if state == "running":
            return f"{what} …"
        if state == "done":
            return f"{what} is done, after {_duration(self.seconds)}."
        if state == "cancelled":
            return f"{what} was cancelled. What was complete is kept."
        return f"{what} failed. {explain(self.process.returncode, _tail(self.log))}"

    def tail(self) -> str:
        """The last lines that it printed."""
        return _tail(self.log)


class Rounds:
    """The rounds of a session, and the one process at work."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._folder = session.folder / "rounds"
        self._lock = threading.RLock()
        self.job: Job | None = None
        self._revised: dict[Path, tuple[tuple[Any, ...], list[Candidate]]] = {}

    def all(self) -> list[Round]:
        """All rounds, in order."""
        if not self._folder.is_dir():
            return []
        numbers = sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdigit())
        return [self._round(number) for number in numbers]

    def get(self, number: int) -> Round:
        """One round.

        Raises
        ------
        InputError
            When there is none of that number.
        """
        found = self._round(number)
        if number < 1 or not found.folder.is_dir():
            raise InputError(f"there is no round {number}; reload the page")
        return found

    def adopt(self, run: Path) -> Round:
        """Make a round of a run that was made elsewhere.

        Raises
        ------
        InputError
            When it holds no model.
        """
        run = run.expanduser().absolute()
        model = run / "best.safetensors" if run.is_dir() else run
        if not model.is_file():
            raise InputError(f"{run}: holds no model (best.safetensors); give a run folder")
        for known in self.all():
            if known.run == run:
                return known
        made = self._make_round()
        with whole_file(made.folder / "run.txt") as temporary:
            temporary.write_text(f"{run}\n", encoding="utf-8")
        return made

    def train(self, wish: TrainWish) -> Job:
        """Start training on the session's particles, with what was rejected as negatives.

        Raises
        ------
        InputError
            When something else is at work, there are no particles, or the size is not set.
        """
        with self._lock:
            self._check_free()
            if wish.resume is None:
                made = self._prepare()
            else:
                made = self.get(wish.resume)
                if not (made.folder / "command.json").is_file():
                    raise InputError(f"round {made.number} was trained elsewhere; train a new one")
            command = self._train_command(made, wish)
            return self._start("train", made, command)

    def pick(self, wish: PickWish) -> Job:
        """Start picking tomograms with the model of a round.

        Raises
        ------
        InputError
            When something else is at work, or the round has no model.
        """
        if wish.fdr is not None and wish.count is not None:
            raise InputError("give either a number of picks or a share of false ones, not both")
        with self._lock:
            self._check_free()
            used = self.get(wish.round)
            if not used.is_ready:
                raise InputError(f"round {used.number} has no model yet; train first")
            numbers = list(dict.fromkeys(wish.tomograms))
            names = [self._session.tomogram(number).name for number in numbers]
            targets = tuple(used.picks / f"{name}.csv" for name in names)
            command = ["pick", str(used.run)]
            command += [str(self._session.place(number)) for number in numbers]
            command += ["--out", str(used.picks), "--force", f"--device={wish.device}"]
            command += self._voxel_size(names)
            if wish.fdr is not None:
                command.append(f"--fdr={wish.fdr}")
            if wish.count is not None:
                command.append(f"--count={wish.count}")
            return self._start("pick", used, command, targets)

    def cancel(self) -> None:
        """Ask the process at work to stop, as Ctrl-C does, and end it if it does not.

        Raises
        ------
        InputError
            When none is at work.
        """
        job, orphan = self.job, self.orphan()
        if job is not None and job.state == "running":
            job.cancelled = True
            threading.Thread(target=_end, args=(job.process,), daemon=True).start()
        elif orphan is not None:
            os.kill(orphan, signal.SIGTERM)
        else:
            raise InputError("nothing is running")

    def orphan(self) -> int | None:
        """Number of a process that a server which crashed has left at work."""
        lock = self._folder / ".job"
        with self._lock:
            if not lock.is_file() or (self.job is not None and self.job.state == "running"):
                return None
            held = hold(lock)
            if held is not None:
                os.close(held)
                return None
        return int(lock.read_text(encoding="ascii") or 0) or None

    def close(self) -> None:
        """End the process at work; its last whole epoch, or tomogram, is kept."""
        job = self.job
        if job is not None and job.state == "running":
            job.cancelled = True
            _end(job.process)

    def candidates(self, number: int, tomogram: str) -> list[Candidate]:
        """What a round found in a tomogram; empty where it has not picked it.

        Verdicts on some of them have their say in the chances of all, and in which are picked, if
        the picker chose its cut-off by itself.

        Raises
        ------
        InputError
            When a table cannot be read.
        """
        used = self.get(number)
        # Picking writes the list last.
        listed = used.picks / f"{tomogram}.csv"
        if not listed.is_file() or not used.is_ready:
            return []
        table = candidates_path(used.picks, tomogram)
        record = record_path(used.picks, tomogram)
        changed = _changed(table)
        model = used.name()
        said = tuple(
            one
            for one in self._session.notes.verdicts
            if one.candidate.tomogram == tomogram and one.candidate.model == model
        )
        # The record comes after the list, and tells how that ended.
        key = (changed, _changed(record), model, said)
        # The queue wants all tomograms after every verdict, of which one has changed.
        if table not in self._revised or self._revised[table][0] != key:
            found = _candidates_of(table, changed, tomogram, model=model)
            automatic = _is_automatic(record, listed)
            self._revised[table] = (key, revise(found, said, automatic=automatic))
        return list(self._revised[table][1])

    def _round(self, number: int) -> Round:
        return Round(number=number, folder=self._folder / f"{number:02d}")

    def _make_round(self) -> Round:
        made = self._round(max((one.number for one in self.all()), default=0) + 1)
        made.folder.mkdir(parents=True)
        return made

    def _check_free(self) -> None:
        if self.job is not None and self.job.state == "running":
            what = "training" if self.job.kind == "train" else "picking"
            raise InputError(f"{what} is at work; wait for it, or cancel it first")
        orphan = self.orphan()
        if orphan is not None:
            raise InputError(
                f"an earlier server was ended while process {orphan} was at work, which still is: "
                "wait for it, or cancel it first"
            )

    def _prepare(self) -> Round:
        """Make a round with what it learns from, which later clicks do not change."""
        session = self._session
        radius = session.radius
        # Read at once: verdicts go on meanwhile, and the tables must agree.
        taught = session.taught()
        particles = {name: one.particles for name, one in taught.items() if len(one.particles)}
        if not particles:
            raise InputError("there are no particles to learn from; click some first")
        accepted = {
            name: one.particles[one.is_accepted]
            for name, one in taught.items()
            if one.is_accepted.any()
        }
        negatives = {name: self._negatives(name, one) for name, one in taught.items()}
        rejected = {name: places for name, places in negatives.items() if len(places)}
        used = [name for name in taught if name in particles or name in rejected]
        corrected = self._voxel_size(used)
        made = self._make_round()
        _write_table(particles, made.folder / "particles.csv")
        if accepted:
            _write_table(accepted, made.folder / "accepted.csv")
        if rejected:
            _write_table(rejected, made.folder / "rejected.csv")
        command = ["train", *(str(session.place(session.number_of(name))) for name in used)]
        command += ["--picks", str(made.folder / "particles.csv"), "--out", str(made.run)]
        command += [f"--radius={radius:g}A", *corrected]
        if accepted:
            command += ["--accepted", str(made.folder / "accepted.csv")]
        if rejected:
            command += ["--negatives", str(made.folder / "rejected.csv")]
        with whole_file(made.folder / "command.json") as temporary:
            temporary.write_text(json.dumps(command, indent=1) + "\n", encoding="utf-8")
        return made

    def _negatives(self, name: str, taught: Taught) -> Floats:
        """(n, 3) ``z y x`` rejected places of a tomogram, but for those where a particle is.

        Who rejects a candidate and then clicks beside it has put its centre right.
        """
        session = self._session
        known = [(z, y, x) for z, y, x in taught.particles.tolist()]
        tomogram = session.tomogram(session.number_of(name))
        reach = EXCLUSION * session.radius / tomogram.voxel_size
        return taught.rejected[~near(taught.rejected, known, reach)]

    def _train_command(self, made: Round, wish: TrainWish) -> list[str]:
        saved = made.folder / "command.json"
        command: list[str] = json.loads(saved.read_text(encoding="utf-8"))
        if wish.resume is not None:
            # The settings of a run that goes on are its own.
            return [*command, *(["--resume"] if (made.run / "config.json").is_file() else [])]
        if wish.epochs is not None:
            command.append(f"--epochs={wish.epochs}")
        command += [f"--set={line.strip()}" for line in wish.settings if line.strip()]
        command.append(f"--device={wish.device}")
        with whole_file(saved, overwrite=True) as temporary:
            temporary.write_text(json.dumps(command, indent=1) + "\n", encoding="utf-8")
        return command

    def _voxel_size(self, names: Sequence[str]) -> list[str]:
        """The option that corrects the headers, where the session does."""
        session = self._session
        given = {source.voxel_size for source in session.settings.tomograms if source.name in names}
        if given == {None}:
            return []
        if len(given) > 1:
            raise InputError(
                "some of these tomograms have a corrected voxel size and others have not, or "
                "another: work on them in two sessions"
            )
        return [f"--voxel-size={given.pop()}"]

    def _start(
        self, kind: Kind, used: Round, command: Sequence[str], targets: tuple[Path, ...] = ()
    ) -> Job:
        log = used.folder / f"{kind}.log"
        # The process takes the lock along: should this server crash, the next one knows of it.
        lock = hold(self._folder / ".job")
        if lock is None:
            raise InputError("something else is at work in this session; wait for it")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "tomopicker", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "COLUMNS": "200", "PYTHONUNBUFFERED": "1"},
                pass_fds=(lock,) if sys.platform != "win32" else (),
                # Ctrl-C in the terminal is for the server, which ends this in order.
                start_new_session=True,
            )
        os.ftruncate(lock, 0)
        os.write(lock, str(process.pid).encode())
        os.close(lock)
        self.job = Job(
            kind=kind, round=used, log=log, started=time.time(), process=process, targets=targets
        )
        self._session.revision += 1
        return self.job


def explain(code: int, log: str) -> str:
    """Say in plain words why a command ended with a code that is not 0.

    >>> explain(2, "reading\\nError: TS_01.mrc: is truncated; copy it again")
    'TS_01.mrc: is truncated; copy it again'
    """
    errors = [line for line in log.splitlines() if line.startswith("Error: ")]
    if code == 2 and errors:
        return errors[-1].removeprefix("Error: ")
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return (
            "The system ended it, most often for lack of memory: close other programs, or train "
            "with less at a time, as with the setting training.batch=2."
        )
    if code < 0:
        return f"The system ended it (signal {-code}); start it again."
    return "This is a fault in TomoPicker, not in your data: please report it with the log below."


def _is_automatic(record: Path, listed: Path) -> bool:
    """Whether the picker chose the cut-off of a list by itself.

    The record is written after the list: an older one is of another. Where there is none that can
    be read, nobody knows, and the list stays as it is.
    """
    try:
        if record.stat().st_mtime_ns < listed.stat().st_mtime_ns:
            return False
        return read_record(record).origin.cut == RecordedCut()
    except (OSError, InputError):
        return False


def _changed(path: Path) -> int:
    """When a file was changed last, nanoseconds; 0 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=1000)
def _candidates_of(path: Path, changed: int, tomogram: str, *, model: str) -> tuple[Candidate, ...]:
    """Read the candidates of a tomogram as what a model found, best first.

    They are kept until the file has `changed`.
    """
    # It holds voxels, so their size does not matter.
    found = read_candidates(path, voxel_size=1.0)
    table = found.particles
    scores = np.zeros(len(table)) if table.scores is None else table.scores
    chances = [None] * len(table) if table.probabilities is None else table.probabilities.tolist()
    return tuple(
        Candidate(
            tomogram=tomogram,
            voxel=(z, y, x),
            score=score,
            probability=chance,
            picked=picked,
            model=model,
        )
        for (z, y, x), score, chance, picked in zip(
            table.voxels.tolist(), scores.tolist(), chances, found.picked.tolist(), strict=True
        )
    )


@lru_cache
def _digest(path: Path, changed: int) -> str:
    """SHA-256 of a file that was last changed then."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_table(voxels: Mapping[str, Floats], path: Path) -> None:
    """Write one table of the particles of several tomograms, each in its own voxels."""
    owners = [name for name, part in voxels.items() for _ in range(len(part))]
    places = np.concatenate(list(voxels.values()))
    # A CSV holds voxels, so their size does not matter.
    particles = Particles.from_voxels(places, voxel_size=1.0, tomograms=owners)
    write_particles(path, particles, format="csv")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to stop, and make it after a while."""
    process.terminate()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(path: Path) -> str:
    """The last lines of a text file; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 200 * _TAIL))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-_TAIL:])


def _duration(seconds: float) -> str:
    """As people say it.

    >>> _duration(42), _duration(125)
    ('42 s', '2 min 5 s')
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
