"""The shipped weights find particles that they have never seen, and refuse another network."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tomopicker.config import Network, preset
from tomopicker.errors import InputError
from tomopicker.evaluate import evaluate
from tomopicker.inference import score
from tomopicker.network import build
from tomopicker.picks import find_particles
from tomopicker.pretrained import pretrained_weights
from tomopicker.simulate import Simulation, simulate
from tomopicker.task import prepare
from tomopicker.training import Step, fit
from tomopicker.types import Tomogram

DEFAULT = preset("default", radius_angstrom=120, voxel_size=20.0)


def test_the_shipped_weights_fit_the_default_network_and_are_finite():
    weights = pretrained_weights(DEFAULT.network)
    build(DEFAULT.network).load_state_dict(weights)
    assert all(torch.isfinite(tensor.float()).all() for tensor in weights.values())
    assert all(
        tensor.dtype == torch.float32 for tensor in weights.values() if tensor.is_floating_point()
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"channels": (32, 64, 128)}, "network.channels"),
        ({"filter_channel": False}, "network.filter_channel"),
        ({"block": "residual"}, "network.block"),
        ({"architecture": "unet"}, "network.architecture"),
    ],
)
def test_another_network_is_refused_with_the_remedy(change, named):
    settings = Network.model_validate(DEFAULT.network.model_dump() | change)
    with pytest.raises(InputError, match=rf"^{named}: .*training\.start=random"):
        pretrained_weights(settings)


@pytest.mark.parametrize(
    ("overrides", "start"),
    [
        ({}, "pretrained"),
        ({"network.dropout": 0.1}, "pretrained"),
        ({"network.channels": [24, 48, 96]}, "pretrained"),
        ({"network.channels": [32, 64, 128]}, "random"),
        ({"network.filter_channel": False}, "random"),
        ({"training.start": "random"}, "random"),
    ],
)
def test_default_starts_from_them_unless_its_network_is_another_one(overrides, start):
    settings = preset("default", radius_angstrom=120, voxel_size=20.0, overrides=overrides)
    assert settings.training.start == start
    assert settings.training.epochs == (10 if start == "pretrained" else 20)
    if start == "pretrained":
        build(settings.network).load_state_dict(pretrained_weights(settings.network))


def test_an_asked_number_of_epochs_is_kept_with_random_weights():
    overrides = {"training.start": "random", "training.epochs": 3}
    settings = preset("default", radius_angstrom=120, voxel_size=20.0, overrides=overrides)
    assert settings.training.epochs == 3


@pytest.fixture(scope="module")
def task():
    """A simulated tomogram with ten of its particles clicked."""
    settings = Simulation(
        shape=(32, 96, 96), voxel_size=20.0, radius_angstrom=120, particles=30, snr=0.6
    )
    made = simulate(settings, rng=np.random.default_rng(5))
    tomogram = Tomogram(name="sim", data=made.volume, voxel_size=20.0)
    clicked = made.particles.select(np.arange(10))
    return prepare(DEFAULT, [(tomogram, clicked)]), made.particles


def _average_precision(scores, task, truth):
    centres, ranked = find_particles(
        scores, DEFAULT, radius=task.radius, count=3 * len(truth), floor=-np.inf
    )
    tolerance = task.radius * 10 / 12
    found = evaluate(centres, truth.voxels, tolerance=tolerance, scores=ranked)
    return found.average_precision


def test_untrained_on_a_tomogram_they_find_what_was_clicked_better_than_the_filter(task):
    task, truth = task
    network = build(DEFAULT.network)
    network.load_state_dict(pretrained_weights(DEFAULT.network))
    features = task.training[0].features
    found = _average_precision(score(features, network.eval(), DEFAULT), task, truth)
    by_filter = _average_precision(features.correlation, task, truth)
    assert found > 0.75
    assert found > by_filter + 0.05


def test_training_from_them_starts_at_a_lower_loss_than_from_random_weights(task):
    task, _ = task
    losses = {}
    for start in ("pretrained", "random"):
        settings = task.config.training.model_copy(update={"start": start})
        other = replace(task, config=task.config.model_copy(update={"training": settings}))
        first = next(event for event in fit(other) if isinstance(event, Step))
        losses[start] = first.loss
    assert losses["pretrained"] < losses["random"] - 0.1
