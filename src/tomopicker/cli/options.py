"""Options that several commands have, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

VoxelSize = Annotated[
    float | None, typer.Option(help="Ångström, where the header is wrong.", show_default=False)
]

Mask = Annotated[
    Path | None,
    typer.Option(
        help="Where particles may be: a volume, a folder with one per tomogram, or auto.",
        show_default=False,
    ),
]

Device = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto: a CUDA GPU where there is one.")
]

Slurm = Annotated[
    Path | None,
    typer.Option(
        help="Have SLURM do it, in jobs as this file asks for; see docs/cluster.md.",
        show_default=False,
    ),
]

Detach = Annotated[bool, typer.Option("--detach", help="With --slurm: submit, and do not watch.")]


def _be_quiet(context: typer.Context, quiet: bool) -> bool:
    from tomopicker.cli.log import quieted

    context.with_resource(quieted(quiet))
    return quiet


Quiet = Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.", callback=_be_quiet)]
"""Takes effect by itself, until the command's end."""
