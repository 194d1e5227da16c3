"""Text of the users' particle files: lines, cells and numbers, and what can be wrong with them."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import TypeAlias

from tomopicker.errors import InputError

Row: TypeAlias = tuple[int, list[str]]
"""A line's number, from 1, and its cells."""


def read_text(path: Path) -> str:
    """Read a text file.

    Raises
    ------
    InputError
        When it is missing, a folder, empty, or not text.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the file with the picks")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check its name and folder") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InputError(f"{path}: is not text; give picks as CSV, STAR or .coords")
    if not text.strip():
        raise InputError(f"{path}: is empty; give a file with at least one pick")
    return text


def read_rows(path: Path) -> list[Row]:
    """Split a file into rows at commas, tabs or blanks; blank lines and # comments are skipped.

    Raises
    ------
    InputError
        As `read_text`, or when nothing but comments is left.
    """
    numbered = enumerate(read_text(path).splitlines(), start=1)
    lines = [(number, line) for number, line in numbered if line.strip()]
    lines = [(number, line) for number, line in lines if not line.lstrip().startswith("#")]
    if not lines:
        raise InputError(f"{path}: has no picks, only comments; give a file with at least one pick")
    separator = next((mark for mark in (",", ";", "\t") if mark in lines[0][1]), None)
    try:
        return [(number, _cells(line, separator)) for number, line in lines]
    except csv.Error as error:
        raise InputError(f"{path}: is not a table ({error}); give picks as x,y,z,score") from None


def is_number(cell: str) -> bool:
    """Tell whether a cell reads as a number (nan and inf do)."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def number(path: Path, line: int, column: str, cell: str) -> float:
    """Read a cell as a finite number.

    Raises
    ------
    InputError
        Naming the line and the column.
    """
    value = float(cell) if is_number(cell) else math.nan
    if not math.isfinite(value):
        raise InputError(
            f"{path}: line {line} has {column} = {cell.strip() or 'nothing'}, which is not a "
            "number; correct or remove that line"
        )
    return value


def _cells(line: str, separator: str | None) -> list[str]:
    if separator is None:
        return line.split()
    (cells,) = csv.reader([line], delimiter=separator)
    return [cell.strip() for cell in cells]
