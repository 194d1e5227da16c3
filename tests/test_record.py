"""The record of a list tells how it was made, and what it was cut by."""

from pathlib import Path

import numpy as np
import pytest

from tomopicker.calibrate import LabelledScores, judge, learn_calibration
from tomopicker.errors import InputError
from tomopicker.io.record import (
    Origin,
    Record,
    RecordedCount,
    RecordedCut,
    RecordedFile,
    RecordedHistogram,
    read_record,
    record_path,
    write_record,
)


def record() -> Record:
    return Record(
        command="tomopicker pick 'my run' a.mrc --out picks",
        finished="2026-01-02T03:04:05+0000",
        seconds=12.5,
        device="cpu",
        tomogram="a",
        path="data/a.mrc",
        shape=(10, 20, 30),
        voxel_size=10.0,
        scored_voxel_size=15.0,
        origin=Origin(
            checkpoint="ab",
            tomogram=(RecordedFile(path="/data/a.mrc", size=24_000, mtime_ns=1),),
            cut=RecordedCut(fdr=0.1),
            mask="auto",
            formats=("relion5",),
        ),
        picks=7,
        threshold=-0.25,
        estimated=RecordedCount(estimate=9.5, low=4.0, high=20.0),
        lengths={"0.05": 3, "0.1": 7},
        histogram=RecordedHistogram(
            edges=(0.0, 0.5, 1.0),
            counts=(5, 2),
            particles=(1.0, 1.5),
            others=(4.5, 0.25),
            unlike_training=0.125,
        ),
    )


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    path = record_path(tmp_path, "a")
    write_record(path, record())
    assert read_record(path) == record()
    with pytest.raises(InputError, match="exists already"):
        write_record(path, record())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "is not a record of picks"),
        ("not json", "is not a record of picks"),
        (record().model_dump_json().replace('"picks":7', '"picks":-7'), r"\(picks: "),
        (record().model_dump_json().replace("[5,2]", "[5,2,1]"), "differ in length"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_record(tmp_path / "a.json")


def test_a_missing_record_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pick again"):
        read_record(tmp_path / "a.json")


def _peaks(rng: np.random.Generator, particles: int, *, scale: float = 1.0) -> np.ndarray:
    """Scores of 3,000 other peaks and some particles, apart from them."""
    both = np.concatenate([rng.exponential(0.6, 3000), rng.normal(5, 0.5, particles)])
    return np.sort(scale * both)[::-1]


def test_the_histogram_counts_every_peak_and_its_fit_splits_them() -> None:
    rng = np.random.default_rng(3)
    scores = _peaks(rng, 200)
    labelled = LabelledScores(scores=rng.normal(5, 0.5, 40), total=40)
    calibration = learn_calibration([(scores, labelled)], known=40, held_out=True)
    assert calibration.raw_scores == tuple(sorted(labelled.scores))
    histogram = judge(_peaks(rng, 200, scale=2.0), calibration).histogram
    assert histogram is not None
    assert histogram.counts.sum() == 3200
    assert histogram.particles.sum() == pytest.approx(200, rel=0.1)
    assert histogram.others.sum() == pytest.approx(3000, rel=0.05)
    # In the scores' own units, which are twice those of training: particles at 10, not 5.
    centres = (histogram.edges[:-1] + histogram.edges[1:]) / 2
    mean = float(histogram.particles @ centres / histogram.particles.sum())
    assert mean == pytest.approx(10, abs=0.3)


def test_a_tomogram_like_that_of_training_is_told_from_one_that_is_not() -> None:
    rng = np.random.default_rng(4)
    scores = _peaks(rng, 200)
    labelled = LabelledScores(scores=rng.normal(5, 0.5, 40), total=40)
    calibration = learn_calibration([(scores, labelled)], known=40, held_out=True)
    like = judge(_peaks(rng, 200), calibration).histogram
    other = judge(_peaks(rng, 2000), calibration).histogram
    assert like is not None
    assert other is not None
    assert like.unlike_training < 0.1
    assert other.unlike_training > 0.2
