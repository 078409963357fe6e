"""Hidden states -> single vectors and multi-vectors; truncates and pools them.

All results are float32 vectors of length 1 (L2), in any precision of the model.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.nn.functional import normalize

from .devices import exact_float32, to_device

POOLING_STRATEGIES = ("mean", "max")


def single_vectors(hidden_states: torch.Tensor, pooled: Sequence[slice]) -> torch.Tensor:
    """Pools each input's hidden states into its single vector (arXiv 2506.18902, section 4.2).

    Args:
        hidden_states: a tensor ``(tokens, hidden)``, after the final norm, of N inputs end to end
        pooled: for each input, the slice of its tokens to average

    Returns:
        a float32 tensor ``(N, hidden)``, rows of length 1
    """
    # One matrix product computes all sums, since a GPU would wait between slices. A normalised sum equals a normalised
    # mean.
    ends = torch.tensor([[tokens.start, tokens.stop] for tokens in pooled]).view(-1, 2)
    starts, stops = to_device(ends, hidden_states.device).split(1, dim=1)
    positions = torch.arange(len(hidden_states), device=hidden_states.device)
    summed = ((positions >= starts) & (positions < stops)).float()
    with exact_float32:
        return normalize(summed @ hidden_states.float(), dim=-1)


def multi_vectors(projected: torch.Tensor) -> torch.Tensor:
    """Normalises projected tokens to the rows of multi-vectors.

    Args:
        projected: a tensor ``(tokens, 128)``

    Returns:
        a float32 tensor ``(tokens, 128)``, rows of length 1
    """
    return normalize(projected.float(), dim=-1)


def unit(vectors: ArrayLike) -> np.ndarray:
    """Scales vectors to length 1.

    Args:
        vectors: an array ``(..., dim)``, or what numpy converts to one

    Returns:
        a float32 array of the same shape. Zero vectors stay zero
    """
    vectors = np.asarray(vectors, dtype=np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def truncate(vectors: torch.Tensor, dim: int | None) -> torch.Tensor:
    """Keeps the first dimensions of Matryoshka vectors (arXiv 2205.13147).

    Args:
        vectors: a tensor ``(..., hidden)``
        dim: the number of dimensions to keep, or ``None`` for all

    Returns:
        a tensor ``(..., dim)``, rows of length 1
    """
    return vectors if dim is None else normalize(vectors[..., :dim], dim=-1)


def pool_multi_vectors(multi_vectors: Sequence[np.ndarray], strategy: str, dim: int = 128) -> np.ndarray:
    """Pools each multi-vector into one vector.

    Args:
        multi_vectors: a list of N float32 arrays ``(tokens_i, dim)``
        strategy: ``"mean"`` over the tokens, or ``"max"`` for the largest value of each dimension
        dim (128): the dimensions of the result if the list is empty

    Returns:
        a float32 array ``(N, dim)``, rows of length 1
    """
    if not multi_vectors:
        return np.empty((0, dim), dtype=np.float32)

    starts = np.cumsum([0] + [len(vectors) for vectors in multi_vectors[:-1]])
    tokens = np.concatenate(multi_vectors)
    # A normalised sum equals a normalised mean. float64 avoids rounding errors in long sums.
    pooled = (
        np.add.reduceat(tokens, starts, dtype=np.float64) if strategy == "mean" else np.maximum.reduceat(tokens, starts)
    )
    return normalize(torch.from_numpy(pooled), dim=-1).float().numpy()
