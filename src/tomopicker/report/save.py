"""Write a figure to a file, whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl

from tomopicker.errors import InputError
from tomopicker.io.whole import whole_file

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

# Dates would make two pictures of the same data differ.
_METADATA: dict[str, dict[str, Any]] = {
    ".png": {},
    ".pdf": {"CreationDate": None},
    ".svg": {"Date": None},
}


def save_figure(figure: Figure, path: Path, *, force: bool = False, dpi: int = 300) -> None:
    """Write a figure as PNG, PDF or SVG, by the suffix of the file.

    Parameters
    ----------
    figure
        The picture; it can be written again.
    path
        File to write, in a folder that exists.
    force
        Replace the file when it exists.
    dpi
        Pixels per inch of a PNG, and of the images inside a PDF or SVG.

    Raises
    ------
    InputError
        When the suffix is none of the three, the folder is missing, the file exists and
        `force` is false, or the system refuses to write.
    """
    check_writable(path, force=force)
    suffix = path.suffix.lower()
    with (
        whole_file(path, overwrite=force) as temporary,
        # Letters stay letters, so that a journal or the reader can edit and search them.
        mpl.rc_context({"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "tomopicker"}),
    ):
        figure.savefig(
            temporary,
            format=suffix[1:],
            dpi=dpi,
            metadata=_METADATA[suffix],
            bbox_inches="tight",
            pad_inches=0.05,
        )


def check_writable(path: Path, *, force: bool = False) -> None:
    """Refuse a path that `save_figure` would refuse, before the work of drawing is done.

    Raises
    ------
    InputError
        As `save_figure`.
    """
    if path.suffix.lower() not in _METADATA:
        known = ", ".join(_METADATA)
        raise InputError(f"{path}: a picture's name ends in one of {known}, not '{path.suffix}'")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; make it first")
    if path.exists() and not force:
        raise InputError(f"{path}: the file exists; choose another name or add --force")
