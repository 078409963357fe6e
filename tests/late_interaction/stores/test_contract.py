"""What every store promises, of each of them, and of one that holds plain arrays."""

import numpy as np
import pytest
import qdrant_client
from jina_embeddings_v4.engine.embeddings import Embeddings
from jina_embeddings_v4.late_interaction.query import Query
from jina_embeddings_v4.late_interaction.stores.base import TextIndex, VectorStore
from jina_embeddings_v4.late_interaction.stores.local import LocalStore
from jina_embeddings_v4.late_interaction.stores.qdrant import QdrantStore
from jina_embeddings_v4.late_interaction.words import words_of

from ...support.edge_client import EdgeClient

SINGLE, MULTI = 16, 8

# How far float16 is from what was added, and int8. Signs are exact.
TOLERANCES = {
    "memory": 1e-6,
    "files, float16": 1e-3,
    "files, float16, gate of bits": 1e-3,
    "files, int8": 2e-2,
    "files, binary": 1e-3,
    "Qdrant's client": 1e-3,
    "Qdrant's engine": 1e-3,
    "Qdrant's engine, scalar": 1e-3,
    "Qdrant's engine, binary": 1e-3,
}


class MemoryTexts(TextIndex):
    """The contract, as plainly as can be."""

    def __init__(self, store):
        self.store, self.words = store, {}

    def write(self, ids, texts):
        there = set(ids) - set(self.store.missing(ids))
        self.words |= {i: words_of(text or "") for i, text in zip(ids, texts, strict=True) if i in there}

    def without(self):
        return [page_id for page_id in self.store._pages if page_id not in self.words]

    def _has(self, page_id, phrase):
        words = self.words[page_id]
        return any(tuple(words[i : i + len(phrase)]) == phrase for i in range(len(words)))

    def count(self, phrases):
        return [sum(self._has(page_id, phrase) for page_id in self.words) for phrase in phrases]

    def find(self, phrases):
        found = [page_id for page_id in self.words if all(self._has(page_id, phrase) for phrase in phrases)]
        return [(page_id, self.store._pages[page_id][0]) for page_id in found]

    def rank(self, phrases, k, ids=None):
        mean = sum(map(len, self.words.values())) / max(1, len(self.words))
        scores = {page_id: 0 for page_id in self.words if ids is None or page_id in ids}
        for phrase, count in zip(phrases, self.count(phrases), strict=True):
            rarity = max(1e-6, np.log((len(self.words) - count + 0.5) / (count + 0.5)))
            for page_id in scores:
                words = self.words[page_id]
                times = sum(tuple(words[i : i + len(phrase)]) == phrase for i in range(len(words)))
                scores[page_id] += rarity * times * 2.2 / (times + 1.2 * (0.25 + 0.75 * len(words) / mean))
        best = sorted((-score, page_id) for page_id, score in scores.items() if score)
        return [(page_id, self.store._pages[page_id][0], -score) for score, page_id in best[:k]]


class MemoryStore(VectorStore):
    """The contract, as plainly as can be."""

    def __init__(self):
        self._pages = {}
        self._texts = MemoryTexts(self)

    @property
    def texts(self):
        return self._texts

    def create(self):
        pass

    check = repair = create

    def damaged(self):
        return []

    def size(self):
        return len(self._pages)

    def dims(self):
        for _, single, multi in self._pages.values():
            return len(single), multi.shape[1]
        return None, None

    def list_ids(self):
        return np.array(list(self._pages)), np.array([sample_id for sample_id, *_ in self._pages.values()])

    ids = list_ids

    def missing(self, ids):
        return [page_id for page_id in ids if page_id not in self._pages]

    def add(self, ids, sample_ids, embeddings, texts=None):
        if self._pages and self.dims() != (embeddings.single.shape[1], embeddings.multi[0].shape[1]):
            raise ValueError("other dimensions")
        for page_id, *page in zip(ids, sample_ids, embeddings.single, embeddings.multi, strict=True):
            self._pages[page_id] = page
        if texts is not None:
            self.texts.write(ids, texts)

    def remove(self, ids):
        for page_id in ids:
            self._pages.pop(page_id, None)
            self.texts.words.pop(page_id, None)

    def single(self, ids):
        found = [self._pages[page_id] for page_id in ids]
        return np.array([single for _, single, _ in found]), [sample_id for sample_id, *_ in found]

    def multi(self, ids):
        return [self._pages[page_id][2] for page_id in ids]

    def search(self, query, k=None, candidates=None, ids=None, reverse=False):
        within = [page_id for page_id in self._pages if ids is None or page_id in set(ids)]
        scores = []
        for page_id in within:
            _, single, multi = self._pages[page_id]
            best = query.multi is not None and (multi @ query.multi.T).max(axis=0)
            scores.append(single @ query.single if query.multi is None else best.sum())
        best = np.argsort(scores if reverse else -np.array(scores), kind="stable")[:k]
        found = [within[i] for i in best]
        return np.array(found), np.array([self._pages[page_id][0] for page_id in found]), np.array(scores)[best]

    def drop(self):
        self._pages.clear()
        self.texts.words.clear()


@pytest.fixture(params=TOLERANCES)
def kind(request, monkeypatch):
    if request.param == "files, binary":
        monkeypatch.setitem(globals(), "random_embeddings", random_signs)
    return request.param


@pytest.fixture
def store(kind, tmp_path, monkeypatch):
    if "engine" in kind:
        monkeypatch.setattr(qdrant_client, "QdrantClient", EdgeClient)
    quantization = kind.partition("engine, ")[2] or None
    made = {
        "memory": MemoryStore,
        "files, float16": lambda: LocalStore(tmp_path / "index"),
        "files, float16, gate of bits": lambda: LocalStore(tmp_path / "index", gate="binary"),
        "files, int8": lambda: LocalStore(tmp_path / "index", "int8"),
        "files, binary": lambda: LocalStore(tmp_path / "index", "binary", "binary"),
    }.get(kind, lambda: QdrantStore(str(tmp_path / "qdrant"), "pages", quantization=quantization))()
    made.create()
    return made


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def random_embeddings(pages, seed=0):
    random = np.random.default_rng(seed)
    multi = [unit(random.standard_normal((length, MULTI))) for length in random.integers(1, 30, size=pages)]
    return Embeddings(unit(random.standard_normal((pages, SINGLE))), multi)


def random_signs(pages, seed=0, random_embeddings=random_embeddings):
    embeddings = random_embeddings(pages, seed)
    return Embeddings(embeddings.single, [unit(np.where(multi > 0, 1.0, -1.0)) for multi in embeddings.multi])


def page_ids(start, stop):
    return [f"{i:024x}" for i in range(start, stop)]


def test_an_index_without_pages(store):
    store.check()
    assert store.size() == 0 and store.dims() == (None, None) and store.damaged() == []
    assert [len(part) for part in store.list_ids()] == [0, 0] and store.missing(page_ids(0, 2)) == page_ids(0, 2)
    assert [len(part) for part in store.search(Query.from_embeddings(random_embeddings(1)), k=3)] == [0, 0, 0]


def test_what_was_added_is_there(store, kind):
    embeddings, ids, samples = random_embeddings(20), page_ids(0, 20), page_ids(100, 120)
    store.add(ids[:12], samples[:12], Embeddings(embeddings.single[:12], embeddings.multi[:12]))
    store.add(ids[12:], samples[12:], Embeddings(embeddings.single[12:], embeddings.multi[12:]))
    assert store.size() == 20 and store.dims() == (SINGLE, MULTI)
    assert sorted(zip(*map(list, store.list_ids()), strict=True)) == list(zip(ids, samples, strict=True))
    assert store.missing(["f" * 24, ids[3], "e" * 24]) == ["f" * 24, "e" * 24]

    asked = [ids[7], ids[0], ids[19]]
    single, of_samples = store.single(asked)
    assert single.dtype == np.float32 and of_samples == [samples[7], samples[0], samples[19]]
    np.testing.assert_allclose(single, embeddings.single[[7, 0, 19]], atol=TOLERANCES[kind])
    for found, i in zip(store.multi(asked), (7, 0, 19), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, embeddings.multi[i], atol=TOLERANCES[kind])


def test_pages_are_replaced_and_removed(store, kind):
    ids, first, second = page_ids(0, 6), random_embeddings(6), random_embeddings(2, seed=1)
    store.add(ids, ids, first)
    store.add(ids[:2], ids[:2], second)
    store.remove([ids[5], "f" * 24])
    assert store.size() == 5 and store.missing(ids) == [ids[5]]
    np.testing.assert_allclose(store.single([ids[1], ids[2]])[0][0], second.single[1], atol=TOLERANCES[kind])
    np.testing.assert_allclose(store.multi([ids[0]])[0], second.multi[0], atol=TOLERANCES[kind])
    np.testing.assert_allclose(store.multi([ids[4]])[0], first.multi[4], atol=TOLERANCES[kind])


def test_pages_are_ranked(store, kind):
    embeddings, ids, query = random_embeddings(40), page_ids(0, 40), random_embeddings(1, seed=1)
    samples = page_ids(100, 140)
    store.add(ids, samples, embeddings)
    exact = MemoryStore()
    exact.add(ids, samples, embeddings)
    for asked in (Query.from_embeddings(query), Query(None, query.single[0])):
        for within in (None, ids[10:30]):
            best, _, scores = exact.search(asked, ids=within)
            found, of_samples, found_scores = store.search(asked, k=5, ids=within)
            assert len(found) == 5 and set(found) <= set(ids if within is None else within)
            if "binary" in kind:
                # Bits choose, and may miss one. What they chose is scored and ranked by the stored vectors.
                assert len(set(found) & set(best[:5])) >= 3
                scores = [scores[list(best).index(page_id)] for page_id in found]
            np.testing.assert_allclose(found_scores, scores[:5], atol=TOLERANCES[kind])
            assert list(of_samples) == [samples[ids.index(page_id)] for page_id in found]

    # Of as few candidates as are wanted, single vectors choose, or the number of signs that are alike.
    count, chosen = 5, set(exact.search(Query(None, query.single[0]), k=5)[0])
    if kind in ("files, float16, gate of bits", "files, binary"):
        alike = np.array([(np.sign(multi) @ np.sign(query.multi[0]).T).max(axis=0).sum() for multi in embeddings.multi])
        # So many that the next page is less alike.
        count = next(n for n in range(5, 20) if np.sort(alike)[-n] > np.sort(alike)[-n - 1])
        chosen = {ids[i] for i in np.argsort(-alike)[:count]}
    if kind not in ("memory", "Qdrant's engine, binary"):
        assert set(store.search(Query.from_embeddings(query), k=count, candidates=count)[0]) == chosen


def test_vectors_of_other_dimensions_are_refused(store):
    ids = page_ids(0, 2)
    store.add(ids, ids, random_embeddings(2))
    wide = random_embeddings(1)
    with pytest.raises(ValueError):
        store.add(["f" * 24], ["f" * 24], Embeddings(wide.single[:, :-1], wide.multi))
    assert store.size() == 2 and store.missing(["f" * 24]) == ["f" * 24]


def test_nothing_is_left_of_what_was_dropped(store):
    ids = page_ids(0, 3)
    store.add(ids, ids, random_embeddings(3))
    store.drop()
    store.create()
    assert store.size() == 0 and store.missing(ids) == ids


def test_two_processes_may_add_the_first_pages_at_once(tmp_path, monkeypatch):
    store = QdrantStore(str(tmp_path), "pages")
    embeddings = Embeddings(np.ones((1, SINGLE), np.float32), [np.ones((3, MULTI), np.float32)])
    store.add(["a" * 24], ["a" * 24], embeddings)
    # The other process has created the collection after this one looked.
    exists, answers = store.exists, [False]
    monkeypatch.setattr(store, "exists", lambda: answers.pop() if answers else exists())
    store.add(["b" * 24], ["b" * 24], embeddings)
    assert store.size() == 2
    monkeypatch.setattr(store, "exists", lambda: False)
    with pytest.raises(ValueError, match="already exists"):
        store.add(["c" * 24], ["c" * 24], embeddings)


TEXTS = [
    "Invoice No 345 of Linden & Sons, total 1,234.50",
    "Invoice No 346: total 345.10, and 12 more",
    "Dear Ms Voss, we received the invoice. No reply is needed",
    "a table with 345 rows",
    None,
    "東京大学の契約",
]


@pytest.fixture
def written(store):
    """A store of pages with texts, of which each page's sample has another id."""
    ids, samples = page_ids(0, len(TEXTS)), page_ids(100, 100 + len(TEXTS))
    store.add(ids, samples, random_embeddings(len(TEXTS)), TEXTS)
    return store


def found(pages):
    return sorted(int(page_id, 16) for page_id, *_ in pages)


def test_words_are_found_as_they_are_written(written):
    texts = written.texts
    assert texts.count([("invoice",), ("345",), ("no", "345"), ("no", "346"), ("345.10",), ("nowhere",)]) == [
        3, 2, 1, 1, 1, 0,
    ]  # fmt: skip
    assert found(texts.find([("345",)])) == [0, 3]
    assert found(texts.find([("invoice",), ("no",)])) == [0, 1, 2]
    assert found(texts.find([("linden", "sons")])) == [0] and texts.find([("sons", "linden")]) == []
    assert found(texts.find([("大", "学")])) == [5] and texts.find([("大", "東")]) == []
    assert texts.find([("voss",)]) == [(page_ids(2, 3)[0], page_ids(102, 103)[0])]


def test_rarer_words_rank_higher(written):
    ranked = written.texts.rank([("total",), ("linden",)], k=10)

    assert [int(page_id, 16) for page_id, *_ in ranked] == [0, 1]
    assert [score for *_, score in ranked] == sorted((score for *_, score in ranked), reverse=True)
    assert written.texts.rank([("total",), ("linden",)], k=1) == ranked[:1]
    assert found(written.texts.rank([("invoice",)], k=10, ids=set(page_ids(1, 2)))) == [1]
    assert written.texts.rank([("invoice",)], k=10, ids=set()) == []


def test_words_go_with_their_pages(written):
    texts = written.texts
    written.remove(page_ids(0, 1))
    assert found(texts.find([("345",)])) == [3] and texts.count([("linden",)]) == [0]

    written.add(page_ids(3, 4), page_ids(103, 104), random_embeddings(1), ["a letter"])
    assert texts.find([("345",)]) == [] and found(texts.find([("letter",)])) == [3]


def test_texts_are_written_later_and_anew(store):
    ids = page_ids(0, 3)
    assert store.texts.count([("red",)]) == [0] and store.texts.find([("red",)]) == []
    assert store.texts.rank([("red",)], k=3) == []
    store.add(ids, ids, random_embeddings(3))
    assert sorted(store.texts.without()) == ids

    # Ids that are not in the store are ignored.
    store.texts.write([*ids[:2], "f" * 24], ["a red stamp", None, "a red star"])
    assert store.texts.without() == ids[2:] and found(store.texts.find([("red",)])) == [0]

    store.texts.write(ids[:1], ["a blue stamp"])
    assert store.texts.find([("red",)]) == [] and found(store.texts.find([("blue",)])) == [0]
