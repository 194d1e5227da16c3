"""Picks that were read in a wrong way are noticed by the density, and no others are."""

from pathlib import Path

import numpy as np
import pytest

from tomopicker.errors import InputError
from tomopicker.fit import Fit, Reading, fit_of_picks, mean_subvolume
from tomopicker.io.particles import read_particles
from tomopicker.io.tomograms import read_tomogram
from tomopicker.report import fit_figure
from tomopicker.types import Floats, Particles, Shape, Tomogram

SHAPE: Shape = (40, 100, 80)
RADIUS = 4.0


def planted(
    brightness: float = -1.0, count: int = 40, *, sigma: float = 1.0
) -> tuple[Tomogram, Floats]:
    """Balls of a brightness in noise, and their centres ``z y x``."""
    rng = np.random.default_rng(1)
    volume = rng.normal(scale=sigma, size=SHAPE)
    centres = rng.integers(5, np.array(SHAPE) - 5, size=(count, 3))
    ball = (np.square(np.indices((9, 9, 9)) - 4)).sum(axis=0) <= RADIUS**2
    for z, y, x in centres:
        volume[z - 4 : z + 5, y - 4 : y + 5, x - 4 : x + 5][ball] += brightness
    return Tomogram(name="a", data=volume.astype(np.float32), voxel_size=10.0), centres.astype(
        float
    )


def fit(tomogram: Tomogram, voxels: Floats, radius: float = RADIUS) -> Fit:
    particles = Particles.from_voxels(voxels, voxel_size=tomogram.voxel_size)
    return fit_of_picks(tomogram, particles, radius, rng=np.random.default_rng(0))


def misread(reading: Reading, places: Floats) -> Floats:
    """Coordinates ``z y x`` as they are read, which that reading would put right."""
    places = places.copy()
    for axis in reading.mirrored:
        column = "zyx".index(axis)
        places[:, column] = SHAPE[column] - 1 - places[:, column]
    if reading.from_centre:
        places -= np.array(SHAPE) / 2
    columns = [places[:, "zyx".index(axis)] for axis in reading.order]
    return np.stack(columns[::-1], axis=1) / reading.factor


@pytest.mark.parametrize(("brightness", "sign"), [(1.0, 1), (-1.0, -1)])
def test_picks_on_density_stand_out_by_their_sign(brightness: float, sign: int) -> None:
    found = fit(*planted(brightness))
    assert sign * found.z > 10
    assert found.inside == 1
    assert (found.better, found.better_shift) == (None, None)


WRONG = {
    "x and z swapped": Reading(order="zyx"),
    "y and z swapped": Reading(order="xzy"),
    "columns read as y,z,x": Reading(order="yzx"),
    "x mirrored": Reading(mirrored="x"),
    "z mirrored": Reading(mirrored="z"),
    "x and y mirrored": Reading(mirrored="xy"),
    "y and z swapped, z mirrored": Reading(order="xzy", mirrored="z"),
    "numbers doubled": Reading(factor=2),
    "numbers halved": Reading(factor=0.5),
    "x and z swapped, numbers halved": Reading(order="zyx", factor=0.5),
    "numbers multiplied by 0.1": Reading(factor=0.1),
    "counted from the centre": Reading(from_centre=True),
    "numbers multiplied by 0.1, counted from the centre": Reading(factor=0.1, from_centre=True),
}


@pytest.mark.parametrize("words", WRONG)
def test_the_right_reading_of_misread_picks_is_found_and_said(words: str) -> None:
    tomogram, centres = planted()
    reading = WRONG[words]
    voxels = misread(reading, centres)
    np.testing.assert_allclose(reading.places(voxels, SHAPE), centres)
    found = fit(tomogram, voxels)
    assert found.better == reading
    assert str(found.better) == words
    assert found.readings[reading] < -10


def test_corners_of_boxes_are_noticed_as_a_shift() -> None:
    tomogram, centres = planted()
    found = fit(tomogram, centres - [0, RADIUS, RADIUS])
    assert found.better_shift is not None
    np.testing.assert_allclose(found.better_shift, [0, 4, 4], atol=1)
    # By as much as hands shake when clicking, a shift is none.
    assert fit(tomogram, centres - [0, 1, 1]).better_shift is None


@pytest.mark.parametrize("count", [3, 12, 200])
def test_nothing_is_claimed_of_picks_anywhere(count: int) -> None:
    tomogram, _ = planted()
    rng = np.random.default_rng(5)
    for _ in range(8):
        found = fit(tomogram, rng.uniform(0, np.array(SHAPE) - 1, (count, 3)))
        assert abs(found.z) < 5
        assert (found.better, found.better_shift) == (None, None)


def test_nothing_is_claimed_of_picks_in_noise_or_in_a_constant() -> None:
    _, centres = planted()
    noise = np.random.default_rng(2).normal(size=SHAPE).astype(np.float32)
    for volume in (noise, np.ones(SHAPE, np.float32), np.full(SHAPE, np.nan, np.float32)):
        found = fit(Tomogram(name="a", data=volume, voxel_size=10.0), centres)
        assert abs(found.z) < 5
        assert (found.better, found.better_shift) == (None, None)


def test_a_few_very_bright_voxels_do_not_decide() -> None:
    tomogram, centres = planted()
    volume = np.array(tomogram.data)
    for z, y, x in centres[::8].astype(int):
        volume[SHAPE[0] - 1 - z, y, x] = 1e6  # gold where the mirrored picks are
    assert fit(Tomogram(name="a", data=volume, voxel_size=10.0), centres).better is None


def test_picks_that_are_all_outside_fit_nothing() -> None:
    tomogram, centres = planted()
    found = fit(tomogram, centres + 10_000)
    assert (found.z, found.inside, found.better) == (0, 0, None)


def test_no_picks_and_no_radius_cannot_be_measured() -> None:
    tomogram, centres = planted()
    with pytest.raises(InputError, match="cannot be measured"):
        fit(tomogram, centres, radius=0)
    with pytest.raises(InputError, match="0 picks"):
        fit(tomogram, centres[:0])


def test_a_mean_subvolume_leaves_out_boxes_that_are_cut() -> None:
    volume = np.arange(125.0).reshape(5, 5, 5)
    mean = mean_subvolume(volume, np.array([[1, 1, 1], [3, 3, 3], [0, 2, 2]]), 1)
    assert mean.shape == (3, 3, 3)
    assert mean[1, 1, 1] == volume[2, 2, 2]
    assert not mean_subvolume(volume, np.array([[0, 0, 0]]), 2).any()


def test_the_picture_shows_the_picks_as_they_are_and_a_better_reading_below() -> None:
    tomogram, centres = planted()
    particles = Particles.from_voxels(centres, voxel_size=10.0)
    good = fit_figure(tomogram, particles, fit(tomogram, centres))
    wrong = misread(Reading(mirrored="z"), centres)
    bad = fit_figure(tomogram, Particles.from_voxels(wrong, voxel_size=10.0), fit(tomogram, wrong))
    corners = centres - [0, RADIUS, RADIUS]
    shifted = fit_figure(
        tomogram, Particles.from_voxels(corners, voxel_size=10.0), fit(tomogram, corners)
    )
    assert [len(figure.subfigs) for figure in (good, bad, shifted)] == [2, 3, 3]


@pytest.mark.parametrize("mirrored", ["", "z", "xy"])
def test_mirrored_picks_of_a_real_tomogram_are_noticed(shared_data: Path, mirrored: str) -> None:
    tomogram = read_tomogram(shared_data / "real" / "empiar10499_00254_north.mrc")
    known = read_particles(shared_data / "real" / "picks_train_100.csv", voxel_size=10.0)
    voxels = Reading(mirrored=mirrored).places(known.voxels, tomogram.shape)
    found = fit(tomogram, voxels, radius=12.5)
    if mirrored:
        assert found.better == Reading(mirrored=mirrored)
    else:
        assert found.z < -15
        assert (found.better, found.better_shift) == (None, None)
