"""A checkpoint describes itself, comes back as it was, and a bad one is refused by name."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from described import describe
from tomopicker.checkpoint import (
    Checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from tomopicker.config import Network
from tomopicker.errors import InputError
from tomopicker.network import build
from tomopicker.template import Template, grid, side


@pytest.fixture
def checkpoint():
    description = describe(
        10, (-1.0, 0.5), ({"epoch": 1.0, "loss": 0.5}, {"epoch": 2.0, "loss": None})
    )
    weights = build(description.config.network).state_dict()
    return Checkpoint(description=description, weights=weights, training={"x": torch.ones(2)})


def test_a_checkpoint_comes_back_as_it_was(checkpoint, tmp_path):
    write_checkpoint(tmp_path / "c.safetensors", checkpoint)
    back = read_checkpoint(tmp_path / "c.safetensors")
    assert back.description == checkpoint.description
    assert back.weights.keys() == checkpoint.weights.keys()
    assert all(torch.equal(back.weights[name], checkpoint.weights[name]) for name in back.weights)
    assert torch.equal(back.training["x"], torch.ones(2))
    back.load_into(build(back.description.config.network))


def test_a_template_comes_back_and_one_of_another_size_is_refused(checkpoint, tmp_path):
    path = tmp_path / "c.safetensors"
    volume = np.random.default_rng(0).normal(size=(side(checkpoint.description.radius_voxels),) * 3)
    template = Template(volume=volume.astype(np.float32))
    write_checkpoint(path, replace(checkpoint, template=template))
    back = read_checkpoint(path).template
    assert back is not None
    np.testing.assert_array_equal(back.volume, template.volume)
    assert back.wedges is None
    edge = grid(checkpoint.description.radius_voxels)
    wedges = np.ones((2, edge, edge, edge // 2 + 1), dtype=np.float32)
    write_checkpoint(path, replace(checkpoint, template=replace(template, wedges=wedges)))
    back = read_checkpoint(path).template
    assert back is not None
    np.testing.assert_array_equal(back.wedges, wedges)
    description = {"tomopicker": checkpoint.description.model_dump_json()}
    for name, wrong in (
        ("wedges", torch.ones(2, edge, edge, edge)),
        ("wedges", torch.tensor(1.0)),
        ("template", torch.ones(3, 3, 3)),
        ("template", torch.ones(template.volume.shape, dtype=torch.int8)),
    ):
        save_file(load_file(path) | {name: wrong}, path, description)
        with pytest.raises(InputError, match=rf"its {name} has \("):
            read_checkpoint(path)


def test_a_run_folder_gives_its_best_checkpoint(checkpoint, tmp_path):
    write_checkpoint(tmp_path / "last.safetensors", checkpoint)
    assert read_checkpoint(tmp_path).description.epoch == 2
    better = Checkpoint(
        description=checkpoint.description.model_copy(update={"epoch": 1}),
        weights=checkpoint.weights,
    )
    write_checkpoint(tmp_path / "best.safetensors", better)
    assert read_checkpoint(tmp_path).description.epoch == 1


def test_a_checkpoint_is_replaced_whole(checkpoint, tmp_path):
    for _ in range(2):
        write_checkpoint(tmp_path / "c.safetensors", checkpoint)
    assert [path.name for path in tmp_path.iterdir()] == ["c.safetensors"]


def test_nothing_there_is_said_with_the_remedy(tmp_path):
    with pytest.raises(InputError, match="no such run folder"):
        read_checkpoint(tmp_path / "absent")
    with pytest.raises(InputError, match="holds no checkpoint"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("length", [0, 4, 100, 2000])
def test_a_truncated_file_is_refused(checkpoint, tmp_path, length):
    path = tmp_path / "c.safetensors"
    write_checkpoint(path, checkpoint)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match=r"c\.safetensors.*truncated"):
        read_checkpoint(path)


def test_another_programs_safetensors_is_refused(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "c.safetensors")
    with pytest.raises(InputError, match="not a TomoPicker checkpoint"):
        read_checkpoint(tmp_path / "c.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "newer than this TomoPicker"),
        ({"voxel_size": -1}, "not valid"),
        ({"voxel_size": float("inf")}, "not valid"),
        ({"unknown": 1}, "not valid"),
        ({"config": None}, "not valid"),
        ({"contrasts": {"slope": 1, "mean": 0, "apart": 1, "deviation": 1e-300}}, "not valid"),
        (
            {"contrasts": {"slope": 1, "mean": 0, "apart": 1, "deviation": 1, "ratio": 0}},
            "not valid",
        ),
    ],
)
def test_a_description_out_of_range_is_refused(checkpoint, tmp_path, change, message):
    path = tmp_path / "c.safetensors"
    write_checkpoint(path, checkpoint)
    description = json.loads(checkpoint.description.model_dump_json()) | change
    save_file(load_file(path), path, {"tomopicker": json.dumps(description)})
    with pytest.raises(InputError, match=message):
        read_checkpoint(path)


def test_a_description_that_is_not_json_is_refused(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "c.safetensors", {"tomopicker": "{"})
    with pytest.raises(InputError, match="description is not valid"):
        read_checkpoint(tmp_path / "c.safetensors")


def test_weights_of_another_network_are_refused(checkpoint):
    with pytest.raises(InputError, match="do not fit its network"):
        checkpoint.load_into(build(Network(channels=(2, 3))))
