"""Snippets: the part of a page's text that a query is about, by the words that both have."""

import re
import string

# Characters.
WIDTH = 80

# Of a query's words, those with fewer letters say too little.
_LETTERS = 3


def snippet(text: str, query: str, width: int = WIDTH) -> str:
    """Returns the part of a text that has most of a query's words, or its start where it has none.

    Args:
        text: the text
        query: the query
        width (80): the most characters of the part

    Returns:
        a string without line breaks
    """
    text = " ".join(text.split())
    places = [
        (match.start(), word)
        for word in _words(query)
        for match in re.finditer(rf"\b{re.escape(word)}\b", text.lower())
    ]
    if len(text) <= width or not places:
        return text if len(text) <= width else f"{text[: width - 2]} …"

    def words_from(start):
        return len({word for place, word in places if start <= place < start + width - 20})

    first = max(sorted(place for place, _ in places), key=words_from)
    start = max(0, min(first - 10, len(text) - width))
    start = 0 if start == 0 else text.find(" ", start) + 1
    part = text[start : start + width - 4]
    return f"{'… ' if start else ''}{part}{' …' if start + len(part) < len(text) else ''}"


def in_markdown(text: str, query: str) -> str:
    """Returns a text as Markdown that shows it as it is, with a query's words in bold.

    Args:
        text: a text without line breaks
        query: the query

    Returns:
        a string
    """
    words = "|".join(rf"\b{re.escape(word)}\b" for word in _words(query))
    parts = re.split(f"({words})", text, flags=re.IGNORECASE) if words else [text]
    # Every other part is one of the query's words.
    return "".join(f"**{_escape(part)}**" if i % 2 else _escape(part) for i, part in enumerate(parts))


def _words(query):
    return sorted({word for word in re.findall(r"\w+", query.lower()) if len(word) >= _LETTERS})


def _escape(text):
    return re.sub(f"([{re.escape(string.punctuation)}])", r"\\\1", text)
