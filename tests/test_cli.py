"""The command line keeps its contract."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from conftest import SHORT, Outcome, start_process
from tomopicker import training
from tomopicker.checkpoint import Checkpoint, read_checkpoint
from tomopicker.cli.run import console
from tomopicker.io.particles import FORMATS, place_of, read_particles, writable
from tomopicker.io.tomograms import Source, read_tomogram
from tomopicker.types import Tomogram

Command = Callable[..., Outcome]

COMMANDS = (
    *("demo", "simulate", "inspect", "convert", "train", "pick", "merge", "evaluate"),
    *("plot", "report", "serve", "review", "benchmark"),
)
COUNTS = {"precision", "recall", "f1", "true_positives", "false_positives", "false_negatives"}


def learn(data: Path, out: Path, *more: object) -> list[object]:
    """Arguments of a short training on the first tomogram."""
    known = data / "sim_0001"
    return [
        *("train", known.with_suffix(".mrc"), "--picks", known.with_suffix(".csv")),
        *("--radius", "60A", "--out", out, *SHORT, *more),
    ]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same_weights(one: Checkpoint, other: Checkpoint) -> None:
    for mine, theirs in ((one.weights, other.weights), (one.training, other.training)):
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            assert tensor.numpy().tobytes() == theirs[name].numpy().tobytes(), name


def test_help_of_every_command_tells_of_it(tomopicker: Command) -> None:
    whole = tomopicker("--help")
    assert whole.code == 0
    for command in COMMANDS:
        assert command in whole.stdout
        of_command = tomopicker(command, "--help")
        assert of_command.code == 0, command
        assert f"tomopicker {command}" in of_command.stdout
        assert of_command.stderr == ""


def test_training_takes_a_tomogram_that_holds_nothing_but_rejected_places(
    tomopicker: Command, simulated: Path, tmp_path: Path
) -> None:
    rows = (simulated / "sim_0001.csv").read_text().splitlines()
    picks, wrong = tmp_path / "picks.csv", tmp_path / "wrong.csv"
    picks.write_text("\n".join(["tomogram," + rows[0], *("sim_0001," + row for row in rows[1:])]))
    wrong.write_text("tomogram,x,y,z\nsim_0002,20,30,16\n")
    other = tmp_path / "other.csv"
    other.write_text("tomogram,x,y,z\nsim_0002,40,30,16\n")
    both = [simulated / f"sim_000{number}.mrc" for number in (1, 2)]
    given = ["--picks", picks, "--radius", "60A", *SHORT]
    negatives = ["--negatives", wrong, "--negatives", other]
    done = tomopicker("train", *both, *given, *negatives, "--out", tmp_path / "run")
    assert done.code == 0, done.stderr
    assert "2 rejected places" in done.stderr
    described = read_checkpoint(tmp_path / "run").description
    assert described.training_tomograms == ("sim_0001", "sim_0002")
    wrong.write_text("tomogram,x,y,z\nsim_0001,20,30,16\n")
    done = tomopicker("train", *both, *given, "--negatives", wrong, "--out", tmp_path / "again")
    assert done.code == 2
    assert "sim_0002: has neither picks" in done.stderr


def test_training_is_told_which_picks_were_accepted_from_a_list(
    tomopicker: Command, simulated: Path, tmp_path: Path
) -> None:
    rows = (simulated / "sim_0001.csv").read_text().splitlines()
    accepted = tmp_path / "accepted.csv"
    accepted.write_text("\n".join([rows[0], *rows[1:3]]))
    given = [simulated / "sim_0001.mrc", "--picks", simulated / "sim_0001.csv", *SHORT]
    given += ["--radius", "60A", "--accepted", accepted]
    done = tomopicker("train", *given, "--out", tmp_path / "run")
    assert done.code == 0, done.stderr
    assert "2 of them were accepted from a list" in done.stderr
    accepted.write_text("\n".join(rows))
    done = tomopicker("train", *given, "--out", tmp_path / "all")
    assert "click ten or more by yourself" in done.stderr
    assert "in other tomograms" not in done.stderr
    two = simulated / "sim_0002"
    other = ("--val-tomogram", f"{two}.mrc", "--val-picks", f"{two}.csv")
    done = tomopicker("train", *given, *other, "--out", tmp_path / "measured_elsewhere")
    assert done.code == 0, done.stderr
    assert "click ten or more by yourself" not in done.stderr
    named = [f"sim_0001,{row}" for row in rows[1:3]] + ["sim_0002,1,1,1"] * 3
    accepted.write_text("\n".join(["tomogram,x,y,z", *named]))
    done = tomopicker("train", *given, "--out", tmp_path / "others")
    assert "3 places of --accepted are in other tomograms and left out" in done.stderr
    accepted.write_text("x,y,z\n1,1,1\n")
    done = tomopicker("train", *given, "--out", tmp_path / "none")
    assert (done.code, "--picks must hold what --accepted names" in done.stderr) == (2, True)


def test_the_package_runs_as_a_module(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tomopicker", "--help"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "evaluate" in done.stdout


def test_a_simulation_holds_as_many_particles_as_asked(simulated: Path) -> None:
    tomogram = read_tomogram(simulated / "sim_0001.mrc")
    assert tomogram.shape == (32, 64, 64)
    assert tomogram.voxel_size == 13.5
    assert len(read_particles(simulated / "sim_0001.csv", voxel_size=13.5)) == 24


def test_a_run_folder_holds_settings_log_checkpoints_metrics_and_their_plot(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} == {
        *("config.json", "log.txt", "best.safetensors", "last.safetensors"),
        *("metrics.csv", "training.png", "clicks"),
    }
    settings = json.loads((trained / "config.json").read_text())
    assert settings["preset"] == "default"
    assert settings["network"]["channels"] == [4, 8]
    assert [row["epoch"] for row in rows_of(trained / "metrics.csv")] == ["1"]
    # Colleagues may read the checkpoint as they may read the other files.
    modes = {path.stat().st_mode & 0o777 for path in trained.iterdir() if path.is_file()}
    assert len(modes) == 1


def test_picks_are_a_csv_and_a_relion5_star_of_the_tomograms_name(
    tomopicker: Command, trained: Path, simulated: Path, tmp_path: Path
) -> None:
    done = tomopicker(
        "pick", trained, simulated / "sim_0002.mrc", "--count", 7, "--out", tmp_path / "picks"
    )
    assert done.code == 0, done.stderr
    assert "sim_0002: 7 picks" in done.stderr
    out = tmp_path / "picks"
    assert (out / "sim_0002.png").is_file()
    assert (out / "sim_0002.csv").read_text().splitlines()[0] == "x,y,z,score,probability"
    rows = rows_of(out / "sim_0002.csv")
    assert len(rows) == 7
    for axis, size in zip("xyz", (64, 64, 32), strict=True):
        assert all(-0.5 <= float(row[axis]) <= size - 0.5 for row in rows)
    star = read_particles(out / "relion5" / "sim_0002.star", voxel_size=13.5, shape=(32, 64, 64))
    table = read_particles(out / "sim_0002.csv", voxel_size=13.5)
    np.testing.assert_allclose(star.voxels, table.voxels, atol=1e-3)


def test_little_memory_finds_the_same_picks_and_an_amount_without_a_unit_is_refused(
    tomopicker: Command, trained: Path, simulated: Path, tmp_path: Path
) -> None:
    pick = ("pick", trained, simulated / "sim_0002.mrc", "--count", 7, "--format", "csv")
    for memory in ("1GB", "1MB"):
        done = tomopicker(*pick, "--memory", memory, "--out", tmp_path / memory)
        assert done.code == 0, done.stderr
    much, little = (
        read_particles(tmp_path / memory / "sim_0002.csv", voxel_size=13.5)
        for memory in ("1GB", "1MB")
    )
    np.testing.assert_allclose(little.voxels, much.voxels, atol=1e-2)
    refused = tomopicker(*pick, "--memory", "4", "--out", tmp_path / "4")
    assert refused.code == 2
    assert "'4' is not an amount of memory; write it as 4GB" in refused.stderr


def test_a_calibrated_run_tells_probabilities_and_what_other_lists_there_could_be(
    tomopicker: Command, trained: Path, simulated: Path, tmp_path: Path
) -> None:
    pick = ("pick", trained, simulated / "sim_0002.mrc", "--format", "csv", "--out", tmp_path)
    done = tomopicker(*pick)
    assert done.code == 0, done.stderr
    told = re.search(
        r"^  at a false-discovery rate of 5 %: (\d+) picks, 10 %: (\d+), 20 %: (\d+); "
        r"about (\d+) particles are there \((\d+) to (\d+)\)$",
        done.stderr,
        re.MULTILINE,
    )
    assert told is not None, done.stderr
    five, ten, twenty, count, low, high = map(int, told.groups())
    assert five <= ten <= twenty
    assert low <= count <= high
    chances = [float(row["probability"]) for row in rows_of(tmp_path / "sim_0002.csv")]
    assert chances == sorted(chances, reverse=True)
    assert 1 >= chances[0] > 0
    # The list of the rate that the line names has the length that it tells.
    assert tomopicker(*pick, "--fdr", 0.2, "--force").code == 0
    assert len(rows_of(tmp_path / "sim_0002.csv")) == twenty


@pytest.fixture(scope="module")
def everything(
    tomopicker: Command, trained: Path, simulated: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, str]]:
    """Rows of the longest list that there is of sim_0002."""
    out = tmp_path_factory.mktemp("everything")
    pick = ("pick", trained, simulated / "sim_0002.mrc", "--format", "csv", "--count", 10_000)
    assert tomopicker(*pick, "--out", out).code == 0
    return rows_of(out / "sim_0002.csv")


@pytest.mark.parametrize("cut", [("--count", 7), ("--fdr", 0.98), ("--threshold", -3)])
def test_beside_a_list_are_its_candidates_twice_as_many_and_fifty(
    tomopicker: Command,
    trained: Path,
    simulated: Path,
    everything: list[dict[str, str]],
    tmp_path: Path,
    cut: tuple[str, float],
) -> None:
    pick = ("pick", trained, simulated / "sim_0002.mrc", "--format", "csv")
    assert tomopicker(*pick, *cut, "--out", tmp_path / "short").code == 0
    listed = rows_of(tmp_path / "short" / "sim_0002.csv")
    candidates = rows_of(tmp_path / "short" / "sim_0002_candidates.csv")
    assert len(candidates) == min(2 * len(listed) + 50, len(everything))
    assert [row.pop("picked") for row in candidates] == ["1"] * len(listed) + ["0"] * (
        len(candidates) - len(listed)
    )
    assert candidates == everything[: len(candidates)]
    assert candidates[: len(listed)] == listed


@pytest.mark.usefixtures("rough_alignment")
def test_the_shipped_weights_are_trained_and_picked_with(
    tomopicker: Command, simulated: Path, tmp_path: Path
) -> None:
    known, run = simulated / "sim_0001", tmp_path / "run"
    done = tomopicker(
        *("train", known.with_suffix(".mrc"), "--picks", known.with_suffix(".csv")),
        *("--radius", "60A", "--out", run, "--epochs", "1"),
        *("--set", "sampling.steps_per_epoch=1", "--set", "training.batch=2"),
    )
    assert done.code == 0, done.stderr
    assert read_checkpoint(run).description.config.training.start == "pretrained"
    done = tomopicker("pick", run, known.with_suffix(".mrc"), "--count", 5, "--out", tmp_path / "p")
    assert done.code == 0, done.stderr
    assert len(rows_of(tmp_path / "p" / "sim_0001.csv")) == 5


@pytest.mark.usefixtures("rough_alignment")
def test_particles_are_aligned_and_their_average_ranks_the_picks(
    tomopicker: Command, trained: Path, simulated: Path, tmp_path: Path
) -> None:
    run, wanted = tmp_path / "run", ("--set", "inference.template_weight=50")
    done = tomopicker(*learn(simulated, run, *wanted))
    assert done.code == 0, done.stderr
    # 24 clicks, of which ten are held out.
    assert re.search(
        r"Aligned (1[4-9]|\d\d+) clicked and likely particles: their average is ", done.stderr
    )
    assert str(run / "average.mrc") in done.stderr
    weight = read_checkpoint(run).description.template_weight
    assert ("Shape counts in the scores" in done.stderr) == (weight > 0)
    tells = read_checkpoint(run).description.contrasts is not None
    assert ("Shape also tells how many particles" in done.stderr) == tells
    average = read_tomogram(run / "average.mrc")
    assert average.shape == (15,) * 3
    assert np.std(average.data) > 0
    lists = []
    for of in (run, trained):
        out = tmp_path / of.parent.name
        done = tomopicker("pick", of, simulated / "sim_0002.mrc", "--count", 9, "--out", out)
        assert done.code == 0, done.stderr
        lists.append(rows_of(out / "sim_0002.csv"))
    assert [len(rows) for rows in lists] == [9, 9]
    scores = [[row["score"] for row in rows] for rows in lists]
    assert (scores[0] != scores[1]) == (weight > 0)
    few = tmp_path / "few.csv"
    few.write_text("".join((simulated / "sim_0001.csv").read_text().splitlines(True)[:9]))
    arguments = learn(simulated, tmp_path / "second", *wanted)
    arguments[arguments.index("--picks") + 1] = few
    done = tomopicker(*arguments)
    assert done.code == 0, done.stderr
    assert "No particles were aligned: it takes 8 to learn from" in done.stderr
    assert not (tmp_path / "second" / "average.mrc").exists()


def test_a_run_that_is_not_calibrated_tells_no_probabilities(
    tomopicker: Command, trained: Path, simulated: Path, tmp_path: Path
) -> None:
    last = trained / "last.safetensors"
    done = tomopicker(
        "pick", last, simulated / "sim_0002.mrc", "--count", 3, "--out", tmp_path / "picks"
    )
    assert done.code == 0, done.stderr
    assert "false-discovery" not in done.stderr
    assert rows_of(tmp_path / "picks" / "sim_0002.csv")[0].keys() == {"x", "y", "z", "score"}


def test_a_threshold_cuts_the_same_list_at_its_score(
    tomopicker: Command, trained: Path, simulated: Path, tmp_path: Path
) -> None:
    pick = ("pick", trained, simulated / "sim_0002.mrc", "--format", "csv")
    assert tomopicker(*pick, "--count", 7, "--out", tmp_path / "count").code == 0
    best = rows_of(tmp_path / "count" / "sim_0002.csv")
    scores = [float(row["score"]) for row in best]
    assert scores == sorted(scores, reverse=True)
    between = (scores[2] + scores[3]) / 2
    assert tomopicker(*pick, "--threshold", between, "--out", tmp_path / "score").code == 0
    assert rows_of(tmp_path / "score" / "sim_0002.csv") == best[:3]


def test_a_greater_share_of_false_picks_gives_no_shorter_list(
    tomopicker: Command, trained: Path, simulated: Path, tmp_path: Path
) -> None:
    lengths = []
    for share in ("0", "0.3", "0.98"):  # a model trained for a second
        out = tmp_path / share
        done = tomopicker("pick", trained, simulated / "sim_0002.mrc", "--fdr", share, "--out", out)
        assert done.code == 0, done.stderr
        lengths.append(len(rows_of(out / "sim_0002.csv")))
    assert lengths == sorted(lengths)
    assert lengths[-1] > 0


def test_several_tomograms_are_picked_with_the_checkpoint_file_in_the_formats_asked(
    tomopicker: Command, trained: Path, simulated: Path, tmp_path: Path
) -> None:
    out = tmp_path / "picks"
    done = tomopicker(
        *("pick", trained / "best.safetensors", *sorted(simulated.glob("*.mrc"))),
        *("--count", 5, "--format", "coords", "--scores", "--out", out),
    )
    assert done.code == 0, done.stderr
    found = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert found == {
        *("sim_0001.csv", "sim_0001.png", "sim_0001_scores.mrc", "coords/sim_0001.coords"),
        *("sim_0002.csv", "sim_0002.png", "sim_0002_scores.mrc", "coords/sim_0002.coords"),
        *("sim_0001_candidates.csv", "sim_0002_candidates.csv", "sim_0001.json", "sim_0002.json"),
        "summary.csv",
    }
    assert read_tomogram(out / "sim_0001_scores.mrc").shape == (32, 64, 64)


def test_a_tomogram_that_was_picked_is_not_kept_open(
    tomopicker: Command,
    trained: Path,
    simulated: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each is an open file, and a system lets a process have about a thousand."""
    opened: list[weakref.ref[Tomogram]] = []
    kept = []
    open_source = Source.open

    def observe(source: Source, *, voxel_size: float | None = None) -> Tomogram:
        kept.append(sum(one() is not None for one in opened))
        tomogram = open_source(source, voxel_size=voxel_size)
        opened.append(weakref.ref(tomogram))
        return tomogram

    monkeypatch.setattr(Source, "open", observe)
    names = [f"{name}.mrc" for name in "abc"]
    for name in names:
        (tmp_path / name).symlink_to(simulated / "sim_0001.mrc")
    paths = [tmp_path / name for name in names]
    pick = ("pick", trained, *paths, "--count", 3, "--out", tmp_path / "picks", "--report")
    done = tomopicker(*pick)
    assert done.code == 0, done.stderr
    assert len(kept) > 3  # once to pick it, and again for the report
    assert max(kept) <= 2  # the last that was picked, and the one before this


def test_picks_are_written_for_every_program(
    tomopicker: Command, trained: Path, simulated: Path, tmp_path: Path
) -> None:
    formats = [option for name in writable() for option in ("--format", name)]
    pick = ("pick", trained, simulated / "sim_0002.mrc", "--count", 5, *formats)
    done = tomopicker(*pick, "--pixel-size", 3.375, "--out", tmp_path)
    assert done.code == 0, done.stderr
    picks = read_particles(tmp_path / "sim_0002.csv", voxel_size=13.5)
    for name in writable():
        path = tmp_path / name / place_of(name, "sim_0002")
        if name == "csv" or FORMATS[name].read is None:
            continue
        after = read_particles(path, voxel_size=13.5, shape=(32, 64, 64))
        np.testing.assert_allclose(after.voxels, picks.voxels, rtol=0, atol=1e-3)
    listed = (tmp_path / "relion5" / "import_coords.star").read_text()
    assert f"sim_0002\t{tmp_path}/relion5/sim_0002.star" in listed
    refused = tomopicker(*pick, "--pixel-size", 0, "--out", tmp_path / "again")
    assert "--pixel-size must be a number of ångström above 0" in refused.stderr


def test_picks_are_replaced_only_by_force(
    tomopicker: Command, trained: Path, simulated: Path, tmp_path: Path
) -> None:
    again = ("pick", trained, simulated / "sim_0002.mrc", "--scores", "--out", tmp_path)
    assert tomopicker(*again, "--count", 5).code == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    refused = tomopicker(*again, "--count", 6)
    assert refused.code == 2
    assert "--force" in refused.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert tomopicker(*again, "--count", 6, "--force").code == 0
    assert len(rows_of(tmp_path / "sim_0002.csv")) == 6


@pytest.mark.parametrize("objective", ["pn", "pu", "kl"])
def test_the_paper_picks_the_expected_number_with_each_of_its_objectives(
    tomopicker: Command, simulated: Path, tmp_path: Path, objective: str
) -> None:
    run, out = tmp_path / "run", tmp_path / "picks"
    done = tomopicker(
        *("train", simulated / "sim_0001.mrc", "--picks", simulated / "sim_0001.csv"),
        *("--val-tomogram", simulated / "sim_0002.mrc", "--val-picks", simulated / "sim_0002.csv"),
        *("--preset", "paper", "--objective", objective, "--expected", 30, "--radius", "60A"),
        *("--set", "network.channels=[4,8]", "--epochs", 1, "--out", run),
    )
    assert done.code == 0, done.stderr
    assert f"objective {objective}" in done.stderr
    assert tomopicker("pick", run, simulated / "sim_0002.mrc", "--out", out).code == 0
    assert len(rows_of(out / "sim_0002.csv")) == 30


@pytest.mark.parametrize("size", [("--radius", "5vx"), ("--diameter", "13.5nm")])
def test_the_particles_size_may_be_a_radius_or_a_diameter_in_any_unit(
    tomopicker: Command, simulated: Path, tmp_path: Path, size: tuple[str, str]
) -> None:
    # An expected count beyond the volume ends the command where the radius in voxels is known.
    done = tomopicker(
        *("train", simulated / "sim_0001.mrc", "--picks", simulated / "sim_0001.csv", *size),
        *("--preset", "paper", "--expected", 10_000, "--out", tmp_path / "run"),
    )
    assert done.code == 2
    assert "particles of 515 voxels" in done.stderr


def test_evaluate_prints_one_json_object_with_the_counts_and_the_papers(
    tomopicker: Command, simulated: Path
) -> None:
    truth = simulated / "sim_0001.csv"
    done = tomopicker("evaluate", truth, truth, "--tolerance", "10vx", "--json")
    assert done.code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() >= {*COUNTS, "paper", "average_precision"}
    assert found["paper"].keys() == COUNTS
    assert (found["true_positives"], found["f1"]) == (24, 1)


def test_folders_are_evaluated_by_the_names_of_their_files(
    tomopicker: Command, simulated: Path, tmp_path: Path
) -> None:
    truth = tmp_path / "truth"
    truth.mkdir()
    for path in simulated.glob("*.csv"):
        (truth / path.name).write_bytes(path.read_bytes())
    found = json.loads(tomopicker("evaluate", truth, truth, "--json").stdout)
    assert found["true_positives"] == 48


def test_inspect_tells_what_a_tomogram_is_and_whether_picks_are_inside(
    tomopicker: Command, simulated: Path
) -> None:
    done = tomopicker("inspect", simulated / "sim_0001.mrc", "--picks", simulated / "sim_0001.csv")
    assert done.code == 0, done.stderr
    assert "64 × 64 × 32 voxels" in done.stdout
    assert "13.5 Å" in done.stdout
    assert "24, all inside" in done.stdout


def test_plot_draws_picks_and_the_truth(
    tomopicker: Command, simulated: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "slice.png"
    known = simulated / "sim_0001.csv"
    done = tomopicker(
        *("plot", simulated / "sim_0001.mrc", "--picks", known, "--truth", known),
        *("--radius", "60A", "--out", picture),
    )
    assert done.code == 0, done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_same_seed_gives_the_same_weights_and_picks(
    tomopicker: Command, trained: Path, simulated: Path, tmp_path: Path
) -> None:
    assert tomopicker(*learn(simulated, tmp_path / "again")).code == 0
    assert_same_weights(
        read_checkpoint(trained / "last.safetensors"),
        read_checkpoint(tmp_path / "again" / "last.safetensors"),
    )
    tables = []
    for run in (trained, tmp_path / "again"):
        out = tmp_path / f"picks-{run.name}"
        pick = ("pick", run, simulated / "sim_0002.mrc", "--count", 20, "--out", out)
        assert tomopicker(*pick).code == 0
        tables.append((out / "sim_0002.csv").read_bytes())
    assert tables[0] == tables[1]


def test_a_run_stopped_after_an_epoch_can_be_picked_with_and_resumes_to_the_same_weights(
    tomopicker: Command, simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    two = ("--epochs", 2, "--expected", 40)
    assert tomopicker(*learn(simulated, whole, *two)).code == 0

    def interrupted(*arguments: object, **settings: object) -> Iterator[training.Progress]:
        for event in fit(*arguments, **settings):
            yield event
            if isinstance(event, training.Epoch):
                raise KeyboardInterrupt

    fit = training.fit
    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", interrupted)
        done = tomopicker(*learn(simulated, stopped, *two))
    assert done.code == 130
    assert "--resume" in done.stderr
    assert read_checkpoint(stopped / "last.safetensors").description.epoch == 1

    picks = tmp_path / "picks"
    done = tomopicker("pick", stopped, simulated / "sim_0002.mrc", "--out", picks)
    assert done.code == 0, done.stderr
    assert "stopped before its end" in done.stderr
    assert len(rows_of(picks / "sim_0002.csv")) > 0

    assert tomopicker(*learn(simulated, stopped, *two), "--resume").code == 0
    for name in ("last.safetensors", "best.safetensors"):
        assert_same_weights(read_checkpoint(stopped / name), read_checkpoint(whole / name))
    calibrations = [read_checkpoint(run).description.calibration for run in (whole, stopped)]
    assert calibrations[0] == calibrations[1] is not None


def test_more_epochs_than_planned_are_trained_by_resuming(
    tomopicker: Command, simulated: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert tomopicker(*learn(simulated, run)).code == 0
    assert tomopicker(*learn(simulated, run, "--epochs", 2, "--resume")).code == 0
    assert [row["epoch"] for row in rows_of(run / "metrics.csv")] == ["1", "2"]
    assert json.loads((run / "config.json").read_text())["training"]["epochs"] == 2


def test_sigterm_stops_like_ctrl_c(
    tomopicker: Command, simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def terminated(*arguments: object, **settings: object) -> Iterator[training.Progress]:
        os.kill(os.getpid(), signal.SIGTERM)
        yield from fit(*arguments, **settings)

    fit, before = training.fit, signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(training, "fit", terminated)
    done = tomopicker(*learn(simulated, tmp_path / "run"))
    assert done.code == 130
    assert "before the first epoch" in done.stderr
    assert signal.getsignal(signal.SIGTERM) == before


def test_quiet_training_says_nothing_and_logs_all(
    tomopicker: Command, simulated: Path, tmp_path: Path
) -> None:
    done = tomopicker(*learn(simulated, tmp_path / "run", "--quiet"))
    assert (done.code, done.stdout, done.stderr) == (0, "", "")
    assert "Done. Pick with" in (tmp_path / "run" / "log.txt").read_text()
    assert not console.quiet


def test_ctrl_c_during_training_leaves_a_checkpoint_that_picks(
    tomopicker: Command, simulated: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    run = tmp_path / "run"
    words = learn(simulated, run, "--epochs", 100_000)
    command = [sys.executable, "-W", "error", "-m", "tomopicker", *words]
    with start_process(command, environment) as process:
        deadline = time.monotonic() + 180
        while not (run / "last.safetensors").is_file() and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert not list(run.glob(".*")), "a temporary file was left"
    # As it would be typed, wherever the program lies.
    assert " $ tomopicker train " in (run / "log.txt").read_text().splitlines()[0]
    done = tomopicker(
        *("pick", run, simulated / "sim_0002.mrc", "--count", 5, "--out", tmp_path / "picks")
    )
    assert done.code == 0, done.stderr
    assert len(rows_of(tmp_path / "picks" / "sim_0002.csv")) == 5
