"""The vectors of an index in a folder: flat files, and a SQLite table of what is where in them.

The contract that keeps a killed process from harming an index:

- vectors are only appended, and are on the disk before the row that tells of them is committed;
- a file is deleted once no row speaks of it, and its number does not come again;
- one process writes at a time, the one that holds SQLite's lock.

So whoever reads finds all that is committed, and what a killed process left behind it is room, never a page.
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

from .base import VectorStore
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
from .vector_files import VectorFiles

if TYPE_CHECKING:
    from ...engine.encoder import Embeddings
    from ..query import Query

# Bytes of multi-vectors that are moved at a time.
_MOVED_AT_ONCE = 2**25

# The pages of one pair of files. Of full pages, the larger has 800 MB.
_PAGES_PER_SEGMENT = 4096

logger = logging.getLogger(__name__)


class DamagedIndexError(RuntimeError):
    """Files of an index are gone, or shorter than its table says."""


def _retry_if_files_moved(read):
    """Reads once more where a file is gone: another process moved its pages after the table was read."""

    @functools.wraps(read)
    def reading(self, *args, **kwargs):
        try:
            return read(self, *args, **kwargs)
        except FileNotFoundError:
            self._cached = None
            self._files.refresh()
            return read(self, *args, **kwargs)

    return reading


class LocalStore(VectorStore):
    """A store in a folder.

    Args:
        folder: the folder
        dtype ("float16"): ``"float16"``, or ``"int8"`` for multi-vectors of half the size
    """

    def __init__(self, folder: str | os.PathLike, dtype: str = "float16") -> None:
        self.folder = Path(folder)
        self.dtype = dtype
        self._cached = None
        self._files = VectorFiles(folder, dtype)
        self._loading = threading.Lock()

    def create(self) -> None:
        """Makes the folder, unless it is there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._writing():
            pass

    def check(self) -> None:
        if not self._database.exists():
            raise FileNotFoundError(
                f"The vectors of this index are gone from {self.folder}: delete its run, and index the pages anew"
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
            # What is lost cannot be moved.
            empty = [] if self._damage(database, state) else self._empty(database, state)
            write_state(database, state)

        # Only now that no row speaks of them, and none will.
        for segment in empty:
            self._files.delete(segment)

    def repair(self) -> None:
        with self._reading() as database:
            if not self._damage(database, read_state(database)):
                return

        with self._writing() as database:
            state = read_state(database)
            damage = self._damage(database, state)
            for _, segment, lost in damage:
                database.executemany("DELETE FROM pages WHERE id = ?", [(page_id,) for page_id in lost])
                # A process that still reads by the table of before must not find other pages in these places.
                state["segment"] = max(state["segment"], segment + 1)
            state["rewritten"] = state.get("rewritten", 0) + 1
            write_state(database, state)
        for path, _, lost in damage:
            logger.warning(
                "%s is gone or was cut off: the %d pages that it lost will be embedded anew", path, len(lost)
            )

    def damaged(self) -> list[str]:
        with self._reading() as database:
            damaged = {page_id for _, _, lost in self._damage(database, read_state(database)) for page_id in lost}
            segments = [segment for segment, _, _ in segment_ends(database)]
            checked = "checksum" in columns(database)
        for segment in segments if checked else []:
            # One at a time, since who writes waits for it. No file that the table tells of goes while this is open.
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
                # In the order of the files, which are read from one end to the other.
                rows = rows[np.sort(np.argpartition(-scores, max(candidates, k) - 1)[: max(candidates, k)])]
            scores = maxsim_scores(self._files, query.multi, catalog.places[rows])

        best = np.argsort(scores if reverse else -scores, kind="stable")[:k]
        return catalog.ids[rows[best]], catalog.sample_ids[rows[best]], scores[best]

    def drop(self) -> None:
        """Deletes the index's files, and the folder, if nothing else is in it."""
        self._files.refresh()
        self._cached = None
        for pattern in ("*.single", "*.multi", "pages.sqlite*"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _insert(self, database, state, ids, sample_ids, singles, multi):
        """Writes pages to the segment that is being filled, and to new ones."""
        for start in range(0, len(ids), _PAGES_PER_SEGMENT):
            part = slice(start, start + _PAGES_PER_SEGMENT)
            if self._files.pages_in(state["segment"], state["single_dim"]) >= _PAGES_PER_SEGMENT:
                state["segment"] += 1
            places, checksums = self._files.append(state["segment"], singles[part], multi[part])
            insert_rows(database, zip(ids[part], sample_ids[part], places, checksums, strict=True))

    def _empty(self, database, state):
        """Moves the pages of those files that are mostly room, and returns the segments that have none left."""
        live = dict(database.execute("SELECT segment, COUNT(*) FROM pages GROUP BY segment"))
        empty = []
        self._files.refresh()
        for segment in self._files.segments():
            pages = self._files.pages_in(segment, state["single_dim"])
            if live.get(segment, 0) >= pages / 2 or (segment == state["segment"] and pages < _PAGES_PER_SEGMENT):
                continue  # well used, or still being filled
            if segment == state["segment"]:
                state["segment"] += 1

            self._move(database, state, segment)
            empty.append(segment)
        return empty

    def _move(self, database, state, segment):
        """Moves a segment's pages, as they lie in the files, to the one that is being filled, some MB at a time."""
        singles = self._files.singles(segment, state["single_dim"])
        tokens = self._files.tokens(segment, state["multi_dim"])
        rows = database.execute(
            "SELECT id, sample_id, checksum, page, start, tokens FROM pages WHERE segment = ? ORDER BY page", (segment,)
        ).fetchall()
        at_once = max(1, _MOVED_AT_ONCE // (tokens.itemsize * tokens.shape[1]))
        at = 0
        while at < len(rows):
            stop, count = at, 0
            while stop < len(rows) and (stop == at or count + rows[stop][5] <= at_once):
                count += rows[stop][5]
                stop += 1
            ids, sample_ids, checksums, pages, starts, lengths = zip(*rows[at:stop], strict=True)
            if self._files.pages_in(state["segment"], state["single_dim"]) >= _PAGES_PER_SEGMENT:
                state["segment"] += 1
            moved = np.concatenate([tokens[start : start + n] for start, n in zip(starts, lengths, strict=True)])
            places = self._files.append_stored(state["segment"], singles[list(pages)], moved, lengths)
            insert_rows(database, zip(ids, sample_ids, places, checksums, strict=True))
            at = stop

    def _damage(self, database, state):
        """Compares the files' lengths with the table: a list of tuples of a file, its segment, and the ids it lost."""
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
                f"{damage[0][0]} is gone or was cut off, and with it the vectors of {len(damage[0][2])} pages"
                + (f"; {len(damage) - 1} more files are damaged" if len(damage) > 1 else "")
                + ". Call compute_similarity() again, as when the index was made, or index.add_samples(dataset): "
                "either embeds the lost pages anew, and keeps the others"
            )

    #
    # The table
    #

    @property
    def _database(self):
        return self.folder / "pages.sqlite"

    def _catalog(self):
        with self._loading, self._reading() as database:
            state = read_state(database)
            revision, rewritten = state.get("revision", 0), state.get("rewritten", 0)
            known = self._cached
            if known is None or known.revision != revision:
                # While this transaction is open, no file that the table tells of goes.
                self._check_lengths(database, state)
                if known is None or known.rewritten != rewritten:
                    known = Catalog(0, 0, np.empty(0, "U24"), np.empty(0, "U24"), np.empty((0, 4), np.int64))

                last = known.places[-1, :2].tolist() if len(known.ids) else [-1, -1]
                rows = database.execute(
                    "SELECT id, sample_id, segment, page, start, tokens FROM pages "
                    "WHERE (segment, page) > (?, ?) ORDER BY segment, page",
                    last,
                ).fetchall()
                ids, sample_ids, *places = zip(*rows, strict=True) if rows else ((),) * 6
                # The files have grown.
                self._files.refresh()
                self._cached = known = Catalog(
                    revision,
                    rewritten,
                    np.append(known.ids, np.array(ids, dtype="U24")),
                    np.append(known.sample_ids, np.array(sample_ids, dtype="U24")),
                    np.append(known.places, np.array(places, dtype=np.int64).T.reshape(-1, 4), axis=0),
                )
        return known

    @contextlib.contextmanager
    def _reading(self):
        # A connection for each use: the App's server asks from several threads.
        path = self._database if self._database.exists() else ":memory:"
        with contextlib.closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as database:
            # All that is read is of one moment.
            database.execute("BEGIN")
            if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'state'").fetchone():
                yield database
                return

        # There is no index yet, or not more of one than a full disk left.
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
                # On some errors, SQLite has done so itself.
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")
