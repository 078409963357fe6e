import numpy as np
import pytest
from jina_embeddings_v4.analysis.captions import score_captions


@pytest.fixture
def many(tmp_path):
    """Two hundred pages, of which a twentieth have each other's captions: the dataset, and the ids of those."""
    import fiftyone as fo
    from jina_embeddings_v4.demo.pages.documents import documents
    from jina_embeddings_v4.demo.pages.phrases import caption
    from jina_embeddings_v4.demo.pages.rendering import draw_document

    pages = list(documents("test", 31_000, 31_200))
    captions = [caption(page) for page in pages]
    swapped = np.random.default_rng(0).choice(200, 10, replace=False)
    shown = list(captions)
    for i, j in zip(swapped, np.roll(swapped, 1), strict=True):
        shown[i] = captions[j]
    dataset, samples = fo.Dataset(), []
    for i, page in enumerate(pages):
        draw_document(page, i).save(tmp_path / f"{i}.png")
        samples.append(fo.Sample(filepath=str(tmp_path / f"{i}.png"), caption=shown[i]))
    dataset.add_samples(samples)
    yield dataset, {dataset.values("id")[i] for i in swapped}
    dataset.delete()


def test_swapped_captions_come_to_the_front(many, load_demo):
    dataset, swapped = many
    assert score_captions(dataset, load_demo(), "caption", num_workers=0) == {}
    worst = dataset.sort_by("caption_fit_rank").limit(len(dataset) // 10).values("id")
    assert len(swapped & set(worst)) >= 0.9 * len(swapped)

    scores, ranks = dataset.values(["caption_fit", "caption_fit_rank"])
    assert sorted(ranks) == list(range(1, 201))
    assert np.argsort(scores).tolist() == np.argsort(ranks).tolist()


def test_scores_are_cosines_and_a_bad_caption_costs_its_own(captioned, load_demo):
    sample = captioned.first()
    sample["caption"] = None
    sample.save()
    model = load_demo()
    skipped = score_captions(captioned, model, "caption", "fit", num_workers=0)
    assert list(skipped) == [sample.id]
    images = model.encoder.encode_images(captioned[1:].values("filepath")).single
    texts = model.encoder.encode_texts(captioned[1:].values("caption")).single
    assert captioned.values("fit")[0] is None
    np.testing.assert_allclose(captioned[1:].values("fit"), (images * texts).sum(axis=1), atol=1e-5)


def test_any_model_will_do(captioned, clip):
    score_captions(captioned[:8], clip, "caption")
    assert captioned.exists("caption_fit").count() == 8
    with pytest.raises(ValueError, match="prompts"):
        score_captions(captioned, object(), "caption")


def test_nothing_to_score_writes_nothing(captioned, load_demo):
    captioned.set_values("caption", [""] * len(captioned))
    assert len(score_captions(captioned, load_demo(), "caption", num_workers=0)) == len(captioned)
