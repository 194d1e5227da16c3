"""Nothing is imported before it is needed: PyTorch alone takes seconds."""

import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"
MODULES = {
    ".".join(file.relative_to(SOURCE).with_suffix("").parts)
    for file in (SOURCE / "tomopicker").rglob("*.py")
    if not file.name.startswith("__")
} - {"tomopicker.napari.widget"}  # which napari imports, that may not be here
COMPUTE_WITH_TORCH = {
    *("tomopicker.augment", "tomopicker.checkpoint", "tomopicker.inference", "tomopicker.memory"),
    *("tomopicker.network", "tomopicker.objectives", "tomopicker.parallel"),
    *("tomopicker.held_out", "tomopicker.picks", "tomopicker.pretrained"),
    *("tomopicker.template", "tomopicker.training"),
}


def imported(environment: dict[str, str], script: str, *arguments: str) -> set[str]:
    """Top-level packages that a process has imported when the script has run."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script + _TELL, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


HEAVY = {
    *("torch", "numpy", "scipy", "matplotlib", "pandas"),
    *("mrcfile", "starfile", "safetensors", "multiprocessing"),
}
COMMANDS = ("train", "pick", "inspect", "evaluate", "plot", "simulate", "demo", "benchmark")


def test_help_imports_nothing_heavy(environment: dict[str, str]) -> None:
    found = imported(environment, _EVERY_HELP, "", *COMMANDS)
    assert {"tomopicker", "typer"} <= found
    assert found & HEAVY == set()


def test_only_modules_that_compute_with_torch_import_it(environment: dict[str, str]) -> None:
    assert COMPUTE_WITH_TORCH <= MODULES
    assert "torch" in imported(environment, _IMPORT, "tomopicker.network")
    assert "torch" not in imported(environment, _IMPORT, *sorted(MODULES - COMPUTE_WITH_TORCH))


def test_picking_leaves_out_the_slow_parts_of_scipy(environment: dict[str, str]) -> None:
    script = _IMPORT + "assert 'scipy.stats' not in sys.modules\n"
    assert "scipy" in imported(environment, script, "tomopicker.picks")


def test_scoring_leaves_out_torchs_compiler(environment: dict[str, str]) -> None:
    """It would take longer than a small tomogram does."""
    script = (
        "import sys, numpy as np\n"
        "from tomopicker.config import preset\n"
        "from tomopicker.features import Features\n"
        "from tomopicker.inference import score\n"
        "from tomopicker.network import build\n"
        "from tomopicker.preprocess import Normalisation\n"
        "data = np.random.default_rng(0).normal(size=(8, 16, 16))\n"
        "features = Features(data=data, normalisation=Normalisation.of(data, source='x'))\n"
        "settings = {'network.filter_channel': False, 'network.channels': [2, 3]}\n"
        "config = preset('default', radius_angstrom=30, voxel_size=10.0, overrides=settings)\n"
        "assert np.isfinite(score(features, build(config.network), config)).all()\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    assert "torch" in imported(environment, script)


@pytest.mark.parametrize(
    "command",
    [
        ("inspect", "{data}/sim_0001.mrc", "--picks", "{data}/sim_0001.csv"),
        ("evaluate", "{data}/sim_0001.csv", "{data}/sim_0001.csv"),
        (
            *("plot", "{data}/sim_0001.mrc", "--picks", "{data}/sim_0001.csv"),
            *("--radius", "60A", "--out", "{out}/slice.png"),
        ),
        ("simulate", "--out", "{out}/more", "--shape", "32,48,48", "--particles", "1"),
    ],
    ids=lambda command: command[0],
)
def test_commands_that_need_no_network_import_no_torch(
    environment: dict[str, str], simulated: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    arguments = [word.format(data=simulated, out=tmp_path) for word in command]
    assert "torch" not in imported(environment, _COMMAND, *arguments)


_TELL = "\nprint(); print(*{name.partition('.')[0] for name in sys.modules})\n"

_IMPORT = (
    "import sys\nfrom importlib import import_module\n"
    "for name in sys.argv[1:]:\n    import_module(name)\n"
)

_EVERY_HELP = (
    "import sys\nfrom tomopicker.cli import main\n"
    "for command in sys.argv[1:]:\n"
    "    sys.argv = ['tomopicker', *command.split(), '--help']\n"
    "    try:\n        main()\n"
    "    except SystemExit as end:\n        assert not end.code\n"
)

_COMMAND = (
    "import sys\nfrom tomopicker.cli import main\nsys.argv = ['tomopicker', *sys.argv[1:]]\n"
    "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
)
