"""The store against plain arrays in memory: what it ranks, and what is left of it after accidents."""

import os
import sqlite3
import subprocess
import sys
import threading

import numpy as np
import pytest
from jina_embeddings_v4.engine.embeddings import Embeddings
from jina_embeddings_v4.late_interaction.query import Query
from jina_embeddings_v4.late_interaction.stores import local, ranking, stored_pages
from jina_embeddings_v4.late_interaction.stores.integrity import DamagedIndexError
from jina_embeddings_v4.late_interaction.stores.local import LocalStore
from jina_embeddings_v4.late_interaction.stores.row_formats import row_type

SINGLE, MULTI = 16, 8


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def random_embeddings(pages, seed=0, longest=30):
    random = np.random.default_rng(seed)
    multi = [
        unit(random.standard_normal((length, MULTI), dtype=np.float32))
        for length in random.integers(1, longest, size=pages)
    ]
    return Embeddings(unit(random.standard_normal((pages, SINGLE), dtype=np.float32)), multi)


def random_signs(pages, seed=0, longest=30, random_embeddings=random_embeddings):
    embeddings = random_embeddings(pages, seed, longest)
    signs = [np.where(multi > 0, 1, -1).astype(np.float32) / np.float32(MULTI**0.5) for multi in embeddings.multi]
    return Embeddings(embeddings.single, signs)


def page_ids(start, stop):
    return [f"{i:024x}" for i in range(start, stop)]


def by_hand(query, embeddings):
    """The mean of the best cosines, a page and a query token at a time."""
    return np.array([np.mean([(page @ token).max() for token in query.multi[0]]) for page in embeddings.multi])


@pytest.fixture(params=["float16", "int8", "binary"])
def dtype(request, monkeypatch):
    if request.param == "binary":
        # Which it keeps exactly.
        monkeypatch.setitem(globals(), "random_embeddings", random_signs)
    return request.param


@pytest.fixture
def store(tmp_path, dtype):
    return LocalStore(tmp_path / "index", dtype)


@pytest.fixture
def tolerance(dtype):
    return {"float16": 1e-3, "int8": 2e-2, "binary": 1e-6}[dtype]


def fill(store, embeddings, start=0):
    ids = page_ids(start, start + len(embeddings))
    store.add(ids, ids, embeddings)
    return ids


def test_exact_search_is_maxsim_over_all_pages(store, tolerance, monkeypatch):
    # Small enough for many blocks, some of one page alone.
    monkeypatch.setattr(ranking, "_TOKENS_AT_ONCE", 25)
    embeddings, query = random_embeddings(90), random_embeddings(1, seed=1)
    ids = fill(store, embeddings)

    found, _, scores = store.search(Query.from_embeddings(query))
    expected = dict(zip(ids, by_hand(query, embeddings), strict=True))
    assert sorted(found) == ids
    np.testing.assert_allclose(scores, [expected[one] for one in found], atol=tolerance)
    assert (np.diff(scores) <= 0).all()

    back, _, _ = store.search(Query.from_embeddings(query), k=5, reverse=True)
    assert back.tolist() == found[::-1][:5].tolist()


def test_candidates_are_those_of_the_best_single_vectors(store):
    embeddings, query = random_embeddings(60), random_embeddings(1, seed=1)
    ids = fill(store, embeddings)
    chosen = np.argsort(-(embeddings.single @ query.single[0]))[:10]
    found, _, _ = store.search(Query.from_embeddings(query), k=4, candidates=10)
    expected = sorted(chosen, key=lambda i: -by_hand(query, embeddings)[i])[:4]
    assert found.tolist() == [ids[i] for i in expected]

    alone, _, scores = store.search(Query.from_vectors(query.single[0], SINGLE, MULTI), k=3)
    assert alone.tolist() == [ids[i] for i in chosen[:3]]
    np.testing.assert_allclose(scores, (embeddings.single @ query.single[0])[chosen[:3]], atol=1e-3)


def test_a_search_is_restricted_to_ids(store):
    fill(store, random_embeddings(40))
    among = [*page_ids(5, 9), *page_ids(100, 102)]
    for candidates in (None, 2):
        found, _, _ = store.search(
            Query.from_embeddings(random_embeddings(1, seed=1)), candidates=candidates, ids=among
        )
        assert sorted(found) == page_ids(5, 9)
    assert len(store.search(Query.from_embeddings(random_embeddings(1, seed=1)), ids=[])[0]) == 0


def test_what_was_added_comes_back(store, tolerance):
    embeddings = random_embeddings(20)
    ids = fill(store, embeddings)
    some = [ids[i] for i in (7, 3, 19)]
    single, of_samples = store.single(some)
    np.testing.assert_allclose(single, embeddings.single[[7, 3, 19]], atol=1e-3)
    assert of_samples == some
    for vectors, i in zip(store.multi(some), (7, 3, 19), strict=True):
        np.testing.assert_allclose(vectors, embeddings.multi[i], atol=tolerance)
    assert store.missing(["0" * 24, "f" * 24]) == ["f" * 24]


def test_a_page_that_is_added_again_is_replaced(store, tolerance):
    fill(store, random_embeddings(5))
    new = random_embeddings(5, seed=9)
    fill(store, new)
    assert store.size() == 5
    np.testing.assert_allclose(store.multi(page_ids(2, 3))[0], new.multi[2], atol=tolerance)


def test_a_reader_sees_what_another_process_did(store, tolerance):
    embeddings, reader = random_embeddings(30), LocalStore(store.folder, store.dtype)
    assert reader.size() == 0
    for start in (0, 10, 20):
        part = slice(start, start + 10)
        fill(store, Embeddings(embeddings.single[part], embeddings.multi[part]), start)
        assert reader.ids()[0].tolist() == page_ids(0, start + 10)
        np.testing.assert_allclose(reader.multi(page_ids(start, start + 1))[0], embeddings.multi[start], atol=tolerance)

    store.remove(page_ids(4, 6))
    assert reader.ids()[0].tolist() == page_ids(0, 4) + page_ids(6, 30)
    fill(store, random_embeddings(1, seed=5), 0)  # a page is written anew, and so lies last
    assert reader.ids()[0].tolist() == page_ids(1, 4) + page_ids(6, 30) + page_ids(0, 1)
    store.add(page_ids(4, 5), page_ids(4, 5), random_embeddings(1))
    assert reader.size() == 29 and not reader.missing(page_ids(0, 5))


def test_a_reader_whose_files_were_moved_reads_again(store, tolerance, monkeypatch):
    monkeypatch.setattr(local, "_PAGES_PER_SEGMENT", 10)
    embeddings, reader = random_embeddings(20), LocalStore(store.folder, store.dtype)
    for start in (0, 10):
        fill(store, Embeddings(embeddings.single[start : start + 10], embeddings.multi[start : start + 10]), start)
    # What a reader does between two looks at the table, no public call can come between.
    catalog = reader._catalog()

    # The table is read, and then the files are moved, in which it says the pages are.
    store.remove(page_ids(0, 8))
    monkeypatch.setattr(reader, "_catalog", lambda: catalog if reader._cached is not None else store._catalog())
    np.testing.assert_allclose(reader.multi(page_ids(9, 10))[0], embeddings.multi[9], atol=2 * tolerance)


def test_other_dimensions_are_refused_and_change_nothing(store):
    fill(store, random_embeddings(3))
    other = Embeddings(np.ones((1, SINGLE // 2), np.float32), random_embeddings(1).multi)
    with pytest.raises(ValueError, match=f"{SINGLE} dimensions"):
        store.add(["a" * 24], ["a" * 24], other)
    assert store.size() == 3


def test_room_of_removed_pages_is_given_back(store, tolerance, monkeypatch):
    monkeypatch.setattr(local, "_PAGES_PER_SEGMENT", 10)
    embeddings = random_embeddings(45)
    for start in range(0, 45, 5):
        fill(store, Embeddings(embeddings.single[start : start + 5], embeddings.multi[start : start + 5]), start)
    before = set(store.folder.glob("*.multi"))
    assert len(before) == 5

    store.remove([*page_ids(0, 17), *page_ids(100, 110)])
    # The first file held pages 0 to 9. Of the second, 17 to 19 were left, and moved to the last.
    after = set(store.folder.glob("*.multi"))
    assert len(after) == 3 and after < before
    assert store.size() == 28
    assert sorted(store.ids()[0]) == page_ids(17, 45)
    np.testing.assert_allclose(store.multi(page_ids(18, 19))[0], embeddings.multi[18], atol=2 * tolerance)

    # The number of a file that is gone does not come again: another process may still have it mapped.
    fill(store, random_embeddings(20), 200)
    names = [path.stem for path in store.folder.glob("*.multi")]
    assert "000000" not in names and "000001" not in names


def test_compaction_lets_others_write_and_holds_little(store, monkeypatch):
    monkeypatch.setattr(local, "_PAGES_PER_SEGMENT", 10)
    kind, columns = row_type(store.dtype, MULTI)
    monkeypatch.setattr(stored_pages, "_AT_ONCE", 30 * kind.itemsize * columns)
    embeddings = random_embeddings(40)
    for start in range(0, 40, 10):
        fill(store, Embeddings(embeddings.single[start : start + 10], embeddings.multi[start : start + 10]), start)
    gone = [i for i in range(30) if i % 10 < 6]
    expected = {i: store.multi(page_ids(i, i + 1))[0] for i in range(40) if i not in gone}
    compact, read_pages, read, waited = LocalStore._compact, local.read_pages, [], []

    def note(*args):
        pages = read_pages(*args)
        read.append((len(pages.tokens), len(pages.ids)))
        return pages

    def then_write(self, segment):
        compact(self, segment)
        # Without waiting.
        other = sqlite3.connect(store.folder / "pages.sqlite", timeout=0, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
        other.close()
        waited.append(segment)
        if len(waited) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(local, "read_pages", note)
    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "_compact", then_write)
        with pytest.raises(KeyboardInterrupt):
            store.remove([page_ids(i, i + 1)[0] for i in gone])
    # The pages are gone, and some of the room. The next removal gives the rest back.
    again = LocalStore(store.folder, store.dtype)
    assert again.size() == len(expected) and again.damaged() == []
    assert {path.stem for path in store.folder.glob("*.multi")} == {"000002", "000003", "000004"}
    again.remove([])
    assert "000002" not in {path.stem for path in store.folder.glob("*.multi")}
    for i, vectors in expected.items():
        np.testing.assert_array_equal(again.multi(page_ids(i, i + 1))[0], vectors)
    # Not a segment's four pages at once, but as many as the bound lets in, or one.
    assert sum(pages for _, pages in read) == 12 and all(tokens <= 30 or pages == 1 for tokens, pages in read)


def test_the_number_of_the_file_that_was_filled_last_does_not_come_again(store, monkeypatch):
    monkeypatch.setattr(local, "_PAGES_PER_SEGMENT", 4)
    fill(store, random_embeddings(4))
    store.remove(page_ids(0, 4))
    fill(store, random_embeddings(2), 10)
    assert [path.stem for path in store.folder.glob("*.single")] == ["000001"]


def test_pages_survive_others_that_are_removed_meanwhile(store, tolerance, monkeypatch):
    monkeypatch.setattr(local, "_PAGES_PER_SEGMENT", 8)
    embeddings = random_embeddings(200)

    def write():
        mine = LocalStore(store.folder, store.dtype)
        for i in range(0, 200, 5):
            fill(mine, Embeddings(embeddings.single[i : i + 5], embeddings.multi[i : i + 5]), i)

    def remove():
        mine = LocalStore(store.folder, store.dtype)
        while writer.is_alive():
            mine.remove([one for one in mine.ids()[0].tolist() if int(one, 16) % 3 == 0])

    store.create()
    writer = threading.Thread(target=write)
    removers = [threading.Thread(target=remove) for _ in range(2)]
    for thread in (writer, *removers):
        thread.start()
    for thread in (writer, *removers):
        thread.join()
    store.remove(page_ids(0, 200)[::3])

    kept = [i for i in range(200) if i % 3]
    assert sorted(store.ids()[0]) == [page_ids(i, i + 1)[0] for i in kept]
    for i, vectors in zip(kept, store.multi([page_ids(i, i + 1)[0] for i in kept]), strict=True):
        np.testing.assert_allclose(vectors, embeddings.multi[i], atol=3 * tolerance)


def test_a_page_that_is_not_there_is_named(store):
    fill(store, random_embeddings(3))
    for read in (store.single, store.multi):
        with pytest.raises(KeyError, match="f" * 24):
            read([*page_ids(0, 2), "f" * 24])


def test_what_a_full_disk_left_is_no_index_yet(store):
    store.folder.mkdir(parents=True)
    (store.folder / "pages.sqlite").touch()
    assert store.size() == 0
    fill(store, random_embeddings(3))
    assert store.size() == 3


def test_only_the_indexes_own_files_are_deleted(store):
    fill(store, random_embeddings(3))
    (store.folder / "mine.txt").write_text("kept")
    store.drop()
    assert [path.name for path in store.folder.iterdir()] == ["mine.txt"]


def test_a_search_leaves_torchs_threads_and_forks_alone(store):
    fill(store, random_embeddings(30))
    query = Query.from_embeddings(random_embeddings(1, seed=1))
    program = f"""
import os, threading, torch, numpy as np
from jina_embeddings_v4.late_interaction.stores.local import LocalStore
from jina_embeddings_v4.late_interaction.query import Query

torch.set_num_threads(2)
store = LocalStore({str(store.folder)!r}, {store.dtype!r})
query = Query(np.array({query.multi.tolist()}, dtype=np.float32), None)
expected = store.search(query, 3)[0].tolist()
numbers = [torch.get_num_threads()]
thread = threading.Thread(target=lambda: numbers.append(torch.get_num_threads()))
thread.start()
thread.join()
assert numbers == [2, 2], numbers
child = os.fork()
if not child:
    os._exit(store.search(query, 3)[0].tolist() != expected)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_what_a_killed_writer_left_behind_harms_nothing(store, tolerance):
    embeddings = random_embeddings(12)
    fill(store, Embeddings(embeddings.single[:6], embeddings.multi[:6]))
    for kind in ("single", "multi"):
        with open(store.folder / f"000000.{kind}", "ab") as file:
            file.write(b"cut off in the middle of a row")

    again = LocalStore(store.folder, store.dtype)
    assert again.size() == 6
    fill(again, Embeddings(embeddings.single[6:], embeddings.multi[6:]), 6)
    for reader in (store, again):
        for vectors, expected in zip(reader.multi(page_ids(0, 12)), embeddings.multi, strict=True):
            np.testing.assert_allclose(vectors, expected, atol=tolerance)
        np.testing.assert_allclose(reader.single(page_ids(0, 12))[0], embeddings.single, atol=1e-3)


def test_two_writers_wait_for_each_other(store, tolerance):
    embeddings = random_embeddings(80)

    def write(start):
        mine = LocalStore(store.folder, store.dtype)
        for i in range(start, start + 40, 4):
            fill(mine, Embeddings(embeddings.single[i : i + 4], embeddings.multi[i : i + 4]), i)

    store.folder.mkdir(parents=True)
    threads = [threading.Thread(target=write, args=(start,)) for start in (0, 40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert store.size() == 80
    for vectors, expected in zip(store.multi(page_ids(0, 80)), embeddings.multi, strict=True):
        np.testing.assert_allclose(vectors, expected, atol=tolerance)


def test_an_empty_store_answers(store):
    assert store.size() == 0 and store.dims() == (None, None)
    assert len(store.search(Query.from_embeddings(random_embeddings(1)), k=3)[0]) == 0
    store.remove(["a" * 24])
    store.drop()


def test_int8_takes_half_the_room(tmp_path):
    sizes = {}
    for dtype in ("float16", "int8"):
        random = np.random.default_rng(0)
        multi = [unit(random.standard_normal((700, 128), dtype=np.float32))]
        store = LocalStore(tmp_path / dtype, dtype)
        store.add(["a" * 24], ["a" * 24], Embeddings(np.ones((1, SINGLE), np.float32), multi))
        sizes[dtype] = (store.folder / "000000.multi").stat().st_size
        cosines = (unit(store.multi(["a" * 24])[0]) * multi[0]).sum(axis=1)
        assert cosines.min() > {"float16": 0.99999, "int8": 0.9995}[dtype]
    assert sizes == {"float16": 700 * 256, "int8": 700 * 130}


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_a_file_that_was_cut_off_is_named_and_never_added_to(store, tolerance, kind):
    embeddings = random_embeddings(12)
    ids = fill(store, embeddings)
    path = store.folder / f"000000.{kind}"
    os.truncate(path, path.stat().st_size // 2)

    again = LocalStore(store.folder, store.dtype)
    for use in (
        again.ids,
        lambda: again.search(Query.from_embeddings(random_embeddings(1))),
        lambda: fill(again, random_embeddings(3), 50),
    ):
        with pytest.raises(DamagedIndexError, match=f"{path}.*compute_similarity"):
            use()
    damaged = again.damaged()
    assert 0 < len(damaged) < 12 and damaged == ids[-len(damaged) :]

    again.repair()
    assert again.missing(ids) == damaged and again.damaged() == []
    lost = [ids.index(one) for one in damaged]
    again.add(damaged, damaged, Embeddings(embeddings.single[lost], [embeddings.multi[i] for i in lost]))
    for reader in (store, again):
        for vectors, expected in zip(reader.multi(ids), embeddings.multi, strict=True):
            np.testing.assert_allclose(vectors, expected, atol=tolerance)


def test_a_deleted_file_loses_its_own_pages_alone(store, caplog, monkeypatch):
    monkeypatch.setattr(local, "_PAGES_PER_SEGMENT", 4)
    for start in (0, 4, 8):
        fill(store, random_embeddings(4, seed=start), start)
    (store.folder / "000001.multi").unlink()
    again = LocalStore(store.folder, store.dtype)
    again.remove(page_ids(0, 1))  # a page that is whole can go
    again.repair()
    assert "000001.multi" in caplog.text and "4 pages" in caplog.text
    assert sorted(again.ids()[0]) == page_ids(1, 4) + page_ids(8, 12)


def test_changed_vectors_are_found_by_their_checksums(store, monkeypatch):
    monkeypatch.setattr(local, "_PAGES_PER_SEGMENT", 10)
    monkeypatch.setattr(stored_pages, "_AT_ONCE", 400)
    for start in (0, 10):
        fill(store, random_embeddings(10, seed=start), start)
    assert store.damaged() == []
    before = store.multi(page_ids(8, 10))
    store.remove(page_ids(0, 8))  # which moves two pages
    for vectors, expected in zip(store.multi(page_ids(8, 10)), before, strict=True):
        np.testing.assert_array_equal(vectors, expected)
    assert store.damaged() == []

    # Where a page lies in the files is nobody's business but the store's.
    _, page, *_ = store._catalog().places[3].tolist()
    with open(store.folder / "000001.single", "r+b") as file:
        file.seek(2 * SINGLE * page + 5)
        file.write(b"?")
    assert store.damaged() == [store.ids()[0][3]]


def test_an_index_without_checksums_opens_and_grows(store):
    fill(store, random_embeddings(5))
    with sqlite3.connect(store.folder / "pages.sqlite") as database:
        database.execute("ALTER TABLE pages DROP COLUMN checksum")
    database.close()

    old = LocalStore(store.folder, store.dtype)
    assert old.size() == 5 and old.damaged() == []
    fill(old, random_embeddings(3), 5)
    assert sorted(old.ids()[0]) == page_ids(0, 8) and old.damaged() == []
