"""Parallel: one training by several processes, each of which takes a part of every batch.

All of them run the same loop on the same data and hold the same weights. What depends on the
whole batch, which is its risk, the statistics of batch normalisation and the gradient, is brought
together from the parts, so that N processes do what one does. Alone, every function here gives
what it was given.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tomopicker.errors import InputError
from tomopicker.signals import STOPPING, handling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")


def join() -> None:
    """Meet the other processes if torchrun started this one; `leave` parts from them."""
    if dist.is_available() and dist.is_torchelastic_launched():
        with_gpus = torch.cuda.is_available() and dist.is_nccl_available()
        dist.init_process_group("cpu:gloo,cuda:nccl" if with_gpus else "gloo")


def leave() -> None:
    """Part from the other processes when the common work is done, and not after an error."""
    if _joined():
        dist.destroy_process_group()


def processes() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if _joined() else 1


def number() -> int:
    """Number of this one among them, from 0; process 0 alone writes and speaks."""
    return dist.get_rank() if _joined() else 0


def own_device(device: str) -> str:
    """Give the device of this process: where GPUs are meant, one for each process of a machine.

    Raises
    ------
    InputError
        When there are fewer GPUs than processes, or one device is meant for all of them.
    """
    if processes() == 1 or device == "cpu":
        return device
    if device != "cuda":
        raise InputError(
            f"--device {device}: several processes cannot share it; give cuda, for a GPU each, or "
            "cpu"
        )
    here, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if here > gpus:
        raise InputError(
            f"{here} processes need as many GPUs, but there are {gpus}: give torchrun "
            f"--nproc-per-node {gpus}, or --device cpu"
        )
    return f"cuda:{os.environ['LOCAL_RANK']}"


def part(total: int) -> slice:
    """Give the part of this process in a list: one after the other, of nearly equal length."""
    return slice(total * number() // processes(), total * (number() + 1) // processes())


def whole(mine: Tensor, at: slice, total: int) -> Tensor:
    """Bring a tensor's parts together, which every process then has; gradients reach its own.

    Parameters
    ----------
    mine
        (n, ...) the `part` of this process, at `at` of the whole.

    Returns
    -------
    Tensor
        (total, ...).
    """
    if processes() == 1:
        return mine
    everything = mine.new_zeros((total, *mine.shape[1:]))
    everything[at] = mine.detach()
    dist.all_reduce(everything)
    return torch.cat([everything[: at.start], mine, everything[at.stop :]])


def gathered(mine: Sequence[T]) -> list[T]:
    """Join the lists of all processes, in their order; the items are pickled."""
    if processes() == 1:
        return list(mine)
    lists: list[Any] = [None] * processes()
    dist.all_gather_object(lists, list(mine))
    return [item for some in lists for item in some]


def sum_gradients(network: nn.Module) -> None:
    """Add up the gradients of all processes, each of which went back from its own windows."""
    if processes() == 1:
        return
    gradients = [each.grad for each in network.parameters() if each.grad is not None]
    # As one message: to send fifty takes fifty times the waiting.
    summed = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(summed)
    start = 0
    for gradient in gradients:
        gradient.copy_(summed[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()


def share_batch_norm(network: nn.Module, device: str) -> nn.Module:
    """Have batch normalisation take its statistics from the whole batch; names stay the same."""
    if processes() == 1:
        return network
    if device.startswith("cuda"):
        # torch's stub leaves it untyped.
        shared: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return shared
    # torch has none for a CPU.
    for name, own in list(network.named_modules()):
        if isinstance(own, nn.BatchNorm3d):
            ours = _SharedBatchNorm(own.num_features, eps=own.eps, momentum=own.momentum)
            ours.load_state_dict(own.state_dict())
            network.set_submodule(name, ours)
    return network


@contextmanager
def failing_together() -> Iterator[None]:
    """Stop every process when one cannot do its work; process 0 raises what stopped the first.

    The others end without a word and with exit code 0, since torchrun ends all as soon as one
    fails, which may be before process 0 has spoken.
    """
    failure: Exception | None = None
    try:
        yield
    except (InputError, OSError, MemoryError) as error:
        failure = error
    failures = [each for each in gathered([failure]) if each is not None]
    if failures and number():
        raise SystemExit(0)
    if failures:
        raise failures[0]


@contextmanager
def stopping_together() -> Iterator[Callable[[], None]]:
    """Let every process stop after the same step once one was asked to, by Ctrl-C or a scheduler.

    One that stopped at once would leave the others waiting for its part.

    Yields
    ------
    Callable
        To be called by all processes after each step; raises KeyboardInterrupt in all of them.
    """
    if processes() == 1:
        yield lambda: None
        return
    asked = torch.zeros((), dtype=torch.int32)

    def stop_if_asked() -> None:
        anybody = asked.clone()
        dist.all_reduce(anybody)
        if anybody:
            raise KeyboardInterrupt

    with handling(lambda *_: asked.fill_(1), signal.SIGINT, *STOPPING):
        yield stop_if_asked


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


class _SharedBatchNorm(nn.BatchNorm3d):
    """Batch normalisation over the parts of all processes, of which some may be empty."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        axes, count = (0, 2, 3, 4), x[:, 0].numel()
        mean = x.sum(axes) / max(count, 1)
        away = (x - mean[:, None, None, None]).square().sum(axes)
        # In double precision, as the variance is the difference of two larger numbers.
        own = mean.double()
        sums = torch.stack([torch.full_like(own, count), count * own, away + count * own.square()])
        n, total, squares = _SumOfAll.apply(sums)  # type: ignore[no-untyped-call]
        mean, variance = total / n, squares / n - (total / n).square()
        # Which these are never, but their types allow.
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(x.dtype), self.momentum)
            self.running_var.lerp_((variance * n / (n - 1)).to(x.dtype), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        scale, shift = (each.to(x.dtype)[:, None, None, None] for each in (scale, shift))
        return torch.addcmul(shift, x, scale)


class _SumOfAll(torch.autograd.Function):
    """Sum over the processes; what one of them changes is felt by all."""

    @staticmethod
    def forward(_: Any, mine: Tensor) -> Tensor:
        total = mine.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total
