"""What each task's adapter of the demo model is trained on.

- retrieval: queries find pages, and captions of pages, in which most of what they do not ask for is alike;
- text matching: two texts that say the same of a page in other words, or in another language, belong together, and
  others are graded by how much of what they say they share;
- code: descriptions find programs, as text and as pictures of code listings.
"""

import random

import torch

from ..finetuning.adapters import Batch
from .data import TwinBatches, false_negatives, load_pages, page_queries, page_tokens, text_tokens
from .pages.documents import TYPES, documents
from .pages.phrases import phrase, sample_facts, sample_language
from .pages.programs import Program, describe, programs

PAIRS = 32


def retrieval_batches(processor, steps, workers=2):
    """Returns a function of the step to begin with that yields batches for retrieval."""

    def batches(start):
        numbers = TwinBatches(start, steps)
        for step, pages in enumerate(load_pages("train", processor.image_settings, numbers, workers), start):
            queries, facts = page_queries(pages, "retrieval", against_twins=step % 2 == 1)
            targets = page_tokens(processor, pages)
            if step % 4 == 3:
                generator = random.Random(f"passages of batch {step}")
                passages = [phrase(page.document.facts(), sample_language(generator), generator) for page in pages]
                targets = text_tokens(processor, passages, "retrieval", "passage")
            excluded = false_negatives(facts, [page.document for page in pages])
            yield Batch(text_tokens(processor, queries), targets, excluded)

    return batches


def text_matching_batches(processor, steps, workers=None):
    """Returns a function of the step to begin with that yields batches for text matching."""

    def batches(start):
        for step in range(start, steps):
            generator = random.Random(f"texts of batch {step}")
            first = 2 * len(TYPES) * step
            facts = [sample_facts(page, generator) for page in documents("train", first, first + 2 * len(TYPES))]
            queries, targets = (
                text_tokens(
                    processor, [phrase(said, sample_language(generator), generator) for said in facts], "text-matching"
                )
                for _ in range(2)
            )
            grades = torch.tensor([[likeness(left, right) for right in facts] for left in facts])
            same = (grades == 1) & ~torch.eye(len(facts), dtype=torch.bool)
            yield Batch(queries, targets, same, grades)

    return batches


def likeness(facts, others):
    """Grades how similar two texts are: the share of their facts that both state (Jaccard index)."""
    first, second = _statements(facts), _statements(others)
    return len(first & second) / len(first | second)


def _statements(facts):
    """Takes a mark apart, so that a red stamp is somewhat like a blue one."""
    statements = set()
    for fact in facts:
        if fact[0] == "mark":
            _, kind, colour, place = fact
            statements |= {("mark", kind)} | {("mark", kind, value) for value in (colour, place) if value}
        else:
            statements.add(fact)
    return statements


def code_batches(processor, steps, workers=2):
    """Returns a function of the step to begin with that yields batches for code: texts and pictures in turn."""
    known = programs("train")
    listing = list(TYPES).index("code listing")

    def numbers(start):
        for step in range(start, steps):
            if step % 2:
                yield [
                    2 * (listing + len(TYPES) * (step * PAIRS // 2 + i)) + twin
                    for i in range(PAIRS // 2)
                    for twin in (0, 1)
                ]

    def batches(start):
        pictures = iter(load_pages("train", processor.image_settings, list(numbers(start)), workers))
        for step in range(start, steps):
            generator = random.Random(f"programs of batch {step}")
            if step % 2:
                pages = next(pictures)
                chosen = [Program(**dict(page.document.details)) for page in pages]
                targets = page_tokens(processor, pages)
            else:
                chosen = generator.sample(known, PAIRS)
                targets = text_tokens(processor, [program.source() for program in chosen], "code", "passage")

            descriptions, facts = zip(*(describe(program, generator) for program in chosen), strict=True)
            yield Batch(text_tokens(processor, descriptions, "code"), targets, false_negatives(facts, chosen))

    return batches


# The steps and the batches of each task.
TASKS = {
    "retrieval": (400, retrieval_batches),
    "text-matching": (300, text_matching_batches),
    "code": (500, code_batches),
}
