"""The bodies of pages that show a figure: charts, posters, maps and floor plans."""

import math

from .canvas import GREY, INK, PALE, WHITE


def draw_bar_chart(canvas, document, colour, area):
    x0, y0, x1, y1 = _axes(canvas, area)
    width = (x1 - x0 - 10) / document["bars"]
    gap = width * canvas.generator.uniform(0.28, 0.38)
    for i in range(document["bars"]):
        left = x0 + 8 + i * width
        height = canvas.generator.uniform(0.4, 1) * (y1 - y0 - 8)
        canvas.box(left + gap / 2, y1 - height, left + width - gap / 2, y1 - 2, fill=colour)
        canvas.text(left + 0.5 * width, y1 + 6, "ABCDE"[i], 15, anchor="ma")


def draw_line_chart(canvas, document, colour, area):
    x0, y0, x1, y1 = _axes(canvas, area)
    generator = canvas.generator
    count = generator.randint(4, 6)
    band = (y1 - y0 - 10) / document["lines"]
    for i in range(document["lines"]):
        # Each line has its own band, so that lines can be counted.
        points = [
            (x0 + 8 + (x1 - x0 - 16) * k / (count - 1), y0 + 6 + band * i + band * generator.uniform(0.2, 0.8))
            for k in range(count)
        ]
        canvas.line(points, colour, 8)
        for x, y in points:
            canvas.disc(x, y, 8, colour)


def _axes(canvas, area):
    """Draws axes, and returns the area that they enclose."""
    x0, y0, x1, y1 = area
    x0 += 24
    y1 -= 26
    for i in range(1, 5):
        y = y1 - i * (y1 - y0) / 5
        canvas.line((x0, y, x1, y), PALE, 2)
        canvas.text(x0 - 6, y, str(i * 20), 12, anchor="rm", fill=GREY)
    canvas.line((x0, y0, x0, y1), INK, 4)
    canvas.line((x0, y1, x1, y1), INK, 4)
    return x0, y0, x1, y1


def draw_pie_chart(canvas, document, colour, area):
    x0, y0, x1, y1 = area
    generator, slices = canvas.generator, document["slices"]
    radius = min(x1 - x0, y1 - y0) / 2 - 6
    x = (x0 + x1) / 2 + generator.uniform(-0.15, 0.15) * (x1 - x0 - 2 * radius)
    y = (y0 + y1) / 2
    parts = [generator.uniform(1, 2) for _ in range(slices)]
    angle = generator.uniform(0, 360)
    for i, part in enumerate(parts):
        # Neighbours differ, the last and the first too.
        paler = 0.38 * (i % 2 if slices == 4 else (i % 3) / 2)
        fill = tuple(int(channel + (255 - channel) * paler) for channel in colour)
        end = angle + 360 * part / sum(parts)
        canvas.draw.pieslice((x - radius, y - radius, x + radius, y + radius), angle, end, fill=fill)
        angle = end

    for part in parts:
        edge = math.radians(angle)
        canvas.draw.line((x, y, x + radius * math.cos(edge), y + radius * math.sin(edge)), fill=WHITE, width=10)
        angle += 360 * part / sum(parts)


def draw_poster(canvas, document, colour, area):
    x0, y0, x1, y1 = area
    generator, shape = canvas.generator, document["shape"]
    r = generator.randint(120, 165)
    x, y = (x0 + x1) / 2 + generator.randint(-14, 14), (y0 + y1) / 2 + generator.randint(-10, 10)
    if shape == "circle":
        canvas.disc(x, y, r, colour)
    elif shape == "square":
        canvas.box(x - r, y - r, x + r, y + r, fill=colour)
    elif shape == "triangle":
        canvas.draw.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=colour)
    else:
        canvas.draw.polygon([(x + r * dx, y - r * dy) for dx, dy in map(_heart, range(126))], fill=colour)
    canvas.text(x, y, generator.choice(("NOW", "LIVE", "OPEN", "SALE")), 34, "sans-bold", WHITE, "mm")


def _heart(i):
    """Returns a point of the outline of a heart about the origin, about two units wide."""
    t = i / 20
    height = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
    return 16 * math.sin(t) ** 3 / 17, height / 17


def draw_map(canvas, document, colour, area):
    x0, y0, x1, y1 = area
    generator, water = canvas.generator, (150, 200, 235)
    canvas.box(x0, y0, x1, y1, fill=(234, 238, 222))
    block = generator.randint(50, 70)
    for x in range(x0 + generator.randint(10, 40), x1, block):
        canvas.line((x, y0, x + generator.randint(-10, 10), y1), WHITE, 7)
    for y in range(y0 + generator.randint(10, 40), y1, block):
        canvas.line((x0, y, x1, y + generator.randint(-10, 10)), WHITE, 7)

    if document["water"] == "river":
        spring = generator.uniform(0.2, 0.5)
        course = [
            (x0 + (x1 - x0) * t / 20, y0 + (y1 - y0) * (spring + 0.25 * t / 20 + 0.08 * math.sin(t / 3)))
            for t in range(21)
        ]
        canvas.line(course, water, 46)
    else:
        x, y = generator.uniform(x0 + 110, x1 - 110), generator.uniform(y0 + 80, y1 - 80)
        canvas.draw.ellipse((x - 90, y - 64, x + 90, y + 64), fill=water)

    x, y = x0 + 20, generator.uniform(y0 + 30, y1 - 30)
    route = [(x, y)]
    for _ in range(4):
        x += (x1 - x0 - 40) / 4
        route.append((x, y))
        y = generator.uniform(y0 + 25, y1 - 25)
        route.append((x, y))
    canvas.line(route, colour, 13)
    canvas.disc(x, y, 16, colour)
    canvas.box(x0, y0, x1, y1, outline=GREY, width=2)


def draw_floor_plan(canvas, document, colour, area):
    x0, y0, x1, y1 = area
    generator = canvas.generator
    rooms = [(x0 + 6, y0 + 6, x1 - 6, y1 - 6)]
    while len(rooms) < document["rooms"]:
        # The largest room is divided across its longer side.
        rooms.sort(key=lambda room: -(room[2] - room[0]) * (room[3] - room[1]))
        left, top, right, bottom = rooms.pop(0)
        share = generator.uniform(0.42, 0.58)
        if right - left > bottom - top:
            middle = left + share * (right - left)
            rooms += [(left, top, middle, bottom), (middle, top, right, bottom)]
        else:
            middle = top + share * (bottom - top)
            rooms += [(left, top, right, middle), (left, middle, right, bottom)]

    for left, top, right, bottom in rooms:
        canvas.box(left - 5, top - 5, right + 5, bottom + 5, outline=colour, width=11)
        size = f"{generator.randint(6, 30)} m²"
        canvas.text((left + right) / 2, (top + bottom) / 2, size, 17, anchor="mm")
