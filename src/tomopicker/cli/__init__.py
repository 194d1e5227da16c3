"""The command line: one file per command, each of which parses, calls and prints."""

from __future__ import annotations

import errno
import sys
from typing import TYPE_CHECKING

import typer

from tomopicker.cli import (
    benchmark,
    demo,
    evaluate,
    inspect,
    pick,
    plot,
    review,
    serve,
    simulate,
    train,
)
from tomopicker.errors import InputError

if TYPE_CHECKING:
    from types import TracebackType

app = typer.Typer(
    name="tomopicker",
    help="Find every copy of a particle in cryo-electron tomograms from about 100 clicks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for command in (
    demo.demo,
    simulate.simulate,
    inspect.inspect,
    train.train,
    pick.pick,
    evaluate.evaluate,
    plot.plot,
    serve.serve,
    review.review,
):
    app.command()(command)
app.add_typer(benchmark.app, name="benchmark")

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells expect."""


def main() -> None:
    """Run the command line; exit codes: 0 done, 1 our fault, 2 the user's input, 130 Ctrl-C."""
    sys.excepthook = _ask_to_report
    try:
        # Not app() itself, which puts another hook in the place of ours.
        typer.main.get_command(app)()
    except (InputError, FloatingPointError) as error:
        _fail(f"{error}")
    except OSError as error:
        _fail(_explain(error))
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        _fail(
            "out of memory: close other programs or use a machine with more; where it is the "
            "GPU's, give --device cpu, or train with less at a time, as --set training.batch=2"
        )
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)  # noqa: T201
        sys.exit(INTERRUPTED)


def _ask_to_report(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    sys.__excepthook__(kind, error, trace)
    print(  # noqa: T201
        "This is a fault in TomoPicker, not in your data: please report it with the command and "
        "the lines above.",
        file=sys.stderr,
    )


def _is_out_of_memory(error: BaseException) -> bool:
    """Recognise torch's errors by name and text: to import torch here would slow every command."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


def _fail(message: str) -> None:
    one_line = " ".join(message.split())
    print(f"Error: {one_line}", file=sys.stderr)  # noqa: T201
    sys.exit(2)


def _explain(error: OSError) -> str:
    """What went wrong with a file or a disk, and the way out."""
    where = f"{error.filename}: " if error.filename else ""
    reason = error.strerror or str(error)
    remedies = {
        errno.ENOSPC: "free some space, or give an --out on another disk",
        errno.EDQUOT: "free some of your quota, or give an --out on another disk",
        errno.EFBIG: "the file size limit is reached; give an --out on another disk",
        errno.EACCES: "check the permissions, or give another path",
        errno.EROFS: "give an --out that can be written",
    }
    remedy = remedies.get(error.errno or 0)
    return f"{where}{reason}" + (f": {remedy}" if remedy else "")
