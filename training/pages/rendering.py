"""Draws the picture of a page: its headline above, its marks in the corners, and between them what its type shows."""

import random

import numpy as np
from PIL import Image

from .canvas import RGB, WHITE, Canvas, font, jitter
from .figures import draw_bar_chart, draw_floor_plan, draw_line_chart, draw_map, draw_pie_chart, draw_poster
from .marks import draw_mark
from .scenes import draw_scene
from .sheets import (
    draw_code_listing,
    draw_form,
    draw_invoice,
    draw_letter,
    draw_receipt,
    draw_slide,
    draw_table,
)

# Widths and heights. All have about the same area, so that the model sees each in about as many tokens.
PORTRAIT, LANDSCAPE, STRIP = (448, 632), (632, 448), (336, 840)
_SIZES = {
    "receipt": (STRIP,),
    "slide": (LANDSCAPE,),
    "photograph": (LANDSCAPE,),
    "map": (PORTRAIT, LANDSCAPE),
    "floor plan": (PORTRAIT, LANDSCAPE),
    "bar chart": (PORTRAIT, LANDSCAPE),
    "line chart": (PORTRAIT, LANDSCAPE),
}
_PAPERS = (WHITE, (252, 248, 238), (246, 247, 249))

# What is above and below the body is left to the headline and the marks.
_BAND = 112

_BODIES = {
    "letter": draw_letter,
    "invoice": draw_invoice,
    "receipt": draw_receipt,
    "form": draw_form,
    "table": draw_table,
    "bar chart": draw_bar_chart,
    "line chart": draw_line_chart,
    "pie chart": draw_pie_chart,
    "code listing": draw_code_listing,
    "slide": draw_slide,
    "poster": draw_poster,
    "map": draw_map,
    "floor plan": draw_floor_plan,
}


def draw_document(document, seed):
    """Draws a page.

    Args:
        document: the :class:`pages.documents.Document`
        seed: what decides all that the document leaves open, an int or a string

    Returns:
        an RGB PIL image
    """
    generator = random.Random(str(seed))
    colour = jitter(generator, RGB[dict(document.details).get("colour", "black")], 12)
    paper = jitter(generator, generator.choice(_PAPERS), 3)
    canvas = Canvas(generator.choice(_SIZES.get(document.type, (PORTRAIT,))), paper, generator)
    if document.type == "photograph":
        draw_scene(canvas, document, colour)
        return _scan(canvas, may_be_tilted=False)

    _draw_headline(canvas, document)
    margin = generator.randint(26, 40)
    top = _BAND + generator.randint(2, 12)
    area = (margin, top, canvas.width - margin, canvas.height - _BAND - generator.randint(6, 14))
    _BODIES[document.type](canvas, document, colour, area)
    for mark in document.marks:
        _draw_mark(canvas, mark)
    return _scan(canvas)


def _draw_headline(canvas, document):
    if document.headline is None:
        return

    generator = canvas.generator
    font_name = generator.choice(("sans-bold", "serif-bold"))
    beside = [mark.place for mark in document.marks if mark.place.startswith("top")]
    left, right = 26, canvas.width - 26
    if beside:
        left, right = (140, canvas.width - 10) if "left" in beside[0] else (14, canvas.width - 136)

    size = 66
    while font(font_name, size).getlength(document.headline) > right - left:
        size -= 2
    room = right - left - font(font_name, size).getlength(document.headline)
    x = left + generator.choice((0, 0.5, 0 if beside else 0.5)) * room
    canvas.text(x, 58 + generator.randint(-6, 6), document.headline, size, font_name, (20, 22, 28), "lm")


def _draw_mark(canvas, mark):
    generator = canvas.generator
    if "left" in mark.place:
        x = 72 + generator.randint(-4, 12)
    else:
        x = canvas.width - 72 - generator.randint(-4, 12)
    if "top" in mark.place:
        y = 58 + generator.randint(-3, 3)
    else:
        y = canvas.height - 60 - generator.randint(-4, 4)
    draw_mark(canvas, mark.kind, x, y, jitter(generator, RGB[mark.colour], 12))


def _scan(canvas, may_be_tilted=True):
    """Returns the picture as a scanner would see it: a little tilted, brighter or darker, and grainy."""
    generator, image = canvas.generator, canvas.image
    if may_be_tilted and generator.random() < 0.5:
        image = image.rotate(generator.uniform(-2, 2), resample=Image.BILINEAR, fillcolor=canvas.paper)

    grain = np.random.default_rng(generator.getrandbits(32))
    noise = grain.integers(-9, 10, (image.height // 4, image.width // 4, 1), np.int16)
    noise = (noise * generator.randint(1, 8) // 8).repeat(4, 0).repeat(4, 1)
    gain, offset = generator.uniform(0.92, 1.04), generator.uniform(-8, 6)
    image = image.point([max(0, min(255, round(value * gain + offset))) for value in range(256)] * 3)
    return Image.fromarray(np.clip(np.asarray(image, np.int16) + noise, 0, 255).astype(np.uint8))
