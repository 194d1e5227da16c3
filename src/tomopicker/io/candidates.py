"""Candidates: picks with the peaks that follow them, which a cut-off or a person may add."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tomopicker.errors import InputError
from tomopicker.io.particles.rows import number, read_rows
from tomopicker.io.whole import whole_file
from tomopicker.types import Particles

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIX = "_candidates.csv"
"""What follows the tomogram's name in the file's."""

_COLUMNS = ("x", "y", "z", "score", "probability", "picked")


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The best peaks of a tomogram, and which of them were picked."""

    particles: Particles
    """(n,), best first, with scores; with probabilities where the model was calibrated."""
    picked: NDArray[np.bool_]
    """(n,)."""

    @property
    def picks(self) -> Particles:
        """Those that were picked, best first."""
        return self.particles.select(self.picked)


def candidates_path(folder: Path, tomogram: str) -> Path:
    """Where `tomopicker pick` writes the candidates of a tomogram.

    >>> candidates_path(Path("picks"), "TS_03").as_posix()
    'picks/TS_03_candidates.csv'
    """
    return folder / f"{tomogram}{SUFFIX}"


def write_candidates(path: Path, candidates: Candidates, *, overwrite: bool = False) -> None:
    """Write ``x,y,z,score,probability,picked``: voxels of the tomogram from 0, and 1 for a pick.

    Without probabilities their cells are empty.

    Raises
    ------
    InputError
        When the file exists and may not be replaced, or cannot be written.
    """
    table = candidates.particles
    scores = [] if table.scores is None else table.scores.tolist()
    chances = [""] * len(table)
    if table.probabilities is not None:
        chances = [f"{chance:.4f}" for chance in table.probabilities]
    lines = [",".join(_COLUMNS)]
    for (z, y, x), score, chance, picked in zip(
        table.voxels.tolist(), scores, chances, candidates.picked.tolist(), strict=True
    ):
        lines.append(f"{x:.4f},{y:.4f},{z:.4f},{score:.9g},{chance},{int(picked)}")
    with whole_file(path, overwrite=overwrite) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_candidates(path: Path, *, voxel_size: float) -> Candidates:
    """Read what `write_candidates` wrote.

    Parameters
    ----------
    voxel_size
        Ångström, of the tomogram.

    Raises
    ------
    InputError
        When the file is missing, or is not such a table.
    """
    (line, header), *rows = read_rows(path)
    if tuple(header) != _COLUMNS:
        raise InputError(
            f"{path}: line {line} is not {','.join(_COLUMNS)}, so this is no list of candidates; "
            "`tomopicker pick` writes one"
        )
    values = np.empty((len(rows), len(_COLUMNS)))
    for row, (line, cells) in enumerate(rows):
        if len(cells) != len(_COLUMNS):
            raise InputError(
                f"{path}: line {line} has {len(cells)} columns where {len(_COLUMNS)} were expected;"
                " correct or remove that line"
            )
        for column, (name, cell) in enumerate(zip(_COLUMNS, cells, strict=True)):
            unknown = name == "probability" and not cell
            values[row, column] = np.nan if unknown else number(path, line, name, cell)
    chances = values[:, 4]
    return Candidates(
        particles=Particles.from_voxels(
            values[:, 2::-1],
            voxel_size=voxel_size,
            scores=values[:, 3],
            probabilities=None if np.isnan(chances).any() else chances,
        ),
        picked=values[:, 5] != 0,
    )
