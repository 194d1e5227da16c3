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
    roots = _roots(path)
    if not roots:
        raise InputError(
            f"{path}: has neither static_root nor overlay_root, so it does not say where its "
            "tomograms are; give a copick configuration of files, or the tomograms themselves"
        )
    trees = _trees(path, roots)
    if not trees:
        # Where the overlay alone is here, the tomograms are not.
        remote = [root for root in roots if _is_remote(root)]
        where = ", ".join(remote or [str(_local(path, root)) for root in roots])
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


def copick_trees(place: Path) -> list[Path]:
    """Name the folders with `ExperimentRuns` of a project on this machine; none where it is none.

    Raises
    ------
    InputError
        When a configuration cannot be read.
    """
    if place.is_dir():
        return [place] if (place / RUNS).is_dir() else []
    if place.suffix.lower() != ".json" or not place.is_file():
        return []
    return _trees(place, _roots(place))


def picks_in(tree: Path) -> list[Path]:
    """List all picks below the folder that holds `ExperimentRuns`, of whatever kind."""
    files = sorted(tree.glob(f"{RUNS}/*/Picks/*.json"))
    return [file for file in files if not file.name.startswith(".")]


def _roots(path: Path) -> list[str]:
    """Read where a configuration says that data are."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(
            f"{path}: cannot be read as JSON ({error}); give the configuration of a copick project"
        ) from error
    names = ("static_root", "overlay_root")
    return [str(config[name]) for name in names if isinstance(config, dict) and config.get(name)]


def _trees(path: Path, roots: list[str]) -> list[Path]:
    local = [_local(path, root) for root in roots if not _is_remote(root)]
    return [root for root in dict.fromkeys(local) if (root / RUNS).is_dir()]


def _is_remote(root: str) -> bool:
    return re.match(r"(?!local:|file:)\w+:", root) is not None


def _local(path: Path, root: str) -> Path:
    return path.parent / re.sub(r"^(local|file):(//)?", "", root)


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
