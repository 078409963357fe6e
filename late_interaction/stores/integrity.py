"""Compares the files of a local store with its table: what was lost when a file was deleted or cut off."""

import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path

from .page_table import segment_ends
from .vector_files import VectorFiles

# A segment, its last page in the table, and the row of multi-vectors at which that page ends.
End = tuple[int, int, int]


class DamagedIndexError(RuntimeError):
    """Files of an index are missing, or shorter than its table says."""


def find_damage(
    database: sqlite3.Connection, files: VectorFiles, state: Mapping[str, int], ends: Iterable[End] | None = None
) -> list[tuple[Path, int, list[str]]]:
    """Compares the lengths of the files of vectors with the table.

    Args:
        database: the table
        files: the store's files
        state: the index's state, for its dimensions
        ends (None): the ends of the segments to look at, by default of all

    Returns:
        a list of tuples of a damaged file, its segment, and the ids of the pages that it lost
    """
    damage = []
    for segment, page, end in segment_ends(database) if ends is None else ends:
        singles, tokens, _ = files.rows(segment, state["single_dim"], state["multi_dim"])
        if page < singles and end <= tokens:
            continue

        lost = database.execute(
            "SELECT id FROM pages WHERE segment = ? AND (page >= ? OR start + tokens > ?)", (segment, singles, tokens)
        )
        path = files.path(segment, "single" if page >= singles else "multi")
        damage.append((path, segment, [page_id for (page_id,) in lost]))
    return damage


def segments_without_bits(
    database: sqlite3.Connection, files: VectorFiles, state: Mapping[str, int], ends: Iterable[End] | None = None
) -> list[int]:
    """Returns a list of the segments whose files of bits are missing or too short. See :func:`find_damage`."""
    ends = segment_ends(database) if ends is None else ends
    return [
        segment for segment, _, end in ends if end > files.rows(segment, state["single_dim"], state["multi_dim"])[2]
    ]


def check_files(
    database: sqlite3.Connection,
    files: VectorFiles,
    state: Mapping[str, int],
    has_bits: bool,
    ends: Iterable[End] | None = None,
) -> None:
    """Raises a :class:`DamagedIndexError` that names a damaged file and says what to do.

    Args:
        database: the table
        files: the store's files
        state: the index's state
        has_bits: whether the index has files of bits
        ends (None): see :func:`find_damage`
    """
    damage = find_damage(database, files, state, ends)
    if damage:
        raise DamagedIndexError(
            f"{damage[0][0]} is missing or was cut off, and the vectors of {len(damage[0][2])} pages are lost"
            + (f"; {len(damage) - 1} more files are damaged" if len(damage) > 1 else "")
            + ". Repeat the call of compute_similarity() that made the index, or call index.add_samples(dataset): "
            "either embeds the lost pages again, and keeps the others"
        )

    lacking = segments_without_bits(database, files, state, ends) if has_bits else []
    if lacking:
        raise DamagedIndexError(
            f"{files.path(lacking[0], 'bits')} is missing or was cut off. Repeat the call of compute_similarity() that "
            "made the index, or call index.add_samples(dataset): either makes it again from the multi-vectors"
        )
