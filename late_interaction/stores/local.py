"""A store in a folder: flat files of vectors, and a SQLite table of the place of each page in them.

These rules keep an index intact when a process is killed:

- vectors are only appended, and are flushed to the disk before the row that refers to them is committed;
- a file is deleted after the last row that refers to it, and its number is not used again;
- one process writes at a time, the one that holds SQLite's lock.

So readers find all committed pages. What a killed process appended without a commit is unused space.
"""

import contextlib
import functools
import logging
import os
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .base import ID_DTYPE, VectorStore
from .page_table import (
    SCHEMA,
    Catalog,
    check_dims,
    columns,
    insert_rows,
    read_dims,
    read_state,
    segment_ends,
    write_state,
)
from .ranking import maxsim_scores, single_scores
from .stored_pages import next_rows, read_pages
from .vector_files import VectorFiles

if TYPE_CHECKING:
    from ...engine.embeddings import Embeddings
    from ..query import Query

# The pages in one pair of files. With full pages, the file of multi-vectors has 800 MB.
_PAGES_PER_SEGMENT = 4096

logger = logging.getLogger(__name__)


class DamagedIndexError(RuntimeError):
    """Files of an index are missing, or shorter than its table says."""


def _retry_if_files_moved(read):
    """Reads again if a file is missing: another process moved its pages after this one had read the table."""

    @functools.wraps(read)
    def read_twice(self, *args, **kwargs):
        try:
            return read(self, *args, **kwargs)
        except FileNotFoundError:
            self._cached = None
            self._files.refresh()
            return read(self, *args, **kwargs)

    return read_twice


class LocalStore(VectorStore):
    """A store in a folder.

    Args:
        folder: the folder
        dtype ("float16"): the multi-vectors' dtype, ``"float16"``, or ``"int8"`` at half the size
    """

    def __init__(self, folder: str | os.PathLike, dtype: str = "float16") -> None:
        self.folder = Path(folder)
        self.dtype = dtype
        self._cached = None
        self._files = VectorFiles(folder, dtype)
        self._catalog_lock = threading.Lock()

    def create(self) -> None:
        """Creates the folder, unless it exists, and the table."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._writing():
            pass

    def check(self) -> None:
        if not self._database.exists():
            raise FileNotFoundError(
                f"The vectors of this index are gone from {self.folder}: delete its run, and index the pages again"
            )

    def size(self) -> int:
        with self._reading() as database:
            return database.execute("SELECT COUNT(*) FROM pages").fetchone()[0]

    def dims(self) -> tuple[int | None, int | None]:
        with self._reading() as database:
            return read_dims(database)

    def ids(self) -> tuple[np.ndarray, np.ndarray]:
        catalog = self._catalog()
        return catalog.ids, catalog.sample_ids

    list_ids = ids

    def missing(self, ids: Sequence[str]) -> list[str]:
        return [page_id for page_id, row in zip(ids, self._catalog().rows(ids), strict=True) if row < 0]

    def add(self, ids: Sequence[str], sample_ids: Sequence[str], embeddings: "Embeddings") -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._writing() as database:
            dims = {"single_dim": embeddings.single.shape[1], "multi_dim": embeddings.multi[0].shape[1]}
            state = {"segment": 0, "revision": 0} | dims | read_state(database)
            check_dims({name: state[name] for name in dims}, dims)
            self._check_lengths(database, state)

            if any(database.execute("SELECT 1 FROM pages WHERE id = ?", (page_id,)).fetchone() for page_id in ids):
                state["rewritten"] = state.get("rewritten", 0) + 1

            self._insert(database, state, ids, sample_ids, embeddings.single, embeddings.multi)
            write_state(database, state)

    def remove(self, ids: Sequence[str]) -> None:
        if not self._database.exists():
            return

        with self._writing() as database:
            state = read_state(database)
            if "single_dim" not in state:
                return

            database.executemany("DELETE FROM pages WHERE id = ?", [(page_id,) for page_id in ids])
            state["rewritten"] = state.get("rewritten", 0) + 1
            write_state(database, state)

        # Each in a transaction of its own, so that other writers wait for one segment at most.
        for segment in self._files.segments():
            self._compact(segment)

    def repair(self) -> None:
        with self._reading() as database:
            if not self._damage(database, read_state(database)):
                return

        with self._writing() as database:
            state = read_state(database)
            damage = self._damage(database, state)
            for _, segment, lost in damage:
                database.executemany("DELETE FROM pages WHERE id = ?", [(page_id,) for page_id in lost])
                # New pages must not take these places: another process may still read by its copy of the old table.
                state["segment"] = max(state["segment"], segment + 1)
            state["rewritten"] = state.get("rewritten", 0) + 1
            write_state(database, state)
        for path, _, lost in damage:
            logger.warning(
                "%s is missing or was cut off: the %d pages that it lost will be embedded again", path, len(lost)
            )

    def damaged(self) -> list[str]:
        with self._reading() as database:
            damaged = {page_id for _, _, lost in self._damage(database, read_state(database)) for page_id in lost}
            segments = [segment for segment, _, _ in segment_ends(database)]
            checked = "checksum" in columns(database)
        for segment in segments if checked else []:
            # One segment per transaction, since writers wait for it. Until it ends, none of its files is deleted.
            with self._reading() as database:
                state = read_state(database)
                self._files.refresh()
                for page_id, checksum, *place in database.execute(
                    "SELECT id, checksum, segment, page, start, tokens FROM pages "
                    "WHERE segment = ? AND checksum IS NOT NULL ORDER BY page",
                    (segment,),
                ):
                    if page_id not in damaged and checksum != self._files.checksum(
                        place, state["single_dim"], state["multi_dim"]
                    ):
                        damaged.add(page_id)
        return sorted(damaged)

    @_retry_if_files_moved
    def single(self, ids: Sequence[str]) -> tuple[np.ndarray, list[str]]:
        catalog = self._catalog()
        rows = catalog.rows_of_present(ids)
        return self._files.read_single(catalog.places[rows], self.dims()[0] or 0), catalog.sample_ids[rows].tolist()

    @_retry_if_files_moved
    def multi(self, ids: Sequence[str]) -> list[np.ndarray]:
        catalog = self._catalog()
        return self._files.read_multi(catalog.places[catalog.rows_of_present(ids)], self.dims()[1] or 0)

    @_retry_if_files_moved
    def search(
        self,
        query: "Query",
        k: int | None = None,
        candidates: int | None = None,
        ids: Sequence[str] | None = None,
        reverse: bool = False,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        catalog = self._catalog()
        rows = np.arange(len(catalog.ids))
        if ids is not None:
            rows = catalog.rows(ids)
            rows = np.sort(rows[rows >= 0])

        k = len(rows) if k is None else k
        if query.multi is None:
            assert query.single is not None
            scores = single_scores(self._files, query.single, catalog.places[rows])
        else:
            if candidates is not None and not reverse and query.single is not None and max(candidates, k) < len(rows):
                scores = single_scores(self._files, query.single, catalog.places[rows])
                # Sorted, so that the files are read sequentially.
                rows = rows[np.sort(np.argpartition(-scores, max(candidates, k) - 1)[: max(candidates, k)])]
            scores = maxsim_scores(self._files, query.multi, catalog.places[rows])

        best = np.argsort(scores if reverse else -scores, kind="stable")[:k]
        return catalog.ids[rows[best]], catalog.sample_ids[rows[best]], scores[best]

    def drop(self) -> None:
        """Deletes the index's files, and the folder if it is empty then."""
        self._files.refresh()
        self._cached = None
        for pattern in ("*.single", "*.multi", "pages.sqlite*"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _insert(self, database, state, ids, sample_ids, singles, multi):
        """Appends pages to the current segment, and to new ones when it is full."""
        for start in range(0, len(ids), _PAGES_PER_SEGMENT):
            part = slice(start, start + _PAGES_PER_SEGMENT)
            if self._files.pages_in(state["segment"], state["single_dim"]) >= _PAGES_PER_SEGMENT:
                state["segment"] += 1
            places, checksums = self._files.append(state["segment"], singles[part], multi[part])
            insert_rows(database, zip(ids[part], sample_ids[part], places, checksums, strict=True))

    def _compact(self, segment):
        """Moves the pages out of a segment that is more than half unused, and deletes its files.

        Killed, it leaves unused space, which the next removal of pages finds.
        """
        with self._writing() as database:
            state = read_state(database)
            pages = self._files.pages_in(segment, state["single_dim"])
            (used,) = database.execute("SELECT COUNT(*) FROM pages WHERE segment = ?", (segment,)).fetchone()
            if used >= pages / 2 or (segment == state["segment"] and pages < _PAGES_PER_SEGMENT):
                return
            # The vectors of damaged files cannot be moved.
            if self._damage(database, state):
                return

            if segment == state["segment"]:
                state["segment"] += 1
            self._move(database, state, segment)
            state["rewritten"] = state.get("rewritten", 0) + 1
            write_state(database, state)
        # After the commit, so that no row refers to them.
        self._files.delete(segment)

    def _move(self, database, state, segment):
        """Copies a segment's pages, in their stored form, to the current segment, some MB at a time."""
        self._files.refresh()
        while rows := next_rows(database, self._files, state, segment):
            pages = read_pages(self._files, state, segment, rows)
            if self._files.pages_in(state["segment"], state["single_dim"]) >= _PAGES_PER_SEGMENT:
                state["segment"] += 1
            places = self._files.append_stored(state["segment"], pages.singles, pages.tokens, pages.lengths)
            insert_rows(database, zip(pages.ids, pages.sample_ids, places, pages.checksums, strict=True))

    def _damage(self, database, state):
        """Compares the files' lengths with the table.

        Returns:
            a list of tuples of a damaged file, its segment, and the ids of the pages that it lost
        """
        damage = []
        for segment, page, end in segment_ends(database):
            singles, tokens = self._files.rows(segment, state["single_dim"], state["multi_dim"])
            if page < singles and end <= tokens:
                continue

            lost = database.execute(
                "SELECT id FROM pages WHERE segment = ? AND (page >= ? OR start + tokens > ?)",
                (segment, singles, tokens),
            )
            path = self._files.path(segment, "single" if page >= singles else "multi")
            damage.append((path, segment, [page_id for (page_id,) in lost]))
        return damage

    def _check_lengths(self, database, state):
        damage = self._damage(database, state)
        if damage:
            raise DamagedIndexError(
                f"{damage[0][0]} is missing or was cut off, and the vectors of {len(damage[0][2])} pages are lost"
                + (f"; {len(damage) - 1} more files are damaged" if len(damage) > 1 else "")
                + ". Repeat the call of compute_similarity() that made the index, or call index.add_samples(dataset): "
                "either embeds the lost pages again, and keeps the others"
            )

    #
    # The table
    #

    @property
    def _database(self):
        return self.folder / "pages.sqlite"

    def _catalog(self):
        with self._catalog_lock, self._reading() as database:
            state = read_state(database)
            revision, rewritten = state.get("revision", 0), state.get("rewritten", 0)
            catalog = self._cached
            if catalog is None or catalog.revision != revision:
                # Until this transaction ends, no file that the table refers to is deleted.
                self._check_lengths(database, state)
                if catalog is None or catalog.rewritten != rewritten:
                    catalog = Catalog(0, 0, np.empty(0, ID_DTYPE), np.empty(0, ID_DTYPE), np.empty((0, 4), np.int64))

                last = catalog.places[-1, :2].tolist() if len(catalog.ids) else [-1, -1]
                rows = database.execute(
                    "SELECT id, sample_id, segment, page, start, tokens FROM pages "
                    "WHERE (segment, page) > (?, ?) ORDER BY segment, page",
                    last,
                ).fetchall()
                ids, sample_ids, *places = zip(*rows, strict=True) if rows else ((),) * 6
                # The files may have grown.
                self._files.refresh()
                self._cached = catalog = Catalog(
                    revision,
                    rewritten,
                    np.append(catalog.ids, np.array(ids, dtype=ID_DTYPE)),
                    np.append(catalog.sample_ids, np.array(sample_ids, dtype=ID_DTYPE)),
                    np.append(catalog.places, np.array(places, dtype=np.int64).T.reshape(-1, 4), axis=0),
                )
        return catalog

    @contextlib.contextmanager
    def _reading(self):
        # A connection for each use: the App's server reads from several threads.
        path = self._database if self._database.exists() else ":memory:"
        with contextlib.closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as database:
            # One transaction, so that all reads see one state.
            database.execute("BEGIN")
            if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'state'").fetchone():
                yield database
                return

        # There is no index yet, or creating it failed, for instance on a full disk.
        with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
            for statement in SCHEMA:
                database.execute(statement)
            yield database

    @contextlib.contextmanager
    def _writing(self):
        with contextlib.closing(sqlite3.connect(self._database, timeout=600, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                for statement in SCHEMA:
                    database.execute(statement)
                if "checksum" not in columns(database):
                    database.execute("ALTER TABLE pages ADD COLUMN checksum INTEGER")
                yield database
            except BaseException:
                # On some errors, SQLite has rolled back itself.
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")
