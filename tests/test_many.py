"""Picking many tomograms: nothing is lost, nothing is done twice, and what differs is told."""

import csv
import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conftest import Outcome
from killing import contents, make_tomograms, pick_and_kill
from tomopicker import inference
from tomopicker.cli.outputs import check_space
from tomopicker.errors import OutputError
from tomopicker.io.particles.matching import list_files
from tomopicker.io.particles.relion_project import write_import_list
from tomopicker.io.record import read_record
from tomopicker.io.whole import remove_leftovers, whole_file

Command = Callable[..., Outcome]


@pytest.fixture(scope="module")
def tomograms(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of three tomograms, the last of which is cut off."""
    folder = tmp_path_factory.mktemp("many") / "data"
    return make_tomograms(folder, simulated / "sim_0002.mrc", 3, broken=1)


@pytest.fixture(scope="module")
def first_picks(
    tomopicker: Command, trained: Path, tomograms: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What `pick` leaves of the two that are whole."""
    out = tmp_path_factory.mktemp("many") / "picks"
    done = tomopicker("pick", trained, *whole(tomograms), "--count", 5, "--out", out)
    assert done.code == 0, done.stderr
    return out


@pytest.fixture
def picked(first_picks: Path, tmp_path: Path) -> Path:
    """A copy of it where `pick` would leave it."""
    return shutil.copytree(first_picks, tmp_path / "picks")


@pytest.fixture
def good(tomograms: Path, tmp_path: Path) -> Path:
    """A folder with copies of the two that are whole."""
    folder = tmp_path / "data"
    folder.mkdir()
    for file in whole(tomograms):
        shutil.copy2(file, folder)
    return folder


@pytest.fixture
def pick(tomopicker: Command, trained: Path, tmp_path: Path) -> Command:
    """Pick five particles each into one folder."""

    def run(*arguments: object, cut: tuple[object, ...] = ("--count", 5)) -> Outcome:
        return tomopicker("pick", trained, *arguments, *cut, "--out", tmp_path / "picks")

    return run


def whole(tomograms: Path) -> list[Path]:
    return [path for path in sorted(tomograms.parent.glob("*.mrc")) if "_trun" not in path.name]


def states(out: Path) -> dict[str, int]:
    """When each file of tomograms was written."""
    return {
        str(path.relative_to(out)): path.stat().st_mtime_ns
        for path in out.rglob("TS_*")
        if path.is_file()
    }


def summary(out: Path) -> dict[str, dict[str, str]]:
    with (out / "summary.csv").open(newline="", encoding="utf-8") as file:
        return {row["tomogram"]: row for row in csv.DictReader(file)}


def test_the_same_command_again_picks_only_what_is_missing(
    pick: Command, tomograms: Path, picked: Path
) -> None:
    good, before = whole(tomograms), states(picked)
    again = pick(*good)
    assert again.code == 0
    assert "2 of 2 tomograms are done already" in again.stderr
    assert states(picked) == before
    (picked / "TS_0000.csv").unlink()
    again = pick(*good)
    assert again.code == 0
    assert "1 of 2 tomograms are done already" in again.stderr
    now = states(picked)
    assert now.keys() == before.keys()
    changed = {name for name in now if now[name] != before[name]}
    assert changed == {name for name in now if "TS_0000" in name}


def test_a_list_of_which_the_tomogram_was_taken_away_is_done(
    pick: Command, good: Path, tmp_path: Path
) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{file}\n" for file in sorted(good.iterdir())))
    assert pick(listed).code == 0
    (good / "TS_0000.mrc").unlink()
    again = pick(listed)
    assert again.code == 0, again.stderr
    assert "2 of 2 tomograms are done already" in again.stderr


@pytest.mark.parametrize(
    ("options", "cut", "told"),
    [
        ((), ("--count", 6), "cut --count 5, now --count 6"),
        (("--format", "csv"), ("--count", 5), "formats relion5, now not given"),
        (("--voxel-size", 13.4), ("--count", 5), "voxel size not given, now 13.4"),
        (("--mask", "auto"), ("--count", 5), "mask not given, now auto"),
    ],
)
def test_lists_made_otherwise_are_told_and_replaced_only_by_force(
    pick: Command,
    tomograms: Path,
    picked: Path,
    options: tuple[object, ...],
    cut: tuple[object, ...],
    told: str,
) -> None:
    good, before = whole(tomograms), states(picked)
    refused = pick(*good, *options, cut=cut)
    assert refused.code == 2
    assert told in refused.errors[-1]
    assert "(and 1 more)" in refused.errors[-1]
    assert "--force" in refused.errors[-1]
    assert states(picked) == before
    forced = pick(*good, *options, "--force", cut=cut)
    assert forced.code == 0, forced.stderr
    assert "2 of 2" in pick(*good, *options, cut=cut).stderr


def test_a_tomogram_or_a_checkpoint_that_changed_is_told(
    pick: Command, tomopicker: Command, trained: Path, good: Path, tmp_path: Path
) -> None:
    out = tmp_path / "picks"
    assert pick(good).code == 0
    os.utime(good / "TS_0000.mrc")
    refused = pick(good)
    assert refused.code == 2
    assert "TS_0000.csv: is already there, but was made otherwise" in refused.errors[-1]
    assert "the tomogram's file was changed since" in refused.errors[-1]
    before = states(out)
    assert pick(good, "--force").code == 0
    assert states(out)["TS_0000.csv"] > before["TS_0000.csv"]
    # What was not changed is not picked again.
    assert states(out)["TS_0856.csv"] == before["TS_0856.csv"]
    last = ("pick", trained / "last.safetensors", good, "--count", 5, "--out", out)
    assert "otherwise: another checkpoint; give" in tomopicker(*last).errors[-1]
    moved = good.rename(tmp_path / "elsewhere")
    assert f"now {moved / 'TS_0000.mrc'}" in pick(moved).errors[-1]


def test_a_file_that_no_record_tells_of_is_left_alone(
    pick: Command, good: Path, tmp_path: Path
) -> None:
    out = tmp_path / "picks"
    out.mkdir()
    (out / "TS_0856.csv").write_text("mine")
    refused = pick(good)
    assert refused.code == 2
    assert f"{out / 'TS_0856.csv'}: is already there, and no record" in refused.errors[-1]
    assert [path.name for path in out.iterdir()] == ["TS_0856.csv"]
    assert pick(good, "--force").code == 0
    (out / "summary.csv").write_text("mine")
    assert f"{out / 'summary.csv'}: is already there" in pick(good).errors[-1]


def test_what_a_stopped_command_was_writing_is_written_again(
    pick: Command, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "picks"
    # Killed after its lists and before its record.
    with monkeypatch.context() as patch:
        patch.setattr("tomopicker.io.record.write_record", stop)
        assert pick(good).code == 130
    assert (out / "TS_0000.csv").is_file()
    assert not (out / "TS_0000.json").exists()
    assert summary(out)["TS_0000"]["status"] == "left"
    assert pick(good).code == 0
    assert {row["status"] for row in summary(out).values()} == {"done"}
    assert list(out.glob(".*")) == []


def test_a_forced_command_that_is_stopped_leaves_no_record_of_the_old_list(
    pick: Command, tomograms: Path, picked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tomopicker.io.candidates.write_candidates", stop)
        assert pick(*whole(tomograms), "--force", cut=("--count", 6)).code == 130
    assert not (picked / "TS_0000.json").exists()
    assert read_record(picked / "TS_0856.json").origin.cut.count == 5


def test_a_broken_tomogram_is_listed_with_the_reason_and_picked_once_it_is_whole(
    pick: Command, tomograms: Path, tmp_path: Path
) -> None:
    out = tmp_path / "picks"
    data = shutil.copytree(tomograms.parent, tmp_path / "data")
    (bad,) = data.glob("*_truncated.mrc")
    done = pick(data)
    assert done.code == 2
    assert "3 tomograms: 2 done, 1 failed" in done.stderr
    rows = summary(out)
    assert list(rows) == sorted(path.stem for path in data.glob("*.mrc"))
    assert rows[bad.stem]["status"] == "failed"
    assert str(bad) in rows[bad.stem]["reason"]
    assert rows["TS_0000"]["status"] == "done"
    assert rows["TS_0000"]["picks"] == "5"
    low, count, high = (float(rows["TS_0000"][name]) for name in ("low", "estimated", "high"))
    assert low <= count <= high
    shutil.copy(data / "TS_0000.mrc", bad)
    again = pick(data)
    assert again.code == 0, again.stderr
    assert {row["status"] for row in summary(out).values()} == {"done"}
    assert list((out / "failed").iterdir()) == []
    # The summary is no list of particles, though it lies among them.
    assert set(list_files(out)) == set(rows)


def test_a_tomogram_that_changes_while_it_is_read_is_left_out(
    pick: Command, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = inference.score

    def touched(*arguments: object, **settings: object) -> object:
        os.utime(good / "TS_0000.mrc")
        return score(*arguments, **settings)

    monkeypatch.setattr(inference, "score", touched)
    done = pick(good)
    assert done.code == 2
    assert f"{good / 'TS_0000.mrc'}: was changed while it was read" in done.errors[-1]
    assert summary(tmp_path / "picks")["TS_0856"]["status"] == "done"


def test_a_tomogram_too_large_for_the_memory_does_not_cost_the_others(
    pick: Command, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score, calls = inference.score, []

    def too_much(*arguments: object, **settings: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            raise MemoryError("Unable to allocate 9 TiB")
        return score(*arguments, **settings)

    monkeypatch.setattr(inference, "score", too_much)
    done = pick(good)
    assert done.code == 2
    assert "TS_0000: out of memory: give --memory" in done.errors[-1]
    rows = summary(tmp_path / "picks")
    assert [row["status"] for row in rows.values()] == ["failed", "done"]


def test_parts_together_are_the_whole_and_overlap_nowhere(
    pick: Command, good: Path, tmp_path: Path
) -> None:
    out = tmp_path / "picks"
    assert pick(good, "--shard", "2/2").code == 0
    assert {path.name for path in out.glob("TS_????.csv")} == {"TS_0856.csv"}
    assert {name: row["status"] for name, row in summary(out).items()} == {
        "TS_0000": "left",
        "TS_0856": "done",
    }
    before = states(out)
    assert pick(good, "--shard", "1/2").code == 0
    assert before.items() <= states(out).items()
    assert {row["status"] for row in summary(out).values()} == {"done"}
    listed = (out / "relion5" / "import_coords.star").read_text()
    assert all(f"{out}/relion5/{name}.star" in listed for name in ("TS_0000", "TS_0856"))
    empty = pick(good, "--shard", "3/3")
    assert empty.code == 0
    assert "0 tomograms: none in this part" in empty.stderr


@pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "a/b", "1/0", "-1/2"])
def test_a_part_that_is_none_is_refused(pick: Command, good: Path, shard: str) -> None:
    refused = pick(good, f"--shard={shard}")
    assert refused.code == 2
    assert f"--shard {shard}: is not I/N" in refused.errors[-1]


def test_a_part_makes_no_report(pick: Command, good: Path) -> None:
    assert "tomopicker report" in pick(good, "--shard", "1/2", "--report").errors[-1]


def test_a_report_is_of_the_tomograms_that_were_done_before_too(
    pick: Command, good: Path, tmp_path: Path
) -> None:
    page = tmp_path / "picks" / "report.html"
    assert pick(good / "TS_0000.mrc").code == 0
    assert pick(good, "--report").code == 0
    assert "10 picks in 2 tomograms" in " ".join(page.read_text(encoding="utf-8").split())


def test_a_disk_that_is_too_small_is_told_before_the_work(
    pick: Command, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=12_000_000))
    done = pick(good)
    assert done.code == 0
    assert "12 MB are free, which may do for 1 of 2 tomograms of 8 MB" in done.stderr
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    refused = pick(good, "--force", cut=("--count", 6))
    assert refused.code == 2
    assert "1 MB are free, but a tomogram's files take up to 8 MB: free some" in refused.errors[-1]
    with pytest.raises(OutputError, match="another disk"):
        check_space(tmp_path / "not" / "yet", 2e6, 1)


@pytest.mark.parametrize("writes", [1, 8, 20])
def test_a_disk_that_fills_up_leaves_nothing_half_and_the_command_goes_on(
    pick: Command, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    out, fsync, done = tmp_path / "picks", os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal done
        done += 1
        if done > writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        refused = pick(good)
    assert refused.code == 2
    assert "No space left on device" in refused.errors[-1]
    assert "the same command goes on" in refused.errors[-1]
    assert [path for path in out.rglob(".*") if path.suffix != ".unfinished"] == []
    assert not (out / "TS_0000.json").exists() or (out / "TS_0000.csv").exists()
    assert pick(good).code == 0
    assert {row["status"] for row in summary(out).values()} == {"done"}


def test_a_file_is_on_the_disk_before_it_has_its_name_and_so_is_its_name_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        happened.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "content")
        fsync(descriptor)

    def named(path: Path, target: Path) -> Path:
        happened.append("name")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", named)
    with whole_file(tmp_path / "a.csv") as temporary:
        temporary.write_text("x,y,z\n")
    assert happened == ["content", "name", "folder"]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        (signal.SIGUSR1, 143),
        (signal.SIGUSR2, 143),
        (signal.SIGINT, 130),
    ],
)
def test_a_signal_ends_picking_and_the_same_command_goes_on(
    pick: Command,
    good: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    code: int,
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    # A shell that runs the tests in the background has its children ignore Ctrl-C.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    calls = 0
    score = inference.score

    def stopped(*arguments: object, **settings: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            os.kill(os.getpid(), number)
        return score(*arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(inference, "score", stopped)
        done = pick(good)
    signal.signal(signal.SIGINT, handler)
    assert done.code == code
    assert "Stopped. 2 tomograms: 1 done, 1 left; the same command goes on" in done.stderr
    assert signal.getsignal(signal.SIGTERM) == before
    out = tmp_path / "picks"
    assert [row["status"] for row in summary(out).values()] == ["done", "left"]
    assert list(out.rglob(".*")) == []
    again = pick(good)
    assert again.code == 0
    assert "1 of 2 tomograms are done already" in again.stderr


def test_json_is_a_line_for_each_tomogram_and_quiet_says_nothing(
    pick: Command, tomograms: Path, tmp_path: Path
) -> None:
    done = pick(tomograms, "--json", "--quiet")
    assert done.code == 2
    assert len(done.errors) == 1, "the error alone"
    lines = {line["tomogram"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert len(lines) == 3
    (failed,) = [line for line in lines.values() if line["status"] == "failed"]
    assert failed["tomogram"].endswith("_truncated")
    assert failed["reason"] in done.errors[0]
    first = lines["TS_0000"]
    assert (first["status"], first["already"], first["picks"]) == ("done", False, 5)
    assert first["csv"] == str(tmp_path / "picks" / "TS_0000.csv")
    again = pick(*whole(tomograms), "--json")
    assert [json.loads(line)["already"] for line in again.stdout.splitlines()] == [True, True]


def test_what_killed_processes_left_half_is_removed_and_what_others_write_is_not(
    tmp_path: Path,
) -> None:
    script = (
        "import os, sys; from pathlib import Path; from tomopicker.io.whole import whole_file\n"
        "with whole_file(Path(sys.argv[1]) / 'a.csv') as path:\n"
        "    path.write_text('half'); os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    elsewhere = tmp_path / ".1-anotherhost-01234567.b.csv"
    elsewhere.touch()
    with whole_file(tmp_path / "c.csv") as mine:
        mine.touch()
        assert remove_leftovers(tmp_path) == 1
        assert set(tmp_path.iterdir()) == {elsewhere, mine}
        # Nor does a list of the folder name what is being written.
        (tmp_path / ".1-anotherhost-01234567.d.star").touch()
        assert "anotherhost" not in write_import_list(tmp_path).read_text()
    assert (tmp_path / "c.csv").is_file()


def test_killed_and_overlapping_processes_leave_what_a_quiet_one_does(
    tomopicker: Command, trained: Path, simulated: Path, tmp_path: Path
) -> None:
    listed = make_tomograms(tmp_path / "data", simulated / "sim_0002.mrc", 8, broken=1)
    pick = ("pick", trained, listed, "--count", 9, "--device", "cpu", "--out")
    assert tomopicker(*pick, tmp_path / "quiet", dpi=None).code == 2
    out = tmp_path / "killed"
    parts = [(*pick, out, "--shard", "1/2"), (*pick, out)]
    rng = np.random.default_rng(1)
    killed = pick_and_kill(parts, out, kills=3, good=7, rng=rng, longest=0.3)
    assert killed.kills >= 3
    assert tomopicker(*pick, out, dpi=None).code == 2
    assert contents(out) == contents(tmp_path / "quiet")
    assert [row["status"] for row in summary(out).values()].count("done") == 7
