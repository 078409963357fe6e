"""The words of pages, in a full-text index of SQLite (FTS5) beside the table of a local store.

The table ``text_rows`` gives each page's id a row of the full-text index. A trigger deletes a page's words with the
page, in the same transaction. An index without words has none of these tables.
"""

import sqlite3
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from ..words import Phrase, words_of
from .base import TextIndex
from .page_table import find_ids, reading, select_ids, writing

# Characters for private use stand for the full stop and the comma in numbers: the tokenizer takes them for letters.
_TO_LETTERS = str.maketrans(".,", "\ue000\ue001")

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS text_rows (row INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL)",
    "CREATE VIRTUAL TABLE IF NOT EXISTS texts USING fts5(words, "
    "tokenize = \"unicode61 remove_diacritics 0 categories 'L* N* Co M*'\")",
    "CREATE TRIGGER IF NOT EXISTS delete_texts AFTER DELETE ON pages BEGIN "
    "DELETE FROM texts WHERE rowid = (SELECT row FROM text_rows WHERE id = old.id); "
    "DELETE FROM text_rows WHERE id = old.id; END",
)


def check_full_text() -> None:
    """Raises an ``ImportError`` if Python's SQLite has no full-text search."""
    try:
        sqlite3.connect(":memory:").execute("CREATE VIRTUAL TABLE texts USING fts5(words)")
    except sqlite3.OperationalError as error:
        raise ImportError(
            f"text_field needs SQLite with FTS5, which Python's SQLite {sqlite3.sqlite_version} lacks ({error}): use "
            "another build of Python, or leave out text_field"
        ) from error


def stored_form(text: str | None) -> str:
    """Returns the words of a text as the full-text index keeps them."""
    return " ".join(words_of(text or "")).translate(_TO_LETTERS)


class LocalTexts(TextIndex):
    """The words of the pages of a local store.

    Args:
        database: the path of the store's table
    """

    def __init__(self, database: Path) -> None:
        self._database = database

    def write(self, ids: Sequence[str], texts: Sequence[str | None]) -> None:
        words = dict(zip(ids, map(stored_form, texts), strict=True))
        with writing(self._database) as database:
            there = find_ids(database, ids)
            write_words(database, {page_id: stored for page_id, stored in words.items() if page_id in there})

    def without(self) -> list[str]:
        query = "SELECT id FROM pages"
        with reading(self._database) as database:
            if _has_words(database):
                query += " WHERE id NOT IN (SELECT id FROM text_rows)"
            return [page_id for (page_id,) in database.execute(query)]

    def count(self, phrases: Sequence[Phrase]) -> list[int]:
        query = "SELECT COUNT(*) FROM texts WHERE texts MATCH ?"
        with reading(self._database) as database:
            if not _has_words(database):
                return [0] * len(phrases)
            return [database.execute(query, (_match([phrase]),)).fetchone()[0] for phrase in phrases]

    def find(self, phrases: Sequence[Phrase]) -> list[tuple[str, str]]:
        with reading(self._database) as database:
            if not _has_words(database):
                return []
            return database.execute(
                "SELECT id, sample_id FROM texts JOIN text_rows ON row = texts.rowid JOIN pages USING (id) "
                "WHERE texts MATCH ?",
                (_match(phrases, " AND "),),
            ).fetchall()

    def rank(self, phrases: Sequence[Phrase], k: int, ids: Set[str] | None = None) -> list[tuple[str, str, float]]:
        found: list[tuple[str, str, float]] = []
        with reading(self._database) as database:
            if not _has_words(database):
                return found
            for row, score in database.execute(
                "SELECT rowid, -bm25(texts) AS score FROM texts WHERE texts MATCH ? ORDER BY score DESC, rowid",
                (_match(phrases, " OR "),),
            ):
                if len(found) == k:
                    break
                page_id, sample_id = database.execute(
                    "SELECT id, sample_id FROM text_rows JOIN pages USING (id) WHERE row = ?", (row,)
                ).fetchone()
                if ids is None or page_id in ids:
                    found.append((page_id, sample_id, score))
        return found


def write_words(database: sqlite3.Connection, words: Mapping[str, str]) -> None:
    """Writes the words of pages, and replaces those that are there.

    Args:
        database: the table, in a transaction that writes
        words: the words as :func:`stored_form` returns them, by the ids of pages that are in the table
    """
    if not words:
        return

    for statement in _SCHEMA:
        database.execute(statement)
    for page_id, stored in words.items():
        known = database.execute("SELECT row FROM text_rows WHERE id = ?", (page_id,)).fetchone()
        if known:
            database.execute("UPDATE texts SET words = ? WHERE rowid = ?", (stored, *known))
        else:
            row = database.execute("INSERT INTO text_rows (id) VALUES (?)", (page_id,)).lastrowid
            database.execute("INSERT INTO texts (rowid, words) VALUES (?, ?)", (row, stored))


def read_words(database: sqlite3.Connection, ids: Sequence[str]) -> dict[str, str]:
    """Returns the words of pages as they are stored, by the ids of those that have any."""
    if not _has_words(database):
        return {}

    return dict(select_ids(database, "SELECT id, words FROM text_rows JOIN texts ON texts.rowid = row", ids))


def _has_words(database):
    return database.execute("SELECT 1 FROM sqlite_master WHERE name = 'text_rows'").fetchone() is not None


def _match(phrases, operator=""):
    """Writes phrases in SQLite's language of queries. Words have no quotes in them."""
    return operator.join('"' + " ".join(phrase).translate(_TO_LETTERS) + '"' for phrase in phrases)
