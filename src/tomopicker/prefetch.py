"""Prefetch: prepare the next item in a thread while this one is used."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

Item = TypeVar("Item")


def one_ahead(items: Iterable[Item]) -> Generator[Item]:
    """Yield items, each computed in a thread while the one before it is used.

    An error in the thread is raised here, where its item would have come. The thread has ended
    when the generator has, be it at the last item, by an error or by being closed.

    >>> list(one_ahead(range(3)))
    [0, 1, 2]
    """
    end = object()
    source = iter(items)
    with ThreadPoolExecutor(max_workers=1) as pool:
        pending = pool.submit(next, source, end)
        while (item := pending.result()) is not end:
            pending = pool.submit(next, source, end)
            yield item  # type: ignore[misc]  # not the end
