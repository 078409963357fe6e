"""Trains the demo model's backbone, from nothing: to describe pages, and to tell them apart by queries.

Describing comes first. A contrastive loss starts at chance and stays there for long, since nothing tells the vision
tower what to look at, and it drowns what captions, which name all that is on a page, could teach. So it comes in later.
"""

import random

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ..finetuning.forward import Vectors, embed, visual_tokens
from ..finetuning.loop import Loop
from ..finetuning.losses import joint_loss
from .data import TwinBatches, captioned, false_negatives, load_pages, page_queries, page_tokens, text_tokens
from .pages.programs import describe, programs

# The batches of 32 queries to each batch of pages; all but the first tell a page from its twin.
QUERIES_PER_PAGE = 3

# The pairs of a program and its description beside each batch of pages.
PROGRAMS = 16

# The shares of the training after which the contrastive losses begin to count, and count in full.
CONTRAST_FROM, CONTRAST_IN_FULL = 0.15, 0.2


def train_backbone(directory, towers, processor, end_token, matryoshka_dims, steps, workers=2):
    """Trains a backbone.

    Args:
        directory: where the training's state is kept
        towers: the :class:`engine.towers.Towers` to train, in place
        processor: the :class:`engine.processing.Processor`
        end_token: the id of the token that ends a caption
        matryoshka_dims: the dimensions at which single vectors must be good
        steps: the number of batches of 32 pages
        workers (2): the number of processes that draw pages
    """
    towers.train()
    log_temperature = nn.Parameter(torch.tensor(0.07).log())
    parameters = dict(towers.named_parameters()) | {"log_temperature": log_temperature}
    loop = Loop(directory, parameters, _optimizers(parameters), steps)
    known_programs = programs("train")

    def batches(start):
        return load_pages("train", processor.image_settings, TwinBatches(start, steps), workers)

    def losses(pages):
        described = [
            captioned(tokens, processor, page.document, end_token)
            for tokens, page in zip(page_tokens(processor, pages), pages, strict=True)
        ]
        batch = [tokens for tokens, _ in described]
        visual = visual_tokens(towers, batch, processor.image_settings)
        everything = embed(towers, batch, visual)
        parts = {"caption": _caption_loss(towers, described, everything.hidden_states)}

        weight = min(1, (loop.step / steps - CONTRAST_FROM) / (CONTRAST_IN_FULL - CONTRAST_FROM))
        if weight <= 0:
            return parts

        # Attention is causal: the caption after a page's prompt does not change the prompt's vectors.
        vectors = Vectors(
            everything.single,
            [multi[: len(multi) - length] for multi, (_, length) in zip(everything.multi, described, strict=True)],
            everything.hidden_states,
        )
        temperature = log_temperature.exp().clamp(min=0.02)
        contrasts = [_page_contrast(pages, vectors, i, against_twins=i > 0) for i in range(QUERIES_PER_PAGE)]
        contrasts.append(_program_contrast(towers, processor, known_programs, loop.step))
        queries = embed(towers, text_tokens(processor, [text for texts, _, _ in contrasts for text in texts]))
        first = 0
        for texts, targets, excluded in contrasts:
            own = queries[first : first + len(texts)]
            first += len(texts)
            for name, loss in joint_loss(own, targets, temperature, excluded, matryoshka_dims).items():
                parts[name] = parts.get(name, 0) + loss * weight / len(contrasts)

        return parts | {"_temperature": temperature}

    loop.run(batches, losses)
    towers.eval()


def _optimizers(parameters):
    """Muon for the matrices of the layers, and AdamW for the rest.

    By AdamW alone, captions take over twice as many steps to be learnt as well.
    """
    layers = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.ndim == 2 and "embed_tokens" not in name and "projector" not in name
    }
    others = [parameter for name, parameter in parameters.items() if name not in layers]
    return [
        torch.optim.Muon(layers.values(), lr=2e-3, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=1e-3, weight_decay=0.0, betas=(0.9, 0.98)),
    ]


def _page_contrast(pages, vectors, seed, against_twins):
    """Queries, the vectors of the pages that they ask for, and which of the other pages fit, too."""
    texts, facts = page_queries(pages, seed, against_twins)
    return texts, vectors, false_negatives(facts, [page.document for page in pages])


def _program_contrast(towers, processor, known, step):
    """Descriptions, the vectors of their programs' texts, and which of the other programs fit, too."""
    generator = random.Random(f"programs of step {step}")
    chosen = generator.sample(known, PROGRAMS)
    texts, facts = zip(*(describe(program, generator) for program in chosen), strict=True)
    sources = text_tokens(processor, [program.source() for program in chosen], prompt_name="passage")
    return texts, embed(towers, sources), false_negatives(facts, chosen)


def _caption_loss(towers, described, hidden_states):
    """The cross-entropy of the captions' tokens, each predicted from what comes before it."""
    predicts = torch.zeros(hidden_states.shape[:2], dtype=torch.bool)
    for row, (tokens, length) in zip(predicts, described, strict=True):
        row[len(tokens) - length - 1 : len(tokens) - 1] = True
    said = torch.cat([tokens.ids[-length:] for tokens, length in described])
    return cross_entropy(hidden_states[predicts] @ towers.model.get_input_embeddings().weight.T, said)
