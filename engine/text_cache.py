"""Caches the embeddings of repeated texts, such as queries and class names."""

import collections
import threading
from collections.abc import Callable, Hashable, Sequence

import numpy as np


class TextCache:
    """Keeps the embeddings of the short texts that were used last.

    Args:
        size (1000): the number of texts to keep
        tokens (64): texts of this length or more are not kept. A full cache takes some 40 MB
    """

    def __init__(self, size: int = 1000, tokens: int = 64) -> None:
        self._size, self._tokens = size, tokens
        self._kept: collections.OrderedDict[Hashable, tuple[np.ndarray, np.ndarray]] = collections.OrderedDict()
        self._lock = threading.Lock()

    def encode(
        self, keys: Sequence[Hashable], encode: Callable[[list[int]], tuple[np.ndarray, list[np.ndarray]]]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Encodes the texts that are not in the cache.

        Args:
            keys: for each text, a key of all that its embeddings depend on
            encode: a function of a list of indexes into ``keys`` that returns the single vectors of these texts, an
                array, and the list of their multi-vectors

        Returns:
            the single vectors of all texts, an array, and the list of their multi-vectors
        """
        with self._lock:
            known = {key: self._kept[key] for key in keys if key in self._kept}
        new = {key: i for i, key in enumerate(keys) if key not in known}
        if new:
            known |= zip(new, zip(*encode(list(new.values())), strict=True), strict=True)

        with self._lock:
            for key, (single, multi) in known.items():
                if len(multi) < self._tokens:
                    # A copy: a view would keep the memory of all rows.
                    self._kept[key] = single.copy(), multi
                    self._kept.move_to_end(key)
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)

        # Copies, since the caller may change the results.
        return np.stack([known[key][0] for key in keys]), [known[key][1].copy() for key in keys]
