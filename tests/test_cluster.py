"""What is asked of SLURM and how its answers are read; `tests/slurm` has a real one do the jobs."""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from conftest import SHORT, Outcome, start_process
from tomopicker.cluster import Profile, Submitted, Work, read_profile, submit
from tomopicker.errors import InputError
from tomopicker.signals import handling, held

Command = Callable[..., Outcome]

WHOLE = """\
partition = "gpu"
account = "em"
qos = "long"
constraint = "a100|h100"
gpus = 1
cpus = 4
memory = "32G"
time = "1-00:00:00"
warning = 120
jobs = 2
at_once = 1
requeue = 3
setup = ["module load cuda"]

[sbatch]
exclude = "node7"
nice = 100
exclusive = true
contiguous = false
"""


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """A profile."""
    path = tmp_path / "cluster.toml"
    path.write_text(WHOLE)
    return path


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which programs that are called as SLURM's note what they are told.

    `script` is what sbatch got, `said` what the others were told; `states` is squeue's answer.
    """
    folder = tmp_path / "programs"
    folder.mkdir()
    note = f'echo "$(basename $0) $@" >> {folder}/said\n'
    programs = {
        "sbatch": f'cp "$1" {folder}/script && echo "Submitted batch job 42"\n',
        "squeue": f"{note}test -e {folder}/states || exit 1\ncat {folder}/states\n"
        f"test ! -e {folder}/errors || {{ cat {folder}/errors >&2; exit 1; }}\n",
        "scancel": note,
        "scontrol": note,
        "srun": "true\n",
    }
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    (folder / "states").touch()
    return folder


def flags(script: Path) -> dict[str, str]:
    """Options in a batch script."""
    lines = re.findall(r"#SBATCH --([a-z-]+)=?(.*)", script.read_text())
    return {name: shlex.split(value)[0] if value else "" for name, value in lines}


def test_a_batch_script_asks_for_what_the_profile_says(
    tomopicker: Command, trained: Path, simulated: Path, asked: Path, slurm: Path, tmp_path: Path
) -> None:
    out = tmp_path / "picks"
    command = ("pick", trained, simulated, "--count", 3, "--out", out)
    done = tomopicker(*command, f"--slurm={asked}", "--detach", "--json")
    assert done.code == 0, done.stderr
    assert "Submitted 42, an array of 2 jobs" in done.stderr
    stated = flags(slurm / "script")
    expected = {
        "partition": "gpu",
        "account": "em",
        "qos": "long",
        "constraint": "a100|h100",
        "gpus-per-node": "1",
        "cpus-per-task": "4",
        "mem": "32G",
        "time": "1440",
        "array": "0-1%1",
        "signal": "USR2@120",
        "requeue": "",
        "open-mode": "append",
        "exclude": "node7",
        "nice": "100",
        "exclusive": "",
    }
    assert expected.items() <= stated.items()
    assert not {"contiguous", "wckey"} & stated.keys()
    text = (slurm / "script").read_text()
    assert "\nmodule load cuda\n" in text
    assert "--cpus-per-task=4" in text.splitlines()[-1]
    submitted = Submitted.read(out)
    assert submitted is not None
    words = [*map(str, command), "--json"]
    assert submitted == Submitted(job="42", name="tomopicker-pick", jobs=2, arguments=tuple(words))
    assert not (out / "slurm").stat().st_mode & 0o022


def test_parts_of_which_all_is_done_get_no_job(
    tomopicker: Command, trained: Path, simulated: Path, asked: Path, slurm: Path, tmp_path: Path
) -> None:
    pick = ("pick", trained, simulated, "--count", 3, "--out", tmp_path / "picks")
    assert tomopicker(*pick, "--shard", "1/2").code == 0
    done = tomopicker(*pick, "--slurm", asked)
    assert "Submitted 42, a job" in done.stderr
    assert done.code == 2
    assert "1 of 2 tomograms are left, but no job is" in done.errors[-1]
    assert str(tmp_path / "picks" / "slurm" / "42_*log*") in done.errors[-1]
    assert tomopicker(*pick).code == 0
    (slurm / "script").unlink()
    nothing = tomopicker(*pick, "--slurm", asked)
    assert nothing.code == 0
    assert "2 tomograms: 2 done" in nothing.stderr
    assert not (slurm / "script").exists()


def test_the_same_command_watches_jobs_at_work_and_another_is_refused(
    tomopicker: Command, trained: Path, simulated: Path, asked: Path, slurm: Path, tmp_path: Path
) -> None:
    pick = ("pick", trained, simulated, "--slurm", asked, "--out", tmp_path / "picks", "--count")
    assert tomopicker(*pick, 3, "--detach").code == 0
    (slurm / "script").unlink()
    (slurm / "states").write_text("RUNNING|None\nPENDING|Resources\n")
    assert "Job 42 is at work already" in tomopicker(*pick, 3, "--detach").stderr
    other = tomopicker(*pick, 4)
    assert other.code == 2
    assert "job 42 is still at work for it, with another command; wait" in other.errors[-1]
    assert "scancel 42" in other.errors[-1]
    (slurm / "errors").write_text("slurm_load_jobs error: Unable to contact slurm controller\n")
    unknown = tomopicker(*pick, 4)
    assert "squeue does not tell whether it has ended" in unknown.errors[-1]
    assert not (slurm / "script").exists()


def test_training_is_one_job_that_leaves_a_pending_one_s_folder_alone(
    tomopicker: Command, simulated: Path, asked: Path, slurm: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train = (
        *("train", simulated / "sim_0001.mrc", "--picks", simulated / "sim_0001.csv", *SHORT),
        *("--radius", "60A", "--out", run),
    )
    done = tomopicker(*train, "--slurm", asked, "--detach")
    assert done.code == 0, done.stderr
    assert "Submitted 42, a job" in done.stderr
    assert "array" not in flags(slurm / "script")
    # As in the job: its logs are there before the run is.
    assert [path.name for path in run.iterdir()] == ["slurm"]
    ended = tomopicker(*train, "--slurm", asked)
    assert ended.code == 2
    assert "the training was ended" in ended.errors[-1]
    assert tomopicker(*train).code == 0
    assert "--resume" in tomopicker(*train, "--slurm", asked).errors[-1]
    resumed = tomopicker(*train, "--resume", "--slurm", asked, "--detach")
    assert resumed.code == 0, resumed.stderr
    submitted = Submitted.read(run)
    assert submitted is not None
    # The job itself finds out whether there is something to resume.
    assert submitted.arguments == tuple(map(str, train))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("partitoin = 'gpu'", "partitoin: Extra inputs are not permitted; known are partition"),
        ('partition = "gpu\\nrm x"', "partition: Value error, is empty, or has more than one line"),
        ("setup = ['a', '']", "setup.1: Value error, is empty"),
        ("gpus = -1", "gpus: Input should be greater than or equal to 0"),
        ("jobs = 0", "jobs: Input should be greater than or equal to 1"),
        ("time = '4h'", "time: Value error, is not hours:minutes:seconds, as 4:00:00"),
        ("sbatch = {output = 'x'}", "sbatch: Value error, output is for TomoPicker to set"),
        ("sbatch = {'nice x' = 1}", "sbatch: Value error, nice x is no long option of sbatch"),
        ("sbatch = {comment = '''a\nb'''}", "Value error, is empty, or has more than one line"),
        ("= 3", "is not TOML"),
        ("a = '\udcff'", "is not TOML"),
    ],
)
def test_a_profile_that_cannot_be_is_refused(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "cluster.toml"
    path.write_bytes(line.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: ") as refused:
        read_profile(path)
    assert message in str(refused.value)
    assert "docs/cluster.md" in str(refused.value)


def test_an_empty_profile_asks_for_little(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.touch()
    assert read_profile(path) == Profile()
    assert Profile().options() == {"requeue": True}
    with pytest.raises(InputError, match="cannot be read"):
        read_profile(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--detach",), "--detach: is for the jobs of --slurm"),
        (("--slurm", "{profile}", "--shard", "1/2"), "--shard: --slurm parts the tomograms"),
        (("--slurm", "{profile}", "--report"), "--report: the page is of all tomograms"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    tomopicker: Command, asked: Path, slurm: Path, options: tuple[str, ...], message: str
) -> None:
    words = [word.format(profile=asked) for word in options]
    done = tomopicker("pick", "run", "a.mrc", "--out", "picks", *words)
    assert done.code == 2
    assert message in done.errors[-1]


def test_where_there_is_no_slurm_that_is_said(
    tomopicker: Command, asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = tomopicker("pick", "run", "a.mrc", "--out", tmp_path / "picks", "--slurm", asked)
    assert done.code == 2
    assert "there is no SLURM on this machine (no sbatch)" in done.errors[-1]


def test_what_sbatch_refuses_is_told(
    tomopicker: Command, trained: Path, simulated: Path, asked: Path, slurm: Path, tmp_path: Path
) -> None:
    (slurm / "sbatch").write_text("#!/bin/sh\necho 'invalid partition: gpu' >&2; exit 1\n")
    done = tomopicker("pick", trained, simulated, "--out", tmp_path / "picks", "--slurm", asked)
    assert done.code == 2
    assert "sbatch: invalid partition: gpu; mend the profile" in done.errors[-1]
    assert Submitted.read(tmp_path / "picks") is None


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP"])
def test_signals_wait_until_the_jobs_that_are_being_submitted_are_noted(
    trained: Path,
    simulated: Path,
    asked: Path,
    slurm: Path,
    tmp_path: Path,
    environment: dict[str, str],
    name: str,
) -> None:
    submit = f"sleep 0.2; echo Submitted batch job 42; touch {slurm}/submitted"
    (slurm / "sbatch").write_text(f"#!/bin/sh\nkill -{name} $PPID\n{submit}\n")
    out = tmp_path / "picks"
    words = ("pick", trained, simulated, "--out", out, "--slurm", asked)
    command = [sys.executable, "-m", "tomopicker", *words]
    with start_process(command, environment | {"PATH": os.environ["PATH"]}) as process:
        _, errors = process.communicate()
    assert process.returncode == {"INT": 130, "TERM": 143, "HUP": -signal.SIGHUP}[name]
    assert (slurm / "submitted").exists()
    submitted = Submitted.read(out)
    assert submitted is not None
    assert submitted.job == "42"
    said = (slurm / "said").read_text() if (slurm / "said").exists() else ""
    assert ("scancel 42" in said) == (name == "INT")
    assert ("Cancelled job 42" in errors) == (name == "INT")


def test_a_signal_that_another_thread_is_given_waits_too() -> None:
    came: list[int] = []
    with (
        ThreadPoolExecutor(1) as other,
        handling(lambda number, _: came.append(number), signal.SIGUSR1),
    ):
        thread = other.submit(threading.get_ident).result()
        with held(signal.SIGUSR1):
            signal.pthread_kill(thread, signal.SIGUSR1)
            other.submit(time.sleep, 0.05).result()
            assert not came
        assert came == [signal.SIGUSR1]


def test_states_are_counted_until_all_jobs_have_ended(slurm: Path) -> None:
    jobs = Submitted(job="42", name="tomopicker-pick", jobs=5, arguments=())
    (slurm / "states").write_text(
        "RUNNING|None\nPENDING|Resources\nPENDING|None\nCOMPLETED|None\nTIMEOUT|TimeLimit\n"
    )
    assert jobs.states() == {"running": 1, "pending (Resources)": 1, "pending": 1}
    (slurm / "states").write_text("NODE_FAIL|NodeDown\nCANCELLED|None\n")
    assert jobs.states() == {}
    # Some minutes later SLURM has forgotten them, or it may be restarting.
    (slurm / "errors").write_text("slurm_load_jobs error: Invalid job id specified\n")
    assert jobs.states() == {}
    (slurm / "errors").write_text("slurm_load_jobs error: Unable to contact slurm controller\n")
    assert jobs.states() is None
    jobs.cancel()
    assert (slurm / "said").read_text().splitlines()[-1] == "scancel 42"
    (slurm / "scancel").write_text("#!/bin/sh\necho 'access denied' >&2; exit 1\n")
    with pytest.raises(InputError, match="access denied; the jobs may still run"):
        jobs.cancel()


def test_a_damaged_note_of_jobs_is_refused(tmp_path: Path) -> None:
    assert Submitted.read(tmp_path) is None
    note = tmp_path / "slurm" / "jobs.json"
    note.parent.mkdir()
    note.write_text('{"job": "42; rm -r x", "name": "a", "jobs": 1, "arguments": []}')
    with pytest.raises(InputError, match=r"jobs\.json: is not what TomoPicker notes of jobs"):
        Submitted.read(tmp_path)


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have jobs run a script in the place of TomoPicker."""

    def instead(script: str) -> None:
        file = tmp_path / "python"
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(file))

    return instead


def test_a_job_resumes_what_was_begun_and_notes_how_it_ended(
    tmp_path: Path, python: Callable[[str], None]
) -> None:
    python(f'echo "$@" >> {tmp_path}/said; exit 2')
    work = Work(
        arguments=("train", "a b.mrc"),
        folder=tmp_path,
        begun=tmp_path / "config.json",
        ended=tmp_path / "exit-code",
    )
    with pytest.raises(SystemExit) as first:
        work()
    assert first.value.code == 2
    assert (tmp_path / "exit-code").read_text() == "2\n"
    (tmp_path / "config.json").touch()
    python(f'echo "$@" >> {tmp_path}/said')
    work()
    assert (tmp_path / "exit-code").read_text() == "0\n"
    said = (tmp_path / "said").read_text().splitlines()
    assert said == ["-m tomopicker train a b.mrc", "-m tomopicker train a b.mrc --resume"]


def test_how_a_command_that_was_told_to_stop_ended_is_not_noted_as_its_end(
    tmp_path: Path, python: Callable[[str], None]
) -> None:
    work = Work(arguments=("train",), folder=tmp_path, ended=tmp_path / "exit-code")
    for script, code in (("kill -TERM $$", 143), ("exit 130", 130), ("kill -USR1 $$", 138)):
        python(script)
        with pytest.raises(SystemExit) as end:
            work()
        assert end.value.code == code
        assert not (tmp_path / "exit-code").exists()
    python("kill -KILL $$")
    with pytest.raises(SystemExit):
        work()
    assert (tmp_path / "exit-code").read_text() == "137\n"


@pytest.fixture
def batch(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Run a batch script as SLURM does, with a command that ends so; what SLURM was told then."""
    submit(
        [Work(arguments=("pick",), folder=tmp_path)] * 2,
        Profile(setup=("set -eu", "true")),
        tmp_path,
        (),
        name="tomopicker-pick",
    )
    monkeypatch.setenv("SLURM_JOB_ID", "42")

    def run(code: int, states: str, **variables: str) -> list[str]:
        (slurm / "said").unlink(missing_ok=True)
        (slurm / "states").write_text(states)
        (slurm / "srun").write_text(f"#!/bin/sh\nexit {code}\n")
        (slurm / "sleep").write_text(f"#!/bin/sh\nrm -f {slurm}/errors\n")
        (slurm / "sleep").chmod(0o755)
        environment = {**os.environ, **variables}
        ended = subprocess.run(["bash", slurm / "script"], env=environment, check=False)
        assert ended.returncode == code
        return (slurm / "said").read_text().splitlines() if (slurm / "said").exists() else []

    return run


def test_a_job_that_is_warned_of_preemption_has_itself_requeued(
    batch: Callable[..., list[str]], slurm: Path
) -> None:
    asked = "squeue --noheader --jobs=42 --Format=State:20,RestartCnt:20"
    assert batch(143, "RUNNING 0") == [asked, "scontrol requeue 42"]
    assert batch(130, "SIGNALING  2", SLURM_RESTART_COUNT="2")[-1] == "scontrol requeue 42"
    # One task of an array has the array's id, and would have all of them requeued.
    array = {"SLURM_ARRAY_JOB_ID": "42", "SLURM_ARRAY_TASK_ID": "7"}
    assert batch(143, "RUNNING 0", **array)[-1] == "scontrol requeue 42_7"
    # SLURM may be restarting.
    (slurm / "errors").touch()
    assert batch(143, "RUNNING 0")[-3:] == [asked, asked, "scontrol requeue 42"]


def test_a_job_that_slurm_has_ended_or_that_ended_by_itself_is_not_requeued(
    batch: Callable[..., list[str]],
) -> None:
    # Cancelled by somebody, or requeued already.
    assert not [line for line in batch(143, "COMPLETING 0") if line.startswith("scontrol")]
    # Lost with its node, and started again on another.
    assert not [line for line in batch(143, "RUNNING 1") if line.startswith("scontrol")]
    assert [batch(code, "RUNNING 0") for code in (0, 1, 2, 137, 255)] == [[]] * 5


def test_variables_do_not_overrule_the_profile_nor_hide_jobs(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = {"SBATCH_TIMELIMIT": "1", "SBATCH_PARTITION": "x", "SBATCH_NO_REQUEUE": "1"}
    theirs = {"SBATCH_ACCOUNT": "em", "SLURM_CONF": "/etc/slurm.conf", "SLURM_CPU_BIND": "none"}
    for name, value in {**ours, **theirs, "SQUEUE_PARTITION": "x"}.items():
        monkeypatch.setenv(name, value)
    for program in ("sbatch", "squeue"):
        text = (slurm / program).read_text().replace("#!/bin/sh", f"#!/bin/sh\nenv > {slurm}/env")
        (slurm / program).write_text(text)

    def seen() -> set[str]:
        return {line.split("=")[0] for line in (slurm / "env").read_text().splitlines()}

    def submitted() -> Submitted:
        work = Work(arguments=(), folder=tmp_path)
        return submit([work], Profile(partition="gpu"), tmp_path, (), name="tomopicker-pick")

    submitted().states()
    assert "SQUEUE_PARTITION" not in seen()
    submitted()
    assert {*ours, *theirs} & seen() == {*theirs}
    assert set(os.environ) >= {*ours}
    # In a job of somebody's own, whose share of the node is not that of the new one.
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    submitted()
    assert {"SLURM_CPU_BIND", "SLURM_JOB_ID", "SLURM_CONF"} & seen() == {"SLURM_CONF"}


@pytest.mark.parametrize(("mask", "mode"), [(0o002, 0o755), (0o077, 0o700)])
def test_what_jobs_are_started_from_can_be_written_by_its_owner_alone(
    slurm: Path, tmp_path: Path, mask: int, mode: int
) -> None:
    before = os.umask(mask)
    try:
        submit(
            [Work(arguments=(), folder=tmp_path)], Profile(), tmp_path, (), name="tomopicker-pick"
        )
        # The jobs' results are as those of the same command without jobs.
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert f"export SLURM_UMASK={mask:04o}" in (slurm / "script").read_text()
    folder = tmp_path / "slurm"
    assert folder.stat().st_mode & 0o777 == mode
    (pickle,) = folder.glob("42_submitted.pkl")
    assert not pickle.stat().st_mode & 0o022
    assert not folder.joinpath("42_submission.sh").stat().st_mode & 0o022


def test_jobs_are_not_submitted_from_a_folder_of_somebody_else_or_with_a_path_slurm_changes(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(out: Path) -> str:
        with pytest.raises(InputError) as refused:
            submit(
                [Work(arguments=(), folder=tmp_path)], Profile(), out, (), name="tomopicker-pick"
            )
        assert not (slurm / "script").exists()
        return str(refused.value)

    for name in ("100%", "a\\b", "a\nb"):
        assert "means something else to SLURM; give another --out" in told(tmp_path / name)
        assert not (tmp_path / name).exists()
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert "is of another user, whose jobs these results are" in told(tmp_path / "out")


def test_before_its_time_is_over_a_job_waits_for_the_command_to_stop(
    tmp_path: Path, python: Callable[[str], None]
) -> None:
    python(
        f"trap 'sleep 0.3; touch {tmp_path}/clean; exit 143' USR2\n"
        f"touch {tmp_path}/begun\nwhile true; do sleep 0.05; done"
    )
    work = Work(arguments=("pick",), folder=tmp_path)

    def stop(*_: object) -> None:
        # As SLURM does, which tells all processes of a job.
        subprocess.run(["kill", "-USR2", str(work._process)], check=True)
        again = work.checkpoint()
        assert (tmp_path / "clean").exists()
        assert again.function.arguments == ("pick",)
        assert again.function._process is None
        raise SystemExit(99)

    def tell() -> None:
        while not (tmp_path / "begun").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, stop)
    thread = threading.Thread(target=tell)
    thread.start()
    try:
        with pytest.raises(SystemExit) as end:
            work()
    finally:
        thread.join()
        signal.signal(signal.SIGUSR2, before)
    assert end.value.code == 99
