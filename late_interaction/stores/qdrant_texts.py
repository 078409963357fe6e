"""The words of pages in Qdrant: in each point's payload, and as a sparse vector for BM25.

Qdrant weighs the words of a query by how rare they are (``Modifier.IDF``). The other part of BM25, how much a page
gains by having a word more than once and by being short, is in the page's sparse vector.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, Any

from ..words import Phrase, words_of
from .base import TextIndex

if TYPE_CHECKING:
    from .qdrant import QdrantStore

VECTOR = "words"

# BM25's usual constants. The length of the usual page is a guess, since Qdrant does not know it.
_SATURATION, _LENGTH_SHARE, _USUAL_WORDS = 1.2, 0.75, 256

_POINTS_AT_ONCE = 1000


class QdrantTexts(TextIndex):
    """The words of the pages of a collection.

    Args:
        store: the collection's :class:`late_interaction.stores.qdrant.QdrantStore`
    """

    def __init__(self, store: "QdrantStore") -> None:
        self._store = store

    def entry(self, text: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns what a point keeps of a text: parts of its payload and of its vectors."""
        words = words_of(text or "")
        long = _SATURATION * (1 - _LENGTH_SHARE + _LENGTH_SHARE * len(words) / _USUAL_WORDS)
        weights = {_number(word): count * (_SATURATION + 1) / (count + long) for word, count in Counter(words).items()}
        vector = self._store.models.SparseVector(indices=list(weights), values=list(weights.values()))
        return {"words": words, "text": "written"}, {VECTOR: vector}

    def check_collection(self) -> None:
        """Raises a ``ValueError`` if the collection was made by a version without words."""
        params = self._store.client.get_collection(self._store.name).config.params
        if VECTOR not in (params.sparse_vectors or {}):
            raise ValueError(
                f"The collection {self._store.name!r} was made by a version that did not index words, and Qdrant "
                "cannot add them: delete the run, and index the pages again"
            )

    def write(self, ids: Sequence[str], texts: Sequence[str | None]) -> None:
        missing = set(self._store.missing(ids))
        if len(missing) == len(set(ids)):
            return

        self.check_collection()
        client, models, name = self._store.client, self._store.models, self._store.name
        entries = {
            self._store.point(page_id): self.entry(text)
            for page_id, text in zip(ids, texts, strict=True)
            if page_id not in missing
        }
        vectors = [models.PointVectors(id=point, vector=vector) for point, (_, vector) in entries.items()]
        client.update_vectors(name, vectors)
        # Last, so that a page without a vector counts as one whose text was never written.
        for point, (payload, _) in entries.items():
            client.set_payload(name, payload, points=[point])

    def without(self) -> list[str]:
        models = self._store.models
        written = models.FieldCondition(key="text", match=models.MatchValue(value="written"))
        return [payload["id"] for payload in self._scroll(models.Filter(must_not=[written]))]

    def count(self, phrases: Sequence[Phrase]) -> list[int]:
        if not self._store.exists():
            return [0] * len(phrases)

        return [len(self.find([phrase])) if len(phrase) > 1 else self._count(phrase) for phrase in phrases]

    def _count(self, words):
        return self._store.client.count(self._store.name, count_filter=self._filter(words)).count

    def find(self, phrases: Sequence[Phrase]) -> list[tuple[str, str]]:
        words = [word for phrase in phrases for word in phrase]
        return [
            (payload["id"], payload["sample_id"])
            for payload in self._scroll(self._filter(words))
            if all(_has(payload["words"], phrase) for phrase in phrases)
        ]

    def rank(self, phrases: Sequence[Phrase], k: int, ids: Set[str] | None = None) -> list[tuple[str, str, float]]:
        if not self._store.exists() or ids == set():
            return []

        models = self._store.models
        numbers = list({_number(word) for phrase in phrases for word in phrase})
        found = self._store.client.query_points(
            self._store.name,
            query=models.SparseVector(indices=numbers, values=[1.0] * len(numbers)),
            using=VECTOR,
            limit=k,
            query_filter=self._store.id_filter(None if ids is None else list(ids)),
        ).points
        return [(point.payload["id"], point.payload["sample_id"], point.score) for point in found]

    def _filter(self, words):
        """Selects the pages that have all of some words, in any order."""
        models = self._store.models
        conditions = [models.FieldCondition(key="words", match=models.MatchValue(value=word)) for word in words]
        return models.Filter(must=conditions)

    def _scroll(self, wanted):
        """Yields the payloads of the points that a filter selects."""
        offset: Any = None
        while self._store.exists():
            points, offset = self._store.client.scroll(
                self._store.name, scroll_filter=wanted, limit=_POINTS_AT_ONCE, offset=offset, with_payload=True
            )
            yield from (point.payload for point in points)
            if offset is None:
                return


def _number(word):
    """Gives a word a number of 32 bits, the same in all processes."""
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest())


def _has(words, phrase):
    """Whether the words of a phrase follow each other in a text."""
    return any(tuple(words[i : i + len(phrase)]) == phrase for i in range(len(words) - len(phrase) + 1))
