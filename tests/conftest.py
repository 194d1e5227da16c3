"""What the tests share."""

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine must not fail a property.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

SOURCE = Path(__file__).resolve().parents[1] / "src"

SHORT = (
    *("--epochs", "1", "--set", "sampling.steps_per_epoch=2"),
    *("--set", "network.channels=[4,8]", "--set", "sampling.side=16"),
    *("--set", "inference.template_weight=0"),
)
"""Settings of training that make it take a second."""

COARSE = 75
"""Pixels per inch of pictures: what commands draw takes three times as long."""


@pytest.fixture
def shared_data() -> Path:
    """Folder of real data, which is not part of the repository."""
    if not _DATA.is_dir():
        pytest.skip(f"the real data sets are not here ({_DATA})")
    return _DATA


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def errors(self) -> list[str]:
        """Lines of standard error."""
        return self.stderr.splitlines()


Command = Callable[..., Outcome]


@pytest.fixture(scope="session")
def tomopicker() -> Command:
    """Run the command line in this process, as typed; pictures are coarse but with dpi=None."""
    from tomopicker.cli import main
    from tomopicker.report import save_figure

    def run(*arguments: object, dpi: int | None = COARSE) -> Outcome:
        out, err, code = io.StringIO(), io.StringIO(), 0
        with pytest.MonkeyPatch.context() as patch:
            if dpi is not None:
                patch.setattr(save_figure, "__kwdefaults__", {"force": False, "dpi": dpi})
            patch.setattr(sys, "argv", ["tomopicker", *map(str, arguments)])
            patch.setattr(sys, "excepthook", sys.excepthook)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    main()
                except SystemExit as end:
                    code = end.code if isinstance(end.code, int) else int(end.code is not None)
        return Outcome(code=code, stdout=out.getvalue(), stderr=err.getvalue())

    return run


@pytest.fixture
def rough_alignment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Align particles and compare shapes as ever, but in few rounds and orientations."""
    monkeypatch.setattr("tomopicker.template._COARSE_ROUNDS", [(50, 0.3)])
    monkeypatch.setattr("tomopicker.template._FINE_ROUNDS", [])
    monkeypatch.setattr("tomopicker.template._ORIENTATIONS", 800)
    monkeypatch.setattr("tomopicker.template._DECOYS", 800)


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Environment of a real process that runs this source, on one thread."""
    return {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def start_process(
    command: Sequence[object], environment: Mapping[str, str], *, stdout: int | None = None
) -> subprocess.Popen[str]:
    """Start a command as a terminal does: in a group of its own, with the usual signals."""
    return subprocess.Popen(
        [*map(str, command)],
        env=environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell that runs the tests in the background, or nohup, has its children ignore these.
        preexec_fn=lambda: [
            signal.signal(each, signal.SIG_DFL) for each in (signal.SIGINT, signal.SIGHUP)
        ],
    )


@pytest.fixture(scope="session")
def simulated(tomopicker: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with two small tomograms, sim_0001 and sim_0002, of 24 particles each."""
    folder = tmp_path_factory.mktemp("simulated") / "data"
    done = tomopicker(
        *("simulate", "--out", folder, "--shape", "32,64,64", "--radius", "60A"),
        *("--particles", 24, "--tomograms", 2, "--seed", 1),
    )
    assert done.code == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def trained(tomopicker: Command, simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of preset default, trained for a second on sim_0001."""
    run = tmp_path_factory.mktemp("trained") / "run"
    done = tomopicker(
        *("train", simulated / "sim_0001.mrc", "--picks", simulated / "sim_0001.csv"),
        *("--radius", "60A", "--out", run, *SHORT),
    )
    assert done.code == 0, done.stderr
    return run
