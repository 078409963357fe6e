"""Prepares what comes next in threads, while a GPU computes what came before."""

import concurrent.futures
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

# More threads than these win nothing: what they prepare in 16 ms is a page, the time that a fast GPU takes for one.
_THREADS = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


def windows(
    function: Callable[[Item], Result], items: Sequence[Item], size: int, ahead: bool = False
) -> Iterator[tuple[int, list[Result]]]:
    """Applies a function to each of many items.

    Args:
        function: a function of an item
        items: a list
        size: the number of results to hand over at a time
        ahead (False): whether threads work on what comes next while the caller has a window. The first windows are then
            smaller, since they are waited for

    Yields:
        the number of a window's first item, and the list of its results

    Raises:
        Exception: what the function raised for the first item that it failed for
    """
    if not ahead or len(items) < 2:
        for start in range(0, len(items), size):
            yield start, [function(item) for item in items[start : start + size]]
        return

    threads = torch.get_num_threads()
    pool = concurrent.futures.ThreadPoolExecutor(
        min(_THREADS, os.cpu_count() or 1), "jina-v4-images", initializer=torch.set_num_threads, initargs=(1,)
    )
    try:
        waiting: list[concurrent.futures.Future[Result]] = []
        start = 0
        for stop in _stops(len(items), size):
            following = [pool.submit(function, item) for item in items[start:stop]]
            if waiting:
                yield start - len(waiting), [future.result() for future in waiting]
            waiting, start = following, stop
        results = [future.result() for future in waiting]
        yield start - len(waiting), results
    finally:
        # Where an item failed, or the caller has enough, the others are left.
        pool.shutdown(wait=True, cancel_futures=True)
        # Each of the pool's threads told torch to start no others for it. New threads take that over, too.
        torch.set_num_threads(threads)


def _stops(count, size):
    """Where windows end: each is twice as long as the one before, up to a size."""
    stop = width = min(size, 2 * _THREADS)
    while stop < count:
        yield stop
        width = min(size, 2 * width)
        stop += width
    yield count
