"""What is measured on: tomograms of noise with planted particles, and a model that picks them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import mrcfile
import numpy as np

from tomopicker.checkpoint import write_checkpoint
from tomopicker.config import preset
from tomopicker.held_out import calibrate
from tomopicker.io.tomograms import read_tomogram
from tomopicker.simulate import phantom
from tomopicker.task import prepare
from tomopicker.training import Epoch, fit
from tomopicker.types import Particles

if TYPE_CHECKING:
    from pathlib import Path

    from tomopicker.types import Shape

VOXEL_SIZE, RADIUS_ANGSTROM = 10.0, 120.0
"""In ångström: `default` works at 15 Å per voxel, where the particle's radius is 8 voxels."""

_WEIGHT = 100.0
_NOISE, _CONTRAST = 20.0, 12.0
_PARTICLE_VOXELS = 150_000
"""Voxels of the volume for each particle, 5 % of them in it: a cell's cytosol."""


def write_tomogram(
    path: Path,
    shape: Shape,
    *,
    seed: int,
    voxel_size: float = VOXEL_SIZE,
    particle_voxels: int = _PARTICLE_VOXELS,
) -> Particles:
    """Write an int8 tomogram of white noise with dark particles, plane by plane, and their places.

    Values beside the particles have a standard deviation of 20.
    """
    rng = np.random.default_rng(seed)
    radius = RADIUS_ANGSTROM / voxel_size
    particle = np.rint(-_CONTRAST * phantom(radius)).astype(np.int16)
    half = particle.shape[0] // 2
    count = max(1, int(np.prod(shape)) // particle_voxels)
    corners = rng.integers(0, np.array(shape) - 2 * half, size=(count, 3))
    with mrcfile.new_mmap(path, shape, mrc_mode=0, overwrite=True) as mrc:
        mrc.voxel_size = voxel_size
        for plane in mrc.data:
            plane[...] = np.clip(rng.standard_normal(shape[1:], np.float32) * _NOISE, -127, 127)
        for z, y, x in corners.tolist():
            box = mrc.data[z : z + 2 * half + 1, y : y + 2 * half + 1, x : x + 2 * half + 1]
            box[...] = np.clip(box + particle, -127, 127)
    return Particles.from_voxels(corners + half, voxel_size=voxel_size)


def write_model(path: Path, *, side: int) -> None:
    """Train `default` for a moment from its pretrained weights, on such a tomogram of its own.

    How long picking takes does not depend on how well it was trained, but on whether shape counts:
    it does here, whatever the noise says.
    """
    file = path.with_suffix(".mrc")
    # As many as in the tomograms that it picks: how many peaks are compared depends on it.
    particles = write_tomogram(file, (side // 2, side, side), seed=1)
    settings = preset(
        "default",
        radius_angstrom=RADIUS_ANGSTROM,
        voxel_size=VOXEL_SIZE,
        overrides={"training.epochs": 1, "sampling.steps_per_epoch": 2},
    )
    task = prepare(settings, [(read_tomogram(file), particles)])
    last = [event for event in fit(task) if isinstance(event, Epoch)][-1]
    kept = calibrate(task, last.checkpoint)
    weighed = kept.description.model_copy(
        update={"template_weight": kept.description.template_weight or _WEIGHT}
    )
    write_checkpoint(path, replace(kept, description=weighed))


def shape_of(megavoxels: float) -> Shape:
    """Shape ``z y x`` of a volume half as thick as it is wide, as tomograms are.

    >>> shape_of(500)
    (500, 1000, 1000)
    """
    side = round((megavoxels * 1e6 / 4) ** (1 / 3))
    return side, 2 * side, 2 * side
