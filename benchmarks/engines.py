"""Other engines' search by multi-vectors, in this process, on the pages that ``benchmarks/search.py`` makes.

They are installed by hand: ``pip install lancedb`` and ``pip install qdrant-edge-py``. A row says where one is missing.
fast-plaid asks for one version of torch, 2.11.0, and next-plaid has no package for Python but a server's client.
"""

import importlib
import shutil

import numpy as np

# Pages that are added at a time.
_AT_ONCE = 100


def engines(folder, multi, query, k):
    """Yields the name of each way to search, and a function that does, or ``None`` where its package is missing.

    What one has written is deleted before the next begins.

    Args:
        folder: a ``Path``
        multi: a list of the pages' float32 arrays ``(tokens, 128)``, all of one length
        query: a float32 array ``(tokens, 128)`` of length 1
        k: how many pages to find
    """
    for package, name, search in (("lancedb", "lancedb", lancedb), ("qdrant_edge", "Qdrant Edge", qdrant_edge)):
        try:
            importlib.import_module(package)
        except ImportError:
            yield f"{name}: not installed", None
        else:
            yield from search(folder / package, multi, query, k)
            shutil.rmtree(folder / package, ignore_errors=True)


def lancedb(folder, multi, query, k):
    """Its search by multi-vectors, and the time to read all pages by their rows."""
    import lancedb
    import pyarrow as pa

    table = None
    for start in range(0, len(multi), _AT_ONCE):
        chosen = [vectors.astype(np.float16) for vectors in multi[start : start + _AT_ONCE]]
        rows = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(chosen).ravel()), query.shape[1])
        offsets = pa.array(np.cumsum([0, *map(len, chosen)]), pa.int32())
        columns = pa.table({"id": range(start, start + len(chosen)), "multi": pa.ListArray.from_arrays(offsets, rows)})
        if table is None:
            table = lancedb.connect(folder).create_table("pages", columns)
        else:
            table.add(columns)
    search = table.search(query, vector_column_name="multi").distance_type("cosine").limit(k)
    yield f"lancedb {lancedb.__version__}, its search by multi-vectors", search.to_arrow
    numbers = list(range(len(multi)))
    yield "lancedb, reading all pages by their rows", lambda: table.take_offsets(numbers).to_arrow()


def qdrant_edge(folder, multi, query, k):
    """Qdrant's engine, exact in float16, and by its own bits with candidates that float16 ranks."""
    import qdrant_edge as edge

    for name, bits in (("exact", None), ("by bits, ranked by float16", edge.BinaryQuantizationConfig(always_ram=True))):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        vectors = edge.EdgeVectorParams(
            size=query.shape[1],
            distance=edge.Distance.Dot,
            on_disk=True,
            multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
            datatype=edge.VectorStorageDatatype.Float16,
            quantization_config=bits,
            # No graph.
            hnsw_config=edge.HnswIndexConfig(m=0, ef_construct=4, full_scan_threshold=10),
        )
        shard = edge.EdgeShard.create(str(folder), edge.EdgeConfig(vectors={"multi": vectors}))
        for start in range(0, len(multi), _AT_ONCE):
            points = [
                edge.Point(start + i, {"multi": vectors.tolist()})
                for i, vectors in enumerate(multi[start : start + _AT_ONCE])
            ]
            shard.update(edge.UpdateOperation.upsert_points(points))
        shard.optimize()
        asked = edge.QueryRequest(limit=k, query=edge.Query.Nearest(query.tolist(), using="multi"))
        yield f"Qdrant Edge, {name}", lambda shard=shard, asked=asked: shard.query(asked)
        shard.close()
