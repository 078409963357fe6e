"""Who appends to which segment of a local store, so that several processes write vectors at the same time.

Each writer claims a segment of its own in a short transaction, appends its vectors without any lock, and gives the
segment back in the transaction that inserts their rows. The table ``open_segments`` lists the segments that may grow,
and by whom each is claimed.

The claim of a killed writer stays, since nobody can tell what it has appended. That segment takes no further pages, and
its claim is dropped once it is :data:`ABANDONED_AFTER` seconds old. A writer that was only slow, even by hours, finds
that its claim is gone, inserts nothing, and writes its pages once more.
"""

import sqlite3
import time
import uuid

SCHEMA = "CREATE TABLE IF NOT EXISTS open_segments (segment INTEGER PRIMARY KEY, token TEXT, time REAL)"

# Appending some pages takes seconds.
ABANDONED_AFTER = 3600


def claim_segment(database: sqlite3.Connection, state: dict[str, int]) -> tuple[int, str]:
    """Claims a segment that may grow and that nobody has claimed, or else a new one. Its number was never used.

    Args:
        database: the table, in a transaction that writes
        state: the index's state, whose ``"segment"`` is the highest number so far

    Returns:
        a tuple of the segment and the claim's token
    """
    segment = next_segment(database)
    if segment is None:
        # An index of an older version lists no open segments, and its last segment is left as it is.
        segment = state["segment"] = state.get("segment", -1) + 1
        # The state's revision stays as it is, since no page is added yet.
        database.execute("INSERT OR REPLACE INTO state VALUES ('segment', ?)", (segment,))
    token = uuid.uuid4().hex
    database.execute("INSERT OR REPLACE INTO open_segments VALUES (?, ?, ?)", (segment, token, time.time()))
    return segment, token


def next_segment(database: sqlite3.Connection) -> int | None:
    """Returns the segment that the next writer claims, or ``None`` if that will be a new one."""
    return database.execute("SELECT MIN(segment) FROM open_segments WHERE token IS NULL").fetchone()[0]


def is_claimed(database: sqlite3.Connection, segment: int, token: str) -> bool:
    """Returns whether a claim is still there."""
    found = database.execute("SELECT 1 FROM open_segments WHERE segment = ? AND token = ?", (segment, token))
    return found.fetchone() is not None


def release_segment(database: sqlite3.Connection, segment: int, token: str, full: bool) -> None:
    """Gives a claimed segment back, if the claim is still there.

    Args:
        database: the table, in a transaction that writes
        segment: the segment
        token: the claim's token
        full: whether the segment takes no further pages
    """
    if full:
        database.execute("DELETE FROM open_segments WHERE segment = ? AND token = ?", (segment, token))
    else:
        database.execute(
            "UPDATE open_segments SET token = NULL, time = NULL WHERE segment = ? AND token = ?", (segment, token)
        )


def close_segment(database: sqlite3.Connection, segment: int) -> None:
    """Lets a segment take no further pages. A writer that has claimed it loses its claim."""
    database.execute("DELETE FROM open_segments WHERE segment = ?", (segment,))


def claimed_segments(database: sqlite3.Connection) -> set[int]:
    """Drops the claims that were abandoned, and returns the segments that are claimed still.

    Args:
        database: the table, in a transaction that writes
    """
    database.execute("DELETE FROM open_segments WHERE time < ?", (time.time() - ABANDONED_AFTER,))
    return {segment for (segment,) in database.execute("SELECT segment FROM open_segments WHERE token IS NOT NULL")}
