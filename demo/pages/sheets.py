"""The bodies of pages of text: letters, invoices, receipts, forms, tables, code listings and slides."""

import textwrap

from .canvas import GOODS, GREY, INK, OBJECTS, PALE, WHITE, money, sample_price
from .snippets import snippet

_LABELS = ("Name", "Address", "Date of birth", "Phone", "City", "Country", "Occupation", "Signed on")
_HEADINGS = ("Jan", "Qty", "Sum", "Net", "Tax", "Year", "Cost")
_KEYWORDS = {"def", "for", "return", "function", "const", "let", "if", "while", "}"}


def draw_letter(canvas, document, colour, area):
    x0, y0, x1, y1 = area
    canvas.box(x0, y0, x1, y0 + 16, fill=colour)
    reader = canvas.generator.choice(("Ms Voss", "Mr Lind", "Dr Moreau"))
    canvas.text(x0, y0 + 30, f"Dear {reader},", 15, "serif")
    leading, size = canvas.generator.choice((20, 22, 24)), 13
    rows = range(y0 + 62, y1 - 60 - leading + 1, leading)
    text = " ".join(canvas.sentence() for _ in rows) + " " + " ".join(canvas.sentence() for _ in rows)
    for y, line in zip(rows, textwrap.wrap(text, int((x1 - x0) / (size * 0.6))), strict=False):
        canvas.text(x0, y, line, size, "serif")

    canvas.text(x0, y1 - 46, "Yours sincerely", 15, "serif")
    canvas.box(x0, y1 - 6, x1, y1, fill=colour)


def draw_invoice(canvas, document, colour, area):
    x0, y0, x1, y1 = area
    generator = canvas.generator
    canvas.box(0, y0, canvas.width, y0 + 52, fill=colour)
    canvas.text(x0, y0 + 26, "INVOICE", 32, "sans-bold", WHITE, "lm")
    canvas.text(x1, y0 + 26, f"No {generator.randint(100, 999)}", 18, "sans", WHITE, "rm")

    y = y0 + 66
    canvas.text(x0, y, "Bill to", 13, "sans-bold", colour)
    customer = generator.choice(("Linden & Sons", "Parkside Cafe", "Moreau Ltd", "Hill Street School"))
    canvas.text(x0, y + 18, customer, 13)
    canvas.text(x1, y + 18, f"2024-0{generator.randint(1, 9)}-1{generator.randint(0, 9)}", 13, anchor="ra")

    y += 46
    canvas.box(x0, y, x1, y + 22, fill=colour)
    canvas.text(x0 + 6, y + 11, "Item", 13, "sans-bold", WHITE, "lm")
    canvas.text(x1 - 6, y + 11, "Amount", 13, "sans-bold", WHITE, "rm")
    rows = range(y + 30, y1 - 74, 28)
    prices = [sample_price(generator) for _ in rows]
    for row, price, goods in zip(rows, prices, generator.sample(GOODS, k=len(rows)), strict=True):
        canvas.text(x0 + 6, row, f"{generator.randint(1, 9)} x {goods}", 14)
        canvas.text(x1 - 6, row, money(price), 14, anchor="ra")
        canvas.line((x0, row + 21, x1, row + 21), PALE, 2)

    canvas.box(x1 - 190, y1 - 42, x1, y1, outline=colour, width=4)
    canvas.text(x1 - 180, y1 - 21, "TOTAL", 18, "sans-bold", INK, "lm")
    canvas.text(x1 - 10, y1 - 21, money(sum(prices)), 18, "sans-bold", INK, "rm")


def draw_receipt(canvas, document, colour, area):
    x0, y0, x1, y1 = area
    generator, middle = canvas.generator, canvas.width / 2
    canvas.box(x0, y0, x1, y0 + 40, fill=colour)
    canvas.text(middle, y0 + 20, generator.choice(("SHOP", "MARKET", "STORE")), 24, "mono-bold", WHITE, "mm")
    canvas.text(x0, y0 + 56, "-" * 30, 15, "mono")
    rows = range(y0 + 78, y1 - 106, 27)
    prices = [sample_price(generator) // 10 for _ in rows]
    for y, price in zip(rows, prices, strict=True):
        canvas.text(x0, y, generator.choice(GOODS), 17, "mono")
        canvas.text(x1, y, money(price), 17, "mono", anchor="ra")

    canvas.line((x0, y1 - 70, x1, y1 - 70), INK, 3)
    canvas.text(x0, y1 - 58, "TOTAL", 26, "mono-bold")
    canvas.text(x1, y1 - 58, money(sum(prices)), 26, "mono-bold", anchor="ra")
    canvas.text(middle, y1 - 12, "thank you", 15, "mono", anchor="mm")


def draw_form(canvas, document, colour, area):
    x0, y0, x1, y1 = area
    generator = canvas.generator
    canvas.text(x0, y0 + 6, "Please fill in", 17, "sans-bold", colour)
    labels = iter(generator.sample(_LABELS, k=len(_LABELS)))
    for y in range(y0 + 38, y1 - 50, 56):
        if generator.random() < 0.3:
            for x, answer in zip(range(x0, x0 + 360, 120), ("yes", "no", "other"), strict=True):
                canvas.box(x, y + 14, x + 24, y + 38, outline=colour, width=4)
                canvas.text(x + 32, y + 26, answer, 14, anchor="lm")
        else:
            canvas.text(x0, y, next(labels), 13)
            canvas.box(x0, y + 17, x1, y + 44, outline=colour, width=4, fill=WHITE)


def draw_table(canvas, document, colour, area):
    x0, y0, x1, y1 = area
    generator, columns = canvas.generator, document["columns"]
    height = generator.choice((34, 38, 42))
    rows, width = int((y1 - y0) / height), (x1 - x0) / columns
    y1 = y0 + rows * height
    canvas.box(x0, y0, x1, y0 + height, fill=colour)
    headings = generator.sample(_HEADINGS, k=columns)
    for row in range(rows):
        y = y0 + row * height
        for column in range(columns):
            if row:
                cell, font_name, fill = str(generator.randint(1, 999)), "sans", INK
            else:
                cell, font_name, fill = headings[column], "sans-bold", WHITE
            canvas.text(x0 + width * column + width / 2, y + height / 2, cell, 15, font_name, fill, "mm")
        canvas.line((x0, y, x1, y), GREY, 1)

    canvas.box(x0, y0, x1, y1, outline=colour, width=4)
    for column in range(1, columns):
        x = x0 + width * column
        canvas.line((x, y0, x, y1), colour, 6)
        canvas.line((x, y0 + 3, x, y0 + height), WHITE, 6)


def draw_code_listing(canvas, document, colour, area):
    x0, y0, x1, y1 = area
    if canvas.generator.random() < 0.5:
        background, foreground, keyword = (30, 34, 44), (225, 228, 235), (250, 170, 70)
    else:
        background, foreground, keyword = (238, 240, 244), INK, (150, 40, 150)

    canvas.box(x0 - 14, y0, x1 + 14, y1, fill=background)
    lines = snippet(document["language"], document["action"], document["things"], document["style"]).splitlines()
    size = min(24, int((x1 - x0 + 10) / 0.61 / max(map(len, lines))))
    for i, line in enumerate(lines):
        fill = keyword if line.strip().split(" ")[0].split("(")[0] in _KEYWORDS else foreground
        canvas.text(x0 - 4, y0 + 14 + i * size * 1.5, line, size, "mono-bold", fill)


def draw_slide(canvas, document, colour, area):
    x0, y0, x1, y1 = area
    canvas.box(0, y0, canvas.width, y0 + 8, fill=colour)
    canvas.box(0, y0, 26, y1, fill=colour)
    y0 += 12
    step = (y1 - y0) / document["bullets"]
    points = canvas.generator.sample(OBJECTS, k=document["bullets"])
    for i, point in enumerate(points):
        y = y0 + step * (i + 0.5)
        canvas.disc(x0 + 27, y, 11, colour)
        canvas.text(x0 + 54, y, point[0].upper() + point[1:], 22, "sans", anchor="lm")
