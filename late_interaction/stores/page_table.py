"""The SQLite table of what is where in the files of a local store, and what a process remembers of it."""

import functools
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .vector_files import Place

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS pages (id TEXT PRIMARY KEY, sample_id TEXT, segment INTEGER, page INTEGER, "
    "start INTEGER, tokens INTEGER, checksum INTEGER) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS pages_by_place ON pages (segment, page)",
    "CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value INTEGER) WITHOUT ROWID",
)


@dataclass(frozen=True)
class Catalog:
    """The pages of the index at one revision, in the order in which their vectors lie, which is that of their adding.

    While ``rewritten`` stays, pages only come behind those that are there.
    """

    revision: int
    rewritten: int
    ids: np.ndarray
    sample_ids: np.ndarray
    places: np.ndarray  # int64 (pages, 4): segment, page, start, tokens

    @functools.cached_property
    def _order(self):
        return np.argsort(self.ids)

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """Returns the row of each id, -1 for those that are not there."""
        if not len(self.ids) or not len(ids):
            return np.full(len(ids), -1)

        at = np.searchsorted(self.ids, ids, sorter=self._order)
        found = self._order[np.minimum(at, len(self.ids) - 1)]
        return np.where(self.ids[found] == np.asarray(ids), found, -1)

    def rows_of_present(self, ids: Sequence[str]) -> np.ndarray:
        """Returns the row of each id, and raises a ``KeyError`` for one that is not there."""
        rows = self.rows(ids)
        if (rows < 0).any():
            raise KeyError(f"{ids[int(np.argmin(rows))]} is not in the index")

        return rows


def columns(database: sqlite3.Connection) -> set[str]:
    """Returns the names of the table's columns. Tables of before there were checksums have none for them."""
    return {row[1] for row in database.execute("PRAGMA table_info(pages)")}


def insert_rows(database: sqlite3.Connection, pages: Iterable[tuple[str, str, Place, int | None]]) -> None:
    """Writes pages: tuples of the id, the sample id, the place and the checksum."""
    rows = [(*of_page, *place, checksum) for *of_page, place, checksum in pages]
    database.executemany(
        "INSERT OR REPLACE INTO pages (id, sample_id, segment, page, start, tokens, checksum) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        rows,
    )


def segment_ends(database: sqlite3.Connection) -> Iterator[tuple[int, int, int]]:
    """Yields each segment, its last page, and the row at which that page ends, by one look into the table for each."""
    row = (2**62,)
    while row is not None:
        row = database.execute(
            "SELECT segment, page, start + tokens FROM pages WHERE segment < ? "
            "ORDER BY segment DESC, page DESC LIMIT 1",
            row[:1],
        ).fetchone()
        if row is not None:
            yield row


def read_state(database: sqlite3.Connection) -> dict[str, int]:
    """Returns the dict of the index's numbers: its dimensions, its revision, the segment that is being filled."""
    return dict(database.execute("SELECT name, value FROM state"))


def read_dims(database: sqlite3.Connection) -> tuple[int | None, int | None]:
    """Returns the dimensions of single and of multi-vectors, ``(None, None)`` while there are none."""
    state = read_state(database)
    return state.get("single_dim"), state.get("multi_dim")


def write_state(database: sqlite3.Connection, state: dict[str, int]) -> None:
    """Stores the dict of the index's numbers as that of the next revision."""
    state = state | {"revision": state.get("revision", 0) + 1}
    database.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", state.items())


def check_dims(there: dict[str, int], given: dict[str, int]) -> None:
    """Raises a ``ValueError`` where vectors have other dimensions than those in the index."""
    if there != given:
        raise ValueError(
            f"The index has single vectors of {there['single_dim']} dimensions and multi-vectors of "
            f"{there['multi_dim']}, and was given {given['single_dim']} and {given['multi_dim']}: they are another "
            "model's, or truncated otherwise"
        )
