"""Orientations as the programs write them, each as three angles in degrees.

A rotation matrix here turns the reference into the particle, ``x y z``. RELION and Dynamo write the
angles of its inverse, about moved ``z y z`` axes and about fixed ``z x z`` axes; TOM and its kin
write those of the rotation itself about fixed ``z x z`` axes. So Dynamo's (-47.273, 1.1777, -132.3)
is RELION's (137.7, 1.1777, 42.727), a pair that both programs reconstruct alike.
"""

from __future__ import annotations

import warnings

import numpy as np
from scipy.spatial.transform import Rotation

from tomopicker.types import Floats


def from_relion(angles: Floats) -> Floats:
    """Matrices (n, 3, 3) of RELION's rot, tilt and psi (n, 3).

    >>> from_relion(np.array([[90.0, 0, 0]])).round(6)[0, 0].tolist()
    [0.0, 1.0, 0.0]
    """
    return _matrices("ZYZ", angles, inverse=True)


def to_relion(orientations: Floats) -> Floats:
    """RELION's rot, tilt and psi (n, 3) of matrices (n, 3, 3)."""
    return _angles("ZYZ", orientations, inverse=True)


def from_dynamo(angles: Floats) -> Floats:
    """Matrices (n, 3, 3) of Dynamo's tdrot, tilt and narot (n, 3)."""
    return _matrices("zxz", angles, inverse=True)


def to_dynamo(orientations: Floats) -> Floats:
    """Dynamo's tdrot, tilt and narot (n, 3) of matrices (n, 3, 3)."""
    return _angles("zxz", orientations, inverse=True)


def from_tom(angles: Floats) -> Floats:
    """Matrices (n, 3, 3) of TOM's phi, theta and psi (n, 3)."""
    return _matrices("zxz", angles, inverse=False)


def to_tom(orientations: Floats) -> Floats:
    """TOM's phi, theta and psi (n, 3) of matrices (n, 3, 3)."""
    return _angles("zxz", orientations, inverse=False)


def are_rotations(matrices: Floats) -> bool:
    """Tell whether matrices (n, 3, 3) only turn, to the precision that files are written with."""
    if not np.isfinite(matrices).all() or (np.abs(matrices) > 1.1).any():
        return False
    products = matrices @ matrices.transpose(0, 2, 1)
    straight = np.allclose(products, np.eye(3), atol=1e-3)
    return bool(straight and (np.linalg.det(matrices) > 0).all())


def _matrices(axes: str, angles: Floats, *, inverse: bool) -> Floats:
    if not len(angles):
        return np.zeros((0, 3, 3))
    # Whole turns first: scipy's sines of 1e300 degrees are not numbers.
    rotations = Rotation.from_euler(axes, np.fmod(angles, 360.0), degrees=True)
    matrices: Floats = (rotations.inv() if inverse else rotations).as_matrix()
    return matrices


def _angles(axes: str, orientations: Floats, *, inverse: bool) -> Floats:
    if not len(orientations):
        return np.zeros((0, 3))
    rotations = Rotation.from_matrix(orientations)
    # Without tilt two angles are one, and scipy warns that it puts both into the first.
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        angles: Floats = (rotations.inv() if inverse else rotations).as_euler(axes, degrees=True)
    return angles
