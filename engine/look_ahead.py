"""Prepares the next inputs in threads while a GPU computes the current ones."""

import concurrent.futures
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

# More threads are not faster: these prepare a page in 16 ms, the time that a fast GPU takes for one.
_THREADS = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


def windows(
    function: Callable[[Item], Result], items: Sequence[Item], size: int, ahead: bool = False
) -> Iterator[tuple[int, list[Result]]]:
    """Applies a function to many items, and yields the results in windows.

    Args:
        function: a function of an item
        items: a list
        size: the largest number of results in a window
        ahead (False): whether threads prepare the next window while the caller uses one. The first windows are then
            smaller, since the caller waits for them

    Yields:
        the index of a window's first item, and the list of its results

    Raises:
        Exception: the function's exception for the first item that failed
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
        # If an item failed, or the caller stops, the remaining items are cancelled.
        pool.shutdown(wait=True, cancel_futures=True)
        # The pool's threads set torch's number of threads to 1, which new threads would inherit.
        torch.set_num_threads(threads)


def _stops(count, size):
    """Yields the ends of windows: each is twice as long as the one before, up to a size."""
    stop = width = min(size, 2 * _THREADS)
    while stop < count:
        yield stop
        width = min(size, 2 * width)
        stop += width
    yield count
