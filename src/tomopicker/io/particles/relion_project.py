"""What RELION-5 keeps beside particle lists: which lists there are, and of which tomograms."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from tomopicker.io.names import series_name
from tomopicker.io.particles import star

IMPORT_LIST, OPTIMISATION_SET = "import_coords.star", "optimisation_set.star"
NOT_LISTS = (IMPORT_LIST, OPTIMISATION_SET)
"""Files in a folder of lists that are none themselves."""


def write_import_list(folder: Path) -> Path:
    """List a folder's STAR files as RELION's job "Import coordinates" wants them.

    Replaces the list that is there: it is nothing but a list of the folder. Several processes may
    fill the folder and do this; the last of them leaves it complete.

    Returns
    -------
    Path
        The list, ``import_coords.star``.
    """
    listed: list[Path] | None = None
    # Until nothing came while it was written: whoever replaces it last has seen everything.
    while listed != (files := _lists_in(folder)):
        table = pd.DataFrame(
            {
                "rlnTomoName": [series_name(file.stem) for file in files],
                "rlnTomoImportParticleFile": [str(file.resolve()) for file in files],
            }
        )
        star.write_blocks(folder / IMPORT_LIST, {"particles": table}, overwrite=True)
        listed = files
    return folder / IMPORT_LIST


def write_optimisation_set(
    path: Path, *, particles: Path, tomograms: Path, overwrite: bool = False
) -> None:
    """Write the file that gives RELION's jobs a particle list together with its tomograms.

    Raises
    ------
    InputError
        When the file exists and may not be replaced, or cannot be written.
    """
    content = {
        "rlnTomoParticlesFile": str(particles.resolve()),
        "rlnTomoTomogramsFile": str(tomograms.resolve()),
    }
    star.write_blocks(path, {"": content}, overwrite=overwrite)


def _lists_in(folder: Path) -> list[Path]:
    # A hidden file may be one that is being written.
    return [
        file
        for file in sorted(folder.glob("*.star"))
        if file.name not in NOT_LISTS and not file.name.startswith(".")
    ]
