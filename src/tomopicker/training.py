"""Training: one visible loop from labelled tomograms to checkpoints (paper 3.2, 3.3 and 4.3)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from tomopicker import parallel
from tomopicker.augment import augment
from tomopicker.calibrate import (
    FEWEST_TO_CALIBRATE,
    MATCH_RADII,
    LabelledScores,
    learn_calibration,
    match_labelled,
    matched_rows,
    shape_weight,
)
from tomopicker.checkpoint import Checkpoint, Description, Priors, load_weights
from tomopicker.errors import InputError
from tomopicker.inference import (
    add_shape,
    contrasts_of,
    find_candidates,
    network_of,
    score,
)
from tomopicker.labels import IGNORED, POSITIVE, UNLABELLED, ball_voxels
from tomopicker.network import build
from tomopicker.objectives import objective
from tomopicker.pretrained import pretrained_weights
from tomopicker.task import Labelled, Task
from tomopicker.template import (
    FEWEST_TO_ALIGN,
    LARGEST_RADIUS,
    computing_on,
    learn_template,
)
from tomopicker.types import Window
from tomopicker.windows import cut, grid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from tomopicker.config import Sampling
    from tomopicker.config import Training as TrainingSettings
    from tomopicker.features import Features
    from tomopicker.types import Floats

_VALIDATION_WINDOWS = 16
"""Windows that one epoch of `crops` is validated on: enough to rank epochs, a second or two."""

_ALIGNING, _COMPARING = 0.7, 0.15
"""Shares of the time of calibrating that aligning particles and comparing peaks take, about."""

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


def calibrate(
    task: Task,
    checkpoint: Checkpoint,
    *,
    device: str = "cpu",
    progress: Callable[[float], None] = lambda _: None,
) -> Checkpoint:
    """Add to a checkpoint what scores its labelled particles reach, by which picking is cut.

    With `inference.template_weight` the training particles are aligned first, where others are held
    out, and their average is added, too. How much shape counts in the scores is what the held-out
    particles tell (`shape_weight`).

    The particles of validation are scored in their tomogram, whole, and with them the training
    particles of that tomogram, whose scores are somewhat better than an unseen particle's: they are
    lowered by the difference of the means, and tell how far scores scatter. With fewer than ten
    particles of validation there is no mean to trust: training particles stay as they are.
    Those that were accepted from a list tell, with those rejected there, of the chance at their
    scores. A tomogram where nothing but such was labelled is left out.
    """
    network = network_of(checkpoint)
    config = task.config
    held_out = sum(len(part.centres) for part in task.validation) >= FEWEST_TO_CALIBRATE
    begun, end = 0.0, 1.0
    # Its noise is that of the aligned ones, which fit too well to tell how others score.
    if held_out and config.inference.template_weight:
        checkpoint = _with_template(
            task, checkpoint, device, lambda done: progress(_ALIGNING * done)
        )
        begun = _ALIGNING
    if checkpoint.template is not None:
        end -= _COMPARING
    parts = list(task.validation)
    if not held_out:
        parts += task.training
    # Units of z differ between tomograms: one where nobody clicked tells of no particle's scores.
    # Not by name: two sessions may both have a TS_01.
    volumes = list(
        {id(part.features): part.features for part in parts if not part.is_shown.all()}.values()
    )
    everyone = (*task.training, *task.validation)
    peaks: list[tuple[Features, NDArray[np.float64], Floats]] = []
    counted = 0
    for number, features in enumerate(volumes):
        volume = score(
            features,
            network,
            config,
            device=device,
            progress=lambda done, n=number: progress(  # type: ignore[misc]
                begun + (end - begun) * (n + done) / len(volumes)
            ),
        )
        centres, scores = find_candidates(volume, config, radius=task.radius)
        peaks.append((features, centres, scores))
        counted += int(np.count_nonzero(volume > -np.inf))
    if checkpoint.template is not None:
        checkpoint, peaks = _weigh_shape(
            task, checkpoint, peaks, counted, device, lambda done: progress(end + (1 - end) * done)
        )
    if held_out:
        peaks = as_unseen(peaks, task)
    judged: list[tuple[Floats, LabelledScores]] = []
    known = 0
    for features, centres, scores in peaks:
        mine = [part for part in everyone if part.features is features]
        found = match_labelled(
            centres,
            scores,
            np.concatenate([part.centres[~part.is_shown] for part in mine]),
            accepted=np.concatenate([part.centres[part.is_shown] for part in mine]),
            rejected=np.concatenate([part.rejected for part in mine]),
            tolerance=MATCH_RADII * task.radius,
        )
        judged.append((scores, found))
        known += sum(len(part.centres) for part in mine)
    calibration = learn_calibration(judged, known=known, held_out=held_out)
    return replace(
        checkpoint,
        description=checkpoint.description.model_copy(update={"calibration": calibration}),
    )


def _with_template(
    task: Task, checkpoint: Checkpoint, device: str, progress: Callable[[float], None]
) -> Checkpoint:
    """Add the average of the training particles, if they are enough for one."""
    clicked = sum(len(part.centres) for part in task.training)
    if clicked < FEWEST_TO_ALIGN or task.radius > LARGEST_RADIUS:
        return checkpoint
    with computing_on(device):
        template = learn_template(
            [(part.features, part.centres) for part in task.training],
            radius=task.radius,
            seed=task.config.training.seed,
            progress=progress,
        )
    return replace(
        checkpoint,
        description=checkpoint.description.model_copy(update={"aligned": clicked}),
        template=template,
    )


def _weigh_shape(
    task: Task,
    checkpoint: Checkpoint,
    peaks: Sequence[tuple[Features, NDArray[np.float64], Floats]],
    counted: int,
    device: str,
    progress: Callable[[float], None],
) -> tuple[Checkpoint, list[tuple[Features, NDArray[np.float64], Floats]]]:
    """Find how much the template's contrast counts in the scores, and add it to them.

    `counted` is the number of voxels that were scored.

    Held-out particles are told from the other candidates, but not from the aligned ones, whose
    noise the average has, nor from what was rejected, which is known.
    """
    tolerance = MATCH_RADII * task.radius
    shapes = [
        contrasts_of(
            checkpoint,
            features,
            centres,
            device=device,
            progress=lambda done, n=number: progress((n + done) / len(peaks)),  # type: ignore[misc]
        )
        for number, (features, centres, _) in enumerate(peaks)
    ]
    chosen: list[tuple[Floats, Floats, NDArray[np.bool_]]] = []
    held_out = aligned = 0
    for (features, centres, scores), near in zip(peaks, shapes, strict=True):
        fair = [part.centres for part in task.validation if part.features is features]
        mine = [part for part in task.training if part.features is features]
        others = [*(part.centres for part in mine), *(part.rejected for part in mine)]
        fair_rows, other_rows = (
            _rows_at(places, centres, scores, tolerance) for places in (fair, others)
        )
        rows = np.setdiff1d(np.arange(len(near)), sorted(other_rows - fair_rows))
        chosen.append((scores[rows], near[rows], np.isin(rows, sorted(fair_rows))))
        held_out += sum(map(len, fair))
        aligned += sum(len(part.centres) for part in mine)
    core = ball_voxels(task.config.labels.core_radius(task.radius))
    expected = task.prior.expected * counted / core
    if task.validation_tomogram is None:
        expected += held_out  # which the prior is without
    hidden = max(expected - aligned - held_out, 0.0)
    weight = shape_weight(
        *(np.concatenate(some) for some in zip(*chosen, strict=True)),
        labelled_share=held_out / (held_out + hidden),
        most=task.config.inference.template_weight,
    )
    description = checkpoint.description.model_copy(update={"template_weight": weight})
    checkpoint = replace(checkpoint, description=description)
    if not weight:
        return checkpoint, list(peaks)
    return checkpoint, [
        (features, *add_shape(checkpoint, features.shape, centres, scores, near))
        for (features, centres, scores), near in zip(peaks, shapes, strict=True)
    ]


def _rows_at(
    places: Sequence[Floats], centres: NDArray[np.float64], scores: Floats, tolerance: float
) -> set[int]:
    """Rows of the peaks that stand for places, each (n, 3); none of no places."""
    every = np.concatenate([*places, np.empty((0, 3))])
    return set(matched_rows(centres, scores, every, tolerance=tolerance))


def as_unseen(
    peaks: Sequence[tuple[Features, NDArray[np.float64], Floats]], task: Task
) -> list[tuple[Features, NDArray[np.float64], Floats]]:
    """Peaks with the scores that training particles would have if they were none.

    The network has learned some of their noise, and it is in the average of the aligned. So their
    peaks are lowered by what the clicked ones have on average more than those that were held out,
    over all tomograms. Accepted ones are lowered, too, and have no say: a review asks for those
    about the cut-off, which score less than the others.

    Parameters
    ----------
    peaks
        Of each tomogram with its features: (n, 3) centres and (n,) scores, the best first.
    """
    tolerance = MATCH_RADII * task.radius
    seen, clicked, unseen = [], [], []
    for features, centres, scores in peaks:
        trained = [part for part in task.training if part.features is features]
        fair, mine, only_clicked = (
            _rows_at(places, centres, scores, tolerance)
            for places in (
                [part.centres for part in task.validation if part.features is features],
                [part.centres for part in trained],
                [part.centres[~part.is_shown] for part in trained],
            )
        )
        seen.append(sorted(mine - fair))
        clicked += scores[sorted(only_clicked - fair)].tolist()
        unseen += scores[sorted(fair)].tolist()
    if not clicked or not unseen:
        return list(peaks)
    excess = max(float(np.mean(clicked) - np.mean(unseen)), 0.0)
    lowered = []
    for (features, centres, scores), rows in zip(peaks, seen, strict=True):
        scores = scores.copy()
        scores[rows] -= excess
        order = np.argsort(-scores, kind="stable")
        lowered.append((features, centres[order], scores[order]))
    return lowered


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
