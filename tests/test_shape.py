"""A model whose template has a weight ranks by shape, whoever has it pick."""

import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import KDTree
from starlette.testclient import TestClient

from conftest import Command
from test_serve import PAGE, TOKEN, until
from tomopicker.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from tomopicker.inference import features_of, network_of, score
from tomopicker.io.particles import read_particles
from tomopicker.io.tomograms import read_tomogram
from tomopicker.picks import compare_peaks, find_candidates
from tomopicker.serve.app import make_app
from tomopicker.serve.session import Session
from tomopicker.serve.workbench import Workbench
from tomopicker.template import Template, side
from tomopicker.types import Particles

WEIGHT = 100.0
COUNT = 9
VOXEL_SIZE = 13.5


@pytest.fixture(scope="module")
def model(trained: Path) -> Checkpoint:
    """A trained network with a shape that weighs much."""
    plain = read_checkpoint(trained)
    radius = plain.description.radius_voxels
    z, y, x = np.indices((side(radius),) * 3) - side(radius) // 2
    # Two unlike lumps, as a ball fits everything alike.
    lumps = -np.exp(-(z**2 + (y - 2) ** 2 + x**2) / 4) - 2 * np.exp(-(z**2 + y**2 + (x + 2) ** 2))
    ball = z**2 + y**2 + x**2 <= radius**2
    volume = np.where(ball, lumps - lumps[ball].mean(), 0).astype(np.float32)
    weighed = plain.description.model_copy(update={"template_weight": WEIGHT, "aligned": 8})
    return replace(plain, template=Template(volume=volume), description=weighed)


@pytest.fixture(scope="module")
def run(model: Checkpoint, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of the model."""
    run = tmp_path_factory.mktemp("shaped") / "run"
    shutil.copytree(trained, run)
    write_checkpoint(run / "best.safetensors", model)
    return run


@pytest.fixture(scope="module")
def picked(
    tomopicker: Command, run: Path, simulated: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Folder of a list that the model picked, by shape."""
    out = tmp_path_factory.mktemp("picked") / "shaped"
    done = tomopicker("pick", run, simulated / "sim_0002.mrc", "--count", COUNT, "--out", out)
    assert done.code == 0, done.stderr
    return out


def list_in(folder: Path) -> Particles:
    return read_particles(folder / "sim_0002.csv", voxel_size=VOXEL_SIZE)


def test_the_run_is_read_back_with_its_template(model: Checkpoint, run: Path) -> None:
    back = read_checkpoint(run)
    assert back.description == model.description
    assert back.template is not None
    assert model.template is not None
    np.testing.assert_array_equal(back.template.volume, model.template.volume)


def test_what_is_listed_has_the_scores_of_network_and_shape(
    model: Checkpoint, picked: Path, simulated: Path
) -> None:
    config, radius = model.description.config, model.description.radius_voxels
    features = features_of(model, read_tomogram(simulated / "sim_0002.mrc"))
    scores = score(features, network_of(model), config)
    centres, plain = find_candidates(scores, config, radius=radius)
    listed = list_in(picked)
    near = compare_peaks(model, features, centres)
    compared = len(near.contrasts)
    apart, rows = KDTree(centres[:compared] + near.moves).query(listed.voxels)
    assert apart.max() < 1e-3
    np.testing.assert_allclose(
        listed.scores, plain[rows] + WEIGHT * near.contrasts[rows], rtol=1e-3
    )
    # The network alone would list the first ones.
    assert len(listed) == COUNT
    assert rows.max() >= COUNT


def test_the_same_command_again_does_nothing(
    tomopicker: Command, run: Path, picked: Path, simulated: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in picked.rglob("sim_0002*")}
    assert before
    again = tomopicker("pick", run, simulated / "sim_0002.mrc", "--count", COUNT, "--out", picked)
    assert again.code == 0, again.stderr
    assert "1 of 1 tomograms are done already" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in picked.rglob("sim_0002*")} == before


def test_lists_with_and_without_shape_are_merged_with_the_scores_of_each(
    tomopicker: Command, trained: Path, picked: Path, simulated: Path, tmp_path: Path
) -> None:
    plain, out = tmp_path / "plain", tmp_path / "all"
    for command in (
        ("pick", trained, simulated / "sim_0002.mrc", "--count", COUNT, "--out", plain),
        ("merge", picked, plain, "--out", out),
    ):
        done = tomopicker(*command)
        assert done.code == 0, done.stderr
    merged = list_in(out)
    kinds = np.array(merged.extra["kind"])
    assert set(kinds) == {"shaped", "plain"}
    for folder in (picked, plain):
        before, after = (
            {(*place, one) for place, one in zip(some.positions, some.scores, strict=True)}
            for some in (list_in(folder), merged.select(kinds == folder.name))
        )
        assert after <= before


def test_the_workbench_lists_what_the_command_does(
    run: Path, picked: Path, simulated: Path, tmp_path: Path
) -> None:
    with (
        closing(Workbench(Session.open(tmp_path / "session", [simulated]))) as workbench,
        TestClient(make_app(workbench, token=TOKEN), base_url=PAGE) as page,
    ):
        page.post("api/diameter", json={"diameter": 120})
        adopted = workbench.rounds.adopt(run)
        page.post("api/job", json={"do": "pick", "round": 1, "tomograms": [1], "count": COUNT})
        told = until(
            lambda: (job := page.get("api/session").json()["job"])["state"] != "running" and job
        )
        assert told["state"] == "done", told["log"]
    by_workbench, by_command = (
        (folder / "sim_0002.csv").read_text() for folder in (adopted.picks, picked)
    )
    assert by_workbench == by_command
