"""Journal: a file of what was done, one JSON object a line, that a crash cannot take back."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Self

from tomopicker.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


class Journal:
    """An append-only file. What `append` returned from is on the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    @classmethod
    def open(cls, path: Path) -> tuple[Self, list[dict[str, Any]]]:
        """Open a journal, new or old, with what is in it.

        A last line that a crash cut off was never confirmed to anyone, and is removed.

        Raises
        ------
        InputError
            When another line cannot be read.
        """
        entries, length = _read(path)
        if path.is_file() and path.stat().st_size > length:
            with path.open("r+b") as file:
                file.truncate(length)
                os.fsync(file.fileno())
        journal = cls(path)
        _sync_folder(path.parent)
        return journal, entries

    def append(self, entry: dict[str, Any]) -> None:
        """Write an entry, and wait until it is on the disk.

        Raises
        ------
        InputError
            When the system refuses, as for lack of space; the entry then is not in the journal.
        """
        line = json.dumps(entry, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        before = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, line)
            if written < len(line):
                raise OSError(0, "the disk is full")
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, before)
            raise InputError(
                f"{self.path}: what you did could not be saved ({error.strerror}); free some space "
                "and do it again"
            ) from error

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Read a journal without opening it to write.

    Raises
    ------
    InputError
        When a line but the last cannot be read.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Entries, and the bytes that hold them."""
    if not path.is_file():
        return [], 0
    content = path.read_bytes()
    length = content.rfind(b"\n") + 1
    entries = []
    for number, line in enumerate(content[:length].splitlines(), start=1):
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise InputError(
                f"{path}: line {number} is damaged; keep a copy of the file, remove that line and "
                "start again"
            ) from error
        if not isinstance(entry, dict):
            raise InputError(f"{path}: line {number} is no entry of a journal; remove that line")
        entries.append(entry)
    return entries, length


def _sync_folder(folder: Path) -> None:
    """Make sure that the folder knows of a new file after a crash."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
