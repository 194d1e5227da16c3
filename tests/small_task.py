"""A task that is trained on in a moment: dark balls on noise, some of them clicked."""

import itertools

import numpy as np

from tomopicker.config import preset
from tomopicker.task import prepare
from tomopicker.training import Epoch, fit
from tomopicker.types import Particles, Tomogram

RADIUS = 4
SHAPE = (32, 48, 48)
SMALL = {
    "default": {
        "network.channels": [4, 8],
        "sampling.side": 16,
        "sampling.steps_per_epoch": 6,
        "training.epochs": 3,
        "training.ema": 0.5,
        "inference.template_weight": 0.0,
    },
    "paper": {
        "network.channels": [4, 8],
        "sampling.side": 16,
        "sampling.stride": 16,
        "training.epochs": 2,
    },
}


def tomogram_of(seed, name="one", dtype=np.float32, shape=SHAPE):
    """Dark balls on noise, far apart, and where they are."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(shape)
    volume = rng.normal(0, 0.5, shape)
    along = [range(8, size - 7, 15) for size in shape]
    centres = np.array(list(itertools.product(*along)), dtype=float)
    centres += rng.uniform(-2, 2, centres.shape)
    for centre in centres:
        d2 = sum((a - c) ** 2 for a, c in zip((z, y, x), centre, strict=True))
        volume[d2 <= RADIUS**2] -= 2
    tomogram = Tomogram(name=name, data=volume.astype(dtype), voxel_size=10.0)
    return tomogram, Particles.from_voxels(centres, voxel_size=10.0)


def task_of(preset_name, *, seed=0, clicks=8, validation=False, expected=18, **overrides):
    config = preset(
        preset_name,
        radius_angstrom=RADIUS * 10,
        voxel_size=10.0,
        expected=expected,
        overrides=SMALL[preset_name]
        | {"training.seed": seed}
        | {name.replace("__", "."): value for name, value in overrides.items()},
    )
    tomogram, particles = tomogram_of(1)
    known = particles.select(np.arange(clicks))
    return prepare(config, [(tomogram, known)], tomogram_of(2, "two") if validation else None)


def epochs_of(task, **options):
    return [event for event in fit(task, **options) if isinstance(event, Epoch)]
