"""Flat files of vectors, mapped into memory.

A segment is a pair of files for some thousands of pages: one holds their single vectors in float16, the other their
multi-vectors end to end. Vectors are only appended. The table in ``page_table.py`` holds the place of each page.
"""

import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

DTYPES = ("float16", "int8")

# Where a page is stored: its segment, its number there, its first row in the file of multi-vectors, and the number of
# its rows.
Place = tuple[int, int, int, int]

# Columns before the values in a row of a multi-vector's file. A row of int8 begins with its scale, the largest absolute
# value / 127, as float16 in two columns.
SCALE_COLUMNS = {"float16": 0, "int8": 2}


class VectorFiles:
    """The files of an index.

    Args:
        folder: the folder
        dtype: the multi-vectors' dtype, ``"float16"`` or ``"int8"``
    """

    def __init__(self, folder: str | os.PathLike, dtype: str) -> None:
        self.folder = Path(folder)
        self.dtype = dtype
        self._maps: dict[tuple[int, str], np.ndarray] = {}

    def refresh(self) -> None:
        """Drops the memory maps, so that files that have grown are mapped again."""
        self._maps = {}

    def segments(self) -> list[int]:
        """Returns the numbers of all segments, in order."""
        return sorted(int(path.stem) for path in self.folder.glob("*.single"))

    def pages_in(self, segment: int, single_dim: int) -> int:
        """Returns the number of pages in a segment's files, including pages that are not in the table."""
        path = self.path(segment, "single")
        return path.stat().st_size // (2 * single_dim) if path.exists() else 0

    def delete(self, segment: int) -> None:
        """Deletes a segment's files."""
        for kind in ("single", "multi"):
            self.path(segment, kind).unlink(missing_ok=True)

    def rows(self, segment: int, single_dim: int, multi_dim: int) -> list[int]:
        """Returns the numbers of complete rows in a segment's files of single vectors and of multi-vectors."""
        sizes = (2 * single_dim, np.dtype(self.dtype).itemsize * (SCALE_COLUMNS[self.dtype] + multi_dim))
        paths = [self.path(segment, kind) for kind in ("single", "multi")]
        return [path.stat().st_size // size if path.exists() else 0 for path, size in zip(paths, sizes, strict=True)]

    def append(self, segment: int, singles: np.ndarray, multi: Sequence[np.ndarray]) -> tuple[list[Place], list[int]]:
        """Appends pages to a segment's files.

        Args:
            segment: the segment's number
            singles: a float32 array ``(pages, dim)``
            multi: a list of float32 arrays ``(tokens_i, 128)``

        Returns:
            a tuple of a list of the pages' places and a list of their checksums
        """
        singles = np.asarray(singles, dtype=np.float16)
        stored = _stored(np.concatenate(multi), self.dtype)
        places = self.append_stored(segment, singles, stored, [len(vectors) for vectors in multi])
        ends = np.cumsum([len(vectors) for vectors in multi])
        pages = zip(singles, np.split(stored, ends[:-1]), strict=True)
        return places, [_checksum(single, rows) for single, rows in pages]

    def append_stored(
        self, segment: int, singles: np.ndarray, tokens: np.ndarray, lengths: Sequence[int]
    ) -> list[Place]:
        """Appends pages, given in their stored form, to a segment's files.

        Args:
            segment: the segment's number
            singles: a float16 array ``(pages, dim)``
            tokens: an array ``(rows, SCALE_COLUMNS + dim)`` of the files' dtype
            lengths: the number of each page's rows

        Returns:
            a list of the pages' places
        """
        page = _append_rows(self.path(segment, "single"), singles)
        start = _append_rows(self.path(segment, "multi"), tokens)
        places = []
        for i, length in enumerate(lengths):
            places.append((segment, page + i, start, length))
            start += length
        return places

    def checksum(self, place: Sequence[int], single_dim: int, multi_dim: int) -> int:
        """Returns the checksum of a page as it is in the files."""
        segment, page, start, tokens = place
        single = self.singles(segment, single_dim)[page]
        return _checksum(single, self.tokens(segment, multi_dim)[start : start + tokens])

    def singles(self, segment: int, dim: int) -> np.ndarray:
        """Returns all single vectors of a segment: a float16 array ``(pages, dim)``, mapped into memory."""
        return self._mapped(segment, "single", np.dtype(np.float16), dim)

    def tokens(self, segment: int, dim: int) -> np.ndarray:
        """Returns all rows of a segment's multi-vectors in their stored form.

        Returns:
            an array ``(rows, SCALE_COLUMNS + dim)`` of the files' dtype, mapped into memory
        """
        return self._mapped(segment, "multi", np.dtype(self.dtype), SCALE_COLUMNS[self.dtype] + dim)

    def read_single(self, places: np.ndarray, dim: int) -> np.ndarray:
        """Reads the single vectors of pages: a float32 array ``(pages, dim)``."""
        vectors = np.empty((len(places), dim), np.float32)
        for row, (segment, page, _, _) in zip(vectors, places, strict=True):
            row[:] = self.singles(segment, dim)[page]
        return vectors

    def read_multi(self, places: np.ndarray, dim: int) -> list[np.ndarray]:
        """Reads the multi-vectors of pages: a list of float32 arrays ``(tokens_i, dim)``."""
        vectors = []
        for segment, _, start, tokens in places:
            stored = self.tokens(segment, dim)[start : start + tokens]
            vectors.append(stored[:, SCALE_COLUMNS[self.dtype] :].astype(np.float32))
            if self.dtype == "int8":
                vectors[-1] *= scales_of(stored)[:, None]
        return vectors

    def path(self, segment: int, kind: str) -> Path:
        """Returns the path of a segment's file of a kind, ``"single"`` or ``"multi"``."""
        return self.folder / f"{segment:06}.{kind}"

    def _mapped(self, segment, kind, dtype, columns):
        key = int(segment), kind
        # A local, since another thread may call refresh() meanwhile.
        maps = self._maps
        if key not in maps:
            path = self.path(segment, kind)
            rows = path.stat().st_size // (dtype.itemsize * columns)
            # Copy-on-write, since torch warns of read-only arrays. It is never written to.
            maps[key] = np.memmap(path, dtype, mode="c", shape=(rows, columns))
        return maps[key]


def _checksum(single, rows):
    return zlib.crc32(np.ascontiguousarray(rows), zlib.crc32(np.ascontiguousarray(single)))


def _append_rows(path, rows):
    """Appends rows to a file, and returns the number of rows before them."""
    with open(path, "ab") as file:
        # A killed process may have left an incomplete row, which is padded.
        count = -(-file.tell() // rows[0].nbytes)
        file.truncate(count * rows[0].nbytes)
        file.write(rows.tobytes())
        file.flush()
        os.fsync(file.fileno())
    return count


def _stored(vectors, dtype):
    """Converts float32 rows to their stored form."""
    if dtype == "float16":
        return vectors.astype(np.float16)

    scales = (np.maximum(np.abs(vectors).max(axis=1, keepdims=True), 1e-4) / 127).astype(np.float16)
    # Divided by the rounded scale, which is the one that is stored.
    values = np.clip(np.rint(vectors / scales.astype(np.float32)), -127, 127).astype(np.int8)
    return np.hstack([scales.view(np.int8), values])


def scales_of(stored: np.ndarray) -> np.ndarray:
    """Returns the scales of stored int8 rows, a float32 array ``(rows,)``."""
    return np.ascontiguousarray(stored[:, : SCALE_COLUMNS["int8"]]).view(np.float16)[:, 0].astype(np.float32)
