"""One bit a dimension: as an index's only multi-vectors, and as what chooses candidates beside others."""

import os
import sys

import numpy as np
import pytest
from jina_embeddings_v4.engine.embeddings import Embeddings
from jina_embeddings_v4.late_interaction.query import Query
from jina_embeddings_v4.late_interaction.stores import local, ranking, stored_pages, vector_files
from jina_embeddings_v4.late_interaction.stores.hamming import distances_by_numpy, fastest_distances
from jina_embeddings_v4.late_interaction.stores.integrity import DamagedIndexError
from jina_embeddings_v4.late_interaction.stores.local import LocalStore

SINGLE = 16


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def random_embeddings(pages, seed=0, dim=128, longest=30):
    random = np.random.default_rng(seed)
    lengths = random.integers(1, longest, size=pages)
    multi = [unit(random.standard_normal((length, dim), dtype=np.float32)) for length in lengths]
    return Embeddings(unit(random.standard_normal((pages, SINGLE), dtype=np.float32)), multi)


def page_ids(start, stop):
    return [f"{i:024x}" for i in range(start, stop)]


def fill(store, embeddings, start=0, at_once=7):
    ids = page_ids(start, start + len(embeddings))
    for first in range(0, len(ids), at_once):
        part = slice(first, first + at_once)
        store.add(ids[part], ids[part], Embeddings(embeddings.single[part], embeddings.multi[part]))
    return ids


def hamming_by_hand(query, embeddings):
    """The mean of the best cosines of signs, a page and two tokens at a time."""
    scores = []
    for page in embeddings.multi:
        best = [max(1 - 2 * ((token > 0) != (row > 0)).mean() for row in page) for token in query.multi[0]]
        scores.append(np.mean(best))
    return np.array(scores)


def float_by_hand(query, embeddings):
    """The mean of the best cosines of the query's tokens with signs."""
    signs = [np.where(page > 0, 1, -1) / np.sqrt(page.shape[1]) for page in embeddings.multi]
    return np.array([np.mean([(page @ token).max() for token in query.multi[0]]) for page in signs])


@pytest.fixture
def small(monkeypatch):
    """Blocks of a few pages, some of one page alone, and segments of ten."""
    monkeypatch.setattr(ranking, "_TOKENS_AT_ONCE", 25)
    monkeypatch.setattr(local, "_PAGES_PER_SEGMENT", 10)
    monkeypatch.setattr(stored_pages, "_AT_ONCE", 4000)
    monkeypatch.setattr(vector_files, "_CONVERTED_AT_ONCE", 4000)


def bits_on_disk(store):
    """The files of bits end to end, and the signs of what the store reads, in the order of the files."""
    stored = [np.fromfile(path, np.uint8).reshape(-1, 16) for path in sorted(store.folder.glob("*.bits"))]
    multi = store.multi(store.ids()[0].tolist())
    return np.concatenate(stored), np.packbits(np.concatenate(multi) > 0, axis=1)


# Whole words of 64 bits, whole bytes, and neither; and more than a byte can count.
@pytest.mark.parametrize("dim", [128, 64, 24, 20, 512])
@pytest.mark.parametrize("dtype, gate", [("binary", "binary"), ("float16", "binary"), ("int8", "binary")])
def test_bits_are_compared_as_by_hand(tmp_path, small, dim, dtype, gate):
    store = LocalStore(tmp_path / "index", dtype, gate)
    embeddings, query = random_embeddings(60, dim=dim), random_embeddings(1, seed=1, dim=dim)
    ids = fill(store, embeddings)
    # So that the rows of some pages do not follow those of the page before.
    store.remove(ids[3:60:7])
    catalog = store._catalog()
    asked = Query.from_embeddings(query)
    assert len(catalog) < 60
    # As they are stored: in int8, values near 0 have no sign.
    expected = hamming_by_hand(query, Embeddings(None, store.multi(catalog.ids().tolist())))

    found = ranking.hamming_scores(store._files, asked.multi, catalog.places)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    some = np.array([0, 1, 5, 6, 20, len(catalog) - 1])
    found = ranking.hamming_scores(store._files, asked.multi, catalog.places[some])
    np.testing.assert_allclose(found, expected[some], atol=1e-5)
    # Next to none of them.
    signs = hamming_by_hand(query, embeddings)[[ids.index(one) for one in catalog.ids()]]
    np.testing.assert_allclose(found, signs[some], atol=1e-5 if dtype != "int8" else 0.05)


@pytest.mark.parametrize("dim", [128, 20])
def test_the_float_query_ranks_pages_of_bits(tmp_path, small, dim):
    store = LocalStore(tmp_path / "index", "binary", "binary")
    embeddings, query = random_embeddings(60, dim=dim), random_embeddings(1, seed=1, dim=dim)
    ids = fill(store, embeddings)
    expected = float_by_hand(query, embeddings)
    found, _, scores = store.search(Query.from_embeddings(query))
    np.testing.assert_allclose(scores, [expected[ids.index(one)] for one in found], atol=1e-5)
    assert (np.diff(scores) <= 0).all()

    # What is read is what was compared: rows of length 1.
    (vectors,) = store.multi(ids[8:9])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.mean((query.multi[0] @ vectors.T).max(axis=1)), expected[8], atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "int8", "binary"])
def test_bits_choose_the_candidates_and_late_interaction_ranks_them(tmp_path, small, dtype):
    store = LocalStore(tmp_path / "index", dtype, "binary")
    embeddings, query = random_embeddings(60), random_embeddings(1, seed=1)
    ids = fill(store, embeddings)
    scores = np.sort(hamming_by_hand(query, embeddings))[::-1]
    # So many that the next page is less alike.
    count = next(n for n in range(8, 20) if scores[n - 1] > scores[n] + 1e-6)
    chosen = np.argsort(-hamming_by_hand(query, embeddings))[:count]
    exact = float_by_hand(query, embeddings)
    if dtype != "binary":
        exact = np.array([(page @ query.multi[0].T).max(axis=0).mean() for page in embeddings.multi])
    expected = [ids[i] for i in sorted(chosen, key=lambda i: -exact[i])][:4]
    assert store.search(Query.from_embeddings(query), k=4, candidates=count)[0].tolist() == expected
    # An array is a query without a single vector, too.
    assert store.search(Query.from_vectors(query.multi[0], SINGLE, 128), 4, count)[0].tolist() == expected
    # A single vector alone, all pages, and the least similar ones need no candidates.
    assert (
        store.search(Query(None, query.single[0]), 1, 10)[0][0] == ids[np.argmax(embeddings.single @ query.single[0])]
    )
    assert store.search(Query.from_embeddings(query), 1, 10, reverse=True)[0][0] == ids[np.argmin(exact)]


@pytest.mark.parametrize("pages", [0, 1, 30])
def test_compiled_code_compares_as_numpy_does(pages):
    random = np.random.default_rng(pages)
    rows, query = (random.integers(0, 2**64, size=(n, 2), dtype=np.uint64) for n in (1000, 5))
    query[0], rows[7] = rows[3], ~rows[3]
    lengths = random.integers(1, 33, size=pages)
    starts = random.integers(0, 1000 - lengths, size=pages)
    starts[:1] = 3
    arguments = rows, starts, lengths, query, random.random(5, dtype=np.float32)
    fastest = fastest_distances()
    assert fastest is not distances_by_numpy
    np.testing.assert_allclose(fastest(*arguments), distances_by_numpy(*arguments), rtol=1e-6)


def test_rows_that_are_not_there_are_refused():
    rows = np.zeros((10, 2), np.uint64)
    for start, length in ((8, 3), (-1, 3)):
        with pytest.raises(IndexError):
            fastest_distances()(rows, np.array([start]), np.array([length]), rows[:1], np.ones(1, np.float32))


def test_without_numba_numpy_compares_and_says_so(tmp_path, monkeypatch, caplog):
    store = LocalStore(tmp_path / "index", "binary", "binary")
    fill(store, random_embeddings(30))
    query = Query.from_embeddings(random_embeddings(1, seed=1))
    expected = store.search(query, 5, 10)
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, fastest_distances.__module__.replace(".hamming", ".compiled_hamming"))
    fastest_distances.cache_clear()
    try:
        for _ in range(2):
            for first, second in zip(store.search(query, 5, 10), expected, strict=True):
                np.testing.assert_array_equal(first, second)
        assert caplog.text.count("pip install 'numba") == 1
    finally:
        fastest_distances.cache_clear()


def test_single_vectors_may_choose_among_pages_of_bits(tmp_path):
    store = LocalStore(tmp_path / "index", "binary", "single")
    embeddings, query = random_embeddings(60), random_embeddings(1, seed=1)
    ids = fill(store, embeddings)
    chosen = np.argsort(-(embeddings.single @ query.single[0]))[:10]
    best = max(chosen, key=lambda i: float_by_hand(query, embeddings)[i])
    assert store.search(Query.from_embeddings(query), 1, 10)[0].tolist() == [ids[best]]


def test_a_page_takes_a_16th_of_its_room(tmp_path):
    multi = [unit(np.random.default_rng(0).standard_normal((780, 128), dtype=np.float32))]
    for dtype, gate, name in (("binary", "binary", "000000.multi"), ("float16", "binary", "000000.bits")):
        store = LocalStore(tmp_path / f"{dtype}-{gate}", dtype, gate)
        store.add(["a" * 24], ["a" * 24], Embeddings(np.ones((1, SINGLE), np.float32), multi))
        assert (store.folder / name).stat().st_size == 780 * 16 <= 13_000
    assert not list((tmp_path / "binary-binary").glob("*.bits"))


def test_an_index_of_before_gets_its_bits(tmp_path, small):
    embeddings, query = random_embeddings(45), Query.from_embeddings(random_embeddings(1, seed=1))
    old = LocalStore(tmp_path / "index")
    ids = fill(old, embeddings)
    assert not list(old.folder.glob("*.bits"))

    asked = LocalStore(tmp_path / "index", gate="binary")
    with pytest.raises(DamagedIndexError, match=r"00000\d.bits is missing.*compute_similarity"):
        asked.search(query, 3, 10)
    asked.create()
    np.testing.assert_array_equal(*bits_on_disk(asked))

    new = LocalStore(tmp_path / "new", gate="binary")
    fill(new, embeddings)
    for first, second in zip(asked.search(query, 5, 10), new.search(query, 5, 10), strict=True):
        np.testing.assert_array_equal(first, second)
    # It had the old table, and searches as before.
    assert old.search(query, 5, 40)[0].tolist() == LocalStore(old.folder).search(query, 5, 40)[0].tolist()

    # From now on, each process writes them, whatever chooses its candidates.
    fill(old, random_embeddings(7, seed=2), 100)
    old.remove(ids[:12])
    np.testing.assert_array_equal(*bits_on_disk(asked))
    assert asked.size() == 40 and len(asked.search(query, 3, 10)[0]) == 3


@pytest.mark.parametrize("before", [0, 5])
def test_a_writer_adds_the_bits_that_others_needed_while_it_wrote(tmp_path, small, monkeypatch, before):
    plain = LocalStore(tmp_path / "index")
    if before:
        fill(plain, random_embeddings(before, seed=3))
    append = plain._files.append

    def appending(*args):
        monkeypatch.setattr(plain._files, "append", append)
        result = append(*args)
        # Of another process, with pages of its own.
        other = LocalStore(plain.folder, gate="binary")
        other.create()
        other.repair()
        fill(other, random_embeddings(3, seed=1), 100)
        return result

    monkeypatch.setattr(plain._files, "append", appending)
    fill(plain, random_embeddings(9 - before), before, 100)
    store = LocalStore(plain.folder, gate="binary")
    assert store.size() == 12 and store.damaged() == []
    np.testing.assert_array_equal(*bits_on_disk(store))
    assert len(store.search(Query.from_embeddings(random_embeddings(1, seed=2)), 3, 10)[0]) == 3


@pytest.mark.parametrize("gate", ["binary", "single"])
@pytest.mark.parametrize("cut", [True, False])
def test_lost_bits_are_named_and_made_again(tmp_path, small, gate, cut):
    embeddings, query = random_embeddings(25), Query.from_embeddings(random_embeddings(1, seed=1))
    fill(LocalStore(tmp_path / "index", gate="binary"), embeddings)
    path = tmp_path / "index" / "000001.bits"
    before = path.read_bytes()
    if cut:
        os.truncate(path, len(before) - 1)
    else:
        path.unlink()

    store = LocalStore(tmp_path / "index", gate=gate)
    for use in (lambda: store.search(query, 3, 10), store.ids):
        with pytest.raises(DamagedIndexError, match=f"{path}.*compute_similarity.*multi-vectors"):
            use()
    assert store.damaged() == []
    store.remove(page_ids(0, 1))  # a page can go, and moves no other
    store.repair()
    assert path.read_bytes() == before and store.size() == 24
    assert not list(store.folder.glob("*unfinished"))
    fill(store, random_embeddings(3, seed=3), 100)
    assert store.damaged() == [] and len(store.search(query, 3, 10)[0]) == 3


def test_pages_do_not_move_into_a_segment_whose_bits_are_lost(tmp_path, small):
    store = LocalStore(tmp_path / "index", gate="binary")
    embeddings = random_embeddings(14)
    ids = fill(store, embeddings, at_once=10)
    (store.folder / "000001.bits").unlink()
    # Of the first segment, one page is left, which would go to the second one.
    again = LocalStore(store.folder, gate="binary")
    again.remove(ids[:9])
    again.repair()
    assert again.ids()[0].tolist() == ids[9:] and again.damaged() == []


def test_lost_pages_and_lost_bits_are_repaired_together(tmp_path, small):
    store = LocalStore(tmp_path / "index", gate="binary")
    fill(store, random_embeddings(20), at_once=10)
    (store.folder / "000000.multi").unlink()
    (store.folder / "000001.bits").unlink()
    again = LocalStore(store.folder, gate="binary")
    again.create()
    again.repair()
    assert again.ids()[0].tolist() == page_ids(10, 20) and again.damaged() == []


def test_changed_bits_are_found(tmp_path, small):
    store = LocalStore(tmp_path / "index", gate="binary")
    ids = fill(store, random_embeddings(20))
    assert store.damaged() == []
    _, _, start, _ = store._catalog().places[3].tolist()
    with open(store.folder / "000000.bits", "r+b") as file:
        file.seek(16 * start)
        byte = file.read(1)
        file.seek(16 * start)
        file.write(bytes([byte[0] ^ 4]))
    assert store.damaged() == [ids[3]]

    # As of other vectors: removed and added again, they are right.
    store.remove([ids[3]])
    store.add([ids[3]], [ids[3]], random_embeddings(1))
    assert store.damaged() == []


def test_what_a_killed_writer_left_harms_no_bits(tmp_path):
    """It had written multi-vectors, and none or some of their bits."""
    embeddings = random_embeddings(14)
    for left in (b"", b"part of a row", bytes(16 * 3)):
        store = LocalStore(tmp_path / f"{len(left)}", gate="binary")
        fill(store, Embeddings(embeddings.single[:7], embeddings.multi[:7]))
        with open(store.folder / "000000.multi", "ab") as file:
            file.write(np.full((5, 128), 0.1, np.float16).tobytes() + b"cut")
        with open(store.folder / "000000.bits", "ab") as file:
            file.write(left)
        fill(LocalStore(store.folder, gate="binary"), Embeddings(embeddings.single[7:], embeddings.multi[7:]), 7)
        assert store.size() == 14 and len(store.search(Query.from_embeddings(random_embeddings(1)), 3, 5)[0]) == 3
        assert store.damaged() == []


def test_bits_move_with_their_pages(tmp_path, small):
    store = LocalStore(tmp_path / "index", gate="binary")
    embeddings, query = random_embeddings(45), random_embeddings(1, seed=1)
    ids = fill(store, embeddings, at_once=5)
    store.remove(ids[:17])
    assert [path.stem for path in sorted(store.folder.glob("*.bits"))] == ["000002", "000003", "000004"]
    assert store.damaged() == []
    scores = hamming_by_hand(query, embeddings)[17:]
    found = ranking.hamming_scores(
        store._files, Query.from_embeddings(query).multi, store._catalog().places[np.argsort(store.ids()[0])]
    )
    np.testing.assert_allclose(found, scores, atol=1e-5)


def test_no_bits_are_left_of_what_was_dropped(tmp_path):
    store = LocalStore(tmp_path / "index", gate="binary")
    fill(store, random_embeddings(3))
    (store.folder / "000000.bits-unfinished").touch()
    store.drop()
    assert not store.folder.exists()
    store.repair()
    assert store.size() == 0
