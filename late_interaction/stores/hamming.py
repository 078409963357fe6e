"""Compares the signs of a query's tokens with those of pages: the sum of the smallest Hamming distances.

Where numba is installed, a compiled loop does it, about ten times as fast.
"""

import functools
import logging
from collections.abc import Callable

import numpy as np

from ...integration.optional import REQUIREMENTS

Distances = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]

logger = logging.getLogger(__name__)


def distances_by_numpy(
    rows: np.ndarray, starts: np.ndarray, lengths: np.ndarray, query: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Adds up, for each page, the smallest distances of the query's tokens from a row of the page.

    Args:
        rows: an array ``(rows, words)`` of unsigned integers, the bits of the pages' rows
        starts: an int64 array ``(pages,)``, the first row of each page
        lengths: an int64 array ``(pages,)``, the number of each page's rows
        query: an array ``(tokens, words)`` of the same integers
        weights: a float32 array ``(tokens,)`` by which the tokens' distances are multiplied

    Returns:
        a float32 array ``(pages,)``
    """
    distances = np.empty(len(starts), np.float32)
    for i, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        # (tokens, words, rows): the last axis is the long one.
        differing = np.bitwise_count(query[:, :, None] ^ np.ascontiguousarray(rows[start : start + length].T))
        distances[i] = differing.sum(axis=1, dtype=np.uint16).min(axis=1) @ weights
    return distances


@functools.cache
def fastest_distances() -> Distances:
    """Returns what does the work of :func:`distances_by_numpy` fastest, for rows of two words of 64 bits.

    The first call in a process logs a warning if it is that function itself, since numba is missing.
    """
    try:
        from .compiled_hamming import distances_of_two_words
    except ImportError as error:
        logger.warning(
            "numpy compares bits, which takes ten times as long as by numba, which cannot be imported (%s): "
            "pip install '%s'",
            error,
            REQUIREMENTS["binary"],
        )
        return distances_by_numpy

    return distances_of_two_words
