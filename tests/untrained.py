"""A checkpoint whose network has learned nothing, and a tomogram of noise."""

import numpy as np
import torch

from tomopicker.checkpoint import Checkpoint, Description, Priors
from tomopicker.config import preset
from tomopicker.network import build
from tomopicker.types import Tomogram

PROFILE = (-1.0, -0.8, -0.2, 0.3, 0.0)


def checkpoint_of(name="default", *, calibration=None, **overrides):
    """A checkpoint of few channels, of a particle of 3 voxels in radius."""
    config = preset(
        name,
        radius_angstrom=30,
        voxel_size=10.0,
        expected=7,
        overrides={"network.channels": [2, 3], "sampling.side": 16, "sampling.stride": 16}
        | {key.replace("__", "."): value for key, value in overrides.items()},
    )
    torch.manual_seed(0)
    network = build(config.network)
    # Running statistics as after training, so that normalisation does something.
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    description = Description(
        config=config,
        voxel_size=10.0,
        radius_voxels=3,
        priors=Priors(observed=0.01, expected=0.05, unlabelled=0.04),
        filter_profile=PROFILE if config.network.filter_channel else None,
        calibration=calibration,
        training_tomograms=("one",),
        picks_sha256="0" * 64,
        epoch=1,
    )
    return Checkpoint(description=description, weights=network.state_dict())


def noise_of(shape=(21, 40, 35), dtype=np.float32):
    rng = np.random.default_rng(0)
    data = (rng.normal(size=shape) * 20).astype(dtype)
    return Tomogram(name="two", data=data, voxel_size=10.0)
