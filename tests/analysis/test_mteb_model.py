"""The model in mteb's own evaluation, on tasks that are made here, against this project's own measures."""

import functools
import importlib.util
import io
import os
import random
import shutil
import socket
import sys
import threading
from pathlib import Path

import datasets
import mteb
import numpy as np
import pytest
from jina_embeddings_v4.analysis import mteb_model
from jina_embeddings_v4.analysis.mteb_model import JinaV4Mteb, adapter_for
from jina_embeddings_v4.demo.data import Page, page_queries
from jina_embeddings_v4.demo.pages.documents import documents
from jina_embeddings_v4.demo.pages.phrases import caption, phrase
from jina_embeddings_v4.demo.pages.programs import describe, programs
from jina_embeddings_v4.demo.pages.rendering import draw_document
from jina_embeddings_v4.engine.checkpoint import REPOSITORY, REVISION
from jina_embeddings_v4.engine.encoder import Encoder
from mteb.abstasks import AbsTaskRetrieval, AbsTaskSTS
from scipy.stats import spearmanr

from benchmarks.quality import late_scores, ndcg

DEMO = Path(__file__).parents[2] / "demo" / "checkpoint"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Fails a test in which anything but FiftyOne's threads, which talk to MongoDB, connects to anything."""
    attempts, connect = [], socket.socket.connect

    def watched(self, address):
        if threading.current_thread() is threading.main_thread():
            attempts.append(address)
            raise OSError(f"no network in this test: {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", watched)
    yield
    assert not attempts


@pytest.fixture(scope="module")
def demo():
    return Encoder.from_checkpoint(DEMO, device="cpu", precision="float32")


@pytest.fixture
def calls(demo, monkeypatch):
    """The calls of the demo model's encoder: which method, how many inputs, the adapter and the prompt's name."""
    calls = []

    def spy(method, encode, inputs, **kwargs):
        calls.append((method, len(inputs), kwargs["task"], kwargs.get("prompt_name")))
        return encode(inputs, **kwargs)

    for method in ("encode_texts", "encode_images"):
        monkeypatch.setattr(demo, method, functools.partial(spy, method, getattr(demo, method)))
    return calls


def ids(prefix, count):
    return [f"{prefix}{i:03}" for i in range(count)]


def metadata(kind, name, category, modalities, main_score, domains=()):
    return mteb.TaskMetadata(
        name=name,
        description="made for a test",
        reference="https://example.org",
        dataset={"path": "local", "revision": "1"},
        type=kind,
        category=category,
        modalities=modalities,
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=main_score,
        domains=list(domains),
    )


def retrieval_task(corpus, queries, relevant, kind, name="LocalRetrieval", top_ranked=None, **kwargs):
    """A retrieval task of mteb's.

    Args:
        corpus: a dict with the lists ``text``, ``image`` or both
        queries: the list of the queries
        relevant: a bool array ``(queries, documents)``
        kind: mteb's type of task
        top_ranked (None): a dict of the ids of the documents to rank, by query
        **kwargs: ``domains``
    """

    class LocalRetrieval(AbsTaskRetrieval):
        def load_data(self, **_):
            self.dataset = {
                "default": {
                    "test": {
                        "corpus": dataset({"id": ids("d", relevant.shape[1]), **corpus}),
                        "queries": dataset({"id": ids("q", len(queries)), "text": queries}),
                        "relevant_docs": {
                            f"q{i:03}": {f"d{j:03}": 1 for j in np.flatnonzero(row)} for i, row in enumerate(relevant)
                        },
                        "top_ranked": top_ranked,
                    }
                }
            }
            self.data_loaded = True

    documents = {("text",): "t", ("image",): "i", ("text", "image"): "it"}[tuple(corpus)]
    modalities = ["text", "image"] if "image" in corpus else ["text"]
    LocalRetrieval.metadata = metadata(kind, name, f"t2{documents}", modalities, "ndcg_at_5", **kwargs)
    return LocalRetrieval()


def dataset(columns):
    image = {"image": datasets.Image()} if "image" in columns else {}
    features = {name: image.get(name, datasets.Value("string")) for name in columns}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def evaluate(model, task, cache=None):
    (result,) = mteb.evaluate(
        model, task, cache=cache, encode_kwargs={"batch_size": 16, "show_progress_bar": False}, co2_tracker=False
    ).task_results
    return result.scores["test"][0]


def all_scores(model, task, monkeypatch):
    """The scores of all documents, as mteb gets them while it evaluates the model."""
    scores, similarity = [], model.similarity

    def recorded(queries, documents):
        scores.append(similarity(queries, documents))
        return scores[-1]

    monkeypatch.setattr(model, "similarity", recorded)
    evaluate(model, task)
    return np.concatenate(scores, axis=1)


def recall(scores, relevant, k=10):
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.mean([row[found].sum() / row.sum() for row, found in zip(relevant, best, strict=True)])


class Search:
    """Sixty test pages, and a query for each."""

    def __init__(self):
        described = list(documents("test", 40_000, 40_060))
        self.images = [draw_document(document, i) for i, document in enumerate(described)]
        self.captions = [caption(document) for document in described]
        pages = [Page(40_000 + i, document, None) for i, document in enumerate(described)]
        queries, facts = page_queries(pages, "mteb")
        self.queries = list(queries)
        self.relevant = np.array([[document.satisfies(asked) for document in described] for asked in facts])

    def task(self, kind="DocumentUnderstanding", **kwargs):
        return retrieval_task({"image": self.images}, self.queries, self.relevant, kind, **kwargs)


@pytest.fixture(scope="module")
def search():
    return Search()


@pytest.fixture(scope="module")
def embedded(demo, search):
    """The queries and the pages, embedded as README tells it."""
    return demo.encode_texts(search.queries), demo.encode_images(search.images)


def test_page_retrieval_by_single_vectors(demo, search, embedded, calls):
    queries, pages = (embeddings.single for embeddings in embedded)
    found = evaluate(JinaV4Mteb(demo, batch_size=25, corpus_chunk_size=40), search.task())
    assert found["ndcg_at_5"] == pytest.approx(ndcg(queries @ pages.T, search.relevant), abs=1e-5)
    assert found["recall_at_10"] == pytest.approx(recall(queries @ pages.T, search.relevant), abs=1e-5)
    assert found["main_score"] == found["ndcg_at_5"] > 0.7
    assert calls == [
        *(("encode_texts", count, "retrieval", "query") for count in (25, 25, 10)),
        *(("encode_images", count, "retrieval", None) for count in (25, 15, 20)),
    ]


def test_page_retrieval_by_late_interaction(demo, search, embedded, calls):
    scores = late_scores(*(embeddings.multi for embeddings in embedded))
    found = evaluate(JinaV4Mteb(demo, late_interaction=True, corpus_chunk_size=40), search.task())
    assert found["ndcg_at_5"] == pytest.approx(ndcg(scores, search.relevant), abs=1e-5)
    assert found["recall_at_10"] == pytest.approx(recall(scores, search.relevant), abs=1e-5)
    assert {call[2] for call in calls} == {"retrieval"}


def test_reranking_by_late_interaction(demo, search, embedded):
    scores = late_scores(*(embeddings.multi for embeddings in embedded))
    candidates = np.random.default_rng(0).permuted(np.tile(np.arange(60), (60, 1)), axis=1)[:, :20]
    given = np.zeros((60, 60), bool)
    np.put_along_axis(given, candidates, True, axis=1)
    top_ranked = {f"q{i:03}": [f"d{j:03}" for j in row] for i, row in enumerate(candidates)}
    found = evaluate(JinaV4Mteb(demo, late_interaction=True), search.task(kind="Reranking", top_ranked=top_ranked))
    assert found["ndcg_at_5"] == pytest.approx(ndcg(np.where(given, scores, -2), search.relevant), abs=1e-5)


@pytest.mark.parametrize("late_interaction", [False, True])
def test_pages_with_their_text_are_embedded_as_both(demo, search, late_interaction, monkeypatch):
    corpus = {"text": search.captions[:9], "image": [*search.images[:8], None]}
    task = retrieval_task(corpus, search.queries[:5], np.eye(5, 9, dtype=bool), "DocumentUnderstanding")
    found = all_scores(JinaV4Mteb(demo, late_interaction=late_interaction, corpus_chunk_size=4), task, monkeypatch)

    queries = demo.encode_texts(search.queries[:5], task="retrieval")
    texts = demo.encode_texts(search.captions[:9], task="retrieval", prompt_name="passage")
    images = demo.encode_images(search.images[:8], task="retrieval")
    if late_interaction:
        both = [np.vstack(rows) for rows in zip(texts.multi, images.multi, strict=False)]
        # mteb's MaxSim is the sum, and this project's the mean.
        tokens = np.array([len(query) for query in queries.multi])
        expected = late_scores(queries.multi, [*both, texts.multi[8]]) * tokens[:, None]
    else:
        both = texts.single.copy()
        both[:8] += images.single
        expected = queries.single @ (both / np.linalg.norm(both, axis=1, keepdims=True)).T
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_pages_may_be_shown_at_another_size(demo, search, monkeypatch):
    task = retrieval_task({"image": search.images[:4]}, search.queries[:4], np.eye(4, dtype=bool), "Any2AnyRetrieval")
    found = all_scores(JinaV4Mteb(demo, max_pixels=20_000), task, monkeypatch)
    pages = demo.encode_images(search.images[:4], max_pixels=20_000).single
    np.testing.assert_allclose(found, demo.encode_texts(search.queries[:4]).single @ pages.T, atol=1e-5)


@pytest.fixture(scope="module")
def sts():
    generator = random.Random("sts")
    described = list(documents("test", 41_000, 41_040))
    others = described[:20] + described[30:] + described[20:30]

    class LocalSTS(AbsTaskSTS):
        metadata = metadata("STS", "LocalSTS", "t2t", ["text"], "cosine_spearman")
        min_score, max_score = 0, 1
        first = [phrase(document.facts(), "en", generator) for document in described]
        second = [phrase(document.facts(), "de", generator) for document in others]
        grades = [generator.random() / 2 + (mine is other) / 2 for mine, other in zip(described, others, strict=True)]

        def load_data(self, **_):
            columns = {"sentence1": self.first, "sentence2": self.second, "score": self.grades}
            self.dataset = {"test": datasets.Dataset.from_dict(columns)}
            self.data_loaded = True

    return LocalSTS()


def test_text_similarity(demo, sts, calls):
    found = evaluate(JinaV4Mteb(demo, truncate_dim=64), sts)
    assert calls == [("encode_texts", 40, "text-matching", "query")] * 2
    first, second = (
        demo.encode_texts(texts, task="text-matching", prompt_name="query", truncate_dim=64).single
        for texts in (sts.first, sts.second)
    )
    expected = spearmanr((first * second).sum(axis=1), sts.grades).statistic
    assert found["cosine_spearman"] == pytest.approx(expected, abs=1e-5)
    assert found["spearman"] == pytest.approx(expected, abs=1e-5)
    assert expected > 0.5


def test_what_needs_vectors_of_one_size_is_refused_late_interaction(demo, sts):
    with pytest.raises(TypeError, match="LocalSTS, of type STS, .* late_interaction=False"):
        evaluate(JinaV4Mteb(demo, late_interaction=True), sts)


def test_code_retrieval(demo, calls):
    generator = random.Random("code")
    corpus = programs("test")[:30]
    asked = [describe(program, generator) for program in corpus[:20]]
    relevant = np.array([[program.satisfies(facts) for program in corpus] for _, facts in asked])
    queries, sources = [text for text, _ in asked], [program.source() for program in corpus]
    task = retrieval_task({"text": sources}, queries, relevant, "Retrieval", domains=["Programming", "Written"])
    found = evaluate(JinaV4Mteb(demo), task)
    assert calls == [("encode_texts", 20, "code", "query"), ("encode_texts", 30, "code", "passage")]

    # mteb strips documents.
    sources = [source.strip() for source in sources]
    scores = (
        demo.encode_texts(queries, task="code").single
        @ demo.encode_texts(sources, task="code", prompt_name="passage").single.T
    )
    assert found["ndcg_at_5"] == pytest.approx(ndcg(scores, relevant), abs=1e-5)


@pytest.mark.parametrize(
    "name, adapter",
    [
        ("VidoreArxivQARetrieval", "retrieval"),
        ("JinaVDRTableVQARetrieval", "retrieval"),
        ("NFCorpus", "retrieval"),
        ("SciDocsRR", "retrieval"),
        ("AskUbuntuDupQuestions", "code"),
        ("TwentyNewsgroupsClustering", "retrieval"),
        ("STSBenchmark", "text-matching"),
        ("STS22.v2", "text-matching"),
        ("SprintDuplicateQuestions", "code"),
        ("TwitterURLCorpus", "text-matching"),
        ("AppsRetrieval", "code"),
        ("COIRCodeSearchNetRetrieval", "code"),
        ("StackOverflowQA", "code"),
        ("Vidore3ComputerScienceRetrieval", "code"),
    ],
)
def test_mteb_tasks_get_their_adapters(name, adapter):
    assert adapter_for(mteb.get_task(name).metadata) == adapter


def test_a_person_may_choose_adapters(demo, sts, calls):
    evaluate(JinaV4Mteb(demo, tasks={"STS": "code", "Clustering": "text-matching"}), sts)
    evaluate(JinaV4Mteb(demo, tasks={"STS": "code", "LocalSTS": "retrieval"}), sts)
    assert [call[2] for call in calls] == ["code", "code", "retrieval", "retrieval"]


def test_similarities_are_those_of_their_definitions(demo, monkeypatch):
    generator = np.random.default_rng(0)
    queries, pages = (
        [generator.standard_normal((n, 8)).astype(np.float32) for n in lengths] for lengths in ([3, 1], [5, 2, 9])
    )
    # Padding must not win where all products are negative.
    queries[1], pages[1] = np.abs(queries[1]), -np.abs(pages[1])
    expected = [[(query @ page.T).max(axis=1).sum() for page in pages] for query in queries]
    late = JinaV4Mteb(demo, late_interaction=True)
    for tokens in (1, 10, 1000):
        monkeypatch.setattr(mteb_model, "_PADDED_TOKENS", tokens)
        np.testing.assert_allclose(late.similarity(queries, pages), expected, atol=1e-5)
    np.testing.assert_allclose(late.similarity_pairwise(queries, pages[:2]), np.diag(expected), atol=1e-5)

    first, second = generator.standard_normal((2, 4, 8)).astype(np.float32)
    single = JinaV4Mteb(demo)
    np.testing.assert_allclose(single.similarity(first, second), first @ second.T, atol=1e-5)
    np.testing.assert_allclose(single.similarity(first[0], second), first[:1] @ second.T, atol=1e-5)
    np.testing.assert_allclose(single.similarity_pairwise(first, second), (first * second).sum(axis=1), atol=1e-5)


def test_results_of_other_settings_are_kept_apart(demo, search, calls, tmp_path):
    cache = mteb.ResultCache(tmp_path)
    task = retrieval_task({"image": search.images[:4]}, search.queries[:4], np.eye(4, dtype=bool), "Any2AnyRetrieval")
    for settings in ({}, {"late_interaction": True}, {"truncate_dim": 64}, {"max_pixels": 20_000}):
        evaluate(JinaV4Mteb(demo, **settings), task, cache)
        assert calls
        calls.clear()
        evaluate(JinaV4Mteb(demo, **settings), task, cache)
        assert not calls

    names = {file.parent.name for file in tmp_path.glob("results/local__checkpoint/*/experiments/*/Local*.json")}
    assert names == {"late_interaction_True", "truncate_dim_64", "max_pixels_20000"}


def test_what_the_model_is_called(demo, tmp_path):
    snapshot = tmp_path / f"models--{REPOSITORY.replace('/', '--')}" / "snapshots" / REVISION
    shutil.copytree(DEMO, snapshot)
    meta = JinaV4Mteb(snapshot, device="cpu").mteb_model_meta
    assert (meta.name, meta.revision, meta.experiment_kwargs) == (REPOSITORY, REVISION, None)
    assert meta.training_datasets and "Qwen" in meta.license

    adapter = shutil.copytree(DEMO / "adapters", tmp_path / "mine")
    adapted = JinaV4Mteb(snapshot, device="cpu", adapter=str(adapter)).mteb_model_meta
    assert adapted.revision.startswith(f"{REVISION}+mine-") and not adapted.training_datasets
    weights = adapter / "adapter_model.safetensors"
    os.utime(weights, (1, 1))
    assert JinaV4Mteb(snapshot, device="cpu", adapter=str(adapter)).mteb_model_meta.revision == adapted.revision
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert JinaV4Mteb(snapshot, device="cpu", adapter=str(adapter)).mteb_model_meta.revision != adapted.revision

    local = JinaV4Mteb(demo, late_interaction=True, max_pixels=20_000)
    meta = local.mteb_model_meta
    assert meta.name == "local/checkpoint" and meta.model_type == ["late-interaction"] and meta.embed_dim == 128
    again = meta.load_model(device="cpu")
    assert again.late_interaction and again.max_pixels == 20_000
    assert again.mteb_model_meta.experiment_name == meta.experiment_name == "late_interaction_True__max_pixels_20000"


def png(image, cut=1.0):
    file = io.BytesIO()
    image.save(file, "PNG")
    return {"bytes": file.getvalue()[: int(cut * file.tell())], "path": None}


@pytest.mark.parametrize(
    "column, damaged, told",
    [
        ("image", lambda page: png(page, cut=0.5), r"LocalRetrieval \(default, test, document\), row 18 \(id 'd018'\)"),
        ("image", lambda page: png(page.resize((900, 2))), r"row 18 \(id 'd018'\) has an image .* aspect ratio"),
        ("image", lambda page: None, r"row 18 \(id 'd018'\) has neither a text nor an image"),
        ("query", lambda page: None, r"LocalRetrieval \(default, test, query\), row 18 \(id 'q018'\) cannot be read"),
    ],
)
def test_a_row_that_cannot_be_embedded_is_named(demo, search, column, damaged, told):
    # In the second batch of mteb's data loader.
    images, queries = [png(image) for image in search.images[:20]], search.queries[:20]
    (images if column == "image" else queries)[18] = damaged(search.images[18])
    task = retrieval_task({"image": images}, queries, np.eye(20, dtype=bool), "DocumentUnderstanding")
    with pytest.raises(ValueError, match=told):
        evaluate(JinaV4Mteb(demo), task)


def test_a_document_without_its_text_is_named(demo):
    task = retrieval_task({"text": ["a", "b", None]}, ["a"], np.eye(1, 3, dtype=bool), "Retrieval")
    with pytest.raises(ValueError, match=r"LocalRetrieval, document, row 2 \(id 'd002'\) has no text"):
        evaluate(JinaV4Mteb(demo), task)


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"truncate_dim": 100}, "truncate_dim=100"),
        ({"truncate_dim": 64, "late_interaction": True}, "truncate_dim=64 is for single vectors"),
        ({"max_pixels": 10}, "max_pixels=10"),
        ({"tasks": {"STS": "similarity"}}, "'STS'.*'similarity'"),
        ({"precision": "int8"}, "precision: an Encoder has"),
    ],
)
def test_wrong_arguments_are_told(demo, settings, told):
    with pytest.raises(ValueError, match=told):
        JinaV4Mteb(demo, **settings)


def test_without_mteb_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mteb", None)
    spec = importlib.util.spec_from_file_location("jina_embeddings_v4.analysis.without", mteb_model.__file__)
    with pytest.raises(ImportError, match="pip install 'mteb"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
