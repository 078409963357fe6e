"""Batches of synthetic pages, drawn by worker processes while the model trains."""

import random
from dataclasses import dataclass, replace

import torch

from ..engine.image_batch import ResizedImage
from ..engine.images import resize_image
from .pages.documents import TYPES, Document, documents
from .pages.phrases import caption, sample_query
from .pages.rendering import draw_document


@dataclass(frozen=True)
class Page:
    """A page to train or test with.

    Args:
        number: its number in its split
        document: what is on it
        image: its picture
    """

    number: int
    document: Document
    image: ResizedImage


class Pages(torch.utils.data.Dataset):
    """The pages of a split, by their numbers. They never end.

    Args:
        split: one of :data:`demo.pages.documents.SPLITS`
        image_settings: the :class:`engine.images.ImageSettings` of the model
    """

    def __init__(self, split, image_settings):
        self.split = split
        self._image_settings = image_settings

    def __getitem__(self, number):
        (document,) = documents(self.split, number, number + 1)
        picture = draw_document(document, f"{self.split} {number}")
        return Page(number, document, resize_image(picture, self._image_settings))


def load_pages(split, image_settings, numbers, workers=2):
    """Yields lists of pages, drawn by worker processes.

    Args:
        split: one of :data:`demo.pages.documents.SPLITS`
        image_settings: the :class:`engine.images.ImageSettings` of the model
        numbers: an iterable of lists of numbers, one a batch
        workers (2): the number of worker processes
    """
    return torch.utils.data.DataLoader(
        Pages(split, image_settings),
        batch_sampler=numbers,
        collate_fn=list,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
    )


class TwinBatches:
    """The numbers of the pages of each step's batch: twins, of a few types, so that most negatives are hard.

    Args:
        start: the step to begin with
        stop: the step to end before
        types (4): the types in a batch
        twins (4): the pairs of twins of each type
    """

    def __init__(self, start, stop, types=4, twins=4):
        self._steps = range(start, stop)
        self._types, self._twins = types, twins

    def __len__(self):
        return len(self._steps)

    def __iter__(self):
        for step in self._steps:
            chosen = random.Random(f"types of batch {step}").sample(range(len(TYPES)), self._types)
            pairs = [kind + len(TYPES) * (step * self._twins + i) for kind in chosen for i in range(self._twins)]
            yield [2 * pair + twin for pair in pairs for twin in (0, 1)]


def page_queries(pages, seed, against_twins=False):
    """Draws a query for each page of a batch.

    Args:
        pages: the list of N :class:`Page`
        seed: what to draw from
        against_twins (False): whether each query must be wrong for the page's twin, its hardest negative. Twins are
            beside each other in the batch then

    Returns:
        the N queries' texts, and what each asks for: a list of facts
    """
    queries = [
        sample_query(
            page.document,
            random.Random(f"{seed} query {page.number}"),
            unlike=pages[i ^ 1].document if against_twins else None,
        )
        for i, page in enumerate(pages)
    ]
    return zip(*queries, strict=True)


def false_negatives(facts, targets):
    """Marks the targets that fit a query although they are not its own.

    Args:
        facts: the list of what each query asks for
        targets: the list of what is to be found, :class:`pages.documents.Document` or
            :class:`pages.programs.Program`, in the queries' order

    Returns:
        a bool tensor ``(queries, targets)``
    """
    return torch.tensor(
        [[i != j and target.satisfies(asked) for j, target in enumerate(targets)] for i, asked in enumerate(facts)]
    )


def captioned(tokens, processor, document, end_token):
    """Appends a page's caption to its tokens, as what the model is to say after its prompt.

    Args:
        tokens: the page's :class:`engine.processing.Tokens`
        processor: the :class:`engine.processing.Processor`
        document: what is on the page
        end_token: the id of the token that ends the caption

    Returns:
        :class:`engine.processing.Tokens`, whose last tokens are the caption, and the number of these
    """
    said = torch.cat([processor.ids(caption(document)), torch.tensor([end_token])])
    positions = torch.arange(1, len(said) + 1) + tokens.positions[:, -1:].max()
    return (
        replace(
            tokens,
            ids=torch.cat([tokens.ids, said]),
            positions=torch.cat([tokens.positions, positions.expand(3, -1)], dim=1),
        ),
        len(said),
    )


def page_tokens(processor, pages):
    """Returns the :class:`engine.processing.Tokens` of pages."""
    return [processor.image_tokens(page.image) for page in pages]


def text_tokens(processor, texts, task="retrieval", prompt_name="query"):
    """Returns the :class:`engine.processing.Tokens` of texts."""
    return [processor.text_tokens(text, task, prompt_name) for text in texts]
