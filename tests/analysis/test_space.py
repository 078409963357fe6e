"""The measures against their definitions by hand, and on pages whose captions are known to fit."""

import numpy as np
import pytest
from jina_embeddings_v4.analysis.pairs import Pairs, unit
from jina_embeddings_v4.analysis.space import _draw_negatives, _measure, measure_space
from PIL import Image


@pytest.fixture(scope="module")
def pairs():
    random = np.random.default_rng(0)
    images = unit(random.standard_normal((30, 12)) + 1)
    texts = unit(images + 0.3 * random.standard_normal((30, 12)))
    return Pairs("made up", images, texts, unit(texts + 0.1 * random.standard_normal((30, 12))))


def test_measures_are_those_of_their_definitions(pairs):
    others = _draw_negatives([str(i) for i in range(30)], 5, seed=0)
    space = _measure(pairs, others, "pca", seed=0)

    matched = [float(x @ y) for x, y in zip(pairs.images, pairs.texts, strict=True)]
    assert space.alignment == pytest.approx(np.mean(matched), abs=1e-6)
    assert space.interval[0] < space.alignment < space.interval[1]
    np.testing.assert_allclose(
        space.paraphrased, [x @ y for x, y in zip(pairs.texts, pairs.paraphrases, strict=True)], atol=1e-6
    )

    n = range(30)
    for cone, rows in ((space.image_cone, pairs.images), (space.text_cone, pairs.texts)):
        assert cone == pytest.approx(np.mean([rows[i] @ rows[j] for i in n for j in n if i != j]), abs=1e-6)
    gap = np.linalg.norm(pairs.images.mean(axis=0) - pairs.texts.mean(axis=0))
    assert space.modality_gap == pytest.approx(gap, abs=1e-6)
    wins = [(a > b) + 0.5 * (a == b) for a in space.matched for b in space.negatives]
    assert space.auc == pytest.approx(np.mean(wins), abs=1e-9)
    assert space.points.shape == (2, 30, 2)


def test_the_interval_covers_the_mean_about_as_often_as_it_says():
    covered = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        images = np.eye(2, dtype=np.float32)[np.zeros(40, int)]
        cosines = random.beta(5, 3, 40)
        texts = np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1).astype(np.float32)
        low, high = _measure(Pairs("", images, texts), (np.arange(40), np.arange(40)[::-1]), "pca", seed).interval
        covered += low < 5 / 8 < high
    assert 85 <= covered <= 100


def test_negatives_are_of_others_and_every_text_serves_as_often():
    rows, columns = _draw_negatives([str(i) for i in range(20)], 7, seed=1)
    assert len(rows) == 140 and (rows != columns).all()
    assert set(np.bincount(rows)) == set(np.bincount(columns)) == {7}

    same = ["a", "b"] * 10
    rows, columns = _draw_negatives(same, 19, seed=1)
    assert all(same[i] != same[j] for i, j in zip(rows, columns, strict=True))
    with pytest.raises(ValueError, match="same"):
        _draw_negatives(["a"] * 5, 3, seed=1)


@pytest.fixture(scope="module")
def demo_models(request):
    import fiftyone.zoo as foz

    return {
        task: foz.load_zoo_model("jina-embeddings-v4-demo", device="cpu", task=task)
        for task in ("retrieval", "text-matching")
    }


def test_several_models_side_by_side(captioned, demo_models, clip, tmp_path):
    report = measure_space(captioned, demo_models | {"CLIP": clip}, "caption", "german", num_workers=0)
    assert report.ids == captioned.values("id") and not report.skipped
    assert report.models == ["retrieval", "text-matching", "CLIP"]

    # By hand, through the engine.
    model = demo_models["retrieval"]
    images = model.encoder.encode_images(captioned.values("filepath"))
    texts = model.encoder.encode_texts(captioned.values("caption"))
    german = model.encoder.encode_texts(captioned.values("german"))
    np.testing.assert_allclose(report["retrieval"].matched, (images.single * texts.single).sum(axis=1), atol=1e-5)
    np.testing.assert_allclose(report["retrieval"].paraphrased, (texts.single * german.single).sum(axis=1), atol=1e-5)
    halves = [unit(vectors.single[:, :128]) for vectors in (images, texts)]
    np.testing.assert_allclose(report["retrieval, 128-d"].matched, (halves[0] * halves[1]).sum(axis=1), atol=1e-5)
    means = [unit([rows.mean(axis=0) for rows in vectors.multi]) for vectors in (images, texts)]
    pooled = report["retrieval, multi-vectors mean-pooled"]
    np.testing.assert_allclose(pooled.matched, (means[0] * means[1]).sum(axis=1), atol=1e-5)

    # The demo model knows which caption is of which page; random weights do not.
    assert report["retrieval"].auc > 0.98
    assert 0.3 < report["CLIP"].auc < 0.7
    assert "CLIP, 128-d" not in {space.name for space in report.spaces}
    assert "AUC" in str(report) and "retrieval, 128-d" in str(report)

    pictures = report.save(tmp_path / "space")
    assert set(pictures) == {"similarities", "separation", "projection"}
    for path in pictures.values():
        pixels = np.asarray(Image.open(path).convert("RGB"))
        assert min(pixels.shape[:2]) > 300 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
        assert path.with_suffix(".html").stat().st_size > 1000
    assert len((tmp_path / "space" / "space.csv").read_text().splitlines()) == len(report.spaces) + 1

    report.visualize(captioned, "space")
    for modality, points in zip(("images", "texts"), report["retrieval"].points, strict=True):
        np.testing.assert_allclose(captioned.load_brain_results(f"space_{modality}").points, points, atol=1e-6)


def test_one_bad_caption_or_image_costs_one_pair(captioned, demo_models, clip, tmp_path, caplog):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    first, second, third = captioned[:3]
    for sample, field, value in ((first, "caption", None), (second, "caption", "  "), (third, "filepath", str(bad))):
        sample[field] = value
        sample.save()
    report = measure_space(captioned, {"ours": demo_models["retrieval"], "CLIP": clip}, "caption", num_workers=0)
    assert set(report.skipped) == {first.id, second.id, third.id}
    assert "bad.png" in report.skipped[third.id] and "caption" in report.skipped[first.id]
    assert report.ids == captioned[3:].values("id")
    assert all(one in caplog.text for one in report.skipped)
    assert "3 left out" in str(report)


def test_an_image_that_one_model_alone_cannot_take_costs_its_own_pair(captioned, clip, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    sample = captioned.first()
    sample.filepath = str(bad)
    sample.save()
    report = measure_space(captioned, {"CLIP": clip}, "caption", num_workers=0, batch_size=8)
    assert list(report.skipped) == [sample.id] and len(report.ids) == len(captioned) - 1


def test_a_sample_of_a_large_dataset_is_the_same_each_time(captioned, demo_models):
    ours = {"ours": demo_models["retrieval"]}
    reports = [measure_space(captioned, ours, "caption", sample_size=10, num_workers=0, seed=s) for s in (1, 1, 2)]
    assert reports[0].ids == reports[1].ids != reports[2].ids
    assert reports[0].rows() == reports[1].rows()


def test_wrong_arguments_are_named_before_a_model_is_run(captioned, demo_models, monkeypatch):
    from jina_embeddings_v4.engine.encoder import Encoder

    ours = {"ours": demo_models["retrieval"]}
    wrong = [(ours, {"projection": "tsne"}, "tsne"), (ours, {"sample_size": 2}, "sample_size")]
    wrong += [({"eye": object()}, {}, "'eye'"), (ours | {"eye": object()}, {}, "'eye'")]
    with monkeypatch.context() as patch:
        for method in ("encode_images", "encode_texts"):
            patch.setattr(Encoder, method, lambda *_, **__: pytest.fail("a model is run"))
        for models, arguments, said in wrong:
            with pytest.raises(ValueError, match=said):
                measure_space(captioned, models, "caption", num_workers=0, **arguments)
    with pytest.raises(ValueError, match="2 are left"):
        measure_space(captioned[:2], ours, "caption", num_workers=0)
