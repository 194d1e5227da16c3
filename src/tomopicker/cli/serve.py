"""tomopicker serve: click, train, pick, review and export in a browser."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated

import typer

from tomopicker.cli.options import VoxelSize
from tomopicker.errors import InputError


def serve(
    folder: Annotated[
        Path, typer.Argument(help="Folder to keep the work in, new or of an earlier time.")
    ],
    more: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="TOMOGRAMS",
            help="Tomograms: files, a folder, a tomograms.star, a project.",
            show_default=False,
        ),
    ] = None,
    tomograms: Annotated[
        list[Path] | None,
        typer.Option(
            help="The same; needed the first time only, later ones are added.", show_default=False
        ),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="A trained run to begin with.", show_default=False)
    ] = None,
    port: Annotated[int, typer.Option(help="On this machine.", min=0, max=65535)] = 8765,
    voxel_size: VoxelSize = None,
) -> None:
    """Click particles, train, pick, review and export in a browser, on this machine or by ssh."""
    try:
        import uvicorn

        from tomopicker.serve.app import make_app
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        raise InputError(
            f"the workbench needs {error.name}: pip install 'tomopicker[serve]'"
        ) from error
    from tomopicker.serve.guard import new_token
    from tomopicker.serve.session import Session
    from tomopicker.serve.workbench import Workbench

    with _bind(port) as bound:
        session = Session.open(folder, [*(tomograms or ()), *(more or ())], voxel_size=voxel_size)
        workbench = Workbench(session)
        try:
            if run is not None:
                workbench.rounds.adopt(run)
            token = new_token()
            number = bound.getsockname()[1]
            typer.echo(_WHERE.format(number=number, token=token, host=socket.gethostname()))
            config = uvicorn.Config(
                make_app(workbench, token=token),
                # Its log would print the token with every request.
                access_log=False,
                log_level="warning",
                server_header=False,
                timeout_graceful_shutdown=2,
            )
            uvicorn.Server(config).run(sockets=[bound])
        finally:
            workbench.close()


_WHERE = """The workbench is at

  http://127.0.0.1:{number}/{token}/

From another computer, first:  ssh -N -L {number}:127.0.0.1:{number} {host}
Whoever has this address can work in the session. Everything is saved as you go; Ctrl-C stops."""


def _bind(port: int) -> socket.socket:
    """Take the port on this machine alone, before any work for it."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(("127.0.0.1", port))
        # A browser that is quicker than the server waits, instead of being refused.
        bound.listen(128)
    except OSError as error:
        bound.close()
        raise InputError(
            f"--port {port}: cannot be used ({error.strerror}); give another, or 0 for any that "
            "is free"
        ) from error
    return bound
