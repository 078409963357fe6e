"""A page to draw on, its colours and its fonts."""

from functools import cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

# Colours that a person would call by these names, also when they are varied a little.
RGB = {
    "red": (205, 40, 45),
    "blue": (35, 85, 200),
    "green": (30, 140, 65),
    "orange": (240, 135, 20),
    "purple": (125, 55, 165),
    "black": (25, 25, 30),
}
INK, GREY, PALE, WHITE = (40, 44, 52), (130, 136, 145), (228, 231, 236), (255, 255, 255)

# matplotlib brings these fonts, the same ones to every machine.
FONTS = {
    "sans": "DejaVuSans.ttf",
    "sans-bold": "DejaVuSans-Bold.ttf",
    "serif": "DejaVuSerif.ttf",
    "serif-bold": "DejaVuSerif-Bold.ttf",
    "roman": "STIXGeneral.ttf",
    "roman-bold": "STIXGeneralBol.ttf",
    "mono": "DejaVuSansMono.ttf",
    "mono-bold": "DejaVuSansMono-Bold.ttf",
}

# Filler sentences: an agent, a verb and its object.
AGENTS = ("we", "our team", "the office", "our partners", "the board", "your advisor")
VERBS = ("will review", "received", "agreed to", "can confirm", "prepared", "will send", "approved")
OBJECTS = (
    "the plan for the spring",
    "your order from last month",
    "the annual report",
    "a visit to the north site",
    "the new terms of delivery",
    "all of the open questions",
    "the next meeting in town",
)
GOODS = ("Coffee", "Bread", "Apples", "Paper", "Lamp", "Cable", "Soap", "Tea", "Pens", "Folder", "Milk", "Candle")


class Canvas:
    """A page to draw on. Positions and sizes are in pixels.

    Args:
        size: ``(width, height)``
        paper: the paper's colour
        generator: the :class:`random.Random` that decides what is left open
    """

    def __init__(self, size, paper, generator):
        self.width, self.height = size
        self.paper = paper
        self.generator = generator
        self.image = Image.new("RGB", size, paper)
        self.draw = ImageDraw.Draw(self.image)
        self.written: list[str] = []  # what was written, line by line

    def text(self, x, y, text, size=13, font_name="sans", fill=INK, anchor="la"):
        """Writes one line. The anchor is one of Pillow's, by default its left and top."""
        self.draw.text((x, y), text, fill=fill, font=font(font_name, size), anchor=anchor)
        self.written.append(text)

    def sentence(self):
        """Draws a sentence to write."""
        words = " ".join(self.generator.choice(part) for part in (AGENTS, VERBS, OBJECTS))
        return f"{words[0].upper()}{words[1:]}."

    def box(self, *corners, fill=None, outline=None, width=1):
        self.draw.rectangle(corners, fill=fill, outline=outline, width=width)

    def line(self, points, fill, width):
        self.draw.line(points, fill=fill, width=width, joint="curve")

    def disc(self, x, y, radius, fill):
        self.draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


@cache
def font(name, size):
    """Returns one of :data:`FONTS` in a size in pixels."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / FONTS[name], size)


def jitter(generator, colour, by):
    """Varies a colour, by no more than ``by`` of 255 in each channel."""
    return tuple(max(0, min(255, channel + generator.randint(-by, by))) for channel in colour)


def sample_price(generator):
    """Draws a price, in cents."""
    return generator.randint(150, 39900)


def money(cents):
    """Writes an amount of money."""
    return f"{cents // 100}.{cents % 100:02}"
