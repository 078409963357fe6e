"""A page to draw on: lines of text, tables' rows, rules, boxes and the slices of a pie."""

from functools import cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

INK, GREY, PALE, WHITE = "#1c2430", "#697585", "#eceff3", "#ffffff"

# Those that matplotlib carries are there on every machine, and the same on each.
FONTS = {
    "sans": ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf"),
    "serif": ("STIXGeneral.ttf", "STIXGeneralBol.ttf"),
    "script": ("STIXGeneralItalic.ttf", "STIXGeneralBolIta.ttf"),
    "mono": ("DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf"),
}


class Page:
    """A blank page to draw on. Positions and sizes are in pixels.

    Args:
        size: ``(width, height)``
        colour: the paper's colour
    """

    def __init__(self, size, colour=WHITE):
        self.width, self.height = size
        self.image = Image.new("RGB", size, colour)
        self._draw = ImageDraw.Draw(self.image)

    def text(self, x, y, text, size=12, family="sans", bold=False, colour=INK, align="left"):
        """Writes one line whose top is at ``y`` and whose left, middle or right is at ``x``."""
        anchor = {"left": "la", "centre": "ma", "right": "ra"}[align]
        self._draw.text((x, y), str(text), fill=colour, font=font(family, bold, size), anchor=anchor)

    def paragraph(self, x, y, width, text, size=12, family="serif", leading=1.45, colour=INK):
        """Writes text in lines of at most ``width``, and returns where the next line would go."""
        line = ""
        for word in [*text.split(), None]:
            longer = f"{line} {word}".strip()
            if word is None or font(family, False, size).getlength(longer) > width:
                self.text(x, y, line, size, family, colour=colour)
                y += size * leading
                line = word
            else:
                line = longer

        return y

    def rule(self, x0, y0, x1, y1, colour=GREY, width=1):
        self._draw.line((x0, y0, x1, y1), fill=colour, width=width)

    def box(self, x0, y0, x1, y1, fill=None, outline=None, width=1):
        self._draw.rectangle((x0, y0, x1, y1), fill=fill, outline=outline, width=width)

    def dot(self, x, y, radius, fill):
        self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)

    def slice(self, x, y, radius, start, end, fill):
        """Draws a slice of a pie, between angles in degrees."""
        box = (x - radius, y - radius, x + radius, y + radius)
        self._draw.pieslice(box, start, end, fill=fill, outline=WHITE, width=2)

    def columns(self, y, positions, cells, size=11, **style):
        """Writes the cells of a table's row: the first from its left edge, the others up to their right."""
        for i, (x, cell) in enumerate(zip(positions, cells, strict=True)):
            self.text(x, y, cell, size, align="right" if i else "left", **style)


@cache
def font(family, bold, size):
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / FONTS[family][bold], size)
