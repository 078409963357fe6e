"""Embeddings: the single vectors and the multi-vectors of texts or images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of N texts or images, both kinds from one forward pass.

    Args:
        single: a float32 array ``(N, dim)``, rows of length 1 (L2)
        multi: a list of N float32 arrays ``(tokens_i, 128)``, rows of length 1
    """

    single: np.ndarray
    multi: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.multi)

    def select(self, rows: Sequence[int]) -> "Embeddings":
        """Returns the embeddings of some of the texts or images.

        Args:
            rows: their indexes
        """
        return Embeddings(self.single[list(rows)], [self.multi[i] for i in rows])


def join(parts: Sequence[Embeddings]) -> Embeddings:
    """Concatenates the embeddings of several calls.

    Args:
        parts: one or more :class:`Embeddings`
    """
    return Embeddings(np.concatenate([part.single for part in parts]), [rows for part in parts for rows in part.multi])
