"""Bad input ends a command with one line that names the file and the remedy, and writes nothing."""

import json
import resource
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from conftest import SHORT, Outcome
from tomopicker.checkpoint import read_checkpoint
from tomopicker.io.particles import read_particles
from tomopicker.io.tomograms import read_tomogram, write_volume

Command = Callable[..., Outcome]
Make = Callable[[Path], Path]

SHAPE = (32, 64, 64)


def assert_refused(done: Outcome, *mentions: str) -> None:
    """The command ended with one line of error that has the mentions, blanks aside."""
    assert done.code == 2, done.stderr
    assert len(done.errors) == 1, done.stderr
    assert done.errors[0].startswith("Error: ")
    for mention in mentions:
        assert mention in done.errors[0]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder for results that does not exist yet."""
    return tmp_path / "out" / "run"


@pytest.fixture
def train(
    tomopicker: Command, simulated: Path, tmp_path: Path, out: Path
) -> Iterator[Callable[..., Outcome]]:
    """Train on the first simulated tomogram, or other files; a refusal must leave no folder."""

    def run(*more: object, tomogram: Path | None = None, picks: Path | None = None) -> Outcome:
        files = (
            *("train", tomogram or simulated / "sim_0001.mrc"),
            *("--picks", picks or simulated / "sim_0001.csv", "--out", out),
        )
        return tomopicker(*files, *SHORT, *(more or ("--radius", "60A")))

    yield run
    assert not out.parent.exists(), "something was written"


def noise(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def truncated(folder: Path) -> Path:
    path = folder / "cut.mrc"
    write_volume(path, noise(), voxel_size=13.5)
    path.write_bytes(path.read_bytes()[:-4000])
    return path


def truncated_header(folder: Path) -> Path:
    path = folder / "cut.mrc"
    write_volume(path, noise(), voxel_size=13.5)
    path.write_bytes(path.read_bytes()[:600])
    return path


def not_mrc(folder: Path) -> Path:
    path = folder / "photo.mrc"
    path.write_bytes(b"\x89PNG\r\n" + bytes(4000))
    return path


def nothing_in_it(folder: Path) -> Path:
    path = folder / "empty.mrc"
    path.touch()
    return path


def image(folder: Path) -> Path:
    path = folder / "image.mrc"
    with mrcfile.new(path, data=noise((64, 64))) as mrc:
        mrc.voxel_size = 13.5
    return path


def one_slice(folder: Path) -> Path:
    path = folder / "slice.mrc"
    write_volume(path, noise((1, 64, 64)), voxel_size=13.5)
    return path


def voxel_size_0(folder: Path) -> Path:
    path = folder / "none.mrc"
    write_volume(path, noise(), voxel_size=0)
    return path


def voxel_size_1(folder: Path) -> Path:
    path = folder / "one.mrc"
    write_volume(path, noise(), voxel_size=1)
    return path


def constant(folder: Path) -> Path:
    path = folder / "flat.mrc"
    write_volume(path, np.full(SHAPE, 7, dtype=np.float32), voxel_size=13.5)
    return path


def all_nan(folder: Path) -> Path:
    path = folder / "nan.mrc"
    write_volume(path, np.full(SHAPE, np.nan, dtype=np.float32), voxel_size=13.5)
    return path


def missing(folder: Path) -> Path:
    return folder / "nowhere.mrc"


def a_folder(folder: Path) -> Path:
    path = folder / "tomograms.mrc"
    path.mkdir()
    return path


BAD_TOMOGRAMS = pytest.mark.parametrize(
    ("make", "wrong", "remedy"),
    [
        (truncated, "truncated", "copy or reconstruct it again"),
        (truncated_header, "truncated", "copy it again"),
        (not_mrc, "not an MRC file", "give an MRC"),
        (nothing_in_it, "not an MRC file", "give an MRC volume"),
        (image, "2D image", "give a reconstructed volume"),
        (one_slice, "2D image", "give a reconstructed volume"),
        (voxel_size_0, "no voxel size", "--voxel-size 13.48"),
        (voxel_size_1, "1 Å per voxel", "--voxel-size 13.48"),
        (constant, "expected voxels that differ", "check that this is the reconstruction"),
        (all_nan, "no finite voxel", "reconstruct it again"),
        (missing, "no such file", "check its name"),
        (a_folder, "is a folder", "give the tomogram file"),
    ],
)


@BAD_TOMOGRAMS
def test_a_bad_tomogram_is_not_trained_on(
    train: Callable[..., Outcome], tmp_path: Path, make: Make, wrong: str, remedy: str
) -> None:
    path = make(tmp_path)
    assert_refused(train(tomogram=path), f"{path}: ", wrong, remedy)


@BAD_TOMOGRAMS
def test_a_bad_tomogram_is_not_picked(
    tomopicker: Command, trained: Path, tmp_path: Path, make: Make, wrong: str, remedy: str
) -> None:
    path, out = make(tmp_path), tmp_path / "picks"
    assert_refused(tomopicker("pick", trained, path, "--out", out), f"{path}: ", wrong, remedy)
    assert not out.exists()


def test_a_bad_tomogram_does_not_cost_the_others(
    tomopicker: Command, trained: Path, simulated: Path, tmp_path: Path
) -> None:
    bad, out = truncated(tmp_path), tmp_path / "picks"
    done = tomopicker("pick", trained, bad, simulated / "sim_0002.mrc", "--count", 5, "--out", out)
    assert done.code == 2
    assert done.errors[-1].startswith(f"Error: {bad}: ")
    assert "1 of 2 tomograms left out" in done.errors[-1]
    assert {path.name for path in out.glob("*.csv")} == {
        "sim_0002.csv",
        "sim_0002_candidates.csv",
        "summary.csv",
    }


PICKS_OF_ANOTHER_BINNING = "x,y,z\n10,10,10\n120,100,10\n"
PICKS_SWAPPED = "x,y,z\n10,60,60\n12,8,50\n20,30,44\n"


@pytest.mark.parametrize(
    ("text", "wrong", "remedy"),
    [
        (PICKS_OF_ANOTHER_BINNING, "pick 2 has x = 120", "check the voxel size or binning"),
        (PICKS_SWAPPED, "pick 1 has z = 60", "fit the volume as z,y,x: swap the columns"),
        ("", "is empty", "at least one pick"),
        ("x,y,z\n", "no picks", "at least one pick"),
        ("x,y,z\n10,10,10\n20,nan,10\n", "line 3 has y = nan", "correct or remove that line"),
        ("x,y,z\n10,10,10\n20,,10\n", "line 3 has y = nothing", "correct or remove that line"),
        ("x,y\n10,10\n", "no column z", "name the columns"),
        ("x,y,z,tomogram\n10,10,10,other\n", "has picks in other", "--skip-unmatched"),
        ("\0\1\2", "is not text", "give picks as"),
        ("x,y,z\n20,20,10\n", "one labelled particle", "label more"),
    ],
)
def test_bad_picks_are_not_trained_on(
    train: Callable[..., Outcome], tmp_path: Path, text: str, wrong: str, remedy: str
) -> None:
    picks = tmp_path / "clicks.csv"
    picks.write_text(text)
    assert_refused(train(picks=picks), wrong, remedy, "clicks.csv" * ("labelled" not in wrong))


def test_missing_picks_are_told(train: Callable[..., Outcome], tmp_path: Path) -> None:
    assert_refused(train(picks=tmp_path / "nowhere.csv"), "nowhere.csv: no such file")
    (tmp_path / "lists").mkdir()
    assert_refused(train(picks=tmp_path / "lists"), "lists: has no picks")


PAPER = ("--radius", "60A", "--preset", "paper", "--set", "sampling.stride=16")


@pytest.mark.parametrize(
    ("options", "mentions"),
    [
        (("--radius", "160"), ("no unit", "160A")),
        (("--radius", "160pm"), ("unknown unit", "nm")),
        (("--radius", "-5vx"), ("above 0",)),
        (("--radius", "60A", "--diameter", "120A"), ("either --radius or --diameter",)),
        ((), ("either --radius or --diameter",)),
        (
            ("--radius", "12vx", "--set", "sampling.side=8"),
            ("diameter is 16 voxels, but the window is 8", "sampling.side"),
        ),
        (
            ("--radius", "20vx", "--set", "sampling.side=64"),
            ("sim_0001: 32 x 64 x 64 voxels", "cannot hold", "check --radius"),
        ),
        (
            ("--radius", "60A", "--preset", "paper"),
            ("stride must be at most the window, 16", "sampling.stride=16"),
        ),
        (PAPER, ("needs the expected number", "to estimate it")),
        ((*PAPER, "--expected", 24), ("24 are labelled", "in all")),
        (("--radius", "60A", "--expected", 10), ("24 are labelled", "--expected")),
        (("--radius", "60A", "--expected", 9999), ("more than half", "lower --expected")),
        (("--radius", "60A", "--voxel-size", 0), ("--voxel-size must be a positive number",)),
        (("--radius", "60A", "--voxel-size", "nan"), ("--voxel-size must be a positive number",)),
        (("--radius", "60A", "--device", "abacus"), ("no such device", "known")),
        (("--radius", "60A", "--set", "training.batch"), ("write it as name=value",)),
        (
            ("--radius", "60A", "--set", "lunch.batch=4"),
            ("lunch.batch: no such setting", "preprocessing", "training", "peaks"),
        ),
        (
            ("--radius", "60A", "--set", "training.lunch=4"),
            ("training.lunch: no such setting; those of training are epochs, batch", "seed"),
        ),
        (("--radius", "60A", "--set", "epochs=4"), ("<stage>.<name>", "training")),
        (("--radius", "60A", "--set", "training.batch=-4"), ("training.batch", "greater than 0")),
        (
            ("--radius", "60A", "--set", "training.start_worth=Infinity"),
            ("training.start_worth", "finite number"),
        ),
        (("--radius", "60A", "--set", "network.channels=[]"), ("network.channels",)),
        (("--radius", "60A", "--set", "network.channels=[4,0]"), ("network.channels",)),
        (("--radius", "60A", "--set", "sampling.side=15"), ("multiple of 4, got 15; try 16",)),
        (("--radius", "60A", "--epochs", 0), ("training.epochs", "greater than 0")),
        (("--radius", "60A", "--val-picks", "picks.csv"), ("--val-tomogram", "both or neither")),
        (("--radius", "60A", "--resume"), ("no run to resume", "leave out --resume")),
    ],
)
def test_bad_options_of_training_are_told(
    train: Callable[..., Outcome], options: tuple[object, ...], mentions: tuple[str, ...]
) -> None:
    assert_refused(train(*(options or ("--seed", 0))), *mentions)


def test_validation_without_a_positive_is_told(
    train: Callable[..., Outcome], simulated: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "none.csv"
    empty.write_text("x,y,z\n")
    known = ("--radius", "60A", "--val-tomogram", simulated / "sim_0002.mrc")
    assert_refused(train(*known, "--val-picks", empty), "none.csv", "no picks")

    # Its picks are where the volume ends in voxels without a value.
    data = read_tomogram(simulated / "sim_0002.mrc").data.astype(np.float32)
    data[:, :, 40:] = np.nan
    half, beyond = tmp_path / "half.mrc", tmp_path / "beyond.csv"
    write_volume(half, data, voxel_size=13.5)
    beyond.write_text("x,y,z\n55,30,16\n55,20,10\n")
    done = train("--radius", "60A", "--val-tomogram", half, "--val-picks", beyond)
    assert_refused(done, "half: validation holds no positive", "check that --val-picks")


@pytest.mark.parametrize(
    ("preset", "voxel_size", "mentions"),
    [
        ("paper", 10, ("other: voxel size 10 Å", "one voxel size")),
        ("default", 21, ("other.mrc: voxel size 21 Å", "more than 1.5 times", "finer one")),
        ("default", 3.3, ("other.mrc: voxel size 3.3 Å", "less than a quarter", "3.38 Å or more")),
    ],
)
def test_tomograms_of_voxel_sizes_too_far_apart_are_not_trained_on_together(
    tomopicker: Command,
    simulated: Path,
    tmp_path: Path,
    preset: str,
    voxel_size: float,
    mentions: tuple[str, ...],
) -> None:
    other = tmp_path / "other.mrc"
    write_volume(other, noise((40, 64, 64)), voxel_size=voxel_size)
    picks = tmp_path / "clicks.csv"
    picks.write_text("x,y,z,tomogram\n10,10,10,other\n20,20,20,other\n10,10,10,sim_0001\n")
    done = tomopicker(
        *("train", simulated / "sim_0001.mrc", other, "--picks", picks, "--radius", "60A"),
        *("--preset", preset, "--expected", 30, "--out", tmp_path / "run"),
    )
    assert_refused(done, *mentions)
    assert not (tmp_path / "run").exists()


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let the system refuse to write more than `size` bytes to a file, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_ends_training_without_a_part_of_a_checkpoint(
    tomopicker: Command, simulated: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train = (
        *("train", simulated / "sim_0001.mrc", "--picks", simulated / "sim_0001.csv"),
        *("--radius", "60A", "--out", run, *SHORT),
    )
    with file_size_limit(8000):
        done = tomopicker(*train)
    assert done.code == 2
    assert done.errors[-1].startswith(f"Error: {run}/best.safetensors: cannot be written")
    assert "free some space" in done.errors[-1]
    assert {path.name for path in run.iterdir()} == {"config.json", "log.txt", "clicks"}
    # With space again, the same command goes on.
    assert tomopicker(*train, "--resume").code == 0


@pytest.mark.parametrize("ending", ["png", "star"], ids=["the picture", "a list"])
def test_a_full_disk_ends_picking_without_a_part_of_a_list(
    tomopicker: Command,
    trained: Path,
    simulated: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ending: str,
) -> None:
    out = tmp_path / "picks"
    if ending == "star":
        monkeypatch.setattr("tomopicker.cli.outputs.Outputs._draw", lambda *_: None)
    with file_size_limit(100):
        done = tomopicker("pick", trained, simulated / "sim_0002.mrc", "--count", 20, "--out", out)
    assert_refused(done, f"sim_0002.{ending}: cannot be written", "free some space")
    left = {path.name for path in out.rglob("*") if path.is_file()}
    # What says that it was begun, and what says that it is not done.
    assert left == {".sim_0002.unfinished", "summary.csv"}


def test_a_folder_that_is_not_empty_is_not_trained_into(
    tomopicker: Command, simulated: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "thesis.txt").write_text("mine")
    train = (
        *("train", simulated / "sim_0001.mrc", "--picks", simulated / "sim_0001.csv"),
        *("--radius", "60A", *SHORT, "--out"),
    )
    assert_refused(tomopicker(*train, run), "run: is not empty", "another --out", "--resume")
    assert_refused(tomopicker(*train, run / "thesis.txt"), "is a file", "give a folder")
    assert_refused(tomopicker(*train, run / "thesis.txt" / "a"), "is a file", "another --out")
    assert_refused(tomopicker(*train, run, "--resume"), "no run to resume")
    assert [path.name for path in run.iterdir()] == ["thesis.txt"]
    assert (run / "thesis.txt").read_text() == "mine"


def test_a_run_is_not_resumed_with_other_picks_or_from_weights_alone(
    tomopicker: Command, trained: Path, simulated: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.json", "last.safetensors"):
        (run / name).write_bytes((trained / name).read_bytes())
    resume = ("--radius", "60A", "--out", run, *SHORT, "--resume")
    first = ("train", simulated / "sim_0001.mrc", "--picks", simulated / "sim_0001.csv")
    second = ("train", simulated / "sim_0002.mrc", "--picks", simulated / "sim_0002.csv")
    done = tomopicker(*second, *resume)
    assert done.code == 2
    assert "other picks or settings" in done.errors[-1]
    (run / "last.safetensors").write_bytes((trained / "best.safetensors").read_bytes())
    done = tomopicker(*first, *resume)
    assert done.code == 2
    assert "last.safetensors: cannot be trained on" in done.errors[-1]


def test_names_in_brackets_are_printed_as_they_are(
    tomopicker: Command, trained: Path, tmp_path: Path
) -> None:
    # Square brackets are the mark-up of the library that prints.
    folder = tmp_path / "grid[old]" / "[" / "x]"
    folder.mkdir(parents=True)
    files = [folder / "one.mrc", folder / "two.mrc"]
    done = tomopicker("pick", trained, *files, "--out", tmp_path / "out")
    assert done.code == 2
    assert f"Left out: {files[0]}: no such file" in done.stderr
    assert done.errors[-1].startswith(f"Error: {files[0]}: no such file")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 9 TiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_running_out_of_memory_is_told_with_the_remedy(
    tomopicker: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def too_much(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("tomopicker.io.tomograms.source.read_tomogram", too_much)
    assert_refused(tomopicker("inspect", tmp_path / "one.mrc"), "out of memory", "--device cpu")


def test_another_fault_is_still_raised(
    tomopicker: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr("tomopicker.io.tomograms.source.read_tomogram", fail)
    with pytest.raises(RuntimeError, match="ours"):
        tomopicker("inspect", tmp_path / "one.mrc")


def test_a_loss_that_is_not_finite_is_told_with_the_remedy(
    tomopicker: Command, simulated: Path, tmp_path: Path
) -> None:
    done = tomopicker(
        *("train", simulated / "sim_0001.mrc", "--picks", simulated / "sim_0001.csv"),
        *("--radius", "60A", "--out", tmp_path / "run", *SHORT),
        *("--set", "training.learning_rate=1e30", "--set", "sampling.steps_per_epoch=8"),
    )
    assert done.code == 2
    assert done.errors[-1].startswith("Error: the loss is")
    assert "training.learning_rate" in done.errors[-1]


def test_what_was_learned_before_a_loss_that_is_not_finite_stays_and_picks(
    tomopicker: Command, simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tomopicker import training

    learning_rate, run = training.learning_rate, tmp_path / "run"
    train = (
        *("train", simulated / "sim_0001.mrc", "--picks", simulated / "sim_0001.csv"),
        *("--radius", "60A", "--out", run, *SHORT, "--epochs", 2),
    )
    with monkeypatch.context() as patch:
        patch.setattr(
            training,
            "learning_rate",
            lambda settings, measures: 1e39 if measures else learning_rate(settings, measures),
        )
        done = tomopicker(*train)
    assert done.code == 2
    assert "in epoch 2 (what the epochs before it learned can be picked with)" in done.errors[-1]
    assert "train anew in another --out with a lower rate, such as --set" in done.errors[-1]
    for name in ("best", "last"):
        assert read_checkpoint(run / f"{name}.safetensors").description.epoch == 1
    picked = tomopicker(
        *("pick", run, simulated / "sim_0002.mrc", "--count", 3, "--out", tmp_path / "picks")
    )
    assert picked.code == 0, picked.stderr
    assert tomopicker(*train, "--resume").code == 0
    assert read_checkpoint(run / "last.safetensors").description.epoch == 2


_LIMITED = """\
import re, resource, sys
from pathlib import Path
import tomopicker.cli.run, tomopicker.cli.picking, tomopicker.picks, tomopicker.report
from tomopicker import cli
taken = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
limit = taken + (int(sys.argv.pop(1)) << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
cli.main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what a process may take is Linux's to limit")
@pytest.mark.parametrize("megabytes", [16, 1200])
def test_a_limit_of_memory_is_kept_to_or_told_and_what_was_done_stays(
    trained: Path, simulated: Path, tmp_path: Path, environment: dict[str, str], megabytes: int
) -> None:
    small = read_tomogram(simulated / "sim_0002.mrc")
    large = tmp_path / "large.mrc"
    # Asked for without limit, its tiles would take gigabytes.
    write_volume(large, np.tile(np.asarray(small.data), (2, 6, 6)), voxel_size=small.voxel_size)
    picks = tmp_path / "picks"
    done = subprocess.run(
        [
            *(sys.executable, "-c", _LIMITED, str(megabytes), "pick", trained),
            *(simulated / "sim_0002.mrc", large, "--count", "3", "--memory", "64GB"),
            *("--device", "cpu", "--out", picks),
        ],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    told = done.stderr.splitlines()[-1]
    names = {path.name for path in picks.iterdir()} if picks.is_dir() else set()
    assert ("sim_0002.json" in names) == (megabytes > 1000), done.stderr
    # Threads and libraries set memory aside as they like, so the large one may do or not.
    if "large.json" in names:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 2, done.stderr
        assert "out of memory" in told or "cannot be mapped into memory" in told
        assert "use a machine with more" in told or "allow more" in told


def test_voxels_without_a_value_are_trained_around_and_never_picked(
    tomopicker: Command, simulated: Path, tmp_path: Path
) -> None:
    data = read_tomogram(simulated / "sim_0001.mrc").data.astype(np.float32)
    data[:, :, :24] = np.nan
    data[:, 30, 40] = np.inf
    holed = tmp_path / "holed.mrc"
    write_volume(holed, data, voxel_size=13.5)
    run, out = tmp_path / "run", tmp_path / "picks"
    done = tomopicker(
        *("train", holed, "--picks", simulated / "sim_0001.csv", "--radius", "60A"),
        *("--out", run, *SHORT),
    )
    assert done.code == 0, done.stderr
    # As many as there are: without a hole they fill the volume.
    options = ("--count", 5000, "--format", "csv", "--scores")
    done = tomopicker("pick", run, holed, *options, "--out", out)
    assert done.code == 0, done.stderr
    with mrcfile.open(out / "holed_scores.mrc") as scores:
        assert np.isfinite(scores.data).all()
        assert np.isfinite(scores.header.dmin)
    picks = read_particles(out / "holed.csv", voxel_size=13.5)
    assert len(picks) > 50
    assert picks.voxels[:, 2].min() > 22
    assert np.isfinite(data[tuple(np.rint(picks.voxels).astype(int).T)]).mean() > 0.95


@pytest.mark.parametrize(
    ("options", "mentions"),
    [
        (("--format", "dynamo9"), ("unknown format 'dynamo9'", "relion5")),
        (("--format", "relion4"), ("relion4", "use relion5")),
        (("--count", 5, "--threshold", 0), ("one of --count, --threshold and --fdr",)),
        (("--fdr", 1.5), ("--fdr 1.5", "as 0.05")),
        (("--threshold", "nan"), ("--threshold nan", "give a number")),
        (("--voxel-size", 3), ("voxel size 3 Å", "a quarter of the 13.5 Å", "bin it")),
        (("--voxel-size", 21), ("voxel size 21 Å", "1.5 times the 13.5 Å", "--voxel-size")),
        (("--device", "abacus"), ("no such device",)),
        (("--device", "cuda:first"), ("no such device",)),
        (("--device", "cuda:99"), ("--device cuda:99", "leave --device out")),
    ],
)
def test_bad_options_of_picking_are_told(
    tomopicker: Command,
    trained: Path,
    simulated: Path,
    tmp_path: Path,
    options: tuple[object, ...],
    mentions: tuple[str, ...],
) -> None:
    out = tmp_path / "picks"
    done = tomopicker("pick", trained, simulated / "sim_0002.mrc", *options, "--out", out)
    assert_refused(done, *mentions)
    assert not out.exists()


def test_a_model_that_does_not_rescale_picks_no_tomogram_of_another_voxel_size(
    tomopicker: Command, simulated: Path, tmp_path: Path
) -> None:
    run, coarse = tmp_path / "run", tmp_path / "coarse.mrc"
    done = tomopicker(
        *("train", simulated / "sim_0001.mrc", "--picks", simulated / "sim_0001.csv"),
        *("--radius", "60A", "--set", "preprocessing.working_radius=null"),
        *("--out", run, *SHORT),
    )
    assert done.code == 0, done.stderr
    write_volume(coarse, noise(), voxel_size=15)
    done = tomopicker("pick", run, coarse, "--out", tmp_path / "picks")
    assert_refused(done, f"{coarse}: voxel size 15 Å", "trained at 13.5 Å", "rescale")
    assert not (tmp_path / "picks").exists()


def test_two_tomograms_of_one_name_are_not_picked_into_one_folder(
    tomopicker: Command, trained: Path, simulated: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "sim_0002.mrc"
    copy.write_bytes((simulated / "sim_0002.mrc").read_bytes())
    out = tmp_path / "picks"
    done = tomopicker("pick", trained, simulated / "sim_0002.mrc", copy, "--out", out)
    assert_refused(done, "two tomograms are called sim_0002", "two folders")
    assert not out.exists()


def test_picks_cannot_be_written_below_a_file(
    tomopicker: Command, trained: Path, simulated: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "picks"):
        done = tomopicker("pick", trained, simulated / "sim_0002.mrc", "--out", out)
        assert_refused(done, str(out), "is a file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_false_discovery_rate_needs_a_calibrated_run(
    tomopicker: Command, trained: Path, simulated: Path, tmp_path: Path
) -> None:
    done = tomopicker(
        *("pick", trained / "last.safetensors", simulated / "sim_0002.mrc", "--fdr", 0.1),
        *("--out", tmp_path / "picks"),
    )
    assert_refused(done, "not calibrated", "--count or --threshold")


Damage = Callable[[dict[str, Any], dict[str, np.ndarray]], None]


def setting(stage: str, name: str, value: object) -> Damage:
    def damage(description: dict[str, Any], _: dict[str, np.ndarray]) -> None:
        description["config"][stage][name] = value

    return damage


def stated(name: str, value: object) -> Damage:
    def damage(description: dict[str, Any], _: dict[str, np.ndarray]) -> None:
        description[name] = value

    return damage


def without_a_weight(_: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    del tensors[next(name for name in tensors if name.startswith("network."))]


def weight_of_another_shape(_: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    name = next(name for name in tensors if name.startswith("network."))
    tensors[name] = np.zeros((3, 3), dtype=np.float32)


def weight_that_is_nan(_: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    name = next(name for name in tensors if tensors[name].dtype == np.float32)
    tensors[name] = np.full_like(tensors[name], np.nan)


@pytest.mark.parametrize(
    "damage",
    [
        setting("network", "channels", [4096, 4096, 4096]),
        setting("network", "channels", [10**12]),
        setting("network", "channels", []),
        setting("network", "architecture", "../../etc/passwd"),
        setting("sampling", "side", 1 << 40),
        setting("training", "batch", "many"),
        setting("peaks", "smoothing", 1e12),
        setting("peaks", "exclusion", 1e300),
        stated("radius_voxels", 10**12),
        stated("filter_profile", [1.0] * 100_000),
        stated("filter_profile", [0.5, 0.5]),
        stated("filter_profile", None),
        stated("voxel_size", -1),
        stated("voxel_size", "NaN"),
        stated("format", 99),
        stated("format", "1" * 50_000),
        stated("surprise", 1),
        without_a_weight,
        weight_of_another_shape,
        weight_that_is_nan,
    ],
)
def test_a_damaged_or_hostile_checkpoint_is_refused(
    tomopicker: Command, trained: Path, simulated: Path, tmp_path: Path, damage: Damage
) -> None:
    with safe_open(trained / "best.safetensors", framework="np") as opened:
        description = json.loads(opened.metadata()["tomopicker"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    damage(description, tensors)
    hostile = tmp_path / "hostile.safetensors"
    save_file(tensors, hostile, {"tomopicker": json.dumps(description)})
    out = tmp_path / "picks"
    done = tomopicker("pick", hostile, simulated / "sim_0002.mrc", "--out", out)
    assert_refused(done, "hostile.safetensors: ")
    assert not out.exists()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "[" * 200_000, '{"format": ' + "9" * 20_000 + "}", "null"]
)
def test_a_checkpoint_whose_description_is_no_description_is_refused(
    tomopicker: Command, simulated: Path, tmp_path: Path, text: str
) -> None:
    hostile = tmp_path / "hostile.safetensors"
    save_file({"network.a": np.zeros(1)}, hostile, {"tomopicker": text})
    done = tomopicker("pick", hostile, simulated / "sim_0002.mrc", "--out", tmp_path / "picks")
    assert_refused(done, "hostile.safetensors: ")


@pytest.mark.parametrize("kept", [0, 4, 200, -100])
def test_a_truncated_checkpoint_is_refused(
    tomopicker: Command, trained: Path, simulated: Path, tmp_path: Path, kept: int
) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((trained / "best.safetensors").read_bytes()[:kept])
    done = tomopicker("pick", cut, simulated / "sim_0002.mrc", "--out", tmp_path / "picks")
    assert_refused(done, "cut.safetensors: ", "truncated", "train again")


def test_what_is_no_checkpoint_is_refused(
    tomopicker: Command, simulated: Path, tmp_path: Path
) -> None:
    tomogram, out = simulated / "sim_0002.mrc", tmp_path / "picks"
    done = tomopicker("pick", tmp_path / "nowhere", tomogram, "--out", out)
    assert_refused(done, "nowhere: no such run folder", "tomopicker train")
    done = tomopicker("pick", simulated, tomogram, "--out", out)
    assert_refused(done, f"{simulated}: holds no checkpoint", "--out folder of a training run")
    done = tomopicker("pick", tomogram, tomogram, "--out", out)
    assert_refused(done, f"{tomogram}: cannot be read as a checkpoint")
    endless = tmp_path / "endless.safetensors"
    endless.write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    done = tomopicker("pick", endless, tomogram, "--out", out)
    assert_refused(done, "endless.safetensors: cannot be read as a checkpoint")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": np.zeros(1)}, foreign)
    done = tomopicker("pick", foreign, tomogram, "--out", out)
    assert_refused(done, "foreign.safetensors", "not a TomoPicker checkpoint")


@pytest.mark.parametrize(
    "arguments",
    [
        ("train",),
        ("lunch",),
        ("pick", "run", "a.mrc", "--out", "picks", "--count", "0"),
        ("pick", "run", "a.mrc", "--out", "picks", "--count", "some"),
        ("train", "a.mrc", "--picks", "a.csv", "--out", "run", "--preset", "lunch"),
        ("simulate", "--out", "data", "--lunch"),
    ],
)
def test_what_the_command_line_does_not_know_exits_with_2(
    tomopicker: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    done = tomopicker(*arguments)
    assert done.code == 2
    assert "Usage" in done.stderr
    assert not list(tmp_path.iterdir())


def test_other_commands_tell_their_bad_input_in_one_line(
    tomopicker: Command, simulated: Path, tmp_path: Path
) -> None:
    known, none = simulated / "sim_0001.csv", tmp_path / "nowhere"
    assert_refused(tomopicker("evaluate", none, known), f"{none}: no such file")
    assert_refused(tomopicker("evaluate", known, known, "--tolerance", 10), "no unit")
    assert_refused(tomopicker("inspect", none), f"{none}: no such file")
    assert_refused(tomopicker("simulate", "--out", simulated), "not an empty folder")
    assert_refused(tomopicker("simulate", "--out", none, "--shape", "1,2"), "--shape must be")
    draw = ("plot", simulated / "sim_0001.mrc", "--picks", known, "--out")
    assert_refused(tomopicker(*draw, tmp_path / "a.bmp", "--radius", "60A"), "a.bmp", ".png")
    assert_refused(tomopicker(*draw, none / "a.png", "--radius", "60A"), "does not exist")
    assert not list(tmp_path.iterdir())


def test_our_own_fault_exits_with_1_its_traceback_and_the_request_to_report_it(
    environment: dict[str, str],
) -> None:
    script = (
        "import sys\nfrom tomopicker import cli\n"
        "@cli.app.command()\ndef broken():\n    raise KeyError('a bug')\n"
        "sys.argv = ['tomopicker', 'broken']\ncli.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "KeyError: 'a bug'" in done.stderr
    assert "please report it" in done.stderr.splitlines()[-1]
