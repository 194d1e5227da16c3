"""TomoPicker: find every copy of a particle in cryo-electron tomograms from about 100 clicks.

The public names, in pipeline order; each is imported when it is first used, so that
``import tomopicker`` costs nothing. Functions that are called as a module is stay where they are:
``evaluate.evaluate``, ``simulate.simulate``, ``held_out.calibrate``.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Tomogram": "types",
    "Particles": "types",
    "InputError": "errors",
    "preset": "config",
    "read_tomogram": "io.tomograms",
    "write_volume": "io.tomograms",
    "read_particles": "io.particles",
    "write_particles": "io.particles",
    "prepare": "task",
    "fit": "training",
    "read_checkpoint": "checkpoint",
    "write_checkpoint": "checkpoint",
    "features_of": "inference",
    "network_of": "inference",
    "score": "inference",
    "pick": "picks",
    "Cut": "picks",
    "find_peaks": "peaks",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
