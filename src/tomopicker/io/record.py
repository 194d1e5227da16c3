"""The record beside a list of picks: from what, how and when it was made.

It is written after everything else of its tomogram, so that where it is, all is there.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tomopicker import __version__
from tomopicker.errors import InputError
from tomopicker.io.whole import whole_file

if TYPE_CHECKING:
    from tomopicker.calibrate import ScoreHistogram

Finite = Annotated[float, Field(allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Size = Annotated[int, Field(gt=0)]
Number = Annotated[int, Field(ge=0)]

FAILED = "failed"
"""Folder among the picks with a record of each tomogram that could not be picked."""

_DESCRIBE = ("zarr.json", ".z*", "*/zarr.json", "*/.z*")
"""Files of a zarr folder that say what is in it."""

_Kind = TypeVar("_Kind", bound=BaseModel)


class Part(BaseModel):
    """A part of a record: frozen, and an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RecordedCut(Part):
    """What ended the list; nothing where it ended by itself."""

    count: Size | None = None
    threshold: float | None = None
    fdr: Annotated[float, Field(ge=0, lt=1)] | None = None


class RecordedFile(Part):
    """Which state of a file was read."""

    path: str
    """Absolute."""
    size: Number
    """Bytes; of a folder, as zarr's, those of the files that describe it."""
    mtime_ns: int
    """When it was changed last, nanoseconds; of a folder, what describes it."""

    @classmethod
    def of(cls, path: Path) -> Self:
        """Look at a file as it is now; one that is missing has no size and no time.

        Of a folder its first level is looked at and the level below, not the chunks, which can be
        tens of thousands.
        """
        try:
            files = [path]
            if path.is_dir():
                files += [file for pattern in _DESCRIBE for file in path.glob(pattern)]
            states = [file.stat() for file in files]
        except OSError:
            states = []
        return cls(
            path=str(path.resolve()),
            size=sum(state.st_size for state in states),
            mtime_ns=max((state.st_mtime_ns for state in states), default=0),
        )

    @property
    def is_missing(self) -> bool:
        """Whether the file was not there."""
        return not self.size and not self.mtime_ns


class Origin(Part):
    """All that decides the picks of a tomogram: of the same origin they are the same."""

    checkpoint: str
    """SHA-256 of the file."""
    tomogram: tuple[RecordedFile, ...]
    """Its file, or the files of its half maps."""
    voxel_size: Positive | None = None
    """Ångström, where an option or a list said it; otherwise the header does."""
    cut: RecordedCut = RecordedCut()
    mask: RecordedFile | Literal["auto"] | None = None
    formats: tuple[str, ...] = ()
    """Beside CSV."""
    pixel_size: Positive | None = None
    """Ångström, of the unbinned tilt series."""

    def changes(self, now: Origin) -> list[str]:
        """Say what differs from this origin, each as what it was and what it is now.

        >>> was = Origin(checkpoint="ab", tomogram=(), cut=RecordedCut(count=5))
        >>> was.changes(Origin(checkpoint="cd", tomogram=(), cut=RecordedCut(fdr=0.1)))
        ['another checkpoint', 'cut --count 5, now --fdr 0.1']
        """
        changes = [] if self.checkpoint == now.checkpoint else ["another checkpoint"]
        if self.tomogram != now.tomogram:
            changes.append(_file_change("tomogram", self.tomogram, now.tomogram))
        if isinstance(self.mask, RecordedFile) and isinstance(now.mask, RecordedFile):
            if self.mask != now.mask:
                changes.append(_file_change("mask", (self.mask,), (now.mask,)))
        elif self.mask != now.mask:
            changes.append(f"mask {_mask(self.mask)}, now {_mask(now.mask)}")
        told = {
            "cut": (_cut(self.cut), _cut(now.cut)),
            "voxel size": (self.voxel_size, now.voxel_size),
            "formats": (" and ".join(self.formats), " and ".join(now.formats)),
            "pixel size": (self.pixel_size, now.pixel_size),
        }
        return changes + [
            f"{what} {was or 'not given'}, now {is_now or 'not given'}"
            for what, (was, is_now) in told.items()
            if was != is_now
        ]


class RecordedCount(Part):
    """Estimated number of particles in the tomogram, with its interval (about 95 %)."""

    estimate: NotNegative
    low: NotNegative
    high: NotNegative


class RecordedHistogram(Part):
    """Scores of all the peaks that the probabilities come from; see `calibrate.ScoreHistogram`."""

    edges: tuple[Finite, ...]
    counts: tuple[Number, ...]
    particles: tuple[NotNegative, ...]
    others: tuple[NotNegative, ...]
    unlike_training: Annotated[float, Field(ge=0, le=1)]
    """Least share of the peaks that would have to score differently to be as in training."""

    @classmethod
    def of(cls, histogram: ScoreHistogram) -> RecordedHistogram:
        """Take the numbers of a histogram."""
        return cls(
            edges=tuple(histogram.edges.tolist()),
            counts=tuple(histogram.counts.tolist()),
            particles=tuple(histogram.particles.tolist()),
            others=tuple(histogram.others.tolist()),
            unlike_training=histogram.unlike_training,
        )

    @model_validator(mode="after")
    def _lengths_agree(self) -> RecordedHistogram:
        bins = len(self.counts)
        if {len(self.edges) - 1, len(self.particles), len(self.others)} != {bins}:
            raise ValueError("the histogram's columns differ in length")
        return self


class Record(Part):
    """How the picks of one tomogram were made."""

    tomopicker: str = __version__
    command: str
    """As it was typed."""
    finished: str
    """Date and time, ISO 8601."""
    seconds: NotNegative
    """From reading the tomogram to its picks."""
    device: str
    tomogram: str
    """Its name."""
    path: str
    """Where it was."""
    shape: tuple[Size, Size, Size]
    """Voxels, ``z y x``."""
    voxel_size: Positive
    """Ångström."""
    scored_voxel_size: Positive
    """Ångström, of the voxels that it was brought to."""
    radius_angstrom: Positive | None = None
    """Of the particle; None in records of early versions."""
    extent: tuple[Positive, Positive, Positive] | None = None
    """Of the tomogram, ``x y z`` in ångström, where a project states it."""
    origin: Origin
    picks: Number
    threshold: Finite | None
    """Score of the last pick."""
    estimated: RecordedCount | None = None
    """None where the model was not calibrated, as the following."""
    lengths: dict[str, Number] = {}
    """Length of the list at false-discovery rates, such as 0.05."""
    histogram: RecordedHistogram | None = None
    by_contrasts: bool = False
    """Whether a template's contrasts told number and probabilities, and not the scores alone."""


class Failure(Part):
    """Why a tomogram could not be picked."""

    tomogram: str
    path: str
    finished: str
    """Date and time, ISO 8601."""
    seconds: NotNegative
    reason: str


def sha256_of(path: Path) -> str:
    """Hash a file.

    Raises
    ------
    InputError
        When it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give another") from error


def now() -> str:
    """Tell date and time as records do, ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def record_path(folder: Path, tomogram: str) -> Path:
    """Where `tomopicker pick` writes the record of a tomogram.

    >>> record_path(Path("picks"), "TS_03").as_posix()
    'picks/TS_03.json'
    """
    return folder / f"{tomogram}.json"


def failure_path(folder: Path, tomogram: str) -> Path:
    """Where `tomopicker pick` writes why it could not pick a tomogram.

    >>> failure_path(Path("picks"), "TS_04").as_posix()
    'picks/failed/TS_04.json'
    """
    return folder / FAILED / f"{tomogram}.json"


def write_record(path: Path, record: Record | Failure, *, overwrite: bool = False) -> None:
    """Write a record as JSON, whole or not at all.

    Raises
    ------
    InputError
        When the file exists and may not be replaced, or cannot be written.
    """
    with whole_file(path, overwrite=overwrite) as temporary:
        temporary.write_text(record.model_dump_json() + "\n", encoding="utf-8")


def read_failure(path: Path) -> Failure:
    """Read what `write_record` wrote of a failure.

    Raises
    ------
    InputError
        When the file is missing, or is not such a record.
    """
    return _read(path, Failure)


def read_record(path: Path) -> Record:
    """Read what `write_record` wrote.

    Raises
    ------
    InputError
        When the file is missing, or is not such a record.
    """
    return _read(path, Record)


def _read(path: Path, kind: type[_Kind]) -> _Kind:
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); `tomopicker pick` writes it beside its "
            "list: pick again, or give the folder that it wrote to"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise InputError(
            f"{path}: is not a record of picks ({where}: {first['msg']}); pick again"
        ) from error


def _file_change(what: str, was: tuple[RecordedFile, ...], is_now: tuple[RecordedFile, ...]) -> str:
    if [file.path for file in was] != [file.path for file in is_now]:
        before, after = (" and ".join(file.path for file in files) for files in (was, is_now))
        return f"{what} {before}, now {after}"
    return f"the {what}'s file was changed since"


def _cut(cut: RecordedCut) -> str:
    given = [f"--{name} {value:g}" for name, value in cut if value is not None]
    return given[0] if given else "by itself"


def _mask(mask: RecordedFile | str | None) -> str:
    return "a file" if isinstance(mask, RecordedFile) else mask or "not given"
