"""The package's table of contents is true, and importing it costs nothing."""

import subprocess
import sys

import numpy as np
import pytest

import tomopicker
from described import describe
from tomopicker.checkpoint import Checkpoint
from tomopicker.io.tomograms import read_mask


@pytest.mark.parametrize("name", tomopicker.__all__)
def test_every_public_name_is_there(name):
    assert getattr(tomopicker, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tomopicker.nothing


def test_importing_the_package_imports_no_torch():
    code = "import tomopicker, sys; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("as_given", [str, lambda path: path], ids=["text", "Path"])
def test_a_path_may_be_text(as_given, tmp_path):
    volume, picks, run = (as_given(tmp_path / name) for name in ("one.mrc", "one.csv", "run"))
    particles = tomopicker.Particles.from_voxels(np.array([[1, 2, 3]]), voxel_size=10.0)
    checkpoint = Checkpoint(description=describe(10, (-1.0, 0.5), ()), weights={})

    tomopicker.write_volume(volume, np.ones((4, 5, 6), dtype=np.float32), voxel_size=10.0)
    tomopicker.write_particles(picks, particles)
    tomopicker.write_checkpoint(as_given(tmp_path / "run" / "best.safetensors"), checkpoint)

    tomogram = tomopicker.read_tomogram(volume)
    assert tomogram.shape == (4, 5, 6)
    assert read_mask(volume, tomogram).all()
    assert tomopicker.read_particles(picks, voxel_size=10.0).voxels.tolist() == [[1, 2, 3]]
    assert tomopicker.read_checkpoint(run).description == checkpoint.description
