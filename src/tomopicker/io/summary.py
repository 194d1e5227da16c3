"""The table of all tomograms in a folder of picks: which are done, which failed, which are left."""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tomopicker.errors import InputError
from tomopicker.io.record import FAILED, Failure, Record, read_failure, read_record
from tomopicker.io.whole import whole_file

if TYPE_CHECKING:
    from collections.abc import Sequence

SUMMARY = "summary.csv"
"""Its name in the folder."""

COLUMNS = ("tomogram", "status", "picks", "estimated", "low", "high", "seconds", "reason")

_PAUSE = 5.0
"""Seconds between two tables while tomograms are picked: each looks at every record."""

Signature = tuple[int, int, int]


def is_summary(path: Path) -> bool:
    """Whether a file is such a table, by its name and its first line."""
    if path.name != SUMMARY:
        return False
    try:
        with path.open("rb") as file:
            return file.readline(200).strip() == ",".join(COLUMNS).encode()
    except OSError:
        return False


@dataclass(kw_only=True)
class Summary:
    """The table, made from the records in the folder: of processes that write it any may be last.

    Parameters
    ----------
    folder
        Of the picks.
    names
        Of the tomograms that are to be picked; others that have a record are listed, too.
    """

    folder: Path
    names: Sequence[str]
    _known: dict[Path, tuple[Signature, Record | Failure | None]] = field(
        init=False, default_factory=dict
    )
    _written: float = field(init=False, default=0.0)

    def write_if_due(self) -> None:
        """Write the table unless that was done a moment ago."""
        if time.monotonic() - self._written > _PAUSE:
            self.write()

    def write(self) -> None:
        """Write the table, over an older one.

        Raises
        ------
        OutputError
            When it cannot be written.
        """
        listed = None
        # Until nothing came while it was written: whoever replaces it last has seen everything.
        while listed != (found := self._signatures()):
            rows = self._rows(found)
            with (
                whole_file(self.folder / SUMMARY, overwrite=True) as temporary,
                temporary.open("w", newline="", encoding="utf-8") as file,
            ):
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(COLUMNS)
                writer.writerows(rows)
            listed = found
        self._written = time.monotonic()

    def _signatures(self) -> dict[Path, Signature]:
        """Files that may be records, and their states."""
        found = {}
        for folder in (self.folder, self.folder / FAILED):
            for path in sorted(folder.glob("*.json")):
                if not path.name.startswith("."):
                    try:
                        state = path.stat()
                    except FileNotFoundError:
                        continue
                    found[path] = (state.st_ino, state.st_size, state.st_mtime_ns)
        return found

    def _rows(self, found: dict[Path, Signature]) -> list[list[object]]:
        latest: dict[str, tuple[int, Record | Failure]] = {}
        for path, signature in found.items():
            if self._known.get(path, (None,))[0] != signature:
                self._known[path] = (signature, _read(path))
            one = self._known[path][1]
            # Of a record and a failure the later one holds.
            if one is not None and signature[2] >= latest.get(one.tomogram, (0,))[0]:
                latest[one.tomogram] = (signature[2], one)
        rows: list[list[object]] = []
        for name in sorted({*self.names, *latest}):
            one = latest[name][1] if name in latest else None
            rows.append([name, *_cells(one)])
        return rows


def _read(path: Path) -> Record | Failure | None:
    """What a file records; nothing where it is another's, or is gone."""
    try:
        return read_failure(path) if path.parent.name == FAILED else read_record(path)
    except InputError:
        return None


def _cells(one: Record | Failure | None) -> list[object]:
    if one is None:
        return ["left", *[""] * 6]
    if isinstance(one, Failure):
        return ["failed", *[""] * 4, one.seconds, " ".join(one.reason.split())]
    count = one.estimated
    between = (
        [""] * 3 if count is None else [f"{n:.0f}" for n in (count.estimate, count.low, count.high)]
    )
    return ["done", one.picks, *between, one.seconds, ""]
