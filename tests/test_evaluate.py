import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from tomopicker.cli.evaluate import evaluate as command
from tomopicker.errors import InputError
from tomopicker.evaluate import Counts, Evaluation, as_json, combine, evaluate, macro_f1
from tomopicker.io.particles import write_particles
from tomopicker.io.tomograms import write_volume
from tomopicker.types import Particles


def on_a_line(*x: float) -> NDArray[np.float64]:
    return np.array([[0.0, 0.0, at] for at in x]).reshape(-1, 3)


def counted(counts: Counts) -> tuple[int, int, int]:
    return counts.true_positives, counts.false_positives, counts.false_negatives


def test_ratios_are_those_of_the_papers_table_1() -> None:
    counts = Counts(true_positives=1499, false_positives=549, false_negatives=951)
    assert (round(counts.precision, 2), round(counts.recall, 2)) == (0.73, 0.61)
    assert round(counts.f1, 2) == 0.67


def test_a_pick_between_two_particles_finds_both_for_the_paper_and_one_for_us() -> None:
    result = evaluate(on_a_line(5), on_a_line(0, 9), tolerance=10)
    assert counted(result.paper) == (2, 0, 0)
    assert counted(result.one_to_one) == (1, 0, 1)
    assert result.localisation_error == 4


def test_two_picks_on_a_particle_are_both_right_for_the_paper_and_one_false_for_us() -> None:
    result = evaluate(on_a_line(0, 3), on_a_line(1), tolerance=10)
    assert counted(result.paper) == (1, 0, 0)
    assert counted(result.one_to_one) == (1, 1, 0)
    assert result.localisation_error == 1


def test_a_pick_at_the_tolerance_counts_and_one_beyond_it_does_not() -> None:
    pick = np.array([[6.0, 8.0, 0.0]])
    assert evaluate(pick, on_a_line(0), tolerance=10).one_to_one.true_positives == 1
    assert evaluate(pick, on_a_line(0), tolerance=9.99).one_to_one.true_positives == 0
    there_and_back = pick * 13.48 / 13.48 * (1 + 1e-15)
    assert evaluate(there_and_back, on_a_line(0), tolerance=10).paper.true_positives == 1


def test_more_pairs_go_before_nearer_pairs() -> None:
    # The pick at 5 is nearest to the particle at 6, but then the pick at 12 would find none.
    result = evaluate(on_a_line(5, 12), on_a_line(0, 6), tolerance=6)
    assert counted(result.one_to_one) == (2, 0, 0)
    assert result.localisation_error == pytest.approx((5 + 6) / 2)


def test_of_equally_many_pairs_the_nearest_count() -> None:
    result = evaluate(on_a_line(0, 4), on_a_line(5, 1), tolerance=10)
    assert result.localisation_error == pytest.approx(1)


def test_a_pick_exactly_on_its_particle_is_a_pair_at_distance_0() -> None:
    result = evaluate(on_a_line(3), on_a_line(3), tolerance=1)
    assert counted(result.one_to_one) == (1, 0, 0)
    assert result.localisation_error == 0


def test_the_curve_and_the_average_precision_worked_by_hand() -> None:
    # Best to worst: hit, miss, hit, of 4 particles: precision 1, 1/2, 2/3 at recall 1/4, 1/4, 1/2.
    result = evaluate(
        on_a_line(200, 0, 100),
        on_a_line(0, 100, 300, 400),
        tolerance=10,
        scores=np.array([0.5, 0.9, 0.1]),
    )
    assert result.curve.thresholds.tolist() == [0.9, 0.5, 0.1]
    assert result.curve.precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3])
    assert result.curve.recall.tolist() == [1 / 4, 1 / 4, 1 / 2]
    assert result.average_precision == pytest.approx(1 * 1 / 4 + 2 / 3 * 1 / 4)


def test_picks_of_equal_score_are_one_step_of_the_curve() -> None:
    result = evaluate(
        on_a_line(0, 200, 100), on_a_line(0, 100), tolerance=10, scores=np.array([2.0, 1.0, 1.0])
    )
    assert result.curve.recall.tolist() == [1 / 2, 1]
    assert result.curve.precision.tolist() == pytest.approx([1, 2 / 3])


def test_a_second_pick_on_a_particle_lets_the_first_find_another() -> None:
    result = evaluate(on_a_line(5, 0), on_a_line(4, 10), tolerance=6, scores=np.array([2.0, 1.0]))
    assert result.hits.tolist() == [True, True]


def test_without_scores_average_precision_is_precision_times_recall() -> None:
    result = evaluate(on_a_line(0, 100, 200), on_a_line(0, 100, 300, 400), tolerance=10)
    assert result.average_precision == pytest.approx(2 / 3 * 2 / 4)
    assert result.curve.thresholds.tolist() == [-np.inf]


@pytest.mark.parametrize(
    ("picks", "truth", "counts"),
    [((), (1, 2), (0, 0, 2)), ((1, 2, 3), (), (0, 3, 0)), ((), (), (0, 0, 0))],
)
def test_ratios_of_nothing_are_0(
    picks: tuple[float, ...], truth: tuple[float, ...], counts: tuple[int, int, int]
) -> None:
    result = evaluate(
        on_a_line(*picks), on_a_line(*truth), tolerance=1, scores=np.zeros(len(picks))
    )
    assert counted(result.one_to_one) == counted(result.paper) == counts
    ratios = (result.one_to_one.precision, result.one_to_one.recall, result.one_to_one.f1)
    assert (*ratios, result.average_precision) == (0, 0, 0, 0)
    assert result.localisation_error is None


points = st.lists(st.tuples(*[st.integers(0, 6)] * 3), max_size=9).map(
    lambda rows: np.array(rows, dtype=float).reshape(-1, 3)
)


@settings(max_examples=150, deadline=None)
@given(picks=points, truth=points, tolerance=st.sampled_from([0.5, 1, 2.5, 4]), data=st.data())
def test_the_matching_and_the_curve_are_those_of_an_exhaustive_assignment(
    picks: NDArray[np.float64], truth: NDArray[np.float64], tolerance: float, data: st.DataObject
) -> None:
    levels = st.lists(st.integers(0, 5), min_size=len(picks), max_size=len(picks))
    scores = np.array(data.draw(levels), dtype=float)
    result = evaluate(picks, truth, tolerance=tolerance, scores=scores)

    def best_pairs(chosen: NDArray[np.float64]) -> tuple[int, float]:
        distances = np.linalg.norm(chosen[:, None] - truth, axis=2)
        costs = np.where(distances <= tolerance, distances, 1000)
        pairs = costs[linear_sum_assignment(costs)]
        return int((pairs < 1000).sum()), float(pairs[pairs < 1000].sum())

    count, distance = best_pairs(picks)
    assert result.one_to_one.true_positives == result.hits.sum() == count
    assert (result.localisation_error or 0) * count == pytest.approx(distance)
    for threshold, precision, recall in zip(
        result.curve.thresholds, result.curve.precision, result.curve.recall, strict=True
    ):
        chosen = picks[scores >= threshold]
        found, _ = best_pairs(chosen)
        assert precision == pytest.approx(found / len(chosen))
        assert recall == pytest.approx(found / max(len(truth), 1))
    assert result.curve.thresholds.tolist() == sorted(set(scores.tolist()), reverse=True)


@settings(max_examples=50, deadline=None)
@given(picks=points, truth=points)
def test_the_order_of_the_lists_and_of_the_axes_does_not_matter(
    picks: NDArray[np.float64], truth: NDArray[np.float64]
) -> None:
    result = evaluate(picks, truth, tolerance=2)
    other = evaluate(picks[::-1, ::-1], truth[::-1, ::-1], tolerance=2)
    assert (other.one_to_one, other.paper) == (result.one_to_one, result.paper)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tolerance": 0}, "distance above 0"),
        ({"tolerance": np.nan}, "distance above 0"),
        ({"picks": np.zeros((2, 2))}, "picks must be"),
        ({"truth": np.zeros(3)}, "known particles must be"),
        ({"picks": np.full((1, 3), np.nan)}, "not a finite number"),
        ({"scores": np.zeros(2)}, "1 picks need as many scores"),
        ({"scores": np.array([np.nan])}, "score of pick 1 is not a number"),
    ],
)
def test_what_cannot_be_compared_is_refused(changed: dict[str, object], message: str) -> None:
    arguments = {"picks": np.zeros((1, 3)), "truth": np.zeros((1, 3)), "tolerance": 1.0}
    arguments |= changed
    with pytest.raises(InputError, match=message):
        evaluate(**arguments)


def two_tomograms() -> tuple[Evaluation, Evaluation]:
    good = evaluate(on_a_line(1, 100), on_a_line(0, 100), tolerance=5, scores=np.array([4.0, 2.0]))
    poor = evaluate(on_a_line(0, 50), on_a_line(3, 90), tolerance=5, scores=np.array([1.0, 3.0]))
    return good, poor


def test_pooled_tomograms_add_their_counts_and_share_one_ranking() -> None:
    good, poor = two_tomograms()
    pooled = combine([good, poor])
    assert counted(pooled.one_to_one) == (3, 1, 1)
    assert pooled.localisation_error == pytest.approx((1 + 0 + 3) / 3)
    # Together: 4 hit, 3 miss, 2 hit, 1 hit, of 4 particles.
    assert pooled.scores is not None
    assert pooled.scores.tolist() == [4, 3, 2, 1]
    assert pooled.hits.tolist() == [True, False, True, True]
    assert pooled.average_precision == pytest.approx((1 + 2 / 3 + 3 / 4) / 4)


def test_macro_f1_is_the_mean_over_tomograms() -> None:
    assert macro_f1(two_tomograms()) == pytest.approx((1 + 1 / 2) / 2)
    assert macro_f1([]) == 0


def test_combining_one_evaluation_changes_nothing_and_none_gives_zeros() -> None:
    good, _ = two_tomograms()
    assert as_json(combine([good])) == as_json(good)
    assert counted(combine([]).one_to_one) == (0, 0, 0)
    assert combine([]).average_precision == 0


def test_pooling_with_a_list_without_scores_ranks_nothing() -> None:
    good, _ = two_tomograms()
    unranked = evaluate(on_a_line(0, 50), on_a_line(0), tolerance=5)
    pooled = combine([good, unranked])
    assert pooled.scores is None
    assert pooled.average_precision == pytest.approx(3 / 4 * 3 / 3)


SIX = {
    "precision",
    "recall",
    "f1",
    "true_positives",
    "false_positives",
    "false_negatives",
}


def write_list(path: Path, *x: float, scores: tuple[float, ...] | None = None) -> Path:
    path.parent.mkdir(exist_ok=True)
    particles = Particles.from_voxels(
        on_a_line(*x), voxel_size=1.0, scores=None if scores is None else np.array(scores)
    )
    write_particles(path, particles)
    return path


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    picks = write_list(tmp_path / "mine.csv", 5, 50, scores=(2.0, 1.0))
    return picks, write_list(tmp_path / "known.csv", 0, 9)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    write_list(tmp_path / "picks" / "TS_01.csv", 1, 100, scores=(4.0, 2.0))
    write_list(tmp_path / "picks" / "TS_02.csv", 0, 50, scores=(1.0, 3.0))
    (tmp_path / "picks" / "TS_01.png").write_bytes(b"")
    (tmp_path / "picks" / "._TS_01.csv").write_bytes(b"\0of macOS")
    write_list(tmp_path / "truth" / "TS_01.csv", 0, 100)
    write_list(tmp_path / "truth" / "TS_02.csv", 3, 90)
    return tmp_path / "picks", tmp_path / "truth"


def test_the_command_prints_one_json_object(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command(*pair, json=True)
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {*SIX, "paper", "average_precision", "localisation_error"}
    assert set(result["paper"]) == SIX
    assert (result["true_positives"], result["paper"]["true_positives"]) == (1, 2)
    assert result["average_precision"] == pytest.approx(1 / 2)


def test_the_command_prints_a_table_for_people(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command(*pair)
    text = capsys.readouterr().out
    for words in ("within 10vx", "one to one", "as the paper counts", "Average precision 0.500"):
        assert words in text


def test_the_command_evaluates_folders_by_stem(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command(*folders, tolerance="5vx", json=True)
    result = json.loads(capsys.readouterr().out)
    assert list(result["tomograms"]) == ["TS_01", "TS_02"]
    assert result["tomograms"]["TS_02"]["true_positives"] == 1
    assert (result["true_positives"], result["macro_f1"]) == (3, pytest.approx(0.75))
    command(*folders, tolerance="5vx")
    text = capsys.readouterr().out
    assert "TS_02" in text
    assert "Mean F1 of the tomograms 0.750" in text


def test_a_folder_of_simulated_tomograms_is_one_of_lists(
    simulated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(simulated, simulated, json=True)
    result = json.loads(capsys.readouterr().out)
    assert (list(result["tomograms"]), result["f1"]) == (["sim_0001", "sim_0002"], 1)


@pytest.mark.parametrize(
    ("side", "remedy"),
    [(0, "add them, or remove other from .*picks"), (1, "pick it, or remove other from .*truth")],
)
def test_a_list_without_its_counterpart_is_named(
    folders: tuple[Path, Path], side: int, remedy: str
) -> None:
    write_list(folders[side] / "other.csv", 1)
    with pytest.raises(InputError, match=rf"(picks|known particles) .*of other; {remedy}"):
        command(*folders)


def test_a_list_of_no_picks_misses_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "picks.csv").write_text("x,y,z,score\n")
    (tmp_path / "truth.csv").write_text("x,y,z\n1,2,3\n4,5,6\n")
    command(tmp_path / "picks.csv", tmp_path / "truth.csv", json=True)
    result = json.loads(capsys.readouterr().out)
    assert (result["recall"], result["f1"], result["false_negatives"]) == (0, 0, 2)
    assert result["average_precision"] == 0


def test_a_folder_without_lists_is_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: has no picks"):
        command(tmp_path / "empty", folders[1])


def test_one_file_of_several_tomograms_is_evaluated_tomogram_by_tomogram(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, order in (("mine.csv", ("a", "b")), ("known.csv", ("b", "a"))):
        particles = Particles.from_voxels(on_a_line(0, 1), voxel_size=1.0, tomograms=order)
        write_particles(tmp_path / name, particles)
    command(tmp_path / "mine.csv", tmp_path / "known.csv", tolerance="0.5vx", json=True)
    result = json.loads(capsys.readouterr().out)
    assert result["true_positives"] == 0  # the same places, but in the other tomogram
    assert list(result["tomograms"]) == ["a", "b"]
    (tmp_path / "folder").mkdir()
    (tmp_path / "mine.csv").rename(tmp_path / "folder" / "mine.csv")
    with pytest.raises(InputError, match="several tomograms"):
        command(tmp_path / "folder", tmp_path / "known.csv")


def test_a_tolerance_in_angstrom_needs_the_voxel_size(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="--voxel-size"):
        command(*pair, tolerance="50A")
    with pytest.raises(InputError, match="above 0"):
        command(*pair, voxel_size=0.0)
    command(*pair, tolerance="45A", voxel_size=10.0, json=True)  # 4.5 voxels: not the one at 5
    result = json.loads(capsys.readouterr().out)
    assert result["paper"]["true_positives"] == 1
    assert result["localisation_error"] == 4


def test_a_list_in_angstrom_is_read_like_its_tomogram(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = write_list(tmp_path / "TS_01.csv", 2, 15)
    star, tomogram = tmp_path / "TS_01.star", tmp_path / "TS_01.mrc"
    write_volume(tomogram, np.zeros((4, 6, 20), dtype=np.float32), voxel_size=13.48)
    picks = Particles.from_voxels(on_a_line(2, 15), voxel_size=13.48, tomograms=("TS_01",) * 2)
    write_particles(star, picks, format="relion5", shape=(4, 6, 20))
    with pytest.raises(InputError, match="--like"):
        command(star, truth)
    command(star, truth, tolerance="1vx", like=[tomogram], json=True)
    result = json.loads(capsys.readouterr().out)
    assert result["true_positives"] == 2
    assert result["localisation_error"] == pytest.approx(0, abs=1e-3)


def test_tomograms_of_several_sizes_are_each_read_like_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    likes, sizes = [], {"TS_01": (20, 10.0), "TS_02": (30, 20.0)}
    for name, (width, voxel_size) in sizes.items():
        likes.append(tmp_path / "tomograms" / f"{name}.mrc")
        write_volume(likes[-1], np.zeros((4, 6, width), dtype=np.int8), voxel_size=voxel_size)
        write_list(tmp_path / "truth" / f"{name}.csv", 2, 15)
        picks = Particles.from_voxels(
            on_a_line(2, 12), voxel_size=voxel_size, tomograms=(name, name)
        )
        star = tmp_path / "picks" / f"{name}.star"
        write_particles(star, picks, format="relion5", shape=(4, 6, width))
    for like in (likes, [tmp_path / "tomograms"]):
        # 3 voxels off are 30 Å in the first, 60 Å in the second.
        command(tmp_path / "picks", tmp_path / "truth", tolerance="40A", like=like, json=True)
        result = json.loads(capsys.readouterr().out)
        assert result["tomograms"]["TS_01"]["true_positives"] == 2
        assert result["tomograms"]["TS_02"]["true_positives"] == 1
    with pytest.raises(InputError, match=r"has particles in TS_02, but --like has TS_01"):
        command(tmp_path / "picks", tmp_path / "truth", like=likes[:1] * 2, json=True)


def test_lists_that_state_different_voxels_are_not_compared(tmp_path: Path) -> None:
    tables = [
        Particles.from_voxels(on_a_line(2), voxel_size=size, tomograms=("a",)) for size in (5, 10)
    ]
    for table, name in zip(tables, ("one", "other"), strict=True):
        write_particles(tmp_path / f"{name}.json", table, format="copick")
    both = (tmp_path / "one.json", tmp_path / "other.json")
    with pytest.raises(InputError, match="voxels of 5 and 10 Å; give the tomogram's"):
        command(*both)
    command(*both, voxel_size=10.0, json=True)


def test_the_curve_is_written_once_unless_forced(pair: tuple[Path, Path], tmp_path: Path) -> None:
    curve = tmp_path / "curve.csv"
    command(*pair, curve=curve)
    assert curve.read_text().splitlines() == [
        "threshold,precision,recall",
        "2,1.000000,0.500000",
        "1,0.500000,0.500000",
    ]
    with pytest.raises(InputError, match="exists already"):
        command(*pair, curve=curve)
    command(*pair, curve=curve, force=True)
