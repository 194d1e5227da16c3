"""tomopicker review: what was said of candidates in the workbench, as a table."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from tomopicker.errors import InputError


def review(
    folder: Annotated[Path, typer.Argument(help="Folder that `tomopicker serve` works in.")],
    export: Annotated[
        Path | None, typer.Option(help="CSV file to write.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace that file.")] = False,
) -> None:
    """Count the verdicts of a session, and write them as a table with who said what, and when.

    Verdicts are given in the workbench, `tomopicker serve FOLDER`, which works over ssh too.
    """
    from tomopicker.serve.session import read_verdicts, write_verdicts

    verdicts = read_verdicts(folder)
    if export is not None:
        if not verdicts:
            raise InputError(f"{folder}: holds no verdicts yet; review some candidates first")
        write_verdicts(export, verdicts, overwrite=force)
    if not verdicts:
        # A terminal shows no slices to judge by.
        typer.echo(
            f"No verdicts yet. Give them in the workbench, over ssh too: tomopicker serve {folder}"
        )
    for name in dict.fromkeys(one.candidate.tomogram for one in verdicts):
        said = Counter(one.answer for one in verdicts if one.candidate.tomogram == name)
        typer.echo(
            f"{name}: {said['accept']} accepted, {said['reject']} rejected, {said['skip']} put off"
        )
