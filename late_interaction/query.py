"""What is searched for."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..engine.pooling import unit

if TYPE_CHECKING:
    from ..engine.encoder import Embeddings


@dataclass(frozen=True)
class Query:
    """A query, of one prompt or page or of several.

    The score of a page is the mean cosine of the query's tokens with their best matches on the page (MaxSim, ColBERT,
    arXiv 2004.12832, divided by the number of tokens). It lies in ``[-1, 1]``. The score by several prompts is the
    mean of the scores by each. Both divisions are made here, once, in the lengths of the rows: a page's score is the
    plain sum of its best products, whoever computes it.

    Args:
        multi: a float32 array ``(tokens, 128)``, or ``None`` where there is a single vector alone
        single: a float32 array ``(dim,)``, whose product with a page's single vector is their cosine, or the mean of
            the cosines of several. ``None`` where there is a multi-vector alone
    """

    multi: np.ndarray | None
    single: np.ndarray | None

    @classmethod
    def from_embeddings(cls, embeddings: "Embeddings") -> "Query":
        """Makes the query of several prompts or pages.

        Args:
            embeddings: the :class:`engine.encoder.Embeddings` of at least one

        Returns:
            a :class:`Query`
        """
        rows = [multi / (len(multi) * len(embeddings)) for multi in embeddings.multi]
        return cls(np.concatenate(rows).astype(np.float32), embeddings.single.mean(axis=0))

    @classmethod
    def from_vectors(cls, vectors: np.ndarray, single_dim: int | None, multi_dim: int | None) -> "Query":
        """Makes the query of vectors that a person computed.

        Args:
            vectors: a single vector ``(single_dim,)``, a multi-vector ``(tokens, multi_dim)``, or several single
                vectors ``(queries, single_dim)``, whose scores are averaged
            single_dim: the dimensions of the index's single vectors
            multi_dim: the dimensions of the index's multi-vectors

        Returns:
            a :class:`Query`

        Raises:
            ValueError: if the vectors have other dimensions
        """
        vectors = np.asarray(vectors, dtype=np.float32)
        if vectors.ndim == 2 and vectors.shape[1] == multi_dim:
            return cls(unit(vectors) / len(vectors), None)
        if vectors.ndim in (1, 2) and vectors.shape[-1] == single_dim:
            return cls(None, unit(np.atleast_2d(vectors)).mean(axis=0))

        raise ValueError(
            f"Expected a single vector of {single_dim} dimensions or a multi-vector (tokens, {multi_dim}), found an "
            f"array {vectors.shape}"
        )
