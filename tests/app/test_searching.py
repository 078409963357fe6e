"""What a search looks at, and what it leaves for the App to show."""

import pytest
from fiftyone import ViewField as F
from fiftyone.server.view import get_view
from jina_embeddings_v4.app.searching import before_search, iter_search
from PIL import Image

QUERY = "a page headed Umbra"


def search(dataset, pages=None, query=QUERY, k=5, heatmaps_field="match", mode=None):
    """Runs a search to its end, and returns what it found and what it reported."""
    reports = []
    steps = iter_search(
        dataset, pages or dataset, "pages", query, k, heatmaps_field, lambda *told: reports.append(told), mode
    )
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value, reports


def test_a_filter_of_the_sidebar_stays_and_the_search_under_it_goes(indexed_pages):
    found = indexed_pages.sort_by_similarity("a chart", k=3, brain_key="pages")
    filters = {"document": {"values": ["1.pdf"], "exclude": False, "isMatching": True}}
    view = get_view(indexed_pages.name, stages=found._serialize(), filters=filters)
    assert len(view) < 4
    assert before_search(view).distinct("document") == ["1.pdf"] and len(before_search(view)) == 4


@pytest.mark.parametrize("mode", ["text", "vectors"])
def test_a_search_that_has_no_stage_goes_and_a_selection_stays(indexed_pages, mode):
    found, _ = search(indexed_pages, query="number page", mode=mode)
    assert 0 < len(found.view) < len(indexed_pages)
    assert len(before_search(found.view)) == len(indexed_pages)

    chosen = indexed_pages.select(found.view.values("id"))
    assert before_search(chosen).values("id") == chosen.values("id")


def test_a_search_whose_results_were_limited_is_wanted(indexed_pages):
    best = indexed_pages.sort_by_similarity(QUERY, k=6, brain_key="pages").limit(2).match(F("page") > 0)
    assert before_search(best).values("id") == best.values("id")


def test_progress_counts_pages_and_all_that_is_shown_is_filled(indexed_pages):
    indexed_pages.set_field("metadata", None).save("metadata")
    found, reports = search(indexed_pages)
    assert [told for told in reports if told[0].startswith("Heatmaps")] == [
        (f"Heatmaps of {done} of 5 pages", done / 5) for done in range(6)
    ]
    assert found.view.exists("match").count() == found.view.exists("metadata").count() == 5
    sample = found.view.first()
    with Image.open(sample.filepath) as image:
        assert (sample.metadata.width, sample.metadata.height) == image.size
    indexed_pages.reload()
    assert indexed_pages.app_config.active_fields.paths[-3:] == ["document", "page", "match"]


def test_by_words_alone_needs_no_model_and_leaves_no_heatmaps_of_an_earlier_query(indexed_pages, monkeypatch):
    search(indexed_pages)
    monkeypatch.setattr("fiftyone.zoo.load_zoo_model", None)
    found, _ = search(indexed_pages, query="N7", mode="text")
    assert found.view.values("text") == ["The number of this page is N7."]
    assert not indexed_pages.exists("match")
