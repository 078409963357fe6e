"""The query of a search: its vectors, and its words."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..engine.pooling import unit
from .words import Words

if TYPE_CHECKING:
    from ..engine.embeddings import Embeddings


@dataclass(frozen=True)
class TextQuery:
    """A text query of an index with words.

    Args:
        words: the :class:`late_interaction.words.Words` that it asks for
        embeddings: its :class:`engine.embeddings.Embeddings`, or ``None`` to search by words alone
    """

    words: Words
    embeddings: "Embeddings | None"


@dataclass(frozen=True)
class Query:
    """A query of one or more prompts or pages.

    The score of a page is the mean cosine of the query's tokens with their best matches on the page (MaxSim, ColBERT,
    arXiv 2004.12832, divided by the number of tokens). It lies in ``[-1, 1]``. The score of several prompts is the mean
    of their scores. The rows are scaled by both divisors here, so that a store computes a page's score as the plain sum
    of the best dot products.

    Args:
        multi: a float32 array ``(tokens, 128)``, or ``None`` if there is only a single vector
        single: a float32 array ``(dim,)``, whose dot product with a page's single vector is their cosine, or the mean
            cosine of several prompts. ``None`` if there is only a multi-vector. One of the two is given
    """

    multi: np.ndarray | None
    single: np.ndarray | None

    @classmethod
    def from_embeddings(cls, embeddings: "Embeddings") -> "Query":
        """Makes a query of prompts or pages.

        Args:
            embeddings: their :class:`engine.embeddings.Embeddings`, at least one

        Returns:
            a :class:`Query`
        """
        rows = [multi / (len(multi) * len(embeddings)) for multi in embeddings.multi]
        return cls(np.concatenate(rows).astype(np.float32), embeddings.single.mean(axis=0))

    @classmethod
    def from_vectors(cls, vectors: np.ndarray, single_dim: int | None, multi_dim: int | None) -> "Query":
        """Makes a query of an array of vectors.

        Args:
            vectors: a single vector ``(single_dim,)``, a multi-vector ``(tokens, multi_dim)``, or several single
                vectors ``(queries, single_dim)``, whose scores are averaged
            single_dim: the dimensions of the index's single vectors
            multi_dim: the dimensions of the index's multi-vectors

        Returns:
            a :class:`Query`

        Raises:
            ValueError: if the array does not have one of these shapes
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
