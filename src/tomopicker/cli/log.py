"""What `tomopicker pick` tells while it works and however it ends."""

from __future__ import annotations

import json
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import typer

from tomopicker.errors import OutputError
from tomopicker.io.record import Record
from tomopicker.signals import handling

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tomopicker.io.record import Failure
    from tomopicker.io.summary import Summary

TERMINATED = 143
"""Exit code after SIGTERM, as shells expect: 128 and the number of the signal. SIGUSR1 and
SIGUSR2, which tell that SIGTERM is near, end with it, too."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What became of a tomogram."""

    what: Record | Failure
    out: Path
    """The folder of the picks."""
    already: bool = False
    """Whether another process had done it."""


@dataclass(kw_only=True)
class Log:
    """What became of the tomograms, told as it happens."""

    summary: Summary
    of: int
    """Tomograms of this command."""
    as_json: bool
    done: int = 0
    failures: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    """Tomograms that are left because the process that picked them is gone, and why."""

    def add(self, record: Record, out: Path, *, already: bool = False) -> None:
        """Note a tomogram that is done."""
        self.done += 1
        count = record.estimated
        self._tell(
            tomogram=record.tomogram,
            status="done",
            already=already,
            picks=record.picks,
            threshold=record.threshold,
            estimated=None if count is None else count.model_dump(),
            seconds=record.seconds,
            csv=str(out / f"{record.tomogram}.csv"),
        )

    def add_failure(self, failure: Failure) -> None:
        """Note a tomogram that was left out."""
        self.failures.append(failure.reason)
        self._tell(
            tomogram=failure.tomogram,
            status="failed",
            already=False,
            seconds=failure.seconds,
            reason=failure.reason,
        )

    def take(self, ended: Ended) -> None:
        """Note what became of a tomogram, in the summary too."""
        if isinstance(ended.what, Record):
            self.add(ended.what, ended.out, already=ended.already)
        else:
            self.add_failure(ended.what)
        self.summary.write_if_due()

    def total(self) -> str:
        """Tell how far it got."""
        left = self.of - self.done - len(self.failures)
        parts = {"done": self.done, "failed": len(self.failures), "left": left}
        told = ", ".join(f"{number} {what}" for what, number in parts.items() if number)
        noun = "tomogram" if self.of == 1 else "tomograms"
        return f"{self.of} {noun}: {told or 'none in this part'}"

    def _tell(self, **line: object) -> None:
        if self.as_json:
            typer.echo(json.dumps(line))


@contextmanager
def ending(log: Log) -> Iterator[None]:
    """However it ends, leave a true summary, and say how to go on."""
    from tomopicker.cli.run import console

    goes_on = "the same command goes on"
    try:
        yield
    except OutputError as error:
        raise OutputError(f"{error}; {log.total()}, and {goes_on}") from error
    except (KeyboardInterrupt, SystemExit):
        console.print(f"Stopped. {log.total()}; {goes_on}", soft_wrap=True)
        raise
    finally:
        # Where the disk is full it cannot be written either: the first error is the one to show.
        with suppress(OutputError):
            if log.summary.folder.is_dir():
                log.summary.write()


@contextmanager
def terminable() -> Iterator[None]:
    """Have a scheduler's signals end the process as Ctrl-C does, with an exit code of their own."""

    def stop(number: int, frame: object) -> None:
        raise SystemExit(TERMINATED)

    with handling(stop):
        yield


@contextmanager
def quieted(quiet: bool) -> Iterator[None]:
    """Have the console say nothing inside, where that is wanted; errors are told by the caller."""
    from tomopicker.cli.run import console

    before, console.quiet = console.quiet, quiet
    try:
        yield
    finally:
        console.quiet = before
