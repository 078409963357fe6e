"""Pages look like what is on them."""

import ast

import numpy as np
import pytest
from jina_embeddings_v4.training.pages.canvas import RGB
from jina_embeddings_v4.training.pages.documents import COLOURS, MARKS, PLACES, TYPES, Document, Mark, documents
from jina_embeddings_v4.training.pages.programs import programs
from jina_embeddings_v4.training.pages.rendering import draw_document


def coloured(picture, colour):
    """Marks the pixels that are nearest to a colour's name, paper and ink aside."""
    pixels = np.asarray(picture, dtype=np.float32)
    names = {**RGB, "paper": (250, 249, 245), "grey": (130, 130, 130)}
    distances = [np.square(pixels - np.array(rgb)).sum(axis=-1) for rgb in names.values()]
    return np.argmin(distances, axis=0) == list(names).index(colour)


def corner(mask, place):
    vertical, horizontal = place.split()
    height, width = 112, mask.shape[1] // 3
    rows = slice(0, height) if vertical == "top" else slice(-height, None)
    return mask[rows, slice(0, width) if horizontal == "left" else slice(-width, None)]


def test_a_picture_is_the_same_each_time_and_another_by_another_seed():
    (document,) = documents("test", 3, 4)
    first, again, other = (np.asarray(draw_document(document, seed)) for seed in ("a", "a", "b"))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("kind", MARKS)
@pytest.mark.parametrize("place", PLACES)
def test_a_mark_is_in_its_place_in_its_colour(kind, place):
    for number, colour in enumerate(COLOURS[:-1]):
        plain = Document("letter", (("colour", "black"),))
        marked = Document("letter", (("colour", "black"),), None, (Mark(kind, colour, place),))
        masks = [coloured(draw_document(document, number), colour) for document in (plain, marked)]
        assert corner(masks[0], place).sum() < 100
        assert corner(masks[1], place).sum() > 800


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
