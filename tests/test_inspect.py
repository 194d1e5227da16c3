"""What a volume is like, how it lies, and what the command says of it and of picks."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conftest import Outcome
from tomopicker.cli.inspect import inspect
from tomopicker.errors import InputError, UnknownVoxelSizeError
from tomopicker.inspect import densities, missing_wedge
from tomopicker.io.particles import write_particles
from tomopicker.io.tomograms import write_volume
from tomopicker.types import Particles, Tomogram, Volume

Command = Callable[..., Outcome]

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
    with contextlib.suppress(InputError):
        inspect([file], picks)
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
    assert "not where the density is" in text
    assert "the picks fit the volume better with x and y swapped" in text


def test_picks_outside_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path, planted()[0].data)
    (tmp_path / "a.csv").write_text("5,50,50\n")
    with pytest.raises(InputError, match="fit the volume as z,y,x"):
        inspect([file], tmp_path / "a.csv")


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
        inspect([file], tmp_path / "a.star")


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
    with pytest.raises(InputError, match=r"a: the volume holds no finite number"):
        inspect([file])


def test_a_real_tomogram_has_dark_particles_where_they_were_picked(
    shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = shared_data / "real"
    text = report(capsys, real / "empiar10499_00254_north.mrc", real / "picks_train_100.csv")
    assert "picks       100, all inside" in text
    assert "wedge       missing along z: tilted about y" in text
    assert "the picks are on dark density" in text
    assert "Warning" not in text


def wedged(shape: tuple[int, int, int], beam: int, across: int) -> Volume:
    """Noise without the waves that a tilt series to 60 degrees does not measure."""
    spectrum = np.fft.fftn(np.random.default_rng(3).normal(size=shape))
    waves = np.meshgrid(*(np.fft.fftfreq(side) for side in shape), indexing="ij")
    spectrum[np.abs(waves[across]) < np.tan(np.radians(30)) * np.abs(waves[beam])] = 0
    return np.fft.ifftn(spectrum).real.astype(np.float32)


@pytest.mark.parametrize("beam", [0, 1, 2])
@pytest.mark.parametrize("turn", [1, 2])
def test_the_missing_wedge_tells_the_beam_and_the_tilt_axis(beam: int, turn: int) -> None:
    across = (beam + turn) % 3
    wedge = missing_wedge(wedged((40, 64, 50), beam, across))
    assert wedge is not None
    assert wedge.beam == "zyx"[beam]
    assert {wedge.beam, wedge.tilt_axis, "zyx"[across]} == set("zyx")


def test_no_wedge_is_told_of_a_volume_without_one() -> None:
    noise = np.random.default_rng(0).normal(size=(40, 60, 60))
    assert missing_wedge(noise) is None
    noise[:20] = np.nan
    assert missing_wedge(noise) is None
    assert missing_wedge(np.full((40, 40, 40), np.nan)) is None
    assert missing_wedge(noise[:8]) is None


def test_a_volume_that_lies_on_its_side_is_a_problem(tomopicker: Command, tmp_path: Path) -> None:
    file = write(tmp_path, wedged((60, 60, 60), 1, 2))
    done = tomopicker("inspect", file)
    assert done.code == 2
    assert "missing wedge lies along y" in done.errors[-1]
    assert "trimvol -rx" in done.errors[-1]


def test_many_tomograms_are_a_table_and_one_that_is_broken_costs_no_other(
    tomopicker: Command, simulated: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.mrc").write_bytes(b"nothing")
    tomograms = (simulated, tmp_path / "broken.mrc")
    done = tomopicker("inspect", *tomograms, "--picks", simulated, "--picture", tmp_path / "out")
    assert done.code == 2
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines()}
    assert rows["tomogram"][-3:] == ["picks", "inside", "density"]
    assert rows["sim_0001"][1:7] == ["64", "×", "64", "×", "32", "13.5"]
    assert rows["sim_0001"][-4:-1] == ["24", "100", "%"]
    assert rows["broken"][1:] == ["-"] * 8
    assert "broken: " in done.errors[-1]
    assert "is not an MRC file" in done.errors[-1]
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"sim_0001.png", "sim_0002.png"}


def test_names_that_fit_no_tomogram_are_a_problem_but_the_others_are_looked_at(
    tomopicker: Command, simulated: Path, tmp_path: Path
) -> None:
    picks = tmp_path / "picks.csv"
    picks.write_text("tomogram,x,y,z\nsim_0001,5,5,5\nsim_0001,9,9,9\nTS_7,1,1,1\n")
    done = tomopicker("inspect", simulated, "--picks", picks)
    assert done.code == 2
    assert "has picks in TS_7" in done.errors[-1]
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines()}
    assert rows["sim_0001"][-4:-1] == ["2", "100", "%"]
    assert rows["sim_0002"][-3:] == ["-", "-", "-"]


def test_the_picture_needs_picks_and_is_not_replaced(
    tomopicker: Command, simulated: Path, tmp_path: Path
) -> None:
    known, picture = simulated / "sim_0001", tmp_path / "a.png"
    inspecting = ("inspect", known.with_suffix(".mrc"), "--picture", picture, "--radius", "60A")
    assert "--picks" in tomopicker(*inspecting).errors[-1]
    picks = ("--picks", known.with_suffix(".csv"))
    assert tomopicker(*inspecting, *picks).code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "--force" in tomopicker(*inspecting, *picks).errors[-1]
    assert tomopicker(*inspecting, *picks, "--force").code == 0
    several = tomopicker("inspect", simulated, *picks, "--picture", tmp_path / "b.png")
    assert "need a folder" in several.errors[-1]
