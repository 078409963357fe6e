"""Pages that are copied are the same ones, also while others change the index."""

import numpy as np
import pytest
from jina_embeddings_v4.engine.embeddings import Embeddings
from jina_embeddings_v4.late_interaction.stores import local, stored_pages
from jina_embeddings_v4.late_interaction.stores.copying import copy_pages
from jina_embeddings_v4.late_interaction.stores.local import LocalStore


def random_embeddings(pages, dim=8):
    random = np.random.default_rng(pages)
    multi = [random.standard_normal((length, dim)).astype(np.float32) for length in random.integers(1, 30, size=pages)]
    return Embeddings(random.standard_normal((pages, 16)).astype(np.float32), multi)


def page_ids(numbers):
    return [f"{i:024x}" for i in numbers]


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A store of four segments, of which some pages are read at a time."""
    monkeypatch.setattr(local, "_PAGES_PER_SEGMENT", 10)
    monkeypatch.setattr(stored_pages, "_AT_ONCE", 600)
    store = LocalStore(tmp_path / "source")
    embeddings = random_embeddings(40)
    for start in range(0, 40, 10):
        part = slice(start, start + 10)
        ids = page_ids(range(start, start + 10))
        store.add(ids, ids, Embeddings(embeddings.single[part], embeddings.multi[part]))
    return store


def copy(source, target, choose=lambda ids, sample_ids: list(zip(ids, sample_ids, strict=True))):
    target.create()
    return copy_pages(source, target, choose)


def assert_same(target, source, ids):
    assert sorted(target.ids()[0]) == ids and target.damaged() == []
    for found, expected in zip(target.multi(ids), source.multi(ids), strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(target.single(ids)[0], source.single(ids)[0])


def test_all_pages_under_their_new_ids(source, tmp_path):
    target = LocalStore(tmp_path / "target")

    def choose(ids, sample_ids):
        # One is left out.
        return [None if int(page_id, 16) == 7 else (f"{int(page_id, 16) + 1000:024x}", "a" * 24) for page_id in ids]

    counts = [count for count, _ in copy(source, target, choose)]
    assert sum(counts) == 40 and len(counts) > 8
    kept = [i for i in range(40) if i != 7]
    ids = page_ids(range(1000, 1040))
    assert sorted(target.ids()[0]) == [ids[i] for i in kept] and set(target.ids()[1]) == {"a" * 24}
    for i, found in zip(kept, target.multi([ids[i] for i in kept]), strict=True):
        np.testing.assert_array_equal(found, source.multi(page_ids([i]))[0])


def test_pages_that_are_moved_meanwhile_are_not_missed(source, tmp_path, monkeypatch):
    # To where the copy has been already.
    monkeypatch.setattr(local, "_PAGES_PER_SEGMENT", 100)
    target, kept = LocalStore(tmp_path / "target"), [i for i in range(40) if i < 10 or i % 10 > 6]
    append_stored = local.VectorFiles.append_stored
    copied = 0
    for count, _ in copy(source, target):
        before, copied = copied, copied + count
        if before <= 10 < copied:
            other = LocalStore(source.folder)
            with monkeypatch.context() as patch:

                def append_to_the_first(self, segment, *rows, **options):
                    return append_stored(self, 0, *rows, **options)

                patch.setattr(local.VectorFiles, "append_stored", append_to_the_first)
                other.remove(page_ids(i for i in range(40) if i not in kept))
            assert {path.stem for path in source.folder.glob("*.multi")} == {"000000"}
    target.remove(page_ids(i for i in range(40) if i not in kept))
    assert_same(target, source, page_ids(kept))


def test_nothing_is_copied_twice(source, tmp_path):
    target = LocalStore(tmp_path / "target")
    for _ in range(2):
        list(copy(source, target))
    assert_same(target, source, page_ids(range(40)))
    sizes = [sum(path.stat().st_size for path in store.folder.glob("*.multi")) for store in (source, target)]
    assert sizes[0] == sizes[1]


def test_vectors_of_other_dimensions_are_refused(source, tmp_path):
    target = LocalStore(tmp_path / "target")
    target.create()
    target.add(page_ids([99]), page_ids([99]), random_embeddings(1, dim=4))
    with pytest.raises(ValueError, match="multi-vectors of 4, and was given 16 and 8"):
        list(copy(source, target))
