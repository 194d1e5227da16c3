"""Where lists of several kinds of particle claim one place, one kind keeps it."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Command
from described import record_of
from tomopicker.errors import InputError
from tomopicker.io.candidates import Candidates, candidates_path, write_candidates
from tomopicker.io.particles import read_particles
from tomopicker.io.record import Origin, record_path, write_record
from tomopicker.kinds import CONTACT, Kind, settle
from tomopicker.types import Particles

SHAPE = (40, 60, 80)


def kind(
    name: str, radius: float, places: list[tuple[float, float, float]], chances: list[float] | None
) -> Kind:
    """Picks at places ``x y z`` in ångström."""
    return Kind(
        name=name,
        radius_angstrom=radius,
        picks=Particles(
            positions=np.array(places, dtype=float).reshape(-1, 3),
            voxel_size=10.0,
            probabilities=None if chances is None else np.array(chances),
        ),
    )


def test_the_more_probable_kind_keeps_a_place() -> None:
    ribosomes = kind("ribosome", 150, [(0, 0, 0), (500, 0, 0)], [0.9, 0.4])
    rings = kind("ring", 50, [(79, 0, 0), (420, 0, 0), (581, 0, 0)], [0.8, 0.6, 0.3])
    # 0.4 x (150 + 50) = 80: the first is too near to a more probable one, the second displaces a
    # less probable one, the third is far enough.
    stay = settle([ribosomes, rings])
    assert [stays.tolist() for stays in stay] == [[True, True], [False, True, True]]
    rings = kind("ring", 50, [(79, 0, 0), (421, 0, 0), (581, 0, 0)], [0.8, 0.6, 0.3])
    assert [stays.tolist() for stays in settle([ribosomes, rings])] == [
        [True, False],
        [False, True, True],
    ]


def test_what_was_displaced_displaces_nothing() -> None:
    first = kind("a", 100, [(0, 0, 0)], [0.9])
    second = kind("b", 100, [(60, 0, 0)], [0.8])
    third = kind("c", 100, [(120, 0, 0)], [0.7])
    assert [stays.tolist() for stays in settle([first, second, third])] == [[True], [False], [True]]


def test_picks_of_one_kind_are_left_as_they_are() -> None:
    crowded = kind("a", 100, [(0, 0, 0), (10, 0, 0)], [0.9, 0.8])
    assert settle([crowded, kind("b", 100, [], [])])[0].tolist() == [True, True]


def test_equally_probable_picks_go_by_their_rank() -> None:
    # The second of two and the first of one.
    first = kind("a", 100, [(900, 0, 0), (0, 0, 0)], [1.0, 1.0])
    second = kind("b", 100, [(0, 0, 0)], [1.0])
    assert [stays.tolist() for stays in settle([first, second])] == [[True, False], [True]]


def test_of_equal_picks_of_equal_rank_the_first_by_name_stays_whatever_the_order() -> None:
    first, second = kind("a", 100, [(0, 0, 0)], [1.0]), kind("b", 100, [(0, 0, 0)], [1.0])
    assert [stays.tolist() for stays in settle([first, second])] == [[True], [False]]
    assert [stays.tolist() for stays in settle([second, first])] == [[False], [True]]


def test_nothing_to_settle() -> None:
    stay = settle([kind("a", 9, [], []), kind("b", 9, [], None)])
    assert [len(stays) for stays in stay] == [0, 0]


def test_kinds_without_probabilities_are_refused() -> None:
    with pytest.raises(InputError, match=r"^b: .*--preset default"):
        settle([kind("a", 100, [(0, 0, 0)], [1.0]), kind("b", 100, [(0, 0, 0)], None)])


@given(st.integers(0, 2**32 - 1))
def test_as_the_rule_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kinds = [
        kind(
            str(number),
            float(rng.uniform(20, 150)),
            [tuple(place) for place in rng.uniform(0, 400, (int(rng.integers(0, 9)), 3))],
            None,
        )
        for number in range(int(rng.integers(2, 5)))
    ]
    kinds = [
        Kind(
            name=one.name,
            radius_angstrom=one.radius_angstrom,
            picks=Particles(
                positions=one.picks.positions,
                voxel_size=10.0,
                probabilities=np.sort(rng.uniform(size=len(one.picks)))[::-1],
            ),
        )
        for one in kinds
    ]
    everyone = [
        (float(one.picks.probabilities[row]), number, row)  # type: ignore[index]
        for number, one in enumerate(kinds)
        for row in range(len(one.picks))
    ]
    kept: list[tuple[int, int]] = []
    for _, number, row in sorted(everyone, reverse=True):
        mine = kinds[number]
        if all(
            other == number
            or np.linalg.norm(
                mine.picks.positions[row] - kinds[other].picks.positions[another],
            )
            >= CONTACT * (mine.radius_angstrom + kinds[other].radius_angstrom)
            for other, another in kept
        ):
            kept.append((number, row))
    stay = settle(kinds)
    found = {(number, row) for number, one in enumerate(stay) for row in np.flatnonzero(one)}
    assert found == {*kept}


def picked(
    folder: Path,
    name: str,
    voxels: list[tuple[float, float, float]],
    chances: list[float],
    *,
    radius: float | None = 100.0,
    shape: tuple[int, int, int] = SHAPE,
    formats: tuple[str, ...] = ("relion5",),
) -> None:
    """What `pick` leaves of a tomogram, as far as merging needs it; voxels ``z y x``."""
    table = Particles.from_voxels(
        np.array(voxels, dtype=float).reshape(-1, 3),
        voxel_size=10.0,
        scores=np.arange(len(voxels), 0, -1.0),
        probabilities=np.array(chances),
    )
    # The last is no pick, only a candidate.
    among = np.arange(len(voxels)) < len(voxels) - 1
    write_candidates(
        candidates_path(folder, name), Candidates(particles=table, picked=among), overwrite=True
    )
    write_record(
        record_path(folder, name),
        record_of(
            name,
            shape=shape,
            radius_angstrom=radius,
            origin=Origin(checkpoint="ab", tomogram=(), formats=formats),
            picks=len(voxels) - 1,
        ),
        overwrite=True,
    )


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two kinds in two tomograms; in TS_1 both claim the place near z 10."""
    ribosome, ring = tmp_path / "ribosome", tmp_path / "small"
    picked(
        ribosome,
        "TS_1",
        [(10, 10, 10), (20, 30, 40), (30, 50, 70)],
        [0.95, 0.5, 0.1],
        formats=("copick", "relion5"),
    )
    picked(ribosome, "TS_2", [(5, 6, 7), (1, 1, 1)], [0.9, 0.1])
    picked(ring, "TS_1", [(30, 30, 30), (10, 12, 10), (1, 1, 1)], [0.97, 0.6, 0.2], radius=60.0)
    return ribosome, ring


def test_lists_of_each_kind_and_one_of_all(
    tomopicker: Command, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    ribosome, ring = folders
    out = tmp_path / "all"
    done = tomopicker("merge", ribosome, f"ring={ring}", "--out", out)
    assert done.code == 0, done.stderr
    messages = " ".join(done.stderr.split())
    assert "Warning: TS_2 was not picked for ring" in messages
    assert "ribosome: 3 of 3 picks stay in 2 tomogram(s), 0 are another kind's" in messages
    assert "ring: 1 of 2 picks stay in 1 tomogram(s), 1 are another kind's" in messages
    assert (out / "TS_1.csv").read_text().splitlines() == [
        "x,y,z,score,probability,kind",
        "10.0000,10.0000,10.0000,3,0.9500,ribosome",
        "40.0000,30.0000,20.0000,2,0.5000,ribosome",
        "30.0000,30.0000,30.0000,3,0.9700,ring",
    ]
    assert (out / "summary.csv").read_text().splitlines() == [
        "tomogram,kind,picks,left_out",
        "TS_1,ribosome,2,0",
        "TS_1,ring,1,1",
        "TS_2,ribosome,1,0",
    ]
    star = read_particles(out / "ring/relion5/TS_1.star", voxel_size=10.0, shape=SHAPE)
    np.testing.assert_allclose(star.voxels, [(30, 30, 30)], atol=1e-4)
    assert (out / "ring/relion5/import_coords.star").is_file()
    copick = out / "copick/ExperimentRuns/TS_1/Picks/tomopicker_1_ribosome.json"
    assert json.loads(copick.read_text())["pickable_object_name"] == "ribosome"
    np.testing.assert_allclose(
        read_particles(copick, voxel_size=10.0).voxels, [(10, 10, 10), (20, 30, 40)], atol=1e-4
    )
    again = tomopicker("merge", ribosome, f"ring={ring}", "--out", out)
    assert again.code == 2
    assert "is already there; give another --out, or --force" in again.stderr
    assert tomopicker("merge", ribosome, f"ring={ring}", "--out", out, "--force").code == 0


def test_lists_of_an_earlier_merge_stay_and_are_named(
    tomopicker: Command, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    ribosome, ring = folders
    out = tmp_path / "all"
    assert tomopicker("merge", ribosome, f"ring={ring}", "--out", out).code == 0
    # TS_2 is taken out, and the second kind is called otherwise.
    for path in (record_path(ribosome, "TS_2"), candidates_path(ribosome, "TS_2")):
        path.unlink()
    for _ in range(2):
        done = tomopicker("merge", ribosome, ring, "--out", out, "--force")
        assert done.code == 0, done.stderr
        warnings = [line for line in done.errors if "an earlier merge" in line]
        assert [line.split(", which")[0] for line in warnings] == [
            f"Warning: {out} still holds what an earlier merge left of ribosome in TS_2",
            f"Warning: {out} still holds what an earlier merge left of ring in TS_1",
        ]
        assert (out / "summary.csv").read_text().splitlines()[1:] == [
            "TS_1,ribosome,2,0",
            "TS_1,small,1,1",
            "TS_1,ring,1,1",
            "TS_2,ribosome,1,0",
        ]
    (out / "ribosome/TS_2.csv").unlink()
    (out / "ring/TS_1.csv").unlink()
    done = tomopicker("merge", ribosome, ring, "--out", out, "--force")
    assert "earlier merge" not in done.stderr
    assert len((out / "summary.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    "text", ["", "a,b\n1,2\n", "tomogram,kind,picks,left_out\nTS_2,ribosome\n"]
)
def test_a_summary_that_is_none_is_replaced(
    tomopicker: Command, folders: tuple[Path, Path], tmp_path: Path, text: str
) -> None:
    (tmp_path / "all").mkdir()
    (tmp_path / "all/summary.csv").write_text(text)
    done = tomopicker("merge", *folders, "--out", tmp_path / "all", "--force")
    assert done.code == 0, done.stderr
    assert len((tmp_path / "all/summary.csv").read_text().splitlines()) == 4


def lines(path: Path) -> list[str]:
    """What a file says, but for comments, which tell the time."""
    return [line for line in path.read_text().splitlines() if not line.startswith("#")]


def test_the_order_of_the_kinds_does_not_matter(
    tomopicker: Command, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    ribosome, ring = folders
    for out, kinds in (("one", (ribosome, ring)), ("other", (ring, ribosome))):
        assert tomopicker("merge", *kinds, "--out", tmp_path / out).code == 0
    files = [
        path.relative_to(tmp_path / "one")
        for path in sorted((tmp_path / "one").rglob("*/*"))
        if path.is_file() and path.name != "import_coords.star"  # which holds absolute paths
    ]
    assert files
    for file in files:
        assert lines(tmp_path / "one" / file) == lines(tmp_path / "other" / file)


def test_what_cannot_be_merged_is_told(
    tomopicker: Command, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    ribosome, ring = folders
    out = tmp_path / "all"

    def refused(*kinds: object) -> str:
        done = tomopicker("merge", *kinds, "--out", out)
        assert done.code == 2
        assert len(done.errors) == 1
        assert not out.exists()
        return done.errors[0]

    assert "two kinds or more" in refused(ribosome)
    assert "names two kinds" in refused(f"a={ribosome}", f"a={ring}")
    assert "names two kinds" in refused(f"a_b={ribosome}", f"a-b={ring}")
    assert "cannot be a kind's name" in refused(ribosome, f"../up={ring}")
    assert "is no folder" in refused(ribosome, tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    assert "holds no picks with a record" in refused(ribosome, tmp_path / "empty")
    picked(ring, "TS_2", [(1, 1, 1)], [0.5], shape=(40, 60, 81))
    assert "TS_2: was picked in another volume for small than for ribosome" in refused(
        ribosome, ring
    )
    picked(ring, "TS_2", [(1, 1, 1)], [0.5], radius=None)
    assert "does not tell the particle's radius" in refused(ribosome, ring)


def test_the_lists_that_are_merged_are_never_written_over(
    tomopicker: Command, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for out in (tmp_path, folders[0]):
        for force in ([], ["--force"]):
            done = tomopicker("merge", *folders, "--out", out, *force)
            assert done.code == 2
            assert "would be overwritten; give another --out" in done.stderr
    # Nor are somebody's own where they would go.
    mine = tmp_path / "all/small/relion5/TS_1.star"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    done = tomopicker("merge", *folders, "--out", tmp_path / "all")
    assert done.code == 2
    assert "TS_1.star: is already there" in done.stderr
    mine.unlink()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_two_lists_of_one_model_leave_each_place_once(
    tomopicker: Command, trained: Path, simulated: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        done = tomopicker(
            *("pick", trained, simulated / "sim_0002.mrc", "--count", 9),
            *("--out", tmp_path / name, "--format", "relion5"),
        )
        assert done.code == 0, done.stderr
    done = tomopicker("merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "all")
    assert done.code == 0, done.stderr
    merged = read_particles(tmp_path / "all/sim_0002.csv", voxel_size=10.0)
    alone = read_particles(tmp_path / "a/sim_0002.csv", voxel_size=10.0)
    assert sorted(merged.positions.tolist()) == sorted(alone.positions.tolist())
