"""Measures what words add to late interaction, on pages of the demo model's test split with their text layer.

    python -m benchmarks.hybrid

Queries by meaning are those of ``benchmarks.quality``. Queries by number ask for an invoice or a receipt by what is in
its small print, which the demo model cannot read: its number, its date, its total.
"""

import argparse
import platform
import re
import tempfile
import time
from pathlib import Path

import numpy as np
from jina_embeddings_v4.benchmarks.quality import Retrieval, ndcg
from jina_embeddings_v4.demo.pages.documents import SPLITS, documents
from jina_embeddings_v4.demo.pages.rendering import draw_with_text
from jina_embeddings_v4.engine.embeddings import Embeddings
from jina_embeddings_v4.engine.encoder import Encoder
from jina_embeddings_v4.late_interaction.hybrid import search_hybrid
from jina_embeddings_v4.late_interaction.query import Query
from jina_embeddings_v4.late_interaction.stores.local import LocalStore
from jina_embeddings_v4.late_interaction.words import MODES, Words, words_of

BY_NUMBER = {
    "invoice": (
        "invoice No {number}",
        "invoice {number} of {date}",
        "an invoice over {total}",
        "the bill of {date} with a total of {total}",
        "{total}",
    ),
    "receipt": ("a receipt over {total}", "till receipt, total {total}"),
}


def number_queries(texts, types):
    """Returns queries by number, for each the pages that it may mean, and the pattern that it was made by."""
    queries, right, patterns = [], [], []
    for text, kind in zip(texts, types, strict=True):
        for pattern in BY_NUMBER.get(kind, ()):
            parts = {"total": re.search(r"TOTAL\n(\S+)", text)[1]}
            if kind == "invoice":
                parts |= {"number": re.search(r"No (\d+)", text)[1], "date": re.search(r"2024-\d\d-\d\d", text)[0]}
            asked = [words_of(parts[name]) for name in re.findall(r"{(\w+)}", pattern)]
            queries.append(pattern.format(**parts))
            patterns.append(pattern)
            right.append(
                [
                    other == kind and all(set(words) <= set(words_of(layer)) for words in asked)
                    for layer, other in zip(texts, types, strict=True)
                ]
            )
    return queries, np.array(right), patterns


def search(store, text, embedding, mode):
    """Searches in one of the index's modes. Returns the numbers of the pages, best first."""
    query = Query.from_embeddings(embedding)
    if mode == "vectors":
        ids, *_ = store.search(query, k=10, candidates=1000)
    else:
        ids, *_ = search_hybrid(store, Words.from_query(text), None if mode == "text" else query, k=10, candidates=1000)
    return [int(page_id, 16) for page_id in ids]


def scores_of(store, queries, embeddings, mode, pages):
    """Returns scores that rank as the search does, an array ``(queries, pages)``, and seconds a query."""
    scores = np.zeros((len(queries), pages))
    start = time.perf_counter()
    for i, text in enumerate(queries):
        found = search(store, text, Embeddings(embeddings.single[[i]], [embeddings.multi[i]]), mode)
        scores[i, found] = 1 / np.arange(1, len(found) + 1)
    return scores, (time.perf_counter() - start) / len(queries)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="demo/checkpoint", help="the checkpoint to measure")
    parser.add_argument(
        "--split", default="test", choices=SPLITS, help="the pages, of which the rules were made by test"
    )
    parser.add_argument("--pages", type=int, default=1000, help="how many test pages")
    arguments = parser.parse_args()

    encoder = Encoder.from_checkpoint(arguments.checkpoint, device="cpu", precision="float32")
    split = arguments.split
    retrieval = Retrieval(encoder, arguments.pages, split)
    layers = [
        draw_with_text(document, f"{split} {i}")[1] for i, document in enumerate(documents(split, 0, arguments.pages))
    ]
    types = [page.document.type for page in retrieval.pages]
    asked, right, patterns = number_queries(layers, types)
    pages = encoder.encode_images([page.image for page in retrieval.pages], task="retrieval")
    by_meaning = encoder.encode_texts(retrieval.queries, task="retrieval")
    by_number = encoder.encode_texts(asked, task="retrieval")

    print(f"{len(layers)} pages, on {platform.machine()}: {len(by_meaning)} queries by meaning, {len(asked)} by number")
    print(f"  {'':10} by meaning, nDCG@5  by number, first  ms a query")
    with tempfile.TemporaryDirectory() as folder:
        store = LocalStore(Path(folder) / "index")
        ids = [f"{i:024x}" for i in range(len(layers))]
        store.add(ids, ids, pages, layers)
        for mode in MODES:
            scores, seconds = scores_of(store, retrieval.queries, by_meaning, mode, len(layers))
            numbers, _ = scores_of(store, asked, by_number, mode, len(layers))
            first = right[np.arange(len(asked)), numbers.argmax(axis=1)]
            print(f"  {mode:10} {ndcg(scores, retrieval.relevant):18.4f} {first.mean():17.1%} {1000 * seconds:11.1f}")
            if mode == "hybrid":
                missed = {pattern: np.mean(first[np.array(patterns) == pattern]) for pattern in dict.fromkeys(patterns)}
    print("\nBy number and by both, first:")
    for pattern, share in missed.items():
        print(f"  {pattern:45} {share:.1%}")


if __name__ == "__main__":
    main()
