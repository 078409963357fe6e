"""The marks: stamps, signatures and the like, each about 100 pixels wide around its centre."""

import math

from PIL import Image, ImageDraw

from .canvas import WHITE, font


def draw_mark(canvas, kind, x, y, colour):
    """Draws a mark.

    Args:
        canvas: the :class:`Canvas`
        kind: one of :data:`pages.documents.MARKS`
        x: its centre, in pixels
        y: its centre, in pixels
        colour: its colour, three bytes

    Returns:
        the box ``(x0, y0, x1, y1)`` that encloses it, in pixels
    """
    _SHAPES[kind](canvas, x, y, colour)
    left, above, right, below = _EXTENTS[kind]
    return x - left, y - above, x + right, y + below


def _stamp(canvas, x, y, colour):
    layer = Image.new("RGBA", (100, 100))
    draw = ImageDraw.Draw(layer)
    draw.ellipse((3, 3, 97, 97), outline=colour, width=7)
    draw.ellipse((18, 18, 82, 82), outline=colour, width=3)
    draw.rectangle((10, 40, 90, 60), fill=colour)
    word = canvas.generator.choice(("PAID", "COPY", "FINAL", "OK"))
    draw.text((50, 50), word, fill=WHITE, font=font("sans-bold", 16), anchor="mm")
    layer = layer.rotate(canvas.generator.randint(-25, 25), resample=Image.BICUBIC)
    canvas.image.paste(layer, (x - 50, y - 50), layer)


def _signature(canvas, x, y, colour):
    slant = canvas.generator.uniform(0.8, 1.2)
    stroke = [
        (
            x - 46 + 90 * t / 40 + 8 * math.sin(t * 0.7 * slant),
            y + 27 * math.sin(t * 0.9 * slant + 1) * (1 - t / 60),
        )
        for t in range(41)
    ]
    canvas.line(stroke, colour, 5)
    canvas.line((x - 54, y + 36, x + 54, y + 30), colour, 4)


def _barcode(canvas, x, y, colour):
    left, right = x - 56, x + 56
    while left < right:
        width = canvas.generator.choice((3, 4, 6, 8))
        canvas.box(left, y - 36, min(left + width, right), y + 36, fill=colour)
        left += width + canvas.generator.choice((4, 5, 7))


def _qr_code(canvas, x, y, colour):
    module, count = 8, 11
    x0, y0 = x - module * count // 2, y - module * count // 2
    for i in range(count):
        for j in range(count):
            if canvas.generator.random() < 0.5:
                left, top = x0 + i * module, y0 + j * module
                canvas.box(left, top, left + module - 1, top + module - 1, fill=colour)

    for i, j in ((0, 0), (8, 0), (0, 8)):
        left, top, side = x0 + i * module, y0 + j * module, 3 * module
        canvas.box(left - 4, top - 4, left + side + 4, top + side + 4, fill=WHITE)
        canvas.box(left, top, left + side, top + side, outline=colour, width=6)
        canvas.box(left + 9, top + 9, left + 15, top + 15, fill=colour)


def _star(canvas, x, y, colour):
    radii = (48, 19)
    points = [
        (x + radii[k % 2] * math.sin(math.pi * k / 5), y - radii[k % 2] * math.cos(math.pi * k / 5)) for k in range(10)
    ]
    canvas.draw.polygon(points, fill=colour)


def _arrow(canvas, x, y, colour):
    outline = ((-54, -15), (4, -15), (4, -42), (54, 0), (4, 42), (4, 15), (-54, 15))
    canvas.draw.polygon([(x + dx, y + dy) for dx, dy in outline], fill=colour)


def _logo(canvas, x, y, colour):
    canvas.draw.polygon([(x, y - 48), (x + 48, y), (x, y + 48), (x - 48, y)], fill=colour)
    canvas.disc(x, y, 20, WHITE)


_SHAPES = {
    "stamp": _stamp,
    "signature": _signature,
    "barcode": _barcode,
    "QR code": _qr_code,
    "star": _star,
    "arrow": _arrow,
    "logo": _logo,
}

# How far each reaches from its centre: to the left, above, to the right and below.
_EXTENTS = {
    "stamp": (50, 50, 50, 50),
    "signature": (55, 30, 55, 39),
    "barcode": (57, 37, 57, 37),
    "QR code": (49, 49, 49, 49),
    "star": (47, 49, 47, 40),
    "arrow": (55, 43, 55, 43),
    "logo": (49, 49, 49, 49),
}
