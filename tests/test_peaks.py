from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from tomopicker.errors import InputError
from tomopicker.peaks import Peaks, are_apart, find_peaks, refine

KINDS = ("noise", "smooth", "tied", "constant", "saturated", "masked", "rising", "empty")


def volume(kind: str, shape: tuple[int, int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    noise = rng.normal(size=shape)
    smooth = gaussian_filter(noise, 1.5)
    if kind == "noise":
        return noise
    if kind == "smooth":
        return smooth
    if kind == "tied":
        return np.round(noise)
    if kind == "constant":
        return np.full(shape, 0.25)
    if kind == "saturated":
        return np.clip(smooth * 20, -1, 1)
    if kind == "masked":
        noise[rng.random(shape) < 0.5] = -np.inf
        noise[rng.random(shape) < 0.2] = np.nan
        return noise
    if kind == "rising":
        return np.arange(np.prod(shape), dtype=float).reshape(shape)
    return np.full(shape, rng.choice([-np.inf, np.nan]))


def naive_peaks(
    scores: NDArray[np.float64], radius: float, count: int | None, threshold: float | None
) -> tuple[list[tuple[int, ...]], list[float]]:
    """The four steps of paper 3.4, as printed."""
    left = np.where(np.isnan(scores), -np.inf, scores.astype(np.float64))
    where = np.indices(left.shape)
    voxels: list[tuple[int, ...]] = []
    values: list[float] = []
    while left.size and (count is None or len(voxels) < count):
        voxel = tuple(int(at) for at in np.unravel_index(left.argmax(), left.shape))
        if left[voxel] == -np.inf or (threshold is not None and left[voxel] <= threshold):
            break
        voxels.append(voxel)
        values.append(float(left[voxel]))
        distance = sum((axis - at) ** 2 for axis, at in zip(where, voxel, strict=True))
        left[distance <= radius**2] = -np.inf
    return voxels, values


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    shape=st.tuples(st.integers(1, 20), st.integers(1, 36), st.integers(1, 36)),
    radius=st.sampled_from([0.5, 1, 1.5, 2.3, 3, 5, 8, 13, 100]),
    count=st.one_of(st.none(), st.integers(0, 40)),
    threshold=st.one_of(st.none(), st.sampled_from([-np.inf, -0.3, 0.0, 0.1, 1.0, np.inf])),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    seed=st.integers(0, 1000),
)
@example("constant", (17, 33, 33), 2.3, None, None, np.float32, 0)
@example("tied", (18, 34, 34), 3, None, -0.3, np.float16, 0)
@example("saturated", (18, 34, 34), 5, None, None, np.float32, 1)
def test_the_picks_are_those_of_the_naive_loop(
    kind: str,
    shape: tuple[int, int, int],
    radius: float,
    count: int | None,
    threshold: float | None,
    dtype: type[np.floating],
    seed: int,
) -> None:
    scores = volume(kind, shape, np.random.default_rng(seed)).astype(dtype)
    if radius < 2 and count is None:  # a pick per few voxels: leave that to the small volumes
        scores = scores[:6, :12, :12]
    peaks = find_peaks(scores, radius=radius, count=count, threshold=threshold)
    voxels, values = naive_peaks(scores, radius, count, threshold)
    assert peaks.voxels.tolist() == [list(voxel) for voxel in voxels]
    assert peaks.scores.tolist() == values


def test_the_first_of_equal_voxels_in_reading_order_is_picked_across_blocks() -> None:
    scores = np.zeros((40, 40, 40))
    scores[20, 3, 3] = scores[3, 20, 3] = scores[3, 3, 20] = scores[2, 39, 39] = 1
    assert find_peaks(scores, radius=2, count=4).voxels.tolist() == [
        [2, 39, 39],
        [3, 3, 20],
        [3, 20, 3],
        [20, 3, 3],
    ]


def test_a_voxel_at_the_radius_is_excluded_and_one_beyond_it_is_not() -> None:
    scores = np.full((1, 1, 9), -np.inf)
    scores[0, 0, [0, 3, 4]] = 5, 4, 3
    assert find_peaks(scores, radius=3).voxels[:, 2].tolist() == [0, 4]
    assert find_peaks(scores, radius=2.9).voxels[:, 2].tolist() == [0, 3]


def test_a_score_at_the_threshold_is_not_picked() -> None:
    scores = np.array([[[3.0, 0.0, 2.0, 0.0, 1.0]]])
    assert find_peaks(scores, radius=1, threshold=2).scores.tolist() == [3]


def test_a_threshold_is_not_rounded_to_the_type_of_the_scores() -> None:
    scores = np.full((1, 1, 1), 0.1, dtype=np.float32)  # 0.100000001
    assert len(find_peaks(scores, radius=1, threshold=0.1)) == 1


def test_no_two_picks_are_within_the_radius() -> None:
    scores = np.random.default_rng(1).normal(size=(24, 40, 40))
    voxels = find_peaks(scores, radius=5).voxels
    squared = ((voxels[:, None] - voxels) ** 2).sum(axis=2)
    assert squared[~np.eye(len(voxels), dtype=bool)].min() > 25


def test_picking_to_exhaustion_leaves_no_voxel_uncovered() -> None:
    scores = np.random.default_rng(2).normal(size=(20, 20, 20))
    voxels = find_peaks(scores, radius=4).voxels
    everywhere = np.indices(scores.shape).reshape(3, -1).T
    assert (((everywhere[:, None] - voxels) ** 2).sum(axis=2).min(axis=1) <= 16).all()


def test_a_memory_mapped_volume_is_read_and_not_written(tmp_path: Path) -> None:
    scores = np.random.default_rng(3).normal(size=(17, 18, 33)).astype(np.float32)
    np.save(tmp_path / "scores.npy", scores)
    mapped = np.load(tmp_path / "scores.npy", mmap_mode="r")  # writing would raise
    peaks = find_peaks(mapped, radius=4)
    assert peaks.voxels.tolist() == find_peaks(scores, radius=4).voxels.tolist()


def test_the_scores_are_left_as_they_were() -> None:
    scores = np.random.default_rng(4).normal(size=(9, 20, 20))
    before = scores.copy()
    find_peaks(scores, radius=3)
    np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_whole_numbers_are_scores_too(dtype: type[np.integer]) -> None:
    scores = np.zeros((3, 20, 20), dtype=dtype)
    scores[1, 18, 2] = 100
    assert find_peaks(scores, radius=30).voxels.tolist() == [[1, 18, 2]]


def test_a_volume_in_another_memory_order_gives_the_same_picks() -> None:
    scores = np.round(np.random.default_rng(5).normal(size=(18, 19, 20)))
    expected = find_peaks(scores, radius=3)
    for other in (np.asfortranarray(scores), scores.astype(">f4"), scores[::-1][::-1]):
        assert find_peaks(other, radius=3).voxels.tolist() == expected.voxels.tolist()


def test_an_infinite_score_is_picked_first_and_an_infinite_radius_leaves_one_pick() -> None:
    scores = np.zeros((2, 20, 20))
    scores[1, 2, 3] = np.inf
    assert find_peaks(scores, radius=np.inf).voxels.tolist() == [[1, 2, 3]]


def test_nothing_is_picked_from_nothing() -> None:
    for empty in (np.zeros((0, 4, 4)), np.full((4, 4, 4), np.nan)):
        peaks = find_peaks(empty, radius=2)
        assert len(peaks) == 0
        assert (peaks.voxels.shape, peaks.scores.shape) == ((0, 3), (0,))
        assert refine(empty, peaks, radius=2).shape == (0, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"radius": 0}, "above 0 voxels, got 0"),
        ({"radius": np.nan}, "above 0 voxels, got nan"),
        ({"radius": 2, "count": -1}, "0 or more, got -1"),
        ({"radius": 2, "threshold": np.nan}, "must be a number"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_peaks(np.zeros((4, 4, 4)), **settings)


def test_a_slice_is_not_a_volume() -> None:
    with pytest.raises(InputError, match="must be a volume"):
        find_peaks(np.zeros((4, 4)), radius=2)


def blobs(centres: NDArray[np.float64], sigma: float, side: int) -> NDArray[np.float64]:
    grid = np.indices((side, side, side))
    return sum(
        np.exp(-((grid - centre[:, None, None, None]) ** 2).sum(axis=0) / (2 * sigma**2))
        for centre in centres
    )


@pytest.mark.parametrize("radius", [2.5, 4.0, 6.0])
@pytest.mark.parametrize("sigma", [1.0, 2.0, 4.0])
def test_planted_blobs_are_found_between_the_voxels(sigma: float, radius: float) -> None:
    rng = np.random.default_rng(6)
    lattice = np.array([[z, y, x] for z in (12, 36) for y in (12, 36) for x in (12, 36)])
    planted = lattice + rng.uniform(-0.5, 0.5, size=(8, 3))
    scores = 3 + blobs(planted, sigma, 48)
    peaks = find_peaks(scores, radius=10, count=8)
    found = refine(scores, peaks, radius=radius)
    distances = np.linalg.norm(found[:, None] - planted, axis=2).min(axis=0)
    assert distances.max() < 0.2


def test_a_blob_at_a_face_is_refined_along_the_face() -> None:
    planted = np.array([[0.0, 12.3, 11.6]])
    scores = blobs(planted, 2.0, 24)
    found = refine(scores, find_peaks(scores, radius=5, count=1), radius=4)
    assert np.linalg.norm(found - planted) < 0.2


def test_a_constant_neighbourhood_does_not_move() -> None:
    scores = np.ones((5, 5, 5))
    corners = np.array([[0, 0, 0], [4, 4, 4], [2, 2, 2], [0, 2, 4]])
    peaks = Peaks(voxels=corners, scores=np.ones(4))
    assert refine(scores, peaks, radius=3).tolist() == corners.tolist()


def test_a_peak_on_the_rim_of_a_plateau_moves_towards_its_middle_but_not_far() -> None:
    scores = np.zeros((30, 30, 30))
    scores[10:20, 10:20, 10:20] = 1  # its middle is 14.5, and its first voxel is picked
    peaks = find_peaks(scores, radius=20, count=1)
    assert peaks.voxels.tolist() == [[10, 10, 10]]
    (found,) = refine(scores, peaks, radius=6)
    assert (found > 10).all()
    assert np.linalg.norm(found - 10) == pytest.approx(1.5)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS), radius=st.sampled_from([0.3, 1, 2.5, 9]), seed=st.integers(0, 99)
)
def test_a_peak_never_leaves_the_volume_nor_moves_farther_than_allowed(
    kind: str, radius: float, seed: int
) -> None:
    scores = volume(kind, (6, 9, 12), np.random.default_rng(seed))
    peaks = find_peaks(scores, radius=2, count=10)
    found = refine(scores, peaks, radius=radius)
    moved = np.linalg.norm(found - peaks.voxels, axis=1)
    assert (moved <= min(1.5, radius) + 1e-9).all()
    assert ((found >= 0) & (found <= np.array(scores.shape) - 1)).all()


def test_refining_needs_a_radius() -> None:
    with pytest.raises(InputError, match="above 0 voxels"):
        refine(np.zeros((4, 4, 4)), find_peaks(np.zeros((4, 4, 4)), radius=2), radius=0)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.floats(0.5, 8))
def test_of_peaks_that_meet_the_best_stays_as_a_plain_loop_has_it(seed, count, radius):
    rng = np.random.default_rng(seed)
    before = np.rint(rng.uniform(0, 20, (count, 3)))
    moved = before + rng.choice([0, 1], (count, 1)) * np.rint(rng.uniform(-2, 2, (count, 3)))
    stay: list[int] = []
    for one in range(count):
        now, then = (np.linalg.norm(at[stay] - at[one], axis=1) for at in (moved, before))
        if not ((now <= radius) & (now < then)).any():
            stay.append(one)
    assert np.flatnonzero(are_apart(moved, before=before, radius=radius)).tolist() == stay
    assert are_apart(before, before=before, radius=radius).all()
