"""Search on pages whose right answers are known, beside the same figures computed by hand."""

import fiftyone as fo
import fiftyone.brain as fob
import numpy as np
import pytest
from jina_embeddings_v4.analysis.retrieval import evaluate_search
from jina_embeddings_v4.engine.scoring import TokenSet, maxsim

MODEL = "jina-embeddings-v4-demo"


@pytest.fixture
def indexed(captioned):
    """The dataset with an index for late interaction."""
    fob.compute_similarity(captioned, backend="late-interaction", model=MODEL, brain_key="late", num_workers=0)
    yield captioned
    captioned.delete_brain_runs()


def ndcg(ranking, relevant, k):
    gains = [1 / np.log2(rank + 2) for rank, one in enumerate(ranking[:k]) if one in relevant]
    return sum(gains) / sum(1 / np.log2(rank + 2) for rank in range(min(k, len(relevant))))


def test_all_kinds_of_vectors_beside_each_other(indexed, load_demo):
    model = load_demo()
    indexed.compute_embeddings(model, embeddings_field="single", num_workers=0)
    fob.compute_similarity(indexed, model=MODEL, embeddings_field="single", brain_key="single_index")
    model.pooling_strategy = "mean"
    indexed.compute_embeddings(model, embeddings_field="mean", num_workers=0)
    pooled = {"model": MODEL, "model_kwargs": {"pooling_strategy": "mean"}, "embeddings_field": "mean"}
    fob.compute_similarity(indexed, brain_key="mean_index", **pooled)

    late = indexed.load_brain_results("late")
    queries = {"a chart": indexed[3:9].values("id"), "a page with a stamp": indexed[5:7].values("id")}
    queries |= {said: [one] for one, said in zip(*indexed.values(["id", "german"]), strict=True)}
    indexes = {"single": "single_index", "mean": "mean_index", "late": late, "two-stage": late.with_candidates(4)}
    report = evaluate_search(indexed, queries, indexes, metrics=("ndcg@5", "recall@10", "mrr@10"))
    assert report.queries == list(queries) and not report.skipped

    ids = np.array(indexed.values("id"))
    images = model.encoder.encode_images(indexed.values("filepath"))
    texts = model.encoder.encode_texts(list(queries))
    scores = {
        "single": texts.single @ images.single.T,
        "late": maxsim(images.multi, TokenSet(texts.multi)).numpy().T,
    }
    for name, rows in scores.items():
        rankings = [ids[np.argsort(-row, kind="stable")].tolist() for row in rows]
        truth = list(zip(rankings, map(set, queries.values()), strict=True))
        values = report.values[name]
        np.testing.assert_allclose(values["ndcg@5"], [ndcg(found, right, 5) for found, right in truth], atol=1e-6)
        recall = [len(set(found[:10]) & right) / len(right) for found, right in truth]
        np.testing.assert_allclose(values["recall@10"], recall, atol=1e-6)
        first = [next((1 / r for r, one in enumerate(found[:10], 1) if one in right), 0) for found, right in truth]
        np.testing.assert_allclose(values["mrr@10"], first, atol=1e-6)

    means = {row["index"]: row["ndcg@5"] for row in report.rows()}
    assert means["late"] > 0.9 and means["single"] > 0.9 and means["late"] >= means["mean"]
    assert means["two-stage"] == pytest.approx(means["late"], abs=0.05)
    assert all(name in str(report) for name in indexes)
    assert late.config.candidates == 1000  # the index itself stays as it was


def test_queries_by_field_and_by_tag(indexed):
    sample, other = indexed.first(), indexed.last()
    other["caption"] = sample.caption
    other.save()
    by_field = evaluate_search(indexed, "caption", ["late"])
    assert by_field.relevant[by_field.queries.index(sample.caption)] == {sample.id, other.id}
    assert len(by_field.queries) == len(set(indexed.values("caption")))

    indexed.set_values("questions", [[f"page {i}", "any page"] for i in range(len(indexed))])
    of_lists = evaluate_search(indexed, "questions", ["late"])
    assert len(of_lists.relevant[of_lists.queries.index("any page")]) == len(indexed)

    indexed[:3].tag_samples("right")
    by_tag = evaluate_search(indexed, {"what": "right"}, ["late"])
    assert by_tag.relevant == [set(indexed[:3].values("id"))]


def test_a_view_is_searched_alone(indexed):
    view = indexed[:10]
    report = evaluate_search(view, "caption", ["late"])
    assert len(report.queries) == 10
    assert list(report.found) == list(report.values) != []
    for rankings in report.found.values():
        # As many as there are, though the index holds more.
        assert [sorted(found) for found in rankings] == [sorted(view.values("id"))] * len(report.queries)


def test_the_worst_queries_open_in_the_app(indexed):
    ids = indexed.values("id")
    queries = {said: [one] for one, said in zip(*indexed.values(["id", "caption"]), strict=True)}
    hard = "a unicorn on a bicycle"
    queries[hard] = [ids[7]]
    report = evaluate_search(indexed, queries, ["late"])
    worst = report.worst("late", n=3)
    assert hard in [query for query, _ in worst]
    assert [value for _, value in worst] == sorted(value for _, value in worst)

    view = report.view("late", hard, verdict_field="verdict")
    found = report.found["late"][report.queries.index(hard)]
    assert view.values("id")[: len(found)] == found
    verdicts = dict(zip(*view.values(["id", "verdict.label"]), strict=True))
    assert verdicts[ids[7]] == ("right" if ids[7] in found else "missed")
    assert found and sum(verdict == "wrong" for verdict in verdicts.values()) == len(set(found) - {ids[7]})

    (name,) = report.save_worst_views("late", n=1)
    saved = indexed.load_saved_view(name)
    assert saved.values("id") == report.view("late", worst[0][0]).values("id")


def test_a_bad_query_costs_itself(indexed, caplog):
    ids = indexed.values("id")
    queries = {"a chart": [ids[0]], "": [ids[0]], "nowhere": [], "of another dataset": ["0" * 24]}
    report = evaluate_search(indexed, queries, ["late"])
    assert report.queries == ["a chart"]
    assert set(report.skipped) == {"", "nowhere", "of another dataset"}
    assert "nowhere" in caplog.text
    with pytest.raises(ValueError, match="no query"):
        evaluate_search(indexed, {"": [ids[0]]}, ["late"])


def test_wrong_arguments_are_named(indexed):
    with pytest.raises(ValueError, match="'ndcg'"):
        evaluate_search(indexed, "caption", ["late"], metrics=("ndcg",))
    sample = indexed.first()
    sample["parts"] = fo.Detections(detections=[fo.Detection(label="part", bounding_box=[0, 0, 1, 1])])
    sample.save()
    options = {"patches_field": "parts", "model": MODEL, "num_workers": 0}
    fob.compute_similarity(indexed, backend="late-interaction", brain_key="parts", **options)
    with pytest.raises(ValueError, match="parts"):
        evaluate_search(indexed, "caption", ["parts"])


def test_an_index_that_answers_nothing_says_why(indexed, monkeypatch):
    index = indexed.load_brain_results("late")

    def dead(*args, **kwargs):
        raise ConnectionError("no server at localhost:6333")

    # FiftyOne's index has no public way to the store behind it.
    monkeypatch.setattr(index._store, "search", dead)
    for queries in ("caption", {"a chart": [indexed.first().id]}):
        with pytest.raises(ConnectionError, match="localhost:6333"):
            evaluate_search(indexed, queries, {"late": index})
