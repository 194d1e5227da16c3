"""Every stage's output: a file appears whole or not at all, and replaces nothing by accident."""

from __future__ import annotations

import os
import re
import secrets
import socket
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tomopicker.errors import InputError, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def whole_file(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its name when the block succeeds.

    It is on the disk then, and so is its name: of two files that are written one after the other,
    not even a power cut leaves the second without the first.

    Parameters
    ----------
    path
        The file to appear; its folder is made when missing.
    overwrite
        Whether a file that is already there may be replaced.

    Raises
    ------
    InputError
        When `path` exists and may not be replaced.
    OutputError
        When the system refuses to write (no space, no permission); nothing is left behind.
    """
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists already; choose another name or remove it")
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        # On the disk before it has its name, so that a crash leaves no empty file by that name.
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _keep_names(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"{path}: cannot be written ({reason}); free some space or choose another place"
        ) from error
    finally:
        # A parent that is not a folder makes even this fail, after the reason is known.
        if temporary.is_file():
            temporary.unlink()


def remove_leftovers(folder: Path) -> int:
    """Remove what killed processes of this machine left half written in a folder.

    Returns
    -------
    int
        How many files.
    """
    removed = 0
    for file in list(folder.iterdir()) if folder.is_dir() else []:
        made = _TEMPORARY.match(file.name)
        # Of another machine's processes nothing is known: they may be writing.
        if made is None or made["host"] != _HOST or _is_alive(int(made["process"])):
            continue
        # Somebody else may be removing the same.
        with suppress(FileNotFoundError):
            file.unlink()
            removed += 1
    return removed


_HOST = re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:16]
_TEMPORARY = re.compile(r"\.(?P<process>\d+)-(?P<host>[A-Za-z0-9]*)-[0-9a-f]{8}\.")


def _temporary(path: Path) -> Path:
    # A sibling, because replacing is atomic only within one file system; with the same suffix,
    # because some writers choose the format by it; of no other process of any machine, or thread.
    return path.with_name(f".{os.getpid()}-{_HOST}-{secrets.token_hex(4)}.{path.name}")


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # Somebody else's.
        return True
    return True


def _keep_names(folder: Path) -> None:
    """Have the names in a folder on the disk, where the system can."""
    if os.name != "posix":
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems refuse this, and do it by themselves.
        with suppress(OSError):
            os.fsync(opened)
    finally:
        os.close(opened)
