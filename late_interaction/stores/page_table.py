"""The SQLite table of the places of pages in a local store's files, and its copy in memory."""

import contextlib
import functools
import random
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import claims
from .base import ID_DTYPE
from .vector_files import Place

# SQLite limits the parameters of a query, to 999 in old versions.
_IDS_AT_ONCE = 500

SCHEMA = (
    claims.SCHEMA,
    "CREATE TABLE IF NOT EXISTS pages (id TEXT PRIMARY KEY, sample_id TEXT, segment INTEGER, page INTEGER, "
    "start INTEGER, tokens INTEGER, checksum INTEGER) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS pages_by_place ON pages (segment, page)",
    "CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value INTEGER) WITHOUT ROWID",
)

_ALL = slice(None)

# A packed id: the 12 bytes that its 24 hexadecimal digits stand for. numpy drops zeros at its end where it shows or
# compares one, which harms nothing, since all have the same length.
PACKED_DTYPE = "S12"


def pack_ids(ids: Sequence[str]) -> np.ndarray:
    """Packs ids.

    Args:
        ids: a list of strings of 24 hexadecimal digits

    Returns:
        an array of 12 bytes each, ordered as the ids

    Raises:
        ValueError: if one is no such string
    """
    packed = b""
    if {len(page_id) for page_id in ids} <= {24}:
        with contextlib.suppress(ValueError):
            packed = bytes.fromhex("".join(ids))
    # It is too short if there were spaces, which are ignored there.
    if len(packed) != 12 * len(ids):
        wrong = next(page_id for page_id in ids if not _is_id(page_id))
        raise ValueError(f"Expected ids of 24 hexadecimal digits, found {wrong!r}")

    return np.frombuffer(packed, PACKED_DTYPE)


def unpack_ids(packed: np.ndarray) -> np.ndarray:
    """Returns packed ids as an array of strings of 24 hexadecimal digits."""
    digits = _HEXADECIMAL[np.ascontiguousarray(packed).view(np.uint8)]
    return digits.view(ID_DTYPE) if len(packed) else np.empty(0, ID_DTYPE)


_HEXADECIMAL = np.array([f"{byte:02x}" for byte in range(256)])


def _is_id(text):
    return re.fullmatch("[0-9a-fA-F]{24}", text) is not None


@dataclass(frozen=True)
class Catalog:
    """A copy of the table at one revision, sorted by place.

    As long as ``rewritten`` stays the same, pages were only appended, each behind the last page of its segment. A page
    takes 40 bytes, and 8 more once ids were looked up: there may be millions.
    """

    revision: int
    rewritten: int
    packed_ids: np.ndarray  # see pack_ids()
    packed_sample_ids: np.ndarray
    places: np.ndarray  # int32 (pages, 4): segment, page, start, tokens

    @functools.cached_property
    def _order(self):
        return np.argsort(self.packed_ids)

    def __len__(self) -> int:
        return len(self.packed_ids)

    def ids(self, rows: np.ndarray | slice = _ALL) -> np.ndarray:
        """Returns the ids of rows, an array of strings."""
        return unpack_ids(self.packed_ids[rows])

    def sample_ids(self, rows: np.ndarray | slice = _ALL) -> np.ndarray:
        """Returns the ids of the samples of rows, an array of strings."""
        return unpack_ids(self.packed_sample_ids[rows])

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """Returns the row of each id, -1 for ids that are not in the index."""
        rows = np.full(len(ids), -1)
        if not len(self) or not len(ids):
            return rows

        known: Sequence[int] | slice = _ALL
        try:
            packed = pack_ids(ids)
        except ValueError:
            known = [i for i, page_id in enumerate(ids) if _is_id(page_id)]
            packed = pack_ids([ids[i] for i in known])
        positions = np.searchsorted(self.packed_ids, packed, sorter=self._order)
        found = self._order[np.minimum(positions, len(self) - 1)]
        rows[known] = np.where(self.packed_ids[found] == packed, found, -1)
        return rows

    def rows_of_present(self, ids: Sequence[str]) -> np.ndarray:
        """Returns the row of each id, and raises a ``KeyError`` for an id that is not in the index."""
        rows = self.rows(ids)
        if (rows < 0).any():
            raise KeyError(f"{ids[int(np.argmin(rows))]} is not in the index")

        return rows


def read_catalog(database: sqlite3.Connection, earlier: Catalog | None) -> Catalog:
    """Reads the table, of which only the pages that an earlier copy lacks, unless pages were replaced or removed since.

    Args:
        database: the table, in a transaction
        earlier: an earlier copy, or ``None``

    Returns:
        the :class:`Catalog`
    """
    state = read_state(database)
    revision, rewritten = state.get("revision", 0), state.get("rewritten", 0)
    if earlier is None or earlier.rewritten != rewritten:
        earlier = Catalog(0, rewritten, pack_ids([]), pack_ids([]), np.empty((0, 4), np.int32))

    # Several writers may have added pages to different segments.
    is_last = np.diff(earlier.places[:, 0], append=-1) != 0
    known = dict(earlier.places[is_last, :2].tolist())
    # A segment at a time, since Python's objects take ten times the memory of the arrays.
    parts = []
    for segment, page, _ in sorted(segment_ends(database)):
        if page > known.get(segment, -1):
            rows = database.execute(
                "SELECT id, sample_id, segment, page, start, tokens FROM pages "
                "WHERE segment = ? AND page > ? ORDER BY page",
                (segment, known.get(segment, -1)),
            ).fetchall()
            ids, sample_ids, *columns = zip(*rows, strict=True)
            parts.append((pack_ids(ids), pack_ids(sample_ids), np.array(columns, dtype=np.int32).T))
    if not parts:
        return Catalog(revision, rewritten, earlier.packed_ids, earlier.packed_sample_ids, earlier.places)

    packed_ids, packed_sample_ids, places = map(np.concatenate, zip(*parts, strict=True))
    at = np.searchsorted(_keys(earlier.places), _keys(places))
    return Catalog(
        revision,
        rewritten,
        np.insert(earlier.packed_ids, at, packed_ids),
        np.insert(earlier.packed_sample_ids, at, packed_sample_ids),
        np.insert(earlier.places, at, places, axis=0),
    )


def _keys(places):
    """Returns a number for each place, in the order of the places."""
    return (places[:, 0].astype(np.int64) << 32) | places[:, 1]


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Opens the table in a transaction that reads, as a context. Where there is no table yet, it is an empty one.

    Args:
        path: the database's path
    """
    # A connection for each use: the App's server reads from several threads.
    with contextlib.closing(
        sqlite3.connect(path if path.exists() else ":memory:", timeout=60, isolation_level=None)
    ) as database:
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
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """Opens the table in a transaction that writes, as a context, and makes it where there is none.

    Args:
        path: the database's path
    """
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        _begin_writing(database)
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


def _begin_writing(database, timeout=600):
    """Begins a transaction that writes, as soon as no other process is in one, for at most some seconds."""
    # SQLite itself would ask for its lock less and less often, so that one of several writers might wait for minutes.
    deadline = time.monotonic() + timeout
    database.execute("PRAGMA busy_timeout = 0")
    while True:
        try:
            database.execute("BEGIN IMMEDIATE")
            break
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(random.uniform(0.001, 0.01))
    # For the commit, which waits for readers.
    database.execute(f"PRAGMA busy_timeout = {int(timeout * 1000)}")


def columns(database: sqlite3.Connection) -> set[str]:
    """Returns the names of the table's columns. Tables of older versions lack ``checksum``."""
    return {row[1] for row in database.execute("PRAGMA table_info(pages)")}


def find_ids(database: sqlite3.Connection, ids: Sequence[str]) -> set[str]:
    """Returns those of some ids that are in the table."""
    return {page_id for (page_id,) in select_ids(database, "SELECT id FROM pages", ids)}


def select_ids(database: sqlite3.Connection, query: str, ids: Sequence[str]) -> Iterator[tuple]:
    """Yields the rows of a query that have one of some ids, in its column ``id``. The query has no ``WHERE``."""
    for start in range(0, len(ids), _IDS_AT_ONCE):
        part = [str(page_id) for page_id in ids[start : start + _IDS_AT_ONCE]]
        yield from database.execute(f"{query} WHERE id IN ({', '.join('?' * len(part))})", part)


def insert_rows(database: sqlite3.Connection, pages: Iterable[tuple[str, str, Place, int | None]]) -> None:
    """Inserts or replaces pages, given as tuples of the id, the sample id, the place and the checksum."""
    rows = [(*of_page, *place, checksum) for *of_page, place, checksum in pages]
    database.executemany(
        "INSERT OR REPLACE INTO pages (id, sample_id, segment, page, start, tokens, checksum) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        rows,
    )


def segment_ends(database: sqlite3.Connection) -> Iterator[tuple[int, int, int]]:
    """Yields each segment, its last page, and the row at which that page ends. Each takes one indexed query."""
    row = (2**62,)
    while row is not None:
        row = database.execute(
            "SELECT segment, page, start + tokens FROM pages WHERE segment < ? "
            "ORDER BY segment DESC, page DESC LIMIT 1",
            row[:1],
        ).fetchone()
        if row is not None:
            yield row


def segment_end(database: sqlite3.Connection, segment: int) -> list[tuple[int, int, int]]:
    """Returns what :func:`segment_ends` yields for one segment, in a list that is empty if it has no pages."""
    return database.execute(
        "SELECT segment, page, start + tokens FROM pages WHERE segment = ? ORDER BY page DESC LIMIT 1", (segment,)
    ).fetchall()


def read_state(database: sqlite3.Connection) -> dict[str, int]:
    """Returns the state of the index, a dict of its dimensions, its revision and its highest segment."""
    return dict(database.execute("SELECT name, value FROM state"))


def read_dims(database: sqlite3.Connection) -> tuple[int | None, int | None]:
    """Returns the dimensions of single vectors and of multi-vectors, ``(None, None)`` for an empty index."""
    state = read_state(database)
    return state.get("single_dim"), state.get("multi_dim")


def write_state(database: sqlite3.Connection, state: dict[str, int]) -> None:
    """Stores the state of the index as that of the next revision."""
    state = state | {"revision": state.get("revision", 0) + 1}
    database.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", state.items())


def check_dims(stored: dict[str, int], given: dict[str, int]) -> None:
    """Raises a ``ValueError`` if vectors do not have the index's dimensions."""
    if stored != given:
        raise ValueError(
            f"The index has single vectors of {stored['single_dim']} dimensions and multi-vectors of "
            f"{stored['multi_dim']}, and was given {given['single_dim']} and {given['multi_dim']}: use the model and "
            "the truncate_dim that the index was made with"
        )
