"""Preset `paper` is the paper where no stage's own test says so; see docs/paper-map.md."""

from dataclasses import replace

import numpy as np
import pytest

from tomopicker.config import Config, preset
from tomopicker.labels import IGNORED, POSITIVE, ball_voxels
from tomopicker.protocol import DATASETS
from tomopicker.task import Task, prepare
from tomopicker.training import Epoch, fit
from tomopicker.types import Particles, Tomogram
from tomopicker.windows import grid

SHAPE = (24, 40, 40)
CENTRES = np.array([(8.0, 8, 8), (8, 24, 24)])  # z y x; two of the 2 x 3 x 3 windows are theirs


def tomogram(seed: int, name: str) -> tuple[Tomogram, Particles]:
    """Dark balls of radius 3 on noise, and where they are."""
    volume = np.random.default_rng(seed).normal(size=SHAPE)
    squares = ((np.indices(SHAPE)[:, None] - CENTRES.T[..., None, None, None]) ** 2).sum(axis=0)
    volume[(squares <= 9).any(axis=0)] -= 3
    return (
        Tomogram(name=name, data=volume.astype(np.float32), voxel_size=10.0),
        Particles.from_voxels(CENTRES, voxel_size=10.0),
    )


def small_paper() -> Config:
    return preset(
        "paper",
        radius_angstrom=30,
        voxel_size=10.0,
        expected=6,
        overrides={
            "network.channels": [2, 4],
            "sampling.side": 16,
            "sampling.stride": 16,
            "training.epochs": 1,
        },
    )


def measure(task: Task) -> float | None:
    (epoch,) = (event for event in fit(task) if isinstance(event, Epoch))
    return epoch.measures["validation_ap"]


def test_the_presets_numbers_are_those_of_sections_3_and_4() -> None:
    paper = preset("paper", radius_angstrom=150, voxel_size=13.48)
    assert paper.preprocessing.clip_sigma == 3
    assert paper.labels.core == 1
    network = paper.network
    assert (network.architecture, network.block) == ("unet", "residual")
    assert (network.channels, network.dropout) == ((32, 64, 128, 256), 0)
    assert not network.filter_channel
    sampling = paper.sampling
    assert (sampling.method, sampling.stride, sampling.augment) == ("windows", sampling.side, False)
    training = paper.training
    assert (training.batch, training.learning_rate, training.epochs) == (8, 2e-3, 20)
    assert (training.schedule, training.patience, training.factor) == ("plateau", 5, 0.5)
    assert training.ema == 0
    assert (paper.objective.gamma, paper.inference.method) == (10, "windows")
    peaks = paper.peaks
    assert (peaks.exclusion, peaks.smoothing, peaks.subvoxel) == (1, 0, False)


def test_validation_looks_only_at_windows_with_a_positive_voxel() -> None:
    task = prepare(small_paper(), [tomogram(1, "one")], tomogram(2, "two"))
    (part,) = task.validation
    windows = grid(SHAPE, side=16, stride=16)
    holds = [bool((part.labels[window.slices] == POSITIVE).any()) for window in windows]
    assert 0 < sum(holds) < len(windows)

    def without(wanted: bool) -> Task:
        labels = part.labels.copy()
        for window, has in zip(windows, holds, strict=True):
            if has is wanted:
                there = labels[window.slices]
                there[there != POSITIVE] = IGNORED
        return replace(task, validation=(replace(part, labels=labels),))

    assert measure(without(False)) == measure(task)
    assert measure(without(True)) == 1 != measure(task)


def test_the_expected_number_is_that_of_each_training_tomogram() -> None:
    both = [tomogram(1, "one"), tomogram(2, "two")]
    prior = prepare(small_paper(), both, tomogram(3, "three")).prior
    assert prior.expected == pytest.approx(2 * 6 * ball_voxels(3) / (2 * np.prod(SHAPE)))
    assert prior.observed == pytest.approx(2 * 2 * ball_voxels(3) / (2 * np.prod(SHAPE)))


def test_training_validation_and_picked_tilt_series_are_those_of_sections_4_4_and_4_5() -> None:
    vpp, defocus = DATASETS["vpp"], DATASETS["defocus"]
    assert (vpp.label(vpp.training), vpp.label(vpp.validation)) == ("TS_0001", "TS_0002")
    assert (defocus.label(defocus.training), defocus.label(defocus.validation)) == (
        *("TS_029", "TS_030"),
    )
    assert vpp.numbers == tuple(range(1, 11))
    assert len(defocus.numbers) == 9
    assert 26 not in defocus.numbers
