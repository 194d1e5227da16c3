"""What a volume is like, and whether picks sit on it."""

from pathlib import Path

import numpy as np
import pytest

from tomopicker.cli.inspect import inspect
from tomopicker.errors import InputError, UnknownVoxelSizeError
from tomopicker.inspect import densities, fit_of_picks
from tomopicker.io.particles import write_particles
from tomopicker.io.tomograms import write_volume
from tomopicker.types import Particles, Tomogram, Volume

SHAPE = (30, 60, 60)
RADIUS = 3.0


def planted(brightness: float = 2.0, count: int = 30) -> tuple[Tomogram, Particles]:
    """Balls of the given brightness in noise of sigma 1, and where they are."""
    rng = np.random.default_rng(1)
    volume = rng.normal(size=SHAPE)
    centres = rng.integers(4, np.array(SHAPE) - 4, size=(count, 3))
    grid = np.indices((7, 7, 7)) - 3
    ball = (grid**2).sum(axis=0) <= RADIUS**2
    for z, y, x in centres:
        volume[z - 3 : z + 4, y - 3 : y + 4, x - 3 : x + 4][ball] = brightness
    tomogram = Tomogram(name="planted", data=volume.astype(np.float32), voxel_size=10.0)
    return tomogram, Particles.from_voxels(centres, voxel_size=10.0)


def swapped(particles: Particles) -> Particles:
    """The same numbers with the columns x and y exchanged."""
    return Particles(positions=particles.positions[:, [1, 0, 2]], voxel_size=particles.voxel_size)


def write(folder: Path, volume: Volume, *, voxel_size: float = 10.0) -> Path:
    write_volume(folder / "a.mrc", volume, voxel_size=voxel_size)
    return folder / "a.mrc"


def report(capsys: pytest.CaptureFixture[str], file: Path, picks: Path | None = None) -> str:
    inspect(file, picks)
    return capsys.readouterr().out


def test_values_are_described_from_a_sample() -> None:
    volume = np.random.default_rng(0).normal(5, 2, size=(80, 120, 120)).astype(np.float32)
    found = densities(volume, most=50_000)
    assert found.sampled <= 50_000
    assert found.mean == pytest.approx(5, abs=0.1)
    assert found.sigma == pytest.approx(2, abs=0.1)
    assert found.percentiles[50.0] == pytest.approx(5, abs=0.1)
    assert found.finite == 1
    # The histogram leaves out a thousandth on each side.
    assert found.counts.sum() == pytest.approx(0.998 * found.sampled, abs=3)


@pytest.mark.parametrize("shape", [(2, 2000, 30), (200, 3, 3), (3, 4, 5)])
def test_a_sample_of_any_shape_keeps_to_its_size(shape: tuple[int, int, int]) -> None:
    assert 0 < densities(np.ones(shape), most=100).sampled <= 100


def test_values_that_are_not_numbers_are_counted_and_left_out() -> None:
    volume = np.ones((4, 4, 4))
    volume[0] = np.nan
    found = densities(volume)
    assert found.finite == 0.75
    assert found.mean == 1
    with pytest.raises(InputError, match="no finite number"):
        densities(np.full((4, 4, 4), np.inf))


@pytest.mark.parametrize(("brightness", "sign"), [(2.0, 1), (-2.0, -1)])
def test_picks_on_density_stand_out_by_their_sign(brightness: float, sign: int) -> None:
    tomogram, particles = planted(brightness)
    fit = fit_of_picks(tomogram, particles, RADIUS, rng=np.random.default_rng(0))
    assert sign * fit.z > 8
    assert fit.better_order is None


def test_picks_anywhere_do_not_stand_out() -> None:
    tomogram, _ = planted()
    anywhere = Particles.from_voxels(
        np.random.default_rng(5).uniform(0, np.array(SHAPE) - 1, (100, 3)), voxel_size=10.0
    )
    fit = fit_of_picks(tomogram, anywhere, RADIUS, rng=np.random.default_rng(0))
    assert abs(fit.z) < 4
    assert fit.better_order is None


def test_swapped_columns_that_fit_inside_are_noticed_by_the_density() -> None:
    tomogram, particles = planted()
    fit = fit_of_picks(tomogram, swapped(particles), RADIUS, rng=np.random.default_rng(0))
    assert abs(fit.z) < 4
    assert fit.better_order == "yxz"


def test_a_constant_volume_has_no_better_and_no_worse_places() -> None:
    _, particles = planted()
    flat = Tomogram(name="flat", data=np.ones(SHAPE), voxel_size=10.0)
    fit = fit_of_picks(flat, particles, RADIUS, rng=np.random.default_rng(0), most=5)
    assert fit.z == 0


def test_no_picks_and_no_radius_cannot_be_measured() -> None:
    tomogram, particles = planted()
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="cannot be measured"):
        fit_of_picks(tomogram, particles, 0, rng=rng)
    with pytest.raises(InputError, match="0 picks"):
        fit_of_picks(tomogram, particles.select(np.zeros(30, bool)), RADIUS, rng=rng)


def test_the_report_says_what_the_volume_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = report(capsys, write(tmp_path, planted()[0].data))
    assert "60 × 60 × 30 voxels (x × y × z), float32" in text
    assert "voxel size  10 Å, so 60 × 60 × 30 nm" in text
    assert "thinnest    along z" in text
    assert "Warning" not in text


def test_the_report_says_that_picks_are_on_density(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tomogram, particles = planted()
    file = write(tmp_path, tomogram.data, voxel_size=30)
    write_particles(tmp_path / "a.csv", particles)
    assert "the picks are on bright density" in report(capsys, file, tmp_path / "a.csv")
    write_particles(tmp_path / "b.csv", swapped(particles))
    text = report(capsys, file, tmp_path / "b.csv")
    assert "is this the tomogram that they were picked in?" in text
    assert "read as y,x,z the picks fit the density far better" in text


def test_picks_outside_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path, planted()[0].data)
    (tmp_path / "a.csv").write_text("5,50,50\n")
    with pytest.raises(InputError, match="fit the volume as z,y,x"):
        inspect(file, tmp_path / "a.csv")


def test_all_but_lengths_is_told_of_an_unknown_voxel_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tomogram, particles = planted()
    file = write(tmp_path, tomogram.data, voxel_size=1)
    write_particles(tmp_path / "a.csv", particles)
    text = report(capsys, file, tmp_path / "a.csv")
    assert "voxel size  unknown" in text
    assert "--voxel-size" in text
    assert "60 × 60 × 30 voxels" in text
    assert "picks       30, all inside" in text


def test_picks_in_angstrom_need_the_voxel_size(tmp_path: Path) -> None:
    tomogram, particles = planted()
    file = write(tmp_path, tomogram.data, voxel_size=1)
    write_particles(tmp_path / "a.star", particles, format="relion5", shape=SHAPE)
    with pytest.raises(UnknownVoxelSizeError, match="--voxel-size"):
        inspect(file, tmp_path / "a.star")


def test_warnings_tell_what_is_wrong_with_a_volume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    volume = np.ones((40, 20, 40), np.float32)
    volume[:10] = np.nan
    text = report(capsys, write(tmp_path, volume))
    assert "this one along y" in text
    assert "trimvol -rx" in text
    assert "every value is the same" in text
    assert "25 % of the voxels are not numbers" in text


def test_a_volume_of_nothing_but_nan_is_refused_by_name(tmp_path: Path) -> None:
    file = write(tmp_path, np.full(SHAPE, np.nan))
    with pytest.raises(InputError, match=r"a\.mrc: the volume holds no finite number"):
        inspect(file)


def test_a_real_tomogram_has_dark_particles_where_they_were_picked(
    shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = shared_data / "real"
    text = report(capsys, real / "empiar10499_00254_north.mrc", real / "picks_train_100.csv")
    assert "picks       100, all inside" in text
    assert "the picks are on dark density" in text
    assert "Warning" not in text
