"""Pages in the form in which a local store keeps them: read some MB at a time, to be moved or copied as they are."""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .vector_files import VectorFiles

# Bytes of multi-vectors that are read at a time.
_AT_ONCE = 2**25


# A page in the table: its id, the id of its sample, its checksum, its number in the segment, and its first row in the
# file of multi-vectors and the number of its rows.
Row = tuple[str, str, int | None, int, int, int]


@dataclass(frozen=True)
class StoredPages:
    """Some pages of one segment.

    Args:
        ids: the pages' ids
        sample_ids: the ids of their samples
        checksums: their checksums, ``None`` for those that were added by a version without checksums
        singles: their single vectors, a float16 array ``(pages, dim)``
        tokens: the rows of their multi-vectors, end to end, in the files' dtype
        lengths: the number of each page's rows
    """

    ids: Sequence[str]
    sample_ids: Sequence[str]
    checksums: Sequence[int | None]
    singles: np.ndarray
    tokens: np.ndarray
    lengths: Sequence[int]


def next_rows(
    database: sqlite3.Connection, files: VectorFiles, state: Mapping[str, int], segment: int, after: int = -1
) -> list[Row]:
    """Reads the rows of the next pages of a segment, as many as have some MB, and at least one.

    Args:
        database: the table
        files: the store's :class:`VectorFiles`
        state: the index's state, for its dimensions
        segment: the segment's number
        after (-1): the number in the segment of the last page that was read

    Returns:
        a list of rows, empty if there are no more
    """
    rows: list[Row] = []
    count, at_once = 0, 0
    for row in database.execute(
        "SELECT id, sample_id, checksum, page, start, tokens FROM pages WHERE segment = ? AND page > ? ORDER BY page",
        (segment, after),
    ):
        if not rows:
            # Not before there is a page, since a segment without any may have no files.
            tokens = files.tokens(segment, state["multi_dim"])
            at_once = _AT_ONCE // (tokens.itemsize * tokens.shape[1])
        count += row[5]
        if rows and count > at_once:
            break
        rows.append(row)
    return rows


def read_pages(files: VectorFiles, state: Mapping[str, int], segment: int, rows: Sequence[Row]) -> StoredPages:
    """Reads pages, at least one, by their rows from :func:`next_rows`."""
    ids, sample_ids, checksums, pages, starts, lengths = zip(*rows, strict=True)
    tokens = files.tokens(segment, state["multi_dim"])
    parts = [tokens[start : start + length] for start, length in zip(starts, lengths, strict=True)]
    singles = files.singles(segment, state["single_dim"])[list(pages)]
    return StoredPages(ids, sample_ids, checksums, singles, np.concatenate(parts), lengths)
