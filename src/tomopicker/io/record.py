"""The record beside a list of picks: from what, how and when it was made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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


class Part(BaseModel):
    """A part of a record: frozen, and an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RecordedCut(Part):
    """What ended the list; nothing where it ended by itself."""

    count: Size | None = None
    threshold: float | None = None
    fdr: Annotated[float, Field(ge=0, lt=1)] | None = None


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
    cut: RecordedCut = RecordedCut()
    picks: Number
    threshold: Finite | None
    """Score of the last pick."""
    estimated: RecordedCount | None = None
    """None where the model was not calibrated, as the following."""
    lengths: dict[str, Number] = {}
    """Length of the list at false-discovery rates, such as 0.05."""
    histogram: RecordedHistogram | None = None


def record_path(folder: Path, tomogram: str) -> Path:
    """Where `tomopicker pick` writes the record of a tomogram.

    >>> record_path(Path("picks"), "TS_03").as_posix()
    'picks/TS_03.json'
    """
    return folder / f"{tomogram}.json"


def write_record(path: Path, record: Record, *, overwrite: bool = False) -> None:
    """Write a record as JSON, whole or not at all.

    Raises
    ------
    InputError
        When the file exists and may not be replaced, or cannot be written.
    """
    with whole_file(path, overwrite=overwrite) as temporary:
        temporary.write_text(record.model_dump_json() + "\n", encoding="utf-8")


def read_record(path: Path) -> Record:
    """Read what `write_record` wrote.

    Raises
    ------
    InputError
        When the file is missing, or is not such a record.
    """
    try:
        return Record.model_validate_json(path.read_bytes())
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
