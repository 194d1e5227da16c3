"""A rescaled tomogram shows the same density at the same ångström, and is picked there."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import SHORT, Outcome
from tomopicker.config import Config, preset
from tomopicker.errors import InputError
from tomopicker.inference import features_of, scored_voxel_size
from tomopicker.io.tomograms import read_tomogram, write_volume
from tomopicker.labels import POSITIVE
from tomopicker.picks import Cut, pick
from tomopicker.rescale import rescale, rescaled_voxel_size
from tomopicker.task import prepare
from tomopicker.training import Epoch, fit
from tomopicker.types import Particles, Tomogram

Command = Callable[..., Outcome]

SIZES = st.floats(0.7, 3.9).filter(lambda step: abs(step - 1) > 0.02)


def tomogram(data: np.ndarray, voxel_size: float = 10.0) -> Tomogram:
    return Tomogram(name="TS_01", data=data, voxel_size=voxel_size, path=Path("TS_01.mrc"))


def wave(shape: tuple[int, int, int], voxel_size: float, period: np.ndarray) -> np.ndarray:
    """Product of three sinusoids with these periods in ångström, and a phase at the origin."""
    z, y, x = (np.arange(length) * voxel_size for length in shape)
    along = [np.sin(2 * np.pi * at / p + 0.3) for at, p in zip((z, y, x), period, strict=True)]
    return along[0][:, None, None] * along[1][:, None] * along[2]


@pytest.mark.parametrize("voxel_size", [7.0, 13.9, 15.0, 26.0])
def test_a_wave_has_its_values_at_the_same_places_in_angstrom(voxel_size: float) -> None:
    """Each axis keeps 4 voxels per period to 0.1 %; a shift of 1/100 voxel would change 1.6 %."""
    period = np.array([4.0, 6.0, 9.0]) * max(voxel_size, 10.0)
    shape = (60, 70, 80)
    after = rescale(tomogram(wave(shape, 10.0, period)), voxel_size)
    expected = wave(after.shape, voxel_size, period)
    # Faces disturb what is nearer than the kernel's four voxels.
    inner = (slice(4, -4) if voxel_size > 10 else slice(6, -6),) * 3
    np.testing.assert_allclose(after.data[inner], expected[inner], atol=4e-3)


def test_what_the_larger_voxels_cannot_hold_is_taken_out_and_not_aliased() -> None:
    """A period of 20 Å is 1.25 voxels of 16 Å; unfiltered it would show as one of 5 voxels."""
    shape = (8, 8, 100)
    fine = np.broadcast_to(np.cos(2 * np.pi * np.arange(100) * 10 / 20), shape)
    after = rescale(tomogram(fine), 16.0)
    assert np.abs(after.data[:, :, 5:-5]).max() < 0.01


@given(step=SIZES, value=st.floats(-1e4, 1e4, width=32))
def test_a_constant_stays_the_same_constant_up_to_the_faces(step: float, value: float) -> None:
    after = rescale(tomogram(np.full((9, 10, 11), value, dtype=np.float32)), 10 * step)
    assert (after.data == np.float32(value)).all()


def test_a_ramp_goes_on_evenly_at_the_faces() -> None:
    """Beyond the first voxel its value goes on, so a ramp bends by less than one step there."""
    ramp = np.broadcast_to(np.arange(60.0), (9, 9, 60))
    after = rescale(tomogram(ramp), 20.0).data[4, 4]
    # In half precision, to a two-thousandth of the distance from the mean.
    np.testing.assert_allclose(after[4:-5], np.arange(len(after))[4:-5] * 2, atol=0.015)
    assert np.abs(after - np.arange(len(after)) * 2).max() < 1
    assert (np.diff(after) > 0).all()


@given(step=SIZES, lengths=st.tuples(*[st.integers(2, 30)] * 3))
def test_every_old_voxels_centre_lies_in_a_new_voxel(
    step: float, lengths: tuple[int, int, int]
) -> None:
    after = rescale(tomogram(np.zeros(lengths, dtype=np.int8)), 10 * step)
    assert after.voxel_size == 10 * step
    assert after.data.dtype == np.float32
    for old, new in zip(lengths, after.shape, strict=True):
        assert (new - 1.5) * step <= old - 1 + 1e-6 <= (new - 0.5) * step + 2e-6


def test_the_shape_is_worked_out_by_hand() -> None:
    """Of 10 voxels the last is at 9; voxels of 1.5 reach from 8.25 to 9.75, of 3 to 10.5."""
    volume = tomogram(np.zeros((10, 9, 4)))
    assert rescale(volume, 15.0).shape == (7, 6, 3)
    assert rescale(volume, 30.0).shape == (4, 4, 2)
    assert rescale(volume, 8.0).shape == (12, 11, 5)


@given(
    step=SIZES,
    place=st.tuples(*[st.floats(17.0, 23.0)] * 3),
)
def test_a_blob_stays_at_its_place_in_angstrom(
    step: float, place: tuple[float, float, float]
) -> None:
    sigma = 2.5 * max(step, 1)
    sides = [np.arange(round(40 * max(step, 1))) for _ in place]
    centre = np.array(place) * max(step, 1)
    parts = [
        np.exp(-((side - at) ** 2) / (2 * sigma**2)) for side, at in zip(sides, centre, strict=True)
    ]
    blob = parts[0][:, None, None] * parts[1][:, None] * parts[2]
    after = np.asarray(rescale(tomogram(blob), 10 * step).data, dtype=np.float64)
    found = [(np.indices(after.shape)[axis] * after).sum() / after.sum() for axis in range(3)]
    np.testing.assert_allclose(np.array(found) * step, centre, atol=0.02 * max(step, 1))


def test_values_that_are_not_finite_stay_so_and_do_not_spread() -> None:
    data = np.random.default_rng(0).normal(5, 1, (24, 24, 24)).astype(np.float32)
    whole = rescale(tomogram(data), 20.0).data
    holed = data.copy()
    holed[:, :, :7] = np.nan
    holed[10, 12, 14] = np.inf
    after = rescale(tomogram(holed), 20.0).data
    # New voxels 0 to 3 are nearest to old voxels 0, 2, 4 and 6 along x.
    unknown = np.zeros(after.shape, dtype=bool)
    unknown[:, :, :4] = True
    unknown[5, 6, 7] = True
    np.testing.assert_array_equal(np.isnan(after), unknown)
    # Four new voxels away nothing of it is left, but for the finite values' other mean.
    np.testing.assert_allclose(after[:, :, 12:], whole[:, :, 12:], atol=2e-3)
    assert np.abs(after[~unknown] - 5).max() < 3


def test_a_volume_without_a_finite_value_has_none_after() -> None:
    assert np.isnan(rescale(tomogram(np.full((8, 8, 8), np.nan)), 20.0).data).all()


def test_a_file_of_bytes_is_rescaled_as_its_floats_are(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(-128, 127, (20, 30, 25)).astype(np.int8)
    write_volume(tmp_path / "a.mrc", data, voxel_size=10)
    mapped = read_tomogram(tmp_path / "a.mrc")
    assert isinstance(mapped.data, np.memmap)
    after = rescale(mapped, 14.0)
    assert (after.name, after.path) == ("a", mapped.path)
    np.testing.assert_array_equal(after.data, rescale(tomogram(data.astype(np.float32)), 14.0).data)


def test_a_voxel_size_within_a_hundredth_is_left_as_it_is() -> None:
    volume = tomogram(np.zeros((8, 8, 8), dtype=np.int8))
    assert rescale(volume, 10.09) is volume
    assert rescale(volume, 9.91) is volume
    assert rescaled_voxel_size(volume, 10.09) == 10.0
    assert rescaled_voxel_size(volume, 10.2) == 10.2


def test_voxel_sizes_too_far_apart_are_refused_with_both_and_the_remedy() -> None:
    volume = tomogram(np.zeros((8, 8, 8), dtype=np.int8), voxel_size=20.25)
    assert rescale(volume, 13.5).voxel_size == 13.5  # exactly 1.5 times coarser
    assert rescale(volume, 81.0).voxel_size == 81.0  # exactly 4 times finer
    with pytest.raises(InputError, match=r"TS_01.mrc: voxel size 20.25 Å .* 13.4 Å .* finer one"):
        rescale(volume, 13.4)
    with pytest.raises(InputError, match=r"TS_01.mrc: voxel size 20.25 Å .* 82 Å .* bin it, to 20"):
        rescale(volume, 82.0)


def test_default_works_at_a_radius_of_8_voxels_at_most_and_crops_four_radii_of_it() -> None:
    large = preset("default", radius_angstrom=160, voxel_size=10)
    assert large.working_voxel_size(10) == 20
    assert large.working_voxel_size(25) == 25
    assert large.sampling.side == 32
    own = preset(
        "default",
        radius_angstrom=160,
        voxel_size=10,
        overrides={"preprocessing.working_radius": None},
    )
    assert own.working_voxel_size(10) == 10
    assert own.sampling.side == 64
    with pytest.raises(InputError, match=r"preprocessing\.working_radius"):
        preset(
            "default",
            radius_angstrom=160,
            voxel_size=10,
            overrides={"preprocessing.working_radius": "eight"},
        )


def test_the_paper_and_settings_of_an_earlier_version_keep_the_tomograms_voxels() -> None:
    paper = preset("paper", radius_angstrom=160, voxel_size=10)
    assert paper.working_voxel_size(10) == 10
    earlier = preset("default", radius_angstrom=160, voxel_size=10).model_dump()
    del earlier["preprocessing"]["working_radius"]
    assert Config.model_validate(earlier).working_voxel_size(10) == 10


RADIUS = 50.0  # Å


def planted(seed: int, voxel_size: float, box: tuple[int, int, int]) -> tuple[Tomogram, Particles]:
    """Dark balls on noise in a box of ångström ``z y x``, and where they are."""
    rng = np.random.default_rng(seed)
    shape = tuple(round(side / voxel_size) for side in box)
    volume = rng.normal(0, 0.2, shape)
    axes = [np.arange(length) * voxel_size for length in shape]
    places = np.array(
        [(z, y, x) for z in (90, 230) for y in (90, 230, 370) for x in (90, 230, 370)], dtype=float
    )
    places += rng.uniform(-15, 15, places.shape)
    for z, y, x in places:
        distance = np.sqrt(
            (axes[0][:, None, None] - z) ** 2 + (axes[1][:, None] - y) ** 2 + (axes[2] - x) ** 2
        )
        volume -= 2 * np.clip((RADIUS - distance) / voxel_size + 0.5, 0, 1)
    particles = Particles(positions=places[:, ::-1].copy(), voxel_size=voxel_size)
    return tomogram(volume.astype(np.float32), voxel_size), particles


def brief(overrides: dict[str, object]) -> Config:
    """Settings of a training of one step of a tiny network."""
    short: dict[str, object] = {
        "network.channels": [2, 3],
        "sampling.steps_per_epoch": 1,
        "training.epochs": 1,
    }
    return preset(
        "default",
        radius_angstrom=RADIUS,
        voxel_size=10.0,
        expected=20,
        overrides=short | overrides,
    )


def test_particles_are_learned_and_picked_at_their_places_whatever_the_voxel_size() -> None:
    """Trained at 10 Å and validated at 8 Å, worked at 12.5 Å, picked at 10.7 Å."""
    box = (330, 470, 470)
    config = brief({"preprocessing.working_radius": 4, "sampling.side": 16})
    known, validation = planted(0, 10.0, box), planted(1, 8.0, box)
    task = prepare(config, [known], validation)
    assert (task.voxel_size, task.radius) == (12.5, 4)
    parts = (*task.training, *task.validation)
    for part, (_, truth) in zip(parts, (known, validation), strict=True):
        np.testing.assert_allclose(part.centres * 12.5, truth.positions[:, ::-1])
        # The labels are cores of balls, which are 2 darker than what is around them.
        assert part.features.data[part.labels == POSITIVE].max() < -1
    (event,) = (event for event in fit(task) if isinstance(event, Epoch))
    checkpoint = event.checkpoint
    assert (checkpoint.description.voxel_size, checkpoint.description.radius_voxels) == (12.5, 4)

    unseen, truth = planted(2, 10.7, box)
    assert scored_voxel_size(checkpoint, unseen) == 12.5
    # A network of one step knows nothing yet; its second channel finds balls by itself.
    scores = features_of(checkpoint, unseen).correlation
    assert scores is not None
    assert scores.shape != unseen.shape
    found = pick(scores, unseen, checkpoint, Cut(count=len(truth))).particles
    assert found.voxel_size == 10.7
    distances = np.linalg.norm(found.positions[:, None] - truth.positions, axis=2)
    assert sorted(distances.argmin(axis=1)) == list(range(len(truth)))
    assert distances.min(axis=1).max() < 12.5
    # Half a voxel of any of the three sizes would be 5 Å.
    errors = found.positions - truth.positions[distances.argmin(axis=1)]
    assert np.abs(errors.mean(axis=0)).max() < 2


def test_no_pick_lies_beyond_the_tomogram_although_the_scores_may() -> None:
    """The 18th voxel of 20 Å has its centre at 340 Å, and 34 voxels of 10 Å end at 335 Å."""
    volume, particles = planted(0, 10.0, (330, 470, 470))
    config = brief({"preprocessing.working_radius": 2.5, "peaks.margin": 0.0})
    (event,) = (e for e in fit(prepare(config, [(volume, particles)])) if isinstance(e, Epoch))
    short = replace(volume, data=volume.data[:, :34, :34])
    scores = np.zeros(features_of(event.checkpoint, short).shape, dtype=np.float32)
    assert scores.shape[1:] == (18, 18)
    scores[5, 17, 17] = 1
    (place,) = pick(scores, short, event.checkpoint, Cut(count=1)).particles.voxels
    assert place[0] == pytest.approx(10, abs=1)
    assert (place <= np.array(short.shape) - 0.5).all()
    assert place[1:].min() > 32


def test_the_commands_say_that_they_rescale_and_write_places_of_the_tomogram_itself(
    tomopicker: Command, simulated: Path, tmp_path: Path
) -> None:
    run, out = tmp_path / "run", tmp_path / "picks"
    done = tomopicker(
        *("train", simulated / "sim_0001.mrc", "--picks", simulated / "sim_0001.csv"),
        *("--radius", "60A", "--set", "preprocessing.working_radius=3", "--out", run, *SHORT),
    )
    assert done.code == 0, done.stderr
    note = "13.5 Å voxels brought to 20 Å, at which the particle's radius is 3 voxels"
    assert done.errors.count(f"sim_0001: {note}") == 1
    assert "radius 3 voxels of 20 Å" in done.stderr
    done = tomopicker(
        *("pick", run, simulated / "sim_0002.mrc", "--count", 30, "--scores", "--out", out)
    )
    assert done.code == 0, done.stderr
    assert done.errors.count(f"sim_0002: {note}") == 1
    with mrcfile.open(out / "sim_0002_scores.mrc") as scores:
        assert float(scores.voxel_size.x) == pytest.approx(20)
        # 31 and 63 voxels of 13.5 Å are 20.9 and 42.5 of 20 Å.
        assert scores.data.shape == (22, 44, 44)
        best = np.array(np.unravel_index(scores.data.argmax(), scores.data.shape))
    with (out / "sim_0002.csv").open(newline="") as file:
        rows = [[float(row[axis]) for axis in "zyx"] for row in csv.DictReader(file)]
    # The best voxel's peak may be smoothed and moved, but some pick is there.
    assert np.linalg.norm(np.array(rows) - best * 20 / 13.5, axis=1).min() < 4
    assert np.max(rows, axis=0)[1:].min() > 45  # voxels of 20 Å would end at 43
    assert (np.max(rows, axis=0) <= np.array([32, 64, 64]) - 0.5).all()
