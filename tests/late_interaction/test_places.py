"""Which places of a page are chosen, of a heat and of words that are given."""

import numpy as np
import pytest
from jina_embeddings_v4.documents.page_words import Word
from jina_embeddings_v4.late_interaction.places import find_places


def page(*lines):
    """Words on a page of 10 x 20 characters, each line below the one before. Between double spaces is a wide gap."""
    words = []
    for row, line in enumerate(lines):
        column = 0
        for text in line.split(" "):
            if text:
                box = [column / 20, row / 10, (column + len(text)) / 20, (row + 1) / 10]
                words.append(Word(text, False, [box]))
            column += len(text) + 1 if text else 6
    return words


def heat(hot=(), shape=(100, 100)):
    """A page's heat: 0.05, and as given for (top, left, bottom, right) in hundredths."""
    values = np.full(shape, 0.05, np.float32)
    for (top, left, bottom, right), value in dict(hot).items():
        values[top:bottom, left:right] = value
    return values


def texts(query, words, hot=(), count=5):
    return [place.text for place in find_places(heat(hot), words, query, count)]


def test_words_of_the_query_are_found_together_and_without_case():
    words = page("Invoice, total sum", "Total amount DUE: 5", "the amount is small")
    assert texts("what is the total amount due?", words) == ["Total amount DUE:"]
    assert texts("total", words) == ["total", "Total"]
    assert texts("Totals", words) == []


def test_the_rarer_word_is_the_place():
    words = page("order and so", "order lease order", "so order and order")
    assert texts("the lease order", words) == ["order lease order"]
    assert texts("lease or order", page("order and order so", "lease is here")) == ["lease"]


def test_a_word_that_is_everywhere_is_no_place():
    assert texts("order", page(*["order it"] * 10)) == ["order"] * 5
    assert texts("order", page(*["order it"] * 9, "order order")) == []


@pytest.mark.parametrize("hot, found", [((), []), ({(0, 0, 10, 30): 0.3}, ["the"])])
def test_a_short_word_needs_heat(hot, found):
    assert texts("the lease", page("the other"), hot) == found
    assert texts("the lease", page("by the lease"), hot) == ["the lease"]
    assert texts("the VAT", page("your VAT")) == ["VAT"]
    assert texts("room 42", page("house 42")) == ["42"]


def test_lines_and_columns_are_boxes_of_their_own():
    words = page("see total", "amount due", "rent  total")
    places = find_places(heat(), words, "total amount due", 5)
    assert [place.text for place in places] == ["total", "amount due"]
    np.testing.assert_allclose(places[1].box, (0, 0.1, 0.5, 0.2))
    assert texts("rent total", page("rent  total")) == ["rent", "total"]


def test_a_hyphenated_word_has_a_box_on_each_line():
    boxes = [[0.8, 0, 1, 0.1], [0, 0.1, 0.2, 0.2]]
    words = [Word("was", False, [[0.5, 0, 0.7, 0.1]]), Word("manipulated", False, boxes)]
    places = find_places(heat(), words, "manipulated", 5)
    assert [(place.text, list(place.box)) for place in places] == [("manipulated", box) for box in boxes]


def test_wide_characters_are_found_in_their_order_and_without_spaces():
    characters = [
        Word(text, i not in (0, 4), [[i / 10, 0, (i + 1) / 10, 0.1]]) for i, text in enumerate("請求書号請負書")
    ]
    assert texts("請求書", characters) == ["請求書"]
    assert texts("ＩＮＶ", page("inv 3")) == ["inv"]


def test_the_hottest_of_equal_words_comes_first_and_the_heat_is_its_confidence():
    words = page("lease here", "", "lease there")
    places = find_places(heat({(20, 0, 30, 25): 0.6}), words, "lease", 5)
    assert [(place.text, round(place.heat, 2), place.box[1]) for place in places] == [
        ("lease", 0.6, 0.2),
        ("lease", 0.05, 0),
    ]


def test_hot_regions_have_the_text_in_them_or_none():
    hot = {(0, 0, 20, 40): 0.4, (60, 60, 80, 90): 0.45, (50, 10, 60, 20): 0.19}
    places = find_places(heat(hot), page("Dear sir or madam", "thank you for it"), "a red stamp", 5)
    assert [place.text for place in places] == [None, "Dear sir thank you"]
    np.testing.assert_allclose(places[0].box, (0.6, 0.6, 0.9, 0.8))
    np.testing.assert_allclose(places[1].box, (0, 0, 0.45, 0.2))
    assert [round(place.heat, 2) for place in places] == [0.45, 0.4]


def test_a_region_with_a_word_of_the_query_is_not_named_twice():
    hot = {(0, 0, 20, 40): 0.4, (60, 60, 80, 90): 0.5}
    words = page("Dear lease", "thank you for it")
    assert texts("a lease with a stamp", words, hot) == ["lease", None]
    assert texts("a lease with a stamp", words, hot, count=1) == ["lease"]


def test_little_heat_is_no_place():
    assert find_places(heat({(0, 0, 20, 40): 0.19}), [], "a red stamp", 5) == []
    assert len(find_places(heat({(0, 0, 20, 40): 0.21}), [], "a red stamp", 5)) == 1
    assert find_places(np.zeros((1, 1), np.float32), page("Dear sir"), "a red stamp", 5) == []
