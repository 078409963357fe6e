"""Prepares what comes next in threads, while a GPU computes what came before."""

import concurrent.futures
import functools
import os

# More threads than these win nothing: what they prepare in 16 ms is a page, the time that a fast GPU takes for one.
_THREADS = 8


def windows(function, items, size, ahead=False):
    """Applies a function to each of many items.

    Args:
        function: a function of an item
        items: a list
        size: the number of results to hand over at a time
        ahead (False): whether threads work on the next window while the caller has this one

    Yields:
        the number of a window's first item, and the list of its results

    Raises:
        Exception: what the function raised for the first item that it failed for
    """
    starts = range(0, len(items), size)
    if not ahead or len(items) < 2:
        for start in starts:
            yield start, [function(item) for item in items[start : start + size]]
        return

    pool = concurrent.futures.ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1), "jina-v4-images")
    try:
        submit = functools.partial(pool.submit, function)
        waiting = [submit(item) for item in items[:size]]
        for start in starts:
            following = [submit(item) for item in items[start + size : start + 2 * size]]
            yield start, [future.result() for future in waiting]
            waiting = following
    finally:
        # Where an item failed, or the caller has enough, the others are left.
        pool.shutdown(wait=True, cancel_futures=True)
