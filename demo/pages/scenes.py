"""Scenes like those of photographs: a house, a tree, a boat or a car, by day, at night or at sunset."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

# The colours of the sky, at the top and at the horizon, and the brightness of the rest.
_SKIES = {
    "day": ((120, 180, 240), (205, 230, 250), 1),
    # No darker, so that black objects stay visible.
    "night": ((24, 32, 88), (58, 72, 138), 0.55),
    "sunset": ((90, 50, 120), (255, 150, 80), 0.7),
}


def draw_scene(canvas, document, colour):
    """Draws a scene over a whole canvas.

    Args:
        canvas: the :class:`Canvas`
        document: the :class:`pages.documents.Document`, a photograph
        colour: the colour of its subject, three bytes
    """
    generator, subject = canvas.generator, document["subject"]
    above, below, light = _SKIES[document["time"]]

    def lit(colour):
        return tuple(int(channel * light) for channel in colour)

    shares = np.linspace(0, 1, canvas.height)[:, None, None]
    sky = np.array(above) * (1 - shares) + np.array(below) * shares
    sky = np.broadcast_to(sky, (canvas.height, canvas.width, 3)).astype(np.uint8)
    canvas.image = Image.fromarray(sky.copy())
    canvas.draw = ImageDraw.Draw(canvas.image)

    horizon = generator.randint(280, 320)
    sun = generator.choice((90, canvas.width - 90))
    _draw_lights(canvas, document["time"], sun, generator.randint(60, 110), horizon)

    if subject == "boat":
        canvas.box(0, horizon, canvas.width, canvas.height, fill=lit((105, 185, 215)))
    else:
        hills = [(x, horizon - 25 * math.sin(x / 90 + sun)) for x in range(0, canvas.width + 20, 20)]
        ground = [(0, horizon + 20), *hills, (canvas.width, canvas.height), (0, canvas.height)]
        canvas.draw.polygon(ground, fill=lit((110, 150, 80)))

    x, y = canvas.width / 2 + generator.randint(-90, 90), horizon + generator.randint(30, 60)
    scale = generator.uniform(0.9, 1.15)

    def shape(fill, *points):
        canvas.draw.polygon([(x + scale * dx, y + scale * dy) for dx, dy in points], fill=fill)

    def disc(fill, dx, dy, radius):
        canvas.disc(x + scale * dx, y + scale * dy, scale * radius, fill)

    _SUBJECTS[subject](shape, disc, colour, lit)
    # A lens is softer than a drawing.
    canvas.image = canvas.image.filter(ImageFilter.BoxBlur(1))


def _draw_lights(canvas, time, x, y, horizon):
    """Draws the sun, or the moon and stars."""
    generator = canvas.generator
    if time == "day":
        canvas.disc(x, y, 40, (255, 225, 80))
    elif time == "night":
        canvas.disc(x, y, 34, (240, 240, 220))
        for _ in range(40):
            canvas.disc(generator.randint(0, canvas.width), generator.randint(0, horizon), 2, (230, 230, 240))
    else:
        canvas.draw.ellipse((x - 60, horizon - 90, x + 60, horizon + 30), fill=(255, 120, 60))


def _house(shape, disc, colour, lit):
    shape(colour, (-100, 0), (100, 0), (100, -110), (-100, -110))
    shape(lit((120, 80, 60)), (-120, -110), (120, -110), (0, -190))
    for x in (-60, 60):
        shape((250, 240, 170), (x - 20, -80), (x + 20, -80), (x + 20, -45), (x - 20, -45))
    shape((90, 60, 40), (-18, 0), (18, 0), (18, -55), (-18, -55))


def _tree(shape, disc, colour, lit):
    shape((100, 70, 45), (-16, 20), (16, 20), (12, -90), (-12, -90))
    for x, y, radius in ((-50, -120, 62), (50, -120, 62), (0, -175, 70), (0, -110, 60)):
        disc(colour, x, y, radius)


def _boat(shape, disc, colour, lit):
    shape(colour, (-150, -20), (150, -20), (105, 45), (-105, 45))
    shape((90, 70, 50), (-4, -20), (4, -20), (4, -200), (-4, -200))
    shape((245, 245, 240), (8, -190), (8, -40), (110, -40))


def _car(shape, disc, colour, lit):
    body = ((-150, 0), (150, 0), (150, -50), (90, -60), (55, -110), (-75, -110), (-105, -60), (-150, -50))
    shape(colour, *body)
    shape((200, 225, 240), (-85, -62), (-62, -98), (45, -98), (70, -62))
    for x in (-85, 85):
        disc((25, 25, 28), x, 4, 34)
        disc((190, 190, 195), x, 4, 14)


_SUBJECTS = {"house": _house, "tree": _tree, "boat": _boat, "car": _car}
