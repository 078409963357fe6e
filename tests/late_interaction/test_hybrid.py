"""Search by words and by meaning, on pages with small print that the model cannot read."""

import re

import fiftyone as fo
import fiftyone.brain as fob
import numpy as np
import pytest
from jina_embeddings_v4.demo.pages.documents import documents
from jina_embeddings_v4.demo.pages.rendering import draw_with_text
from jina_embeddings_v4.engine.embeddings import Embeddings
from jina_embeddings_v4.late_interaction.hybrid import search_hybrid
from jina_embeddings_v4.late_interaction.query import Query
from jina_embeddings_v4.late_interaction.stores.local import LocalStore
from jina_embeddings_v4.late_interaction.transfer import import_index
from jina_embeddings_v4.late_interaction.words import Words

MODEL = "jina-embeddings-v4-demo"
PAGES = 42


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Samples of pages of each type, as dicts: the path, the text and the number of an invoice."""
    folder = tmp_path_factory.mktemp("pages")
    samples = []
    for i, document in enumerate(documents("test", 21_000, 21_000 + PAGES)):
        picture, text = draw_with_text(document, i)
        path = str(folder / f"{i:02}.png")
        picture.save(path)
        invoice = re.search(r"INVOICE\nNo (\d+)", text)
        samples.append({"filepath": path, "text": text or None, "number": invoice[1] if invoice else None})
    return samples


def make_dataset(pages):
    dataset = fo.Dataset()
    dataset.add_samples([fo.Sample(**page) for page in pages])
    return dataset


@pytest.fixture
def dataset(pages):
    dataset = make_dataset(pages)
    yield dataset
    dataset.delete_brain_runs()
    dataset.delete()


@pytest.fixture(scope="module")
def shared(pages):
    """A dataset with an index of its words, which tests only ask."""
    dataset = make_dataset(pages)
    make_index(dataset, text_field="text")
    yield dataset
    dataset.delete_brain_runs()
    dataset.delete()


def make_index(samples, **kwargs):
    kwargs = {"model": MODEL, "brain_key": "late", "batch_size": 8, "num_workers": 0} | kwargs
    return fob.compute_similarity(samples, backend="late-interaction", **kwargs)


def numbers(dataset):
    return [number for number in dataset.values("number") if number]


def test_a_page_is_found_by_its_number_and_by_its_meaning(shared):
    assert len(numbers(shared)) == 3
    for number in numbers(shared):
        view = shared.sort_by_similarity(f"invoice No {number}", k=3, brain_key="late", dist_field="distance")
        assert view.first().number == number
        assert view.values("distance") == sorted(view.values("distance")) and view.first().distance >= 0

    index = shared.load_brain_results("late")
    asked = "an invoice with a blue stamp"
    by_vectors = index.sort_by_similarity(asked, k=PAGES, mode="vectors").values("id")
    assert index.sort_by_similarity(asked, k=PAGES).values("id") == by_vectors


def test_quoted_phrases_must_match(shared):
    index = shared.load_brain_results("late")
    number = numbers(shared)[0]

    assert index.sort_by_similarity(f'a letter "No {number}"', k=5).values("number") == [number]
    assert len(index.sort_by_similarity('a letter "no such words"', k=5)) == 0
    headed = index.sort_by_similarity('a page headed "INVOICE"', k=PAGES)
    assert all("INVOICE" in text for text in headed.values("text")) and len(headed) == 3


def test_words_alone_need_no_model(shared, monkeypatch):
    index = shared.load_brain_results("late", cache=False)
    monkeypatch.setattr(index, "get_model", lambda: pytest.fail("the model is not needed"))

    found = index.sort_by_similarity(numbers(shared)[1], k=5, mode="text", dist_field="distance")
    assert found.first().number == numbers(shared)[1]
    assert all(numbers(shared)[1] in text for text in found.values("text"))
    assert len(index.sort_by_similarity("zweiundvierzig", k=5, mode="text")) == 0


def test_words_are_searched_for_in_a_view(shared):
    index = shared.load_brain_results("late")
    number = numbers(shared)[0]
    others = shared.match(fo.ViewField("number") != number)

    for mode in ("hybrid", "text"):
        with index.use_view(others):
            found = index.sort_by_similarity(f"invoice No {number}", k=5, mode=mode)
        assert found and number not in found.values("number")
        assert set(found.values("id")) <= set(others.values("id"))


def test_least_similar_pages_are_ranked_by_vectors(shared):
    index = shared.load_brain_results("late")
    asked = f"invoice No {numbers(shared)[0]}"

    farthest = index.sort_by_similarity(asked, k=3, reverse=True).values("id")
    assert farthest == index.sort_by_similarity(asked, k=PAGES, mode="vectors").values("id")[:-4:-1]
    with pytest.raises(ValueError, match="mode='hybrid' does not rank by least similarity"):
        index.sort_by_similarity(asked, reverse=True, mode="hybrid")


def test_other_queries_have_no_words(shared):
    index = shared.load_brain_results("late")
    first = shared.first()

    assert index.sort_by_similarity(first.id, k=2).first().id == first.id
    assert len(index.sort_by_similarity(["a chart", "a red chart"], k=2)) == 2
    with pytest.raises(ValueError, match="mode='text' takes a text"):
        index.sort_by_similarity(first.id, mode="text")
    with pytest.raises(ValueError, match="mode='hybrid' takes a text"):
        index.sort_by_similarity(["a chart", "a red chart"], mode="hybrid")
    with pytest.raises(ValueError, match="The query is empty"):
        index.sort_by_similarity("  ", mode="text")
    with pytest.raises(ValueError, match="mode='words'"):
        index.sort_by_similarity("a chart", mode="words")


def test_an_index_gets_words_later_and_embeds_nothing_again(dataset, monkeypatch):
    index = make_index(dataset)
    with pytest.raises(ValueError, match="text_field='text'"):
        index.sort_by_similarity("a chart", mode="text")

    model = index.get_model()
    monkeypatch.setattr(type(model), "encode_images", lambda *_, **__: pytest.fail("nothing is embedded again"))
    # By an interrupted call, a part of the pages.
    make_index(dataset.limit(10), text_field="text")
    index = make_index(dataset, text_field="text")
    for number in numbers(dataset):
        assert index.sort_by_similarity(number, k=1, mode="text").first().number == number

    # A call that does not name the field keeps it.
    index = make_index(dataset)
    assert index.config.text_field == "text" and dataset.get_brain_info("late").config.text_field == "text"
    dataset.add_sample_field("ocr", fo.StringField)
    with pytest.raises(ValueError, match="was made with text_field='text'"):
        make_index(dataset, text_field="ocr")


def test_texts_that_changed_are_read_again(dataset):
    index = make_index(dataset.limit(4), text_field="text")
    sample = dataset.first()
    sample.text = "a handwritten note"
    sample.save()
    assert len(index.sort_by_similarity("handwritten", mode="text")) == 0

    index.update_texts()
    assert index.sort_by_similarity("handwritten", mode="text").values("id") == [sample.id]


def test_words_of_labels(dataset):
    dataset.add_sample_field("ocr", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    first, second = dataset.head(2)
    first["ocr"] = fo.Detections(detections=[fo.Detection(label=word) for word in ("Zephyr", "4711")])
    first.save()
    index = make_index(dataset.limit(3), text_field="ocr.detections.label")

    assert index.sort_by_similarity("4711", mode="text").values("id") == [first.id]
    assert len(index.sort_by_similarity('"zephyr 4711"', mode="text")) == 1


@pytest.mark.parametrize(
    ("field", "message"),
    [("texts", "text_field='texts' does not exist.*Fields of strings are.*'text'"), ("tags_count", "is a IntField")],
)
def test_wrong_fields(dataset, field, message):
    dataset.add_sample_field("tags_count", fo.IntField)
    with pytest.raises(ValueError, match=message):
        make_index(dataset, text_field=field)
    assert dataset.list_brain_runs() == []
    with pytest.raises(ValueError, match="leave out patches_field"):
        make_index(dataset, text_field="text", patches_field="ocr")


def test_words_go_along_with_an_export(dataset, pages, tmp_path):
    index = make_index(dataset.limit(16), text_field="text")
    index.export(tmp_path / "export")
    other = make_dataset(pages[:16])
    try:
        imported = import_index(other, tmp_path / "export", "late")
        assert imported.config.text_field == "text"
        number = numbers(other)[0]
        assert imported.sort_by_similarity(number, k=1, mode="text").first().number == number
    finally:
        other.delete_brain_runs()
        other.delete()


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def store(tmp_path):
    """200 random pages with words that have nothing to do with their vectors, and a query."""
    random = np.random.default_rng(51)
    embeddings = Embeddings(unit(random.normal(size=(200, 16))), [unit(random.normal(size=(5, 8))) for _ in range(200)])
    kinds = ["invoice" if i % 10 == 0 else "letter" for i in range(200)]
    texts = [f"of a page the {kind} {'Kowalski' if i in (7, 40) else ''}" for i, kind in enumerate(kinds)]
    texts[40] += " 4711"
    texts[41] += " 4711"
    store = LocalStore(tmp_path / "index")
    ids = [f"{i:024x}" for i in range(200)]
    store.add(ids, ids, embeddings, texts)
    query = Query.from_embeddings(Embeddings(unit(random.normal(size=(1, 16))), [unit(random.normal(size=(3, 8)))]))
    return store, query


def places(found):
    return [int(page_id, 16) for page_id in found[0]]


def test_common_words_and_half_matches_leave_the_ranking_by_vectors(store):
    store, query = store
    by_vectors = places(store.search(query))

    # The words are on all pages, or what is asked for is mostly not in the texts.
    for asked in ("of a page", "the letter of a person with a beard", "a heron at an invoice"):
        assert places(search_hybrid(store, Words.from_query(asked), query)) == by_vectors


def test_a_full_match_rises_and_a_number_comes_first(store):
    store, query = store
    by_vectors = places(store.search(query))

    named = places(search_hybrid(store, Words.from_query("Kowalski"), query))
    assert sum(named.index(page) for page in (7, 40)) < sum(by_vectors.index(page) for page in (7, 40))
    # Whatever is nearest, and though most of the words are nowhere.
    numbered = search_hybrid(store, Words.from_query("the heron number 4711 of a marsh"), query)
    assert set(places(numbered)[:2]) == {40, 41}
    assert numbered[2][1] > 0.5 > numbered[2][2] and list(numbered[2]) == sorted(numbered[2], reverse=True)
    both = search_hybrid(store, Words.from_query("4711 Kowalski"), query)
    assert places(both)[0] == 40


def test_a_short_or_common_number_does_not_come_first(store):
    store, query = store
    by_vectors = places(store.search(query))
    ids = [f"{i:024x}" for i in range(20)]
    store.texts.write(ids, ["2024 marsh"] * 19 + ["2 marsh 2024"])

    # On a tenth of the pages, and with one digit: as other words, they are the lesser part of what is asked for.
    for asked in ("birds herons storks 2024", "birds herons storks 2"):
        assert places(search_hybrid(store, Words.from_query(asked), query)) == by_vectors


def test_words_need_not_be_among_the_candidates(store):
    store, query = store
    assert 40 not in places(store.search(query, k=1, candidates=1))

    found = search_hybrid(store, Words.from_query("4711 Kowalski"), query, k=1, candidates=1)
    assert places(found) == [40]
