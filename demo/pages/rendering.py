"""Draws the picture of a page: its headline above, its marks in the corners, and between them what its type shows."""

import math
import random

import numpy as np
from PIL import Image, ImageChops

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

# The headline and the marks are above and below the body.
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
    return _draw(document, seed)[0]


def draw_with_boxes(document, seed):
    """Draws a page, and says where its headline and its marks are.

    Args:
        document: the :class:`pages.documents.Document`
        seed: what decides all that the document leaves open, an int or a string

    Returns:
        an RGB PIL image, and a dict from the facts of the headline and of each mark to the box ``(x0, y0, x1, y1)``
        that encloses it in the image, in pixels
    """
    return _draw(document, seed)[:2]


def draw_with_text(document, seed):
    """Draws a page, and says what is written on it, as the text layer of a PDF does. The words of stamps are no text.

    Args:
        document: the :class:`pages.documents.Document`
        seed: what decides all that the document leaves open, an int or a string

    Returns:
        an RGB PIL image and a string, a line for each of the page's
    """
    picture, _, text = _draw(document, seed)
    return picture, text


def _draw(document, seed):
    """Returns the picture, the boxes of what is on it, and its text."""
    generator = random.Random(str(seed))
    colour = jitter(generator, RGB[dict(document.details).get("colour", "black")], 12)
    paper = jitter(generator, generator.choice(_PAPERS), 3)
    canvas = Canvas(generator.choice(_SIZES.get(document.type, (PORTRAIT,))), paper, generator)
    if document.type == "photograph":
        draw_scene(canvas, document, colour)
        return _scan(canvas, 0), {}, ""

    boxes = {("headline", document.headline): _draw_headline(canvas, document)} if document.headline else {}
    margin = generator.randint(26, 40)
    top = _BAND + generator.randint(2, 12)
    area = (margin, top, canvas.width - margin, canvas.height - _BAND - generator.randint(6, 14))
    _BODIES[document.type](canvas, document, colour, area)
    for mark in document.marks:
        boxes["mark", mark.kind, mark.colour, mark.place] = _draw_mark(canvas, mark)

    tilt = generator.uniform(-2, 2) if generator.random() < 0.5 else 0
    boxes = {fact: _tilted(box, tilt, canvas.image.size) for fact, box in boxes.items()}
    return _scan(canvas, tilt), boxes, "\n".join(canvas.written)


def _draw_headline(canvas, document):
    """Writes the headline, and returns its box."""
    generator = canvas.generator
    font_name = generator.choice(("sans-bold", "serif-bold", "roman-bold"))
    beside = [mark.place for mark in document.marks if mark.place.startswith("top")]
    left, right = 26, canvas.width - 26
    if beside:
        left, right = (150, canvas.width - 16) if "left" in beside[0] else (16, canvas.width - 150)

    size = 66
    while font(font_name, size).getlength(document.headline) > right - left:
        size -= 2
    room = right - left - font(font_name, size).getlength(document.headline)
    x = left + generator.choice((0, 0.5, 0 if beside else 0.5)) * room
    y = 58 + generator.randint(-6, 6)
    canvas.text(x, y, document.headline, size, font_name, (20, 22, 28), "lm")
    return canvas.draw.textbbox((x, y), document.headline, font=font(font_name, size), anchor="lm")


def _draw_mark(canvas, mark):
    """Draws a mark in its place, and returns its box."""
    generator = canvas.generator
    if "left" in mark.place:
        x = 74 + generator.randint(0, 10)
    else:
        x = canvas.width - 74 - generator.randint(0, 10)
    if "top" in mark.place:
        y = 58 + generator.randint(-2, 2)
    else:
        y = canvas.height - 60 - generator.randint(-3, 3)
    return draw_mark(canvas, mark.kind, x, y, jitter(generator, RGB[mark.colour], 12))


def _tilted(box, tilt, size):
    """Returns the box that encloses a box after the picture is turned about its centre.

    Args:
        box: ``(x0, y0, x1, y1)``, in pixels
        tilt: the angle, in degrees, counterclockwise
        size: the picture's width and height, which the box is cut to
    """
    sine, cosine = math.sin(math.radians(tilt)), math.cos(math.radians(tilt))
    x, y = size[0] / 2, size[1] / 2
    corners = [(left - x, top - y) for left in box[::2] for top in box[1::2]]
    across = [x + cosine * dx + sine * dy for dx, dy in corners]
    down = [y - sine * dx + cosine * dy for dx, dy in corners]
    return (
        max(0, math.floor(min(across))),
        max(0, math.floor(min(down))),
        min(size[0], math.ceil(max(across))),
        min(size[1], math.ceil(max(down))),
    )


def _scan(canvas, tilt):
    """Returns the picture as a scanner would see it: tilted by some degrees, brighter or darker, and grainy."""
    generator, image = canvas.generator, canvas.image
    if tilt:
        image = image.rotate(tilt, resample=Image.BILINEAR, fillcolor=canvas.paper)

    grain = np.random.default_rng(generator.getrandbits(32))
    noise = grain.integers(-9, 10, (image.height // 4, image.width // 4), np.int16)
    noise = noise * generator.randint(1, 8) // 8
    gain, offset = generator.uniform(0.92, 1.04), generator.uniform(-8, 6)
    image = image.point([max(0, min(255, round(value * gain + offset))) for value in range(256)] * 3)
    # The noise is shifted above zero, since pictures have no negative values, and shifted back when it is added.
    noise = Image.fromarray((noise + 9).astype(np.uint8)).resize(image.size, Image.NEAREST)
    return ImageChops.add(image, Image.merge("RGB", [noise] * 3), offset=-9)
