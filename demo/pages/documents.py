"""What is on a page: its type, its details, a headline, and marks such as a red stamp.

Everything is drawn from seeded generators. A split's seeds are its own, and some combinations (a type with a mark of a
certain kind and colour, or with certain details) are kept out of training: every test page holds one of these, so that
it can be found only by someone who understands its parts.
"""

import random
from dataclasses import dataclass, replace

COLOURS = ("red", "blue", "green", "orange", "purple", "black")
MARKS = ("stamp", "signature", "barcode", "QR code", "star", "arrow", "logo")
PLACES = ("top left", "top right", "bottom left", "bottom right")
HEADLINES = (
    "Acme",
    "Bravo",
    "Cobalt",
    "Delta",
    "Falcon",
    "Harbor",
    "Jupiter",
    "Kiwi",
    "Lotus",
    "Meteor",
    "Nova",
    "Orion",
    "Pacific",
    "Quartz",
    "Sigma",
    "Tango",
    "Umbra",
    "Vega",
    "Willow",
    "Zephyr",
)
LANGUAGES = ("Python", "JavaScript")
ACTIONS = ("sum", "count", "print", "sort", "filter", "reverse", "find", "copy")
THINGS = ("numbers", "words", "files", "users", "orders", "prices", "dates", "nodes")
STYLES = ("loop", "short")

# The types of document, and the details that each has.
TYPES = {
    "letter": {"colour": COLOURS},
    "invoice": {"colour": COLOURS},
    "receipt": {"colour": COLOURS},
    "form": {"colour": COLOURS},
    "table": {"colour": COLOURS, "columns": (2, 3, 4, 5)},
    "bar chart": {"colour": COLOURS, "bars": (2, 3, 4, 5)},
    "line chart": {"colour": COLOURS, "lines": (1, 2, 3)},
    "pie chart": {"colour": COLOURS, "slices": (2, 3, 4, 5)},
    "code listing": {"language": LANGUAGES, "action": ACTIONS, "things": THINGS, "style": STYLES},
    "slide": {"colour": COLOURS, "bullets": (2, 3, 4, 5)},
    "poster": {"colour": COLOURS, "shape": ("circle", "triangle", "square", "heart")},
    "map": {"colour": COLOURS, "water": ("river", "lake")},
    "floor plan": {"colour": COLOURS, "rooms": (2, 3, 4, 5)},
    "photograph": {"colour": COLOURS, "subject": ("house", "tree", "boat", "car"), "time": ("day", "night", "sunset")},
}

SPLITS = ("train", "validation", "test")

# One of this number of combinations is kept out of training.
_HELD_OUT = 7


@dataclass(frozen=True)
class Mark:
    """A mark on a page.

    Args:
        kind: one of :data:`MARKS`
        colour: one of :data:`COLOURS`
        place: one of :data:`PLACES`
    """

    kind: str
    colour: str
    place: str


@dataclass(frozen=True)
class Document:
    """What is on a page.

    Args:
        type: one of :data:`TYPES`
        details: a tuple of ``(name, value)`` pairs, one for each detail that the type has
        headline (None): one of :data:`HEADLINES`, written large at the top
        marks (()): a tuple of up to two :class:`Mark`, each in a place of its own
    """

    type: str
    details: tuple
    headline: str | None = None
    marks: tuple = ()

    def __getitem__(self, name):
        return dict(self.details)[name]

    def facts(self):
        """The facts of the page, a list of tuples: the kind of fact, then its values."""
        facts = [("type", self.type), *self.details]
        facts += [("headline", self.headline)] if self.headline else []
        return facts + [("mark", mark.kind, mark.colour, mark.place) for mark in self.marks]

    def satisfies(self, facts):
        """Whether all of some facts hold for the page. A mark's colour or place may be ``None``: any."""
        own = self.facts()
        return all(any(_implies(mine, fact) for mine in own) for fact in facts)


def _implies(mine, fact):
    return len(mine) == len(fact) and all(value is None or value == own for own, value in zip(mine, fact, strict=True))


def documents(split, start, stop):
    """Yields the documents of a split that are numbered from ``start`` up to ``stop``, of each type in turn.

    Outside the test split the documents come as twins: each odd one is the even one before it but for one fact.

    Args:
        split: one of :data:`SPLITS`
        start: the first number
        stop: the number after the last
    """
    types = tuple(TYPES)
    for number in range(start, stop):
        pair, is_twin = (number, False) if split == "test" else divmod(number, 2)
        generator = random.Random(f"{split} document {pair}")
        document = sample_document(generator, split, types[pair % len(types)])
        yield vary(document, generator) if is_twin else document


def sample_document(generator, split, document_type):
    """Draws a document.

    Args:
        generator: a :class:`random.Random`
        split: one of :data:`SPLITS`. A document of the test split holds a combination that no other split has
        document_type: one of :data:`TYPES`
    """
    while True:
        details = tuple((detail, generator.choice(values)) for detail, values in TYPES[document_type].items())
        headline, marks = None, ()
        if document_type != "photograph":
            headline = generator.choice(HEADLINES) if generator.random() < 0.8 else None
            marks = _sample_marks(generator)

        document = Document(document_type, details, headline, marks)
        if is_held_out(document) == (split == "test"):
            return document


def vary(document, generator):
    """Draws a hard negative to train with: the same document but for one fact."""
    while True:
        changes = [name for name, _ in document.details] + ["headline"] * (document.headline is not None)
        change = generator.choice([*changes, *document.marks, *document.marks])
        if change == "headline":
            twin = replace(document, headline=generator.choice(HEADLINES))
        elif isinstance(change, Mark):
            values = {"kind": MARKS, "colour": COLOURS, "place": PLACES}
            name = generator.choice(tuple(values))
            changed = replace(change, **{name: generator.choice(values[name])})
            twin = replace(document, marks=tuple(changed if mark is change else mark for mark in document.marks))
        else:
            value = generator.choice(TYPES[document.type][change])
            twin = replace(document, details=tuple((n, value if n == change else v) for n, v in document.details))

        places = {mark.place.split()[0] == "top" or mark.place for mark in twin.marks}
        kinds = {mark.kind for mark in twin.marks}
        if twin != document and len(places) == len(kinds) == len(twin.marks) and not is_held_out(twin):
            return twin


def _sample_marks(generator):
    # The headline leaves room for one mark beside it, so of the two places at the top only one is ever taken.
    places = generator.sample([generator.choice(PLACES[:2]), *PLACES[2:]], k=generator.choice((0, 1, 1, 2, 2)))
    kinds = generator.sample(MARKS, k=len(places))
    return tuple(Mark(kind, generator.choice(COLOURS), place) for kind, place in zip(kinds, places, strict=True))


def is_held_out(document):
    """Whether the document holds a combination that is kept out of training."""
    type_number = tuple(TYPES).index(document.type)
    choices = TYPES[document.type]
    detail_numbers = [choices[name].index(value) for name, value in document.details]
    if len(detail_numbers) > 1 and (type_number + sum(3**i * n for i, n in enumerate(detail_numbers))) % _HELD_OUT == 0:
        return True

    return any(
        (type_number + 2 * MARKS.index(mark.kind) + 3 * COLOURS.index(mark.colour)) % _HELD_OUT == 0
        for mark in document.marks
    )
