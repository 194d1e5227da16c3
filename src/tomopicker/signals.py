"""The signals by which a scheduler ends a job: at a time limit, or for one that is more urgent."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

STOPPING = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)
"""SIGTERM comes with the end, the others as early as a job asks (sbatch's `--signal`)."""


@contextmanager
def handling(
    handler: Callable[[int, FrameType | None], Any], *signals: signal.Signals
) -> Iterator[None]:
    """Have a handler called for some signals inside; those of `STOPPING` when none is given."""
    before = {each: signal.signal(each, handler) for each in signals or STOPPING}
    try:
        yield
    finally:
        for each, earlier in before.items():
            signal.signal(each, earlier)


@contextmanager
def held(*signals: signal.Signals) -> Iterator[None]:
    """Keep some signals back until the end of what is inside; programs that it starts get none.

    Only on systems that are like Unix.
    """
    came: list[int] = []
    try:
        with handling(lambda number, _: came.append(number), *signals):
            # The programs inherit the mask. Another thread, which has none, may be given a signal
            # all the same, so this process needs the handler, too.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
            try:
                yield
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
    finally:
        for number in came:
            signal.raise_signal(number)
