"""Qdrant's own engine behind the methods of ``QdrantClient`` that the store calls.

Qdrant Edge is the server's engine as a library: MaxSim, prefetches, filters and quantisation are the server's, and not
the client's imitation of them in numpy. What is between a client and a server is not here: HTTP, keys, shards.
"""

import shutil
from pathlib import Path
from types import SimpleNamespace

import qdrant_edge as edge
from qdrant_client import models

# KB of vectors from which the optimizer builds what a search reads: graphs and quantised vectors.
_INDEXED_FROM = 1


class EdgeClient:
    """A client whose collections are shards in a folder.

    Args:
        path: the folder
    """

    def __init__(self, path):
        self._folder = Path(path)
        self._collections = {}

    def collection_exists(self, name):
        return name in self._collections

    def create_collection(self, name, vectors_config, sparse_vectors_config):
        vectors = {kind: _vector_params(params) for kind, params in vectors_config.items()}
        optimizers = edge.EdgeOptimizersConfig(indexing_threshold=_INDEXED_FROM)
        assert all(params.modifier == models.Modifier.IDF for params in sparse_vectors_config.values())
        sparse = {kind: edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf) for kind in sparse_vectors_config}
        config = edge.EdgeConfig(vectors=vectors, sparse_vectors=sparse, optimizers=optimizers)
        shard = edge.EdgeShard.create(str(self._folder / name), config)
        self._collections[name] = shard, SimpleNamespace(vectors=vectors_config, sparse_vectors=sparse_vectors_config)

    def delete_collection(self, name):
        if name in self._collections:
            self._collections.pop(name)[0].close()
            shutil.rmtree(self._folder / name)

    def get_collection(self, name):
        return SimpleNamespace(config=SimpleNamespace(params=self._collections[name][1]))

    def optimize(self, name):
        """Does at once what a server does in the background. Returns the number of vectors that were indexed."""
        self._shard(name).optimize()
        return self._shard(name).info().indexed_vectors_count

    def count(self, name, count_filter=None):
        request = edge.CountRequest(exact=True, filter=_filter(count_filter))
        return SimpleNamespace(count=self._shard(name).count(request))

    def scroll(self, name, limit, offset, with_payload, scroll_filter=None):
        request = edge.ScrollRequest(
            limit=limit, offset=offset, with_payload=with_payload, filter=_filter(scroll_filter)
        )
        return self._shard(name).scroll(request)

    def retrieve(self, name, ids, with_payload=True, with_vectors=False):
        return self._shard(name).retrieve(ids, with_payload, with_vectors)

    def upsert(self, name, points):
        points = [edge.Point(point.id, _vectors(point.vector), point.payload) for point in points]
        self._shard(name).update(edge.UpdateOperation.upsert_points(points))

    def update_vectors(self, name, points):
        points = [edge.PointVectors(point.id, _vectors(point.vector)) for point in points]
        self._shard(name).update(edge.UpdateOperation.update_vectors(points))

    def set_payload(self, name, payload, points):
        self._shard(name).update(edge.UpdateOperation.set_payload(points, payload))

    def delete(self, name, selector):
        self._shard(name).update(edge.UpdateOperation.delete_points(selector.points))

    def query_points(self, name, query, using, limit, query_filter=None, prefetch=None, search_params=None):
        prefetches = []
        if prefetch is not None:
            prefetches = [
                edge.Prefetch(
                    limit=prefetch.limit,
                    query=edge.Query.Nearest(prefetch.query, using=prefetch.using),
                    filter=_filter(prefetch.filter),
                    params=_search_params(prefetch.params),
                )
            ]
        request = edge.QueryRequest(
            limit=limit,
            query=edge.Query.Nearest(_vector(query), using=using),
            prefetches=prefetches,
            filter=_filter(query_filter),
            params=_search_params(search_params),
            with_payload=True,
        )
        return SimpleNamespace(points=self._shard(name).query(request))

    def _shard(self, name):
        return self._collections[name][0]


def _vector_params(params):
    assert params.distance == models.Distance.DOT and params.datatype == models.Datatype.FLOAT16
    multi = hnsw = None
    if params.multivector_config is not None:
        assert params.multivector_config.comparator == models.MultiVectorComparator.MAX_SIM
        multi = edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim)
    if params.hnsw_config is not None:
        hnsw = edge.HnswIndexConfig(m=params.hnsw_config.m, ef_construct=100, full_scan_threshold=10_000)
    return edge.EdgeVectorParams(
        size=params.size,
        distance=edge.Distance.Dot,
        datatype=edge.VectorStorageDatatype.Float16,
        on_disk=params.on_disk,
        multivector_config=multi,
        hnsw_config=hnsw,
        quantization_config=_quantization(params.quantization_config),
    )


def _quantization(config):
    if isinstance(config, models.BinaryQuantization):
        return edge.BinaryQuantizationConfig(always_ram=config.binary.always_ram)
    if isinstance(config, models.ScalarQuantization):
        return edge.ScalarQuantizationConfig(edge.ScalarType.Int8, always_ram=config.scalar.always_ram)
    assert config is None
    return None


def _vectors(vectors):
    return {kind: _vector(vector) for kind, vector in vectors.items()}


def _vector(vector):
    if isinstance(vector, models.SparseVector):
        return edge.SparseVector(vector.indices, vector.values)
    return vector


def _filter(wanted):
    if wanted is None:
        return None
    return edge.Filter(must=_conditions(wanted.must), must_not=_conditions(wanted.must_not))


def _conditions(conditions):
    return [
        edge.HasIdCondition(set(condition.has_id))
        if isinstance(condition, models.HasIdCondition)
        else edge.FieldCondition(condition.key, match=edge.MatchValue(condition.match.value))
        for condition in conditions or ()
    ]


def _search_params(params):
    if params is None or params.quantization is None:
        return None
    wanted = params.quantization
    quantization = edge.QuantizationSearchParams(rescore=wanted.rescore, oversampling=wanted.oversampling)
    return edge.SearchParams(quantization=quantization)
