"""The programs that code listings show, and their descriptions."""

import itertools
import random
from dataclasses import dataclass

from .documents import TYPES, Document, is_held_out
from .phrases import phrase
from .snippets import snippet
from .vocabulary import STYLE_PHRASES


@dataclass(frozen=True)
class Program:
    """A short program.

    Args:
        language: one of :data:`pages.documents.LANGUAGES`
        action: one of :data:`pages.documents.ACTIONS`
        things: one of :data:`pages.documents.THINGS`: what it acts on
        style: one of :data:`pages.documents.STYLES`
    """

    language: str
    action: str
    things: str
    style: str

    def source(self):
        """The program's text."""
        return snippet(self.language, self.action, self.things, self.style)

    def facts(self):
        """The facts that a description may state, a list."""
        return list(vars(self).items())

    def satisfies(self, facts):
        """Whether all of some facts hold for the program."""
        return set(facts) <= set(self.facts())


def programs(split):
    """Returns all programs of a split. The test split's combinations are in no code listing of another split."""
    choices = TYPES["code listing"]
    every = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    return [
        Program(**details)
        for details in every
        if is_held_out(Document("code listing", tuple(details.items()))) == (split == "test")
    ]


def describe(program, generator):
    """Draws a description of a program, which says what it does and often in which language and how.

    Args:
        program: a :class:`Program`
        generator: a :class:`random.Random`

    Returns:
        its text, and the facts that it states
    """
    said = {"action", "things"} | {name for name in ("language", "style") if generator.random() < 0.6}
    facts = [fact for fact in program.facts() if fact[0] in said]
    stated = dict(facts)
    wording = generator.randrange(4)
    if wording == 0:
        return phrase([("type", "code listing"), *facts], generator=generator), facts

    language, how = stated.get("language"), STYLE_PHRASES["en"].get(stated.get("style"))
    task = f"{program.action} {program.things}"
    text = (
        f"a {f'{language} ' * bool(language)}function to {task}",
        f"how to {task}{f' in {language}' * bool(language)}",
        f"{task}{f', {language}' * bool(language)}",
    )[wording - 1]
    return " ".join(filter(None, (text, how))), facts


def program_corpus(split):
    """Yields the programs of a split and descriptions of them, to train a tokenizer on."""
    generator = random.Random("program corpus")
    for program in programs(split):
        yield program.source()
        for _ in range(4):
            yield describe(program, generator)[0]
