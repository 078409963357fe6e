"""Copies pages between local stores in their stored form, so that nothing is rounded twice."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .integrity import check_files
from .local import LocalStore
from .page_table import columns, find_ids, read_state
from .stored_pages import StoredPages, next_rows, read_pages
from .texts import read_words
from .vector_files import _checksum


def copy_pages(
    source: LocalStore,
    target: LocalStore,
    choose: Callable[[Sequence[str], Sequence[str]], list[tuple[str, str] | None]],
) -> Iterator[tuple[int, list[str]]]:
    """Copies pages. Those that the target has already are left as they are.

    Some MB are held in memory, and neither store is locked for longer than it takes to read or write them. Pages that
    are added to the source meanwhile may be copied or not.

    Args:
        source: the store to read
        target: the store to add to
        choose: a function of some pages' ids and the ids of their samples that returns, for each, what these are in the
            target, or ``None`` for a page to leave out

    Yields:
        for some pages at a time, their number, and the ids of those whose vectors do not have the checksum that was
        stored with them, which are left out

    Raises:
        late_interaction.stores.integrity.DamagedIndexError: if files of the source are missing or were cut off
        ValueError: if the two indexes have vectors of different dimensions
    """
    with source._reading() as database:
        check_files(database, source._files, read_state(database), has_bits=False)
        has_checksums = "checksum" in columns(database)
    if not has_checksums:
        # Adds the column.
        with source._writing():
            pass

    # Where pages were removed, others may have been moved behind this one's back.
    rewritten: int | None = None
    while rewritten is None or rewritten != _rewritten(source):
        rewritten = _rewritten(source)
        yield from _walk(source, target, choose)


def _rewritten(store):
    with store._reading() as database:
        return read_state(database).get("rewritten", 0)


def _walk(source, target, choose):
    """Copies the pages of each segment that the target lacks."""
    segment, after = 0, -1
    while True:
        with source._reading() as database:
            state = read_state(database)
            source._files.refresh()
            rows = next_rows(database, source._files, state, segment, after)
            if not rows:
                query = "SELECT MIN(segment) FROM pages WHERE segment > ?"
                (following,) = database.execute(query, (segment,)).fetchone()
                if following is None:
                    return
                segment, after = following, -1
                continue

            after = rows[-1][3]
            chosen = choose([row[0] for row in rows], [row[1] for row in rows])
            places = _lacking(target, chosen)
            pages = read_pages(source._files, state, segment, [rows[i] for i in places]) if places else None
            words = read_words(database, [rows[i][0] for i in places])
        damaged = [] if pages is None else _add(target, pages, [chosen[i] for i in places], state, words)
        yield len(rows), damaged


def _lacking(target, chosen):
    """Returns the places of the chosen pages that a store lacks."""
    with target._reading() as database:
        known = find_ids(database, [ids[0] for ids in chosen if ids])
    return [i for i, ids in enumerate(chosen) if ids and ids[0] not in known]


def _add(
    target: LocalStore,
    pages: StoredPages,
    chosen: list[tuple[str, str]],
    source_state: dict[str, int],
    words: dict[str, str],
) -> list[str]:
    """Adds the chosen pages that a store lacks. Returns the ids of those that are damaged."""
    rows = np.split(pages.tokens, np.cumsum(pages.lengths)[:-1])
    damaged: list[str] = []
    kept: dict[int, tuple[str, str]] = {}
    for i, (ids, checksum) in enumerate(zip(chosen, pages.checksums, strict=True)):
        if checksum is not None and checksum != _checksum(pages.singles[i], rows[i]):
            damaged.append(pages.ids[i])
        else:
            kept[i] = ids

    if kept:
        chosen_ids, sample_ids = zip(*kept.values(), strict=True)
        target.add_stored(
            StoredPages(
                chosen_ids,
                sample_ids,
                [pages.checksums[i] for i in kept],
                pages.singles[list(kept)],
                np.concatenate([rows[i] for i in kept]),
                [pages.lengths[i] for i in kept],
            ),
            {name: source_state[name] for name in ("single_dim", "multi_dim")},
            {ids[0]: words[pages.ids[i]] for i, ids in kept.items() if pages.ids[i] in words},
        )
    return damaged
