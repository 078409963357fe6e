"""The loop of ``hamming.py``, compiled by numba. It caches the functions of a module, not those within a function.

Where a CPU counts the ones of several words at once, this is ten times as fast as numpy. Where it has no instruction
that counts ones, it is as fast.
"""

import numba
import numpy as np
from numba.extending import intrinsic


@intrinsic
def _ones(context, word):
    # What LLVM knows as a count of ones, and compiles for each CPU as is best there.
    return word(word), lambda context, builder, signature, arguments: builder.ctpop(arguments[0])


def _loop(rows, starts, lengths, query, weights, planes, distances):
    for page in range(len(starts)):
        # The first words of all rows, and then the second ones, so that the CPU takes several rows at once.
        first, second = planes[0, : lengths[page]], planes[1, : lengths[page]]
        for i in range(lengths[page]):
            first[i] = rows[starts[page] + i, 0]
            second[i] = rows[starts[page] + i, 1]
        total = np.float32(0)
        for token in range(len(query)):
            least = np.int64(128)
            for i in range(lengths[page]):
                least = min(least, np.int64(_ones(first[i] ^ query[token, 0]) + _ones(second[i] ^ query[token, 1])))
            total += np.float32(least) * weights[token]
        distances[page] = total


try:
    _compiled = numba.njit(nogil=True, cache=True)(_loop)
except RuntimeError:
    # There is no place for the cache that can be written: the machine code is made anew in each process, in a second.
    _compiled = numba.njit(nogil=True)(_loop)


def distances_of_two_words(
    rows: np.ndarray, starts: np.ndarray, lengths: np.ndarray, query: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Does what :func:`late_interaction.stores.hamming.distances_by_numpy` does, for rows of two words of 64 bits.

    It releases Python's lock.

    Raises:
        IndexError: if a page has rows that are not in the array
    """
    # Compiled code does not check its bounds.
    if len(starts) and (starts.min() < 0 or (starts + lengths).max() > len(rows)):
        raise IndexError(f"Pages end at row {(starts + lengths).max()} of {len(rows)}")

    distances = np.empty(len(starts), np.float32)
    planes = np.empty((2, lengths.max(initial=1)), np.uint64)
    _compiled(rows, starts, lengths, query, weights, planes, distances)
    return distances
