"""Measures how well the demo model finds, labels and compares pages that it was not trained on.

    python -m benchmarks.quality

Each test page holds a combination of things that no page of its training had. The queries name some of what is on a
page, in three languages; a page is relevant if all of it holds there. ranx computes nDCG.
"""

import argparse
import platform
import random
import time
import warnings
from collections import defaultdict

import numpy as np
import torch
from jina_embeddings_v4.demo.data import load_pages, page_queries
from jina_embeddings_v4.demo.pages.documents import TYPES, documents
from jina_embeddings_v4.demo.pages.phrases import phrase, sample_facts
from jina_embeddings_v4.demo.pages.programs import describe, programs
from jina_embeddings_v4.demo.pages.vocabulary import DESCRIPTIONS
from jina_embeddings_v4.demo.tasks import likeness
from jina_embeddings_v4.engine.encoder import Encoder
from jina_embeddings_v4.engine.pooling import pool_multi_vectors
from jina_embeddings_v4.engine.scoring import TokenSet, maxsim
from jina_embeddings_v4.finetuning.losses import single_scores
from ranx import Qrels, Run, evaluate
from scipy.stats import spearmanr

# numba, which compiles ranx's loops, warns of a cast in one of them.
warnings.filterwarnings("ignore", "unsafe cast from uint64")


def quality(scores, relevant, metrics=("ndcg@5", "recall@10", "mrr@10")):
    """Returns the metrics of a ranking, each averaged over queries.

    Args:
        scores: an array ``(queries, targets)``
        relevant: a bool array of the same shape
        metrics: ranx's names of metrics, of at most the 10 best targets
    """
    qrels = {f"q{i}": {f"d{j}": 1 for j in np.flatnonzero(row)} for i, row in enumerate(relevant)}
    best = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    run = {f"q{i}": {f"d{j}": float(scores[i, j]) for j in row} for i, row in enumerate(best)}
    return [evaluate(Qrels(qrels), Run(run), metric) for metric in metrics]


def ndcg(scores, relevant):
    """Returns the nDCG@5 of a ranking, see :func:`quality`."""
    return quality(scores, relevant, ["ndcg@5"])[0]


def two_stage(single, multi, candidates=100):
    """The late-interaction scores of the targets that single vectors choose, and no scores of the others."""
    chosen = np.argpartition(-single, candidates, axis=1)[:, :candidates]
    scores = np.full_like(multi, -1)
    np.put_along_axis(scores, chosen, np.take_along_axis(multi, chosen, axis=1), axis=1)
    return scores


def late_scores(queries, pages):
    """Scores all queries on all pages by MaxSim over the query's length, as an array ``(queries, pages)``."""
    return maxsim(pages, TokenSet(queries)).numpy().T


class Retrieval:
    """1,000 test pages, and a query for each.

    Args:
        encoder: an :class:`engine.encoder.Encoder`, whose settings resize the pages
        count (1000): how many pages
    """

    def __init__(self, encoder, count=1000, split="test"):
        settings = encoder.processor.image_settings
        batches = load_pages(split, settings, [range(i, min(i + 50, count)) for i in range(0, count, 50)])
        self.pages = [page for batch in batches for page in batch]
        self.queries, self.facts = page_queries(self.pages, split)
        self.relevant = np.array([[page.document.satisfies(facts) for page in self.pages] for facts in self.facts])

    def scores(self, encoder, task):
        """Returns the scores of single vectors at each Matryoshka dimension, of late interaction, and pooled."""
        pages = encoder.encode_images([page.image for page in self.pages], task=task)
        queries = encoder.encode_texts(self.queries, task=task)
        scores = {}
        for dim in sorted(encoder.matryoshka_dims, reverse=True):
            vectors = (torch.from_numpy(embeddings.single) for embeddings in (queries, pages))
            scores[f"single, {dim}-d"] = single_scores(*vectors, dim).numpy()
        scores["multi, MaxSim"] = late_scores(queries.multi, pages.multi)
        if len(self.pages) > 100:
            scores["the same, best 100"] = two_stage(next(iter(scores.values())), scores["multi, MaxSim"])
        for strategy in ("mean", "max"):
            scores[f"{strategy}-pooled, 128-d"] = (
                pool_multi_vectors(queries.multi, strategy) @ pool_multi_vectors(pages.multi, strategy).T
            )
        return scores, pages


def zero_shot(encoder, pages, embeddings, names, text_prompt="An image of:"):
    """Returns the share of pages that MaxSim gives the right type.

    Args:
        encoder: an :class:`engine.encoder.Encoder`
        pages: the pages
        embeddings: their :class:`engine.embeddings.Embeddings`
        names: a dict of the types' class names
    """
    classes = encoder.encode_texts([f"{text_prompt} {name}".strip() for name in names.values()], task="retrieval")
    best = late_scores(classes.multi, embeddings.multi).argmax(axis=0)
    return np.mean([list(names)[i] == page.document.type for i, page in zip(best, pages, strict=True)])


def text_matching(encoder, task, count=600):
    """Returns Spearman's correlation of cosines with how much of what two texts say is the same.

    The texts speak of test pages, in other words or another language.
    """
    generator = random.Random("text matching")
    pages = list(documents("test", 0, count))
    pairs, grades = [], []
    for i, page in enumerate(pages):
        # A pair of texts of one page says different parts of it; one of two pages of a type, or of any, shares little.
        other = (page, page, pages[(i + len(TYPES)) % count], generator.choice(pages))[i % 4]
        facts = sample_facts(page, generator), sample_facts(other, generator)
        pairs.append([phrase(said, generator.choice(("en", "de", "fr")), generator) for said in facts])
        grades.append(likeness(*facts))

    first, second = (encoder.encode_texts(list(texts), task=task).single for texts in zip(*pairs, strict=True))
    return spearmanr((first * second).sum(axis=1), grades).statistic


def code(encoder, task, seed=0):
    """Returns the nDCG@5 of descriptions that look for programs, all known and unknown ones together.

    The descriptions are of programs whose combination of language, action and things was not trained on.
    """
    generator = random.Random(f"code {seed}")
    unknown = programs("test")
    corpus = unknown + programs("train")
    asked = [describe(program, generator) for program in unknown for _ in range(4)]
    queries = encoder.encode_texts([text for text, _ in asked], task=task)
    sources = encoder.encode_texts([program.source() for program in corpus], task=task, prompt_name="passage")
    relevant = np.array([[program.satisfies(facts) for program in corpus] for _, facts in asked])
    return ndcg(queries.single @ sources.single.T, relevant), ndcg(late_scores(queries.multi, sources.multi), relevant)


def by_kind(retrieval, scores):
    """Groups queries by what they name, which shows what the model finds and what it misses."""
    groups = defaultdict(list)
    for i, facts in enumerate(retrieval.facts):
        for name in {fact[0] for fact in facts if fact[0] != "type"} or {"type alone"}:
            groups[name].append(i)
    return {name: (len(rows), ndcg(scores[rows], retrieval.relevant[rows])) for name, rows in sorted(groups.items())}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="demo/checkpoint", help="the checkpoint to measure")
    parser.add_argument("--precision", default="float32", help="the precision to measure")
    parser.add_argument("--pages", type=int, default=1000, help="how many test pages")
    arguments = parser.parse_args()

    start = time.perf_counter()
    encoder = Encoder.from_checkpoint(arguments.checkpoint, device="cpu", precision=arguments.precision)
    retrieval = Retrieval(encoder, arguments.pages)
    print(f"{arguments.checkpoint}, {arguments.precision}, on {platform.machine()}, torch {torch.__version__}")

    table = {task: retrieval.scores(encoder, task) for task in encoder.tasks}
    ours, embeddings = table["retrieval"]
    relevant = retrieval.relevant
    print(f"\n{len(relevant)} queries over as many pages, {relevant.sum(axis=1).mean():.1f} of them relevant to each")
    print(f"  {'':20} nDCG@5  recall@10  MRR@10")
    chance = np.random.default_rng(0).random(relevant.shape)
    for name, scores in (ours | {"chance": chance}).items():
        print(f"  {name:20} {{:6.3f}}  {{:9.3f}}  {{:6.3f}}".format(*quality(scores, relevant)))

    print("\nnDCG@5 by what the query names: queries, single, multi")
    multi = by_kind(retrieval, ours["multi, MaxSim"])
    for name, (queries, single) in by_kind(retrieval, next(iter(ours.values()))).items():
        print(f"  {name:20} {queries:5} {single:.3f} {multi[name][1]:.3f}")

    print(f"\nZero-shot accuracy over {len(TYPES)} types of document, by MaxSim")
    for kind, names in (("short class names", {name: name for name in TYPES}), ("long class names", DESCRIPTIONS)):
        print(f"  {kind:20} {zero_shot(encoder, retrieval.pages, embeddings, names):.3f}")

    columns = ("pages, single", "pages, multi", "texts, Spearman", "code, single", "code, multi")
    print("\nEach task's adapter at each task: nDCG@5, for texts Spearman's correlation with how much they share")
    print(" " * 16 + "".join(f"{column:>17}" for column in columns))
    for task, (scores, _) in table.items():
        found = ndcg(next(iter(scores.values())), relevant), ndcg(scores["multi, MaxSim"], relevant)
        row = (*found, text_matching(encoder, task), *code(encoder, task))
        print(f"  {task:14}" + "".join(f"{value:17.3f}" for value in row))

    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
