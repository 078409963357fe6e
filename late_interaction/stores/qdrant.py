"""A store in Qdrant, for more pages than one machine holds.

Qdrant ranks pages on each shard: single vectors choose candidates by an HNSW graph, and MaxSim over multi-vectors ranks
them.
"""

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...integration.optional import import_optional
from .base import ID_DTYPE, VectorStore
from .page_table import check_dims
from .qdrant_texts import VECTOR, QdrantTexts

if TYPE_CHECKING:
    from ...engine.embeddings import Embeddings
    from ..query import Query

QUANTIZATIONS = ("scalar", "binary")

# By how many times more of the quantised vectors are compared than are wanted. The stored ones then rank those.
_OVERSAMPLING = {"scalar": 2.0, "binary": 4.0}

# Pages in one request. Full pages have 200 KB each.
_PAGES_AT_ONCE = 32
_IDS_AT_ONCE = 1000


class QdrantStore(VectorStore):
    """A collection of a Qdrant server.

    Args:
        uri: the server's URL, or a folder for qdrant-client's local mode, which needs no server
        name: the name of the collection, which is created when the first page is added
        api_key (None): the server's key
        quantization (None): how Qdrant rounds the vectors that it compares first: ``"scalar"``, to 8 bits, or
            ``"binary"``, to 1. The best by these are ranked by the stored vectors
    """

    def __init__(self, uri: str, name: str, api_key: str | None = None, quantization: str | None = None) -> None:
        qdrant_client = import_optional("qdrant_client", "qdrant", "store='qdrant'")
        self.models = qdrant_client.models
        self.name = name
        self._quantization = quantization
        self._is_server = "://" in uri
        if self._is_server:
            self.client = qdrant_client.QdrantClient(url=uri, api_key=api_key)
        else:
            self.client = qdrant_client.QdrantClient(path=uri)

    @property
    def texts(self) -> QdrantTexts:
        # Made for each use: if the two referred to each other, the client would stay open for longer.
        return QdrantTexts(self)

    def create(self) -> None:
        """Does nothing: the collection is created with the first page, whose vectors tell the dimensions."""

    def check(self) -> None:
        """Does nothing: an empty index has no collection, so a missing one is no error."""

    def repair(self) -> None:
        """Does nothing: Qdrant repairs its own files."""

    def damaged(self) -> list[str]:
        """Returns an empty list: Qdrant checks its own files."""
        return []

    def size(self) -> int:
        return self.client.count(self.name).count if self.exists() else 0

    def dims(self) -> tuple[int | None, int | None]:
        if not self.exists():
            return None, None

        vectors = self.client.get_collection(self.name).config.params.vectors
        return vectors["single"].size, vectors["multi"].size

    def ids(self) -> None:
        """Returns ``None``: there may be too many pages to list often."""
        return None

    def list_ids(self) -> tuple[np.ndarray, np.ndarray]:
        found, offset = [], None
        while self.exists():
            points, offset = self.client.scroll(self.name, limit=_IDS_AT_ONCE, offset=offset, with_payload=True)
            found += [(point.payload["id"], point.payload["sample_id"]) for point in points]
            if offset is None:
                break
        ids, sample_ids = zip(*found, strict=True) if found else ((), ())
        return np.array(ids, dtype=ID_DTYPE), np.array(sample_ids, dtype=ID_DTYPE)

    def missing(self, ids: Sequence[str]) -> list[str]:
        if not self.exists():
            return list(ids)

        found: set[str] = set()
        for part in _parts(ids, _IDS_AT_ONCE):
            points = self.client.retrieve(self.name, [self.point(page_id) for page_id in part], with_payload=False)
            found.update(str(uuid.UUID(str(point.id))) for point in points)
        return [page_id for page_id in ids if self.point(page_id) not in found]

    def add(
        self,
        ids: Sequence[str],
        sample_ids: Sequence[str],
        embeddings: "Embeddings",
        texts: Sequence[str | None] | None = None,
    ) -> None:
        given = {"single_dim": embeddings.single.shape[1], "multi_dim": embeddings.multi[0].shape[1]}
        if not self.exists():
            try:
                self._create(*given.values())
            except Exception:  # of many types, by the way in which it is reached
                # Another process that adds its first pages may have been faster.
                if not self.exists():
                    raise
        vectors = self.client.get_collection(self.name).config.params.vectors
        check_dims({"single_dim": vectors["single"].size, "multi_dim": vectors["multi"].size}, given)
        if texts is not None:
            self.texts.check_collection()

        for part in _parts(range(len(ids)), _PAGES_AT_ONCE):
            points = []
            for i in part:
                payload: dict = {"id": ids[i], "sample_id": sample_ids[i]}
                vector: dict = {"single": embeddings.single[i].tolist(), "multi": embeddings.multi[i].tolist()}
                if texts is not None:
                    of_payload, of_vector = self.texts.entry(texts[i])
                    payload |= of_payload
                    vector |= of_vector
                points.append(self.models.PointStruct(id=self.point(ids[i]), payload=payload, vector=vector))
            self.client.upsert(self.name, points)

    def remove(self, ids: Sequence[str]) -> None:
        if self.exists():
            for part in _parts(ids, _IDS_AT_ONCE):
                self.client.delete(
                    self.name, self.models.PointIdsList(points=[self.point(page_id) for page_id in part])
                )

    def single(self, ids: Sequence[str]) -> tuple[np.ndarray, list[str]]:
        points = self._points(ids, "single")
        vectors = np.array([point.vector["single"] for point in points], dtype=np.float32)
        return vectors, [point.payload["sample_id"] for point in points]

    def multi(self, ids: Sequence[str]) -> list[np.ndarray]:
        return [np.array(point.vector["multi"], dtype=np.float32) for point in self._points(ids, "multi")]

    def _points(self, ids, kind):
        points = {}
        for part in _parts(ids, _PAGES_AT_ONCE):
            found = self.client.retrieve(self.name, [self.point(page_id) for page_id in part], with_vectors=[kind])
            points.update({point.payload["id"]: point for point in found})
        return [points[page_id] for page_id in ids]

    def search(
        self,
        query: "Query",
        k: int | None = None,
        candidates: int | None = None,
        ids: Sequence[str] | None = None,
        reverse: bool = False,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        size = self.size()
        k = size if k is None else k
        if not size or not k or (ids is not None and not len(ids)):
            return np.array([]), np.array([]), np.array([])

        models = self.models
        id_filter = self.id_filter(ids)
        if query.multi is None:
            assert query.single is not None
            search = {"query": query.single.tolist(), "using": "single"}
        else:
            search = {"query": query.multi.tolist(), "using": "multi"}
            if candidates is not None and query.single is not None and max(candidates, k) < size:
                search["prefetch"] = models.Prefetch(
                    query=query.single.tolist(),
                    using="single",
                    limit=max(candidates, k),
                    filter=id_filter,
                    params=self._search_params(),
                )
        found = self.client.query_points(
            self.name, limit=k, query_filter=id_filter, search_params=self._search_params(), **search
        ).points
        return (
            np.array([point.payload["id"] for point in found]),
            np.array([point.payload["sample_id"] for point in found]),
            np.array([point.score for point in found]),
        )

    def drop(self) -> None:
        """Deletes the collection."""
        self.client.delete_collection(self.name)

    def exists(self) -> bool:
        """Returns whether the collection is there, which the first page creates."""
        return self.client.collection_exists(self.name)

    def point(self, page_id: str) -> str:
        """Converts a page's id, 24 hexadecimal digits, to a point's id, a UUID as Qdrant requires."""
        return str(uuid.UUID(page_id.rjust(32, "0")))

    def id_filter(self, ids: Sequence[str] | None) -> Any:
        """Returns Qdrant's filter for pages with given ids, ``None`` for all pages."""
        if ids is None:
            return None

        models = self.models
        return models.Filter(must=[models.HasIdCondition(has_id=[self.point(page_id) for page_id in ids])])

    def _search_params(self):
        if self._quantization is None:
            return None

        models = self.models
        oversampling = _OVERSAMPLING[self._quantization]
        return models.SearchParams(
            quantization=models.QuantizationSearchParams(rescore=True, oversampling=oversampling)
        )

    def _quantization_config(self, always_ram):
        models = self.models
        if self._quantization == "binary":
            return models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=always_ram))
        if self._quantization == "scalar":
            return models.ScalarQuantization(
                scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=always_ram)
            )
        return None

    def _create(self, single_dim, multi_dim):
        models = self.models
        self.client.create_collection(
            self.name,
            vectors_config={
                "single": models.VectorParams(
                    size=single_dim,
                    distance=models.Distance.DOT,
                    datatype=models.Datatype.FLOAT16,
                    on_disk=True,
                    # In memory, since each search compares them.
                    quantization_config=self._quantization_config(always_ram=True),
                ),
                "multi": models.VectorParams(
                    size=multi_dim,
                    distance=models.Distance.DOT,
                    datatype=models.Datatype.FLOAT16,
                    on_disk=True,
                    # No HNSW graph of multi-vectors, which would be large: candidates are compared one by one.
                    hnsw_config=models.HnswConfigDiff(m=0),
                    multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
                    quantization_config=self._quantization_config(always_ram=False),
                ),
            },
            sparse_vectors_config={VECTOR: models.SparseVectorParams(modifier=models.Modifier.IDF)},
        )
        if self._is_server:
            # Without it, a server reads all payloads to find a word.
            self.client.create_payload_index(self.name, "words", models.PayloadSchemaType.KEYWORD)


def _parts(items, size):
    for start in range(0, len(items), size):
        yield items[start : start + size]
