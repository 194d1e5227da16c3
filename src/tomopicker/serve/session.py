"""Session: the working folder, in which every click is kept as it is made."""

from __future__ import annotations

import csv
import getpass
import json
import os
import sys
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tomopicker.errors import InputError, UnknownVoxelSizeError
from tomopicker.io.particles import write_particles
from tomopicker.io.tomograms import (
    find_tomograms,
    read_tomogram,
    tomogram_name,
    write_half_maps,
)
from tomopicker.io.whole import whole_file
from tomopicker.serve.journal import Journal, read_journal
from tomopicker.serve.notes import Entry, Notes, read_entry
from tomopicker.types import Particles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tomopicker.io import tomograms as io
    from tomopicker.serve.notes import Action
    from tomopicker.types import Floats, Tomogram
    from tomopicker.verdicts import Verdict

VERDICT_COLUMNS = (
    *("tomogram", "x", "y", "z", "verdict", "who", "when"),
    *("score", "probability", "picked", "model", "order"),
)
"""Of the table of verdicts; coordinates are voxels, `order` is why it was asked."""


class Source(BaseModel):
    """Where a tomogram of the session is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    """A file, or a list that names two half maps, relative to the session's folder."""
    name: str
    voxel_size: float | None = None
    """Ångström, where the header is wrong."""


class Settings(BaseModel):
    """What a session is about: `session.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Literal[1] = 1
    tomograms: tuple[Source, ...] = ()
    diameter: float | None = Field(default=None, gt=0, le=10_000, allow_inf_nan=False)
    """Of the particle, in ångström; None until somebody says."""


@dataclass(frozen=True, kw_only=True)
class Taught:
    """What people have said of a tomogram."""

    particles: Floats
    """(n, 3) voxels ``z y x``, clicked and accepted."""
    is_accepted: NDArray[np.bool_]
    """(n,) which of them were candidates that a person accepted."""
    rejected: Floats
    """(m, 3) voxels ``z y x`` of candidates that were rejected."""


@dataclass(kw_only=True)
class Session:
    """A working folder that is open; what changes it is on the disk when it returns."""

    folder: Path
    settings: Settings
    notes: Notes
    who: str
    journal: Journal
    held: int
    """The lock, which ends with this process."""
    revision: int = 0
    """Counts the changes, so that a page knows when to look again."""

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._opened: dict[Path, Tomogram] = {}

    @classmethod
    def open(
        cls, folder: Path, tomograms: Sequence[Path] = (), *, voxel_size: float | None = None
    ) -> Self:
        """Open a folder to work in, new or old, with further tomograms.

        Raises
        ------
        InputError
            When another server has the folder open, it holds something else, a tomogram cannot be
            read, or two are called alike.
        """
        if folder.is_file():
            raise InputError(f"{folder}: is a file; give a folder to keep the work in")
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        # An earlier start that failed may have left the lock and an empty journal.
        if names - {".lock", "journal.jsonl"} and "session.json" not in names:
            raise InputError(
                f"{folder}: is neither empty nor a session; give another folder to keep the work in"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held = hold(folder / ".lock")
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be written to ({error.strerror}); give another folder"
            ) from error
        if held is None:
            raise InputError(
                f"{folder}: is open in another `tomopicker serve`; use that one or stop it"
            )
        with ExitStack() as on_failure:
            on_failure.callback(os.close, held)
            settings = _read_settings(folder / "session.json")
            journal, lines = Journal.open(folder / "journal.jsonl")
            on_failure.callback(journal.close)
            session = cls(
                folder=folder,
                settings=settings,
                notes=_replay(lines, journal.path),
                who=_user(),
                journal=journal,
                held=held,
            )
            session._add_tomograms(tomograms, voxel_size)
            session._write_settings()
            for name in dict.fromkeys(one.tomogram for one in session.notes.particles.values()):
                session._write_tables(name)
            on_failure.pop_all()
        return session

    def close(self) -> None:
        """Let go of the folder."""
        self.journal.close()
        os.close(self.held)

    def tomogram(self, number: int) -> Tomogram:
        """Open a tomogram by its place in the session.

        Raises
        ------
        InputError
            When there is none of that number, or its file cannot be read.
        """
        if not 0 <= number < len(self.settings.tomograms):
            raise InputError(f"the session has no tomogram {number}; reload the page")
        source = self.settings.tomograms[number]
        with self._lock:
            if source.path not in self._opened:
                (found,) = find_tomograms([self.place(number)])
                self._opened[source.path] = found.open(voxel_size=source.voxel_size)
            return self._opened[source.path]

    def place(self, number: int) -> Path:
        """What the commands are given for a tomogram: its file, or the list of its half maps."""
        return self.folder.absolute() / self.settings.tomograms[number].path

    def number_of(self, name: str) -> int:
        """Place of a tomogram in the session.

        Raises
        ------
        InputError
            When none is called so.
        """
        for number, source in enumerate(self.settings.tomograms):
            if source.name == name:
                return number
        raise InputError(f"the session has no tomogram called {name}; reload the page")

    def set_diameter(self, diameter: float) -> None:
        """Set the particle's diameter in ångström.

        Raises
        ------
        InputError
            When it cannot be one.
        """
        with self._lock:
            try:
                self.settings = Settings.model_validate(
                    {**self.settings.model_dump(), "diameter": diameter}
                )
            except ValidationError as error:
                raise InputError(
                    f"a diameter of {diameter:g} Å: it must be above 0 and at most 10,000"
                ) from error
            self._write_settings()
            self.revision += 1

    @property
    def radius(self) -> float:
        """Of the particle, ångström.

        Raises
        ------
        InputError
            When nobody has said how large it is.
        """
        if self.settings.diameter is None:
            raise InputError("set the particle's diameter first")
        return self.settings.diameter / 2

    def act(self, what: Action | Literal["undo", "redo"]) -> Action:
        """Do something, and have it on the disk; returns what was done, undone or done again.

        Raises
        ------
        InputError
            When it cannot be done here, or not be saved; then nothing has changed.
        """
        with self._lock:
            entry = Entry(
                what=what,
                who=self.who,
                when=datetime.now().astimezone().isoformat(timespec="seconds"),
                first=self.notes.next_number,
            )
            if not isinstance(what, str):
                self._check_inside(what)
            self.notes.check(entry)
            self.journal.append(entry.model_dump(mode="json", exclude_defaults=False))
            changed = self.notes.apply(entry)
            self.revision += 1
            self._write_tables(changed.tomogram)
            return changed

    def voxels(self, tomogram: str) -> Floats:
        """(n, 3) ``z y x`` particles of a tomogram, clicked and accepted."""
        with self._lock:
            places = [one.voxel for one in self.notes.of(tomogram)]
        return np.array(places, dtype=np.float64).reshape(-1, 3)

    def taught(self) -> dict[str, Taught]:
        """What each tomogram teaches, all of one moment."""
        names = [source.name for source in self.settings.tomograms]
        with self._lock:
            return {
                name: Taught(
                    particles=self.voxels(name),
                    is_accepted=np.array(
                        [one.of is not None for one in self.notes.of(name)], dtype=bool
                    ),
                    rejected=self.rejected(name),
                )
                for name in names
            }

    def rejected(self, tomogram: str) -> Floats:
        """(n, 3) ``z y x`` candidates of a tomogram that were rejected."""
        with self._lock:
            verdicts = self.notes.verdicts
        places = [
            one.candidate.voxel
            for one in verdicts
            if one.answer == "reject" and one.candidate.tomogram == tomogram
        ]
        return np.array(places, dtype=np.float64).reshape(-1, 3)

    def _check_inside(self, action: Action) -> None:
        """Refuse places outside of the tomogram, which no page can have meant."""
        shape = self.tomogram(self.number_of(action.tomogram)).shape
        for place in action.places:
            for axis, value, size in zip("zyx", place, shape, strict=True):
                if not -0.5 <= value <= size - 0.5:
                    raise InputError(
                        f"{axis} = {value:g} is outside of {action.tomogram}, which has {size} "
                        f"voxels along {axis}"
                    )

    def _add_tomograms(self, paths: Sequence[Path], voxel_size: float | None) -> None:
        known = {source.path: source for source in self.settings.tomograms}
        for found in find_tomograms(path.expanduser() for path in paths):
            source, tomogram = self._as_file(found, voxel_size)
            known[source.path] = source
            self._opened[source.path] = tomogram
        if not known:
            raise InputError(
                f"{self.folder}: is a new session without a tomogram; give some with --tomograms"
            )
        names = [source.name for source in known.values()]
        for name in names:
            if names.count(name) > 1:
                raise InputError(
                    f"two tomograms are called {name}, and their particles would be mixed up: "
                    "rename one, or work on them in two sessions"
                )
        self.settings = self.settings.model_copy(update={"tomograms": tuple(known.values())})

    def _as_file(self, found: io.Source, voxel_size: float | None) -> tuple[Source, Tomogram]:
        """Take a tomogram by its file, which later starts and the commands of a round open again.

        So it is called as the file is, whatever the list that names it calls it. Half maps are
        two files: they keep their name, by a list of their own.
        """
        if len(found.paths) > 1:
            path = Path("halves", f"{tomogram_name(found.name)}.star")
            tomogram = found.open(voxel_size=voxel_size)
            write_half_maps(self.folder / path, found)
            return Source(path=path, name=found.name, voxel_size=voxel_size), tomogram
        path = (found.open(voxel_size=voxel_size).path or found.paths[0]).absolute()
        stated = voxel_size
        try:
            tomogram = read_tomogram(path, voxel_size=stated)
        except UnknownVoxelSizeError:
            # Only the list tells it.
            stated = found.voxel_size
            tomogram = read_tomogram(path, voxel_size=stated)
        return Source(path=path, name=tomogram.name, voxel_size=stated), tomogram

    def _write_settings(self) -> None:
        with whole_file(self.folder / "session.json", overwrite=True) as temporary:
            temporary.write_text(self.settings.model_dump_json(indent=2) + "\n", encoding="utf-8")

    def _write_tables(self, name: str) -> None:
        """Write the particles of a tomogram, and all verdicts, as tables to read elsewhere."""
        try:
            tomogram = self.tomogram(self.number_of(name))
        except InputError:
            # A disk that is not mounted today: the journal has it all the same.
            return
        particles = Particles.from_voxels(self.voxels(name), voxel_size=tomogram.voxel_size)
        table = self.folder / "particles" / f"{name}.csv"
        write_particles(table, particles, format="csv", overwrite=True)
        if self.notes.verdicts or (self.folder / "verdicts.csv").exists():
            write_verdicts(self.folder / "verdicts.csv", self.notes.verdicts, overwrite=True)


def read_verdicts(folder: Path) -> tuple[Verdict, ...]:
    """Read the verdicts of a session, which may be open elsewhere.

    Raises
    ------
    InputError
        When the folder is no session.
    """
    if not (folder / "session.json").is_file():
        raise InputError(f"{folder}: is no session; give a folder that `tomopicker serve` made")
    journal = folder / "journal.jsonl"
    return _replay(read_journal(journal), journal).verdicts


def write_verdicts(path: Path, verdicts: Sequence[Verdict], *, overwrite: bool = False) -> None:
    """Write verdicts as CSV with `VERDICT_COLUMNS`, whole or not at all.

    Raises
    ------
    InputError
        When the file exists and may not be replaced, or cannot be written.
    """
    with (
        whole_file(path, overwrite=overwrite) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(VERDICT_COLUMNS)
        for one in verdicts:
            candidate = one.candidate
            chance = candidate.probability
            table.writerow(
                [
                    candidate.tomogram,
                    *(f"{value:.4f}" for value in candidate.voxel[::-1]),
                    one.answer,
                    one.who,
                    one.when,
                    f"{candidate.score:.9g}",
                    "" if chance is None else f"{chance:.4f}",
                    int(candidate.picked),
                    candidate.model,
                    one.order,
                ]
            )


def hold(path: Path) -> int | None:
    """Lock a file for as long as the process, or one that it hands the lock to, lives.

    Returns
    -------
    int or None
        The file's descriptor, to close or to hand on; None where another process holds it.
    """
    held = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(held)
            return None
    return held


def _replay(lines: Sequence[dict[str, Any]], source: Path) -> Notes:
    notes = Notes()
    for line in lines:
        entry = read_entry(line, str(source))
        notes.check(entry)
        notes.apply(entry)
    return notes


def _read_settings(path: Path) -> Settings:
    if not path.is_file():
        return Settings()
    try:
        return Settings.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise InputError(
            f"{path}: cannot be read; it is damaged, or of a newer version of TomoPicker"
        ) from error


def _user() -> str:
    """Name of the person, as the system knows them."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container may have a user without a name.
        return f"user {os.getuid()}" if sys.platform != "win32" else "unknown"
