"""The candidates beside a list of picks are the list and what follows it."""

from pathlib import Path

import numpy as np
import pytest

from tomopicker.errors import InputError
from tomopicker.io.candidates import (
    Candidates,
    candidates_path,
    read_candidates,
    write_candidates,
)
from tomopicker.io.particles import list_files, read_particles
from tomopicker.types import Particles


def some(*, probabilities: bool) -> Candidates:
    return Candidates(
        particles=Particles.from_voxels(
            np.array([[1.25, 2.5, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.5]]),
            voxel_size=12.5,
            scores=np.array([3.5, 1.25, -0.5]),
            probabilities=np.array([0.99, 0.5, 0.0]) if probabilities else None,
        ),
        picked=np.array([True, True, False]),
    )


@pytest.mark.parametrize("probabilities", [True, False])
def test_what_is_read_is_what_was_written(tmp_path: Path, probabilities: bool) -> None:
    written, path = some(probabilities=probabilities), tmp_path / "TS_1_candidates.csv"
    write_candidates(path, written)
    read = read_candidates(path, voxel_size=12.5)
    np.testing.assert_allclose(read.particles.voxels, written.particles.voxels)
    assert read.particles.scores is not None
    assert read.particles.scores.tolist() == [3.5, 1.25, -0.5]
    assert read.picked.tolist() == [True, True, False]
    assert read.picks.voxels[:, 2].tolist() == [3.0, 6.0]
    if probabilities:
        assert read.particles.probabilities is not None
        assert read.particles.probabilities.tolist() == [0.99, 0.5, 0.0]
    else:
        assert read.particles.probabilities is None


def test_the_columns_are_those_that_the_documents_tell(tmp_path: Path) -> None:
    path = tmp_path / "TS_1_candidates.csv"
    write_candidates(path, some(probabilities=True))
    assert path.read_text().splitlines()[:2] == [
        "x,y,z,score,probability,picked",
        "3.0000,2.5000,1.2500,3.5,0.9900,1",
    ]
    # Most of them are no picks: no other command takes them for such.
    with pytest.raises(InputError, match="without _candidates"):
        read_particles(path, voxel_size=12.5)


def test_candidates_are_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write_candidates(path, some(probabilities=True))
    with pytest.raises(InputError, match="exists already"):
        write_candidates(path, some(probabilities=True))
    write_candidates(path, some(probabilities=False), overwrite=True)
    assert read_candidates(path, voxel_size=1).particles.probabilities is None


def test_no_candidates_are_read_as_none(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y,z,score,probability,picked\n")
    read = read_candidates(tmp_path / "a.csv", voxel_size=1)
    assert len(read.particles) == len(read.picks) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y,z,score\n1,2,3,4\n", "line 1 is not x,y,z,score,probability,picked"),
        ("x,y,z,score,probability,picked\n1,2,3,4,0.5\n", "line 2 has 5 columns"),
        ("x,y,z,score,probability,picked\n1,2,c,4,0.5,1\n", "line 2"),
        ("", "is empty"),
    ],
)
def test_another_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_candidates(tmp_path / "a.csv", voxel_size=1)


def test_a_folder_of_picks_lists_no_candidates(tmp_path: Path) -> None:
    for name in ("TS_1.csv", "TS_1_candidates.csv", "all_candidates.csv"):
        (tmp_path / name).write_text("x,y,z\n1,2,3\n")
    assert candidates_path(tmp_path, "TS_1").is_file()
    # A list of one's own may be called so.
    assert list(list_files(tmp_path)) == ["TS_1", "all_candidates"]
