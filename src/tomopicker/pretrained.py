"""Pretrained: the weights that `default` starts from, learned on simulations of many particles."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from safetensors.torch import load

from tomopicker.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from tomopicker.config import Network

_FILE = "space_to_depth.safetensors"
_FITS = {
    "architecture": "space-to-depth",
    "block": "plain",
    "channels": (24, 48, 96),
    "filter_channel": True,
}


def pretrained_weights(settings: Network) -> dict[str, Tensor]:
    """Read the weights that the package ships; `weights/README.md` says what they have seen.

    Returns
    -------
    dict
        Tensors by name, float32, for a network built from the same settings.

    Raises
    ------
    InputError
        When the network is not the one that they were learned with.
    """
    differs = [name for name, value in _FITS.items() if getattr(settings, name) != value]
    if differs:
        raise InputError(
            f"network.{differs[0]}: the shipped weights are of another network; with this one "
            "start from random weights: --set training.start=random"
        )
    stored = load((files("tomopicker") / "weights" / _FILE).read_bytes())
    # Stored in half precision, which is far finer than what training them left to chance.
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in stored.items()
    }
