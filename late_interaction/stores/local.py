"""A store in a folder: flat files of vectors, and a SQLite table of the place of each page in them.

These rules keep an index intact when a process is killed:

- vectors are only appended, and are flushed to the disk before the row that refers to them is committed;
- a file is deleted after the last row that refers to it, and its number is not used again;
- bits are made of multi-vectors, after these are written, and can be made again;
- a process appends to a file that it has claimed (``claims.py``), and inserts rows only while the claim is there;
- one process at a time changes the table, the one that holds SQLite's lock.

So several processes write vectors at once, and readers find all committed pages. What a killed process appended without
a commit is unused space.
"""

import contextlib
import functools
import logging
import os
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .base import VectorStore
from .claims import claim_segment, claimed_segments, close_segment, is_claimed, next_segment, release_segment
from .integrity import check_files, find_damage, segments_without_bits
from .page_table import (
    check_dims,
    columns,
    find_ids,
    insert_rows,
    read_catalog,
    read_dims,
    read_state,
    reading,
    segment_end,
    segment_ends,
    write_state,
    writing,
)
from .ranking import hamming_scores, maxsim_scores, single_scores
from .stored_pages import StoredPages, next_rows, read_pages
from .texts import LocalTexts, stored_form, write_words
from .vector_files import VectorFiles

if TYPE_CHECKING:
    from ...engine.embeddings import Embeddings
    from ..query import Query

# The pages in one pair of files. With full pages, the file of multi-vectors has 800 MB.
_PAGES_PER_SEGMENT = 4096

logger = logging.getLogger(__name__)


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
        dtype ("float16"): the multi-vectors' dtype, ``"float16"``, ``"int8"`` at half the size, or ``"binary"`` at a
            16th of it
        gate ("single"): what chooses candidates: ``"single"`` vectors, or ``"binary"``, the signs of the multi-vectors,
            which take another 16th
    """

    def __init__(self, folder: str | os.PathLike, dtype: str = "float16", gate: str = "single") -> None:
        self.folder = Path(folder)
        self.dtype = dtype
        self.gate = gate
        self._cached = None
        self._files = VectorFiles(folder, dtype)
        self._catalog_lock = threading.Lock()

    @property
    def texts(self) -> LocalTexts:
        return LocalTexts(self._database)

    def create(self) -> None:
        """Creates the folder, unless it exists, the table, and the files that the gate needs."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._writing():
            pass
        self._make_bits()

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
        return catalog.ids(), catalog.sample_ids()

    list_ids = ids

    def missing(self, ids: Sequence[str]) -> list[str]:
        # Not by the copy in memory, which a process that only adds pages need not have.
        with self._reading() as database:
            found = find_ids(database, ids)
        return [page_id for page_id in ids if page_id not in found]

    def add(
        self,
        ids: Sequence[str],
        sample_ids: Sequence[str],
        embeddings: "Embeddings",
        texts: Sequence[str | None] | None = None,
    ) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        dims = {"single_dim": embeddings.single.shape[1], "multi_dim": embeddings.multi[0].shape[1]}
        for start in range(0, len(ids), _PAGES_PER_SEGMENT):
            part = slice(start, start + _PAGES_PER_SEGMENT)
            vectors = embeddings.single[part], embeddings.multi[part]
            words = {} if texts is None else dict(zip(ids[part], map(stored_form, texts[part]), strict=True))
            self._add(ids[part], sample_ids[part], dims, functools.partial(self._append, *vectors), words)

    def add_stored(self, pages: StoredPages, dims: dict[str, int], words: Mapping[str, str]) -> None:
        """Adds pages in their stored form, without those that are there.

        Args:
            pages: the pages, of another store of the same dtype
            dims: the other store's ``single_dim`` and ``multi_dim``
            words: the words of those pages that have any stored, in their stored form, by the pages' ids

        Raises:
            ValueError: if this store has other dimensions
        """

        def append(segment, with_bits):
            vectors = pages.singles, pages.tokens, pages.lengths
            return self._files.append_stored(segment, *vectors, with_bits), pages.checksums

        self._add(pages.ids, pages.sample_ids, dims, append, words, replaces=False)

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
        for segment in self._sparse_segments():
            self._compact(segment)

    def repair(self) -> None:
        with self._reading() as database:
            damaged = find_damage(database, self._files, read_state(database))
        if damaged:
            self._remove_lost()
        self._make_bits()

    def damaged(self) -> list[str]:
        with self._reading() as database:
            damaged = {
                page_id for _, _, lost in find_damage(database, self._files, read_state(database)) for page_id in lost
            }
            segments = [segment for segment, _, _ in segment_ends(database)]
            checked = "checksum" in columns(database)
        for segment in segments if checked else []:
            # One segment per transaction, since writers wait for it. Until it ends, none of its files is deleted.
            with self._reading() as database:
                state = read_state(database)
                has_bits = state.get("bits") and segment not in self._segments_without_bits(database, state)
                self._files.refresh()
                for page_id, checksum, *place in database.execute(
                    "SELECT id, checksum, segment, page, start, tokens FROM pages "
                    "WHERE segment = ? AND checksum IS NOT NULL ORDER BY page",
                    (segment,),
                ):
                    if page_id not in damaged and (
                        checksum != self._files.checksum(place, state["single_dim"], state["multi_dim"])
                        or (has_bits and not self._files.has_right_bits(place, state["multi_dim"]))
                    ):
                        damaged.add(page_id)
        return sorted(damaged)

    @_retry_if_files_moved
    def single(self, ids: Sequence[str]) -> tuple[np.ndarray, list[str]]:
        catalog = self._catalog()
        rows = catalog.rows_of_present(ids)
        return self._files.read_single(catalog.places[rows], self.dims()[0] or 0), catalog.sample_ids(rows).tolist()

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
        rows = np.arange(len(catalog))
        if ids is not None:
            rows = catalog.rows(ids)
            rows = np.sort(rows[rows >= 0])

        k = len(rows) if k is None else k
        if query.multi is None:
            assert query.single is not None
            scores = single_scores(self._files, query.single, catalog.places[rows])
        else:
            if candidates is not None and not reverse and max(candidates, k) < len(rows):
                rows = self._candidates(query, max(candidates, k), catalog, rows)
            scores = maxsim_scores(self._files, query.multi, catalog.places[rows])

        best = np.argsort(scores if reverse else -scores, kind="stable")[:k]
        return catalog.ids(rows[best]), catalog.sample_ids(rows[best]), scores[best]

    def drop(self) -> None:
        """Deletes the index's files, and the folder if it is empty then."""
        self._files.refresh()
        self._cached = None
        for pattern in ("*.single", "*.multi", "*.bits*", "pages.sqlite*"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _candidates(self, query, count, catalog, rows):
        """Chooses the rows of the catalog that late interaction ranks: all, where the query lacks what chooses."""
        if self.gate == "binary":
            scores = hamming_scores(self._files, query.multi, catalog.places[rows])
        elif query.single is not None:
            scores = single_scores(self._files, query.single, catalog.places[rows])
        else:
            return rows

        # Sorted, so that the files are read sequentially.
        return rows[np.sort(np.argpartition(-scores, count - 1)[:count])]

    def _append(self, singles, multi, segment, with_bits):
        return self._files.append(segment, singles, multi, with_bits)

    def _add(self, ids, sample_ids, dims, append, words, replaces=True):
        """Appends pages to a segment that it claims, and inserts their rows."""
        while not self._add_once(ids, sample_ids, dims, append, words, replaces):
            logger.warning("Writing %d pages once more: another process took this one for dead", len(ids))

    def _add_once(self, ids, sample_ids, dims, append, words, replaces):
        """Does what :meth:`_add` does.

        Returns:
            whether the pages are in the index. If not, the claim was gone, and they have to be written once more
        """
        with self._writing() as database:
            state = {"bits": int(self._needs_bits)} | dims | read_state(database)
            check_dims({name: state[name] for name in dims}, dims)
            segment, token = claim_segment(database, state)
            with_bits = bool(state["bits"])
            check_files(database, self._files, state, self._has_bits(state), segment_end(database, segment))

        try:
            # Without the lock, since this takes longest.
            places, checksums = append(segment, with_bits)
            with self._writing() as database:
                if not is_claimed(database, segment, token):
                    if not segment_end(database, segment):
                        # Compaction has deleted the files, and this process has made one of them anew.
                        self._files.delete(segment)
                    return False

                state = {"revision": 0, "bits": int(with_bits)} | dims | read_state(database)
                # The first pages of an index may have been another process's.
                check_dims({name: state[name] for name in dims}, dims)
                rows, there = list(zip(ids, sample_ids, places, checksums, strict=True)), find_ids(database, ids)
                if there and replaces:
                    state["rewritten"] = state.get("rewritten", 0) + 1
                elif there:
                    rows = [row for row in rows if row[0] not in there]
                insert_rows(database, rows)
                write_words(database, {row[0]: words[row[0]] for row in rows if row[0] in words})
                if state["bits"] and self._segments_without_bits(database, state, segment_end(database, segment)):
                    # Another process has needed them since the claim.
                    self._files.make_bits(segment, state["multi_dim"])
                write_state(database, state)
                release_segment(database, segment, token, self._is_full(segment, state))
            return True
        except BaseException:
            # On a full disk, this may fail, too. Then the claim is dropped once it is old.
            with contextlib.suppress(sqlite3.Error), self._writing() as database:
                release_segment(database, segment, token, full=False)
            raise

    def _is_full(self, segment, state):
        return self._files.pages_in(segment, state["single_dim"]) >= _PAGES_PER_SEGMENT

    def _sparse_segments(self):
        """Returns a list of the segments that are more than half unused, and that no process writes to."""
        with self._writing() as database:
            used = dict(database.execute("SELECT segment, COUNT(*) FROM pages GROUP BY segment"))
            single_dim = read_state(database)["single_dim"]
            kept = claimed_segments(database) | {next_segment(database)}
        return [
            segment
            for segment in self._files.segments()
            if segment not in kept and used.get(segment, 0) < self._files.pages_in(segment, single_dim) / 2
        ]

    def _compact(self, segment):
        """Moves the pages out of a segment, and deletes its files.

        Killed, it leaves unused space, which the next removal of pages finds.
        """
        with self._writing() as database:
            state = read_state(database)
            # Another process may write to it by now. Nothing is moved out of damaged files, or behind them.
            if (
                segment in claimed_segments(database)
                or find_damage(database, self._files, state)
                or self._segments_without_bits(database, state)
            ):
                return

            close_segment(database, segment)
            self._move(database, state, segment)
            state["rewritten"] = state.get("rewritten", 0) + 1
            write_state(database, state)
        # After the commit, so that no row refers to them.
        self._files.delete(segment)

    def _move(self, database, state, segment):
        """Copies a segment's pages, in their stored form, to segments that may grow, some MB at a time."""
        self._files.refresh()
        while rows := next_rows(database, self._files, state, segment):
            pages = read_pages(self._files, state, segment, rows)
            target, token = claim_segment(database, state)
            vectors = pages.singles, pages.tokens, pages.lengths
            places = self._files.append_stored(target, *vectors, with_bits=bool(state.get("bits")))
            insert_rows(database, zip(pages.ids, pages.sample_ids, places, pages.checksums, strict=True))
            release_segment(database, target, token, self._is_full(target, state))

    def _remove_lost(self):
        """Removes the pages whose vectors are lost."""
        with self._writing() as database:
            state = read_state(database)
            damage = find_damage(database, self._files, state)
            for _, segment, lost in damage:
                database.executemany("DELETE FROM pages WHERE id = ?", [(page_id,) for page_id in lost])
                # New pages must not take these places: another process may still read by its copy of the old table.
                close_segment(database, segment)
            state["rewritten"] = state.get("rewritten", 0) + 1
            write_state(database, state)
        for path, _, lost in damage:
            logger.warning(
                "%s is missing or was cut off: the %d pages that it lost will be embedded again", path, len(lost)
            )

    #
    # The files of bits, which all processes write from when one of them has needed them
    #

    @property
    def _needs_bits(self):
        return self.gate == "binary" and self.dtype != "binary"

    def _has_bits(self, state):
        return self._needs_bits or bool(state.get("bits"))

    def _segments_without_bits(self, database, state, ends=None):
        return segments_without_bits(database, self._files, state, ends) if self._has_bits(state) else []

    def _make_bits(self):
        """Makes the files of bits that are missing or too short, one in each transaction, since writers wait for it."""
        while self._database.exists():
            with self._reading() as database:
                state = read_state(database)
                if not self._segments_without_bits(database, state) and bool(state.get("bits")) >= self._needs_bits:
                    return
            with self._writing() as database:
                state = read_state(database)
                if find_damage(database, self._files, state):
                    return  # repair() comes first
                lacking = self._segments_without_bits(database, state)
                if lacking:
                    self._files.make_bits(lacking[0], state["multi_dim"])
                # Others add to the files from when all are there.
                complete = {"bits": 1} if len(lacking) <= 1 else {}
                write_state(database, state | complete)

    #
    # The table
    #

    @property
    def _database(self):
        return self.folder / "pages.sqlite"

    def _catalog(self):
        with self._catalog_lock, self._reading() as database:
            state, catalog = read_state(database), self._cached
            if catalog is None or catalog.revision != state.get("revision", 0):
                # Until this transaction ends, no file that the table refers to is deleted.
                check_files(database, self._files, state, self._has_bits(state))
                # The files may have grown.
                self._files.refresh()
                self._cached = catalog = read_catalog(database, catalog)
        return catalog

    def _reading(self):
        return reading(self._database)

    def _writing(self):
        return writing(self._database)
