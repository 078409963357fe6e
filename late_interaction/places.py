"""The best places of a page for a query: by its heat, and by the words of its text layer where it has one.

A word of the query that stands on the page is a place, if it tells something. The less often it is on the page, the
more it tells. Neighbours add up: where "total amount due" stands together, "total" alone elsewhere is no place. A short
word, such as "the", tells something only where the page is hot.

A hot region is a connected part of the page whose heat is at least 0.4 times the page's maximum, and somewhere at least
0.2. The words in it are its text, and the place is the box around them. A region without words is a place as it is.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..documents.page_words import Word

Box = tuple[float, float, float, float]

# The least heat of a match, half of what heatmaps show as opaque. With an index, 97 of 100 pages of the demo model with
# a match are hotter at their maximum, and 12 of 100 without one.
LEAST_HEAT = 0.2

# The share of the page's maximum to which a region extends. Around marks and headlines of the demo model, such a region
# has the best overlap with their boxes, of shares of 0.3 to 0.7.
_EXTENT = 0.4

# A word that is on a page more often says nothing about a place.
_OFTEN = 10

# The least characters of a word that tells something by itself, unless the query has no longer word.
_LONG = 4


@dataclass(frozen=True)
class Place:
    """A place on a page.

    Args:
        box: its left, top, right and bottom edges, from 0 to 1
        heat: the maximum of the page's heat in it
        text: the words in it, or ``None``
    """

    box: Box
    heat: float
    text: str | None


def find_places(heat: np.ndarray, words: Sequence[Word], query: str, count: int) -> list[Place]:
    """Finds the best places of a page, best first: words of the query, then hot regions without such words.

    Args:
        heat: a float32 array ``(rows, columns)`` of the page's heat, as fine as boxes are to be
        words: the words of the page's text layer
        query: the query
        count: the most places to return

    Returns:
        a list of :class:`Place`, empty if no word of the query is on the page and it has little heat
    """
    literal = [_place(heat, line) for line in _query_lines(heat, words, query)]
    return [*literal, *_hot_places(heat, words, literal)][:count]


def _query_lines(heat, words, query):
    """The lines of words of the query, best first: lists of pairs of a word and its box."""
    asked = {token for token in _tokens(query) if len(token) > 1 or token.isnumeric() or _is_wide(token)}
    tokens = [asked.intersection(_tokens(word.text)) for word in words]
    counts = Counter(token for found in tokens for token in found)
    long = min(_LONG, max(map(len, asked), default=0))

    runs, start = [], 0
    while start < len(words):
        end = start
        while end < len(words) and tokens[end]:
            end += 1
        if end > start:
            found = set().union(*tokens[start:end])
            lines = _lines(words[start:end])
            hottest = max(_heat_in(heat, box) for line in lines for _, box in line)
            telling = (token for token in found if hottest >= LEAST_HEAT or _tells(token, long))
            value = sum(1 / counts[token] for token in telling if counts[token] <= _OFTEN)
            if value:
                runs.append((value, hottest, lines))
        start = end + 1

    best = max((value for value, _, _ in runs), default=0)
    runs = sorted((run for run in runs if run[0] > best / 2), key=lambda run: run[:2], reverse=True)
    return [line for _, _, lines in runs for line in lines]


def _tokens(text):
    """The words of a text as they are compared, without case and punctuation; wide characters are a word each."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return re.findall(r"\w+", "".join(f" {character} " if _is_wide(character) else character for character in text))


def _is_wide(text):
    return unicodedata.east_asian_width(text[0]) == "W"


def _tells(token, long):
    return len(token) >= long or _is_wide(token) or any(map(str.isnumeric, token))


def _lines(words):
    """Splits consecutive words into lines: lists of pairs of a word and its box on the line."""
    lines = []
    for word in words:
        for box in word.boxes:
            if lines and _on_one_line(lines[-1][-1][1], box):
                lines[-1].append((word, box))
            else:
                lines.append([(word, box)])
    return lines


def _on_one_line(box, other):
    heights = box[3] - box[1], other[3] - other[1]
    overlap = min(box[3], other[3]) - max(box[1], other[1])
    gap = max(box[0], other[0]) - min(box[2], other[2])
    # A page's width and height are alike enough to compare the gap with the height of the line.
    return overlap > min(heights) / 2 and gap < 2 * max(heights)


def _hot_places(heat, words, literal):
    """The places of the hot regions in which no word of the query was found, hottest first."""
    regions, _ = ndimage.label(heat >= max(_EXTENT * heat.max(), np.finfo(np.float32).tiny))
    rows, columns = heat.shape

    def region_at(box):
        row, column = (box[1] + box[3]) / 2 * rows, (box[0] + box[2]) / 2 * columns
        return regions[min(int(row), rows - 1), min(int(column), columns - 1)]

    having = {number for place in literal for number in np.unique(_part(regions, place.box))}
    inside: dict[int, list] = {}
    for word in words:
        for box in word.boxes:
            inside.setdefault(region_at(box), []).append((word, box))

    places = []
    for number, (down, across) in enumerate(ndimage.find_objects(regions), start=1):
        hottest = float(heat[regions == number].max())
        if number in having or hottest < LEAST_HEAT:
            continue
        if number in inside:
            found = _place(heat, inside[number])
            places.append(Place(found.box, hottest, found.text))
        else:
            box = across.start / columns, down.start / rows, across.stop / columns, down.stop / rows
            places.append(Place(box, hottest, None))
    return sorted(places, key=lambda place: -place.heat)


def _place(heat, located):
    """The place of words that are located by a box each."""
    left, top, right, bottom = np.array([box for _, box in located]).T
    box = float(left.min()), float(top.min()), float(right.max()), float(bottom.max())
    text, last = "", None
    for word, _ in located:
        # A word that is hyphenated has several boxes.
        if word is not last:
            text += word.text if word.glued or not text else f" {word.text}"
        last = word
    return Place(box, _heat_in(heat, box), text)


def _heat_in(heat, box):
    return float(_part(heat, box).max())


def _part(values, box):
    """The values of a page that lie in a box, at least one."""
    rows, columns = values.shape
    top, left = min(int(box[1] * rows), rows - 1), min(int(box[0] * columns), columns - 1)
    return values[top : max(top + 1, round(box[3] * rows)), left : max(left + 1, round(box[2] * columns))]
