"""Qdrant's own engine, as a server would run it, once its optimizer has built what searches read."""

import numpy as np
import pytest
import qdrant_client
from jina_embeddings_v4.engine.embeddings import Embeddings
from jina_embeddings_v4.late_interaction.query import Query
from jina_embeddings_v4.late_interaction.stores.qdrant import QdrantStore

from ...support.edge_client import EdgeClient

PAGES, SINGLE, MULTI = 300, 64, 128


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def page_ids(start, stop):
    return [f"{i:024x}" for i in range(start, stop)]


@pytest.fixture(scope="module")
def pages():
    random = np.random.default_rng(0)
    multi = [unit(random.standard_normal((length, MULTI))) for length in random.integers(5, 12, size=PAGES)]
    return Embeddings(unit(random.standard_normal((PAGES, SINGLE))), multi)


@pytest.fixture(params=[None, "scalar", "binary"])
def store(request, tmp_path, pages, monkeypatch):
    monkeypatch.setattr(qdrant_client, "QdrantClient", EdgeClient)
    store = QdrantStore(str(tmp_path), "pages", quantization=request.param)
    store.add(page_ids(0, PAGES), page_ids(0, PAGES), pages)
    # A page that the optimizer leaves behind is found by its stored vectors alone.
    assert store.client.optimize("pages") >= PAGES
    return store


def near(pages, i, noise=0.2):
    """A query that is nearest to one page by both of its vectors."""
    random = np.random.default_rng(i)
    single = unit(pages.single[i] + noise * unit(random.standard_normal(SINGLE)))
    multi = unit(pages.multi[i][:4] + noise * unit(random.standard_normal((4, MULTI))))
    return Query.from_embeddings(Embeddings(single[None], [multi]))


def by_hand(pages, query):
    return np.array([np.sum((rows.astype(np.float64) @ query.multi.T).max(axis=0)) for rows in pages.multi])


def test_pages_are_ranked_by_maxsim_of_the_stored_vectors(store, pages):
    for i in (0, 7, PAGES - 1):
        query = near(pages, i)
        scores = by_hand(pages, query)
        for candidates in (None, 30):
            found, samples, found_scores = store.search(query, k=5, candidates=candidates)
            assert found[0] == samples[0] == page_ids(i, i + 1)[0]
            # Whatever chose them, the scores are those of the stored vectors.
            own = [scores[int(page_id, 16)] for page_id in found]
            np.testing.assert_allclose(found_scores, own, atol=5e-3)
            assert list(found_scores) == sorted(found_scores, reverse=True)


def test_candidates_and_filters_hold_in_each_stage(store, pages):
    query = near(pages, 3)
    within = page_ids(100, 160)
    singles = pages.single[100:160] @ query.single
    chosen = {within[i] for i in np.argsort(-singles)[:40]}
    found, _, _ = store.search(query, k=10, candidates=40, ids=within)
    assert len(found) == 10
    if store._quantization is None:
        assert set(found) <= chosen
    assert set(found) <= set(within)


def test_quantisation_reaches_the_engine(store):
    asked = store.client._collections["pages"][1].vectors
    for kind in ("single", "multi"):
        assert (asked[kind].quantization_config is None) == (store._quantization is None)
    assert (store._search_params() is None) == (store._quantization is None)
