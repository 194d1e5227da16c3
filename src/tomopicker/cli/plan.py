"""Which tomograms a `tomopicker pick` has still to do: of its part, those not done by the same."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from tomopicker.cli.report import REPORT
from tomopicker.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tomopicker.cli.outputs import Outputs
    from tomopicker.io.record import Origin, Record
    from tomopicker.io.tomograms import Source

_Named = TypeVar("_Named")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A tomogram to pick, and where its picks go."""

    source: Source
    outputs: Outputs
    wanted: Origin
    """What decides the picks, but for the files, which may change while others are picked."""

    def origin(self) -> Origin:
        """What decides the picks, with the tomogram's files as they are now."""
        from tomopicker.io.record import RecordedFile

        try:
            files = self.source.files()
        except InputError:
            files = list(self.source.paths)
        return self.wanted.model_copy(
            update={"tomogram": tuple(RecordedFile.of(file) for file in files)}
        )

    def done(self) -> Record | None:
        """Return the record of the picks that are wanted, if they are all there."""
        return self.outputs.whole(self._comparable())

    def changes(self) -> list[str]:
        """Say how picks that are there were made otherwise."""
        record = self.outputs.recorded()
        return [] if record is None else record.origin.changes(self._comparable())

    def _comparable(self) -> Origin:
        origin, record = self.origin(), self.outputs.recorded()
        # Of a tomogram that was taken away the picks are as good as before.
        if record is not None and any(file.is_missing for file in origin.tomogram):
            return origin.model_copy(update={"tomogram": record.origin.tomogram})
        return origin


def undone(jobs: Sequence[Job], *, force: bool) -> tuple[list[Job], dict[str, Record]]:
    """Part jobs into those to do and the records of those that are done, by name.

    Raises
    ------
    InputError
        When picks are there that were made otherwise, or files that nothing is known of, and may
        not be replaced.
    """
    left, done = [], {}
    changed: list[tuple[Job, list[str]]] = []
    for job in jobs:
        record = job.done()
        if record is not None:
            done[job.source.name] = record
            # Its writer may have been killed just before this.
            job.outputs.tidy()
            continue
        left.append(job)
        if force:
            continue
        stranger = job.outputs.stranger()
        if stranger is not None:
            raise InputError(
                f"{stranger}: is already there, and no record beside it tells how it was made; "
                "give another --out, or replace it with --force"
            )
        changes = job.changes()
        if changes:
            changed.append((job, changes))
    if changed:
        job, changes = changed[0]
        others = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise InputError(
            f"{job.outputs.csv}: is already there{others}, but was made otherwise: "
            f"{'; '.join(changes)}; give another --out, or replace it with --force"
        )
    return left, done


def check_names(names: Sequence[str]) -> None:
    """Refuse tomograms whose files would overwrite each other, or the summary."""
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(
                f"two tomograms are called {name}, and their picks would overwrite each other: "
                "pick them into two folders"
            )
        if name == "summary":
            raise InputError(
                "a tomogram is called summary, and summary.csv is the table of all of them; "
                "rename it"
            )


def part_of(named: Mapping[str, _Named], shard: str | None) -> list[_Named]:
    """Take every N-th of some things, sorted by name, beginning with the I-th; all without `shard`.

    >>> part_of({"b": 2, "d": 4, "a": 1, "c": 3}, "2/3")
    [2]
    >>> part_of({"b": 2, "d": 4, "a": 1, "c": 3}, "1/3")
    [1, 4]

    Raises
    ------
    InputError
        When `shard` is not I/N, with I from 1 to N.
    """
    if shard is None:
        return list(named.values())
    numbers = re.fullmatch(r"(\d{1,6})/(\d{1,6})", shard)
    part, parts = map(int, numbers.groups()) if numbers else (0, 0)
    if not 1 <= part <= parts:
        raise InputError(
            f"--shard {shard}: is not I/N, the I-th of N parts from 1 to N, as 3/8; "
            "with SLURM's --array=1-8 give --shard $SLURM_ARRAY_TASK_ID/8"
        )
    return [named[name] for name in sorted(named)[part - 1 :: parts]]


def check_place(out: Path, *, report: bool) -> None:
    """Refuse to replace a file in the place of the summary, or of a first report, that is another.

    Both are made from the records, and made again with them.
    """
    from tomopicker.io.summary import SUMMARY, is_summary

    ours = [path for path in (out / SUMMARY,) if not is_summary(path)]
    for path in ours + ([out / REPORT] if report else []):
        if path.exists():
            raise InputError(f"{path}: is already there; give another --out, or --force")
