"""Particle lists of every format: written and read again, and read by other programs' readers."""

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from tomopicker.io.particles import read_particles, write_particles
from tomopicker.io.particles.angles import (
    from_dynamo,
    from_relion,
    from_tom,
    to_dynamo,
    to_relion,
    to_tom,
)
from tomopicker.types import Particles, Shape

SHAPE: Shape = (101, 203, 305)
VOXEL, PIXEL = 13.48, 3.37


def particles(*zyx: tuple[float, float, float], **columns: Any) -> Particles:
    return Particles.from_voxels(np.array(zyx).reshape(-1, 3), voxel_size=VOXEL, **columns)


def write(path: Path, table: Particles, name: str, *, shape: Shape = SHAPE) -> Path:
    write_particles(path, table, format=name, shape=shape, pixel_size=PIXEL, overwrite=True)
    return path


def read(path: Path, *, shape: Shape = SHAPE, voxel_size: float = VOXEL) -> Particles:
    return read_particles(path, voxel_size=voxel_size, shape=shape, pixel_size=PIXEL)


# Orientations


def test_dynamo_and_relion_agree_on_a_pair_that_both_reconstruct_alike() -> None:
    dynamo, relion = np.array([[-47.2730, 1.1777, -132.3000]]), np.array([[137.7, 1.1777, 42.727]])
    np.testing.assert_allclose(to_relion(from_dynamo(dynamo)), relion, atol=1e-9)
    np.testing.assert_allclose(to_dynamo(from_relion(relion)), dynamo, atol=1e-9)


def test_an_orientation_turns_the_reference_into_the_particle() -> None:
    # RELION writes the angles of the turn from particle to reference: z, new y, new z. A tilt of
    # 90 degrees takes the particle's axis to the reference's; back, z becomes -x.
    (tilted,) = from_relion(np.array([[0.0, 90, 0]]))
    np.testing.assert_allclose(tilted @ [0, 0, 1], [-1, 0, 0], atol=1e-12)
    # TOM turns the reference by phi about z, then theta about x, then psi about z.
    (turned,) = from_tom(np.array([[0.0, 90, 90]]))
    np.testing.assert_allclose(turned @ [0, 0, 1], [1, 0, 0], atol=1e-12)


@given(seed=st.integers(0, 1000))
def test_angles_and_matrices_are_each_others_inverse(seed: int) -> None:
    turns = Rotation.random(3, rng=seed).as_matrix()
    for back, forth in ((to_relion, from_relion), (to_dynamo, from_dynamo), (to_tom, from_tom)):
        np.testing.assert_allclose(forth(back(turns)), turns, atol=1e-9)
    upright = np.eye(3)[None]
    np.testing.assert_allclose(from_relion(to_relion(upright)), upright, atol=1e-9)


def test_a_box_that_was_turned_when_it_was_cut_turns_its_shifts_too(tmp_path: Path) -> None:
    # A box turned by rot = 90: its x is the tomogram's -y, so a shift of 10 Å along its x takes the
    # particle 10 Å along the tomogram's +y (coordinate minus turned shift).
    columns = (
        *(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ"),
        *("rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi"),
        *("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"),
        *(f"rlnOrigin{axis}Angst" for axis in "XYZ"),
    )
    head = "data_particles\n\nloop_\n" + "".join(f"_{column}\n" for column in columns)
    (tmp_path / "a.star").write_text(f"{head}0 0 0 90 0 0 10 20 30 10 0 0\n")
    table = read_particles(tmp_path / "a.star", voxel_size=10, shape=(10, 10, 10))
    np.testing.assert_allclose(table.positions, [[50, 60, 50]], atol=1e-9)
    box, particle = from_relion(np.array([[90.0, 0, 0], [10, 20, 30]]))
    assert table.orientations is not None
    np.testing.assert_allclose(table.orientations[0], box @ particle)


def test_other_columns_survive_where_the_target_can_hold_them(tmp_path: Path) -> None:
    columns = {"rlnClassNumber": ("1", "2"), "who": ("me, too", "you")}
    table = particles((1, 2, 3), (4, 5, 6), tomograms=("a", "a"), extra=columns)
    after = read(write(tmp_path / "a.csv", table, "csv"))
    assert dict(after.extra) == columns
    after = read(write(tmp_path / "a.star", table, "relion5"))
    assert dict(after.extra) == {"rlnClassNumber": columns["rlnClassNumber"]}
    assert after.select(np.array([1])).extra == {"rlnClassNumber": ("2",)}
