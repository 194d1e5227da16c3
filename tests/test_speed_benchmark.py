"""What can be wrong in the benchmark of speed: counts, rivals, memory and tables."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from conftest import Command
from tomopicker.checkpoint import read_checkpoint, write_checkpoint
from tomopicker.config import Network, preset
from tomopicker.features import Features
from tomopicker.inference import score
from tomopicker.io.tomograms import read_tomogram
from tomopicker.labels import stamp
from tomopicker.network import build
from tomopicker.peaks import find_peaks
from tomopicker.preprocess import Normalisation
from tomopicker.template import Template, side

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
Load = Callable[[str], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Import a module of the benchmark by its name."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "speed"))
    return import_module


def test_the_operations_of_a_network_are_those_counted_by_hand(load: Load) -> None:
    settings = Network(block="plain", channels=(2, 4))
    fine = 27 * (1 * 2 + 2 * 2)  # 3x3x3 convolutions 1 -> 2 -> 2
    coarse = 27 * (2 * 4 + 4 * 4) / 8  # 2 -> 4 -> 4, at an eighth of the voxels
    up = 4**3 * 4 * 2 / 8  # 4x4x4 transposed, 4 -> 2, each coarse voxel once
    joined = 27 * (4 * 2 + 2 * 2) + 2  # 4 -> 2 -> 2, and the head 2 -> 1
    expected = 2 * (fine + coarse + up + joined)
    assert load("limits").operations_per_voxel(settings) == pytest.approx(expected)


def test_a_convolution_that_is_onednns_by_name_counts_as_any_other(load: Load) -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch is without oneDNN")
    volumes, weights = torch.zeros(1, 3, 6, 7, 8), torch.zeros(5, 3, 3, 3, 3)
    with load("limits").operations_counter() as counter:
        torch.mkldnn_convolution(volumes, weights, None, (0, 1, 1), (1, 1, 1), (1, 1, 1), 1)
    assert counter.get_total_flops() == 2 * 27 * 3 * 5 * (4 * 7 * 8)  # two planes are lost


def test_every_repeat_of_picking_picks_anew(
    load: Load, tomopicker: Command, trained: Path, simulated: Path, tmp_path: Path
) -> None:
    tomogram, record = simulated / "sim_0002.mrc", tmp_path / "picks" / "sim_0002.json"
    # As a repeat does, so that another one would find its picks done.
    pick = ("pick", trained, tomogram, "--out", record.parent, "--device", "cpu")
    assert tomopicker(*pick).code == 0
    made = record.stat().st_mtime_ns
    assert "done already" in tomopicker(*pick).stderr
    load("stages").pick_apart(trained, tomogram, record.parent, threads=1)
    assert record.stat().st_mtime_ns > made


@pytest.mark.parametrize("radius", [1.0, 2.5, 4.0])
def test_the_naive_loop_picks_what_find_peaks_picks(load: Load, radius: float) -> None:
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 40, size=(11, 19, 23)).astype(np.float32)  # with many ties
    ours = find_peaks(scores, radius=radius, count=60)
    voxels, values = load("naive").peaks(scores.copy(), radius=radius, count=60)
    np.testing.assert_array_equal(voxels, ours.voxels)
    np.testing.assert_array_equal(values, ours.scores)


def test_the_naive_loop_ends_when_nothing_is_left(load: Load) -> None:
    voxels, _ = load("naive").peaks(np.zeros((3, 3, 3), np.float32), radius=9, count=5)
    assert voxels.tolist() == [[0, 0, 0]]


def test_the_naive_mask_and_standardisation_are_ours(load: Load) -> None:
    rng = np.random.default_rng(4)
    centres = np.array([[0, 3, 5], [7, 12, 1], [7, 11, 2]])
    np.testing.assert_array_equal(
        load("naive").mask((9, 14, 10), centres, 3.0),
        stamp((9, 14, 10), centres.astype(float), radius=3.0) == 1,
    )
    volume = rng.normal(5, 2, size=(9, 14, 10)).astype(np.float32)
    ours = Normalisation.of(volume, source="").apply(volume)
    np.testing.assert_allclose(load("naive").standardise(volume), ours, atol=1e-5)


def test_naive_inference_gives_the_scores_of_the_papers_windows(load: Load) -> None:
    config = preset(
        "paper",
        radius_angstrom=40,
        voxel_size=10,
        overrides={
            "network.channels": (2, 4),
            "sampling.side": 8,
            "sampling.stride": 8,
            "training.batch": 3,
        },
    )
    torch.manual_seed(0)
    network = build(config.network)
    volume = np.random.default_rng(5).normal(size=(10, 16, 20)).astype(np.float32)
    as_it_is = Normalisation(mean=0, std=1, clip_sigma=100, clipped_mean=0, clipped_std=1)
    ours = score(Features(data=volume, normalisation=as_it_is), network, config)
    np.testing.assert_allclose(load("naive").infer(volume, network, 8), ours, atol=1e-5)


def test_every_subvolume_is_saved_whole(load: Load, tmp_path: Path) -> None:
    volume = np.arange(3 * 4 * 5, dtype=np.float32).reshape(3, 4, 5)
    pairs = load("naive").save_subvolumes(volume, np.ones((3, 4, 5), np.uint8), tmp_path, 4)
    assert len(pairs) == 2  # the second half reaches 3 voxels past the far face
    saved = [np.load(path) for path, _ in pairs]
    np.testing.assert_array_equal(np.concatenate(saved, axis=2)[:3, :, :5], volume)
    assert sum(int(np.load(path).sum()) for _, path in pairs) == 3 * 4 * 5


def test_the_memory_of_a_process_is_its_own_and_not_that_of_who_started_it(load: Load) -> None:
    ballast = np.ones(50_000_000)  # 400 MB here
    script = "block = b'x' * 100_000_000; import time; time.sleep(0.1)"
    taken = load("stages").run_apart(["-c", script], threads=1)
    assert ballast[-1] == 1
    assert 100e6 < taken["peak_bytes"] < 200e6
    assert taken["peak_anonymous_bytes"] is None or 100e6 < taken["peak_anonymous_bytes"] < 200e6


def test_a_process_that_fails_ends_the_measurement(load: Load) -> None:
    with pytest.raises(SystemExit, match="ended with 3"):
        load("stages").run_apart(["-c", "import sys; sys.exit(3)"], threads=1)


def test_the_tomograms_that_are_measured_on_hold_dark_particles(load: Load, tmp_path: Path) -> None:
    file = tmp_path / "some.mrc"
    particles = load("inputs").write_tomogram(file, (40, 90, 100), seed=0, particle_voxels=50_000)
    tomogram = read_tomogram(file)
    assert (tomogram.data.dtype, tomogram.voxel_size) == (np.int8, 10.0)
    assert len(particles) == 40 * 90 * 100 // 50_000
    inside = stamp(tomogram.shape, particles.voxels, radius=6.0) == 1
    assert tomogram.data[inside].mean() < tomogram.data[~inside].mean() - 5
    assert tomogram.data[~inside].std() == pytest.approx(20, rel=0.1)


@pytest.mark.usefixtures("rough_alignment")
def test_every_stage_of_picking_is_measured_and_told(
    load: Load, trained: Path, simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # put back afterwards
    threads = torch.get_num_threads()
    model, file = tmp_path / "model.safetensors", simulated / "sim_0002.mrc"
    plain = read_checkpoint(trained)
    cube = (side(plain.description.radius_voxels),) * 3
    volume = np.random.default_rng(0).normal(size=cube).astype(np.float32)
    weighed = plain.description.model_copy(update={"template_weight": 1.0})
    template = Template(volume=volume)
    write_checkpoint(model, replace(plain, template=template, description=weighed))
    run = load("stages").measure_stages(model, file, tmp_path, threads=1, repeats=1)
    torch.set_num_threads(threads)
    voxels = 32 * 64 * 64
    assert run["scored_voxels"] == voxels
    assert 1 <= run["operations"] / (run["operations_per_voxel"] * voxels) < 2  # one tile
    assert run["limits"]["read"]["work"] == file.stat().st_size
    table = load("table").tables(results(stages=[run]))["stages"]
    for stage in ("rescale", "matched filter", "network", "peaks", "judge", "file to picks"):
        assert f"| {stage} |" in table
    assert "| templates |" in table
    assert re.search(r"\| comparison \|.*\| matrix product \| +\d", table)


def test_ratios_and_shares_are_taken_repeat_by_repeat(load: Load) -> None:
    timed = {"seconds": [1.0, 2.0, 4.0], "cpu_seconds": [1.0, 2.0, 4.0]}
    slow = {"seconds": [3.0, 8.0, 8.0], "cpu_seconds": [3.0, 8.0, 8.0]}
    row = {"shape": [4, 5, 6], "count": 7, "ours": timed, "naive": slow, "factor": 10.0}
    stage = {**timed, "limit": "copy", "work": 50.0}
    run = {
        "threads": 1,
        "device": "cpu",
        "shape": [4, 5, 6],
        "scored_voxels": 120,
        "operations_per_voxel": 2000.0,
        "operations": 480_000,
        "limits": {"copy": {"seconds": [2.0] * 3, "cpu_seconds": [1.0] * 3, "work": 100.0}},
        "stages": {"peaks": stage, "file to picks": slow},
    }
    made = load("table").tables(results(peaks=[row], stages=[run]))
    # 30, 40 and 20 times; half a second of 1, 2 and 4, and of 3, 8 and 8 in all.
    assert "| 30.0 (20.0–40.0) |" in made["peaks"]
    assert "| 4 × 5 × 6 | 7 | 2.00 (1.00–4.00) | 80.0 (30.0–80.0) | 1 / 10 |" in made["peaks"]
    assert "30.0 (20.0–40.0) times | **no** |" in made["goals"]
    assert "| copy | 25 % (12–50) |" in made["stages"]
    assert "halos 2.00 times that were done" in made["stages"]
    assert "| all of the above | 6.2 % (6.2–16.7) |" in made["stages"]


def test_growth_that_is_linear_has_the_exponent_one(load: Load) -> None:
    def taking(seconds: float, **what: int) -> dict[str, Any]:
        return {"shape": [1, 1, 1], "seconds": [seconds], "cpu_seconds": [seconds], **what}

    memory: Any = {"picks": 1, "file_bytes": 1, "peak_bytes": [1e6], "peak_anonymous_bytes": [None]}
    voxels = [
        taking(5.0, voxels=1, **memory),
        *(taking(5.0 + 2 * size, voxels=size, **memory) for size in (8, 32, 128)),
    ]
    clicks = [taking(count**2 / 100, count=count) for count in (10, 100)]
    made = load("table").tables(results(voxels=voxels, clicks=clicks))
    assert "less that of the first row: 1.00" in made["voxels"]
    assert "Exponent of the CPU time: 2.00" in made["clicks"]
    assert "| 1.00 | yes |" in made["goals"]
    assert "| 2.00 | **no** |" in made["goals"]
    small = [taking(5.0, voxels=1, **memory), taking(5.1, voxels=2, **memory)]
    assert "too small to tell" in load("table").tables(results(voxels=small))["voxels"]


def test_memory_is_told_beside_the_scores_and_a_tomogram_at_its_own_voxels_is_no_growth(
    load: Load,
) -> None:
    def row(millions: int, scored: int, seconds: float, peak: float) -> dict[str, Any]:
        return {
            "shape": [1, 1, millions],
            "voxels": millions * 1_000_000,
            "scored_voxels": scored * 1_000_000,
            "seconds": [seconds],
            "cpu_seconds": [seconds],
            "picks": 1,
            "file_bytes": 1,
            "peak_bytes": [peak],
            "peak_anonymous_bytes": [peak],
        }

    rows = [row(10, 3, 1, 5e8), row(100, 30, 11, 1e9), row(500, 150, 51, 2.5e9)]
    at_its_own = row(480, 480, 400, 4.12e9)
    made = load("table").tables(results(voxels=[*rows, at_its_own]))
    assert "less that of the first row: 1.00" in made["voxels"]
    assert "| 2,500 | 2,500 | 1,900 |" in made["voxels"]
    assert "| 4,120 | 4,120 | 2,200 |" in made["voxels"]
    goals = made["goals"]
    assert "scores up to 2 GB | 2,200 MB | **no** |" in goals
    assert "1 × 1 × 500 voxels from file to picks in 5 minutes | 51.0 s | yes |" in goals
    assert "1 × 1 × 480 voxels from file to picks in 5 minutes | 400 s | **no** |" in goals


def test_training_is_told_for_each_volume_beside_all_steps_of_paper(load: Load) -> None:
    def trained(side: int, cpu: float) -> dict[str, Any]:
        whole = {"seconds": [9.0], "cpu_seconds": [20.0]}
        one = {"seconds": [1.0], "cpu_seconds": [1.0], "planned_steps": 5}
        paper = {"seconds": [5.0], "cpu_seconds": [cpu], "planned_steps": 100}
        default = {**one, "to_the_end": whole}
        return {
            "shape": [1, 1, side],
            "clicks": 9,
            "device": "cpu",
            "default": default,
            "paper": paper,
        }

    made = load("table").tables(results(training=[trained(7, 9.8), trained(8, 10.0)]))
    assert (
        "on 1 × 1 × 7 voxels in a 50th of the CPU time of the steps of `paper` | 1 / 49 | **no**"
        in (made["goals"])
    )
    assert "| 1 / 50 | yes |" in made["goals"]
    assert "1 × 1 × 7 voxels, 9 clicks" in made["training"]
    assert "| `paper` | 5.00 | 10.0 | 1 of 100 | 500 | 1,000 |" in made["training"]


def test_what_was_left_out_has_its_reason_in_the_table(load: Load) -> None:
    made = load("table").tables(results(monai={"left_out": "no such module"}))
    assert made["monai"] == "Left out: no such module."


def test_the_page_shows_the_tables_of_the_results(load: Load) -> None:
    table = load("table")
    made = table.tables(json.loads(table.RESULTS.read_text(encoding="utf-8")))
    page = PAGE.read_text(encoding="utf-8")
    assert page == table.fill(page, made), (
        "run python benchmarks/speed/table.py --fill docs/performance.md"
    )
    assert {f"<!-- table {name} -->" for name in made} <= set(page.splitlines())


def results(**sections: Any) -> dict[str, Any]:
    """A file of results with some sections."""
    machine: dict[str, Any] = dict.fromkeys(
        ("cpu", "system", "python", "torch", "numpy", "scipy"), "some"
    )
    machine |= {"cores": 2, "cuda": None}
    facts = {"command": "python measure.py", "commit": "0" * 7, "date": "2026-01-01"}
    return {**facts, "quick": True, "machine": machine, "seconds": {}, **sections}
