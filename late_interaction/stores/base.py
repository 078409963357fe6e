"""What an index asks of the place where its vectors are."""

import abc
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ...engine.encoder import Embeddings
    from ..query import Query


class VectorStore(abc.ABC):
    """Single vectors and multi-vectors of pages, by the pages' ids.

    An id is a string of 24 hexadecimal digits, as FiftyOne gives samples and labels. A page is a sample, or a patch in
    one: beside its vectors, the id of its sample is kept.

    What was added is there for every process once :meth:`add` returns, and a page is either there with both of its
    vectors or not at all, whenever a process is killed.
    """

    @abc.abstractmethod
    def create(self) -> None:
        """Prepares an index without pages."""

    @abc.abstractmethod
    def check(self) -> None:
        """Raises a ``FileNotFoundError`` where an index that was made is gone."""

    @abc.abstractmethod
    def repair(self) -> None:
        """Forgets the pages whose vectors are lost, and warns of them. They are missing then, and can be added anew."""

    @abc.abstractmethod
    def damaged(self) -> list[str]:
        """Compares all vectors with the checksums that were stored with them.

        Returns:
            a list of the ids of the pages that are lost or were changed. A store that another program keeps, which
            checks its own files, has none
        """

    @abc.abstractmethod
    def size(self) -> int:
        """Returns the number of pages."""

    @abc.abstractmethod
    def dims(self) -> tuple[int | None, int | None]:
        """Returns the dimensions of single and of multi-vectors, ``(None, None)`` while there are none."""

    @abc.abstractmethod
    def ids(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns what :meth:`list_ids` does, or ``None`` where there may be too many to list in passing."""

    @abc.abstractmethod
    def list_ids(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ids of all pages, and those of the samples that they are in: two arrays of strings."""

    @abc.abstractmethod
    def missing(self, ids: Sequence[str]) -> list[str]:
        """Returns those of a list of ids that are not in the index, a list in the same order."""

    @abc.abstractmethod
    def add(self, ids: Sequence[str], sample_ids: Sequence[str], embeddings: "Embeddings") -> None:
        """Adds pages. One that is there already is replaced.

        Args:
            ids: a list of the pages' ids
            sample_ids: a list of the ids of the samples that they are in
            embeddings: their :class:`engine.encoder.Embeddings`

        Raises:
            ValueError: if the vectors have other dimensions than those in the index
        """

    @abc.abstractmethod
    def remove(self, ids: Sequence[str]) -> None:
        """Removes pages. Ids that are not there are ignored."""

    @abc.abstractmethod
    def single(self, ids: Sequence[str]) -> tuple[np.ndarray, list[str]]:
        """Reads the single vectors of pages that are in the index.

        Args:
            ids: a list of ids

        Returns:
            a tuple of a float32 array ``(pages, dim)`` and a list of the ids of the samples that the pages are in
        """

    @abc.abstractmethod
    def multi(self, ids: Sequence[str]) -> list[np.ndarray]:
        """Reads the multi-vectors of pages that are in the index.

        Args:
            ids: a list of ids

        Returns:
            a list of float32 arrays ``(tokens_i, 128)``, as close to those that were added as the store's type allows
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
            candidates (None): the number of pages, at least ``k``, that single vectors choose for late interaction.
                ``None``: late interaction with all
            ids (None): the ids of the pages to search in, ``None`` for all
            reverse (False): whether to return the least similar pages. Then none are chosen by single vectors. A store
                may lack it

        Returns:
            a tuple of the ids, the sample ids and the scores, best first
        """

    @abc.abstractmethod
    def drop(self) -> None:
        """Deletes all that the index keeps."""
