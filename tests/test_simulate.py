"""Simulated tomograms: what is planted is where the truth says, and looks as imaged."""

import json
import math

import numpy as np
import pytest
from scipy import fft, ndimage
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from tomopicker.cli.simulate import simulate as simulate_command
from tomopicker.errors import InputError
from tomopicker.simulate import (
    TARGET,
    Simulation,
    _membranes,
    phantom,
    plant,
    read_density,
    resample_density,
    simulate,
    transfer,
    vary,
    write_simulation,
)

SMALL = Simulation(
    shape=(40, 64, 72), particles=20, radius_angstrom=80.0, membranes=1, vesicles=0, beads=1
)


def simulated(settings=SMALL, seed=0, **inputs):
    return simulate(settings, rng=np.random.default_rng(seed), **inputs)


@pytest.fixture(scope="module")
def small():
    return simulated()


def test_the_volume_is_darker_at_the_true_centres_than_elsewhere(small):
    smooth = ndimage.gaussian_filter(small.volume, 2.0)
    at_truth = smooth[tuple(np.rint(small.particles.voxels).astype(int).T)].mean()
    rng = np.random.default_rng(1)
    elsewhere = np.array(
        [
            smooth[tuple(rng.integers(0, small.volume.shape, size=(20, 3)).T)].mean()
            for _ in range(300)
        ]
    )
    assert (at_truth - elsewhere.mean()) / elsewhere.std() < -4


def test_a_seed_gives_the_same_tomogram_and_another_seed_another(small):
    again, other = simulated(), simulated(seed=1)
    np.testing.assert_array_equal(again.volume, small.volume)
    np.testing.assert_array_equal(again.particles.positions, small.particles.positions)
    assert not np.array_equal(other.volume, small.volume)


def test_the_volume_has_the_shape_and_the_number_of_particles_asked_for(small):
    assert small.volume.shape == SMALL.shape
    assert small.volume.dtype == np.float32
    assert len(small.particles) == 20
    assert small.particles.voxel_size == 13.5
    assert set(small.others) == set(SMALL.distractors)
    assert sum(map(len, small.others.values())) > 20


def test_the_missing_wedge_is_empty(small):
    power = np.abs(fft.rfftn(small.volume)) ** 2
    z = np.abs(fft.fftfreq(40))[:, None, None]
    x = fft.rfftfreq(72)[None, None, :]
    angle = np.broadcast_to(np.degrees(np.arctan2(z, x)), power.shape)
    assert power[angle > 62].mean() < 1e-6 * power[angle < 58].mean()


def test_no_two_molecules_overlap_more_than_contact_allows():
    crowded = Simulation(shape=(48, 96, 96), particles=70, radius_angstrom=80.0, clustered=0.8)
    result = simulated(crowded)
    centres = result.particles.voxels
    nearest = cKDTree(centres).query(centres, k=2)[0][:, 1]
    least = 2 * crowded.contact * crowded.radius
    assert nearest.min() >= least
    assert np.median(nearest) < 1.35 * least
    for others in result.others.values():
        assert cKDTree(centres).query(others.voxels)[0].min() > crowded.contact * crowded.radius


def test_particles_stay_inside_the_lamella():
    settings = SMALL.model_copy(update={"margin": 0.25, "particles": 10})
    z = simulated(settings).particles.voxels[:, 0]
    least = 10 + 0.8 * settings.radius  # of 40 slices the first 10 are ice
    assert z.min() >= least - 1
    assert z.max() <= 39 - least + 1


def test_clustered_particles_have_nearer_neighbours():
    def median_neighbour(clustered):
        settings = SMALL.model_copy(update={"clustered": clustered, "shape": (40, 128, 128)})
        centres = simulated(settings).particles.voxels
        return np.median(cKDTree(centres).query(centres, k=2)[0][:, 1])

    assert median_neighbour(0.9) < 0.8 * median_neighbour(0.0)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.5, 10), (1.0, 20)])
def test_the_share_of_particles_asked_for_touches_the_membrane(share, expected):
    settings = SMALL.model_copy(update={"shape": (40, 128, 128), "on_membranes": share})
    centres = simulated(settings, seed=4).particles.voxels
    # The membranes are the first thing drawn, so the same seed makes the same ones.
    distances = _membranes(settings, np.random.default_rng(4))[1]
    distance = ndimage.map_coordinates(distances, centres.T, order=1, mode="nearest")
    touching = 0.9 * settings.radius + 25 / 13.5  # half a bilayer of 50 ångström
    assert distance.min() >= touching - 1.5
    on = distance < touching + 1.5
    assert on[:expected].all()
    assert on.sum() < expected + 6  # a few more come near by chance


@pytest.mark.parametrize("centre", [(16.0, 16.0, 16.0), (15.3, 16.9, 17.45)])
def test_a_planted_particles_centre_of_mass_is_at_its_position(centre):
    volume = np.zeros((33, 33, 33), dtype=np.float32)
    turn = Rotation.from_euler("xyz", [25, 130, -60], degrees=True)
    plant(volume, phantom(8.0), np.array([centre]), Rotation.concatenate([turn]))
    np.testing.assert_allclose(ndimage.center_of_mass(volume), centre, atol=0.05)


def test_a_quarter_turn_about_z_takes_x_to_y():
    bar = np.zeros((9, 9, 9), dtype=np.float32)
    bar[4, 4, 4:8] = 1.0
    volume = np.zeros((9, 9, 9), dtype=np.float32)
    turn = Rotation.from_rotvec([[0, 0, math.pi / 2]])
    plant(volume, bar, np.array([[4.0, 4.0, 4.0]]), turn)
    np.testing.assert_allclose(volume[4, 4:8, 4], 1.0, atol=1e-5)
    assert abs(volume[4, 4, 6]) < 1e-5


def test_a_particle_that_reaches_past_the_volume_is_cut_and_one_far_away_leaves_no_trace():
    volume = np.zeros((12, 12, 12), dtype=np.float32)
    ball = phantom(4.0)
    plant(volume, ball, np.array([[0.0, 6.0, 6.0]]), Rotation.from_quat([[0, 0, 0, 1.0]]))
    np.testing.assert_allclose(volume[0, 6, 6], ball[6, 6, 6], rtol=1e-4)
    before = volume.copy()
    plant(volume, ball, np.array([[40.0, 6.0, 6.0]]), Rotation.from_quat([[0, 0, 0, 1.0]]))
    np.testing.assert_array_equal(volume, before)


def test_the_phantom_is_centred_uneven_and_as_large_as_asked():
    density = phantom(10.0)
    half = density.shape[0] // 2
    assert density.shape == (25, 25, 25)
    np.testing.assert_allclose(ndimage.center_of_mass(density), (half,) * 3, atol=0.02)
    z, y, x = np.mgrid[-half : half + 1, -half : half + 1, -half : half + 1]
    distance = np.sqrt(z**2 + y**2 + x**2)
    assert density[distance <= 10.5].sum() > 0.99 * density.sum()
    assert 8 < distance[density > 0.5].max() < 12
    turned = np.corrcoef(density.ravel(), density[::-1, ::-1].ravel())[0, 1]
    assert turned < 0.9


def test_the_transfer_is_worked_by_hand():
    # At k = 1/54 per ångström with lambda = 0.019687 Å: pi lambda 32500 Å k² = 0.68933, Cs takes
    # 0.00004 away, asin(0.07) = 0.07006; sin(0.75935) = 0.68845; exp(-600 / 4 / 54²) = 0.94986.
    settings = Simulation(voxel_size=13.5)
    signal, noise = transfer((8, 8, 8), settings)
    low_pass = math.exp(-0.5 * (0.25 / 0.35) ** 6)
    assert signal[0, 0, 2] == pytest.approx(-0.68845 * 0.94986 * low_pass, rel=1e-4)
    assert noise[0, 0, 2] == pytest.approx(math.sqrt(0.35) * low_pass, rel=1e-5)
    assert signal[2, 0, 0] == 0  # along the beam
    assert signal[0, 2, 0] == pytest.approx(signal[0, 0, 2])  # along the tilt axis


def test_a_phase_plate_shows_low_frequencies_that_defocus_does_not():
    plate = Simulation(phase_shift_degrees=90.0, defocus_micrometres=0.5)
    at_rest = [transfer((8, 8, 64), s)[0][0, 0, 1] for s in (plate, Simulation())]
    assert at_rest[0] < -0.9
    assert -0.2 < at_rest[1] < 0


def test_more_signal_to_noise_makes_the_particles_darker():
    smoothed = [
        ndimage.gaussian_filter(simulated(SMALL.model_copy(update={"snr": snr})).volume, 1.5)
        for snr in (0.05, 5.0)
    ]
    at = tuple(np.rint(simulated().particles.voxels).astype(int).T)
    assert smoothed[1][at].mean() < 2 * smoothed[0][at].mean() < 0


def test_given_positions_and_templates_are_used_as_they_are():
    centres = np.array([[20.25, 20.5, 20.75], [20.0, 44.0, 50.0]])
    settings = SMALL.model_copy(update={"distractors": {}})
    result = simulated(
        settings,
        templates={"ball": phantom(3.0)},
        positions={TARGET: centres, "ball": centres + 12},
    )
    np.testing.assert_allclose(result.particles.voxels, centres)
    np.testing.assert_allclose(result.others["ball"].voxels, centres + 12)


def test_a_map_at_another_voxel_size_is_centred_and_keeps_its_mass():
    fine = np.zeros((40, 40, 40))
    z, y, x = np.ogrid[:40, :40, :40]
    fine[(z - 17) ** 2 + (y - 20) ** 2 + (x - 22) ** 2 <= 100] = 7.0
    density = resample_density(fine, source_voxel_size=5.0, voxel_size=10.0)
    half = density.shape[0] // 2
    assert density.shape == (2 * half + 1,) * 3
    np.testing.assert_allclose(ndimage.center_of_mass(density), (half,) * 3, atol=0.05)
    assert density.sum() == pytest.approx(4 / 3 * math.pi * 5**3, rel=0.15)
    heavy = resample_density(fine, source_voxel_size=5.0, voxel_size=10.0, kilodaltons=100.0)
    assert heavy.sum() == pytest.approx(121.0, rel=1e-5)  # 100 kDa x 1.21 Å³/Da / (10 Å)³


def test_a_map_is_read_from_a_file(tmp_path):
    from tomopicker.io.tomograms import write_volume

    source = phantom(6.0)
    write_volume(tmp_path / "map.mrc", source, voxel_size=10.0)
    density = read_density(tmp_path / "map.mrc", voxel_size=10.0)
    half = density.shape[0] // 2
    np.testing.assert_allclose(ndimage.center_of_mass(density), (half,) * 3, atol=0.1)
    write_volume(tmp_path / "dark.mrc", -source, voxel_size=10.0)
    with pytest.raises(InputError, match=r"dark\.mrc.*positive"):
        read_density(tmp_path / "dark.mrc", voxel_size=10.0)


def test_a_varied_tomogram_keeps_its_shape_and_changes_its_imaging():
    one, two = (vary(SMALL, rng=np.random.default_rng(seed)) for seed in (0, 1))
    assert one.shape == SMALL.shape
    assert one.particles == SMALL.particles
    assert one.snr != two.snr
    assert one.defocus_micrometres != two.defocus_micrometres


@pytest.mark.parametrize(
    ("settings", "inputs", "message"),
    [
        ({"shape": (10, 64, 72)}, {}, "12 voxels wide"),
        ({"particles": 5000}, {}, r"5000 particles.*room for about \d+"),
        ({"distractors": {"teapot": 1.0}}, {}, "teapot.*barrel, dumbbell, globule, ring, rod"),
        ({}, {"positions": {TARGET: np.array([[1.0, 2.0, 72.0]])}}, "position 1.*outside"),
        ({}, {"positions": {"ball": np.zeros((1, 3))}}, "no template"),
        ({}, {"templates": {"ball": phantom(3.0)}}, "neither positions nor"),
        ({}, {"templates": {TARGET: np.ones((4, 4, 4), np.float32)}}, "odd side"),
    ],
)
def test_what_cannot_be_simulated_is_refused_with_the_reason(settings, inputs, message):
    with pytest.raises(InputError, match=message):
        simulated(Simulation.model_validate({**SMALL.model_dump(), **settings}), **inputs)


def test_what_is_written_is_read_back(tmp_path, small):
    from tomopicker.io.particles import read_particles
    from tomopicker.io.tomograms import read_tomogram

    write_simulation(tmp_path, small, "one")
    tomogram = read_tomogram(tmp_path / "one.mrc")
    assert tomogram.voxel_size == pytest.approx(13.5)
    np.testing.assert_array_equal(tomogram.data, small.volume)
    truth = read_particles(tmp_path / "one.csv", voxel_size=13.5)
    np.testing.assert_allclose(truth.voxels, small.particles.voxels, atol=1e-2)


COMMAND = {"shape": "32,40,44", "particles": 5, "radius": "6vx"}


def test_the_command_writes_tomograms_truth_and_settings(tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    simulate_command(out, **COMMAND, seed=3, tomograms=2)
    stems = ("sim_0001", "sim_0002")
    expected = {"simulation.json", *(f"{stem}.{kind}" for stem in stems for kind in ("csv", "mrc"))}
    assert {file.name for file in out.iterdir()} == expected
    record = json.loads((out / "simulation.json").read_text())
    assert record["seed"] == 3
    first = Simulation.model_validate(record["tomograms"]["sim_0001"])
    assert (first.particles, first.radius_angstrom) == (5, 81.0)
    assert f"tomopicker train {out}/sim_0001.mrc" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": "32,40"}, "--shape"),
        ({"shape": "32,forty,44"}, "--shape"),
        ({"shape": "0,40,44"}, "--shape"),
        ({"shape": "8,40,44"}, "does not fit"),
        ({"particles": 900}, "room for"),
        ({"voxel_size": math.nan}, "--voxel-size"),
    ],
)
def test_the_command_refuses_bad_input_and_leaves_nothing(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        simulate_command(tmp_path / "out", **{**COMMAND, **options})
    assert not (tmp_path / "out").exists()


def test_the_command_refuses_a_folder_that_is_not_empty(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not an empty folder"):
        simulate_command(tmp_path, **COMMAND)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
