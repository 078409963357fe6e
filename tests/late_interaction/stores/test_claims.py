"""Several processes write into one local store at once: nothing is lost, whoever is killed, and whenever."""

import os
import signal
import sqlite3
import subprocess
import sys
import time

import numpy as np
import pytest
from jina_embeddings_v4.engine.embeddings import Embeddings
from jina_embeddings_v4.late_interaction.query import Query
from jina_embeddings_v4.late_interaction.stores import claims, local
from jina_embeddings_v4.late_interaction.stores.local import LocalStore

from .test_local import fill, page_ids, random_embeddings


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "index")


def during_append(monkeypatch, store, act):
    """Lets something happen once, after a writer has claimed a segment and before it inserts its rows."""
    append, acts = store._files.append, [act]

    def appending(*args):
        result = append(*args)
        if acts:
            acts.pop()()
        return result

    monkeypatch.setattr(store._files, "append", appending)


def is_whole(store, embeddings, numbers):
    """Compares all that a new reader finds with what was written."""
    reader = LocalStore(store.folder)
    ids = [page_ids(i, i + 1)[0] for i in numbers]
    assert sorted(reader.ids()[0].tolist()) == ids and reader.size() == len(ids)
    for i, vectors in zip(numbers, reader.multi(ids), strict=True):
        np.testing.assert_allclose(vectors, embeddings.multi[i], atol=1e-3)
    np.testing.assert_allclose(reader.single(ids)[0], embeddings.single[list(numbers)], atol=1e-3)
    assert reader.damaged() == []


# A program that adds ten pages at a time, and says so after each.
WRITER = """
import sys, time
sys.path[:0] = [{tests!r}]
from jina_embeddings_v4.engine.embeddings import Embeddings
from jina_embeddings_v4.late_interaction.stores import local
from test_local import page_ids, random_embeddings

local._PAGES_PER_SEGMENT = 40
store, embeddings = local.LocalStore({folder!r}), random_embeddings({count})
for start in range({start}, {stop}, 10):
    part = slice(start, start + 10)
    ids = page_ids(start, start + 10)
    store.add(ids, ids, Embeddings(embeddings.single[part], embeddings.multi[part]))
    print(start, flush=True)
    # So long that there is something to see meanwhile, however fast the machine is.
    time.sleep(0.03)
"""


def test_processes_write_at_once_and_one_is_killed(store, monkeypatch):
    monkeypatch.setattr(local, "_PAGES_PER_SEGMENT", 40)
    embeddings = random_embeddings(900)
    store.create()
    writers = []
    for start in (0, 300, 600):
        program = WRITER.format(
            tests=os.path.dirname(__file__), folder=str(store.folder), count=900, start=start, stop=start + 300
        )
        writers.append(subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True))
    said = [int(writers[1].stdout.readline()) for _ in range(3)]
    # It is stopped at any moment, and dies there.
    writers[1].send_signal(signal.SIGSTOP)
    writers[1].send_signal(signal.SIGKILL)
    said += [int(line) for line in writers[1].stdout]

    reader, query = LocalStore(store.folder), Query.from_embeddings(random_embeddings(1, seed=1))
    sizes = set()
    while writers[0].poll() is None or writers[2].poll() is None:
        found, _, scores = reader.search(query)
        pages = [int(one, 16) for one in found]
        expected = [sum((embeddings.multi[i] @ token).max() for token in query.multi) for i in pages[:3]]
        np.testing.assert_allclose(scores[:3], expected, atol=1e-3)
        assert len(set(pages)) == len(pages) and len(pages) % 10 == 0
        sizes.add(len(pages))
        time.sleep(0.05)
    assert [writer.wait() for writer in writers] == [0, -signal.SIGKILL, 0] and len(sizes) > 2

    missing = reader.missing(page_ids(0, 900))
    first = int(missing[0], 16)
    # What the killed process said it had added is there. What it did not say may be.
    assert missing == page_ids(first, 600) and first - 300 in (10 * len(said), 10 * len(said) + 10)
    for start in range(first, 600, 10):
        part = slice(start, start + 10)
        fill(store, Embeddings(embeddings.single[part], embeddings.multi[part]), start)
    is_whole(store, embeddings, range(900))


def test_two_writers_fill_two_files_and_a_reader_follows_both(store, monkeypatch):
    embeddings, other, reader = random_embeddings(40), LocalStore(store.folder), LocalStore(store.folder)

    def parts(start):
        part = slice(start, start + 10)
        return Embeddings(embeddings.single[part], embeddings.multi[part]), start

    fill(store, *parts(0))
    assert reader.size() == len(reader.ids()[0]) == 10
    during_append(monkeypatch, store, lambda: fill(other, *parts(10)))
    fill(store, *parts(20))
    assert store._files.segments() == [0, 1]
    # Of the first file, the reader knows a part. The second is new to it.
    assert reader.ids()[0].tolist() == page_ids(0, 10) + page_ids(20, 30) + page_ids(10, 20)
    places = reader._catalog().places[:, :2].tolist()
    assert places == sorted(places)
    fill(store, *parts(30))
    assert reader.ids()[0].tolist() == page_ids(0, 10) + page_ids(20, 40) + page_ids(10, 20)
    is_whole(store, embeddings, range(40))


@pytest.mark.parametrize("removed, files", [(2, [0, 1]), (38, [1])])
def test_a_writer_that_is_taken_for_dead_writes_once_more(store, monkeypatch, caplog, removed, files):
    embeddings, other = random_embeddings(50), LocalStore(store.folder)
    first = Embeddings(embeddings.single[:40], embeddings.multi[:40])
    fill(store, first)

    def compact():
        with monkeypatch.context() as patch:
            patch.setattr(claims, "ABANDONED_AFTER", -1)
            other.remove(page_ids(0, removed))

    # Compaction leaves the pages in its file, or moves them and deletes the file.
    during_append(monkeypatch, store, compact)
    fill(store, Embeddings(embeddings.single[40:], embeddings.multi[40:]), 40)
    assert "once more" in caplog.text and store._files.segments() == files
    is_whole(store, embeddings, range(removed, 50))
    fill(store, first)
    is_whole(store, embeddings, range(50))


def test_compaction_leaves_a_file_that_another_process_fills(store, monkeypatch):
    embeddings, other = random_embeddings(30), LocalStore(store.folder)
    fill(store, Embeddings(embeddings.single[:10], embeddings.multi[:10]))
    during_append(monkeypatch, store, lambda: other.remove(page_ids(0, 9)))
    fill(store, Embeddings(embeddings.single[10:], embeddings.multi[10:]), 10)
    assert store._files.segments() == [0]
    is_whole(store, embeddings, range(9, 30))


def test_the_claim_of_a_killed_writer_closes_its_file_for_good(store, monkeypatch):
    embeddings = random_embeddings(30)
    fill(store, Embeddings(embeddings.single[:10], embeddings.multi[:10]))
    with store._writing() as database:
        claims.claim_segment(database, {})  # and then it dies
    fill(store, Embeddings(embeddings.single[10:20], embeddings.multi[10:20]), 10)
    assert store._files.segments() == [0, 1]
    monkeypatch.setattr(claims, "ABANDONED_AFTER", -1)
    store.remove(page_ids(0, 1))
    fill(store, Embeddings(embeddings.single[20:], embeddings.multi[20:]), 20)
    assert store._files.segments() == [0, 1]
    assert store._catalog().places[:, 0].tolist() == [0] * 9 + [1] * 20
    is_whole(store, embeddings, range(1, 30))
    store.remove(page_ids(1, 8))
    assert store._files.segments() == [1]
    is_whole(store, embeddings, range(8, 30))


def test_a_writer_that_fails_gives_its_file_back(store, monkeypatch):
    embeddings = random_embeddings(10)

    def fail():
        raise OSError("No space left on device")

    during_append(monkeypatch, store, fail)
    with pytest.raises(OSError, match="No space"):
        fill(store, embeddings)
    assert store.size() == 0
    fill(store, embeddings)
    assert store._files.segments() == [0]
    is_whole(store, embeddings, range(10))


def test_first_pages_of_two_models_do_not_mix(store, monkeypatch):
    other = LocalStore(store.folder)
    wider = Embeddings(np.ones((1, 32), np.float32), random_embeddings(1).multi)
    during_append(monkeypatch, store, lambda: other.add(["a" * 24], ["a" * 24], wider))
    with pytest.raises(ValueError, match="single vectors of 32 dimensions"):
        fill(store, random_embeddings(3))
    assert store.ids()[0].tolist() == ["a" * 24] and other.damaged() == []


def test_an_index_of_an_older_version_grows_in_a_new_file(store):
    embeddings = random_embeddings(20)
    fill(store, Embeddings(embeddings.single[:10], embeddings.multi[:10]))
    with sqlite3.connect(store.folder / "pages.sqlite") as database:
        database.execute("DROP TABLE open_segments")
    database.close()
    fill(LocalStore(store.folder), Embeddings(embeddings.single[10:], embeddings.multi[10:]), 10)
    assert store._files.segments() == [0, 1]
    is_whole(store, embeddings, range(20))
