"""Every stage's output: a file appears whole or not at all, and replaces nothing by accident."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tomopicker.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def whole_file(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its name when the block succeeds.

    Parameters
    ----------
    path
        The file to appear; its folder is made when missing.
    overwrite
        Whether a file that is already there may be replaced.

    Raises
    ------
    InputError
        When `path` exists and may not be replaced, or the system refuses to write (no space, no
        permission); nothing is left behind.
    """
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists already; choose another name or remove it")
    # A sibling, because replacing is atomic only within one file system; with the same suffix,
    # because some writers choose the format by it.
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        # On the disk before it has its name, so that a crash leaves no empty file by that name.
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"{path}: cannot be written ({reason}); free some space or choose another place"
        ) from error
    finally:
        # A parent that is not a folder makes even this fail, after the reason is known.
        if temporary.is_file():
            temporary.unlink()
