"""tomopicker merge: lists of several kinds of particle, where a place holds but one."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tomopicker.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tomopicker.io.record import Record
    from tomopicker.kinds import Kind
    from tomopicker.types import Particles

_SUMMARY = "summary.csv"
_COLUMNS = ("tomogram", "kind", "picks", "left_out")


@dataclass(frozen=True, kw_only=True)
class _Folder:
    """What `tomopicker pick` wrote of one kind."""

    kind: str
    path: Path
    records: dict[str, Record]
    """By the tomogram's name."""

    def lists(self, out: Path, tomogram: str) -> dict[str, Path]:
        """Where its lists of a tomogram go, by format; those that it was picked in."""
        formats = ("csv", *self.records[tomogram].origin.formats)
        return {format: _place(out, self.kind, format, tomogram) for format in formats}


def merge(
    folders: Annotated[
        list[str],
        typer.Argument(
            metavar="FOLDERS",
            help="Folders that `tomopicker pick` wrote, one for each kind of particle; without "
            "KIND= the kind is called as the folder.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the lists.", show_default=False)],
    force: Annotated[
        bool, typer.Option("--force", help="Replace lists that are already there.")
    ] = False,
) -> None:
    """Settle which kind it is, where lists of several kinds claim one place.

    Where two picks of different kinds are too near to be both there, the more probable one stays.
    """
    from tomopicker.cli.run import check_folder, console, progress_bar
    from tomopicker.io.whole import whole_file

    check_folder(out)
    kinds = [_read_folder(text) for text in folders]
    _check(kinds, out)
    names = sorted({name for kind in kinds for name in kind.records})
    if not force:
        for path in [out / _SUMMARY, *_planned(kinds, out)]:
            if path.exists():
                raise InputError(f"{path}: is already there; give another --out, or --force")
    earlier = _left_over(kinds, out)
    rows: list[tuple[str, str, int, int]] = []
    with progress_bar("Merging") as bar:
        for number, name in enumerate(names):
            missing = [kind.kind for kind in kinds if name not in kind.records]
            if missing:
                console.print(
                    f"Warning: {name} was not picked for {' and '.join(missing)}: what they would "
                    "claim there stays with the others",
                    soft_wrap=True,
                )
            rows += _merge_one(name, [kind for kind in kinds if name in kind.records], out)
            bar.show((number + 1) / len(names))
    _list_for_relion(out, kinds)
    there: list[Sequence[object]] = [*rows, *earlier]
    there.sort(key=lambda row: str(row[0]))
    with (
        whole_file(out / _SUMMARY, overwrite=True) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(there)
    for kind in kinds:
        stayed = sum(row[2] for row in rows if row[1] == kind.kind)
        lost = sum(row[3] for row in rows if row[1] == kind.kind)
        console.print(
            f"{kind.kind}: {stayed} of {stayed + lost} picks stay in {len(kind.records)} "
            f"tomogram(s), {lost} are another kind's",
            soft_wrap=True,
        )
    for name in sorted({row[1] for row in earlier}):
        some = [row[0] for row in earlier if row[1] == name]
        others = f" and {len(some) - 1} more" if len(some) > 1 else ""
        console.print(
            f"Warning: {out} still holds what an earlier merge left of {name} in {some[0]}{others}"
            ", which is not merged now; remove it if it does not belong there any more",
            soft_wrap=True,
        )
    console.print(f"See {out / _SUMMARY}", soft_wrap=True)


def _read_folder(text: str) -> _Folder:
    from tomopicker.io.record import read_record

    told, equals, place = text.partition("=")
    path = Path(place) if equals else Path(text)
    kind = told if equals else path.absolute().name
    if not re.fullmatch(r"[\w.+-]*\w", kind):
        raise InputError(
            f"{text}: {kind or 'nothing'} cannot be a kind's name, as it names files; write "
            "KIND=FOLDER with a name of letters, digits and -"
        )
    if not path.is_dir():
        raise InputError(f"{path}: is no folder; give the --out of `tomopicker pick`")
    records = {}
    for file in sorted(path.glob("*.json")):
        if not file.name.startswith("."):
            record = read_record(file)
            records[record.tomogram] = record
    if not records:
        raise InputError(
            f"{path}: holds no picks with a record; give the --out of `tomopicker pick`"
        )
    return _Folder(kind=kind, path=path, records=records)


def _check(kinds: Sequence[_Folder], out: Path) -> None:
    """Refuse what cannot be merged."""
    if len(kinds) < 2:
        raise InputError("give the folders of two kinds or more; there is nothing to settle in one")
    names = [_copick_name(kind.kind) for kind in kinds]
    written = [out, *(out / kind.kind for kind in kinds)]
    for kind in kinds:
        if names.count(_copick_name(kind.kind)) > 1:
            raise InputError(
                f"{kind.kind}: names two kinds (_ and - are one); write KIND=FOLDER with another "
                "name for one of them"
            )
        for folder in written:
            if folder.resolve() == kind.path.resolve():
                raise InputError(
                    f"{out}: the lists of {kind.kind}, which are in {kind.path}, would be "
                    "overwritten; give another --out"
                )
    first: dict[str, tuple[_Folder, Record]] = {}
    for kind in kinds:
        for name, record in kind.records.items():
            other, like = first.setdefault(name, (kind, record))
            if record.radius_angstrom is None:
                raise InputError(
                    f"{kind.path}: does not tell the particle's radius, as picks of an early "
                    "version; pick again, into another --out"
                )
            same = abs(record.voxel_size / like.voxel_size - 1) < 1e-3
            if record.shape != like.shape or not same:
                raise InputError(
                    f"{name}: was picked in another volume for {kind.kind} than for {other.kind} "
                    f"({_volume(record)}, and {_volume(like)}); pick the same one for both"
                )


def _left_over(kinds: Sequence[_Folder], out: Path) -> list[list[str]]:
    """Rows of an earlier summary whose lists are there and are not going to be replaced."""
    try:
        text = (out / _SUMMARY).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    header, *rows = [*csv.reader(text.splitlines())] or [[]]
    if tuple(header) != _COLUMNS:
        return []
    now = {(name, kind.kind) for kind in kinds for name in kind.records}
    return [
        row
        for row in rows
        if len(row) == len(_COLUMNS)
        and (row[0], row[1]) not in now
        and (out / row[1] / f"{row[0]}.csv").is_file()
    ]


def _merge_one(name: str, kinds: Sequence[_Folder], out: Path) -> list[tuple[str, str, int, int]]:
    """Settle one tomogram and write its lists; rows of the summary."""
    from tomopicker.io.particles import write_particles
    from tomopicker.kinds import settle

    found = [_picks(kind, name) for kind in kinds]
    stay = settle(found)
    kept = [kind.picks.select(stays) for kind, stays in zip(found, stay, strict=True)]
    for folder, kind, picks in zip(kinds, found, kept, strict=True):
        record = folder.records[name]
        for format, place in folder.lists(out, name).items():
            write_particles(
                place,
                replace(picks, tomograms=(name,) * len(picks)),
                format=format,
                shape=record.shape,
                pixel_size=record.origin.pixel_size,
                extent=record.extent,
                radius=kind.radius_angstrom,
                overwrite=True,
            )
    write_particles(out / f"{name}.csv", _joined(kinds, kept), overwrite=True)
    return [
        (name, folder.kind, int(stays.sum()), int((~stays).sum()))
        for folder, stays in zip(kinds, stay, strict=True)
    ]


def _picks(folder: _Folder, name: str) -> Kind:
    from tomopicker.io.candidates import candidates_path, read_candidates
    from tomopicker.kinds import Kind

    record = folder.records[name]
    path = candidates_path(folder.path, name)
    candidates = read_candidates(path, voxel_size=record.voxel_size)
    assert record.radius_angstrom is not None  # as was checked
    return Kind(name=folder.kind, radius_angstrom=record.radius_angstrom, picks=candidates.picks)


def _joined(kinds: Sequence[_Folder], kept: Sequence[Particles]) -> Particles:
    """All picks of a tomogram in one table, with a column that tells the kind."""
    import numpy as np

    from tomopicker.types import Particles

    chances = [picks.probabilities for picks in kept if picks.probabilities is not None]
    return Particles(
        positions=np.concatenate([picks.positions for picks in kept]),
        voxel_size=kept[0].voxel_size,
        # Each of its own model: only within a kind is a higher one better.
        scores=np.concatenate([picks.scores for picks in kept if picks.scores is not None]),
        probabilities=np.concatenate([np.zeros(0), *chances]),
        extra={
            "kind": tuple(
                folder.kind
                for folder, picks in zip(kinds, kept, strict=True)
                for _ in range(len(picks))
            )
        },
    )


def _planned(kinds: Sequence[_Folder], out: Path) -> list[Path]:
    """All lists that are going to be written."""
    of_all = [out / f"{name}.csv" for kind in kinds for name in kind.records]
    return of_all + [
        place for kind in kinds for name in kind.records for place in kind.lists(out, name).values()
    ]


def _copick_name(kind: str) -> str:
    """As a part of a file's name that underscores part."""
    return kind.replace("_", "-")


def _place(out: Path, kind: str, format: str, tomogram: str) -> Path:
    """Where a kind's list of a tomogram goes: as `pick` places it, in a folder of its kind.

    Of copick all kinds are in one folder, as its project has them, each under its name.
    """
    from tomopicker.io.particles import place_of

    place = place_of(format, tomogram)
    if format == "csv":
        return out / kind / place
    if format == "copick":
        return out / format / place.with_name(f"tomopicker_1_{_copick_name(kind)}.json")
    return out / kind / format / place


def _list_for_relion(out: Path, kinds: Sequence[_Folder]) -> None:
    from tomopicker.io.particles import write_import_list

    for kind in kinds:
        if (out / kind.kind / "relion5").is_dir():
            write_import_list(out / kind.kind / "relion5")


def _volume(record: Record) -> str:
    z, y, x = record.shape
    return f"{x} × {y} × {z} voxels of {record.voxel_size:g} Å"
