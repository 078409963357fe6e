"""The words of texts and of queries, in the form in which a search compares them."""

import unicodedata
from dataclasses import dataclass

import regex

# What a text query is compared with: the vectors of pages, their text, or both.
MODES = ("hybrid", "vectors", "text")

# Scripts that put no spaces between words: each of their characters is a word, and neighbours make a phrase.
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
_LETTER = rf"[[\p{{L}}\p{{N}}\p{{M}}]--{_UNSPACED}]"
_UNSPACED_WORD = regex.compile(rf"{_UNSPACED}\p{{M}}*")
# "1,234.50" and "2.14.1" are words, so that "234" is not found in them.
_WORD = regex.compile(rf"{_UNSPACED_WORD.pattern}|{_LETTER}+(?:(?<=\p{{N}})[.,](?=\p{{N}}){_LETTER}+)*", regex.VERSION1)

# A word that is divided at the end of a line. A capital letter or a number after the hyphen is a word of its own.
_DIVIDED = regex.compile(r"(?<=\p{L})[-\u00ad\u2010\ufffe]\s*\n\s*(?=\p{Ll})")
_ACCENTS = regex.compile(r"[\u0300-\u036f]")

# A quotation mark within a word, as in 15", opens nothing.
_QUOTED = regex.compile(r"""(?<!\w)["“”„«]([^"“”„«»]+)["“”»](?!\w)""")

# The least letters and digits of a number that says which page is meant. "3 rooms" may be written in any way.
_SHORTEST_NUMBER = 3

Phrase = tuple[str, ...]


def words_of(text: str) -> list[str]:
    """Splits a text into its words, without accents and in lower case.

    Args:
        text: the text, such as the text layer of a PDF's page

    Returns:
        a list of strings of letters, digits and, between digits, full stops and commas
    """
    # Ligatures and characters of full width become plain ones.
    text = _DIVIDED.sub("", unicodedata.normalize("NFKC", text))
    text = _ACCENTS.sub("", unicodedata.normalize("NFKD", text.casefold()))
    return _WORD.findall(unicodedata.normalize("NFC", text))


@dataclass(frozen=True)
class Words:
    """The words that a query asks for.

    Args:
        phrases: what pages should have: each part between spaces, a phrase of one or more words. ``"INV-2024"`` is a
            phrase of two
        required: the quoted phrases, which pages must have
    """

    phrases: tuple[Phrase, ...]
    required: tuple[Phrase, ...] = ()

    @classmethod
    def from_query(cls, query: str) -> "Words":
        """Reads a query.

        Args:
            query: the query, in which quoted parts must match

        Returns:
            its :class:`Words`
        """
        required = [tuple(words_of(quoted)) for quoted in _QUOTED.findall(query)]
        phrases = [phrase for part in query.split() for phrase in _phrases(words_of(part))]
        return cls(tuple(dict.fromkeys(phrases)), tuple(dict.fromkeys(filter(None, required))))


def is_number(phrase: Phrase) -> bool:
    """Whether a phrase is a number or a code, which is written in one way only, such as an invoice's."""
    written = "".join(phrase)
    return len(written) >= _SHORTEST_NUMBER and any(character.isdigit() for character in written)


def _phrases(words):
    """Splits the words between two spaces into phrases: pairs of neighbours, where the script has no spaces."""
    if len(words) > 2 and any(_UNSPACED_WORD.fullmatch(word) for word in words):
        return list(zip(words, words[1:], strict=False))

    return [tuple(words)] if words else []
