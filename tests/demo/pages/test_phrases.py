"""Phrases say what they are meant to say, in each language."""

import random

import pytest
from jina_embeddings_v4.demo.pages.documents import TYPES, documents
from jina_embeddings_v4.demo.pages.phrases import caption, phrase, sample_class_text, sample_query
from jina_embeddings_v4.demo.pages.programs import describe, programs

CHART = [
    ("type", "bar chart"),
    ("colour", "red"),
    ("bars", 4),
    ("mark", "star", "blue", "top left"),
    ("headline", "Nova"),
]
PHOTOGRAPH = [("type", "photograph"), ("colour", "orange"), ("subject", "house"), ("time", "night")]
LISTING = [("type", "code listing"), ("language", "Python"), ("action", "sort"), ("things", "words"), ("style", "loop")]


@pytest.mark.parametrize(
    ("facts", "language", "expected"),
    [
        (CHART, "en", "a red bar chart with four bars and a blue star at the top left headed Nova"),
        (
            CHART,
            "de",
            "ein Balkendiagramm in Rot mit vier Balken und einem blauen Stern oben links mit der Überschrift Nova",
        ),
        (
            CHART,
            "fr",
            "un diagramme en barres en rouge avec quatre barres et une étoile bleue en haut à gauche "
            "avec le titre Nova",
        ),
        (PHOTOGRAPH, "en", "a photograph with an orange house at night"),
        (PHOTOGRAPH, "de", "ein Foto mit einem orangen Haus bei Nacht"),
        (PHOTOGRAPH, "fr", "une photographie avec une maison orange de nuit"),
        (LISTING, "en", "a code listing in Python that sorts words with a loop"),
        (LISTING, "de", "ein Listing in Python das Wörter sortiert mit einer Schleife"),
        (LISTING, "fr", "un listing de code en Python qui trie des mots avec une boucle"),
        ([("mark", "QR code", None, None)], "en", "a page with a QR code"),
    ],
)
def test_phrases(facts, language, expected):
    assert phrase(facts, language) == expected


def test_captions_tell_pages_apart():
    pages = {page for page in documents("test", 0, 2000)}
    assert len({caption(page) for page in pages}) == len(pages)


def test_a_query_asks_for_what_is_on_its_page_in_many_wordings():
    generator = random.Random(51)
    for page in documents("test", 0, 300):
        assert page.satisfies(sample_query(page, generator)[1])

    twins = list(documents("train", 0, 300))
    for page, twin in zip(twins[::2], twins[1::2], strict=True):
        for one, other in ((page, twin), (twin, page)):
            facts = sample_query(one, generator, unlike=other)[1]
            assert one.satisfies(facts)
            assert not other.satisfies(facts)

    (page,) = documents("test", 5, 6)
    assert len({sample_query(page, generator)[0] for _ in range(100)}) > 60


def test_class_texts_name_one_type_each():
    generator = random.Random(51)
    texts = {kind: {sample_class_text(kind, generator) for _ in range(200)} for kind in TYPES}
    assert all(len(wordings) > 10 for wordings in texts.values())
    assert sum(map(len, texts.values())) == len(set().union(*texts.values()))


def test_a_description_states_its_facts():
    generator = random.Random(51)
    known, unknown = set(programs("train")), set(programs("test"))
    assert not known & unknown and len(known | unknown) == 256
    for program in unknown:
        text, facts = describe(program, generator)
        assert program.satisfies(facts)
        assert program.things in text and program.action[:3] in text
        assert (program.language in text) == (("language", program.language) in facts)
