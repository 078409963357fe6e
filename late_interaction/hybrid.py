"""Search by meaning and by words: late interaction and BM25, fused by reciprocal ranks.

Reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009) adds ``1 / (60 + rank)`` over the two rankings. Alone,
it serves neither: words such as "a" and "of" rank pages at random, and the page with an invoice's number is no more
than one that is first for looking like an invoice. So

- words that are on more than half of the pages do not count;
- a page is in the ranking by words if its BM25 score is at least half of what one with all of the query's words, each
  once, would have. Words that no page has count there, too: where most of what is asked for is not in the texts, the
  texts have no say;
- numbers and codes, of at least three letters and digits, are written in one way only. Pages with more of the query's
  numbers come first, unless these are on more than 1% of the pages (or on more than 3 pages);
- quoted phrases must match.
"""

import math
from collections.abc import Sequence

import numpy as np

from .query import Query
from .stores.base import VectorStore
from .words import Words, is_number

# The constant of reciprocal rank fusion: how little a rank counts against the next.
_K = 60

# The share of a full match's BM25 score that a page needs to be ranked by its words.
_LEAST_MATCH = 0.5

# The share of pages, and the number of pages, on which a number may be to say which page is meant.
_RARE, _FEW = 0.01, 3

# Pages that are ranked, at least, before the rankings are fused.
_DEPTH = 1000

Found = tuple[np.ndarray, np.ndarray, np.ndarray]


def search_hybrid(
    store: VectorStore,
    words: Words,
    query: Query | None,
    k: int | None = None,
    candidates: int | None = None,
    ids: Sequence[str] | None = None,
) -> Found:
    """Ranks pages by meaning and by words, or by words alone.

    Args:
        store: the store of vectors and words
        words: the query's :class:`late_interaction.words.Words`
        query: its :class:`late_interaction.query.Query`, or ``None`` to search by words alone. Then, only pages that
            have one of the words are found
        k (None): the number of pages to return, ``None`` for all
        candidates (None): see :meth:`late_interaction.stores.base.VectorStore.search`
        ids (None): the ids of the pages to search in, ``None`` for all

    Returns:
        a tuple of the ids, the sample ids and the scores, best first. A score lies in ``[0, 1]``: 1 for a page that is
        first by meaning and by words, and has all of the query's numbers. It says no more than the rank. Where the
        words have no say, the scores are those of late interaction
    """
    allowed = None if ids is None else set(ids)
    if words.required:
        ids = [page_id for page_id, _ in _within(store.texts.find(words.required), allowed)]
        allowed = set(ids)
        if not ids:
            return _arrays([])

    pages, counts = store.size(), store.texts.count(words.phrases)
    k = pages if k is None else k
    depth = max(k, candidates or _DEPTH)
    seen = dict(zip(words.phrases, counts, strict=True))
    telling = [phrase for phrase, count in seen.items() if 0 < count <= pages / 2]
    if query is None:
        # In a handful of pages, all words may be common.
        telling = telling or [phrase for phrase, count in seen.items() if count]

    rankings = []
    if query is not None:
        found = store.search(query, k=depth, candidates=candidates, ids=ids)
        rankings.append([(page_id, sample_id) for page_id, sample_id, _ in zip(*found, strict=True)])
    by_words = store.texts.rank(telling, depth, allowed) if telling else []
    if query is not None:
        least = _LEAST_MATCH * sum(_weight(count, pages) for count in seen.values())
        by_words = [page for page in by_words if page[2] >= least]
    rankings.append([(page_id, sample_id) for page_id, sample_id, _ in by_words])

    numbers = [phrase for phrase, count in seen.items() if is_number(phrase) and 0 < count <= max(_FEW, _RARE * pages)]
    if query is not None and not by_words and not numbers:
        ids_found, sample_ids, scores = found
        return ids_found[:k], sample_ids[:k], scores[:k]
    return _fuse(rankings, [_within(store.texts.find([number]), allowed) for number in numbers], k)


def _fuse(rankings, with_numbers, k):
    """Ranks pages by how many numbers they have, and then by the sum of their reciprocal ranks."""
    scores: dict[tuple[str, str], float] = {}
    for ranking in rankings:
        for rank, page in enumerate(ranking, start=1):
            scores[page] = scores.get(page, 0) + 1 / (_K + rank)
    scores = {page: score * (_K + 1) / len(rankings) for page, score in scores.items()}
    for pages in with_numbers:
        for page in pages:
            scores[page] = scores.get(page, 0) + 1

    best = sorted(scores.items(), key=lambda item: -item[1])[:k]
    return _arrays([(*page, score / (len(with_numbers) + 1)) for page, score in best])


def _within(pages, ids):
    return pages if ids is None else [page for page in pages if page[0] in ids]


def _weight(count, pages):
    """What BM25 gives a word that is once on a page of the usual length, and on ``count`` of all pages."""
    return max(1e-6, math.log((pages - count + 0.5) / (count + 0.5)))


def _arrays(found):
    ids, sample_ids, scores = zip(*found, strict=True) if found else ((), (), ())
    return np.array(ids), np.array(sample_ids), np.array(scores, dtype=np.float64)
