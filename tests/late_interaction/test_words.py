"""How texts and queries become words."""

import pytest
from jina_embeddings_v4.late_interaction.words import Words, is_number, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Invoice No. 345, total 1,234.50 EUR.", ["invoice", "no", "345", "total", "1,234.50", "eur"]),
        ("INV-2024/00123 of v2.14.1; €345.10", ["inv", "2024", "00123", "of", "v2.14.1", "345.10"]),
        ("report_2024.pdf", ["report", "2024", "pdf"]),
        # Divided at the ends of lines, but not where a name has a hyphen there.
        ("a docu-\r\nment by Jean-\nPaul", ["a", "document", "by", "jean", "paul"]),
        ("the ﬁnal Straße, café, ＡＢＣ", ["the", "final", "strasse", "cafe", "abc"]),
        ("cafe\u0301 und Ёлка", ["cafe", "und", "елка"]),
        ("東京大学の契約 2024年度", ["東", "京", "大", "学", "の", "契", "約", "2024", "年", "度"]),
        ("ガス", ["ガ", "ス"]),
        ("한국어 문서", ["한국어", "문서"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("", []),
        (" - … \ufffe", []),
    ],
)
def test_words_of_a_text(text, words):
    assert words_of(text) == words


def test_parts_between_spaces_are_phrases():
    assert Words.from_query("invoice INV-2024 of 1,234.50 invoice").phrases == (
        ("invoice",),
        ("inv", "2024"),
        ("of",),
        ("1,234.50",),
    )
    assert Words.from_query("東京大学").phrases == (("東", "京"), ("京", "大"), ("大", "学"))


@pytest.mark.parametrize(
    ("query", "required"),
    [
        ('invoice "No 345" of “Linden & Sons”', (("no", "345"), ("linden", "sons"))),
        ("eine Rechnung „Nr. 345“ und «Linden»", (("nr", "345"), ("linden",))),
        ('("Falcon")', (("falcon",),)),
        ('a 15" screen and a 27" screen', ()),
        ('an unfinished "quote', ()),
        ('" "', ()),
    ],
)
def test_quoted_parts_are_required(query, required):
    assert Words.from_query(query).required == required


def test_numbers_are_long_enough_to_tell_pages_apart():
    assert is_number(("345",)) and is_number(("inv", "2024")) and is_number(("b12",)) and is_number(("1.5",))
    assert not is_number(("3",)) and not is_number(("b1",)) and not is_number(("invoice",))
