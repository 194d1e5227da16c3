"""Training: one visible loop from labelled tomograms to checkpoints (paper 3.2, 3.3 and 4.3)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from tomopicker import parallel
from tomopicker.augment import augment
from tomopicker.checkpoint import Checkpoint, Description, Priors, load_weights
from tomopicker.errors import InputError
from tomopicker.labels import IGNORED, POSITIVE, UNLABELLED
from tomopicker.network import build
from tomopicker.objectives import objective
from tomopicker.pretrained import pretrained_weights
from tomopicker.task import Labelled, Task
from tomopicker.types import Window
from tomopicker.windows import cut, grid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from tomopicker.config import Sampling
    from tomopicker.config import Training as TrainingSettings
    from tomopicker.types import Floats

_VALIDATION_WINDOWS = 16
"""Windows that one epoch of `crops` is validated on: enough to rank epochs, a second or two."""

_STEPS_UNREAD = 10
"""Steps between looks at the loss: reading it makes the loop wait until a GPU has caught up."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One batch is done."""

    epoch: int
    step: int
    steps: int
    loss: Tensor
    """A scalar on the device of training; reading it waits for the step."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch is done; `checkpoint` can be used, or trained on."""

    number: int
    measures: Mapping[str, float | None]
    is_kept: bool
    """Whether picking should use this epoch rather than an earlier one."""
    checkpoint: Checkpoint


Progress: TypeAlias = Step | Epoch


def fit(task: Task, *, resume: Checkpoint | None = None, device: str = "cpu") -> Iterator[Progress]:
    """Train, yielding every step and every epoch; the caller prints, saves and stops.

    The same task, seed and machine give the same weights, and so does a run that was resumed from
    the checkpoint of any epoch: an epoch's randomness depends on the seed and its number alone.
    Where processes train together (see `parallel`), every one of them goes through the same steps.

    Parameters
    ----------
    resume
        A checkpoint of an earlier epoch of the same task.

    Raises
    ------
    InputError
        When `resume` belongs to another task.
    FloatingPointError
        When the loss, or a weight, is not finite; the epochs that were yielded are sound.
    """
    settings = task.config.training
    torch.manual_seed(settings.seed)
    network = parallel.share_batch_norm(build(task.config.network), device)
    first: dict[str, Tensor] | None = None
    if settings.start == "pretrained":
        first = pretrained_weights(task.config.network)
        load_weights(network, first)
        first = {name: tensor.to(device) for name, tensor in first.items()}
    network.to(device)
    if device == "cpu":
        # A CPU's convolutions are a fifth faster where a voxel's channels lie beside each other.
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # no stub
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, fused=True)
    average: dict[str, Tensor] | None = None
    history: list[dict[str, float | None]] = []
    if resume is not None:
        average, history = _restore(task, resume, network, optimiser)
    compute_risk = objective(task.config.objective)
    validation = [_validation_windows(part, task.config.sampling) for part in task.validation]
    steps_done = sum(int(row["steps"] or 0) for row in history)
    for number in range(len(history) + 1, settings.epochs + 1):
        started = perf_counter()
        rng = np.random.default_rng([settings.seed, number])
        torch.manual_seed(int(rng.integers(2**62)) + parallel.number())
        rate = learning_rate(settings, [row["validation_ap"] for row in history])
        for group in optimiser.param_groups:
            group["lr"] = rate
        network.train()
        batches = list(_batches(task, rng))
        losses: list[Tensor] = []
        for step, windows in enumerate(batches, start=1):
            total, mine = len(windows), parallel.part(len(windows))
            volumes, labels = _load(task, windows[mine])
            volumes, labels = volumes.to(device), labels.to(device)
            if task.config.sampling.augment:
                volumes, labels = augment(volumes, labels, rng=rng, first=mine.start, total=total)
            optimiser.zero_grad(set_to_none=True)
            with _autocast(device, settings):
                logits = network(volumes)
            # The risk is no mean over windows: its parts are not those of the batch.
            logits, labels = (parallel.whole(each, mine, total) for each in (logits, labels))
            risk = compute_risk(logits.flatten(), labels.flatten(), task.prior)
            # torch's stub leaves backward untyped.
            risk.loss.backward()  # type: ignore[no-untyped-call]
            parallel.sum_gradients(network)
            optimiser.step()
            steps_done += 1
            losses.append(risk.value)
            if step % _STEPS_UNREAD == 0 or step == len(batches):
                _check_finite(losses[-_STEPS_UNREAD:], number, settings)
            if settings.ema:
                average = _averaged(average, network, settings.ema, steps_done)
            yield Step(epoch=number, step=step, steps=len(batches), loss=losses[-1])
        kept = _kept(task, network, average, first)
        # The last step may have spoiled them, which no loss tells any more.
        if not all(torch.isfinite(tensor).all() for tensor in kept.values()):
            raise _diverged("a weight is not finite", number, settings)
        with _weights(network, kept):
            measure = _validate(network, task, validation, device)
        row: dict[str, float | None] = {
            "epoch": number,
            "steps": len(batches),
            "loss": float(np.mean(torch.stack(losses).tolist())),
            "validation_ap": measure,
            "learning_rate": rate,
            "seconds": perf_counter() - started,
        }
        earlier = [row["validation_ap"] or 0.0 for row in history]
        history.append(row)
        yield Epoch(
            number=number,
            measures=row,
            # Averaged weights at the end of a falling rate are better than a measure on a few
            # held-out particles can tell, so `default` keeps the last epoch.
            is_kept=settings.keep == "last" or measure > max(earlier, default=-1.0),
            checkpoint=_checkpoint(task, network, optimiser, average, kept, history),
        )


def learning_rate(settings: TrainingSettings, measures: Sequence[float | None]) -> float:
    """Learning rate of the next epoch, given the validation measures of those done.

    `plateau` multiplies it by `factor` whenever the measure has not improved for `patience`
    consecutive epochs (paper 4.3); `cosine` lets it fall to zero over the planned epochs.
    """
    if settings.schedule == "cosine":
        done = len(measures) / settings.epochs
        return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    rate, best, waited = settings.learning_rate, -math.inf, 0
    for measure in measures:
        if measure is not None and measure > best:
            best, waited = measure, 0
            continue
        waited += 1
        if waited == settings.patience:
            rate, waited = rate * settings.factor, 0
    return rate


def average_precision(scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> float:
    """Average precision of ranking labelled before unlabelled voxels.

    It ranks classifiers as the true one would although the unlabelled voxels hold particles too:
    their share is the same for all (paper 4.3 says "validation accuracy").

    >>> average_precision(np.float32([3, 2, 1]), np.array([True, False, True]))
    0.8333333333333333
    """
    order = np.argsort(-scores, kind="stable")
    hits = positive[order]
    if not hits.any():
        return 0.0
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean())


def _batches(task: Task, rng: np.random.Generator) -> Iterator[list[tuple[int, Window, bool]]]:
    """Batches of one epoch: (tomogram, window, its unlabelled voxels do not count)."""
    sampling, batch = task.config.sampling, task.config.training.batch
    if sampling.method == "windows":
        windows = [
            (number, window, False)
            for number, part in enumerate(task.training)
            for window in grid(part.features.shape, side=sampling.side, stride=sampling.stride)
        ]
        order = rng.permutation(len(windows))
        for start in range(0, len(order), batch):
            yield [windows[index] for index in order[start : start + batch]]
        return
    centred = min(max(round(sampling.centred * batch), 1), batch - 1)
    clicks = [
        (number, centre) for number, part in enumerate(task.training) for centre in part.centres
    ]
    rejected = [
        (number, centre) for number, part in enumerate(task.training) for centre in part.rejected
    ]
    # Of those one a batch, and of windows anywhere one at least.
    others = 1 if rejected and batch - centred > 1 else 0
    volumes = np.array([float(np.prod(part.features.shape)) for part in task.training])
    for _ in range(sampling.steps_per_epoch):
        chosen = [clicks[int(rng.integers(len(clicks)))] for _ in range(centred)]
        chosen += [rejected[int(rng.integers(len(rejected)))] for _ in range(others)]
        some = [
            (number, _around(centre, sampling.side, task.radius, rng), True)
            for number, centre in chosen
        ]
        for _ in range(batch - len(chosen)):
            number = int(rng.choice(len(volumes), p=volumes / volumes.sum()))
            some.append((number, _anywhere(task.training[number], sampling.side, rng), False))
        yield some


def _around(centre: Floats, side: int, radius: int, rng: np.random.Generator) -> Window:
    """A window that holds the whole particle, somewhere within it."""
    room = max(side // 2 - radius, 0)
    shift = rng.integers(-room, room + 1, size=3)
    z, y, x = (np.rint(centre).astype(int) - side // 2 + shift).tolist()
    return Window(corner=(z, y, x), shape=(side, side, side))


def _anywhere(part: Labelled, side: int, rng: np.random.Generator) -> Window:
    """A window anywhere in the volume; along an axis shorter than it, centred."""
    z, y, x = (
        int(rng.integers(length - side + 1)) if length >= side else (length - side) // 2
        for length in part.features.shape
    )
    return Window(corner=(z, y, x), shape=(side, side, side))


def _autocast(device: str, settings: TrainingSettings) -> torch.autocast:
    """Bfloat16 in the network where the settings allow and a GPU has it; weights stay as they are.

    Not float16, whose narrow range needs a scale for the loss, with a state of its own.
    """
    is_mixed = (
        settings.precision == "mixed"
        and device.startswith("cuda")
        and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=is_mixed)


def _load(task: Task, windows: Sequence[tuple[int, Window, bool]]) -> tuple[Tensor, Tensor]:
    """(b, c, s, s, s) channels and (b, s, s, s) labels of a batch."""
    side, channels = task.config.sampling.side, 1 + task.config.network.filter_channel
    volumes = np.empty((len(windows), channels, side, side, side), dtype=np.float32)
    labels = np.empty((len(windows), side, side, side), dtype=np.uint8)
    for i, (number, window, is_chosen) in enumerate(windows):
        volumes[i], labels[i] = task.training[number].sample(window)
        if is_chosen:
            # Unlabelled voxels near a click are no fair sample of all unlabelled voxels, whose
            # mean the objective needs; the uniform windows give that one.
            labels[i][labels[i] == UNLABELLED] = IGNORED
    return torch.from_numpy(volumes), torch.from_numpy(labels)


def _check_finite(losses: Sequence[Tensor], epoch: int, settings: TrainingSettings) -> None:
    for loss in torch.stack(list(losses)).tolist():
        if not math.isfinite(loss):
            raise _diverged(f"the loss is {loss}", epoch, settings)


def _diverged(what: str, epoch: int, settings: TrainingSettings) -> FloatingPointError:
    kept = " (what the epochs before it learned can be picked with)" if epoch > 1 else ""
    return FloatingPointError(
        f"{what} in epoch {epoch}{kept}: train anew in another --out with a lower rate, such as "
        f"--set training.learning_rate={settings.learning_rate / 10:g}"
    )


def _validation_windows(part: Labelled, sampling: Sampling) -> list[Window]:
    """Windows of validation: those of the grid that hold a positive, or one around each centre."""
    if sampling.method == "windows":
        windows = grid(part.features.shape, side=sampling.side, stride=sampling.stride)
        return [
            window
            for window in windows
            if (cut(part.labels, window, fill=IGNORED) == POSITIVE).any()
        ]
    # Evenly through the list, which may be sorted by z.
    count = min(len(part.centres), _VALIDATION_WINDOWS)
    some = np.linspace(0, len(part.centres) - 1, count).round().astype(int)
    corners = np.rint(part.centres[some]).astype(int) - sampling.side // 2
    return [Window(corner=(z, y, x), shape=(sampling.side,) * 3) for z, y, x in corners.tolist()]


@torch.inference_mode()
def _validate(
    network: nn.Module, task: Task, windows: Sequence[Sequence[Window]], device: str
) -> float:
    network.eval()
    batch = task.config.training.batch
    scores, positive = [], []
    for part, of_part in zip(task.validation, windows, strict=True):
        mine = of_part[parallel.part(len(of_part))]
        ranked = []
        # In batches, which take less than half of the time of one window after the other.
        for start in range(0, len(mine), batch):
            samples = [part.sample(window) for window in mine[start : start + batch]]
            volumes = torch.from_numpy(np.stack([volume for volume, _ in samples]))
            labels = np.stack([label for _, label in samples])
            logits = network(volumes.to(device)).cpu().numpy()
            counted = labels != IGNORED
            ranked.append((logits[counted], labels[counted] == POSITIVE))
        for some, hits in parallel.gathered(ranked):
            scores.append(some)
            positive.append(hits)
    return average_precision(np.concatenate(scores), np.concatenate(positive))


def _averaged(
    average: dict[str, Tensor] | None, network: nn.Module, decay: float, steps: int
) -> dict[str, Tensor]:
    """Moving average of the weights; it starts short, so that it forgets the first ones."""
    current = network.state_dict()
    if average is None:
        return {name: tensor.detach().clone() for name, tensor in current.items()}
    keep = min(decay, (1 + steps) / (10 + steps))
    return {
        name: torch.lerp(tensor, average[name], keep)
        if tensor.is_floating_point()
        else tensor.clone()
        for name, tensor in current.items()
    }


def _kept(
    task: Task,
    network: nn.Module,
    average: dict[str, Tensor] | None,
    first: dict[str, Tensor] | None,
) -> dict[str, Tensor]:
    """Weights to pick with: the trained ones, or between them and the pretrained first ones.

    The mean over a straight line of weights keeps what was learned on many particles and adds what
    the clicks teach (Wortsman et al. 2022); alone, few clicks are learned by heart. Its share grows
    with the number of clicks n as n / (n + `training.start_worth`).
    """
    trained = average or {
        name: tensor.detach().clone() for name, tensor in network.state_dict().items()
    }
    if first is None:
        return trained
    clicks = sum(len(part.centres) for part in task.training)
    share = clicks / (clicks + task.config.training.start_worth)
    return {
        name: torch.lerp(first[name], tensor, share)
        if tensor.is_floating_point()
        else tensor.clone()
        for name, tensor in trained.items()
    }


@contextmanager
def _weights(network: nn.Module, kept: dict[str, Tensor]) -> Iterator[None]:
    """Lend other weights to the network."""
    own = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    network.load_state_dict(kept)
    try:
        yield
    finally:
        network.load_state_dict(own)


def _checkpoint(
    task: Task,
    network: nn.Module,
    optimiser: torch.optim.Adam,
    average: dict[str, Tensor] | None,
    kept: dict[str, Tensor],
    history: Sequence[dict[str, float | None]],
) -> Checkpoint:
    training: dict[str, Tensor] = {}
    for name, parameter in network.named_parameters():
        for key, tensor in optimiser.state[parameter].items():
            training[f"adam.{key}.{name}"] = tensor.detach().clone()
    # What training goes on from, where it is not what is picked with.
    if average is not None or task.config.training.start == "pretrained":
        for name, tensor in network.state_dict().items():
            training[f"weights.{name}"] = tensor.detach().clone()
    if average is not None and kept is not average:
        training |= {f"average.{name}": tensor for name, tensor in average.items()}
    description = Description(
        config=task.config,
        voxel_size=task.voxel_size,
        radius_voxels=task.radius,
        priors=Priors(
            observed=task.prior.observed,
            expected=task.prior.expected,
            unlabelled=task.prior.unlabelled,
        ),
        filter_profile=None if task.radial is None else tuple(task.radial.profile.tolist()),
        training_tomograms=tuple(part.name for part in task.training),
        validation_tomogram=task.validation_tomogram,
        picks_sha256=task.picks_sha256,
        epoch=len(history),
        history=tuple(history),
    )
    return Checkpoint(description=description, weights=kept, training=training)


def _restore(
    task: Task, checkpoint: Checkpoint, network: nn.Module, optimiser: torch.optim.Adam
) -> tuple[dict[str, Tensor] | None, list[dict[str, float | None]]]:
    described = checkpoint.description
    same = described.picks_sha256 == task.picks_sha256 and described.config.model_dump(
        exclude={"training": {"epochs"}}
    ) == task.config.model_dump(exclude={"training": {"epochs"}})
    if not same:
        raise InputError(
            "the run to resume was trained with other picks or settings: give the same ones, or "
            "train anew in another --out folder"
        )
    tomograms = (tuple(part.name for part in task.training), task.validation_tomogram)
    before = (described.training_tomograms, described.validation_tomogram)
    if before != tomograms:
        raise InputError(
            f"the run to resume was trained on {', '.join(before[0])} and validated on "
            f"{before[1] or 'held-out picks'}: give the same tomograms, or train anew in another "
            "--out folder"
        )
    state = checkpoint.training
    device = next(network.parameters()).device

    def stored(kind: str) -> dict[str, Tensor]:
        """Weights of one kind, which are those picked with where none were stored apart."""
        found = {k.removeprefix(kind): v for k, v in state.items() if k.startswith(kind)}
        return found or checkpoint.weights

    load_weights(network, stored("weights."))
    average = None
    if task.config.training.ema:
        average = {name: tensor.to(device) for name, tensor in stored("average.").items()}
    for name, parameter in network.named_parameters():
        optimiser.state[parameter] = {"step": state[f"adam.step.{name}"].to(parameter.device)}
        for key in ("exp_avg", "exp_avg_sq"):
            # In the parameter's own order in memory, which the fused step takes for granted.
            stored_moment = state[f"adam.{key}.{name}"]
            optimiser.state[parameter][key] = torch.empty_like(parameter).copy_(stored_moment)
    return average, list(described.history)
