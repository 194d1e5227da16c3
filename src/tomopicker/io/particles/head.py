"""How a particle file begins: what its format is recognised by."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tomopicker.errors import InputError
from tomopicker.io.particles.rows import is_number, split_rows

_BYTES = 1 << 16


@dataclass(frozen=True)
class Head:
    """The first 64 KB of a file."""

    path: Path
    data: bytes

    @property
    def suffix(self) -> str:
        """How the file's name ends, in lower case."""
        return self.path.suffix.lower()

    @cached_property
    def text(self) -> str:
        """The beginning as text; empty where it is none."""
        # A character may be cut in two at the end.
        text = self.data.decode("utf-8-sig", errors="ignore")
        return "" if "\0" in text else text

    @cached_property
    def star_columns(self) -> frozenset[str] | None:
        """What a STAR file calls its columns; None where the file is no STAR file."""
        if not re.search(r"^data_\S*[ \t\r]*$", self.text, flags=re.MULTILINE):
            return None if self.suffix not in (".star", ".cbox") else frozenset()
        return frozenset(re.findall(r"^\s*_(\S+)", self.text, flags=re.MULTILINE))

    @cached_property
    def cells(self) -> tuple[str, ...]:
        """The first row's cells, comments left out; empty where there is none."""
        # The last line may be cut.
        lines = self.text.splitlines()
        whole = lines[:-1] if len(lines) > 1 and len(self.data) == _BYTES else lines
        try:
            rows = split_rows(whole)
        except csv.Error:
            return ()
        return tuple(rows[0][1]) if rows else ()

    @property
    def is_bare(self) -> bool:
        """Whether the first row is numbers only, so that no header tells what they are."""
        return bool(self.cells) and all(is_number(cell) for cell in self.cells)

    @property
    def header(self) -> frozenset[str]:
        """What a table calls its columns, in lower case."""
        return frozenset(cell.lower() for cell in self.cells)


def read_head(path: Path) -> Head:
    """Read how a file begins.

    Raises
    ------
    InputError
        When it is missing, a folder, empty, or cannot be read.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the file with the picks")
    try:
        with path.open("rb") as file:
            data = file.read(_BYTES)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check its name and folder") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if not data.strip():
        raise InputError(f"{path}: is empty; give a file with at least one pick")
    return Head(path, data)
