"""The interface between an index and the store that keeps its vectors."""

import abc
from collections.abc import Sequence, Set
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ...engine.embeddings import Embeddings
    from ..query import Query
    from ..words import Phrase

# numpy's dtype of ids.
ID_DTYPE = "U24"


class TextIndex(abc.ABC):
    """The words of the pages of a store. They go with the pages: a page that is removed is not found by its words.

    A phrase is a tuple of words that follow each other, as :func:`late_interaction.words.words_of` returns them.
    """

    @abc.abstractmethod
    def write(self, ids: Sequence[str], texts: Sequence[str | None]) -> None:
        """Writes the texts of pages, and replaces those that are there. Pages that are not in the store are ignored.

        Args:
            ids: a list of the pages' ids
            texts: a list of their texts, ``None`` for a page without text
        """

    @abc.abstractmethod
    def without(self) -> list[str]:
        """Returns the ids of the store's pages whose text was never written."""

    @abc.abstractmethod
    def count(self, phrases: "Sequence[Phrase]") -> list[int]:
        """Returns the number of pages that have each of some phrases."""

    @abc.abstractmethod
    def find(self, phrases: "Sequence[Phrase]") -> list[tuple[str, str]]:
        """Finds the pages that have all of some phrases, at least one.

        Returns:
            a list of tuples of the pages' ids and the ids of their samples
        """

    @abc.abstractmethod
    def rank(self, phrases: "Sequence[Phrase]", k: int, ids: Set[str] | None = None) -> list[tuple[str, str, float]]:
        """Ranks the pages that have at least one of some phrases, by BM25.

        Args:
            phrases: the phrases, at least one
            k: the most pages to return
            ids (None): the ids of the pages to search in, ``None`` for all

        Returns:
            a list of tuples of the pages' ids, the ids of their samples and their scores, best first
        """


class VectorStore(abc.ABC):
    """Keeps the single vector and the multi-vector of each page under the page's id.

    An id is a string of 24 hexadecimal digits, as FiftyOne gives samples and labels. A page is a sample or a patch. The
    id of its sample is kept, too.

    Once :meth:`add` returns, every process sees the added pages. Whenever a process is killed, a page is stored with
    both of its vectors, and with its words, or not at all.
    """

    @property
    @abc.abstractmethod
    def texts(self) -> TextIndex:
        """The words of the pages."""

    @abc.abstractmethod
    def create(self) -> None:
        """Creates an empty index."""

    @abc.abstractmethod
    def check(self) -> None:
        """Raises a ``FileNotFoundError`` if the index was created, but is gone."""

    @abc.abstractmethod
    def repair(self) -> None:
        """Removes the pages whose vectors are lost, with a warning. They can be added again."""

    @abc.abstractmethod
    def damaged(self) -> list[str]:
        """Compares all vectors with the checksums that were stored with them.

        Returns:
            a list of the ids of the pages whose vectors are lost or changed. It is empty for a store whose server
            checks its own files
        """

    @abc.abstractmethod
    def size(self) -> int:
        """Returns the number of pages."""

    @abc.abstractmethod
    def dims(self) -> tuple[int | None, int | None]:
        """Returns the dimensions of single vectors and of multi-vectors, ``(None, None)`` for an empty index."""

    @abc.abstractmethod
    def ids(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns what :meth:`list_ids` does, or ``None`` if there may be too many pages to list often."""

    @abc.abstractmethod
    def list_ids(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ids of all pages and the ids of their samples, two arrays of strings."""

    @abc.abstractmethod
    def missing(self, ids: Sequence[str]) -> list[str]:
        """Returns a list of the given ids that are not in the index, in the given order."""

    @abc.abstractmethod
    def add(
        self,
        ids: Sequence[str],
        sample_ids: Sequence[str],
        embeddings: "Embeddings",
        texts: Sequence[str | None] | None = None,
    ) -> None:
        """Adds pages. A page whose id is in the index is replaced.

        Args:
            ids: a list of the pages' ids
            sample_ids: a list of the ids of the pages' samples
            embeddings: their :class:`engine.embeddings.Embeddings`
            texts (None): a list of the pages' texts, ``None`` for a page without text, if their words are to be found

        Raises:
            ValueError: if the vectors do not have the index's dimensions
        """

    @abc.abstractmethod
    def remove(self, ids: Sequence[str]) -> None:
        """Removes pages. Ids that are not in the index are ignored."""

    @abc.abstractmethod
    def single(self, ids: Sequence[str]) -> tuple[np.ndarray, list[str]]:
        """Reads the single vectors of pages that are in the index.

        Args:
            ids: a list of ids

        Returns:
            a tuple of a float32 array ``(pages, dim)`` and a list of the ids of the pages' samples
        """

    @abc.abstractmethod
    def multi(self, ids: Sequence[str]) -> list[np.ndarray]:
        """Reads the multi-vectors of pages that are in the index.

        Args:
            ids: a list of ids

        Returns:
            a list of float32 arrays ``(tokens_i, 128)``, rounded to the store's dtype
        """

    @abc.abstractmethod
    def search(
        self,
        query: "Query",
        k: int | None = None,
        candidates: int | None = None,
        ids: Sequence[str] | None = None,
        reverse: bool = False,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ranks pages.

        Args:
            query: a :class:`late_interaction.query.Query`
            k (None): the number of pages to return, ``None`` for all
            candidates (None): the number of pages, at least ``k``, that single vectors, or what the store has in their
                place, choose for late interaction to rank. ``None``: late interaction ranks all
            ids (None): the ids of the pages to search in, ``None`` for all
            reverse (False): whether to return the least similar pages. Then late interaction ranks all. A store need
                not support it

        Returns:
            a tuple of the ids, the sample ids and the scores, best first
        """

    @abc.abstractmethod
    def drop(self) -> None:
        """Deletes the index."""
