"""Checkpoint: the weights and everything needed to use them again, as one safetensors file.

The description is JSON in the file's header, validated when it is read; nothing is unpickled.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from tomopicker import __version__
from tomopicker.calibrate import Calibration
from tomopicker.config import Config
from tomopicker.contrasts import Contrasts
from tomopicker.errors import InputError
from tomopicker.io.whole import whole_file
from tomopicker.template import Template, grid, side

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT = 1
"""Version of the file's layout; a newer one is refused."""

_KEY = "tomopicker"
_NETWORK, _TRAINING, _TEMPLATE, _WEDGES = "network.", "training.", "template", "wedges"

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class Described(BaseModel):
    """A part of the description: frozen, and an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Priors(Described):
    """Equations 2, 4 and 8 as they were used."""

    observed: Share
    expected: Share
    unlabelled: Share


class Description(Described):
    """What a checkpoint says of itself."""

    format: Annotated[int, Field(ge=1, le=FORMAT)] = FORMAT
    tomopicker: str = __version__
    torch: str = str(torch.__version__)
    config: Config
    voxel_size: Positive
    """Ångström, that the training tomograms have or were brought to."""
    radius_voxels: Annotated[int, Field(gt=0)]
    """Of the particle, in voxels of that size."""
    priors: Priors
    filter_profile: tuple[Finite, ...] | None = None
    """Of the radial matched filter; None without that channel."""
    aligned: Annotated[int, Field(ge=0)] = 0
    """Particles that the template is the average of."""
    template_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Of the template's contrast in the scores of peaks."""
    contrasts: Contrasts | None = None
    """What contrasts are like where particles are labelled; None where they tell no number."""
    calibration: Calibration | None = None
    training_tomograms: tuple[str, ...]
    validation_tomogram: str | None = None
    picks_sha256: str
    """Of the training picks, so that a resumed run trains on the same ones."""
    epoch: Annotated[int, Field(ge=0)]
    """Epochs done."""
    history: tuple[dict[str, float | None], ...] = ()
    """One row of measures for each epoch done."""

    @model_validator(mode="after")
    def _lengths_agree(self) -> Description:
        # A damaged or hostile header must not decide how much memory is asked for.
        if 2 * self.radius_voxels > self.config.sampling.side:
            raise ValueError(f"a radius of {self.radius_voxels} voxels is larger than the window")
        if self.filter_profile and len(self.filter_profile) > 2 * self.radius_voxels + 2:
            raise ValueError(f"{len(self.filter_profile)} voxels of filter are beyond the particle")
        if (self.filter_profile is None) == self.config.network.filter_channel:
            raise ValueError("the network has a filter's channel and no filter, or the opposite")
        if self.filter_profile is not None and len(set(self.filter_profile)) < 2:
            raise ValueError("the filter has the same density everywhere, which matches nothing")
        return self


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A trained network with its description, and the state to train on where there is one."""

    description: Description
    weights: dict[str, Tensor]
    training: dict[str, Tensor] = field(default_factory=dict)
    template: Template | None = None
    """The average of aligned particles, where there is one."""

    def load_into(self, network: nn.Module) -> None:
        """Give the weights to a network built from the same settings.

        Raises
        ------
        InputError
            When names or shapes of the weights are not the network's.
        """
        load_weights(network, self.weights)


def load_weights(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load weights whose names and shapes must be exactly the network's."""
    check_weights(network, weights)
    network.load_state_dict(weights)


def check_weights(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Refuse weights whose names or shapes are not the network's, which may be on no device.

    Raises
    ------
    InputError
        Naming the first that differs.
    """
    needed = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    stored = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in (*needed, *stored):
        if needed.get(name) != stored.get(name):
            raise InputError(
                f"the checkpoint's weights do not fit its network ({name} is "
                f"{stored.get(name, 'missing')}, not {needed.get(name, 'expected')}): train again"
            )


def write_checkpoint(path: Path | str, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; the file appears whole or not at all and replaces an older one."""
    tensors = {_NETWORK + name: tensor for name, tensor in checkpoint.weights.items()}
    tensors |= {_TRAINING + name: tensor for name, tensor in checkpoint.training.items()}
    if checkpoint.template is not None:
        tensors[_TEMPLATE] = torch.from_numpy(checkpoint.template.volume)
        if checkpoint.template.wedges is not None:
            tensors[_WEDGES] = torch.from_numpy(checkpoint.template.wedges)
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # Not by the library's own writing to a file, which would be for its owner alone to read.
    content = save(contiguous, {_KEY: checkpoint.description.model_dump_json()})
    with whole_file(Path(path), overwrite=True) as temporary:
        temporary.write_bytes(content)


def read_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint file, or the best checkpoint of a run folder.

    Raises
    ------
    InputError
        When there is none, or when it is truncated, not ours, from a newer version, or describes
        itself with values out of range.
    """
    file = checkpoint_file(Path(path))
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            if _KEY not in metadata:
                raise InputError(f"{file}: a safetensors file, but not a TomoPicker checkpoint")
            description = _describe(file, metadata[_KEY])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{file}: cannot be read as a checkpoint ({error}): it is truncated or not one of ours;"
            " copy it again, or train again"
        ) from error
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"{file}: {name} holds numbers that are not finite: train again")
    return Checkpoint(
        description=description,
        weights=_under(_NETWORK, tensors),
        training=_under(_TRAINING, tensors),
        template=_template(file, tensors, description.radius_voxels),
    )


def checkpoint_file(path: Path) -> Path:
    """Find the checkpoint file that is meant: of a run folder the best.

    Raises
    ------
    InputError
        When there is none.
    """
    if path.is_dir():
        for name in ("best.safetensors", "last.safetensors"):
            if (path / name).is_file():
                return path / name
        raise InputError(f"{path}: holds no checkpoint; is it the --out folder of a training run?")
    if not path.is_file():
        raise InputError(f"{path}: no such run folder or checkpoint; `tomopicker train` makes one")
    return path


def _describe(file: Path, text: str) -> Description:
    try:
        stated: Any = json.loads(text)
        stated_format = stated.get("format") if isinstance(stated, dict) else None
        if isinstance(stated_format, int) and stated_format > FORMAT:
            raise InputError(
                f"{file}: format {stated_format} is newer than this TomoPicker reads ({FORMAT}): "
                "install a newer TomoPicker"
            )
        return Description.model_validate_json(text)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        first = str(error).replace("\n", " ")[:200]
        raise InputError(
            f"{file}: its description is not valid ({first}): copy it again, or train again"
        ) from error


def _template(file: Path, tensors: dict[str, Tensor], radius: float) -> Template | None:
    volume, wedges = tensors.get(_TEMPLATE), tensors.get(_WEDGES)
    if volume is None:
        return None
    wanted: dict[str, tuple[Tensor, tuple[int, ...]]] = {"template": (volume, (side(radius),) * 3)}
    if wedges is not None:
        size = grid(radius)
        wanted["wedges"] = (wedges, (*wedges.shape[:1], size, size, size // 2 + 1))
    for name, (tensor, shape) in wanted.items():
        if tensor.shape != shape or tensor.dtype != torch.float32:
            raise InputError(
                f"{file}: its {name} has {tuple(tensor.shape)} voxels of {tensor.dtype}, not "
                f"{shape} of torch.float32: copy it again, or train again"
            )
    return Template(volume=volume.numpy(), wedges=None if wedges is None else wedges.numpy())


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
