"""Draws document pages: invoices, letters, receipts, forms, tables, charts, slides and code listings.

They stand in for a person's own scans and exports where there are none at hand. What a page says is invented and drawn
from a seeded generator, so that a page looks the same each time; its sums add up, and its charts show their numbers.
"""

import inspect
import math
import random
import re
from datetime import date, timedelta

from drawing import GREY, INK, PALE, WHITE, Page, font

# Just under the area down to which the model resizes images by default, so that the text stays as sharp as it is drawn.
A4 = (640, 905)
WIDESCREEN = (960, 540)

ACCENTS = ("#1f4e79", "#8a2b3c", "#2f6b4f", "#5b4a8a", "#a65a1e")
SERIES = ("#3b6fa5", "#e08a3c", "#5b9f6b", "#b5525c", "#8574b0", "#8c7a6b")

COMPANIES = ("Alder & Finch Ltd", "Brightwater Supply", "Northgate Printing", "Meridian Tools", "Harbour Lane Books")
PEOPLE = ("Clara Voss", "Daniel Okafor", "Ines Moreau", "Jonas Lind", "Priya Raman", "Tomas Novak")
STREETS = ("Mill Road", "Orchard Street", "Station Square", "Canal Walk", "Hillcrest Avenue")
CITIES = ("Bergen", "Bristol", "Dublin", "Ghent", "Leipzig", "Lyon", "Porto", "Turin")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def draw_page(kind, number):
    """Draws a page.

    Args:
        kind: the kind of page, one of :data:`KINDS`
        number: an int; each draws another page of that kind

    Returns:
        an RGB PIL image
    """
    return KINDS[kind](random.Random(f"{kind} {number}")).image


def draw_invoice(rng):
    page, accent, (seller, buyer) = Page(A4), rng.choice(ACCENTS), rng.sample(COMPANIES, 2)
    issued = _date(rng)
    page.box(0, 0, page.width, 10, fill=accent)
    page.text(56, 52, seller, 19, bold=True, colour=accent)
    page.text(56, 80, _address(rng), 11, colour=GREY)
    page.text(584, 48, "INVOICE", 26, bold=True, align="right")
    facts = {
        "Invoice no.": f"{issued.year}-{rng.randint(100, 999)}",
        "Date": _long(issued),
        "Due": _long(issued + timedelta(days=30)),
    }
    for i, (name, value) in enumerate(facts.items()):
        page.text(470, 140 + 19 * i, name, 11, colour=GREY, align="right")
        page.text(584, 140 + 19 * i, value, 11, align="right")

    page.text(56, 140, "Bill to", 11, bold=True, colour=accent)
    for i, line in enumerate((buyer, rng.choice(PEOPLE), _address(rng))):
        page.text(56, 159 + 19 * i, line, 12)

    positions = (66, 390, 486, 574)
    page.box(56, 256, 584, 282, fill=accent)
    page.columns(263, positions, ("Description", "Qty", "Unit price", "Amount"), bold=True, colour=WHITE)
    goods = ("Oak shelving", "Desk lamp", "Printer paper, box", "Toner cartridge", "Delivery", "Assembly, hours")
    y, total = 292, 0
    for name in rng.sample(goods, rng.randint(4, 6)):
        quantity, price = rng.randint(1, 12), rng.randint(400, 18000)
        total += quantity * price
        page.columns(y, positions, (name, quantity, _money(price), _money(quantity * price)))
        page.rule(56, y + 23, 584, y + 23, PALE)
        y += 32

    tax = round(total * 0.2)
    for name, value in (("Subtotal", total), ("VAT 20%", tax)):
        y += 24
        page.text(486, y, name, 11, colour=GREY, align="right")
        page.text(574, y, _money(value), 11, align="right")

    page.box(376, y + 28, 584, y + 60, fill=PALE)
    page.text(486, y + 36, "Total due", 13, bold=True, align="right")
    page.text(574, y + 36, "€" + _money(total + tax), 13, bold=True, align="right")
    page.text(56, 818, "Payment within 30 days, quoting the invoice number.", 11, colour=GREY)
    page.text(56, 837, f"Account {rng.randint(1000, 9999)} {rng.randint(1000, 9999)} {rng.randint(10, 99)}", 11)
    return page


def draw_letter(rng):
    page, (writer, reader) = Page(A4, "#fffdf8"), rng.sample(PEOPLE, 2)
    page.text(320, 56, rng.choice(COMPANIES), 22, "serif", bold=True, colour=rng.choice(ACCENTS), align="centre")
    page.text(320, 86, _address(rng), 12, "serif", colour=GREY, align="centre")
    page.rule(84, 112, 556, 112)
    page.text(556, 140, _long(_date(rng)), 14, "serif", align="right")
    for i, line in enumerate((reader, *_address(rng).split(", "))):
        page.text(84, 170 + 20 * i, line, 14, "serif")

    page.text(84, 258, f"Dear {reader},", 14, "serif")
    openings = (
        "Thank you for your letter, which reached us on Monday. We have read it with care and talked it over.",
        "I am writing about the rooms on the second floor, whose lease comes to an end this autumn.",
        "It was a pleasure to meet you in the spring, and I have thought of our conversation often since.",
    )
    middles = (
        "The work would begin in the first week of the month and take about twenty days. Two of our people would be "
        "with you throughout, and they would leave the rooms each evening as they found them.",
        "As we agreed, the cost will be shared in equal parts. Should it turn out higher than we expect, we shall ask "
        "you before we go on, and you are free to stop at any point without giving a reason.",
        "The garden has done well in spite of the dry weather. The old pear tree by the wall, which we had given up, "
        "bore fruit again, and there will be a basket of it waiting for you when you come.",
        "Please find enclosed the plan that you asked for. The changes are marked in pencil, and nothing has been "
        "decided yet, so do write on it whatever comes to mind and send it back at your leisure.",
    )
    y = 290
    for paragraph in (rng.choice(openings), *rng.sample(middles, 3), "I look forward to hearing from you."):
        y = page.paragraph(84, y, 472, paragraph, 14) + 10

    page.text(84, y + 10, "Yours sincerely,", 14, "serif")
    page.text(92, y + 40, writer, 28, "script", colour="#243a6b")
    page.text(84, y + 84, writer, 14, "serif")
    return page


def draw_receipt(rng):
    groceries = ("BREAD", "MILK 1L", "COFFEE 250G", "APPLES", "BUTTER", "PASTA", "TOMATOES", "CHEESE", "SOAP", "TEA")
    bought = rng.sample(groceries, rng.randint(5, 9))
    page = Page((340, 392 + 24 * len(bought)), "#fbfaf6")
    shop = rng.choice(("CORNER MARKET", "GREEN GROCER", "THE DAILY BASKET"))
    page.text(170, 30, shop, 20, "mono", bold=True, align="centre")
    page.text(170, 62, rng.choice(STREETS).upper(), 12, "mono", align="centre")
    page.text(170, 80, rng.choice(CITIES).upper(), 12, "mono", align="centre")
    page.text(30, 116, f"{_date(rng):%d/%m/%Y}", 12, "mono")
    page.text(310, 116, f"{rng.randint(8, 19):02}:{rng.randint(0, 59):02}", 12, "mono", align="right")
    page.text(170, 136, "-" * 38, 12, "mono", align="centre")
    y, total = 162, 0
    for name in bought:
        price = rng.randint(79, 899)
        total += price
        page.columns(y, (30, 310), (name, _money(price)), 13, family="mono")
        y += 24

    page.text(170, y, "-" * 38, 12, "mono", align="centre")
    page.columns(y + 24, (30, 310), ("TOTAL", _money(total)), 18, family="mono", bold=True)
    paid = math.ceil(total / 1000) * 1000
    page.columns(y + 58, (30, 310), ("CASH", _money(paid)), 13, family="mono")
    page.columns(y + 80, (30, 310), ("CHANGE", _money(paid - total)), 13, family="mono")
    page.text(170, y + 118, "THANK YOU!", 14, "mono", bold=True, align="centre")
    x = 60
    while x < 276:
        bar = rng.randint(1, 4)
        page.box(x, y + 148, x + bar - 1, y + 188, fill=INK)
        x += bar + rng.randint(2, 4)

    return page


def draw_form(rng):
    page, accent = Page(A4), rng.choice(ACCENTS)
    titles = ("Membership Application", "Travel Expense Claim", "Change of Address", "Library Card Request")
    page.text(56, 52, rng.choice(titles), 24, bold=True, colour=accent)
    page.text(56, 88, "Please complete in block letters and sign at the end.", 11, colour=GREY)
    page.rule(56, 112, 584, 112, accent, 2)
    first, last = rng.choice(PEOPLE).upper().split()
    born = date(rng.randint(1950, 2001), rng.randint(1, 12), rng.randint(1, 28))
    fields = (
        (("First name", first), ("Last name", last)),
        (("Date of birth", f"{born:%d / %m / %Y}"), ("Nationality", "")),
        (("Street and number", f"{rng.randint(2, 90)} {rng.choice(STREETS).upper()}"),),
        (("Postcode", rng.randint(10000, 99999)), ("City", rng.choice(CITIES).upper())),
        (("Telephone", f"0{rng.randint(20, 99)} {rng.randint(100000, 999999)}"), ("E-mail", "")),
    )
    y = 140
    for row in fields:
        width = (528 - 24 * (len(row) - 1)) / len(row)
        for i, (name, value) in enumerate(row):
            x = 56 + i * (width + 24)
            page.text(x, y, name, 11, colour=GREY)
            page.box(x, y + 18, x + width, y + 50, outline=INK)
            page.text(x + 10, y + 25, value, 18, "script", colour="#243a6b")

        y += 74

    page.text(56, y + 6, "Tick all that apply", 13, bold=True)
    answers = ("I am a new applicant", "Send me the newsletter", "I have enclosed a copy of my passport", "Other")
    for i, answer in enumerate(answers):
        top = y + 38 + 30 * i
        page.box(56, top, 72, top + 16, outline=INK)
        page.text(84, top + 1, answer, 12)
        if rng.random() < 0.5:
            page.rule(59, top + 8, 63, top + 13, "#243a6b", 3)
            page.rule(63, top + 13, 71, top - 1, "#243a6b", 3)

    page.rule(56, 800, 270, 800)
    page.rule(330, 800, 584, 800)
    page.text(56, 806, "Date", 11, colour=GREY)
    page.text(330, 806, "Signature", 11, colour=GREY)
    page.text(344, 764, f"{first} {last}".title(), 27, "script", colour="#243a6b")
    return page


def draw_table(rng):
    page = Page(A4)
    subject, unit = rng.choice((("Rainfall", "mm"), ("Visitors", "thousands"), ("Electricity used", "MWh")))
    title = f"Table {rng.randint(1, 9)}. {subject} by city, {rng.randint(2019, 2025)}"
    page.text(56, 56, title, 17, "serif", bold=True)
    page.text(56, 84, f"In {unit}, by month; the last line gives the year's total.", 13, "script", colour=GREY)
    cities = sorted(rng.sample(CITIES, 5))
    positions = [56] + [208 + 92 * i for i in range(5)]
    page.rule(48, 122, 592, 122, INK, 2)
    page.columns(132, positions, ("Month", *cities), 15, family="serif", bold=True)
    page.rule(48, 160, 592, 160, INK)
    rows = [[rng.randint(12, 240) for _ in cities] for _ in MONTHS]
    for i, (month, row) in enumerate(zip(MONTHS, rows, strict=True)):
        y = 168 + 34 * i
        if i % 2:
            page.box(48, y - 3, 592, y + 28, fill=PALE)
        page.columns(y + 2, positions, (month, *row), 15, family="serif")

    page.rule(48, 578, 592, 578, INK)
    totals = [sum(column) for column in zip(*rows, strict=True)]
    page.columns(588, positions, ("Total", *(f"{value:,}" for value in totals)), 15, family="serif", bold=True)
    page.rule(48, 616, 592, 616, INK, 2)
    wettest = cities[totals.index(max(totals))]
    note = (
        f"Values are rounded to whole numbers. The highest total of the year was recorded in {wettest}, and the lowest "
        f"in {cities[totals.index(min(totals))]}. Figures for the last quarter are provisional and may be revised."
    )
    page.paragraph(56, 640, 528, note, 14)
    return page


def draw_bar_chart(rng):
    page = Page((760, 560))
    names = rng.choice((("Q1", "Q2", "Q3", "Q4"), MONTHS[:6], tuple(rng.sample(CITIES, 5))))
    subject = rng.choice(("Sales", "New customers", "Orders shipped"))
    values = [rng.randint(18, 98) for _ in names]
    page.text(380, 28, f"{subject} in {rng.randint(2019, 2025)}", 20, bold=True, align="centre")
    for tick in range(0, 101, 20):
        y = 480 - 3.8 * tick
        page.rule(80, y, 720, y, PALE if tick else INK)
        page.text(68, y - 7, tick, 12, colour=GREY, align="right")

    colour, pitch = rng.choice(SERIES), 640 / len(names)
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        middle, top = 80 + pitch * (i + 0.5), 480 - 3.8 * value
        page.box(middle - pitch * 0.32, top, middle + pitch * 0.32, 479, fill=colour)
        page.text(middle, top - 19, value, 12, align="centre")
        page.text(middle, 492, name, 13, align="centre")

    page.text(380, 524, "In thousands", 12, colour=GREY, align="centre")
    return page


def draw_pie_chart(rng):
    page = Page((760, 560))
    subject, names = rng.choice(
        (
            ("Household budget", ("Housing", "Food", "Transport", "Leisure", "Savings")),
            ("How people travel to work", ("Train", "Bicycle", "Car", "On foot", "Bus")),
            ("Energy sources", ("Wind", "Solar", "Hydro", "Gas", "Nuclear", "Other")),
        )
    )
    page.text(380, 28, subject, 20, bold=True, align="centre")
    parts = [rng.randint(4, 30) for _ in names]
    start, colours = -90, rng.sample(SERIES, len(SERIES))
    for i, (name, part) in enumerate(zip(names, parts, strict=True)):
        end = start + 360 * part / sum(parts)
        page.slice(270, 310, 200, start, end, colours[i])
        angle = math.radians((start + end) / 2)
        share = f"{part / sum(parts):.0%}"
        page.text(270 + 140 * math.cos(angle), 303 + 140 * math.sin(angle), share, 13, colour=WHITE, align="centre")
        top = 310 - 16 * len(names) + 34 * i
        page.box(530, top, 548, top + 18, fill=colours[i])
        page.text(560, top + 1, name, 14)
        start = end

    return page


def draw_slide(rng):
    accent = rng.choice(ACCENTS)
    page = Page(WIDESCREEN)
    title, points = rng.choice(
        (
            ("Where we stand", ("Two new sites opened in spring", "Orders up by a third", "Waiting times still long")),
            ("Plan for next year", ("Hire for the support team", "Move to the new warehouse", "Close old accounts")),
            ("What we learned", ("Ask users early", "Measure before changing", "Small steps, often", "Write it down")),
            ("Three questions", ("Who is this for?", "What can we leave out?", "When do we stop?")),
            ("Our customers", ("Four in five come back", "Most order by telephone", "Few know our new shop")),
            ("Safety first", ("Report every near miss", "Keep the exits clear", "Know who to call")),
        )
    )
    if rng.random() < 0.5:
        page.box(0, 0, 960, 116, fill=accent)
        page.text(64, 38, title, 36, bold=True, colour=WHITE)
    else:
        page.box(0, 0, 18, 540, fill=accent)
        page.text(64, 44, title, 36, bold=True, colour=accent)

    for i, point in enumerate(points):
        page.dot(80, 196 + 70 * i, 7, accent)
        page.text(108, 180 + 70 * i, point, 26)

    page.rule(64, 490, 896, 490, PALE, 2)
    page.text(64, 502, rng.choice(COMPANIES), 14, colour=GREY)
    page.text(896, 502, rng.randint(2, 30), 14, colour=GREY, align="right")
    return page


def draw_code_listing(rng):
    """Lists the source of one of the functions in this file."""
    paper, plain, muted, keyword, literal = rng.choice(
        ((WHITE, INK, "#8a94a0", "#8a2b6b", "#2f6b4f"), ("#1f2430", "#d8dce4", "#6f7a8c", "#f29e74", "#a9d18e"))
    )
    page = Page((900, 600), paper)
    function = rng.choice((draw_receipt, draw_bar_chart, draw_pie_chart, draw_slide, draw_table))
    advance = font("mono", False, 12).getlength("m")
    page.box(0, 0, page.width, 34, fill=muted)
    page.text(16, 10, f"{function.__name__}.py", 12, "mono", bold=True, colour=paper)
    for number, line in enumerate(inspect.getsource(function).splitlines()[:34], start=1):
        y = 28 + 16 * number
        page.text(32, y, number, 12, "mono", colour=muted, align="right")
        page.text(46, y, line, 12, "mono", colour=plain)
        for token in _TOKENS.finditer(line):
            x = 46 + advance * token.start()
            page.box(x, y, x + advance * len(token[0]) - 1, y + 14, fill=paper)
            page.text(x, y, token[0], 12, "mono", colour=literal if token["literal"] else keyword)

    return page


KINDS = {
    "invoice": draw_invoice,
    "letter": draw_letter,
    "receipt": draw_receipt,
    "form": draw_form,
    "table": draw_table,
    "bar chart": draw_bar_chart,
    "pie chart": draw_pie_chart,
    "slide": draw_slide,
    "code listing": draw_code_listing,
}

_TOKENS = re.compile(
    r"""(?P<literal>f?"[^"]*"|\b\d[\d.]*\b)|\b(def|for|in|if|else|while|return|not|and|or|import|from|class)\b"""
)


def _money(cents):
    return f"{cents / 100:,.2f}"


def _date(rng):
    return date(2023, 1, 1) + timedelta(days=rng.randrange(3 * 365))


def _long(day):
    return f"{day.day} {MONTHS[day.month - 1]} {day.year}"


def _address(rng):
    return f"{rng.randint(2, 90)} {rng.choice(STREETS)}, {rng.choice(CITIES)}"
