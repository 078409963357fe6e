"""Reduces the rows of a page by averaging similar tokens (hierarchical token pooling, arXiv 2409.14683)."""

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

from ..engine.pooling import unit


def pool_tokens(multi_vector: np.ndarray, factor: int) -> np.ndarray:
    """Clusters a page's tokens by Ward's method, and averages each cluster.

    Args:
        multi_vector: a float32 array ``(tokens, 128)``, rows of length 1
        factor: the divisor of the number of rows. 1 keeps them all

    Returns:
        a float32 array of at most ``(ceil(tokens / factor), 128)``, rows of length 1
    """
    clusters = -(-len(multi_vector) // factor)
    if clusters >= len(multi_vector):
        return multi_vector

    labels = fcluster(linkage(multi_vector, method="ward"), clusters, criterion="maxclust")
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=0))
    return unit(np.add.reduceat(multi_vector[order], starts))
