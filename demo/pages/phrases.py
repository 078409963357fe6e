"""How people speak of a page: captions, queries and class names, in English, German and French.

A phrase says some of a page's facts, as :meth:`pages.documents.Document.facts` lists them, in one of several wordings.
"""

import random

from .vocabulary import (
    ACTION_VERBS,
    CLASS_PROMPTS,
    COLOUR_ADJECTIVES,
    COUNTED,
    DESCRIPTIONS,
    HEADED,
    IN_COLOUR,
    LONG_CLASS_PROMPTS,
    NOUNS,
    NUMBERS,
    PAGE_NAMES,
    PLACE_PHRASES,
    REQUESTS,
    STYLE_PHRASES,
    THING_NAMES,
    TIME_PHRASES,
    TYPE_NAMES,
    WITH,
)


def phrase(facts, language="en", generator=None):
    """Says some facts of a page in one noun phrase.

    Args:
        facts: a list of facts; a mark's colour or place may be ``None``
        language ("en"): ``"en"``, ``"de"`` or ``"fr"``
        generator (None): a :class:`random.Random` that chooses the wording; without one it is always the same
    """
    choose = generator.choice if generator else lambda options: options[0]
    said = {fact[0]: fact[1] for fact in facts if fact[0] != "mark"}

    head = choose(TYPE_NAMES[language][said["type"]] if "type" in said else PAGE_NAMES[language])
    parts = []

    if "subject" in said:
        parts.append(_coloured(said["subject"], said.get("colour"), language))
    elif "colour" in said:
        if language == "en" and choose((True, False)):
            head = _indefinite(f"{said['colour']} {head.split(' ', 1)[1]}")
        else:
            head = f"{head} {IN_COLOUR[language][said['colour']]}"

    for name in COUNTED[language]:
        if name in said:
            parts.append(_counted(name, said[name], language))
    parts += [NOUNS[language][said[name]] for name in ("shape", "water") if name in said]
    marks = [fact for fact in facts if fact[0] == "mark"]
    if generator:
        generator.shuffle(marks)
    for _, kind, colour, place in marks:
        parts.append(" ".join(filter(None, (_coloured(kind, colour, language), PLACE_PHRASES[language].get(place)))))

    words = [head, _program(said, language)]
    if parts:
        joint, conjunction = WITH[language]
        listed = f" {conjunction} ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
        words.append(f"{joint} {listed}")
    words.append(TIME_PHRASES[language].get(said.get("time")))
    if "headline" in said:
        words.insert(choose((len(words), 2)), choose(HEADED[language]).format(said["headline"]))

    return " ".join(filter(None, words))


def caption(document):
    """Describes all of a page in English, always in the same words."""
    return phrase(document.facts())


def sample_facts(document, generator):
    """Draws the facts of a page that a query asks for: mostly its type, and one to three others."""
    others = [fact for fact in document.facts() if fact[0] != "type"]
    names_type = generator.random() < 0.85 or len(others) < 2
    count = min(len(others), generator.choice((1, 1, 2, 2, 3)) + (not names_type))
    facts = [("type", document.type)] * names_type
    for fact in sorted(generator.sample(others, count), key=others.index):
        if fact[0] == "mark":
            _, kind, colour, place = fact
            fact = (
                "mark",
                kind,
                colour if generator.random() < 0.85 else None,
                place if generator.random() < 0.4 else None,
            )
        facts.append(fact)

    return facts


def sample_query(document, generator, unlike=None):
    """Draws a query for which a page is right.

    Args:
        document: what is on the page
        generator: a :class:`random.Random`
        unlike (None): what is on another page, for which the query must be wrong

    Returns:
        the query's text, and the facts that it asks for
    """
    while True:
        if generator.random() < 0.12:
            text, facts = sample_class_text(document.type, generator), [("type", document.type)]
        else:
            facts, language = sample_facts(document, generator), sample_language(generator)
            text = generator.choice(REQUESTS[language]).format(phrase(facts, language, generator))
        if unlike is None or not unlike.satisfies(facts):
            return text, facts


def sample_class_text(document_type, generator):
    """Draws a class name for a type, short or long, in one of the prompts that zero-shot classification uses."""
    if generator.random() < 0.3:
        return generator.choice(LONG_CLASS_PROMPTS).format(DESCRIPTIONS[document_type])

    noun = generator.choice(TYPE_NAMES["en"][document_type]).split(" ", 1)[1]
    return generator.choice(CLASS_PROMPTS).format(generator.choice((document_type, noun)))


def sample_language(generator):
    """Draws a language: mostly English."""
    return generator.choice(("en", "en", "en", "en", "de", "fr"))


def _coloured(noun, colour, language):
    noun = NOUNS[language][noun]
    if colour is None:
        return noun

    article, bare = noun.split(" ", 1)
    if language == "en":
        return _indefinite(f"{colour} {bare}")
    if language == "de":
        return f"{article} {COLOUR_ADJECTIVES['de'][colour]} {bare}"
    return f"{noun} {COLOUR_ADJECTIVES['fr'][colour][article == 'une']}"


def _counted(name, number, language):
    noun = COUNTED[language][name]
    if number == 1:
        noun = {"en": "line", "de": "Linie", "fr": "courbe"}[language]
    return f"{NUMBERS[language][number]} {noun}"


def _program(said, language):
    """What a program does, and in which language."""
    words = [f"{'en' if language == 'fr' else 'in'} {said['language']}"] if "language" in said else []
    action, things = ACTION_VERBS[language].get(said.get("action")), THING_NAMES[language].get(said.get("things"))
    if language == "de" and (action or things):
        words.append(f"das {things or 'etwas'} {action or 'verarbeitet'}")
    elif language == "fr" and (action or things):
        words.append(f"qui {action or 'traite'} {f'des {things}' if things else 'quelque chose'}")
    elif action or things:
        words.append(f"that {action or 'handles'} {things or 'something'}")
    words += [STYLE_PHRASES[language][said["style"]]] if "style" in said else []
    return " ".join(words)


def _indefinite(words):
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def corpus(documents, seed=0):
    """Yields captions and queries of documents, to train a tokenizer on."""
    generator = random.Random(f"{seed} corpus")
    for document in documents:
        yield caption(document)
        for language in ("en", "de", "fr"):
            yield phrase(document.facts(), language, generator)
        yield sample_query(document, generator)[0]
