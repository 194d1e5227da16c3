"""The command line: one file per command, each of which parses, calls and prints."""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, NoReturn

import typer

from tomopicker.cli import (
    benchmark,
    convert,
    demo,
    evaluate,
    inspect,
    merge,
    pick,
    plot,
    report,
    review,
    serve,
    simulate,
    train,
)
from tomopicker.errors import InputError, is_out_of_memory

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
    convert.convert,
    train.train,
    pick.pick,
    merge.merge,
    evaluate.evaluate,
    plot.plot,
    report.report,
    serve.serve,
    review.review,
):
    app.command()(command)
app.add_typer(benchmark.app, name="benchmark")

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells expect."""

_PROCESS = int(os.environ["RANK"]) if "TORCHELASTIC_RUN_ID" in os.environ else 0
"""Number of this process where torchrun started several."""


def main() -> None:
    """Run the command line.

    Exit codes: 0 done, 1 our fault, 2 the user's input, 130 Ctrl-C, 143 a scheduler's signal
    while picking.
    """
    sys.excepthook = _ask_to_report
    try:
        # Not app() itself, which puts another hook in the place of ours.
        typer.main.get_command(app)()
    except (InputError, FloatingPointError) as error:
        _fail(f"{error}")
    except OSError as error:
        _fail(_explain(error))
    except (MemoryError, RuntimeError, ImportError) as error:
        if _has_lost_another(error):
            if _PROCESS:
                sys.exit(2)
            _fail(
                "another process of this training has ended: what stopped it is said above or by "
                "torchrun; the same command with --resume goes on after the last whole epoch"
            )
        if not is_out_of_memory(error):
            raise
        _fail(
            "out of memory: close other programs or use a machine with more; where it is the "
            "GPU's, give --device cpu, or train with less at a time, as --set training.batch=2"
        )
    except KeyboardInterrupt:
        if not _PROCESS:
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


def _has_lost_another(error: BaseException) -> bool:
    """Recognise by name and text, as torch is not imported here, that another process is gone."""
    return type(error).__name__ in {"DistBackendError", "DistNetworkError"} or (
        "gloo" in str(error) and "onnection" in str(error)
    )


def _fail(message: str) -> NoReturn:
    one_line = " ".join(message.split())
    of = f" (process {_PROCESS})" if _PROCESS else ""
    print(f"Error{of}: {one_line}", file=sys.stderr)  # noqa: T201
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
