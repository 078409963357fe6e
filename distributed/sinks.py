"""Where the vectors go. A sink is sent to each worker, and opens its database or store there.

A sink takes a block of vectors as a whole, and a block that it has is written over with the same vectors. So a block
that runs twice counts once, and what is missing after a crash is what the sink says is missing.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..engine.embeddings import Embeddings
    from ..late_interaction.stores.base import VectorStore
    from ..zoo import JinaV4

# MongoDB limits a query to 16 MB.
_IDS_AT_ONCE = 100_000


class Sink(abc.ABC):
    """Keeps the vectors of images under the ids of their samples.

    Attributes:
        dataset: the name of the samples' dataset
        task: the task whose embeddings it takes, or ``None`` for the model's own
    """

    dataset: str
    task: str | None

    @cached_property
    def _samples(self):
        import fiftyone as fo

        return fo.load_dataset(self.dataset)

    @abc.abstractmethod
    def open(self) -> None:
        """Opens what is written to, once a worker's environment is set.

        Raises:
            FileNotFoundError: if this machine cannot reach it
        """

    @abc.abstractmethod
    def missing(self, ids: Sequence[str]) -> list[str]:
        """Returns a list of the given ids of samples that have no vectors."""

    @abc.abstractmethod
    def write(self, ids: Sequence[str], embeddings: "Embeddings", model: "JinaV4") -> None:
        """Commits vectors.

        Args:
            ids: the ids of the samples
            embeddings: their :class:`engine.embeddings.Embeddings`
            model: the model that made them
        """

    def __getstate__(self) -> dict[str, Any]:
        # What is opened stays in its process.
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]


@dataclasses.dataclass
class FieldSink(Sink):
    """A field of a dataset, for single vectors.

    Args:
        dataset: the dataset's name
        field: the name of the field, which exists
        task (None): see :class:`Sink`
        width (None): the dimensions of the vectors that are in the field, or ``None`` if it is empty
    """

    dataset: str
    field: str
    task: str | None = None
    width: int | None = None

    def open(self) -> None:
        self._samples  # noqa: B018, a cached property that connects

    def missing(self, ids: Sequence[str]) -> list[str]:
        found: list[str] = []
        for start in range(0, len(ids), _IDS_AT_ONCE):
            part = self._samples.select(ids[start : start + _IDS_AT_ONCE])
            found += part.exists(self.field, False).values("id")
        return found

    def write(self, ids: Sequence[str], embeddings: "Embeddings", model: "JinaV4") -> None:
        vectors = model._vectors(embeddings)
        if self.width not in (None, vectors.shape[1]):
            raise ValueError(
                f"Field {self.field!r} holds vectors of {self.width} dimensions, and the model gives "
                f"{vectors.shape[1]}: use the model with which it was begun, or choose another field"
            )
        # Of samples that were deleted meanwhile, nothing is written.
        by_id = dict(zip(ids, vectors, strict=True))
        view = self._samples.select(list(ids))
        view.set_values(self.field, [by_id[sample_id] for sample_id in view.values("id")])


@dataclasses.dataclass
class IndexSink(Sink):
    """A late-interaction index, for both kinds of vectors.

    Args:
        dataset: the dataset's name
        config: the index's configuration, as FiftyOne stores it with the run
        api_key (None): the key of a Qdrant server, which is not stored
    """

    dataset: str
    config: Mapping[str, Any]
    api_key: str | None = None
    task: str | None = None

    @cached_property
    def _opened(self) -> "tuple[VectorStore, int]":
        from ..late_interaction.similarity import LateInteractionSimilarityConfig

        config = LateInteractionSimilarityConfig.from_dict(dict(self.config))
        config.api_key = self.api_key
        return config.open_store(), config.pool_factor

    def open(self) -> None:
        import socket

        try:
            self._opened[0].check()
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error}. If it is there on other machines: {socket.gethostname()} must see the same folder, so pass "
                "as uri=... a folder of a file system that all machines share, or use store='qdrant'"
            ) from error

    def missing(self, ids: Sequence[str]) -> list[str]:
        return self._opened[0].missing(ids)

    def write(self, ids: Sequence[str], embeddings: "Embeddings", model: "JinaV4") -> None:
        from ..engine.embeddings import Embeddings
        from ..late_interaction.text_fields import read_texts
        from ..late_interaction.token_pooling import pool_tokens

        store, factor = self._opened
        multi = [pool_tokens(rows, factor) for rows in embeddings.multi]
        field = self.config.get("text_field")
        texts = None if field is None else read_texts(self._samples, field, ids)
        store.add(list(ids), list(ids), Embeddings(embeddings.single, multi), texts)
