"""The demo model finds, labels and compares pages that it was not trained on, through FiftyOne.

The bounds are below what was measured by less than what a real regression would cost: a wrong position, prefix, adapter
or resizing loses far more.
"""

import fiftyone as fo
import fiftyone.brain as fob
import fiftyone.zoo as foz
import numpy as np
import pytest
from jina_embeddings_v4.demo.pages.documents import TYPES, documents
from jina_embeddings_v4.demo.pages.phrases import caption, phrase
from jina_embeddings_v4.demo.pages.rendering import draw_document
from jina_embeddings_v4.demo.pages.vocabulary import DESCRIPTIONS

MODEL = "jina-embeddings-v4-demo"

# Of the test split, six of each type.
FIRST = 20_000
COUNT = 6 * len(TYPES)


@pytest.fixture(scope="module", autouse=True)
def precision():
    """What a person gets who names no precision."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("JINA_V4_AUTO_PRECISION", raising=False)
        yield


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A FiftyOne dataset of test pages, with their embeddings and an index for search."""
    folder = tmp_path_factory.mktemp("pages")
    dataset = fo.Dataset()
    for number, document in enumerate(documents("test", FIRST, FIRST + COUNT)):
        path = folder / f"{number:03}.png"
        draw_document(document, number).save(path)
        german = phrase(document.facts(), "de")
        dataset.add_sample(
            fo.Sample(
                filepath=str(path),
                kind=fo.Classification(label=document.type),
                caption=caption(document),
                german=german,
            )
        )

    model = foz.load_zoo_model(MODEL, device="cpu")
    dataset.compute_embeddings(model, embeddings_field="embedding", batch_size=16)
    fob.compute_similarity(dataset, model=MODEL, embeddings_field="embedding", brain_key="search")
    yield dataset
    dataset.delete_brain_runs()
    dataset.delete()


@pytest.fixture(scope="module")
def model():
    return foz.load_zoo_model(MODEL, device="cpu", cache=False)


def share_found(dataset, field):
    """The share of pages that are the first to be found by what a field says of them."""
    queries = dataset.values(["id", field])
    found = [dataset.sort_by_similarity(text, k=1, brain_key="search").first().id for text in queries[1]]
    return np.mean([one == other for one, other in zip(found, queries[0], strict=True)])


@pytest.mark.parametrize(("field", "bound"), [("caption", 0.9), ("german", 0.9)])
def test_a_query_finds_its_page(pages, field, bound):
    assert share_found(pages, field) > bound


@pytest.mark.parametrize("names", [list(TYPES), list(DESCRIPTIONS.values())], ids=["short names", "long names"])
def test_zero_shot_labels_are_right(pages, model, names):
    model.classes = names
    pages.apply_model(model, label_field="predicted", batch_size=16)
    types = dict(zip(names, TYPES, strict=True))
    right = [types[label] == kind for label, kind in zip(*pages.values(["predicted.label", "kind.label"]), strict=True)]
    assert np.mean(right) > 0.97


def test_a_name_does_not_win_by_its_length(pages, model):
    """Every other class by its long name, the rest by their short ones: neither kind draws more than its share."""
    names = [DESCRIPTIONS[kind] if i % 2 else kind for i, kind in enumerate(TYPES)]
    model.classes = names
    pages.apply_model(model, label_field="predicted", batch_size=16)
    long = np.mean([label in DESCRIPTIONS.values() for label in pages.values("predicted.label")])
    assert 0.45 < long < 0.55


def test_truncation_to_half_the_dimensions_loses_little(pages, model):
    images = np.stack(pages.values("embedding"))
    texts = np.stack([model.embed_prompt(text) for text in pages.values("caption")])

    def share_found_at(dim):
        return np.mean(
            (texts[:, :dim] @ (images[:, :dim] / np.linalg.norm(images[:, :dim], axis=1)[:, None]).T).argmax(axis=1)
            == np.arange(len(images))
        )

    dims = sorted(model.encoder.matryoshka_dims)
    assert share_found_at(dims[-2]) > share_found_at(dims[-1]) - 0.05
    # Untrained for it, a prefix of the vector would find next to nothing.
    assert share_found_at(dims[0]) > 0.85


def test_the_tasks_see_a_page_in_different_ways(pages, model):
    paths = pages.values("filepath")[: len(TYPES)]
    vectors = {task: model.encoder.encode_images(paths, task=task).single for task in model.encoder.tasks}
    for task, other in (("retrieval", "text-matching"), ("retrieval", "code"), ("text-matching", "code")):
        assert (vectors[task] * vectors[other]).sum(axis=1).mean() < 0.995
    np.testing.assert_array_equal(vectors["retrieval"], model.encoder.encode_images(paths, task="retrieval").single)
