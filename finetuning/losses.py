"""The losses of the paper's adapters (jina-embeddings-v4, arXiv 2506.18902, section 5).

Scores are a matrix ``(queries, targets)`` whose diagonal holds the positive pairs. Other pairs that are known to match
are excluded from the negatives.
"""

from collections.abc import Sequence
from functools import reduce

import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax, normalize

from ..engine.scoring import TokenSet, maxsim
from .forward import Vectors


def single_scores(queries: torch.Tensor, targets: torch.Tensor, dim: int | None = None) -> torch.Tensor:
    """Compares single vectors.

    Args:
        queries: a tensor ``(queries, hidden)`` of any length
        targets: a tensor ``(targets, hidden)`` of any length
        dim (None): the number of dimensions to keep

    Returns:
        a tensor ``(queries, targets)`` of cosines
    """
    return normalize(queries[:, :dim], dim=-1) @ normalize(targets[:, :dim], dim=-1).T


def late_scores(queries: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]) -> torch.Tensor:
    """Compares multi-vectors by MaxSim, divided by the query's length so that it has the range of a cosine.

    Args:
        queries: a list of tensors ``(tokens_i, 128)``, rows of length 1
        targets: a list of tensors ``(tokens_j, 128)``, rows of length 1

    Returns:
        a tensor ``(queries, targets)``
    """
    return maxsim(targets, TokenSet(queries, targets[0].device)).T


def info_nce(scores: torch.Tensor, temperature: torch.Tensor, excluded: torch.Tensor) -> torch.Tensor:
    """Computes InfoNCE in both directions: each query against all targets, and each positive against all queries.

    Args:
        scores: a tensor ``(queries, targets)``, whose first targets are the queries' positives, and any others hard
            negatives
        temperature: a tensor with the softmax temperature
        excluded: a bool tensor ``(queries, targets)`` of the pairs that are neither positive nor negative

    Returns:
        the mean loss
    """
    logits = (scores / temperature).masked_fill(excluded, -torch.inf)
    positives = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, positives) + cross_entropy(logits[:, : len(positives)].T, positives)) / 2


def joint_loss(
    queries: Vectors,
    targets: Vectors,
    temperature: torch.Tensor,
    excluded: torch.Tensor,
    matryoshka_dims: Sequence[int],
) -> dict[str, torch.Tensor]:
    """Computes the parts of the loss of section 5.2.1.

    These are InfoNCE on single vectors at each Matryoshka dimension, InfoNCE on late interaction, and the
    Kullback-Leibler divergence between the score distributions of both.

    Args:
        queries: the queries' :class:`finetuning.forward.Vectors`
        targets: the targets' :class:`finetuning.forward.Vectors`
        temperature: a tensor with the softmax temperature
        excluded: a bool tensor ``(queries, targets)`` of the pairs that are neither positive nor negative
        matryoshka_dims: the dimensions at which single vectors are trained

    Returns:
        a dict of the loss's parts: ``single``, ``multi`` and ``divergence``
    """
    singles = [single_scores(queries.single, targets.single, dim) for dim in matryoshka_dims]
    multi = late_scores(queries.multi, targets.multi)
    single_distribution, multi_distribution = (
        log_softmax((scores / temperature).masked_fill(excluded, -1e4), dim=-1) for scores in (singles[-1], multi)
    )
    return {
        "single": reduce(torch.add, (info_nce(scores, temperature, excluded) for scores in singles)) / len(singles),
        "multi": info_nce(multi, temperature, excluded),
        "divergence": kl_div(single_distribution, multi_distribution, log_target=True, reduction="batchmean"),
    }


def cosent(scores: torch.Tensor, grades: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """Computes CoSENT, a ranking loss by which pairs of higher grades must score higher.

    The paper uses it for text matching.

    Args:
        scores: a tensor ``(pairs,)`` of similarities
        grades: a tensor ``(pairs,)`` of graded similarities
        temperature: a tensor with the temperature

    Returns:
        the loss
    """
    differences = (scores[None, :] - scores[:, None]) / temperature
    wrong_if_positive = grades[:, None] > grades[None, :]
    return torch.logsumexp(torch.cat([differences.new_zeros(1), differences[wrong_if_positive]]), dim=0)
