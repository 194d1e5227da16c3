"""Copick projects: runs with tomograms in a tree of zarr volumes, read without that package."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tomopicker.errors import InputError
from tomopicker.io.tomograms.source import Source

RUNS = "ExperimentRuns"
"""The folder of a copick tree that holds one folder per run."""


def read_copick_config(path: Path) -> list[Source]:
    """Read which tomograms a copick project has, from its configuration file (JSON).

    Raises
    ------
    InputError
        When it is no such file, its data are not on this machine, or `read_copick_tree` refuses.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(
            f"{path}: cannot be read as JSON ({error}); give the configuration of a copick project"
        ) from error
    names = ("static_root", "overlay_root")
    roots = [str(config[name]) for name in names if isinstance(config, dict) and config.get(name)]
    if not roots:
        raise InputError(
            f"{path}: has neither static_root nor overlay_root, so it does not say where its "
            "tomograms are; give a copick configuration of files, or the tomograms themselves"
        )
    remote = [root for root in roots if re.match(r"(?!local:|file:)\w+:", root)]
    local = [
        path.parent / re.sub(r"^(local|file):(//)?", "", root)
        for root in roots
        if root not in remote
    ]
    trees = [root for root in local if (root / RUNS).is_dir()]
    if not trees:
        # Where the overlay alone is here, the tomograms are not.
        where = ", ".join(remote or [str(root) for root in local])
        raise InputError(
            f"{path}: its tomograms are not on this machine ({where} has no folder {RUNS} here); "
            "copy them here and give that folder"
        )
    return _sources(trees, path)


def read_copick_tree(folder: Path) -> list[Source]:
    """List the tomograms of the folder that holds `ExperimentRuns`.

    They are `ExperimentRuns/RUN/VoxelSpacing10.000/KIND.zarr`.

    Raises
    ------
    InputError
        When there is none, or a run has several: the user has to say which.
    """
    return _sources([folder], folder)


def _sources(roots: list[Path], listed: Path) -> list[Source]:
    pattern = f"{RUNS}/*/VoxelSpacing*/*.zarr"
    files = [file for root in roots for file in sorted(root.glob(pattern))]
    files = [file for file in files if not file.name.startswith(".")]
    if not files:
        raise InputError(f"{listed}: has no tomograms ({pattern}) in {_listed(roots)}")
    kinds = sorted({f"{file.parent.name}/{file.name}" for file in files})
    if len(kinds) > 1:
        choice = roots[0] / RUNS / "*" / kinds[0]
        raise InputError(
            f"{listed}: has tomograms of {len(kinds)} kinds ({', '.join(kinds)}); give one kind, "
            f"as '{choice}'"
        )
    return [
        Source(
            name=file.parent.parent.name,
            paths=(file.absolute(),),
            listed=listed,
            voxel_size=_spacing(file.parent.name),
        )
        for file in files
    ]


def _spacing(folder: str) -> float | None:
    number = re.fullmatch(r"VoxelSpacing(\d+(?:\.\d+)?)", folder)
    return float(number.group(1)) if number and float(number.group(1)) > 0 else None


def _listed(paths: list[Path]) -> str:
    return ", ".join(str(path) for path in paths)
