"""Pages look like what is on them."""

import ast

import numpy as np
import pytest
from jina_embeddings_v4.demo.pages.canvas import RGB
from jina_embeddings_v4.demo.pages.documents import COLOURS, MARKS, PLACES, TYPES, Document, Mark, documents
from jina_embeddings_v4.demo.pages.programs import programs
from jina_embeddings_v4.demo.pages.rendering import draw_document, draw_with_boxes


def coloured(picture, colour):
    """Marks the pixels that are nearest to a colour's name, paper and ink aside."""
    pixels = np.asarray(picture, dtype=np.float32)
    names = {**RGB, "paper": (250, 249, 245), "grey": (130, 130, 130)}
    distances = [np.square(pixels - np.array(rgb)).sum(axis=-1) for rgb in names.values()]
    return np.argmin(distances, axis=0) == list(names).index(colour)


def test_a_picture_is_the_same_each_time_and_another_by_another_seed():
    (document,) = documents("test", 3, 4)
    first, again, other = (np.asarray(draw_document(document, seed)) for seed in ("a", "a", "b"))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("kind", MARKS)
@pytest.mark.parametrize("place", PLACES)
def test_a_mark_is_in_its_place_in_its_colour(kind, place):
    for colour in COLOURS[:-1]:
        mark = Mark(kind, colour, place)
        document = Document("letter", (("colour", "black"),), None, (mark,))
        picture, boxes = draw_with_boxes(document, colour)
        x0, y0, x1, y1 = boxes["mark", kind, colour, place]
        mask = coloured(picture, colour)
        assert mask[y0:y1, x0:x1].sum() > 0.6 * mask.sum() > 800

        vertical, horizontal = place.split()
        assert (y1 < 120) == (vertical == "top") and (y0 > 500) == (vertical == "bottom")
        assert (x1 < 224) == (horizontal == "left") and (x0 > 224) == (horizontal == "right")


def test_the_headline_is_in_its_box():
    for document in documents("test", 0, 40):
        picture, boxes = draw_with_boxes(document, 51)
        if document.headline:
            x0, y0, x1, y1 = boxes["headline", document.headline]
            assert 0 <= x0 < x1 <= picture.width and 0 <= y0 < y1 < 120
            assert coloured(picture, "black")[y0:y1, x0:x1].mean() > 0.1


@pytest.mark.parametrize("kind", sorted(set(TYPES) - {"code listing"}))
def test_the_main_colour_covers_much_of_what_is_drawn(kind):
    details = {name: values[-1] for name, values in TYPES[kind].items()}
    if kind == "photograph":
        details["time"] = "day"
    for colour in ("red", "purple"):
        document = Document(kind, tuple((details | {"colour": colour}).items()))
        pictures = [draw_document(document, seed) for seed in range(4)]
        assert all(coloured(picture, colour).mean() > 0.015 for picture in pictures)


def test_bars_can_be_counted():
    for bars in (2, 3, 4, 5):
        picture = draw_document(Document("bar chart", (("colour", "green"), ("bars", bars))), 7)
        columns = coloured(picture, "green").sum(axis=0) > 60
        assert np.count_nonzero(np.diff(columns.astype(int)) == 1) == bars


def test_python_snippets_are_python():
    for program in (*programs("train"), *programs("test")):
        if program.language == "Python":
            ast.parse(program.source())
        else:
            assert program.source().count("{") == program.source().count("}")
