"""Text of the users' particle files: lines, cells and numbers, and what can be wrong with them."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from tomopicker.errors import InputError
from tomopicker.io.whole import whole_file
from tomopicker.types import Floats

_LOOK = 1 << 16

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
        with path.open("rb") as file:
            data = file.read(_LOOK)
            # Not all of a volume's gigabytes, to say that it is none.
            if b"\0" not in data:
                data += file.read()
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check its name and folder") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InputError(
            f"{path}: is not text (nor .mod or .em); give picks as CSV, or see docs/formats.md"
        )
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
    try:
        rows = split_rows(read_text(path).splitlines())
    except csv.Error as error:
        raise InputError(f"{path}: is not a table ({error}); give picks as x,y,z,score") from None
    if not rows:
        raise InputError(f"{path}: has no picks, only comments; give a file with at least one pick")
    return rows


def split_rows(lines: Sequence[str]) -> list[Row]:
    """Split lines into cells at the mark that the first row has; blanks and comments are skipped.

    Raises
    ------
    csv.Error
        When a cell is larger than any number or name.
    """
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    numbered = [(number, line) for number, line in numbered if not line.lstrip().startswith("#")]
    if not numbered:
        return []
    separator = next((mark for mark in (",", ";", "\t") if mark in numbered[0][1]), None)
    return [(number, _cells(line, separator)) for number, line in numbered]


def read_numbers(path: Path, labels: Mapping[int, tuple[str, ...]]) -> tuple[Floats, list[str]]:
    """Read a table of bare numbers, one particle a line.

    Parameters
    ----------
    labels
        By number of columns, what they are called.

    Returns
    -------
    tuple
        The numbers, (n, columns), and what the columns are called.

    Raises
    ------
    InputError
        Naming the first line that has another number of columns or holds something else.
    """
    rows = read_rows(path)
    line, first = rows[0]
    if len(first) not in labels:
        raise InputError(
            f"{path}: line {line} has {len(first)} columns; expected "
            + " or ".join(" ".join(names) for names in labels.values())
        )
    names = labels[len(first)]
    table = []
    for line, cells in rows:
        check_width(path, line, cells, len(names))
        table.append([number(path, line, *cell) for cell in zip(names, cells, strict=True)])
    return np.array(table), list(names)


def check_width(path: Path, line: int, cells: Sequence[str], width: int) -> None:
    """Refuse a row that has not as many cells as the first.

    Raises
    ------
    InputError
        Naming the line.
    """
    if len(cells) != width:
        raise InputError(
            f"{path}: line {line} has {len(cells)} columns where {width} were expected; "
            "correct or remove that line"
        )


def one_class(path: Path, classes: Floats) -> None:
    """Refuse a list of several classes: a particle picker learns one kind.

    Raises
    ------
    InputError
        Naming the classes, or saying that they are no whole numbers.
    """
    if (classes != classes.round()).any():
        raise InputError(
            f"{path}: has 4 columns but the first is not a class number; expected class x y z"
        )
    kinds = np.unique(classes)
    if len(kinds) > 1:
        raise InputError(
            f"{path}: holds the classes {', '.join(f'{kind:.0f}' for kind in kinds[:9])}; "
            "keep the lines of one"
        )


def write_lines(path: Path, lines: Iterable[str], *, overwrite: bool) -> None:
    """Write lines of text, whole or not at all.

    Raises
    ------
    InputError
        When the file exists and may not be replaced, or cannot be written.
    """
    with whole_file(path, overwrite=overwrite) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def listed(names: Sequence[str], most: int = 5) -> str:
    """Name a few of many, each cut where it is longer than any name.

    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    shown = ", ".join(cut(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def cut(text: str, most: int = 60) -> str:
    """Show the beginning of what may be anything, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[:most]}…"


def is_plain(cell: str) -> bool:
    """Tell whether text can stand in a table without quotes: no comment, quote, tab or line break.

    >>> is_plain("TS 01"), is_plain("#1"), is_plain("")
    (True, False, True)
    """
    return cell.isprintable() and not any(mark in cell for mark in "\"'#")


def check_names(path: Path, names: Sequence[str]) -> None:
    """Refuse names of tomograms that could not be read again.

    Raises
    ------
    InputError
        Naming the first.
    """
    for name in dict.fromkeys(names):
        if not name.strip() or not is_plain(name):
            raise InputError(f"{path}: cannot hold the name {name[:60]!r}; rename the tomogram")


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
            f"{path}: line {line} has {column} = {cut(cell) or 'nothing'}, which is not a "
            "number; correct or remove that line"
        )
    return value


def _cells(line: str, separator: str | None) -> list[str]:
    if separator is None:
        return line.split()
    (cells,) = csv.reader([line], delimiter=separator)
    return [cell.strip() for cell in cells]
