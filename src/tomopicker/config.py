"""Every setting, one frozen and validated model per stage: the only place where a default lives.

``preset("paper")`` is the paper, section 3; ``preset("default")`` is the best we can do from the
same clicks. The two differ only in the settings named here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tomopicker.errors import InputError

PresetName: TypeAlias = Literal["default", "paper"]
ObjectiveName: TypeAlias = Literal["pn", "pu", "kl", "balanced-pu"]

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Channels = Annotated[
    tuple[Annotated[int, Field(gt=0, le=4096)], ...], Field(min_length=1, max_length=8)
]


class Stage(BaseModel):
    """The settings of one stage: frozen, and an unknown name is an error."""

    # The texts below the fields are their descriptions in docs/settings.md. A checkpoint's JSON
    # cannot hold numbers that are not finite.
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class Preprocessing(Stage):
    """Paper 3.1."""

    clip_sigma: Positive = 3.0
    """Standard deviations beyond which values are clipped."""
    working_radius: Positive | None = None
    """Particle radius in voxels that larger ones are brought to; None keeps the tomogram's own."""


class Labels(Stage):
    """Paper 3.1."""

    core: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Radius of the ball of positive voxels, in particle radii."""

    def core_radius(self, radius: float) -> float:
        """Radius of that ball in voxels, at least 1, for a particle of the given radius."""
        return max(self.core * radius, 1.0)


class Network(Stage):
    """Paper 3.3; `space-to-depth` is ours."""

    architecture: Literal["unet", "space-to-depth"] = "unet"
    """`space-to-depth` is a U-Net at half resolution, with about a tenth of the operations."""
    block: Literal["residual", "plain", "multires"] = "residual"
    """The paper's ResUNet block, its UNet block, or that of MultiResUNet, which it cites."""
    channels: Channels = (32, 64, 128, 256)
    """Of each level; every level after the first halves the resolution."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the channels that training sets to zero before the last convolution."""
    filter_channel: bool = False
    """Give the network the radial matched filter's correlation as a second input channel."""

    @property
    def stride(self) -> int:
        """Voxels by which an input side must be divisible."""
        halvings = len(self.channels) - 1 + int(self.architecture == "space-to-depth")
        return 1 << halvings


class Objective(Stage):
    """Paper 3.2: equations 1, 5 and 6 with the scale of section 3.3."""

    name: ObjectiveName = "kl"
    """Equation 1, 5 or 6, or equation 5 with both classes weighed alike, which is ours."""
    gamma: Positive = 10.0
    """c of gamma = c |P| / N, the weight of the labelled voxels (unused by balanced-pu)."""
    kl_weight: Positive = 10.0
    """Lambda of equation 6."""
    kl_direction: Literal["prior-to-mean", "mean-to-prior"] = "prior-to-mean"
    """KL(prior || mean), as the authors computed it, or KL(mean || prior), as equation 6 prints."""
    rejected: NotNegative = 0.25
    """Weight of the mean loss over places that a person rejected (`--negatives`), where there are
    any."""


class Sampling(Stage):
    """How training windows are drawn: `windows` is the paper's grid, `crops` are ours."""

    method: Literal["windows", "crops"] = "windows"
    """All windows of a grid, once an epoch; or crops, around labelled particles and anywhere."""
    side: Annotated[int, Field(gt=0, le=1024)] = 32
    """Of a window, in voxels: a multiple of the network's stride, at least the diameter; without a
    working radius `default` takes about four particle radii."""
    stride: Annotated[int, Field(gt=0)] = 32
    """Step of the sliding window (`windows` only)."""
    steps_per_epoch: Annotated[int, Field(gt=0)] = 40
    """Batches in one epoch (`crops` only)."""
    centred: Fraction = 0.5
    """Share of a batch centred on labelled particles; the rest is uniform (`crops` only)."""
    augment: bool = False
    """Vary flips, spectrum, contrast and noise of the windows, as they vary between tomograms."""


class Training(Stage):
    """Paper 3.3 and 4.3."""

    epochs: Annotated[int, Field(gt=0)] = 20
    """Passes over all windows; an epoch of `crops` is `sampling.steps_per_epoch` batches. `default`
    takes twice as many where its first weights are random."""
    batch: Annotated[int, Field(gt=0)] = 8
    """Windows in one step."""
    start: Literal["random", "pretrained"] = "random"
    """First weights: random, or learned on simulations of many particles and shipped with it. With
    another network than its own `default` starts at random."""
    start_worth: NotNegative = 0.0
    """Clicks that pretrained first weights are worth: the weights kept after n clicks are a mean of
    the trained and the first ones, in the proportion of n to this."""
    learning_rate: Positive = 2e-3
    """Of Adam, in the first epoch."""
    schedule: Literal["plateau", "cosine"] = "plateau"
    """Lower the rate when validation stalls, or in every epoch along a cosine towards zero."""
    patience: Annotated[int, Field(gt=0)] = 5
    """Epochs without a better validation measure before the rate is multiplied by `factor`."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Of the rate, each time that validation has stalled (`plateau` only)."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the averaged weights that are validated and kept; 0 keeps the last step's."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the labelled particles kept for validation when no validation tomogram is given; at
    least 10, where as many are left to learn from."""
    keep: Literal["best", "last"] = "best"
    """The epoch that picking uses: the one with the best validation measure, or the last."""
    precision: Literal["single", "mixed"] = "single"
    """`mixed` computes the network's layers in bfloat16 on GPUs that have it; weights, objective
    and everything on a CPU stay in single precision."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of all randomness: first weights, held-out particles, windows, augmentation, dropout."""


class Inference(Stage):
    """Paper 3.4: `windows` are the paper's; `whole` is the same network without window faces."""

    method: Literal["windows", "whole"] = "windows"
    """Non-overlapping windows of the training size, or the volume in tiles with a halo."""
    tile: Annotated[int, Field(gt=0)] | None = None
    """Side along y and x of a tile's core in voxels (`whole` only), on which the scores do not
    depend; None takes the largest that the memory allows."""
    memory: Annotated[float, Field(gt=0)] | None = None
    """GB that the network may take (`whole` only); None takes half of what a GPU has free; else a
    quarter of what is free, at most 0.5, or more where tiles would else mostly be halo."""
    flips: bool = False
    """Average the scores over the wedge-legal flips."""
    filter_weight: NotNegative = 0.0
    """Of the matched filter's correlation, in its standard deviations, in the scores: they are the
    network's logits and this many times the correlation, where the network has its channel."""
    template_weight: NotNegative = 0.0
    """The most that shape may weigh in a peak's score: how much better the average of the aligned
    particles fits there than decoys do, a difference of correlations (`default` only). How much
    it does weigh is learned from all peaks, and these move to where the average fits. It takes
    eight particles to learn from, beside those that are held out. 0 aligns nothing, which trains
    and picks faster."""


class Peaks(Stage):
    """Paper 3.4."""

    exclusion: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Least distance between two picks, in particle radii."""
    smoothing: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Gaussian sigma, in particle radii, that the scores are smoothed with before picking."""
    margin: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Least distance of a peak from the volume's faces, in particle radii: faces cut them."""
    subvoxel: bool = False
    """Move each pick to the centre of its peak."""

    def spacing(self, radius: float) -> float:
        """Least distance between two picks, in the unit of the particle's radius."""
        return self.exclusion * radius


class Config(Stage):
    """All the settings of a run."""

    preset: PresetName
    """Where the other settings come from."""
    radius_angstrom: Positive
    """Of the particle."""
    expected: Annotated[int, Field(gt=0)] | None = None
    """Expected number of particles per training tomogram, Ep; None lets `default` estimate it."""
    preprocessing: Preprocessing = Preprocessing()
    labels: Labels = Labels()
    network: Network = Network()
    objective: Objective = Objective()
    sampling: Sampling = Sampling()
    training: Training = Training()
    inference: Inference = Inference()
    peaks: Peaks = Peaks()

    def working_voxel_size(self, voxel_size: float) -> float:
        """Edge in ångström of the voxels that a tomogram of the given ones is analysed at.

        >>> settings = preset("default", radius_angstrom=120, voxel_size=10)
        >>> settings.working_voxel_size(10), settings.working_voxel_size(20)
        (15.0, 20)
        """
        if self.preprocessing.working_radius is None:
            return voxel_size
        return max(voxel_size, self.radius_angstrom / self.preprocessing.working_radius)

    @model_validator(mode="after")
    def _window_fits_network(self) -> Config:
        side, stride = self.sampling.side, self.network.stride
        if side % stride:
            nearest = max(stride, round(side / stride) * stride)
            raise ValueError(f"window must be a multiple of {stride}, got {side}; try {nearest}")
        if self.sampling.method == "windows" and self.sampling.stride > side:
            raise ValueError(
                f"stride must be at most the window, {side}, or voxels would be lost: give "
                f"sampling.stride={side}"
            )
        return self


def preset(
    name: PresetName,
    *,
    radius_angstrom: float,
    voxel_size: float,
    expected: int | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Config:
    """Settings of a preset for a particle of a given radius.

    Parameters
    ----------
    radius_angstrom, voxel_size
        In ångström.
    expected
        Number of particles per training tomogram.
    overrides
        Settings by their dotted name, such as ``{"training.epochs": 5}``.

    Raises
    ------
    InputError
        When a name is unknown or a value out of range.

    >>> preset("paper", radius_angstrom=160, voxel_size=13.5).network.channels
    (32, 64, 128, 256)
    """
    stages: dict[str, dict[str, Any]] = {}
    if name == "default":
        stages = {stage: dict(values) for stage, values in _DEFAULT.items()}
    # The fields that are no stage (preset, radius, expected) have options of their own.
    known = {
        stage: list(type(kind.default).model_fields)
        for stage, kind in Config.model_fields.items()
        if isinstance(kind.default, Stage)
    }
    for dotted, value in (overrides or {}).items():
        stage, _, setting = dotted.partition(".")
        if stage not in known or not setting:
            raise InputError(
                f"{dotted}: no such setting; it is <stage>.<name>, stages: {', '.join(known)}"
            )
        if setting not in known[stage]:
            raise InputError(
                f"{dotted}: no such setting; those of {stage} are {', '.join(known[stage])}"
            )
        stages.setdefault(stage, {})[setting] = value
    if name == "default":
        radius = radius_angstrom / voxel_size
        working = stages["preprocessing"]["working_radius"]
        # Any other value is refused below.
        if isinstance(working, int | float) and working > 0:
            radius = min(radius, working)
        stages["sampling"].setdefault("side", _crop_side(radius))
    try:
        config = Config.model_validate(
            {"preset": name, "radius_angstrom": radius_angstrom, "expected": expected, **stages}
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{where or 'settings'}: {first['msg'].removeprefix('Value error, ')}"
        ) from error
    if name == "paper" and config.inference.template_weight:
        raise InputError(
            "inference.template_weight: preset paper aligns no particles; leave it out, or train "
            "with --preset default"
        )
    if name == "default":
        given = overrides or {}
        update: dict[str, Any] = {}
        # The shipped weights are of one network, and of any dropout, which has no weights.
        shipped = Network.model_validate(_DEFAULT["network"] | {"dropout": config.network.dropout})
        if "training.start" not in given and config.network != shipped:
            update["start"] = "random"
        start = update.get("start", config.training.start)
        if "training.epochs" not in given and start == "random":
            update["epochs"] = _EPOCHS_FROM_RANDOM
        config = config.model_copy(update={"training": config.training.model_copy(update=update)})
    return config


_EPOCHS_FROM_RANDOM = 20
"""Of `default`, where nothing is learned beforehand."""

_DEFAULT: dict[str, dict[str, Any]] = {
    "preprocessing": {"working_radius": 8.0},
    "labels": {"core": 0.5},
    "network": {
        "architecture": "space-to-depth",
        "block": "plain",
        "channels": (24, 48, 96),
        "filter_channel": True,
    },
    "objective": {"name": "balanced-pu"},
    "sampling": {"method": "crops", "steps_per_epoch": 20, "augment": True},
    "training": {
        "start": "pretrained",
        "start_worth": 20.0,
        "epochs": 10,
        "batch": 6,
        "schedule": "cosine",
        "ema": 0.98,
        "keep": "last",
    },
    "inference": {"method": "whole", "filter_weight": 1.0, "template_weight": 150.0},
    "peaks": {"exclusion": 0.8, "smoothing": 0.1, "margin": 0.5, "subvoxel": True},
}


def _crop_side(radius: float) -> int:
    """Four particle radii, which shows the particle and its neighbours; a multiple of 8 voxels."""
    return min(max(round(4 * radius / 8) * 8, 32), 96)
