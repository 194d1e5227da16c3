"""Outside a mask nothing is learned and nothing is picked, and automatic masks are cautious."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import SHORT, Outcome
from tomopicker.config import preset
from tomopicker.errors import InputError
from tomopicker.io.particles import read_particles
from tomopicker.io.tomograms import find_masks, read_mask, read_tomogram, write_volume
from tomopicker.labels import IGNORED, POSITIVE
from tomopicker.mask import automatic_mask, kept_box, kept_share, within
from tomopicker.task import prepare
from tomopicker.types import Particles, Tomogram, Window

Command = Callable[..., Outcome]


def tomogram(shape: tuple[int, int, int] = (12, 30, 20)) -> Tomogram:
    data = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return Tomogram(name="TS_01", data=data, voxel_size=10.0)


@given(
    st.tuples(*[st.integers(1, 5)] * 3),
    st.tuples(*[st.integers(1, 9)] * 3),
    st.integers(0, 2**32 - 1),
)
def test_a_window_of_a_mask_is_that_window_of_the_whole(
    small: tuple[int, int, int], shape: tuple[int, int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random(small) > 0.5
    whole = within(mask, shape)
    assert whole.shape == shape
    corner = tuple(int(rng.integers(side)) for side in shape)
    sides = tuple(
        int(rng.integers(1, side - at + 1)) for side, at in zip(shape, corner, strict=True)
    )
    window = Window(corner=corner, shape=sides)
    np.testing.assert_array_equal(within(mask, shape, window), whole[window.slices])


@given(
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    mine=st.tuples(*[st.integers(1, 7)] * 3),
    seed=st.integers(0, 9),
)
def test_the_box_of_a_mask_is_the_smallest_that_has_all_it_keeps(
    shape: tuple[int, int, int], mine: tuple[int, int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random(mine) < 0.1
    corner = tuple(int(rng.integers(length)) for length in shape)
    sides = tuple(
        int(rng.integers(1, length - start + 1))
        for start, length in zip(corner, shape, strict=True)
    )
    window = Window(corner=corner, shape=sides)
    kept = np.zeros(shape, bool)
    kept[window.slices] = within(mask, shape, window)
    box = kept_box(mask, shape, window)
    if box is None:
        assert not kept.any()
        return
    places = np.argwhere(kept)
    assert box.corner == tuple(places.min(axis=0))
    assert box.shape == tuple(np.ptp(places, axis=0) + 1)


def test_a_mask_of_larger_voxels_is_spread_over_its_extent() -> None:
    mask = np.array([[[0, 7]], [[0, 0]]], dtype=np.int8)
    whole = within(mask, (4, 3, 6))
    assert whole[:2, :, 3:].all()
    assert whole.sum() == 2 * 3 * 3
    assert kept_share(mask) == 0.25


def test_an_empty_part_is_left_out_and_no_particle_is() -> None:
    rng = np.random.default_rng(1)
    volume = rng.normal(size=(48, 96, 96)).astype(np.float32)
    centres = rng.integers([6, 6, 6], [42, 90, 40], size=(60, 3))
    ball = np.square(np.indices((9, 9, 9)) - 4).sum(axis=0) <= 16
    for z, y, x in (*centres, (24, 48, 80)):  # one that stands alone in the ice
        volume[z - 4 : z + 5, y - 4 : y + 5, x - 4 : x + 5][ball] -= 2
    kept = within(automatic_mask(volume, 4.0), volume.shape)
    assert kept[tuple(centres.T)].all()
    assert kept[24, 48, 80]
    assert kept[:, :, 56:].mean() < 0.6


def test_what_was_not_reconstructed_is_left_out() -> None:
    volume = np.random.default_rng(2).normal(size=(40, 60, 90)).astype(np.float32)
    for nothing in (0.0, np.nan):
        volume[:, :, 45:] = nothing
        kept = within(automatic_mask(volume, 4.0), volume.shape)
        assert kept[:, :, :45].all()
        assert not kept[:, :, 60:].any()


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_nothing_is_left_out_of_a_tomogram_that_is_all_alike(value: float) -> None:
    noise = np.random.default_rng(3).normal(size=(40, 60, 60))
    assert automatic_mask(noise, 5.0).all()
    assert automatic_mask(np.full((20, 20, 20), value), 3.0).all()


def test_outside_the_mask_nothing_is_counted_but_clicks() -> None:
    volume = tomogram((24, 40, 40))
    mask = np.zeros((24, 40, 40), bool)
    mask[:, :, :20] = True
    centres = np.array([[12, 10, 8], [12, 30, 8], [12, 20, 14], [12, 10, 30]])
    config = preset(
        "paper",
        radius_angstrom=30,
        voxel_size=10,
        expected=9,
        overrides={"sampling.side": 16, "sampling.stride": 16, "training.held_out": 0.5},
    )
    particles = Particles.from_voxels(centres, voxel_size=10.0)
    task = prepare(
        config, [(Tomogram(name="a", data=volume.data, voxel_size=10.0, mask=mask), particles)]
    )
    for part in (*task.training, *task.validation):
        assert set(np.unique(part.labels[:, :, 24:])) <= {IGNORED, POSITIVE}
        assert (part.labels[:, :, 0] == 0).all()
        for z, y, x in part.centres.astype(int):
            assert part.labels[z, y, x] == POSITIVE


def test_nothing_is_picked_outside_the_mask(
    tomopicker: Command, simulated: Path, trained: Path, tmp_path: Path
) -> None:
    mask = np.zeros((16, 32, 32), np.int8)  # of twice the voxel size
    mask[:, :, :16] = 1
    write_volume(tmp_path / "mask.mrc", mask, voxel_size=27)
    pick = ("pick", trained, simulated / "sim_0002.mrc", "--count", 500, "--format", "csv")
    assert tomopicker(*pick, "--out", tmp_path / "all").code == 0
    done = tomopicker(*pick, "--mask", tmp_path / "mask.mrc", "--out", tmp_path / "half")
    assert done.code == 0, done.stderr
    assert "the mask leaves 50 % of the volume" in done.stderr
    whole, half = (
        read_particles(tmp_path / name / "sim_0002.csv", voxel_size=13.5).voxels[:, 2]
        for name in ("all", "half")
    )
    assert whole.max() > 40
    assert len(half) > 0
    assert half.max() < 33  # a centre is found to a part of a voxel


def test_training_says_what_the_mask_leaves_and_which_clicks_are_outside(
    tomopicker: Command, simulated: Path, tmp_path: Path
) -> None:
    known = read_particles(simulated / "sim_0001.csv", voxel_size=13.5)
    mask = np.ones((32, 64, 64), np.int8)
    mask[:, :, 32:] = 0
    outside = int((np.rint(known.voxels[:, 2]) >= 32).sum())
    (tmp_path / "masks").mkdir()
    write_volume(tmp_path / "masks" / "sim_0001_mask.mrc", mask, voxel_size=13.5)
    learn = (
        *("train", simulated / "sim_0001.mrc", "--picks", simulated / "sim_0001.csv"),
        *("--radius", "60A", *SHORT),
    )
    done = tomopicker(*learn, "--mask", tmp_path / "masks", "--out", tmp_path / "run")
    assert done.code == 0, done.stderr
    text = " ".join(done.stderr.split())
    assert f"leaves 50 % of the volume; {outside} of 24 picks are outside" in text


def test_an_automatic_mask_is_written_beside_the_picks(
    tomopicker: Command, simulated: Path, trained: Path, tmp_path: Path
) -> None:
    done = tomopicker(
        *("pick", trained, simulated / "sim_0002.mrc", "--count", 5, "--mask", "auto"),
        *("--format", "csv", "--out", tmp_path),
    )
    assert done.code == 0, done.stderr
    mask = read_tomogram(tmp_path / "sim_0002_mask.mrc")
    assert read_mask(
        tmp_path / "sim_0002_mask.mrc", read_tomogram(simulated / "sim_0002.mrc")
    ).any()
    assert mask.shape == (32, 64, 64)


def test_masks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mask.mrc"
    for shape, size, message in (
        ((12, 30, 10), 10, r"10 × 30 × 12 voxels of 10 Å, but TS_01 has 20 × 30 × 12"),
        ((6, 15, 10), 10, "give a mask of the same extent"),
        ((6, 15, 9), 20, "give a mask of the same extent"),
        ((6, 30, 20), 0, "an unknown size"),
    ):
        write_volume(path, np.ones(shape, np.int8), voxel_size=size, overwrite=True)
        with pytest.raises(InputError, match=message):
            read_mask(path, tomogram())
    for shape, size in (((12, 30, 20), 1), ((6, 15, 10), 20), ((6, 15, 10), 0), ((5, 13, 9), 22.2)):
        write_volume(path, np.ones(shape, np.int8), voxel_size=size, overwrite=True)
        assert read_mask(path, tomogram()).shape == shape
    write_volume(path, np.zeros((12, 30, 20), np.int8), voxel_size=10, overwrite=True)
    with pytest.raises(InputError, match="zero everywhere"):
        read_mask(path, tomogram())


def test_masks_are_found_by_the_names_of_their_tomograms(tmp_path: Path) -> None:
    for name in ("TS_1_mask.mrc", "mask_TS_10.mrc", "rec_TS_2.mrc"):
        write_volume(tmp_path / name, np.ones((2, 2, 2)), voxel_size=10)
    found = find_masks(tmp_path, ["TS_1", "TS_10_10.00Apx", "TS_2"])
    assert [path.name for path in found.values()] == [
        "TS_1_mask.mrc",
        "mask_TS_10.mrc",
        "rec_TS_2.mrc",
    ]
    with pytest.raises(InputError, match="has no mask for TS_3; add one, named TS_3"):
        find_masks(tmp_path, ["TS_3"])
    with pytest.raises(InputError, match="one mask for 2 tomograms"):
        find_masks(tmp_path / "rec_TS_2.mrc", ["a", "b"])
    write_volume(tmp_path / "TS_1.mrc", np.ones((2, 2, 2)), voxel_size=10)
    with pytest.raises(InputError, match="of one name"):
        find_masks(tmp_path, ["TS_1"])


def test_no_real_ribosome_is_lost_to_an_automatic_mask(shared_data: Path) -> None:
    real = shared_data / "real"
    volume = read_tomogram(real / "empiar10499_00254_north.mrc")
    kept = within(mask := automatic_mask(volume.data, 12.5), volume.shape)
    for picks in ("picks_train_100.csv", "picks_val.csv"):
        voxels = np.rint(read_particles(real / picks, voxel_size=10.0).voxels).astype(int)
        assert kept[tuple(voxels.T)].all()
    assert 0.1 < 1 - kept_share(mask) < 0.4
